"""An evidence pack checked: every file, the log, each event's proof, the permit, the receipts; never crashes on one."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from fedrec.exchange import merkle
from fedrec.exchange.passport import signed_by
from fedrec.exchange.plan import fingerprint
from fedrec.exchange.wire import canonical, sha256
from fedrec.institution import verify as verifier
from fedrec.institution.audit import verify
from fedrec.institution.evidence.find import Event
from fedrec.institution.evidence.pack import FORMAT, facts_of
from fedrec.institution.verdict import Verdict

MAX_FILE, MAX_FILES = 1 << 31, 10_000
NEEDED = (
    "MANIFEST.json README.txt consortium.json diff.txt events.jsonl permit.json plan.toml policy.json proofs.json "
    "receipts.json run.json verify.py"
).split()


class BadPack(ValueError):
    """What is wrong with a pack, in words."""


def is_pack(place: Path) -> bool:
    """Whether a file is a ZIP, by its first bytes."""
    if not place.is_file():
        return False
    with place.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


class Pack:
    """One open pack; `check` says whether to believe it."""

    def __init__(self, place: Path | BinaryIO) -> None:
        try:
            self._zip = zipfile.ZipFile(place)
            entries = self._zip.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
            raise BadPack("it is no ZIP that can be read") from None
        self.names = [entry.filename for entry in entries]
        whole = len(set(self.names)) == len(self.names) <= MAX_FILES
        if not whole or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise BadPack("it is not packed as fedrec packs")
        if missing := sorted(set(NEEDED) - set(self.names)):
            raise BadPack(f"it lacks {missing[0]}")

    def close(self) -> None:
        self._zip.close()

    def read(self, name: str) -> bytes:
        """One file of it."""
        try:
            return self._zip.read(name)
        except (KeyError, OSError, ValueError, RuntimeError, zipfile.BadZipFile, NotImplementedError):
            raise BadPack(f"{name} cannot be read") from None

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError):
            raise BadPack(f"{name} is no JSON") from None

    def events(self, *, told: bool = False) -> list[Event]:
        """The run's own events, the checkpoint that signs them last.

        Args:
            told: with the texts that the pack has, not as they stand in the log.
        """
        try:
            data = self.read("events.jsonl")
            data = verifier.NAMED.sub(self._text, data) if told else data
            found = [json.loads(line) for line in data.splitlines()]
        except (ValueError, RecursionError):
            raise BadPack("events.jsonl is not readable") from None
        if not found or not all(isinstance(event, dict) for event in found):
            raise BadPack("events.jsonl has no events")
        return found

    def _text(self, match: re.Match[bytes]) -> bytes:
        name = f"log/texts/{match[1].decode()}"
        return json.dumps(self.read(name).decode().partition("\n")[2]).encode() if name in self.names else match[0]

    def extract_log(self, folder: Path) -> bool:
        """Write the log's files and texts into a folder; False when the pack is of the run alone."""
        names = [name for name in self.names if name.startswith("log/")]
        (folder / "texts").mkdir()
        for name in names:
            if not re.fullmatch(r"log/(\d+\.jsonl|texts/[0-9a-f]{64})", name):
                raise BadPack(f"{name} is no file of a log")
            data = self.read(name)
            if name.startswith("log/texts/") and sha256(data) != name.removeprefix("log/texts/"):
                raise BadPack(f"{name} is not the text that its name stands for")
            (folder / name.removeprefix("log/")).write_bytes(data)
        return any(name.endswith(".jsonl") for name in names)


def check(
    place: Path, key: str = "", witnesses: Iterable[Path] = (), pinned: Mapping[str, tuple[str, ...]] | None = None
) -> Verdict:
    """The verdict on a pack, as `audit.verify` gives it on a log; never raises on garbage.

    A verify.py that the site signed and that is not this fedrec's is no forgery: `reason` says so beside ok.

    Args:
        key: the site's public key, hex; without it, and without `pinned`, the pack's own consortium.json is believed.
        witnesses: logs of other institutions; a pack's log ends with the run, so they may hold nothing newer.
        pinned: each member's name and keys, the one of today first.
    """
    try:
        with closing(Pack(place)) as pack, tempfile.TemporaryDirectory() as folder:
            found = _check(pack, key, witnesses, pinned, Path(folder))
            return replace(found, pinned=bool(key) or pinned is not None)
    except BadPack as error:
        return Verdict("tampered", 0, None, str(error))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
        return Verdict("tampered", 0, None, f"its files are not of their form ({type(error).__name__})")


def _check(
    pack: Pack, key: str, witnesses: Iterable[Path], pinned: Mapping[str, tuple[str, ...]] | None, folder: Path
) -> Verdict:
    manifest = pack.json("MANIFEST.json")
    if set(manifest["files"]) != set(pack.names) - {"MANIFEST.json"}:
        raise BadPack("it has other files than its MANIFEST.json names")
    for name, digest in sorted(manifest["files"].items()):
        if sha256(pack.read(name)) != digest:
            raise BadPack(f"{name} is not the file that was packed")
    facts, events = pack.json("run.json"), pack.events()
    told = pack.json("consortium.json")
    believed = {facts["site"]: (str(told["members"].get(facts["site"], "")),)} if pinned is None else pinned
    keys = [key.lower()] if key else list(believed.get(facts["site"], ()))
    if facts["format"] != FORMAT or not any(signed_by(manifest, one) for one in keys):
        raise BadPack("it is not signed with the key of this site")
    key = str(facts["key"])
    if key not in (*keys, *told.get("former", {}).get(facts["site"], ())):  # of the run; the signer names those before
        raise BadPack("its run is not signed with a key of this site")
    found = Verdict("ok", len(events), site=str(facts["site"]), key=key, signed=int(facts["checkpoint"]))
    if pack.extract_log(folder):
        found = verify(folder, key, witnesses)
        if found.verdict in ("incomplete-tail", "unreadable"):  # whole lines are packed, so it was cut afterwards
            raise BadPack(f"its log is not whole: {found.reason}")
        if found.verdict != "ok":
            return found
        _same_lines(folder, events)
    _proved(events, pack.json("proofs.json"), key)
    _permitted(pack, facts, events, key)
    own = sha256(pack.read("verify.py")) == sha256(Path(verifier.__file__).read_bytes())
    return found if own else replace(found, reason="its verify.py is another version's than this fedrec's")


def _same_lines(folder: Path, events: list[Event]) -> None:
    """Each event of the run stands in the log of the pack."""
    wanted = {canonical(event) for event in events}
    for line in verifier.lines(folder):
        wanted.discard(line.rstrip(b"\n"))
    if wanted:
        raise BadPack(f"event {json.loads(min(wanted))['seq']} of the run is not in the log")


def _proved(events: list[Event], proofs: Mapping[str, Any], key: str) -> None:
    """Every event leads to the root that the last one signs, and the log before the run is the beginning of it."""
    last = events[-1]["detail"]
    if events[-1]["act"] != "checkpoint" or last["key"] != key or not verifier.signed(last):
        raise BadPack("the last event is no checkpoint that the site signed")
    size, root = last["size"], bytes.fromhex(last["root"])
    for event in events[:-1]:
        line = canonical(event)
        body = canonical({name: value for name, value in event.items() if name != "hash"})
        path = [bytes.fromhex(part) for part in proofs["inclusion"][str(event["seq"])]]
        if hashlib.sha256(body).hexdigest() != event["hash"]:
            raise BadPack(f"event {event['seq']} was changed")
        if not merkle.includes(event["seq"], size, merkle.leaf(line), path, root):
            raise BadPack(f"event {event['seq']} is not one that the site signed")
    before = proofs["before"]
    if before is not None:
        steps = [bytes.fromhex(part) for part in proofs["consistency"]]
        if before["key"] != key or not verifier.signed(before):
            raise BadPack("the checkpoint before the run is not signed by the site")
        if not merkle.extends(before["size"], size, bytes.fromhex(before["root"]), root, steps):
            raise BadPack("the log after the run does not follow from the one before it")


def _permitted(pack: Pack, facts: Mapping[str, Any], events: list[Event], key: str) -> None:
    """Permit, plan, policy and receipts are what the events speak of."""
    permit, plan = pack.json("permit.json"), pack.read("plan.toml").decode()
    if facts != facts_of(events, permit):
        raise BadPack("run.json does not say what the events say")
    if not signed_by(permit, key) or permit["request"] != facts["request"]:
        raise BadPack("permit.json is not signed by the site for this request")
    if fingerprint(plan) != permit["fingerprint"]:
        raise BadPack("plan.toml is not the text that the permit is for")
    starts = [event["detail"]["policy"] for event in events if event["act"] == "start"]
    if starts[:1] != [sha256(pack.read("policy.json"))]:
        raise BadPack("policy.json is not the policy that the site had started with")
    receipts = pack.json("receipts.json")
    signed = {one["sha256"] for one in receipts if signed_by(one, key) and one["run"] == facts["run"]}
    if len(signed) != len({one["sha256"] for one in receipts}):
        raise BadPack("a receipt is not signed by the site for this run")
    tasks = [event for event in events if event["act"] in ("train", "evaluate", "publish")]
    for event in tasks:
        if event["permit"] not in ("", permit["id"]) or event["object"] != permit["fingerprint"]:
            raise BadPack(f"event {event['seq']} is about another permit or plan")
    released = {event["detail"]["sha256"] for event in tasks if event["act"] == "train" and event["outcome"] == "done"}
    if released != signed:
        raise BadPack("the receipts are not those of the updates in the log")
