"""Canaries: values that stand in institutions' rows only, and a search that finds them however they are written."""

from __future__ import annotations

import base64
import re
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

WORDS = (b"canary-user", b"canary-title")
ESCAPES = ("utf-8", "utf-16-le", "utf-16-be")
SCHEMA = '\n[features.item.title]\ntype = "text"\n'


def plant(folder: Path, draw: np.random.Generator) -> np.ndarray:
    """Give an institution users, titles and ratings that are nobody else's; returns the ratings.

    Every rating is a number of its own between 1 and 5, drawn at random: no two rows share one.
    """
    file, schema = folder / "data" / "ratings.csv", folder / "schema.toml"
    rows = pd.read_csv(file, dtype=str)
    ratings = np.unique(draw.uniform(1, 5, 2 * len(rows)).astype(np.float32))
    ratings = draw.permutation(ratings)[: len(rows)]
    rows["user"] = f"canary-user-{folder.name}-" + rows["user"]
    rows["title"] = f"canary-title-{folder.name}-" + rows["item"]
    rows["rating"] = [str(rating) for rating in ratings]
    rows.to_csv(file, index=False)
    text = schema.read_text().replace("step = 1.0\n", "")
    schema.write_text(text + SCHEMA)
    return ratings


class Search:
    """Finds what was planted in bytes: as it is, in hex, in base64 at any alignment, as text and as floats.

    Args:
        ratings: all planted ratings.
    """

    def __init__(self, ratings: np.ndarray) -> None:
        self._ratings = np.unique(ratings.astype(np.float32))
        self._words = [word.decode().encode(code) for word in WORDS for code in ESCAPES]

    def found(self, data: bytes) -> set[str]:
        """What of the planted stands in `data`, by kind."""
        kinds = set()
        for how, view in _views(data):
            kinds |= {f"{word[:12]!r} {how}" for word in self._words if word in view}
            texts = re.findall(rb"(?<!\d)\d\.\d{5,8}", view)  # not the seconds of a time, which have two digits
            numbers = np.array([float(text) for text in texts], dtype=np.float32)
            if np.isin(numbers, self._ratings).any():
                kinds.add(f"rating as text {how}")
            kinds |= {f"ratings as {name} {how}" for name in ("<f4", ">f4", "<f8", ">f8") if self._floats(view, name)}
        return kinds

    def _floats(self, data: bytes, name: str) -> bool:
        """Whether two planted ratings stand side by side; a single one of 32 bits may be there by chance."""
        size, data = np.dtype(name).itemsize, data + bytes(16)
        with np.errstate(all="ignore"):
            for start in range(size):
                values = np.frombuffer(data, name, (len(data) - start) // size, start)
                hits = np.isin(values, self._ratings)
                if (hits[1:] & hits[:-1]).any():
                    return True
        return False

    def files(self, folder: Path) -> dict[Path, set[str]]:
        """The files below a folder in which something was found."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
        return {path: kinds for path in files if (kinds := self.found(path.read_bytes()))}


def _views(data: bytes) -> Iterator[tuple[str, bytes]]:
    yield "raw", data
    runs = re.findall(rb"[0-9a-fA-F]{16,}", data)
    ends = [(run, skip, skip + (len(run) - skip) // 2 * 2) for run in runs for skip in (0, 1)]
    yield "hex", b" ".join(bytes.fromhex(run[start:end].decode()) for run, start, end in ends)
    runs = re.findall(rb"[A-Za-z0-9+/]{20,}", data.translate(bytes.maketrans(b"-_", b"+/")))
    ends = [(run, skip, skip + (len(run) - skip) // 4 * 4) for run in runs for skip in range(4)]
    yield "base64", b" ".join(base64.b64decode(run[start:end]) for run, start, end in ends)


class Recorder:
    """A TCP proxy that keeps every byte in both directions."""

    def __init__(self, port: int) -> None:
        self.target, self.bytes, self.listening = port, bytearray(), socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        kept = {near: bytearray()}  # each direction by itself, so that no value is torn by the other's bytes
        try:
            with near, socket.create_connection(("127.0.0.1", self.target)) as far:
                other, kept[far] = {near: far, far: near}, bytearray()
                while True:
                    for ready in select.select([near, far], [], [])[0]:
                        data = ready.recv(65536)
                        if not data:
                            return
                        kept[ready] += data
                        other[ready].sendall(data)
        except OSError:
            return
        finally:
            for part in kept.values():
                self.bytes += part
