"""Any table about users or items: which column is the id and of what kind the others are is guessed, and said."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from fedrec.core.ids import clean_id
from fedrec.datasets.ratings import USUAL, plain, read_cells
from fedrec.errors import WrongInput

Kind = Literal["number", "text", "tags"]
MOST_TEXTS = 100  # different texts or tags of a column; one with more is a title or a code, and says too little
NUMBERS = 0.95  # share of the cells that must be numbers; the others are unknown


@dataclass(frozen=True, slots=True)
class About:
    """What a file says about users or items.

    Args:
        frame: the id in a column `user` or `item`, and the columns that models can read.
        kinds: of these columns.
        left_out: columns that are empty, or have more than MOST_TEXTS texts or one in every other row.
    """

    frame: pd.DataFrame
    kinds: dict[str, Kind]
    left_out: tuple[str, ...]

    def text(self) -> str:
        """One line on what was taken for what."""
        lost = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        return ", ".join(f"{name} = {kind}" for name, kind in self.kinds.items()) + lost


def read_about(file: Path, of: Literal["user", "item"]) -> About:
    """The features in a CSV, TSV, `.item`, `.user` or Parquet file; the id has a usual name, or is the first column.

    Raises:
        WrongInput: no such file, or no column that a model could read.
    """
    table, _ = read_cells(file, header=True)
    names = [str(name) for name in table.columns]
    key = next((name for name in names if plain(name) in (*USUAL[of], "id")), names[0])
    kinds = {name: kind for name in names if name not in (key, of) and (kind := _kind(table[name])) is not None}
    if not kinds:
        raise WrongInput(f"{file.name}: no column beside {key} holds numbers, or few enough texts or tags")
    frame = table[[key, *kinds]].rename(columns={key: of})
    return About(frame, kinds, tuple(name for name in names if name not in (key, *kinds)))


def _kind(column: pd.Series[str]) -> Kind | None:
    """What a column is, by its cells."""
    cells = [text for raw in column if (text := clean_id(raw)) is not None]
    if not cells:
        return None
    code = any(re.match(r"0\d", cell) for cell in cells)  # a zip code, not a number
    if not code and pd.to_numeric(pd.Series(cells), errors="coerce").notna().mean() >= NUMBERS:
        return "number"
    tags = {tag for cell in cells for tag in cell.split("|")}
    if any("|" in cell for cell in cells):
        return "tags" if len(tags) <= MOST_TEXTS else None
    return "text" if len(tags) <= min(MOST_TEXTS, len(cells) / 2) else None
