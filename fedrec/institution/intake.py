"""From an institution's own source to indexed interactions.

    sources.read    file or query -> Arrow tables with the schema's columns
    index_columns   table -> Interactions over the consortium's catalogue
    take_in_folder  both, with counts and a report on quality, into the site's store

Errors and reports speak of columns and counts, never of a row's value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from fedrec.config import ConsortiumConfig, SchemaConfig, SiteConfig
from fedrec.core.interactions import Interactions
from fedrec.core.params import Array
from fedrec.errors import DataError, FedrecError
from fedrec.exchange.wire import decode
from fedrec.institution import features, quality, shared_items, sources, store
from fedrec.institution.columns import gaps
from fedrec.institution.forgotten import Forgotten
from fedrec.institution.index import Filled, Indexed, Rules, index_columns, index_frame
from fedrec.institution.published import Published
from fedrec.institution.quality import moment
from fedrec.institution.sources import Tables
from fedrec.institution.store import Store

__all__ = ["Indexed", "IntakeReport", "index_frame", "read_source", "take_in", "take_in_folder"]


@dataclass(frozen=True, slots=True)
class IntakeReport:
    """What one intake counted, and how good the data is. Stays inside the institution; holds no id."""

    version: str
    previous: str | None  # the version in use before this one
    rows_in: int
    rows_kept: int
    duplicates: int  # rows of a user and item that another row stands for
    conflicts: int  # duplicates whose rating is another
    rejected: dict[str, int]
    filtered: dict[str, int]  # rows that nothing is wrong with and that the schema's filters leave out
    users: int
    items: int  # of the catalogue, touched at least once
    items_in_catalogue: int
    catalogue: str  # SHA-256 of its ids, 16 hex digits
    density: float  # kept rows / (users x catalogue)
    first_time: str | None  # RFC 3339
    last_time: str | None
    features: dict[str, dict[str, int]]  # by "user.NAME" or "item.NAME": known, not_allowed
    quality: dict[str, Any]  # as quality.measure

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return asdict(self)

    def text(self) -> str:
        """The report for a person."""
        return report_text(self.as_dict())


def report_text(report: Mapping[str, Any]) -> str:
    """A report, as JSON holds it, for a person."""
    rejected, filtered = report["rejected"], report["filtered"]
    reasons = f" ({_by_reason(rejected)})" if any(rejected.values()) else ""
    left_out = f", left out {_by_reason(filtered)}" if any(filtered.values()) else ""
    span = f"{report['first_time']} to {report['last_time']}" if report["first_time"] else "no timestamps"
    known = ", ".join(f"{name} {count['known']}" for name, count in report["features"].items())
    return (
        f"data version {report['version']}: {report['rows_kept']} of {report['rows_in']} rows kept\n"
        f"  rejected {sum(rejected.values())}{reasons}, duplicates {report['duplicates']}{left_out}\n"
        f"  {report['users']} users, {report['items']} of {report['items_in_catalogue']} items, "
        f"density {report['density']:.2%}\n"
        f"  {span}\n" + (f"  features known: {known}\n" if known else "") + quality.text(report)
    )


def read_source(path: Path, schema: SchemaConfig) -> pd.DataFrame:
    """The schema's columns of a CSV, TSV or Parquet file; every cell of the first two as text.

    Raises:
        DataError: as `sources.read_file`; the message names columns and never a value.
    """
    frame: pd.DataFrame = sources.read_file(path, schema.row_columns).to_pandas(use_threads=False)
    return frame


def take_in(source: Path, schema: SchemaConfig, catalogue: Sequence[str], state: Path) -> IntakeReport:
    """Take in one file that has every column of the schema; see `take_in_tables`."""
    wanted = list(dict.fromkeys([*schema.row_columns, *schema.features.user]))
    rows = sources.read_file(source, wanted)
    return take_in_tables(Tables(source.name, rows, rows if schema.features.user else None), schema, catalogue, state)


def take_in_folder(folder: Path) -> IntakeReport:
    """Take in the data of the institution in `folder`, as its site.toml and schema.toml state.

    Raises:
        DataError: as `take_in_tables` and `sources.read`.
        ConfigError, WrongInput: a TOML file or the catalogue is wrong.
    """
    site, schema = SiteConfig.load(folder / "site.toml"), SchemaConfig.load(folder / "schema.toml")
    consortium = ConsortiumConfig.load(site.consortium_path)
    catalogue = consortium.item_ids()
    shared = None if site.item_ids is None else shared_items.read(folder / site.item_ids)
    tables = sources.read(site, schema, consortium, shared)
    return take_in_tables(tables, schema, catalogue, folder / "state", shared)


def take_in_tables(
    tables: Tables,
    schema: SchemaConfig,
    catalogue: Sequence[str],
    state: Path,
    shared: Mapping[str, str] | None = None,
) -> IntakeReport:
    """Keep what the schema allows, and make it the current version of the store.

    Args:
        shared: catalogue id by own item id, where they differ.

    Raises:
        DataError: too large a share of the rows is rejected, or none is left; the store then stays as it was.
    """
    total = tables.rows.num_rows
    done = index_columns(
        {name: tables.rows[name] for name in tables.rows.column_names}, catalogue, _rules(schema, state, shared)
    )
    rows, lost = done.rows, sum(done.rejected.values())
    if lost > schema.max_rejected * total:
        allowed = f"max_rejected allows {schema.max_rejected:.2%}"
        why = _by_reason(done.rejected)
        raise DataError(f"{tables.name}: {lost} of {total} rows are rejected ({why}), and {allowed}")
    if not len(rows):
        raise DataError(f"{tables.name}: no row is left ({_by_reason(done.rejected | done.filtered)})")
    kept, known = _features(tables, schema, done, catalogue)
    version = store.content_version(rows, done.user_ids, catalogue, kept)
    places = hashlib.sha256("\n".join(catalogue).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    previous, drift = _drift(state, version, rows, done.user_ids, places)
    report = IntakeReport(
        version=version,
        previous=previous,
        rows_in=total,
        rows_kept=len(rows),
        duplicates=done.duplicates,
        conflicts=done.conflicts,
        rejected=done.rejected,
        filtered=done.filtered,
        users=rows.n_users,
        items=len(np.unique(rows.item)),
        items_in_catalogue=rows.n_items,
        catalogue=places,
        density=len(rows) / (rows.n_users * rows.n_items),
        first_time=None if rows.time is None else moment(int(rows.time.min())),
        last_time=None if rows.time is None else moment(int(rows.time.max())),
        features=known,
        quality=quality.measure(
            rows,
            rows_in=total,
            rejected=lost,
            conflicts=done.conflicts,
            missing={name: gaps(tables.rows[name]) for name in schema.row_columns},
            items=kept.get("items"),
            popularity=_popularity(state),
            drift=drift,
        ),
    )
    store.save(state, version, rows, done.user_ids, report.as_dict(), kept)
    return report


def _rules(schema: SchemaConfig, state: Path, shared: Mapping[str, str] | None) -> Rules:
    columns, scale = schema.columns, schema.rating
    return Rules(
        user=columns.user,
        item=columns.item,
        rating=columns.rating,
        time=columns.time,
        scale=None if scale is None else (scale.min, scale.max),
        unit=schema.time.unit,
        zone=schema.time.zone,
        on_duplicate=schema.on_duplicate,
        positive_from=None if scale is None else scale.positive_from,
        users_min=schema.filter.users_min,
        items_min=schema.filter.items_min,
        values=schema.values,
        forgotten=Forgotten(state),
        shared=shared,
    )


def _features(
    tables: Tables, schema: SchemaConfig, done: Filled, catalogue: Sequence[str]
) -> tuple[dict[str, pa.Table], dict[str, dict[str, int]]]:
    kept: dict[str, pa.Table] = {}
    known: dict[str, dict[str, int]] = {}
    asked = (
        ("user", tables.users, schema.columns.user, done.user_ids, schema.features.user),
        ("item", tables.items, schema.columns.item, catalogue, schema.features.item),
    )
    for of, table, key, names, wanted in asked:
        if table is not None and wanted:
            columns = {name: table[name] for name in table.column_names}
            kept[f"{of}s"], counts = features.collect(columns, key, names, wanted)
            known |= {f"{of}.{name}": count for name, count in counts.items()}
    return kept, known


def _drift(
    state: Path, version: str, rows: Interactions, user_ids: Sequence[str], catalogue: str
) -> tuple[str | None, dict[str, Any] | None]:
    """The version in use before this one, and what changed since; the same content again keeps what was found."""
    try:
        before = Store.open(state)
        known = before.report()
        if before.version == version:
            return known["previous"], known["quality"]["drift"]
        return before.version, quality.drift_of(rows, user_ids, before, known.get("catalogue") == catalogue)
    except (DataError, OSError, ValueError, KeyError):  # nothing yet, or damaged: nothing to compare with
        return None, None


def _popularity(state: Path) -> Array | None:
    """The consortium's counts by item, where the model that is published here carries them."""
    try:
        folder = state / "models" / Published(state).current()["folder"]
        return decode((folder / "shared.safetensors").read_bytes()).get("counts")
    except (FedrecError, OSError, ValueError):
        return None


def _by_reason(rejected: Mapping[str, int]) -> str:
    return ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in rejected.items() if count)
