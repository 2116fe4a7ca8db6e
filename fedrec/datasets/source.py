"""The three files that every data set here is written as."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Row = Sequence[object]


@dataclass(frozen=True, slots=True)
class DataSource:
    """What was written: where it came from, and the SHA-256 of ratings.csv."""

    source: str
    sha256: str
    rows: int
    users: int
    items: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_source(
    dest: Path, source: str, ratings: Sequence[Row], users: Sequence[Row], items: Sequence[Row]
) -> DataSource:
    """Write ratings.csv, users.csv and items.csv below `dest`; the first of each sequence is its header."""
    dest.mkdir(parents=True, exist_ok=True)
    for name, rows in (("users.csv", users), ("items.csv", items)):
        put(dest / name, as_csv(rows))
    data = as_csv(ratings)
    put(dest / "ratings.csv", data)
    return DataSource(source, hashlib.sha256(data).hexdigest(), len(ratings) - 1, len(users) - 1, len(items) - 1)


def as_csv(rows: Iterable[Row]) -> bytes:
    """UTF-8 without BOM, lines end with LF."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def put(path: Path, data: bytes) -> None:
    """The whole file or none of it."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(data)
    fresh.replace(path)
