"""Rating files to try fedrec on, and how to deal one out to institutions. No part of a real federation.

`get_ml100k`, `synthetic` and each of WORLDS write the same three files into a folder:

    ratings.csv   user,item,rating,timestamp   rows in the source's own order: it breaks ties in time
    users.csv     user,...                     a column `institution` says whose users they are
    items.csv     item,title,...               the consortium's catalogue
"""

from collections.abc import Callable
from pathlib import Path

from fedrec.datasets.bank import bank
from fedrec.datasets.care import care
from fedrec.datasets.generated import synthetic
from fedrec.datasets.ml100k import get_ml100k
from fedrec.datasets.parts import deal, deal_by_taste, split_by_user, users_of
from fedrec.datasets.ratings import Ratings, read_ratings
from fedrec.datasets.shops import shops
from fedrec.datasets.social import social
from fedrec.datasets.source import DataSource

WORLDS: dict[str, Callable[[Path, int], DataSource]] = {  # by the consortium's name
    "banks": bank,
    "hospitals": care,
    "shops": shops,
    "social": social,
}

__all__ = [
    "WORLDS",
    "DataSource",
    "Ratings",
    "bank",
    "care",
    "deal",
    "deal_by_taste",
    "get_ml100k",
    "read_ratings",
    "shops",
    "social",
    "split_by_user",
    "synthetic",
    "users_of",
]
