"""The site's audit log: append-only JSON lines, each with the hash of the one before.

An act is two events: the intent is on disk before the act, the outcome after it. If the intent cannot be
written, the act does not happen. Signed checkpoints and witnesses come with the audit issue (CHANGELOG).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedrec.errors import Refused
from fedrec.exchange.wire import canonical

KEYS = frozenset("seq at actor role act object outcome request permit run round detail prev hash".split())
START = "0" * 64


class AuditLog:
    """The log below `folder`; a torn last line (power cut) is cut off and said so in the next event."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / "0001.jsonl"
        self._lock = threading.Lock()
        self._seq, self._prev, torn = _tail(self.path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size, self._whole = os.fstat(self._file).st_size, True
        if torn:
            self.event("site", "site", "repair", "log", outcome="torn-tail", detail={"bytes": torn})

    def close(self) -> None:
        """Close the file; every event is on disk already."""
        os.close(self._file)

    def event(
        self,
        actor: str,
        role: str,
        act: str,
        thing: str,
        *,
        outcome: str,
        request: str = "",
        permit: str = "",
        run: str = "",
        round: int | None = None,  # noqa: A002  the event's key
        detail: Mapping[str, str | int | bool] | None = None,
    ) -> int:
        """Append one event and return its number once it is on disk.

        Args:
            thing: what was acted on, such as a plan's fingerprint; the event's `object`.
            detail: numbers and hashes only; never an id, a rating, a password or an exception's text.

        Raises:
            Refused: `audit.write` when the event cannot be written.
        """
        with self._lock:
            body: dict[str, Any] = {
                "seq": self._seq,
                "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "actor": actor,
                "role": role,
                "act": act,
                "object": thing,
                "outcome": outcome,
                "request": request,
                "permit": permit,
                "run": run,
                "round": round,
                "detail": dict(detail or {}),
                "prev": self._prev,
            }
            digest = hashlib.sha256(canonical(body)).hexdigest()
            line = canonical({**body, "hash": digest}) + b"\n"
            self._append(line)
            self._seq, self._prev = self._seq + 1, digest
            return self._seq - 1

    def _append(self, line: bytes) -> None:
        try:
            if not self._whole:
                os.ftruncate(self._file, self._size)
            self._whole = False
            if os.write(self._file, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):  # else before the next event
                os.ftruncate(self._file, self._size)
                self._whole = True
            raise Refused(
                "audit.write", f"the audit log cannot be written ({error.strerror})", "Tell the data owner"
            ) from None
        self._size, self._whole = self._size + len(line), True

    @contextmanager
    def act(self, actor: str, role: str, act: str, thing: str, **ids: Any) -> Iterator[dict[str, Any]]:
        """Write the intent, run the block, write the outcome: done, or the refusal's code, or the exception's class."""
        self.event(actor, role, act, thing, outcome="intent", **ids)
        facts: dict[str, Any] = {}
        outcome = "done"
        try:
            yield facts
        except Refused as refusal:
            outcome = refusal.code
            raise
        except BaseException as error:
            outcome = f"error {type(error).__name__}"
            raise
        finally:
            self.event(
                actor, role, act, thing, outcome=outcome, **{**ids, "detail": {**ids.get("detail", {}), **facts}}
            )


@dataclass(frozen=True, slots=True)
class Verdict:
    """ok, incomplete-tail, tampered or unreadable; `first_bad` is the number of the first wrong event."""

    verdict: str
    events: int
    first_bad: int | None = None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The verdict as contracts.md states it."""
        return {"verdict": self.verdict, "events": self.events, "first_bad": self.first_bad, "reason": self.reason}


def verify(path: Path) -> Verdict:
    """Check every event's number, hash and link; never raises on garbage."""
    previous, number = START, 0
    try:
        with path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    return Verdict("incomplete-tail", number, number, "the last line was not written whole")
                if reason := _wrong(line, number, previous):
                    return Verdict("tampered", number, number, reason)
                previous, number = json.loads(line)["hash"], number + 1
    except OSError as error:
        return Verdict("unreadable", number, number, str(error.strerror))
    return Verdict("ok", number)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log, oldest first."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield json.loads(line)


def _wrong(line: bytes, number: int, previous: str) -> str:
    try:
        event = json.loads(line)
        body = {key: value for key, value in event.items() if key != "hash"}
        if set(event) != KEYS or canonical(event) + b"\n" != line:
            return "the event is not in canonical form"
        if event["seq"] != number:
            return f"event {number} is missing, moved or doubled"
        if event["prev"] != previous:
            return "the event does not follow from the one before"
        if event["hash"] != hashlib.sha256(canonical(body)).hexdigest():
            return "the event's content was changed"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "the event is not readable"
    return ""


def _tail(path: Path) -> tuple[int, str, int]:
    """Next number, last hash, and how many bytes of a torn line were cut off."""
    if not path.exists():
        return 0, START, 0
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    lines = data[:whole].splitlines()
    if not lines:
        return 0, START, len(data) - whole
    try:
        last = json.loads(lines[-1])
        return int(last["seq"]) + 1, str(last["hash"]), len(data) - whole
    except (ValueError, KeyError, TypeError, RecursionError):
        reason = "the audit log's last event is not readable"
        raise Refused("audit.tampered", reason, "Run fedrec audit verify") from None
