"""Parquet and SQL: the same rows from each, nothing written, nothing said of values, URLs and passwords."""

from __future__ import annotations

import datetime
import decimal
import sqlite3
import uuid
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from source_files import ALL, ROWS, SCHEMA, SECRET, SQLITE, columns, database, institution

from fedrec.config import SiteConfig
from fedrec.errors import ConfigError, DataError
from fedrec.institution import sources
from fedrec.institution.intake import take_in_folder
from fedrec.institution.store import Store


def taken_in(folder: Path) -> tuple[str, list[tuple[str, int, float]]]:
    report = take_in_folder(folder)
    store = Store.open(folder / "state")
    rows, names = store.rows(), store.user_ids()
    return report.version, [(names[u], i, r) for u, i, r in zip(rows.user, rows.item, rows.rating, strict=True)]


def from_csv(root: Path) -> tuple[str, list]:
    folder = institution(root)
    lines = "".join(",".join(map(str, row)) + "\n" for row in ROWS)
    (folder / "data" / "ratings.csv").write_text("user,item,rating,timestamp\n" + lines)
    return taken_in(folder)


def from_parquet(root: Path) -> tuple[str, list]:
    folder = institution(root, 'data = "data/ratings.parquet"\n')
    extra = {"nested": [[1], [], None]}  # a column that is not asked for may be anything
    parquet.write_table(pa.table(columns() | extra), folder / "data" / "ratings.parquet", row_group_size=2)
    return taken_in(folder)


def from_sqlite(root: Path) -> tuple[str, list]:
    folder = institution(root, SQLITE.format(f"note, {ALL}"))
    database(folder / "data" / "shop.db")
    return taken_in(folder)


def test_csv_parquet_and_sqlite_give_the_same_version_of_the_same_rows(tmp_path):
    found = [make(tmp_path / make.__name__) for make in (from_csv, from_parquet, from_sqlite)]
    assert found[0][1] == [("u", 1, 3.0), ("v", 0, 5.0), ("v", 1, 1.0)]
    assert found[0] == found[1] == found[2]


def test_parquet_dates_dictionaries_and_whole_ids_are_read(tmp_path):
    iso = SCHEMA + '[time]\nunit = "iso"\nzone = "Europe/Berlin"\n'
    folder = institution(tmp_path, 'data = "data/r.parquet"\n', iso)
    table = pa.table({
        "user": pa.array([7, 7, 12], pa.int64()), "item": pa.array(["a", "b", "a"]).dictionary_encode(),
        "rating": pa.array([1, 2, None], pa.decimal128(4, 1)),
        "timestamp": pa.array([datetime.datetime(2024, 7, 15, 12), None, datetime.datetime(2024, 1, 1)]),
    })  # fmt: skip
    parquet.write_table(table, folder / "data" / "r.parquet")
    (folder / "schema.toml").write_text("max_rejected = 1.0\n" + iso)
    report = take_in_folder(folder)
    assert (report.rows_kept, report.rejected["rating"], report.rejected["time"]) == (1, 1, 1)
    assert report.first_time == "2024-07-15T10:00:00Z"
    assert report.quality["missing"] == {"user": 0, "item": 0, "rating": 1 / 3, "timestamp": 1 / 3}
    assert Store.open(folder / "state").user_ids() == ["7"]


NESTED = {
    "list": pa.array([[SECRET]]),
    "struct": pa.array([{"a": SECRET}]),
    "binary": pa.array([SECRET.encode()]),
    "map": pa.array([[("a", SECRET)]], pa.map_(pa.string(), pa.string())),
}


@pytest.mark.parametrize("kind", NESTED)
def test_a_nested_or_binary_parquet_column_is_refused(tmp_path, kind):
    parquet.write_table(pa.table({"user": NESTED[kind], "item": ["a"]}), tmp_path / "r.parquet")
    with pytest.raises(DataError, match=f"user is nested or binary \\({kind}") as caught:
        sources.read_file(tmp_path / "r.parquet", ["user", "item"])
    assert SECRET not in str(caught.value)


def test_other_parquet_files_are_refused_in_one_line(tmp_path):
    bad = tmp_path / "bad.parquet"
    for data in (b"", b"PAR1", b"user,item\nu,a\n", b"PAR1" + b"\0" * 50 + b"PAR1"):
        bad.write_bytes(data)
        with pytest.raises(DataError, match=r"bad\.parquet: is no Parquet file"):
            sources.read_file(bad, ["user"])
    with pytest.raises(DataError, match="there is no such file"):
        sources.read_file(tmp_path / "none.parquet", ["user"])
    parquet.write_table(pa.table({"user": pa.array([], pa.string())}), bad)
    with pytest.raises(DataError, match="no rows"):
        sources.read_file(bad, ["user"])
    with pytest.raises(DataError, match="expected the columns user, item; found user"):
        sources.read_file(bad, ["user", "item"])


def test_a_small_parquet_file_of_very_many_rows_is_not_unpacked(tmp_path, monkeypatch):
    parquet.write_table(pa.table({"user": pa.nulls(1_000_000, pa.int8())}), tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 10_000
    assert sources.read_file(tmp_path / "bomb.parquet", ["user"]).num_rows == 1_000_000  # the control
    monkeypatch.setattr(sources, "MOST_ROWS", 999_999)
    with pytest.raises(DataError, match="more than 999999 rows"):
        sources.read_file(tmp_path / "bomb.parquet", ["user"])


# SQL


def test_mixed_types_of_sqlite_are_read_as_text_and_kept_apart_or_together_by_their_text(tmp_path):
    folder = institution(tmp_path, SQLITE.format(ALL))
    mixed = [(1, "a", 3, 10), ("1", "b", 3.0, 11), (1.0, "a", 4, 12), (2**62, "a", 1, 1), ("é", "b", "5", "9")]
    database(folder / "data" / "shop.db", mixed)
    report = take_in_folder(folder)
    assert Store.open(folder / "state").user_ids() == ["1", str(2**62), "é"]
    assert (report.rows_kept, report.duplicates, report.conflicts) == (4, 1, 1)


@pytest.mark.parametrize("at_once", [1, 2, 50_000])
def test_pieces_whose_types_differ_are_one_column(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(sources, "AT_ONCE", at_once)
    folder = institution(tmp_path, SQLITE.format(ALL), SCHEMA.replace("title", "max_rejected = 1.0\ntitle"))
    database(folder / "data" / "shop.db", [(7, "a", 1, 1), ("x", "a", 1.5, 2), (None, "a", 1, 3), (8, "b", None, 4)])
    report = take_in_folder(folder)
    assert Store.open(folder / "state").user_ids() == ["7", "x"]
    assert (report.rejected["user"], report.rejected["rating"]) == (1, 1)


def test_values_of_a_driver_become_text_as_a_file_would_write_them():
    moment = datetime.datetime(2024, 7, 15, 12, tzinfo=datetime.UTC)
    mixed = [decimal.Decimal("7.0"), decimal.Decimal("0.5"), True, moment, moment.date(), uuid.UUID(int=5), None]
    assert sources._array(mixed, "k").to_pylist() == [
        "7", "0.5", "1", "2024-07-15T12:00:00+00:00", "2024-07-15", "00000000-0000-0000-0000-000000000005", None,
    ]  # fmt: skip
    assert sources._array([decimal.Decimal("NaN"), float("inf"), 10**30], "k").to_pylist()[2] == "1" + "0" * 30
    assert sources._array([None, None], "k").type == pa.string()
    with pytest.raises(DataError, match=r"neither text, numbers nor times \(bytes\)"):
        sources._array([SECRET.encode()], "k")


NOT_ONE_SELECT = [
    "DELETE FROM ratings",
    "SELECT 1; DELETE FROM ratings",
    "-- SELECT\nDELETE FROM ratings",
    "/* */ SELECT 1",
    "SELECTED",
    "PRAGMA query_only = OFF",
    "ATTACH 'x.db' AS x",
    "COPY ratings TO PROGRAM 'sh'",
    "BEGIN",
    "",
    ";",
]


@pytest.mark.parametrize("query", NOT_ONE_SELECT)
def test_a_query_that_is_not_one_select_is_refused_when_the_settings_are_read(tmp_path, query):
    folder = institution(tmp_path, f"[source]\nurl = \"sqlite:///data/shop.db\"\nquery = '''{query}'''\n")
    with pytest.raises(ConfigError, match=r"source\.query: must be"):
        SiteConfig.load(folder / "site.toml")


def test_a_closing_semicolon_and_with_are_fine(tmp_path):
    for number, query in enumerate(
        (f"select {ALL} from ratings;", f"WITH r AS (SELECT * FROM ratings) SELECT {ALL} FROM r")
    ):
        folder = institution(tmp_path / str(number), SQLITE.replace("SELECT {} FROM ratings", query))
        database(folder / "data" / "shop.db")
        assert take_in_folder(folder).rows_kept == 3


WRITES = [
    "WITH x AS (SELECT 1) DELETE FROM ratings RETURNING user, item, rating, timestamp",
    "WITH x AS (SELECT 1) INSERT INTO ratings SELECT 1, 'a', 3, 4, 5 RETURNING user, item, rating, timestamp",
    "WITH x AS (SELECT 1) UPDATE ratings SET rating = 1 RETURNING user, item, rating, timestamp",
]


@pytest.mark.parametrize("query", WRITES)
@pytest.mark.parametrize("wall", ["both", "read-only file", "authoriser", "none"])
def test_sqlite_refuses_a_write_behind_either_wall_and_the_control_writes(tmp_path, monkeypatch, query, wall):
    """The form of the query is no wall: these begin with WITH. Without both walls the same query changes the file."""
    folder = institution(tmp_path, SQLITE.replace("SELECT {} FROM ratings", query))
    database(folder / "data" / "shop.db")
    before = (folder / "data" / "shop.db").read_bytes()
    real = sqlite3.connect

    class Open(sqlite3.Connection):
        def execute(self, text, *more):
            return super().execute("SELECT 1" if text.startswith("PRAGMA query_only") else text, *more)

    if wall in ("authoriser", "none"):
        monkeypatch.setattr(
            sources.sqlite3, "connect", lambda name, **_: real(name.replace("mode=ro", "mode=rw"), uri=True, factory=Open, isolation_level=None)
        )  # fmt: skip
    if wall in ("read-only file", "none"):
        monkeypatch.setattr(sources, "_may_read", lambda *_: sqlite3.SQLITE_OK)
    if wall == "none":
        take_in_folder(folder)
        assert (folder / "data" / "shop.db").read_bytes() != before
        return
    with pytest.raises(DataError, match="the query writes, and a source is only read"):
        take_in_folder(folder)
    assert (folder / "data" / "shop.db").read_bytes() == before


def test_a_query_reads_no_other_database_and_no_extension(tmp_path):
    folder = institution(tmp_path, SQLITE.replace("SELECT {} FROM ratings", "SELECT load_extension('x') AS user"))
    database(folder / "data" / "shop.db")
    with pytest.raises(DataError, match="the query fails"):
        take_in_folder(folder)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (f"SELECT '{SECRET}' AS user, 1 AS nope FROM ratings", "expected the columns user, item, .*found user, nope"),
        (f'SELECT {ALL} FROM "{SECRET}"', r"the query fails \(SQLITE_ERROR\)"),
        (f"SELECT {ALL} FROM ratings WHERE user = '{SECRET}'", "gives no rows"),
        (f"SELECT {ALL}, user FROM ratings", "has a column more than once"),
        (f"SELECT x'00' AS user, item, rating, timestamp FROM ratings WHERE '{SECRET}' <> ''", "neither text, numbers"),
    ],
)
def test_a_query_that_fails_says_so_without_its_text(tmp_path, query, says):
    folder = institution(tmp_path, SQLITE.replace('"SELECT {} FROM ratings"', f"'''{query}'''"))
    database(folder / "data" / "shop.db")
    with pytest.raises(DataError, match=says) as caught:
        take_in_folder(folder)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not (folder / "state" / "store").exists()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///data/none.db", "there is no such database file"),
        ("sqlite:///../outside.db", "outside the institution's folder"),
        ("sqlite://", "needs the path of a file"),
        ("sqlite:///:memory:", "needs the path of a file"),
        ("mysql://localhost/x", "must begin with sqlite:// or postgresql://"),
        (f"{SECRET}", "none that SQLAlchemy reads"),
        ("", "FEDREC_TEST_URL is not set"),
    ],
)
def test_a_wrong_url_from_the_environment_is_refused_without_being_shown(tmp_path, monkeypatch, url, says):
    site = f'[source]\nurl_env = "FEDREC_TEST_URL"\nquery = "SELECT {ALL} FROM ratings"\n'
    folder = institution(tmp_path, site)
    database(tmp_path / "outside.db")
    monkeypatch.setenv("FEDREC_TEST_URL", url)
    with pytest.raises(DataError, match=says) as caught:
        take_in_folder(folder)
    assert SECRET not in str(caught.value)
