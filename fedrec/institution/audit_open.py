"""Where an audit log goes on when it is opened again: its newest file is verified, an older one is not needed."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrec.errors import Refused
from fedrec.exchange import merkle
from fedrec.institution import verify as verifier
from fedrec.institution.verify import MAX_LINE, Checker


def copy_of(state: Checker) -> Checker:
    """A checker that goes on by itself from here."""
    new = copy.copy(state)
    new.peaks, new.open = state.peaks.copy(), state.open.copy()
    return new


def newest(folder: Path) -> tuple[Path, Checker, Checker, list[bytes], int]:
    """The newest file, the state after it and before it, its leaves, and how many torn bytes were cut off its end."""
    files, torn = sorted(folder.glob("*.jsonl")) or [folder / "0001.jsonl"], 0
    while len(files) > 1 and not next(verifier.lines(files[-1]), b"").endswith(b"\n"):  # a crash while it was begun
        torn += files[-1].stat().st_size
        files.pop().unlink()
    path, whole = files[-1], 0
    state, before, leaves = Checker(), Checker(), list[bytes]()
    for line in verifier.lines(path) if path.exists() else ():
        if not line.endswith(b"\n"):
            break
        if not leaves:
            before = _entered(line)
            state = copy_of(before)
        if wrong := state.feed(line):
            raise _tampered(wrong)
        leaves.append(merkle.leaf(line[:-1]))
        whole += len(line)
    left = (path.stat().st_size if path.exists() else 0) - whole
    if left >= MAX_LINE or (leaves and not verifier.signed(state.last)):
        raise _tampered("its end is not the log's")
    if left:
        os.truncate(path, whole)
    return path, state, before, leaves, torn + left


def _entered(line: bytes) -> Checker:
    """The state before a file's first line, which is a checkpoint that states it."""
    state = Checker()
    try:
        event = json.loads(line)
        if event["seq"]:
            peaks = bytes.fromhex(event["detail"]["peaks"])
            state.seq, state.prev, state.checkpoint = event["seq"], event["prev"], event["seq"] - 1
            state.peaks = [peaks[at : at + 32] for at in range(0, len(peaks), 32)]
            state.open = {number: event["detail"][f"open_{number}"] for number in named(event["detail"])}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _tampered("its first event is not readable") from None
    return state


def named(detail: Mapping[str, Any]) -> set[int]:
    """The open acts that a segment's first checkpoint names as open_NUMBER."""
    return {int(key[5:]) for key in detail if key.startswith("open_")}


def _tampered(why: str) -> Refused:
    return Refused("audit.tampered", f"the audit log does not verify ({why})", "Run fedrec audit verify")
