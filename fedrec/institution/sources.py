"""Where an institution's rows come from: a file (CSV, TSV, Parquet) or one read-only query (SQLite, PostgreSQL).

Each gives an Arrow table with exactly the columns asked for. No message holds a value, a URL or a password.
"""

from __future__ import annotations

import datetime
import decimal
import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import parquet

from fedrec.config import ConsortiumConfig, SchemaConfig, SiteConfig
from fedrec.errors import DataError
from fedrec.institution.shared_items import renamed
from fedrec.institution.table import read_arrow

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

MOST_ROWS = 200_000_000  # a Parquet file of a kilobyte may say that it has 10**18
CONNECT_S = 10
AT_ONCE = 50_000  # rows fetched at once
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True)
class Tables:
    """What one intake reads. `users` and `items` are None where the schema keeps no such features."""

    name: str  # of the source, for messages
    rows: pa.Table
    users: pa.Table | None = None
    items: pa.Table | None = None


def read(
    site: SiteConfig, schema: SchemaConfig, consortium: ConsortiumConfig, shared: Mapping[str, str] | None = None
) -> Tables:
    """Every table that the schema needs, from where site.toml says; own tables of items with the shared ids.

    Raises:
        DataError: a file outside the institution's folder, or that cannot be read; a query that fails or writes.
    """
    user, item = schema.columns.user, schema.columns.item
    of_user, of_item = list(schema.features.user), list(schema.features.item)
    apart = site.user_data is not None or (site.source is not None and site.source.user_query is not None)
    wanted = schema.row_columns if apart else list(dict.fromkeys([*schema.row_columns, *of_user]))
    rows = users = items = None
    if site.source is not None:
        name = "source"
        with _connected(site) as line:
            rows = _query(line, site.source.query, wanted, "source.query")
            if of_user and site.source.user_query is not None:
                users = _query(line, site.source.user_query, [user, *of_user], "source.user_query")
            if of_item and site.source.item_query is not None:
                items = _query(line, site.source.item_query, [item, *of_item], "source.item_query")
    else:
        name = site.data_path.name
        rows = read_file(_inside(site.data_path, site.folder), wanted)
    if of_user and users is None:
        users = rows
        if site.user_data is not None:
            users = read_file(_inside(site.folder / site.user_data, site.folder), [user, *of_user])
    if of_item and items is None:
        if site.item_data is not None:
            items = read_file(_inside(site.folder / site.item_data, site.folder), [item, *of_item])
        else:  # the catalogue's first column is always called item
            items = read_file(consortium.catalogue_path, ["item", *of_item]).rename_columns([item, *of_item])
    own = site.item_data is not None if site.source is None else site.source.item_query is not None
    if items is not None and own and shared is not None:
        items = renamed(items, item, shared)
    return Tables(name, rows, users, items)


def read_file(path: Path, wanted: Sequence[str]) -> pa.Table:
    """The wanted columns of a CSV, TSV or Parquet file, by its suffix.

    Raises:
        DataError: as `read_arrow`; or a Parquet column that holds lists or other nested values.
    """
    return _parquet(path, wanted) if path.suffix.lower() == ".parquet" else read_arrow(path, wanted)


def _inside(path: Path, folder: Path) -> Path:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{path.name}: the file lies outside the institution's folder")
    return path


def _parquet(path: Path, wanted: Sequence[str]) -> pa.Table:
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(path.name, file.schema_arrow.names, wanted)
            for name in wanted:
                if not _flat(file.schema_arrow.field(name).type):
                    kind = file.schema_arrow.field(name).type
                    raise DataError(f"{path.name}: the column {name} is nested or binary ({_short(kind)})")
            if file.metadata.num_rows > MOST_ROWS:
                raise DataError(f"{path.name}: says that it has more than {MOST_ROWS} rows")
            if not file.metadata.num_rows:
                raise DataError(f"{path.name}: has columns but no rows")
            table = file.read(list(wanted), use_threads=False).select(list(wanted))
        kinds = [(field.name, pa.string() if pa.types.is_null(field.type) else field.type) for field in table.schema]
        return table.cast(pa.schema(kinds))
    except FileNotFoundError:
        raise DataError(f"{path.name}: there is no such file") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path.name}: is no Parquet file that can be read ({type(error).__name__})") from None


def _flat(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = ("is_string", "is_large_string", "is_integer", "is_floating", "is_boolean", "is_decimal")
    return any(getattr(pa.types, test)(kind) for test in (*tests, "is_timestamp", "is_date", "is_null"))


def _short(kind: pa.DataType) -> str:
    return str(kind).partition("<")[0]


def _check_columns(name: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    shown = ", ".join(found) if all(one.isidentifier() for one in found) else f"{len(found)} columns"
    if not set(wanted) <= set(found):
        raise DataError(f"{name}: expected the columns {', '.join(wanted)}; found {shown}")
    if any(list(found).count(one) > 1 for one in wanted):
        raise DataError(f"{name}: has a column more than once; found {shown}")


# databases


@contextmanager
def _connected(site: SiteConfig) -> Iterator[Connection]:
    """A connection that the database itself keeps from writing; rolled back and closed in the end."""
    import sqlalchemy

    assert site.source is not None
    text = site.source.url
    if text is None:
        assert site.source.url_env is not None
        text = os.environ.get(site.source.url_env)
        if not text:
            raise DataError(f"source: the environment variable {site.source.url_env} is not set")
    try:
        url = sqlalchemy.make_url(text)
        engine = _sqlite(url, site.folder) if url.get_backend_name() == "sqlite" else _postgresql(url)
    except (sqlalchemy.exc.ArgumentError, ImportError):
        raise DataError("source: the URL is none that SQLAlchemy reads") from None
    try:
        with engine.connect() as line:
            driver = line.connection.driver_connection
            if isinstance(driver, sqlite3.Connection):  # now, since SQLAlchemy asks a pragma when it connects
                driver.set_authorizer(_may_read)
            yield line
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise DataError(_said(error)) from None
    finally:
        engine.dispose()


def _sqlite(url: Any, folder: Path) -> Engine:
    import sqlalchemy

    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise DataError("source: sqlite:/// needs the path of a file")
    path = Path(url.database)
    path = path if path.is_absolute() else _inside(folder / path, folder)
    if not path.is_file():
        raise DataError("source: there is no such database file")

    def connect() -> sqlite3.Connection:
        line = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        line.execute("PRAGMA query_only = ON")
        return line

    return sqlalchemy.create_engine("sqlite://", creator=connect, poolclass=sqlalchemy.pool.NullPool)


def _may_read(action: int, *_: object) -> int:
    """SQLite asks this for each thing that a statement does."""
    reads = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in (*reads, sqlite3.SQLITE_TRANSACTION) else sqlite3.SQLITE_DENY


def _postgresql(url: Any) -> Engine:
    import sqlalchemy

    if url.get_backend_name() != "postgresql":
        raise DataError("source: the URL must begin with sqlite:// or postgresql://")
    return sqlalchemy.create_engine(
        url,
        poolclass=sqlalchemy.pool.NullPool,
        connect_args={"connect_timeout": CONNECT_S},
        execution_options={"postgresql_readonly": True},  # every transaction begins as READ ONLY
    )


def _query(line: Connection, query: str, wanted: Sequence[str], key: str) -> pa.Table:
    """The wanted columns of a query's answer, fetched in pieces."""
    streamed = line.execution_options(stream_results=True, max_row_buffer=AT_ONCE, no_parameters=True)
    answer = streamed.exec_driver_sql(query)
    if not answer.returns_rows:
        raise DataError(f"{key}: gives no rows back")
    found = list(answer.keys())
    _check_columns(key, found, wanted)
    places = [found.index(name) for name in wanted]
    parts: list[pa.Table] = []
    total = 0
    while block := answer.fetchmany(AT_ONCE):
        total += len(block)
        if total > MOST_ROWS:
            raise DataError(f"{key}: gives more than {MOST_ROWS} rows")
        columns = list(zip(*block, strict=True))
        parts.append(pa.table({name: _array(columns[place], key) for name, place in zip(wanted, places, strict=True)}))
    if not parts:
        raise DataError(f"{key}: gives no rows")
    return _together(parts)


def _together(parts: Sequence[pa.Table]) -> pa.Table:
    """The parts as one table; a column whose parts differ in type becomes text."""
    columns = {}
    for name in parts[0].column_names:
        chunks = [part[name].chunk(0) for part in parts]
        known = {chunk.type for chunk in chunks if chunk.null_count < len(chunk)}
        kind = known.pop() if len(known) == 1 else pa.string()
        columns[name] = pa.chunked_array([_as(chunk, kind) for chunk in chunks], kind)
    return pa.table(columns)


def _as(chunk: pa.Array, kind: pa.DataType) -> pa.Array:
    if chunk.type == kind:
        return chunk
    if chunk.null_count == len(chunk):
        return pa.nulls(len(chunk), kind)
    return pa.array([None if value is None else _text(value) for value in chunk.to_pylist()], kind)


def _array(values: Sequence[Any], key: str) -> pa.Array:
    """One column of a query: numbers or texts where all are of one kind, otherwise texts.

    Raises:
        DataError: a value is neither text, number nor time.
    """
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return pa.nulls(len(values), pa.string())
    try:
        if kinds <= {int} or kinds <= {float} or kinds <= {str}:
            return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeError):  # beyond 64 bits; a lone surrogate
        pass
    for kind in kinds:
        if not issubclass(kind, (*_PLAIN, decimal.Decimal, datetime.date, uuid.UUID)):
            raise DataError(f"{key}: a column holds neither text, numbers nor times ({kind.__name__})")
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    """One value as a file would write it; a whole number without a point, a time as ISO 8601."""
    if isinstance(value, datetime.date):  # a datetime is one too
        return value.isoformat()
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, decimal.Decimal) and not value.is_finite():
        value = float(value)
    if isinstance(value, float | decimal.Decimal):
        whole = -(10**18) < value < 10**18 and value == int(value)
        return str(int(value)) if whole else str(value)
    text = str(value)
    return text if text.isprintable() or not any(0xD800 <= ord(c) < 0xE000 for c in text) else None


def _said(error: Exception) -> str:
    """What a failing query may say: the database's own class of error, never its text."""
    orig = getattr(error, "orig", None)
    kind = type(orig).__name__ if orig is not None else type(error).__name__
    code = getattr(orig, "sqlite_errorname", "")
    if kind == "ReadOnlySqlTransaction" or code in ("SQLITE_READONLY", "SQLITE_AUTH"):
        return "source: the query writes, and a source is only read"
    if kind == "OperationalError" and not code:
        return "source: the database does not answer, or refuses the login"
    return f"source: the query fails ({code or kind})"
