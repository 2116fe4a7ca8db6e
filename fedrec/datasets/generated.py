"""A made-up rating file whose structure is known, for work without network.

What is in it, and nothing else: eight taste clusters of items, each user with a main and a side cluster; a
popularity that falls like 1/rank inside each cluster; and chains, where each item has one follower that is
often touched right after it. So popularity beats chance, similarity beats popularity, order beats both.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrec.datasets.source import DataSource, Row, write_source
from fedrec.errors import WrongInput

CLUSTERS = 8
FOLLOWS = 0.3  # share of interactions that go to the follower of the one before
MAIN, SIDE = 0.7, 0.15  # of the others: from the main and from the side cluster; the rest from all items
_START = 1_577_836_800  # 2020-01-01 UTC
_GENRES = ("Action", "Animation", "Comedy", "Crime", "Drama", "Fantasy", "Romance", "Thriller")


def synthetic(dest: Path, users: int = 600, items: int = 400, seed: int = 7) -> DataSource:
    """Write the same three files as ML-100K has; same arguments, same bytes.

    A user has 20 rows and more, by a geometric law with mean 60. The file is written newest row first, as a
    log is read; about one row in ten shares its second with the row before it.

    Raises:
        WrongInput: fewer than 8 users or 80 items.
    """
    if users < CLUSTERS or items < 10 * CLUSTERS:
        raise WrongInput(f"synthetic data needs at least {CLUSTERS} users and {10 * CLUSTERS} items")
    draw = np.random.default_rng(seed)
    cluster = draw.permutation(items) % CLUSTERS
    follower = np.empty(items, dtype=np.int64)
    popular = np.empty(items)
    for one in range(CLUSTERS):
        inside = draw.permutation(np.flatnonzero(cluster == one))
        follower[inside] = np.roll(inside, -1)
        popular[draw.permutation(inside)] = 1.0 / np.arange(1, len(inside) + 1)
    tables = [cumulated(np.where(cluster == one, popular, 0.0)) for one in range(CLUSTERS)]
    tables.append(cumulated(popular))

    events: list[tuple[int, int, int, int, int]] = []
    people: list[Row] = []
    for user in range(users):
        main, side = (int(c) for c in draw.choice(CLUSTERS, 2, replace=False))
        people.append((f"u{user + 1:05d}", _GENRES[main]))
        length = min(20 + int(draw.geometric(1 / 40)), items // 2)
        time = _START + int(draw.integers(0, 300 * 86_400))
        for number, item in enumerate(_walk(draw, length, main, side, tables, follower)):
            time += 0 if draw.random() < 0.1 else int(draw.geometric(1 / 1800))
            likes = 4 if cluster[item] == main else 3
            rating = min(5, max(1, likes + int(draw.integers(-1, 2))))
            events.append((time, number, user, item, rating))
    events.sort(key=lambda e: (-e[0], -e[1], e[2]))
    ratings = [(f"u{user + 1:05d}", f"i{item + 1:05d}", rating, time) for time, _, user, item, rating in events]
    films = [
        (f"i{i + 1:05d}", f"{_GENRES[cluster[i]]} film {i + 1}", 1970 + i * 50 // items, _GENRES[cluster[i]])
        for i in range(items)
    ]
    return write_source(
        dest,
        f"synthetic, seed {seed}",
        [("user", "item", "rating", "timestamp"), *ratings],
        [("user", "taste"), *people],
        [("item", "title", "year", "genres"), *films],
    )


def _walk(
    draw: np.random.Generator,
    length: int,
    main: int,
    side: int,
    tables: list[NDArray[np.int64]],
    follower: NDArray[np.int64],
) -> list[int]:
    """One user's items in the order in which they were touched, none twice."""
    found: dict[int, None] = {}
    last = -1
    while len(found) < length:
        if last >= 0 and draw.random() < FOLLOWS:
            item = int(follower[last])
        else:
            where = draw.random()
            table = tables[main if where < MAIN else side if where < MAIN + SIDE else CLUSTERS]
            item = pick(draw, table)
        if item in found:
            last = -1  # the chain ends at an item that was touched before
            continue
        found[item] = None
        last = item
    return list(found)


def cumulated(weight: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integer cumulated weights: draws from them need no floating point and are alike on every machine."""
    return np.cumsum([math.floor(w * 1_000_000) for w in weight], dtype=np.int64)


def pick(draw: np.random.Generator, table: NDArray[np.int64]) -> int:
    """A place, drawn by the weights that `cumulated` summed."""
    return int(np.searchsorted(table, draw.integers(0, int(table[-1])), side="right"))


def happens(draw: np.random.Generator, log_odds: float) -> bool:
    """A draw that is yes with the probability 1 / (1 + exp(-log_odds)), to a millionth."""
    return int(draw.integers(0, 1_000_000)) < round(1_000_000 / (1.0 + math.exp(-log_odds)))
