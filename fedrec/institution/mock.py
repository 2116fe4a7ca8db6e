"""A mock with the schema's columns and scale, and nothing of the data but what its owner had noised for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedrec.config import Feature, MockSize, RatingScale, SchemaConfig
from fedrec.core.params import Array

_START = 1_577_836_800  # 2020-01-01 UTC
_YEAR = 365 * 86_400  # seconds
_ISO = "%Y-%m-%dT%H:%M:%SZ"


SIZES = 2 ** np.arange(14)  # least rows of a user of each size, in a noised marginal


def make_mock(schema: SchemaConfig, marginals: Mapping[str, Array] | None = None) -> pd.DataFrame:
    """Made-up rows in the shape of `schema`; the data cannot be reached from here. Same schema, same bytes.

    Every pair of user and item is drawn uniformly, so no popularity, taste or order is in it; a model
    learns nothing from a mock.

    Args:
        marginals: as mock_noise.py drew them: pairs and ratings are then as uneven as there, and still nothing
            says which item or user it is.
    """
    size, columns, known = schema.mock, schema.columns, marginals or {}
    draw = np.random.default_rng(size.seed)
    pairs = draw.choice(size.users * size.items, size=size.rows, replace=False, p=_uneven(size, known, draw))
    found: dict[str, object] = {
        columns.user: [f"mock-user-{number:04d}" for number in pairs // size.items + 1],
        columns.item: [f"mock-item-{number:04d}" for number in pairs % size.items + 1],
    }
    if columns.rating is not None and schema.rating is not None:
        scale = schema.rating
        steps = steps_of(scale)
        share = _shares(known["ratings"]) if "ratings" in known else None
        at = draw.integers(0, steps, size.rows) if share is None else draw.choice(steps, size.rows, p=share)
        ratings = scale.min + scale.step * at
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


def steps_of(scale: RatingScale) -> int:
    """How many ratings a scale has."""
    return int((scale.max - scale.min) / scale.step + 1e-9) + 1


def _uneven(size: MockSize, known: Mapping[str, Array], draw: np.random.Generator) -> NDArray[Any] | None:
    """The chance of each pair of user and item; None where all are alike."""
    if not known:
        return None
    falling = np.sort(_shares(known["items"]))[::-1]
    items = np.interp(np.linspace(0, len(falling) - 1, size.items), np.arange(len(falling)), falling)
    users = SIZES[draw.choice(len(SIZES), size.users, p=_shares(known["sizes"]))] * draw.uniform(1, 2, size.users)
    return _shares(np.outer(users, items).ravel())


def _shares(values: NDArray[Any]) -> NDArray[Any]:
    """Noised counts as chances: none below zero, and none impossible."""
    above = np.maximum(values, 0.0)
    above = above + max(float(above.max()), 1.0) * 1e-6
    found: NDArray[Any] = above / above.sum()
    return found


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
