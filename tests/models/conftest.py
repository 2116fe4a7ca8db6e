"""ML-100K as the institutions take it in, and rows whose structure is known."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedrec.core.interactions import Interactions
from fedrec.datasets import get_ml100k
from fedrec.institution.index import index_frame


@pytest.fixture(scope="session")
def ml100k(tmp_path_factory: pytest.TempPathFactory) -> Interactions:
    folder: Path = tmp_path_factory.mktemp("ml100k")
    get_ml100k(folder)
    with open(folder / "items.csv", encoding="utf-8", newline="") as file:
        catalogue = [row["item"] for row in csv.DictReader(file)]
    frame = pd.read_csv(folder / "ratings.csv", dtype={"user": str, "item": str})
    return index_frame(frame, catalogue).rows


@pytest.fixture(scope="session")
def checkerboard() -> Interactions:
    """Even users touch even items, odd users odd ones, 12 of 30 each: popularity knows nothing."""
    rng = np.random.default_rng(0)
    item = np.concatenate([2 * rng.permutation(30)[:12] + user % 2 for user in range(80)]).astype(np.int32)
    user = np.repeat(np.arange(80, dtype=np.int32), 12)
    return Interactions(user, item, np.ones(len(item), np.float32), np.arange(len(item), dtype=np.int64), 80, 60)
