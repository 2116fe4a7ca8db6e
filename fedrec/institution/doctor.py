"""`fedrec site check`: everything that a site needs to start, looked at one by one, with what to do about each."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fedrec.config import ConsortiumConfig, SchemaConfig, SiteConfig
from fedrec.config.secret import secret
from fedrec.errors import ConfigError, WrongInput
from fedrec.institution import shims, walls
from fedrec.institution.jail import Jail
from fedrec.institution.mock import make_mock

LOW_MB, LEAST_MB = 2000, 300  # free disk space below which it warns, below which it fails; MB = 10**6 bytes
YEARS = range(2025, 2100)
_State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: its state, what was found, and what to do ("" when nothing)."""

    about: str
    state: _State
    found: str
    do: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    def text(self) -> str:
        """One line; what to do stands after an arrow."""
        return f"{self.state:4}  {self.about:11} {self.found}" + (f" -> {self.do}" if self.do else "")


def worst(findings: list[Finding]) -> str:
    """The worst state of all: "ok", "warn" or "fail"."""
    states = {finding.state for finding in findings}
    return next(state for state in ("fail", "warn", "ok") if state in states)


def examine(folder: Path, running: Callable[[Path], int | None] = lambda _: None) -> list[Finding]:
    """Look at everything but the data's rows, which the intake reads. Writes nothing, and never raises.

    Args:
        running: the process that serves the folder now, or None; its port is not free, and that is right.
    """
    found: list[Finding] = []
    loaded: list[tuple[SiteConfig, ConsortiumConfig | None]] = []
    for finding in _settings(folder, loaded):
        found.append(finding)
    found += [*_keys(folder), _disk(folder), _clock(folder, time.time), _pysyft(), *_account(folder, loaded)]
    if loaded:
        config, consortium = loaded[0]
        if consortium is not None:
            found += _pins(folder, config, consortium)
        found += [_port(config, running(folder)), _jail(config)]
    return found


def _settings(folder: Path, loaded: list[tuple[SiteConfig, ConsortiumConfig | None]]) -> Iterator[Finding]:
    config = None
    try:
        config = SiteConfig.load(folder / "site.toml")
        yield Finding("site.toml", "ok", f"{config.name}, {config.title}")
    except ConfigError as error:
        yield from (Finding("site.toml", "fail", problem, "correct site.toml") for problem in error.problems)
    try:
        SchemaConfig.load(folder / "schema.toml")
        yield Finding("schema.toml", "ok", "is right")
    except ConfigError as error:
        yield from (Finding("schema.toml", "fail", problem, "correct schema.toml") for problem in error.problems)
    else:
        yield from _mock(folder)
    if not (folder / "DATASHEET.md").is_file():
        yield Finding("data card", "fail", "DATASHEET.md is missing", "write one: scientists read it first")
    if config is None:
        return
    consortium = None
    try:
        consortium = ConsortiumConfig.load(config.consortium_path)
        items = len(consortium.item_ids())
        yield Finding("consortium", "ok", f"{consortium.name}, {items} items, hash {consortium.hash}")
    except WrongInput as error:
        consortium = None
        yield Finding("consortium", "fail", str(error), "get consortium.toml and the catalogue from the consortium")
    loaded.append((config, consortium))


def _mock(folder: Path) -> Iterator[Finding]:
    """The file is for the owner to read; the site itself publishes what the schema makes."""
    file, made = folder / "mock.csv", make_mock(SchemaConfig.load(folder / "schema.toml")).to_csv(index=False)
    if not file.is_file():
        yield Finding("mock", "ok", "made from the schema; there is no mock.csv that shows it")
    elif file.read_bytes() == made.encode():
        yield Finding("mock", "ok", "mock.csv is what the schema makes")
    else:
        do = "delete mock.csv, or see to it that it holds no real row: scientists get the schema's mock, not this file"
        yield Finding("mock", "warn", "mock.csv is not what the schema makes", do)


def _keys(folder: Path) -> Iterator[Finding]:
    keys = folder / "state" / "keys"
    files = [keys / name for name in ("site.key", "syft.key", "uid")]
    if not any(file.exists() for file in files):
        yield Finding("keys", "warn", "there are none yet", f"fedrec site keys {folder} makes them")
        return
    lost = [file.name for file in files if not file.exists()]
    if lost:
        yield Finding("keys", "fail", f"{', '.join(lost)} is missing", "restore state/keys from your backup")
    open_to = [path for path in (folder / "state", keys, *files) if path.exists() and path.stat().st_mode & 0o077]
    for path in open_to:
        mode = "700" if path.is_dir() else "600"
        found = f"{path.name} can be read by others (mode {path.stat().st_mode & 0o777:o})"
        yield Finding("keys", "fail", found, f"chmod {mode} {path}")
    if not lost and not open_to:
        yield Finding("keys", "ok", "only their owner can read them")


def _pins(folder: Path, config: SiteConfig, consortium: ConsortiumConfig) -> Iterator[Finding]:
    pinned = {member.name: member.key for member in consortium.member}
    if config.name not in pinned:
        yield Finding("pins", "fail", f"consortium.toml has no member called {config.name}", "have it added there")
        return
    key = folder / "state" / "keys" / "site.key"
    try:
        from nacl.signing import SigningKey

        own = str(SigningKey(bytes.fromhex(key.read_text().strip())).verify_key.encode().hex())
    except (OSError, ValueError):
        own = ""
    if pinned[config.name] and own and pinned[config.name] != own:
        yield Finding(
            "pins", "fail", "consortium.toml pins another key for this site", f"see fedrec site keys {folder}"
        )
        return
    bare = [name for name, pin in pinned.items() if not pin]
    if bare:
        yield Finding(
            "pins", "warn", f"no key is pinned for {', '.join(bare)}", "put in what fedrec site keys prints there"
        )
    else:
        yield Finding("pins", "ok", f"keys of {len(pinned)} members")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free // 10**6
    if free >= LOW_MB:
        return Finding("disk", "ok", f"{free} MB are free")
    state: _State = "fail" if free < LEAST_MB else "warn"
    return Finding("disk", state, f"only {free} MB are free", f"make room: {LOW_MB} MB are enough for most sites")


def _clock(folder: Path, wall: Callable[[], float]) -> Finding:
    """Permits end and signatures are fresh by this clock."""
    steady, began = time.monotonic(), wall()
    time.sleep(0.2)
    drift = (wall() - began) - (time.monotonic() - steady)
    year = time.gmtime(wall()).tm_year
    known = [path.stat().st_mtime for path in (folder / "state").glob("audit/*.jsonl")] if folder.is_dir() else []
    do = "set the clock, by NTP"
    if year not in YEARS:
        return Finding("clock", "fail", f"it says that this is the year {year}", do)
    if abs(drift) > 0.05:
        return Finding("clock", "fail", f"it jumped by {drift:.2f} s within 0.2 s", do)
    if known and max(known) > wall() + 60:
        return Finding("clock", "fail", "the audit log was written in the future: the clock went back", do)
    return Finding("clock", "ok", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall())))


def _pysyft() -> Finding:
    try:
        version = importlib.metadata.version("syft")
    except importlib.metadata.PackageNotFoundError:
        return Finding("PySyft", "fail", "is not installed", f"install syft=={shims.KNOWN}")
    if version != shims.KNOWN:
        return Finding(
            "PySyft", "fail", f"{version} is installed; its holes are not known", f"install syft=={shims.KNOWN}"
        )
    return Finding("PySyft", "ok", version)


def _account(folder: Path, loaded: list[tuple[SiteConfig, ConsortiumConfig | None]]) -> Iterator[Finding]:
    if not loaded:
        return
    owner, path = loaded[0][0].owner, folder / "state" / "ledger.sqlite"
    known = False
    if path.exists():
        try:
            with sqlite3.connect(f"file:{path.absolute()}?mode=ro", uri=True) as db:
                known = bool(db.execute("SELECT 1 FROM accounts WHERE email=?", (owner,)).fetchall())
            db.close()
        except sqlite3.Error as error:
            do = "restore state/ from your backup"
            yield Finding("account", "fail", f"the ledger cannot be read ({type(error).__name__})", do)
            return
    try:
        given = secret("FEDREC_OWNER_PASSWORD")
    except WrongInput as error:
        yield Finding("account", "fail", str(error), "correct the file or the variable")
        return
    if known or given:
        yield Finding("account", "ok", "the owner has one" if known else "the first start makes the owner's")
    else:
        do = "set FEDREC_OWNER_PASSWORD or FEDREC_OWNER_PASSWORD_FILE for the first start"
        yield Finding("account", "warn", "the owner has none yet", do)


def _port(config: SiteConfig, pid: int | None) -> Finding:
    if pid is not None:
        return Finding("port", "ok", f"the site runs (process {pid})")
    if config.port == 0:
        return Finding("port", "ok", "any free one; give a fixed one to a site behind a proxy")
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((config.host, config.port))
        except OSError as error:
            found = f"{config.port} on {config.host} cannot be used ({os.strerror(error.errno or 0)})"
            return Finding("port", "fail", found, "end what uses it, or choose another in site.toml")
    return Finding("port", "ok", f"{config.port} on {config.host} is free")


def _jail(config: SiteConfig) -> Finding:
    do = "install bubblewrap, or let ordinary users make namespaces; limits.jail_level says the least level"
    try:
        level = walls.level_here(config.limits.jail_level)
    except WrongInput as error:
        return Finding("jail", "fail", str(error), do)
    jail = Jail(level)
    try:
        jail.wait_ready()
    except WrongInput as error:
        return Finding("jail", "fail", str(error), do)
    finally:
        jail.close()
    return Finding("jail", "ok" if level > 1 else "warn", f"level {level} works here")
