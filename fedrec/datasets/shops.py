"""Two competing retailers, made up: who views and buys what. The structure is known.

What is in it, and nothing else: each age band likes two of eight categories, each region one level of prices, and
each customer one brand of a category that he likes; popularity that falls with the rank inside each category; series
of five articles, of which most purchases go on with that of the one before; and visits, in which similar articles
are viewed before one is bought. Nine articles in ten are sold by both retailers, one in twenty by each alone.
Harbour's customers are older, Meridian's younger. So similarity beats popularity, features say something about
articles and customers without rows, and series are known only from many customers: that is what federating gives.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedrec.datasets.generated import cumulated, pick
from fedrec.datasets.source import DataSource, Row, write_source

SHOPS = ("harbour", "meridian")
ALONE = 20  # one article in so many is sold by the first retailer alone, as many by the second alone
CUSTOMERS, ARTICLES = 350, 700  # customers of each retailer
CATEGORIES = ("garden", "kitchen", "books", "toys", "electronics", "sports", "fashion", "beauty")
BRANDS = ("Alder", "Birk", "Cove", "Dune", "Elm", "Fjord", "Grove", "Heron", "Isle", "Jura", "Kelp", "Lark", "Moor",
          "Nook", "Opal", "Pine")  # fmt: skip
AGES = ("18-29", "30-44", "45-59", "60-99")
REGIONS = ("north", "east", "south", "west")
AGE_MIX = ((1, 2, 3, 4), (4, 3, 2, 1))  # by retailer
LIKED = 8  # how much likelier a liked category is
PRICE_FIT = ((6, 2, 1), (6, 2, 1), (1, 6, 1), (1, 2, 6))  # by region: low, middle, high
BRAND_FIT = 4
FLAT = 4  # of the popularity, 1 / (rank + FLAT)
SERIES, AGAIN = 5, 85  # articles in a series; of 100 purchases, how many go on with the series of the one before
_EUROS = (8, 12, 6, 10, 40, 20, 15, 9)  # of a cheap article, by category
_START = 1_704_067_200  # 2024-01-01 UTC


def shops(dest: Path, seed: int = 7) -> DataSource:
    """Write ratings.csv, users.csv and items.csv; same seed, same bytes.

    `rating` is 1 for an article that was only viewed, 2 to 4 for one, two or three pieces bought. A customer has 6
    rows and more, 11 on average. The file is newest row first.
    """
    draw = np.random.default_rng(seed)
    category = np.arange(ARTICLES) % len(CATEGORIES)
    brand = (2 * category + draw.integers(0, 4, ARTICLES)) % len(BRANDS)
    level = draw.integers(0, 3, ARTICLES)
    sold = draw.permutation(np.arange(ARTICLES) % ALONE)  # 0 only at the first, 1 only at the second
    popular, series = np.empty(ARTICLES), np.empty(ARTICLES, dtype=np.int64)
    for one in range(len(CATEGORIES)):
        inside = draw.permutation(np.flatnonzero(category == one))
        popular[inside] = 1.0 / (np.arange(len(inside)) + FLAT)
        series[draw.permutation(inside)] = one * ARTICLES + np.arange(len(inside)) // SERIES

    people: list[Row] = []
    events: list[tuple[int, int, str, int, int]] = []
    for number in range(CUSTOMERS * len(SHOPS)):
        shop, name = number % len(SHOPS), f"c{number + 1:05d}"
        age, region = pick(draw, np.cumsum(AGE_MIX[shop])), int(draw.integers(0, len(REGIONS)))
        people.append((name, SHOPS[shop], AGES[age], REGIONS[region]))
        favourite = (2 * (2 * age + int(draw.integers(0, 2))) + int(draw.integers(0, 4))) % len(BRANDS)
        weight = popular * np.where(category // 2 == age, LIKED, 1) * np.array(PRICE_FIT[region])[level]
        weight *= np.where(brand == favourite, BRAND_FIT, 1) * (sold != 1 - shop)
        whole = cumulated(weight)
        kin = [cumulated(weight * (category == one)) for one in range(len(CATEGORIES))]
        length = 6
        while draw.integers(0, 5) and length < 40:
            length += 1
        visits: list[list[tuple[int, int]]] = []
        touched: set[int] = set()
        bought = -1
        while len(touched) < length:
            same = (series == series[bought]) & (weight > 0) if visits and draw.integers(0, 100) < AGAIN else None
            bought = pick(draw, whole if same is None else np.cumsum(same, dtype=np.int64))
            if bought in touched:
                continue
            viewed = [pick(draw, kin[int(category[bought])]) for _ in range(int(draw.integers(0, 3)))]
            views = [(one, 1) for one in dict.fromkeys(viewed) if one not in touched]
            visits.append([*views, (bought, 2 + int(draw.integers(0, 3)))])
            touched |= {bought, *viewed}
        time = _START + int(draw.integers(0, 200 * 86_400))
        for visit in visits:
            time += int(draw.integers(3_600, 20 * 86_400))
            for article, rating in visit:
                time += int(draw.integers(20, 600))
                events.append((time, len(events), name, article, rating))
    events.sort(key=lambda event: (-event[0], -event[1], event[2]))
    where = {0: SHOPS[0], 1: SHOPS[1]}
    articles = [
        (
            f"a{i + 1:05d}",
            f"{BRANDS[brand[i]]} {CATEGORIES[category[i]]} {i + 1}",
            CATEGORIES[category[i]],
            BRANDS[brand[i]],
            f"{_EUROS[category[i]] * 2 ** int(level[i]) + int(draw.integers(0, 3))}.{int(draw.integers(0, 10))}9",
            where.get(int(sold[i]), "|".join(SHOPS)),
        )
        for i in range(ARTICLES)
    ]
    return write_source(
        dest,
        f"generated shops, seed {seed}",
        [("user", "item", "rating", "timestamp"), *((n, f"a{a + 1:05d}", r, t) for t, _, n, a, r in events)],
        [("user", "institution", "age_band", "region"), *people],
        [("item", "title", "category", "brand", "price", "sold_by"), *articles],
    )
