"""A mock with the schema's columns and scale, and nothing of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedrec.config import Feature, SchemaConfig

_START = 1_577_836_800  # 2020-01-01 UTC
_YEAR = 365 * 86_400  # seconds
_ISO = "%Y-%m-%dT%H:%M:%SZ"


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
        written = {"s": times, "ms": times * 1000, "iso": pd.to_datetime(times, unit="s", utc=True).strftime(_ISO)}
        found[columns.time] = written[schema.time.unit]
    for name, values in schema.values.items():
        found.setdefault(name, np.array(values)[draw.integers(0, len(values), size.rows)])
    for name, feature in schema.features.user.items():
        found.setdefault(name, _feature(feature, size.users, draw)[pairs // size.items])
    return pd.DataFrame(found)


def _feature(feature: Feature, count: int, draw: np.random.Generator) -> NDArray[Any]:
    """One made-up value for each of `count` users. Item features are public, in the catalogue, and not mocked."""
    if feature.type == "number":
        low = feature.min if feature.min is not None else 0.0 if feature.max is None else min(0.0, feature.max)
        high = feature.max if feature.max is not None else low + 100
        return np.asarray(np.floor(draw.uniform(low, high, count)).clip(low, high))
    values = np.array(feature.values or [f"mock-{number}" for number in range(1, 6)])
    return np.asarray(values[draw.integers(0, len(values), count)])


def mock_catalogue(schema: SchemaConfig) -> tuple[str, ...]:
    """The mock's own item ids by index; they are not in the consortium's catalogue."""
    return tuple(f"mock-item-{number:04d}" for number in range(1, schema.mock.items + 1))
