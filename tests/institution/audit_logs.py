"""Audit logs for tests: written by the real AuditLog, and forged by somebody who knows its form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from fedrec.exchange.passport import sign
from fedrec.exchange.wire import canonical
from fedrec.institution.audit import AuditLog, Signer
from fedrec.institution.verify import SIGNED, Checker

KEY = SigningKey(b"aurora".ljust(32, b"."))
PUBLIC = KEY.verify_key.encode().hex()
SIGNER = Signer("aurora", "a0" * 16, KEY)
OTHER = Signer("borealis", "b0" * 16, SigningKey(b"borealis".ljust(32, b".")))
PERSON = ("sci@lab.example", "scientist")


def opened(folder: Path, signer: Signer = SIGNER, **more: Any) -> AuditLog:
    return AuditLog(folder, signer, **more)


def write(folder: Path, count: int, signer: Signer = SIGNER, who: str = PERSON[0], **more: Any) -> Path:
    """A log of one checkpoint, `count` acts by many threads, which share the disk's time, and a checkpoint."""
    log = opened(folder, signer, **more)

    def act(number: int) -> None:
        ids = {"run": "r", "round": number, "purpose": "research", "request": "ab" * 16, "permit": "cd" * 8}
        with log.act(who, "scientist", "train", "ab" * 32, **ids) as facts:
            facts.update(sha256="ef" * 32, bytes=10 * number, guard="passed", ok=True)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(act, range(count)))
    log.checkpoint()
    log.close()
    return folder if more else log.path


def kept(folder: Path, checkpoints: Iterable[dict[str, Any]], signer: Signer = OTHER) -> Path:
    """Another institution's log that holds these checkpoints."""
    log = opened(folder, signer)
    for facts in checkpoints:
        log.event(*PERSON, "witness", facts["name"], outcome="done", run="r", detail={**facts, "proved": False})
    log.checkpoint()
    log.close()
    return folder


def checkpoints(data: bytes) -> list[dict[str, Any]]:
    """The signed checkpoints in a log's bytes."""
    details = [json.loads(line)["detail"] for line in data.splitlines() if line.startswith(b'{"act":"checkpoint"')]
    return [{name: detail[name] for name in (*SIGNED, "signature")} for detail in details]


def forged(events: Iterable[dict[str, Any]], key: SigningKey | None) -> bytes:
    """The events as a log whose numbers, links, hashes and roots fit; signatures too when the key was stolen."""
    state, lines, moved = Checker(), [], dict[int, int]()
    for event in events:
        moved[event["seq"]] = state.seq
        body = {**event, "seq": state.seq, "prev": state.prev}
        body["of"] = None if event["of"] is None else moved.get(event["of"], event["of"])
        if body["act"] == "checkpoint":
            facts = {**{name: body["detail"][name] for name in SIGNED}, "size": state.seq, "root": state.root()}
            signature = sign(facts, key)["signature"] if key else body["detail"]["signature"]
            body |= {"object": facts["root"], "detail": {**facts, "signature": signature}}
        body.pop("hash", None)
        line = canonical({**body, "hash": hashlib.sha256(canonical(body)).hexdigest()}) + b"\n"
        if state.feed(line):  # the forger did what he could; what he did after this does not matter
            return b"".join([*lines, line])
        lines.append(line)
    return b"".join(lines)


def changed(data: bytes, change: Callable[[list[dict[str, Any]]], object], key: SigningKey | None) -> bytes:
    """A log with its list of events changed, and then made to fit again."""
    events = [json.loads(line) for line in data.splitlines()]
    change(events)
    return forged(events, key)
