"""What is known about users and items, by index, kept beside the rows; a plan's `columns` name what a model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fedrec.config import Feature
from fedrec.core.ids import clean_id
from fedrec.institution.columns import Column, distinct

_KINDS = {"number": pa.float64(), "text": pa.string(), "tags": pa.list_(pa.string())}


def collect(
    table: Mapping[str, Column], key: str, names: Sequence[str], wanted: Mapping[str, Feature]
) -> tuple[pa.Table, dict[str, dict[str, int]]]:
    """One row for each of `names`, and by feature how many of them are known and how many cells were not allowed.

    Of several rows of one user or item, the first with an allowed value counts. Blank cells say nothing.

    Args:
        key: the column with the raw id.
        names: cleaned ids by index.
    """
    place_of: dict[str | None, int] = {name: place for place, name in enumerate(names)}
    codes, values = distinct(table[key])
    where = np.array([place_of.get(clean_id(value), -1) for value in values] + [-1], dtype=np.int64)[codes]
    columns, counts = {}, {}
    for name, feature in wanted.items():
        codes, values = distinct(table[name])
        readable = [read(value, feature) for value in values]
        good = np.array([value is not None for value in readable] + [False])[codes]
        blank = np.array([clean_id(value) is None for value in values] + [True])[codes]
        rows = np.flatnonzero(good & (where >= 0))
        known, first = np.unique(where[rows], return_index=True)
        found: list[Any] = [None] * len(names)
        for place, row in zip(known.tolist(), rows[first].tolist(), strict=True):
            found[place] = readable[codes[row]]
        columns[name] = pa.array(found, _KINDS[feature.type])
        counts[name] = {"known": len(known), "not_allowed": int(np.count_nonzero(~good & ~blank))}
    return pa.table(columns), counts


def read(value: object, feature: Feature) -> float | str | list[str] | None:
    """The value as the feature's type, or None when it is missing or not allowed."""
    text = clean_id(value)
    if text is None:
        return None
    if feature.type == "number":
        try:
            number = float(text.replace("_", "x"))  # Python alone reads 1_0 as ten
        except ValueError:
            return None
        low = -np.inf if feature.min is None else feature.min
        high = np.inf if feature.max is None else feature.max
        return number if np.isfinite(number) and low <= number <= high else None
    found = [text] if feature.type == "text" else [tag.strip() for tag in text.split("|") if tag.strip()]
    if not found or (feature.values is not None and not set(found) <= set(feature.values)):
        return None
    return found[0] if feature.type == "text" else found
