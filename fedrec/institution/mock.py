"""A mock with the schema's columns and scale, and nothing of the data."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fedrec.config import SchemaConfig

_START = 1_577_836_800  # 2020-01-01 UTC
_YEAR = 365 * 86_400  # seconds


def make_mock(schema: SchemaConfig) -> pd.DataFrame:
    """Made-up rows in the shape of `schema`, which is its only source: the data cannot be reached from here.

    Every pair of user and item is drawn uniformly, so no popularity, taste or order is in it; a model
    learns nothing from a mock. Same schema, same bytes.
    """
    size, columns = schema.mock, schema.columns
    draw = np.random.default_rng(size.seed)
    pairs = draw.choice(size.users * size.items, size=size.rows, replace=False)
    found: dict[str, object] = {
        columns.user: [f"mock-user-{number:04d}" for number in pairs // size.items + 1],
        columns.item: [f"mock-item-{number:04d}" for number in pairs % size.items + 1],
    }
    if columns.rating is not None and schema.rating is not None:
        scale = schema.rating
        steps = int((scale.max - scale.min) / scale.step + 1e-9)
        ratings = scale.min + scale.step * draw.integers(0, steps + 1, size.rows)
        whole = float(scale.min).is_integer() and float(scale.step).is_integer()
        found[columns.rating] = ratings.astype(np.int64) if whole else ratings.round(6)
    if columns.time is not None:
        times = _START + draw.integers(0, _YEAR, size.rows)
        found[columns.time] = times * 1000 if schema.time.unit == "ms" else times
    return pd.DataFrame(found)


def mock_catalogue(schema: SchemaConfig) -> tuple[str, ...]:
    """The mock's own item ids by index; they are not in the consortium's catalogue."""
    return tuple(f"mock-item-{number:04d}" for number in range(1, schema.mock.items + 1))
