"""What schema.toml may ask for beyond columns and a scale: times with zones, allowed values, filters, features."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_files import CATALOGUE, schema

from fedrec.errors import DataError
from fedrec.institution.columns import gaps, ids, numbers, seconds
from fedrec.institution.index import Rules, index_columns
from fedrec.institution.intake import take_in
from fedrec.institution.mock import make_mock
from fedrec.institution.store import Store


def table(text: str) -> dict[str, pa.ChunkedArray]:
    """Columns of text, as a file gives them; the first line names them."""
    head, *lines = [line.split(",") for line in text.split()]
    return {
        name: pa.chunked_array([pa.array(list(cells))])
        for name, cells in zip(head, zip(*lines, strict=True), strict=True)
    }


# columns

KINDS = [
    pd.Series(["7", " 7 ", None, "x"], dtype=object),
    pa.chunked_array([pa.array(["7", " 7 "]), pa.array([None, "x"])]),
    pa.chunked_array([pa.array(["7", " 7 ", None, "x"], pa.large_string())]),
    pa.chunked_array([pa.array(["7", " 7 ", None, "x"]).dictionary_encode()]),
]


@pytest.mark.parametrize("column", KINDS, ids=["pandas", "two chunks", "large", "dictionary"])
def test_a_column_reads_the_same_whichever_way_it_came(column):
    assert ids(column)[1] == ["7", "x"]
    assert ids(column)[0].tolist() == [0, 0, -1, 1]
    assert np.isnan(numbers(column)).tolist() == [False, False, True, True]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float32(), pa.decimal128(5, 1), pa.bool_()])
def test_numbers_of_every_flat_kind_are_read(kind):
    column = pa.chunked_array([pa.array([True, False, None] if kind == pa.bool_() else [1, 0, None], kind)])
    assert np.array_equal(numbers(column), [1, 0, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("column", "empty"),
    [
        (pa.chunked_array([pa.array(["", "  ", "x", None])]), 3),
        (pa.chunked_array([pa.array([1.0, None, float("nan")])]), 2),
        (pa.chunked_array([pa.array([1, None])]), 1),
        (pd.Series(["", " ", "x", None], dtype=object), 3),
        (pa.chunked_array([], pa.string()), 0),
    ],
)
def test_empty_cells_are_counted(column, empty):
    assert gaps(column) == empty


@given(st.lists(st.one_of(st.none(), st.text(max_size=3), st.integers(0, 9).map(str)), max_size=20))
def test_arrow_and_pandas_give_the_same_ids(values):
    values = [value for value in values if value is None or not any(0xD800 <= ord(c) < 0xE000 for c in value)]
    plain, arrow = ids(pd.Series(values, dtype=object)), ids(pa.chunked_array([pa.array(values, pa.string())]))
    assert (plain[0].tolist(), plain[1]) == (arrow[0].tolist(), arrow[1])


# times

BERLIN = [
    ("2024-01-15T12:00:00", "2024-01-15T11:00:00"),  # winter: UTC+1
    ("2024-07-15 12:00:00", "2024-07-15T10:00:00"),  # summer: UTC+2
    ("2024-07-15T12:00:00Z", "2024-07-15T12:00:00"),  # an offset of its own wins
    ("2024-07-15 12:00:00+05:30", "2024-07-15T06:30:00"),
    ("2024-07-15T12:00:00.999", "2024-07-15T10:00:00"),
    ("2024-07-15", "2024-07-14T22:00:00"),
    ("2024-10-27T02:30:00", "2024-10-27T01:30:00"),  # comes twice; the second one, winter time, is taken
    ("2024-03-31T02:30:00", "2024-03-31T01:00:00"),  # is skipped; 03:00 summer time is the first moment after
]


@pytest.mark.parametrize(("text", "utc"), BERLIN)
def test_a_local_time_is_read_in_its_zone(text, utc):
    expected = int(datetime.datetime.fromisoformat(utc).replace(tzinfo=datetime.UTC).timestamp())
    for column in (pd.Series([text]), pa.chunked_array([pa.array([text])])):
        assert seconds(column, "iso", "Europe/Berlin").tolist() == [expected]


@pytest.mark.parametrize(
    "text", ["", "yesterday", "1.1.2024", "2024-13-01", "1969-12-31", "2100-01-01", "9999-12-31", "881250949", None]
)
def test_what_is_no_time_is_minus_one(text):
    assert seconds(pa.chunked_array([pa.array([text, "2024-01-01"], pa.string())]), "iso").tolist() == [-1, 1704067200]


def test_dates_that_parquet_and_sql_hold_as_dates_are_read_as_iso_and_refused_as_numbers():
    when = datetime.datetime(2024, 7, 15, 12)
    local = pa.chunked_array([pa.array([when, None])])
    aware = pa.chunked_array([pa.array([when.replace(tzinfo=datetime.UTC), None])])
    day = pa.chunked_array([pa.array([when.date(), None])])
    assert seconds(local, "iso", "Europe/Berlin").tolist() == [1721037600, -1]
    assert seconds(aware, "iso", "Europe/Berlin").tolist() == [1721044800, -1]
    assert seconds(day, "iso").tolist() == [1721001600, -1]
    for column in (local, aware, day, local.to_pandas()):
        with pytest.raises(DataError, match='unit = "iso"'):
            seconds(column, "s")


# values, filters, conflicts


def test_a_row_with_a_value_that_is_not_allowed_is_rejected_and_counted():
    columns = table("user,item,shop,kind u,a,web,x u,b,web,y u,c,,x u,zz,street,x v,a,street,x")
    rules = Rules(rating=None, time=None, values={"shop": ["web", "street"], "kind": ["x"]})
    done = index_columns(columns, CATALOGUE, rules)
    assert done.rejected == {"user": 0, "item": 0, "unknown_item": 1, "rating": 0, "time": 0, "value": 2}
    assert (done.user_ids, done.rows.item.tolist()) == (["u", "v"], [0, 0])


@pytest.mark.parametrize(("rule", "conflicts"), [("last", 2), ("first", 1), ("max", 2)])
def test_conflicts_are_the_duplicates_that_say_something_else(rule, conflicts):
    # u, a: 4 4 2 by time; "last" 2 stands against two, "first" 4 against one; u, b: equal; "max": 4 and c's 5 stand
    columns = table("user,item,rating,timestamp u,a,4,1 u,a,4,2 u,a,2,3 u,b,3,1 u,b,3,2")
    if rule == "max":
        columns = table("user,item,rating,timestamp u,a,4,1 u,a,4,2 u,a,2,3 u,c,5,1 u,c,3,2")
    done = index_columns(columns, CATALOGUE, Rules(on_duplicate=rule))
    assert (done.duplicates, done.conflicts) == (3, conflicts)


def test_only_what_was_liked_last_is_kept_when_a_threshold_is_set():
    columns = table("user,item,rating,timestamp u,a,5,1 u,a,2,2 u,b,4,3 u,c,3.5,4 v,a,5,1")
    done = index_columns(columns, CATALOGUE, Rules(positive_from=3.5))
    assert done.filtered == {"not_positive": 1}  # u, a ended with 2
    assert [(done.user_ids[u], CATALOGUE[i]) for u, i in zip(done.rows.user, done.rows.item, strict=True)] == [
        ("u", "b"), ("u", "c"), ("v", "a"),
    ]  # fmt: skip


def test_users_and_items_with_too_few_rows_go_until_none_is_left_to_go():
    # d has one row; without it w has one; without w c has one, and then x has one: only u, v on a, b stay
    columns = table("user,item u,a u,b v,a v,b w,d w,c x,c x,a")
    done = index_columns(columns, CATALOGUE, Rules(rating=None, time=None, users_min=2, items_min=2))
    assert (done.user_ids, done.rows.item.tolist(), done.filtered) == (["u", "v"], [0, 1, 0, 1], {"few_rows": 4})


pairs = st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcd")), max_size=24, unique=True)


@given(pairs, st.integers(1, 3), st.integers(1, 3))
def test_the_core_is_what_a_plain_loop_leaves(rows, users_min, items_min):
    columns = {
        "user": pa.chunked_array([pa.array([u for u, _ in rows], pa.string())]),
        "item": pa.chunked_array([pa.array([i for _, i in rows], pa.string())]),
    }
    rules = Rules(rating=None, time=None, users_min=users_min, items_min=items_min)
    done = index_columns(columns, CATALOGUE, rules)
    left, before = set(rows), None
    while left != before:
        before = left
        left = {
            (u, i)
            for u, i in left
            if sum(o == u for o, _ in left) >= users_min and sum(o == i for _, o in left) >= items_min
        }
    found = zip(done.rows.user, done.rows.item, strict=True)
    assert {(done.user_ids[u], CATALOGUE[i]) for u, i in found} == left
    assert done.filtered.get("few_rows", 0) == len(rows) - len(left)


def test_a_filter_that_leaves_nothing_is_said(tmp_path):
    (tmp_path / "r.csv").write_text("user,item,rating,timestamp\nu,a,3,1\n")
    with pytest.raises(DataError, match=r"no row is left \(few rows 1\)"):
        take_in(tmp_path / "r.csv", schema(filter={"users_min": 2}), CATALOGUE, tmp_path / "state")


def test_rows_that_a_filter_leaves_out_do_not_count_as_rejected(tmp_path):
    lines = "".join(f"u,{item},{rating},1\n" for item, rating in zip("abcd", (1, 2, 4, 5), strict=True))
    (tmp_path / "r.csv").write_text("user,item,rating,timestamp\n" + lines)
    strict = schema(max_rejected=0.0, rating={"min": 1.0, "max": 5.0, "positive_from": 4.0})
    report = take_in(tmp_path / "r.csv", strict, CATALOGUE, tmp_path / "state")
    assert (report.rows_kept, report.filtered) == (2, {"not_positive": 2})
    assert "left out not positive 2" in report.text()


# features


def test_features_are_kept_by_index_and_what_is_not_allowed_is_unknown(tmp_path):
    asked = {
        "user": {
            "age": {"type": "number", "min": 0.0, "max": 120.0},
            "town": {"type": "text", "values": ["Ulm", "Bonn"]},
            "tags": {"type": "tags"},
        }
    }
    (tmp_path / "r.csv").write_text(
        "user,item,rating,timestamp,age,town,tags\n"
        "v,a,3,1,,Ulm,x|y\n"
        "v,b,3,2,31,Bonn,\n"  # the first allowed value of each counts: 31, Ulm, x and y
        "u,a,3,1,999,Rome, | \n"  # out of range, not allowed, no tag
        "u,zz,3,1,7,Bonn,z\n"  # a rejected row still tells about its user
    )
    report = take_in(tmp_path / "r.csv", schema(features=asked), CATALOGUE, tmp_path / "state")
    store = Store.open(tmp_path / "state")
    assert store.features("users").to_pydict() == {
        "age": [7.0, 31.0], "town": ["Bonn", "Ulm"], "tags": [["z"], ["x", "y"]],
    }  # fmt: skip
    assert store.features("items") is None
    assert report.features == {
        "user.age": {"known": 2, "not_allowed": 1},
        "user.town": {"known": 2, "not_allowed": 1},
        "user.tags": {"known": 2, "not_allowed": 1},
    }
    without = take_in(tmp_path / "r.csv", schema(), CATALOGUE, tmp_path / "state")
    assert without.version != report.version  # the features are part of the content


@pytest.mark.parametrize("value", ["x", "nan", "inf", "1_0", "1e999"])
def test_a_feature_that_is_no_finite_number_is_unknown(tmp_path, value):
    (tmp_path / "r.csv").write_text(f"user,item,rating,timestamp,age\nu,a,3,1,{value}\n")
    asked = schema(features={"user": {"age": {"type": "number"}}})
    report = take_in(tmp_path / "r.csv", asked, CATALOGUE, tmp_path / "state")
    assert report.features == {"user.age": {"known": 0, "not_allowed": 1}}


def test_a_mock_has_the_columns_of_everything_that_the_rows_have_and_passes_the_intake(tmp_path):
    own = schema(
        time={"unit": "iso", "zone": "Asia/Tokyo"},
        values={"shop": ["web", "street"]},
        features={"user": {"age": {"type": "number", "min": 18.0}, "town": {"type": "text", "values": ["Ulm"]}}},
    )
    mock = make_mock(own)
    assert list(mock.columns) == ["user", "item", "rating", "timestamp", "shop", "age", "town"]
    assert mock.groupby("user")["age"].nunique().max() == 1
    assert mock["age"].between(18, 118).all()
    mock["item"] = "a"
    mock.to_csv(tmp_path / "mock.csv", index=False)
    report = take_in(tmp_path / "mock.csv", own, CATALOGUE, tmp_path / "state")
    assert (sum(report.rejected.values()), report.features["user.age"]["known"]) == (0, 50)
    assert report.first_time.startswith("20")
