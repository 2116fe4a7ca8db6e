"""Filters of recommendations by what is known about items: `genre=Drama`, `year>=1990`."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.core.ids import clean_id
from fedrec.errors import WrongInput
from fedrec.institution.store import Store

_FORM = re.compile(r"\s*(?P<name>.+?)\s*(?P<sign>!=|>=|<=|=)\s*(?P<value>.*?)\s*", re.DOTALL)


class ItemFacts:
    """What the catalogue's columns and the store's features say about every item, by the item's index.

    A cell with | in it holds several values. Where both name a column, the store's feature counts.
    """

    def __init__(self, catalogue: Path, store: Store) -> None:
        with catalogue.open(encoding="utf-8-sig", newline="") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
        names = list(rows[0]) if rows else []
        self._columns: dict[str, list[Any]] = {
            name: [_parts(row[name]) for row in rows] for name in names if name and name != "item"
        }
        self.titles = [row.get("title") or row["item"] for row in rows]
        if (features := store.features("items")) is not None:
            for name in features.column_names:
                self._columns[name] = [_parts(value) for value in features[name].to_pylist()]

    def allowed(self, where: Sequence[str]) -> NDArray[np.bool_]:
        """True for the items that pass every filter; an item of which nothing is known passes `!=` only.

        Raises:
            WrongInput: a filter has another form, or names no column.
        """
        found = np.ones(len(self.titles), dtype=bool)
        for text in where:
            form = _FORM.fullmatch(text)
            if form is None:
                raise WrongInput(f"{text!r} is no filter; write name=value, name!=value, name>=number or name<=number")
            name, sign, value = form.group("name", "sign", "value")
            if name not in self._columns:
                known = ", ".join(sorted(self._columns)) or "nothing"
                raise WrongInput(f"nothing called {name!r} is known about items; known: {known}")
            found &= [_passes(cell, sign, value) for cell in self._columns[name]]
        return found


def _parts(value: object) -> list[str]:
    """A cell's values as text; a whole number reads as in a file, without a point."""
    cells = value if isinstance(value, list) else [value] if isinstance(value, float) else str(value or "").split("|")
    return [text for cell in cells if (text := clean_id(cell)) is not None]


def _passes(cell: list[str], sign: str, value: str) -> bool:
    if sign in ("=", "!="):
        return (value in cell) == (sign == "=")
    try:
        wanted = float(value)
    except ValueError:
        raise WrongInput(f"{sign} compares with a number, not with {value!r}") from None
    try:
        numbers = [float(part) for part in cell]
    except ValueError:
        return False
    return any(number >= wanted if sign == ">=" else number <= wanted for number in numbers)
