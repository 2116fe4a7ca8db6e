"""Texts found in a sum: each institution adds its texts to a table, and the sum of the tables tells which there are.

An invertible Bloom lookup table (Goodrich & Mitzenmacher 2011, "Invertible Bloom Lookup Tables", section 2) with
numbers instead of keys: nobody names the texts first, and the centre reads them from a (secure) sum alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import WrongInput

WIDTH = 48  # bytes of a text
PARTS = 4  # each text is put into one cell of each part
Table = NDArray[np.float64]


def empty(texts: int) -> Table:
    """A table with room for so many texts; shape (PARTS x texts, 3 + WIDTH)."""
    return np.zeros((PARTS * texts, 3 + WIDTH))


def fits(text: str) -> bool:
    """Whether a text is short enough for a table."""
    return len(text.encode()) <= WIDTH


def put(table: Table, counts: Mapping[str, float]) -> None:
    """Add texts, each with its count (a whole number below 2^45), so that sums of tables are exact."""
    for text, count in counts.items():
        table[_cells(text, len(table) // PARTS)] += count * _line(text)


def take(table: Table) -> dict[str, float]:
    """The texts and their counts, by text.

    Raises:
        WrongInput: the table has more texts than room.
    """
    left, found = np.rint(table), {}
    again = True
    while again:
        again = False
        for cell in np.flatnonzero(left[:, 0] > 0).tolist():
            text, count = _alone(left, cell), float(left[cell, 0])
            if text is not None:
                left[_cells(text, len(table) // PARTS)] -= count * _line(text)
                found[text] = count
                again = True
    if left.any():
        raise WrongInput(f"more texts than the {len(table) // PARTS} that there is room for: take a larger `texts`")
    return dict(sorted(found.items()))


def _alone(table: Table, cell: int) -> str | None:
    """The text of a cell that holds one, else None."""
    count = table[cell, 0]
    if count <= 0:
        return None
    line = table[cell] / count
    data = line[3:]
    if (line != np.rint(line)).any() or data.min() < 0 or data.max() > 255:
        return None
    try:
        text = bytes(data.astype(np.uint8)).rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return None
    good = cell in _cells(text, len(table) // PARTS) and np.array_equal(_line(text), line)
    return text if good else None


def _line(text: str) -> NDArray[np.float64]:
    """One text once: 1, two bytes of checksum, its own bytes."""
    data = text.encode()
    return np.array([1, *_hash(data)[:2], *data.ljust(WIDTH, b"\0")], dtype=np.float64)


def _cells(text: str, size: int) -> list[int]:
    digest = _hash(text.encode())[2:]
    return [part * size + int.from_bytes(digest[4 * part : 4 * part + 4]) % size for part in range(PARTS)]


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=2 + 4 * PARTS).digest()
