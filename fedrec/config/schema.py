"""schema.toml: what an institution's rows look like, and the size of its mock."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from fedrec.config.base import Table, Text, TomlFile


class Columns(Table):
    """The source's own column names; a column that is not named here is not read."""

    user: Text
    item: Text
    rating: Text | None = None
    time: Text | None = None

    @field_validator("item", "rating", "time")
    @classmethod
    def _each_its_own(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value in info.data.values():
            raise ValueError("names a column that another key names already")
        return value


class RatingScale(Table):
    """The lowest and highest rating (or play count) and the distance between two neighbours."""

    min: float
    max: float
    step: float = Field(default=1.0, gt=0)

    @field_validator("max")
    @classmethod
    def _above_min(cls, value: float, info: ValidationInfo) -> float:
        if value <= info.data.get("min", -float("inf")):
            raise ValueError("must be more than min")
        return value


class TimeUnit(Table):
    unit: Literal["s", "ms"] = "s"  # since 1970-01-01 UTC


class MockSize(Table):
    users: int = Field(default=50, ge=1, le=9999)
    items: int = Field(default=40, ge=1, le=9999)
    rows: int = Field(default=400, ge=1, le=1_000_000)
    seed: int = Field(default=0, ge=0)

    @field_validator("rows")
    @classmethod
    def _fits(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("users", 9999) * info.data.get("items", 9999):
            raise ValueError("must be at most users x items: the mock has no pair twice")
        return value


_NO_SCALE = "needs min and max, since columns.rating is set"
_NO_COLUMN = "has no meaning without columns.rating"


class SchemaConfig(TomlFile):
    """What an institution's rows look like. It is public, and holds no value from the data."""

    title: Text
    on_duplicate: Literal["last", "first", "max"] = "last"  # which row of the same user and item stays
    max_rejected: float = Field(default=0.01, ge=0, le=1)  # share of rows; above it the intake fails
    columns: Columns
    rating: RatingScale | None = Field(default=None, validate_default=True)
    time: TimeUnit = TimeUnit()
    mock: MockSize = MockSize()

    @field_validator("rating")
    @classmethod
    def _scale_with_column(cls, value: RatingScale | None, info: ValidationInfo) -> RatingScale | None:
        columns = info.data.get("columns")
        if columns is not None and (columns.rating is None) != (value is None):
            raise ValueError(_NO_SCALE if value is None else _NO_COLUMN)
        return value
