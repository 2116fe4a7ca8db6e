"""A SQLite index of a log, for searching; made from the log, never believed without it.

    audit/index.sqlite   where each event stands, and the fields that one searches by
    audit/index.json     SHA-256 of that file, and of each log file as far as it is indexed

A search reads every hit from the log itself. Before it, both files are compared with their SHA-256: an index or a
log that was changed since is said, and the log is read instead. Who changes the index and its SHA-256 can hide
events from a search, not from `check`, which reads the whole log, nor from the log.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from fedrec.errors import WrongInput
from fedrec.institution.evidence.find import Event, Wanted, event_of, events_of, files_of, readable
from fedrec.institution.texts import Texts, Told

_FIELDS = ("at", "actor", "role", "act", "outcome", "run", "hash")
_TABLE = """
CREATE TABLE events (number INTEGER PRIMARY KEY, file INTEGER, place INTEGER, length INTEGER, at TEXT, actor TEXT,
    role TEXT, act TEXT, outcome TEXT, run TEXT, hash TEXT, request TEXT);
"""
_SEARCHED = ("at", "actor", "role", "act", "outcome", "run", "request")


def place_of(folder: Path) -> Path:
    """Where the index of a log lies."""
    return files_of(folder)[0].parent / "index.sqlite"


def build(folder: Path) -> int:
    """Make the index anew and return its number of events.

    Raises:
        WrongInput: the log has a line that is no event, or the folder cannot be written.
    """
    path = place_of(folder)
    fresh = path.with_name(".index.sqlite")
    try:
        fresh.unlink(missing_ok=True)
        files = [(one.name, one.stat().st_size) for one in files_of(folder)]  # a running site adds to the last one
        with closing(sqlite3.connect(fresh, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=OFF")
            db.executescript(_TABLE)
            db.execute("BEGIN")
            db.executemany(f"INSERT INTO events VALUES ({','.join('?' * 12)})", _rows(folder, files))
            count = int(db.execute("SELECT COUNT(*) FROM events").fetchone()[0])
            for name in _SEARCHED:
                db.execute(f"CREATE INDEX by_{name} ON events ({name})")
            db.execute("COMMIT")
        digests = [[name, size, _sha256(path.parent / name, size)] for name, size in files]
        said = {"index": _sha256(fresh), "files": digests}
        path.with_name("index.json").unlink(missing_ok=True)
        fresh.replace(path)
        path.with_name("index.json").write_text(json.dumps(said))
    except OSError as error:
        raise WrongInput(f"{path}: cannot be written ({error.strerror})") from None
    return count


def _rows(folder: Path, files: Sequence[tuple[str, int]]) -> Iterator[tuple[Any, ...]]:
    """What the index holds of each event in the first `bytes` of each file."""
    number = 0
    for which, (name, size) in enumerate(files):
        place = 0
        with (place_of(folder).parent / name).open("rb") as lines:
            for line in lines:
                if place + len(line) > size or not line.endswith(b"\n"):
                    break
                try:
                    event = json.loads(line)
                    known = [event[field] for field in _FIELDS]
                    yield (number, which, place, len(line), *known, Wanted.request_of(event))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError, sqlite3.Error):
                    raise WrongInput(f"{name}: event {number} is not readable; see fedrec audit verify") from None
                number, place = number + 1, place + len(line)


def check(folder: Path) -> str:
    """What differs between the index and the log, event by event; empty when nothing does.

    Raises:
        WrongInput: there is no index.
    """
    try:
        said = _said(folder)
        with closing(_open(folder)) as db:
            stored = db.execute("SELECT * FROM events ORDER BY number")
            for row in _rows(folder, [(str(one[0]), int(one[1])) for one in said["files"]]):
                if stored.fetchone() != row:
                    return f"event {row[0]} is not in the index as it is in the log"
            return "the index has events that the log has not" if stored.fetchone() is not None else ""
    except sqlite3.Error:
        return "the index is not readable"


def search(place: Path, wanted: Wanted, say: Callable[[str], object]) -> Iterator[Event]:
    """The wanted events, oldest first, through the index where there is a good one.

    Args:
        say: told why an index is not used.

    Raises:
        WrongInput: as `events_of`.
    """
    if wanted.everything or not place.is_dir() or not place_of(place).exists():
        yield from events_of(place, wanted)
        return
    if reason := _changed(place):
        say(f"{reason}; reading the log itself. fedrec audit index makes a new index")
        yield from events_of(place, wanted)
        return
    files, told = files_of(place), Told(place)
    with closing(_open(place)) as db:
        where, values = _where(wanted, Texts(files[0].parent).named(wanted.who))
        handles = [path.open("rb") for path in files]
        try:
            for which, start, length in db.execute(
                f"SELECT file, place, length FROM events WHERE {where} ORDER BY number", values
            ):
                handles[which].seek(start)
                with readable(files[which]):
                    event = event_of(told.line(handles[which].read(length)))
                    if event in wanted:
                        yield event
            done = [int(one[1]) for one in _said(place)["files"]]
            for which, handle in enumerate(handles):  # what came after the index was made
                handle.seek(done[which] if which < len(done) else 0)
                with readable(files[which]):
                    for line in handle:
                        if line.endswith(b"\n") and (event := event_of(told.line(line))) in wanted:
                            yield event
        finally:
            for handle in handles:
                handle.close()


def _where(wanted: Wanted, who: str) -> tuple[str, list[str]]:
    """The filter in SQL; it may find more than is wanted, never less.

    Args:
        who: what stands in the log for `wanted.who`; the index holds no personal text.
    """
    parts, values = ["1"], list[str]()
    if wanted.who:
        parts.append("(actor IN (?, ?) OR role = ?)")
        values += [wanted.who, who, wanted.who]
    for name, value, more in (
        ("act", wanted.act.removesuffix("*"), ""),
        ("request", wanted.request, " OR act = 'view'"),  # which names the requests that were seen in its detail
    ):
        if value:
            parts.append(f"({name} >= ? AND {name} < ?{more})")
            values += [value, value + "\U0010ffff"]
    if wanted.run:
        parts.append("run = ?")
        values.append(wanted.run)
    if wanted.outcome and wanted.outcome != "refused":
        parts.append("outcome = ?")
        values.append(wanted.outcome)
    if wanted.since:
        parts.append("at >= ?")
        values.append(wanted.since)
    if wanted.until:
        parts.append("at < ?")
        values.append(wanted.until)
    return " AND ".join(parts), values


def _changed(folder: Path) -> str:
    try:
        said, path = _said(folder), place_of(folder)
        if _sha256(path) != said["index"]:
            return "the index was changed since it was made"
        for name, size, digest in said["files"]:
            if _sha256(path.parent / name, size) != digest:
                return f"the log was changed since it was indexed ({name})"
    except (OSError, ValueError, TypeError, KeyError, WrongInput):
        return "the index is not readable"
    return ""


def _said(folder: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(place_of(folder).with_name("index.json").read_text())
    except (OSError, ValueError):
        raise WrongInput(f"{folder}: has no whole index; see fedrec audit index") from None
    return said


def _open(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{place_of(folder)}?mode=ro&immutable=1", uri=True)


def _sha256(path: Path, size: int | None = None) -> str:
    """Of the first `size` bytes, or of all."""
    digest, left = hashlib.sha256(), path.stat().st_size if size is None else int(size)
    with path.open("rb") as file:
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
    return digest.hexdigest() if left == 0 else "cut"
