"""What an institution's own items are called in the shared catalogue: a private file with the columns own and item."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from fedrec.core.ids import clean_id
from fedrec.errors import WrongInput

NAME = "shared_items.csv"


def write(path: Path, names: Mapping[str, str]) -> None:
    """Shared id by own id, in a file that only its owner can read."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(
        os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8", newline=""
    ) as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerows([("own", "item"), *sorted(names.items())])
    new.rename(path)


def read(path: Path) -> dict[str, str]:
    """Shared id by own id; several own ids may have one.

    Raises:
        WrongInput: the file is missing or broken, or has an own id twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head, *lines = csv.reader(file, strict=True)
    except (OSError, ValueError, csv.Error):
        raise WrongInput(f"{path.name}: cannot be read; fedrec catalogue align writes it") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 2):
        own, item = [clean_id(cell) for cell in line] if len(line) == 2 else (None, None)
        if own is None or item is None or own in found:
            raise WrongInput(f"{path.name}: line {number} has no usable id, or one twice")
        found[own] = item
    if head != ["own", "item"] or not found:
        raise WrongInput(f"{path.name}: must have the columns own and item, and a line below them")
    return found


def renamed(table: pa.Table, column: str, names: Mapping[str, str]) -> pa.Table:
    """The table with shared ids in `column`; a gap where an item is not shared."""
    cells = [names.get(clean_id(value) or "") for value in table[column].to_pylist()]
    return table.set_column(table.column_names.index(column), column, pa.chunked_array([pa.array(cells, pa.string())]))
