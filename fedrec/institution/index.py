"""From a table of raw ids to interactions by index: the one way in, for sites and for fedrec.simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedrec.core.ids import clean_id
from fedrec.core.interactions import Interactions

Duplicates = Literal["last", "first", "max"]
REASONS = ("user", "item", "unknown_item", "rating", "time")
LATEST = 4_102_444_800  # 2100-01-01 UTC, in seconds; later means milliseconds taken for seconds


class Indexed(NamedTuple):
    """What `index_frame` made of a frame.

    Args:
        rows: the interactions that were kept.
        user_ids: raw id by user index, sorted as text.
        rejected: rows by the first reason that applied (REASONS); duplicates are not rejected rows.
    """

    rows: Interactions
    user_ids: list[str]
    rejected: dict[str, int]


def index_frame(
    frame: pd.DataFrame,
    catalogue: Sequence[str],
    *,
    user: str = "user",
    item: str = "item",
    rating: str | None = "rating",
    time: str | None = "timestamp",
    scale: tuple[float, float] | None = None,
    unit: Literal["s", "ms"] = "s",
    on_duplicate: Duplicates = "last",
) -> Indexed:
    """Rows in the order that Interactions asks for, with users and items as indices.

    Of several rows with the same user and item, "last" keeps the latest, "first" the oldest, "max" the one
    with the highest rating (the latest of these). With timestamps, the row earlier in the file counts as
    the later one of a tie; without, the file's own order is the order of time. Users are indexed in the
    order of their ids as text, so shuffling a file without ties changes nothing.

    Args:
        rating: None = every row counts 1.
        scale: lowest and highest rating that are kept; None = any finite one.
        catalogue: the item ids by index.

    Raises:
        KeyError: the frame lacks a named column.
    """
    n, n_items = len(frame), len(catalogue)
    place_of = {name: place for place, name in enumerate(catalogue)}
    users, user_names = _codes(frame[user])
    items, item_names = _codes(frame[item])
    table = np.array([place_of.get(name, -1) for name in item_names] + [-1], dtype=np.int64)  # [-1] is "no id"
    index = table[items]
    value = np.ones(n) if rating is None else _numbers(frame[rating])
    low, high = (-np.inf, np.inf) if scale is None else scale
    with np.errstate(over="ignore"):
        narrow = value.astype(np.float32) + np.float32(0.0)  # -0.0 becomes 0.0
    when = None if time is None else _seconds(_numbers(frame[time]), unit)

    kept = np.ones(n, dtype=bool)
    rejected = {}
    checks = (users < 0, items < 0, index < 0, ~(np.isfinite(narrow) & (value >= low) & (value <= high)))
    for reason, bad in zip(REASONS, (*checks, np.zeros(n, dtype=bool) if when is None else when < 0), strict=True):
        rejected[reason] = int(np.count_nonzero(kept & bad))
        kept &= ~bad

    place = np.flatnonzero(kept)
    if when is None:
        order = place[np.lexsort((place, users[place]))]
    else:
        order = place[np.lexsort((-place, when[place], users[place]))]
    order = order[_without_duplicates(users[order] * n_items + index[order], narrow[order], on_duplicate)]
    present, user_index = np.unique(users[order], return_inverse=True)
    rows = Interactions(
        user_index.astype(np.int32),
        index[order].astype(np.int32),
        narrow[order],
        None if when is None else when[order],
        len(present),
        n_items,
    )
    return Indexed(rows, [user_names[code] for code in present], rejected)


def _codes(column: pd.Series[Any]) -> tuple[NDArray[np.int64], list[str]]:
    """Cleaned ids as places in their sorted list; -1 where there is no usable id."""
    first: dict[object, int] = {}  # not pandas.factorize, which ends a text at NUL and so makes two ids one
    raw = np.fromiter((first.setdefault(value, len(first)) for value in column.tolist()), np.int64, len(column))
    cleaned = [clean_id(value) for value in first]
    names = sorted({name for name in cleaned if name is not None})
    place_of: Mapping[str | None, int] = {name: place for place, name in enumerate(names)}
    table = np.array([place_of.get(name, -1) for name in cleaned], dtype=np.int64)
    return table[raw], names


def _numbers(column: pd.Series[Any]) -> NDArray[np.float64]:
    """The column as floats, NaN where it holds no number."""
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def _seconds(value: NDArray[np.float64], unit: Literal["s", "ms"]) -> NDArray[np.int64]:
    """Whole seconds since 1970; -1 where the value is none, before 1970 or after 2099."""
    seconds = np.floor(value / 1000 if unit == "ms" else value)
    return np.where((seconds >= 0) & (seconds < LATEST), seconds, -1).astype(np.int64)


def _without_duplicates(pair: NDArray[np.int64], rating: NDArray[np.float32], rule: Duplicates) -> NDArray[np.int64]:
    """Places of the rows that stay, ascending, when each pair stays once; rows come oldest first."""
    place = np.arange(len(pair))
    order = np.lexsort((place, rating, pair)) if rule == "max" else np.lexsort((place, pair))
    change = pair[order][1:] != pair[order][:-1]
    edge = np.append(True, change) if rule == "first" else np.append(change, True)
    return np.sort(order[edge[: len(order)]])
