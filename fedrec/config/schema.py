"""schema.toml: what an institution's rows look like, and the size of its mock."""

from __future__ import annotations

import zoneinfo
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationInfo, field_validator

from fedrec.config.base import Table, Text, TomlFile

T = TypeVar("T")


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
    positive_from: float | None = None  # rows below it are left out: only what a user liked is kept

    @field_validator("max")
    @classmethod
    def _above_min(cls, value: float, info: ValidationInfo) -> float:
        if value <= info.data.get("min", -float("inf")):
            raise ValueError("must be more than min")
        return value


class TimeUnit(Table):
    """Numbers since 1970-01-01 UTC, or dates and times as ISO 8601 writes them (and as Parquet and SQL hold them)."""

    unit: Literal["s", "ms", "iso"] = "s"
    zone: Text = "UTC"  # of times that are written without an offset

    @field_validator("zone")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        if value not in zoneinfo.available_timezones():
            raise ValueError("must be a time zone such as Europe/Berlin")
        if value != "UTC" and info.data.get("unit") != "iso":
            raise ValueError('has no meaning without unit = "iso": numbers count from 1970 UTC')
        return value


class Core(Table):
    """Users and items with too few rows are left out, again and again until none is left to leave out."""

    users_min: int = Field(default=1, ge=1)  # rows of a user
    items_min: int = Field(default=1, ge=1)  # rows of an item


Values = Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]


class Feature(Table):
    """What one column says about a user or an item. A value that is not allowed counts as unknown."""

    type: Literal["number", "text", "tags"]  # tags: texts with | between them
    min: float | None = None
    max: float | None = None
    values: Values | None = None  # allowed ones; None = any

    @field_validator("min", "max")
    @classmethod
    def _of_numbers(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("type", "number") != "number":
            raise ValueError('has a meaning with type = "number" only')
        least = info.data.get("min")
        if info.field_name == "max" and value is not None and least is not None and value < least:
            raise ValueError("must be at least min")
        return value

    @field_validator("values")
    @classmethod
    def _of_texts(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if value is not None and info.data.get("type") == "number":
            raise ValueError('has no meaning with type = "number": give min and max')
        return value


class Features(Table):
    """Columns about users and items, kept beside the rows. A plan's model names those that it reads."""

    user: dict[str, Feature] = Field(default_factory=dict)
    item: dict[str, Feature] = Field(default_factory=dict)


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


def _apart(value: dict[str, T], info: ValidationInfo) -> dict[str, T]:
    columns = info.data.get("columns")
    named = set() if columns is None else set(columns.model_dump().values())
    if twice := set(value) & named:
        raise ValueError(f"{min(twice)} is a column that columns names already")
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
    filter: Core = Core()
    values: dict[str, Values] = Field(default_factory=dict)  # a row with another value in this column is rejected
    features: Features = Features()

    @field_validator("values")
    @classmethod
    def _other_columns(cls, value: dict[str, Values], info: ValidationInfo) -> dict[str, Values]:
        return _apart(value, info)

    @field_validator("features")
    @classmethod
    def _columns_of_their_own(cls, value: Features, info: ValidationInfo) -> Features:
        for named in (value.user, value.item):
            _apart(named, info)
        return value

    @property
    def row_columns(self) -> list[str]:
        """The columns that every row needs, each once."""
        named = [name for name in self.columns.model_dump().values() if name is not None]
        return list(dict.fromkeys([*named, *self.values]))

    @field_validator("rating")
    @classmethod
    def _scale_with_column(cls, value: RatingScale | None, info: ValidationInfo) -> RatingScale | None:
        columns = info.data.get("columns")
        if columns is not None and (columns.rating is None) != (value is None):
            raise ValueError(_NO_SCALE if value is None else _NO_COLUMN)
        return value
