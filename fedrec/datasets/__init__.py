"""Rating files to try fedrec on, and how to deal one out to institutions. No part of a real federation.

`get_ml100k` and `synthetic` write the same three files into a folder:

    ratings.csv   user,item,rating,timestamp   rows in the source's own order: it breaks ties in time
    users.csv     user,...
    items.csv     item,title,year,genres       the consortium's catalogue
"""

from fedrec.datasets.generated import synthetic
from fedrec.datasets.ml100k import get_ml100k
from fedrec.datasets.parts import deal, deal_by_taste, split_by_user
from fedrec.datasets.ratings import Ratings, read_ratings
from fedrec.datasets.source import DataSource

__all__ = [
    "DataSource",
    "Ratings",
    "deal",
    "deal_by_taste",
    "get_ml100k",
    "read_ratings",
    "split_by_user",
    "synthetic",
]
