"""The site's audit log: append-only JSON lines, hash-chained, with signed checkpoints. What is right is in verify.py.

An act is two events: the intent is on disk before the act, the outcome after it. If the intent cannot be written,
the act does not happen. Events of many threads share one fdatasync.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from fedrec.errors import Refused
from fedrec.exchange import merkle
from fedrec.exchange.passport import sign
from fedrec.exchange.wire import canonical
from fedrec.institution import verify as verifier
from fedrec.institution.acts import acting
from fedrec.institution.audit_open import copy_of, newest
from fedrec.institution.texts import Texts, Told
from fedrec.institution.verdict import Verdict
from fedrec.institution.verify import GAP, GOOD, KIND, MAX_LINE, MAX_OPEN, SINGLE, Checker

CROWD = MAX_OPEN // 2  # acts open at once; more of them only for who decides, so that nobody can keep him from it
DECIDES = frozenset({"owner", "reviewer", "site", "none"})  # roles; none: an owner who logs in is not known yet
SEGMENT = 16 * 10**6  # bytes, about; a file of the log that is larger is followed by another
Detail = Mapping[str, str | int | bool]


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs a log's checkpoints: the site's name, the server's UID, and the site's own key."""

    name: str
    uid: str
    key: SigningKey


@dataclass(slots=True)
class _Entry:
    """What one call writes: its events without numbers, and what became of them."""

    bodies: list[dict[str, Any]]
    numbers: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    error: Exception | None = None


class AuditLog:
    """The log below `folder`; a torn last line (power cut) is cut off and said so in the next event.

    Args:
        segment: bytes after which a new file is begun.

    Raises:
        Refused: `audit.tampered` when the newest file does not verify, or when it was signed with another key than the
            signer's, which it does not name as the next; nothing is added to such a log.
    """

    def __init__(self, folder: Path, signer: Signer, segment: int = SEGMENT) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder, self._signer, self._segment, self.texts = folder, signer, segment, Texts(folder)
        self._queue: deque[_Entry] = deque()
        self._turn = threading.Lock()
        self.path, self._done, self._before, self._leaves, torn = newest(folder)
        if self._done.last and self._key not in (self._done.last["key"], self._done.heir):
            reason = "the audit log is signed with another key than this site's"
            raise Refused("audit.tampered", reason, "Put back state/keys; fedrec site keys --renew changes the key")
        self._file = self._open(self.path)
        self._size, self._whole = os.fstat(self._file).st_size, True
        if torn:
            self.event("site", "site", "repair", "log", outcome="torn-tail", detail={"bytes": torn})
        elif not self._done.seq:
            self.checkpoint()

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
        purpose: str = "",
        of: int | None = None,
        request: str = "",
        permit: str = "",
        run: str = "",
        round: int | None = None,  # noqa: A002  the event's key
        detail: Detail | None = None,
    ) -> int:
        """Append an event and return its number once it is on disk.

        What is over as soon as it is known, such as a refusal, needs no call before it: the outcome of an act
        without `of` is written together with its intent.

        Args:
            thing: what was acted on, such as a plan's fingerprint; the event's `object`.
            of: for an outcome, its intent's number.
            detail: numbers and hashes only; never an id, a rating, a password or an exception's text.

        Raises:
            Refused: `audit.write` when the event cannot be written.
        """
        body = self.texts.apart({
            "actor": actor, "role": role, "purpose": purpose, "act": act, "object": thing, "outcome": outcome,
            "of": of, "request": request, "permit": permit, "run": run, "round": round, "detail": dict(detail or {}),
        })  # fmt: skip
        single = act in SINGLE or outcome == "intent" or of is not None
        return self._put([body] if single else [{**body, "outcome": "intent", "detail": {}}, body])[-1]

    def act(
        self, actor: str, role: str, act: str, thing: str, **ids: Any
    ) -> contextlib.AbstractContextManager[dict[str, Any]]:
        """Write the intent, run the block, write the outcome; see `acting`."""
        return acting(self.event, actor, role, act, thing, **ids)

    def left_open(self) -> list[dict[str, Any]]:
        """The intents without an outcome; after a crash, what the site was doing."""
        wanted, found = set(self._done.open), list[dict[str, Any]]()
        for path in sorted(self.folder.glob("*.jsonl"), reverse=True):
            found += [event for event in read(path) if event["seq"] in wanted] if len(found) < len(wanted) else []
        return sorted(found, key=lambda event: int(event["seq"]))

    def start(self, site: str, states: Mapping[int, str], detail: Detail) -> None:
        """Write that the site started, and what became of every act that was open; then a checkpoint.

        Args:
            states: by the intent's number, for all of `left_open`.
        """
        named = {f"open_{number}": state for number, state in states.items()}
        self.event("site", "site", "start", site, outcome="done", detail={**detail, **named})
        self.checkpoint()

    def checkpoint(self) -> dict[str, Any]:
        """Sign everything so far, unless nothing was added since this key signed; returns the newest checkpoint."""
        if self._done.seq != self._done.checkpoint + 1 or self._done.last.get("key") != self._key:
            self._put([_CHECKPOINT])
        return {key: self._done.last[key] for key in (*verifier.SIGNED, "signature")}

    def renew(self, key: str) -> None:
        """Write that the site's next key is `key` (hex), signed with the old one; then open the log anew."""
        body = {**_CHECKPOINT, "act": "key", "object": "renew"}
        self._put([{**body, "outcome": "intent"}, {**body, "detail": {"key": key, "before": self._key}}, _CHECKPOINT])

    def proof(self, old: int, new: int) -> list[bytes] | None:
        """The consistency proof from one checkpoint's size to another's; None when the older file would be needed."""
        with self._turn:
            if not 0 < old <= new <= self._done.seq or old < self._before.seq:
                return None
            tree = merkle.Partial(self._before.peaks, self._before.seq, self._leaves)
            return merkle.consistency(old, new, tree.subtree)

    @property
    def _key(self) -> str:
        return str(self._signer.key.verify_key.encode().hex())

    # writing: one thread at a time, for all that wait

    def _put(self, bodies: list[dict[str, Any]]) -> list[int]:
        entry = _Entry(bodies)
        self._queue.append(entry)
        with self._turn:  # what was queued while the disk was busy is written together, by the first to get here
            if not entry.numbers and entry.error is None:
                self._write([self._queue.popleft() for _ in range(len(self._queue))])
        if entry.error is not None:
            raise entry.error
        return entry.numbers

    def _write(self, entries: list[_Entry]) -> None:
        """Number, chain and check the events, write them, and wait for the disk; all or none."""
        state, good = copy_of(self._done), list[_Entry]()
        try:
            if self._size > self._segment:
                self._rotate()
                state = copy_of(self._done)
            for entry in entries:
                trial = copy_of(state)
                try:
                    self._compose(entry, trial)
                except (Refused, ValueError, TypeError) as error:  # the latter our bug: such an event would not verify
                    entry.error = error
                    continue
                state = trial
                good.append(entry)
            lines = [line for entry in good for line in entry.lines]
            self._append(b"".join(lines))
        except BaseException as error:
            strerror = error.strerror if isinstance(error, OSError) else type(error).__name__
            refusal = Refused("audit.write", f"the audit log cannot be written ({strerror})", "Tell the data owner")
            for entry in entries:
                entry.error = entry.error or refusal
            if not isinstance(error, OSError):
                raise
            return
        self._done = state
        self._leaves += [merkle.leaf(line[:-1]) for line in lines]

    def _compose(self, entry: _Entry, state: Checker) -> None:
        numbers, first = list[int](), entry.bodies[0]
        room = MAX_OPEN - 1 if first["role"] in DECIDES or first["actor"] == "site" else CROWD
        if len(entry.bodies) == 1 and first["outcome"] == "intent" and len(state.open) >= room:
            raise Refused("audit.write", f"{len(state.open)} acts are open in the audit log", "Wait until some end")
        for given in entry.bodies:
            due = state.checkpoint < 0 or state.started or state.seq - state.checkpoint == GAP
            if due and given is not _CHECKPOINT:
                entry.lines.append(self._line(_CHECKPOINT, state))
            if given["act"] == "stop":
                named = {f"open_{number}": act for number, act in state.open.items()}
                given = {**given, "detail": {**given["detail"], **named}}
            of = given["of"]
            if of is None and given["outcome"] != "intent" and given["act"] not in SINGLE:  # the intent came with it
                of = numbers[-1]
            numbers.append(state.seq)
            entry.lines.append(self._line({**given, "of": of}, state))
        entry.numbers = numbers

    def _line(self, given: Mapping[str, Any], state: Checker, **extra: str) -> bytes:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body = {**given, "seq": state.seq, "at": now, "prev": state.prev}
        if body["act"] == "checkpoint":
            body["object"] = state.root()
            body["detail"] = {**self._signed(state.seq, body["object"], now), **extra}
        digest = hashlib.sha256(canonical(body)).hexdigest()
        line = canonical({**body, "hash": digest}) + b"\n"
        if wrong := "the event is too long" if len(line) >= MAX_LINE else state.feed(line):
            raise ValueError(wrong)
        return line

    def _signed(self, size: int, root: str, now: str) -> dict[str, Any]:
        who = {"name": self._signer.name, "site": self._signer.uid, "key": self._key}
        return sign({"kind": KIND, **who, "size": size, "root": root, "time": now}, self._signer.key)

    def _rotate(self) -> None:
        """Begin the next file with a checkpoint that states what a reader needs to go on from there."""
        old, state = (self.path, self._file, self._size, self._whole), copy_of(self._done)
        still = {f"open_{number}": act for number, act in state.open.items()}
        peaks = b"".join(state.peaks).hex()
        line = self._line(_CHECKPOINT, state, peaks=peaks, **still)
        self.path = self.folder / f"{int(self.path.stem) + 1:04d}.jsonl"
        try:
            self._file, self._size, self._whole = self._open(self.path), 0, False  # whatever is in it is cut off
            self._append(line)
        except OSError:
            if self._file != old[1]:
                os.close(self._file)
            self.path.unlink(missing_ok=True)
            self.path, self._file, self._size, self._whole = old
            raise
        os.close(old[1])
        self._before, self._leaves, self._done = self._done, [merkle.leaf(line[:-1])], state

    def _open(self, path: Path) -> int:
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.fsync(folder)
        finally:
            os.close(folder)
        return handle

    def _append(self, data: bytes) -> None:
        try:
            if not self._whole:
                os.ftruncate(self._file, self._size)
            self._whole = False
            if os.write(self._file, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(self._file)
        except OSError:
            with contextlib.suppress(OSError):  # else before the next event
                os.ftruncate(self._file, self._size)
                self._whole = True
            raise
        self._size, self._whole = self._size + len(data), True


_CHECKPOINT: dict[str, Any] = {
    "actor": "site", "role": "site", "purpose": "", "act": "checkpoint", "object": "", "outcome": "done", "of": None,
    "request": "", "permit": "", "run": "", "round": None, "detail": {},
}  # fmt: skip


def verify(
    place: Path, key: str = "", witnesses: Iterable[Path] = (), pinned: Mapping[str, tuple[str, ...]] | None = None
) -> Verdict:
    """The verdict on a log: ok, incomplete-tail, tampered, witness-clash or unreadable; never raises on garbage.

    Args:
        key: the site's public key; hex. Without it, and without `pinned`, the log's own is believed, and so it says.
        witnesses: logs of other institutions, or other copies of this one.
        pinned: each member's name and keys, the one of today first, which the log of one of them must have come to.
    """
    found = Verdict(**verifier.verify(place, key, witnesses))
    if found.verdict not in GOOD or pinned is None:
        return found
    if not pinned.get(found.site) or pinned[found.site][0] not in found.keys:
        return Verdict("tampered", found.events, 0, "the log is not signed with the key of any member", found.site)
    return replace(found, pinned=True)


def read(place: Path, act: str = "") -> Iterator[dict[str, Any]]:
    """The events of a log with their texts, oldest first; `place` is one file, an audit folder or a site's folder.

    Args:
        act: of these only, which is much faster; "" for all.
    """
    begin, told = b'{"act":"%b"' % act.encode() if act else b"{", Told(place)
    for line in verifier.lines(place):
        if line.startswith(begin) and line.endswith(b"\n"):
            yield json.loads(told.line(line))
