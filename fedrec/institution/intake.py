"""From an institution's own file to indexed interactions.

    read_source   CSV or TSV -> DataFrame of text, with the schema's columns (table.py)
    index_frame   DataFrame  -> Interactions over the consortium's catalogue (index.py)
    take_in       both, with counts, into the site's store

Errors and reports speak of columns and counts, never of a row's value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedrec.config import ConsortiumConfig, SchemaConfig, SiteConfig
from fedrec.errors import DataError
from fedrec.institution import store
from fedrec.institution.index import Indexed, index_frame
from fedrec.institution.table import read_table

__all__ = ["Indexed", "IntakeReport", "index_frame", "read_source", "take_in", "take_in_folder"]


@dataclass(frozen=True, slots=True)
class IntakeReport:
    """What one intake counted. Stays inside the institution; holds no id and no rating."""

    version: str
    rows_in: int
    rows_kept: int
    duplicates: int  # rows of a user and item that another row stands for
    rejected: dict[str, int]
    users: int
    items: int  # of the catalogue, touched at least once
    items_in_catalogue: int
    density: float  # kept rows / (users x catalogue)
    first_time: str | None  # RFC 3339
    last_time: str | None

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return asdict(self)

    def text(self) -> str:
        """The report for a person."""
        reasons = f" ({_by_reason(self.rejected)})" if any(self.rejected.values()) else ""
        span = f"{self.first_time} to {self.last_time}" if self.first_time else "no timestamps"
        return (
            f"data version {self.version}: {self.rows_kept} of {self.rows_in} rows kept\n"
            f"  rejected {sum(self.rejected.values())}{reasons}, duplicates {self.duplicates}\n"
            f"  {self.users} users, {self.items} of {self.items_in_catalogue} items, density {self.density:.2%}\n"
            f"  {span}"
        )


def read_source(path: Path, schema: SchemaConfig) -> pd.DataFrame:
    """The schema's columns of a CSV or TSV file, every cell as text.

    Raises:
        DataError: as `read_table`; the message names columns and never a value.
    """
    return read_table(path, [name for name in schema.columns.model_dump().values() if name is not None])


def take_in(source: Path, schema: SchemaConfig, catalogue: Sequence[str], state: Path) -> IntakeReport:
    """Read one file, keep what the schema allows, and make it the current version of the store.

    Raises:
        DataError: the file cannot be read, too large a share of its rows is rejected, or none is left;
            the store then stays as it was.
    """
    frame = read_source(source, schema)
    columns, scale = schema.columns, schema.rating
    rows, user_ids, rejected = index_frame(
        frame,
        catalogue,
        user=columns.user,
        item=columns.item,
        rating=columns.rating,
        time=columns.time,
        scale=None if scale is None else (scale.min, scale.max),
        unit=schema.time.unit,
        on_duplicate=schema.on_duplicate,
    )
    lost = sum(rejected.values())
    if lost > schema.max_rejected * len(frame):
        allowed = f"max_rejected allows {schema.max_rejected:.2%}"
        raise DataError(
            f"{source.name}: {lost} of {len(frame)} rows are rejected ({_by_reason(rejected)}), and {allowed}"
        )
    if not len(rows):
        raise DataError(f"{source.name}: no row is left ({_by_reason(rejected)})")
    report = IntakeReport(
        version=store.content_version(rows, user_ids, catalogue),
        rows_in=len(frame),
        rows_kept=len(rows),
        duplicates=len(frame) - lost - len(rows),
        rejected=rejected,
        users=rows.n_users,
        items=len(np.unique(rows.item)),
        items_in_catalogue=rows.n_items,
        density=len(rows) / (rows.n_users * rows.n_items),
        first_time=None if rows.time is None else _moment(rows.time.min()),
        last_time=None if rows.time is None else _moment(rows.time.max()),
    )
    store.save(state, report.version, rows, user_ids, report.as_dict())
    return report


def take_in_folder(folder: Path) -> IntakeReport:
    """Take in the data of the institution in `folder`, as its site.toml and schema.toml state.

    Raises:
        DataError: as `take_in`, or the data file lies outside the folder (a symbolic link).
        ConfigError, WrongInput: a TOML file or the catalogue is wrong.
    """
    site, schema = SiteConfig.load(folder / "site.toml"), SchemaConfig.load(folder / "schema.toml")
    if not site.data_path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{site.data_path.name}: the file lies outside the institution's folder")
    catalogue = ConsortiumConfig.load(site.consortium_path).item_ids()
    return take_in(site.data_path, schema, catalogue, folder / "state")


def _moment(seconds: np.int64) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _by_reason(rejected: dict[str, int]) -> str:
    return ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in rejected.items() if count)
