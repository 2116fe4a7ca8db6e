"""A consortium's folder made ready, and its datasites as processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedrec.config import ConsortiumConfig, SiteConfig
from fedrec.datasets import split_by_user, users_of
from fedrec.errors import FedrecError, WrongInput
from fedrec.institution.jail import MATH_VARIABLES
from fedrec.institution.site import Keys
from fedrec.institution.table import read_table

START_S = 120.0
SCIENTIST = "ada@lab.example"
PASSED_ON = {
    "PATH", "HOME", "TMPDIR", "LANG", "LANGUAGE", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
    *MATH_VARIABLES,  # a site has to compute as this process does
}  # fmt: skip
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def prepare(consortium: Path, work: Path, data: Path, seed: int = 0) -> ConsortiumConfig:
    """Copy a consortium's files to `work`, deal the ratings to its members, make and pin their keys.

    Args:
        consortium: folder with consortium.toml and one folder a member.
        work: new folder for everything that is written.
        data: folder with ratings.csv, users.csv and items.csv, as `fedrec data get` writes them. Where users.csv has
            a column `institution`, it says whose users they are; otherwise they are dealt out at random.
        seed: of the split by user.
    """
    source = ConsortiumConfig.load(consortium / "consortium.toml")
    work.mkdir(parents=True, exist_ok=True)
    for member in source.member:
        shutil.copytree(
            consortium / member.folder,
            work / member.folder,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("data", "state"),
        )
    shutil.copyfile(data / "items.csv", work / source.catalogue)
    users = data / "users.csv"
    known = users.is_file() and "institution" in read_table(users).columns
    by = "column:institution" if known else "iid"
    split_by_user(data / "ratings.csv", work, [member.folder for member in source.member], by=by, seed=seed)
    for member in source.member:
        site = SiteConfig.load(work / member.folder / "site.toml")
        if site.user_data is not None:
            users_of(users, site.data_path)
    keys = {member.name: Keys.load_or_make(work / member.folder / "state").public for member in source.member}
    return write_consortium(source, work, keys=keys)


def write_consortium(
    config: ConsortiumConfig,
    work: Path,
    *,
    keys: Mapping[str, str] | None = None,
    urls: Mapping[str, str] | None = None,
) -> ConsortiumConfig:
    """Write work/consortium.toml with what is known of the members by now, and load it again."""
    members = [
        member.model_copy(
            update={"key": (keys or {}).get(member.name, member.key), "url": (urls or {}).get(member.name, member.url)}
        )
        for member in config.member
    ]
    path = work / "consortium.toml"
    path.write_text(config.model_copy(update={"member": tuple(members)}).as_toml())
    return ConsortiumConfig.load(path)


@dataclass
class SiteProcess:
    """One institution's `fedrec site serve`, with its own pid, folder, identity and accounts."""

    name: str
    folder: Path
    owner: str
    owner_password: str
    process: subprocess.Popen[str] | None = None
    facts: dict[str, Any] | None = None

    @property
    def url(self) -> str:
        """Where the site answers."""
        return str((self.facts or {}).get("url", ""))

    def start(self) -> None:
        """Start the process; `wait` returns when it answers."""
        log = self.folder / "state" / "serve.log"
        log.parent.mkdir(mode=0o700, exist_ok=True)
        log.touch(mode=0o600)
        with log.open("a") as errors, undisturbed():
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedrec", "site", "serve", str(self.folder), "--json", "-"],
                text=True,
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=clean_environment(FEDREC_OWNER_PASSWORD=self.owner_password),
            )

    def wait(self) -> None:
        """Read the one JSON object that `serve` prints when it answers.

        Raises:
            WrongInput: the site ended first; with the last line of its log.
        """
        assert self.process is not None
        assert self.process.stdout is not None
        text = ""
        for line in self.process.stdout:
            text += line
            with contextlib.suppress(ValueError):
                self.facts = json.loads(text)
                return
        said = (self.folder / "state" / "serve.log").read_text().splitlines() or ["nothing"]
        raise WrongInput(f"{self.name}: the site did not start: {said[-1].removeprefix('fedrec: ')}")

    def stop(self, kill: bool = False) -> None:
        """End the process, and wait; SIGKILL at once if asked, or after 20 s."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None


class Sites:
    """All datasites of a prepared consortium; a context manager that leaves no process behind."""

    def __init__(self, work: Path, passwords: Callable[[str], str]) -> None:
        self.work = work
        self.config = ConsortiumConfig.load(work / "consortium.toml")
        self.all = {
            member.name: SiteProcess(
                member.name,
                work / member.folder,
                SiteConfig.load(work / member.folder / "site.toml").owner,
                passwords(member.name),
            )
            for member in self.config.member
        }

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def consortium(self) -> Path:
        """The consortium's file with the sites' addresses."""
        return self.work / "consortium.toml"

    def start(self) -> None:
        """Start every site side by side and write their addresses into consortium.toml."""
        for site in self.all.values():
            site.start()
        for site in self.all.values():
            site.wait()
        self.config = write_consortium(self.config, self.work, urls={name: site.url for name, site in self.all.items()})

    def stop(self) -> None:
        """End every site side by side; a second Ctrl-C does not break that off."""
        with undisturbed():
            for site in self.all.values():
                if site.process is not None:
                    with contextlib.suppress(ProcessLookupError):
                        site.process.send_signal(signal.SIGTERM)
            for site in self.all.values():
                site.stop()

    def add_user(self, email: str, role: str, password: str) -> None:
        """Make an account at every site, as its operator does on the site's machine."""
        for site in self.all.values():
            fedrec(["site", "users", "add", str(site.folder), email, "--role", role], FEDREC_PASSWORD=password)


def share_key(sites: Sites) -> None:
    """Give all institutions the key of encrypted sums: the first makes it, files are carried, the others take them."""
    first, *others = sites.all.values()
    carried = sites.work / "carried"
    fedrec(["site", "keys", str(first.folder), "--share", str(carried)])
    for site in others:
        fedrec(["site", "keys", str(site.folder), "--take", str(carried / f"{site.name}.key.json")])


def clean_environment(**secrets: str) -> dict[str, str]:
    """What another process needs of this one's environment, and the variables given; nobody else's secrets."""
    kept = {name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("LC_")}
    return kept | secrets


def fedrec(arguments: list[str], **secrets: str) -> str:
    """Run one `fedrec` command as a person would, in a process that holds only these secrets; its stdout.

    Raises:
        FedrecError: the command ended with another code than 0; with its last line.
    """
    return finish(start_fedrec(arguments, **secrets))


def start_fedrec(arguments: list[str], **secrets: str) -> subprocess.Popen[str]:
    """Start one `fedrec` command; `finish` waits for it."""
    return subprocess.Popen(
        [sys.executable, "-m", "fedrec", *arguments],
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(**secrets),
    )


def finish(process: subprocess.Popen[str]) -> str:
    """The stdout of a command that ended well; one that is waited for no longer is ended. Raises: FedrecError."""
    try:
        out, errors = process.communicate()
    finally:
        process.kill()
    if process.returncode != 0:
        raise FedrecError(
            errors.strip().splitlines()[-1] if errors.strip() else f"a command ended with {process.returncode}"
        )
    return out


def finish_all(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """As `finish` for commands that run side by side; when one fails, those that still run are ended."""
    try:
        return [finish(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C, hang-up and SIGTERM take effect at the end of the block, so that it is done whole."""
    if threading.current_thread() is not threading.main_thread():  # the others get no signals
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDINGS}
    caught = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in caught:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(signal.Signals(came[0]))


def write_secret(path: Path, value: Mapping[str, str]) -> None:
    """A JSON file that only this user can read, from its first byte on."""
    fresh = path.with_name(f".{path.name}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(value, file, indent=1)
    fresh.replace(path)


def alive(pid: int) -> bool:
    """Whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def timed(label: str, say: Callable[[str], object]) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    began = time.monotonic()
    yield
    say(f"{label} ({time.monotonic() - began:.1f} s)")
