"""A column of a table, whichever way it came: its distinct values, its numbers, its times, its gaps.

A column is a pandas Series (fedrec.simulation) or an Arrow array (the site's intake); both give the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from fedrec.core.ids import clean_id
from fedrec.errors import DataError

Column: TypeAlias = Any  # pd.Series or pa.ChunkedArray; pyarrow has no types
Unit = Literal["s", "ms", "iso"]
LATEST = 4_102_444_800  # 2100-01-01 UTC, in seconds; later means milliseconds taken for seconds


def distinct(column: Column) -> tuple[NDArray[np.int64], list[object]]:
    """Each row's place in the list of distinct values, -1 for a gap of an Arrow column, and that list."""
    if not isinstance(column, pa.ChunkedArray):
        first: dict[object, int] = {}  # not pandas.factorize, which ends a text at NUL and so makes two ids one
        codes = np.fromiter((first.setdefault(value, len(first)) for value in column.tolist()), np.int64, len(column))
        return codes, list(first)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded = column.dictionary_encode().unify_dictionaries()
    if not encoded.num_chunks:
        return np.zeros(0, dtype=np.int64), []
    parts = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    return np.concatenate(parts).astype(np.int64), encoded.chunk(0).dictionary.to_pylist()


def ids(column: Column) -> tuple[NDArray[np.int64], list[str]]:
    """Cleaned ids as places in their sorted list; -1 where there is no usable id."""
    codes, values = distinct(column)
    cleaned = [clean_id(value) for value in values]
    names = sorted({name for name in cleaned if name is not None})
    place_of: dict[str | None, int] = {name: place for place, name in enumerate(names)}
    table = np.array([place_of.get(name, -1) for name in cleaned] + [-1], dtype=np.int64)  # [-1] is a gap
    return table[codes], names


def numbers(column: Column) -> NDArray[np.float64]:
    """The column as floats, NaN where it holds no number."""
    if not isinstance(column, pa.ChunkedArray):
        plain: Any = pd.to_numeric(column, errors="coerce")
        return np.asarray(plain.to_numpy(dtype=np.float64, na_value=np.nan))
    if pa.types.is_temporal(column.type):
        return np.full(len(column), np.nan)
    try:
        found = column.cast(pa.float64(), safe=False)
    except pa.ArrowException:  # a text that is no number: value by value
        codes, values = distinct(column)
        read: Any = pd.to_numeric(pd.Series([*values, None], dtype=object), errors="coerce")
        return np.asarray(read.to_numpy(np.float64)[codes])
    return np.asarray(found.to_numpy(), dtype=np.float64)


def seconds(column: Column, unit: Unit, zone: str = "UTC") -> NDArray[np.int64]:
    """Whole seconds since 1970 UTC; -1 where the value is none, before 1970 or after 2099.

    Args:
        zone: of times without an offset, for unit "iso". An hour that comes twice in autumn is taken as the
            second one, and one that is skipped in spring as the first moment after it.

    Raises:
        DataError: the column holds dates, and the unit is one of numbers.
    """
    if unit == "iso":
        return _within(_moments(column, zone))
    dated = isinstance(column, pa.ChunkedArray) and pa.types.is_temporal(column.type)
    if dated or (isinstance(column, pd.Series) and pd.api.types.is_datetime64_any_dtype(column)):
        raise DataError('the time column holds dates, not numbers: set [time] unit = "iso"')
    value = numbers(column)
    return _within(np.floor(value / 1000 if unit == "ms" else value))


def gaps(column: Column) -> int:
    """How many cells are empty, blank or no value."""
    if isinstance(column, pa.ChunkedArray) and _is_text(column.type):
        blank = pc.sum(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0)).as_py()
        return int(column.null_count + (blank or 0))
    if isinstance(column, pa.ChunkedArray):
        nan = pc.sum(pc.is_nan(column)).as_py() if pa.types.is_floating(column.type) else 0
        return int(column.null_count + (nan or 0))
    return int(column.isna().sum() + column.map(lambda value: isinstance(value, str) and not value.strip()).sum())


def allowed(column: Column, values: Sequence[str]) -> NDArray[np.bool_]:
    """Where the column holds one of these texts, blanks around it not counted."""
    codes, found = distinct(column)
    table = np.array([clean_id(value) in values for value in found] + [False])
    return np.asarray(table[codes])


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _within(value: NDArray[np.float64]) -> NDArray[np.int64]:
    inside = (value >= 0) & (value < LATEST)
    return np.where(inside, np.where(inside, value, 0), -1).astype(np.int64)


def _moments(column: Column, zone: str) -> NDArray[np.float64]:
    """Seconds since 1970, NaN where there is no time."""
    codes, values = distinct(column)
    known: Any = pd.Series([value if isinstance(value, str) else _text(value) for value in values], dtype=object)
    offset = known.str.contains(r"[Zz]$|[T ].*[+-]\d\d(?::?\d\d)?$", regex=True, na=False).to_numpy(dtype=bool)
    utc = pd.Series(pd.NaT, index=known.index, dtype="datetime64[ns, UTC]")
    utc[offset] = pd.to_datetime(known[offset], errors="coerce", format="ISO8601", utc=True)
    local = pd.to_datetime(known[~offset], errors="coerce", format="ISO8601", utc=True).dt.tz_localize(None)
    standard = np.zeros(len(local), dtype=bool)
    utc[~offset] = local.dt.tz_localize(zone, ambiguous=standard, nonexistent="shift_forward").dt.tz_convert("UTC")
    since: Any = (utc - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(np.float64)
    return np.asarray(np.floor(np.append(since, np.nan)[codes]))


def _text(value: object) -> str | None:
    """A date or time as ISO 8601, so that every kind of source is read by one rule."""
    return str(value.isoformat()) if hasattr(value, "isoformat") else None
