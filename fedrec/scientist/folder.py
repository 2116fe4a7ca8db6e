"""A run's folder on disk: written whole or not at all, read after any crash, driven by one program at a time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedrec.core.params import SharedParams
from fedrec.errors import Refused
from fedrec.exchange.wire import decode, encode
from fedrec.scientist.driver import Progress

KEPT = 2  # checkpoints that stay


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's folder while it is driven; the system lets go when the process ends, however it ends.

    Raises:
        Refused: `run.busy` while another program, or another Run in this one, holds it.
    """
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            by = file.read().strip() or "unknown"
            reason = f"the run {folder.name} is driven by another program (process {by})"
            raise Refused("run.busy", reason, "Wait until it ends, or end it; then resume") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def commit(folder: Path, now: Progress, line: Mapping[str, Any]) -> None:
    """The round's line first, then its checkpoint (fsync, rename), which commits both: a line without one is dropped.

    The other order would lose a line in a crash, and with it what the stop rule knows.
    """
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
    flat = {f"shared/{name}": array for name, array in now.shared.tensors.items()}
    flat |= {f"state/{name}": array for name, array in now.state.items()}
    write(folder / "checkpoints" / f"{now.number:06d}.safetensors", encode(flat))
    for old in _checkpoints(folder)[:-KEPT]:
        old.unlink()


def newest(folder: Path) -> Progress | None:
    """The last committed round's checkpoint; None before the first. What a crash left half written has another name."""
    found = _checkpoints(folder)
    if not found:
        return None
    flat = decode(found[-1].read_bytes())
    shared = {name.removeprefix("shared/"): array for name, array in flat.items() if name.startswith("shared/")}
    state = {name.removeprefix("state/"): array for name, array in flat.items() if name.startswith("state/")}
    return Progress(int(found[-1].stem), SharedParams(shared), state)


def rounds_of(folder: Path, before: int) -> list[dict[str, Any]]:
    """The lines of the rounds below `before`, none of them torn."""
    path, lines = folder / "rounds.jsonl", []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            break
        if line["round"] < before:
            lines.append(line)
    return lines


def write(path: Path, data: bytes) -> None:
    """Whole or not at all: temporary file, fsync, rename, fsync of the folder."""
    fresh = path.with_name(f".{path.name}")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _checkpoints(folder: Path) -> list[Path]:
    """The committed ones, oldest first."""
    return sorted((folder / "checkpoints").glob("[0-9]*.safetensors"))
