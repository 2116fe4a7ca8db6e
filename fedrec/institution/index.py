"""From a table of raw ids to interactions by index: the one way in, for sites and for fedrec.simulation."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.institution.columns import Column, Unit, allowed, ids, numbers, seconds

Duplicates = Literal["last", "first", "max"]
REASONS = ("user", "item", "unknown_item", "rating", "time", "value")


@dataclass(frozen=True, slots=True)
class Rules:
    """Which columns are read, and what is kept of them.

    Args:
        rating: None = every row counts 1.
        scale: lowest and highest rating that are kept; None = any finite one.
        positive_from: rows rated lower are left out, after duplicates are resolved; None = all stay.
        users_min, items_min: rows that a user, or an item, needs to stay (k-core).
        forgotten: ids of users who stay out.
        shared: catalogue id by own item id; rows of other items are left out. None = own ids are the catalogue's.
        values: allowed texts by column; a row with another one is rejected.
    """

    user: str = "user"
    item: str = "item"
    rating: str | None = "rating"
    time: str | None = "timestamp"
    scale: tuple[float, float] | None = None
    unit: Unit = "s"
    zone: str = "UTC"
    on_duplicate: Duplicates = "last"
    positive_from: float | None = None
    users_min: int = 1
    items_min: int = 1
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    forgotten: Container[str] = ()
    shared: Mapping[str, str] | None = None


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


@dataclass(frozen=True, slots=True)
class Filled:
    """What `index_columns` made of a table.

    Args:
        duplicates: rows of a user and item that another row stands for.
        conflicts: those of them whose rating differs from the one that stands.
        filtered: rows that nothing is wrong with and that a filter left out, by filter.
    """

    rows: Interactions
    user_ids: list[str]
    rejected: dict[str, int]
    duplicates: int
    conflicts: int
    filtered: dict[str, int]


def index_frame(frame: pd.DataFrame, catalogue: Sequence[str], **rules: Any) -> Indexed:
    """`index_columns` of a DataFrame; `rules` are the fields of Rules.

    Raises:
        KeyError: the frame lacks a named column.
    """
    done = index_columns({str(name): frame[name] for name in frame}, catalogue, Rules(**rules))
    return Indexed(done.rows, done.user_ids, done.rejected)


def index_columns(table: Mapping[str, Column], catalogue: Sequence[str], rules: Rules) -> Filled:
    """Rows in the order that Interactions asks for, with users and items as indices.

    Of several rows with the same user and item, "last" keeps the latest, "first" the oldest, "max" the one
    with the highest rating (the latest of these). With timestamps, the row earlier in the file counts as
    the later one of a tie; without, the file's own order is the order of time. Users are indexed in the
    order of their ids as text, so shuffling a file without ties changes nothing.

    Args:
        catalogue: the item ids by index.

    Raises:
        KeyError: the table lacks a named column.
        DataError: the time column holds dates where numbers are declared.
    """
    n_items = len(catalogue)
    place_of = {name: place for place, name in enumerate(catalogue)}
    users, user_names = ids(table[rules.user])
    items, item_names = ids(table[rules.item])
    called = item_names if rules.shared is None else [rules.shared.get(name, "") for name in item_names]
    lookup = np.array([place_of.get(name, -1) for name in called] + [-1], dtype=np.int64)  # [-1] is "no id"
    index = lookup[items]
    apart = (items >= 0) & (index < 0) & (rules.shared is not None)
    n = len(users)
    value = np.ones(n) if rules.rating is None else numbers(table[rules.rating])
    low, high = (-np.inf, np.inf) if rules.scale is None else rules.scale
    with np.errstate(over="ignore"):
        narrow = value.astype(np.float32) + np.float32(0.0)  # -0.0 becomes 0.0
    when = None if rules.time is None else seconds(table[rules.time], rules.unit, rules.zone)

    wrong = {"user": users < 0, "item": items < 0, "unknown_item": (index < 0) & ~apart}
    wrong["rating"] = ~(np.isfinite(narrow) & (value >= low) & (value <= high))
    wrong["time"] = np.zeros(n, dtype=bool) if when is None else when < 0
    if rules.values:
        right = [allowed(table[name], values) for name, values in rules.values.items()]
        wrong["value"] = ~np.logical_and.reduce(right)
    kept = np.ones(n, dtype=bool)
    rejected = {}
    for reason, bad in wrong.items():
        rejected[reason] = int(np.count_nonzero(kept & bad))
        kept &= ~bad

    out = np.array([name in rules.forgotten for name in user_names] + [False])[users] & kept
    apart &= kept & ~out
    place = np.flatnonzero(kept & ~out & ~apart)
    if when is None:
        order = place[np.lexsort((place, users[place]))]
    else:
        order = place[np.lexsort((-place, when[place], users[place]))]
    pair = users[order] * n_items + index[order]
    stays, conflicts = _without_duplicates(pair, narrow[order], rules.on_duplicate)
    duplicates = len(order) - len(stays)
    order, filtered = order[stays], {"forgotten": int(out.sum())} if out.any() else {}
    if apart.any():
        filtered["not_shared"] = int(apart.sum())
    if rules.positive_from is not None:
        liked = order[value[order] >= rules.positive_from]
        order, filtered["not_positive"] = liked, len(order) - len(liked)
    if rules.users_min > 1 or rules.items_min > 1:
        inner = order[_core(users[order], index[order], rules.users_min, rules.items_min)]
        order, filtered["few_rows"] = inner, len(order) - len(inner)
    present, user_index = np.unique(users[order], return_inverse=True)
    rows = Interactions(
        user_index.astype(np.int32),
        index[order].astype(np.int32),
        narrow[order],
        None if when is None else when[order],
        len(present),
        n_items,
    )
    return Filled(rows, [user_names[code] for code in present], rejected, duplicates, conflicts, filtered)


def _without_duplicates(
    pair: NDArray[np.int64], rating: NDArray[np.float32], rule: Duplicates
) -> tuple[NDArray[np.int64], int]:
    """Places of the rows that stay, ascending, when each pair stays once, and how many others contradict them.

    Rows come oldest first.
    """
    if not len(pair):
        return np.zeros(0, dtype=np.int64), 0
    place = np.arange(len(pair))
    order = np.lexsort((place, rating, pair)) if rule == "max" else np.argsort(pair, kind="stable")
    change = pair[order][1:] != pair[order][:-1]
    edge = np.append(True, change) if rule == "first" else np.append(change, True)
    group = np.cumsum(np.append(False, change))
    stands = rating[order[edge]]
    conflicts = int(np.count_nonzero(rating[order] != stands[group]))
    return np.sort(order[edge]), conflicts


def _core(user: NDArray[np.int64], item: NDArray[np.int64], users_min: int, items_min: int) -> NDArray[np.int64]:
    """Places of the largest part in which every user and every item has enough rows."""
    place = np.arange(len(user))
    while len(place):
        enough = (np.bincount(user[place])[user[place]] >= users_min) & (
            np.bincount(item[place])[item[place]] >= items_min
        )
        if enough.all():
            break
        place = place[enough]
    return place
