"""An evidence pack: all that one site holds about one run, in a ZIP that is checked without the site and without us.

    events.jsonl     the run's own events, as they stand in the log
    proofs.json      for each of them its way up to the root that the site signed (RFC 6962)
    log/*.jsonl      the log itself up to that checkpoint, whole when a text of it was erased; not in a pack --alone
    log/texts/*      names, purposes and reasons that the events speak of and nobody erased
    permit.json      the owner's signed yes            plan.toml       the text that it is for
    diff.txt         what changed since the last approved plan of the family
    policy.json      what the site allowed then        receipts.json   the signed passport of every update
    run.json         who, which run, which model       consortium.json members and their keys
    verify.py        checks the log with Python alone  MANIFEST.json   SHA-256 of every file above, signed by the site

The same log and texts give the same bytes: nothing in it says when the pack was made.
"""

from __future__ import annotations

import io
import json
import sqlite3
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.config import ConsortiumConfig, SiteConfig
from fedrec.errors import Refused
from fedrec.exchange import merkle
from fedrec.exchange.passport import sign
from fedrec.exchange.wire import canonical, sha256
from fedrec.institution import policy
from fedrec.institution import verify as verifier
from fedrec.institution.diff import approved_before, text_of_diff, two_columns
from fedrec.institution.evidence.find import Event, files_of
from fedrec.institution.evidence.reconcile import TASKS, database
from fedrec.institution.ledger import RequestRow
from fedrec.institution.site import Keys
from fedrec.institution.texts import by_name

FORMAT = "fedrec-pack-v1"
ABOUT = ("start", "stop", "pause", "resume", "repair", "witness")  # of the site, while the run was on
WITH_LOG = """verify.py needs Python alone and checks the folder log and NOTHING ELSE: that no event was changed, moved
or taken out of it, the signatures of its checkpoints and the texts beside it. It does not look at permit.json,
plan.toml, diff.txt, policy.json, receipts.json, run.json, events.jsonl or proofs.json.

    python verify.py log --key HEX        HEX = the site's key, from a consortium.toml that you trust
"""
ALONE = """This pack is of the run alone: it has no log, so verify.py has nothing to check here. The run's own events
are in events.jsonl, with their way to the root that the site signed in proofs.json; fedrec follows it.
"""
README = """Evidence of one institution about one run of fedrec.

{about}
fedrec checks more, without the site: every file against the manifest that the site signed; each event of the run
against the site's signed root, and against the log where there is one; permit, plan, policy and receipts against
what the events say.

    fedrec audit verify PACK.zip --consortium FILE
    fedrec audit timeline PACK.zip...     merges the packs of several institutions

Take verify.py from a place that you trust if you do not trust who gave you this pack.
"""


@dataclass(frozen=True, slots=True)
class Found:
    """The events of one run in a log, the checkpoint that signs them all, and the hashes of all events before it."""

    events: list[Event]
    request: str
    checkpoint: Event
    before: Event | None  # the newest checkpoint before the run
    leaves: list[bytes]


def pack(folder: Path, run: str, request: str = "", alone: bool = False) -> bytes:
    """The pack of a run as the bytes of a ZIP.

    Args:
        request: needed where two requests have a run of this name.
        alone: without the log, whose other events then stay with the site; the proofs still hold.

    Raises:
        Refused: `pack.run` when the log has no such run, `pack.checkpoint` when nothing signs its end yet.
    """
    found = _find(folder, run, request)
    config = SiteConfig.load(folder / "site.toml")
    consortium = ConsortiumConfig.load(config.consortium_path)
    with closing(database(folder / "state" / "ledger.sqlite")) as db:
        rows = [RequestRow(*row) for row in db.execute("SELECT * FROM requests")]
        receipts = list(_receipts(db, found.request, run))
    row = next((one for one in rows if one.id == found.request), None)
    if row is None or row.permit is None:
        raise Refused("pack.run", "the ledger has no permit of this run", "See fedrec audit reconcile")
    before = approved_before(row, rows)
    diff = ["the first plan of its family"] if before is None else text_of_diff(two_columns(before.plan, row.plan))
    members = {"hash": consortium.hash, "members": {name: keys[0] for name, keys in consortium.keys.items()}}
    members |= {"former": {name: keys[1:] for name, keys in consortium.keys.items() if keys[1:]}}
    files = {
        "README.txt": README.format(about=ALONE if alone else WITH_LOG).encode(),
        "verify.py": Path(verifier.__file__).read_bytes(),
        "events.jsonl": b"".join(canonical(event) + b"\n" for event in found.events),
        "proofs.json": _json(_proofs(found)),
        "permit.json": _json(permit := json.loads(row.permit)),
        "plan.toml": row.plan.encode(),
        "diff.txt": ("\n".join(diff) + "\n").encode(),
        "policy.json": _policy(folder, found).encode(),
        "receipts.json": _json(receipts),
        "consortium.json": _json(members),
        "run.json": _json(facts_of(found.events, permit)),
    }
    files |= {} if alone else _log(folder, found.checkpoint["seq"] + 1)
    texts, complete = _texts(folder, files.values())
    if not (alone or complete):  # an event after the run erased one: the log has to go on to it
        files |= _log(folder, sys.maxsize)
        texts, _ = _texts(folder, files.values())
    files |= texts
    manifest = {name: sha256(data) for name, data in files.items()}
    files["MANIFEST.json"] = _json(sign({"files": manifest}, Keys.load_or_make(folder / "state").site))
    return _zip(files)


def facts_of(events: Sequence[Event], permit: Mapping[str, Any]) -> dict[str, Any]:
    """run.json: what events and permit say of the run, so that it cannot say anything else."""
    tasks = [event for event in events if event["act"] in TASKS and event["outcome"] == "done"]
    last = events[-1]
    return {
        "format": FORMAT,
        "site": last["detail"]["name"],
        "key": last["detail"]["key"],
        "run": next(event["run"] for event in events if event["act"] in TASKS),
        "request": permit["request"],
        "plan": permit["fingerprint"],
        "scientist": permit["scientist"],
        "model": tasks[-1]["detail"]["base"] if tasks and tasks[-1]["act"] != "train" else "",
        "rounds": sorted({event["round"] for event in tasks if event["act"] == "train"}),
        "events": len(events),
        "checkpoint": last["seq"],
    }


def _find(folder: Path, run: str, request: str) -> Found:
    own: list[Event] = []
    side: list[Event] = []  # may belong to it: told once the run's plan and updates are known
    leaves: list[bytes] = []
    last: Event | None = None
    for line, event in _lines(folder):
        if event["act"] == "checkpoint":
            last = last or event
            side.append(event)
        elif event["run"] == run and event["act"] in TASKS and request in ("", event["request"]):
            own.append(event)
            last = None
        elif event["act"] == "witness" and event["run"] == run:  # what the others' packs are checked with
            side.append(event)
            last = None
        elif event["act"] in (*ABOUT, "submit", "approve", "deny", "revoke", "release", "fetch"):
            side.append(event)
        leaves.append(merkle.leaf(line[:-1]))
    if len(requests := {event["request"] for event in own}) != 1:
        raise Refused("pack.run", f"{len(requests)} requests have a run of this name here", "Name one with --request")
    if last is None:
        raise Refused("pack.checkpoint", "nothing signs the run's last event yet", "Try again when the run has ended")
    first, final = own[0]["seq"], last["seq"]
    sent = {event["detail"].get("sha256") for event in own}
    before = [event for event in side if event["act"] == "checkpoint" and event["seq"] < first]
    starts = [event for event in side if event["act"] == "start" and event["seq"] < first]
    own += starts[-1:]  # it names the policy
    own += [event for event in side if event["seq"] < final and _belongs(event, own[0], sent)]
    own.sort(key=lambda event: int(event["seq"]))
    return Found([*own, last], requests.pop(), last, before[-1] if before else None, leaves[:final])


def _belongs(event: Event, first: Event, sent: set[Any]) -> bool:
    """Whether an event that names no run, or is about the whole site, is part of a run's story.

    Args:
        first: the run's first event; sent: SHA-256 of what left in it.
    """
    act = event["act"]
    if act == "submit":
        return (event["object"], event["actor"]) == (first["object"], first["actor"])
    if act == "fetch":
        return event["object"] in sent and event["request"] == first["request"]
    if act in ("approve", "deny", "revoke", "release"):
        return bool(event["request"] == first["request"])
    return act in ABOUT and event["seq"] > first["seq"] and event["run"] in ("", first["run"])


def _proofs(found: Found) -> dict[str, Any]:
    """What leads from each event to the root that the site signed, and from the checkpoint before the run to it."""
    size, subtree = len(found.leaves), _subtrees(found.leaves)
    paths = {
        str(event["seq"]): [part.hex() for part in merkle.inclusion(event["seq"], size, subtree)]
        for event in found.events[:-1]
    }
    before = found.before
    if before is None or not before["seq"]:
        return {"inclusion": paths, "before": None, "consistency": []}
    steps = merkle.consistency(before["seq"], size, subtree)
    return {"inclusion": paths, "before": before["detail"], "consistency": [part.hex() for part in steps]}


def _subtrees(leaves: Sequence[bytes]) -> merkle.Subtree:
    """As `merkle.whole`, for many proofs: the larger subtrees are computed once."""
    known: dict[tuple[int, int], bytes] = {}

    def subtree(low: int, high: int) -> bytes:
        if (low, high) in known:
            return known[low, high]
        if high - low < 64:
            return merkle.root(leaves[low:high])
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        known[low, high] = merkle.root((subtree(low, middle), subtree(middle, high)))
        return known[low, high]

    return subtree


def _lines(folder: Path) -> Iterator[tuple[bytes, Event]]:
    for path in files_of(folder):
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line, json.loads(line)


def _log(folder: Path, count: int) -> dict[str, bytes]:
    """The first `count` lines of the log, by file."""
    files: dict[str, bytes] = {}
    for path in files_of(folder):
        with path.open("rb") as file:
            lines = []
            for line in file:
                if count == 0 or not line.endswith(b"\n"):
                    break
                lines.append(line)
                count -= 1
        if lines:
            files[f"log/{path.name}"] = b"".join(lines)
    return files


def _texts(folder: Path, files: Iterable[bytes]) -> tuple[dict[str, bytes], bool]:
    """The texts beside the log that these files speak of, and whether all are there."""
    names = {name.decode() for data in files for name in verifier.NAMED.findall(data)}
    found = {f"log/texts/{name}": data for name, data in by_name(names, files_of(folder)[0].parent).items()}
    return found, len(found) == len(names)


def _receipts(db: sqlite3.Connection, request: str, run: str) -> Iterator[Mapping[str, Any]]:
    sql = "SELECT answer FROM jobs WHERE request=? AND run=? AND status='done' ORDER BY round, kind, key"
    for (answer,) in db.execute(sql, (request, run)):
        if "passport" in (found := json.loads(answer)):
            yield found["passport"]


def _policy(folder: Path, found: Found) -> str:
    """The policy that the site had started with when the run began."""
    names = [event["detail"]["policy"] for event in found.events if event["act"] == "start"]
    return policy.kept(folder / "state", str(names[0]) if names else "")


def _json(value: Mapping[str, Any] | Sequence[Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _zip(files: Mapping[str, bytes]) -> bytes:
    """Stored, not compressed: another version of zlib would give other bytes."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return target.getvalue()
