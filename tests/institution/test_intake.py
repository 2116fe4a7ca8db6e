"""From a file to interactions: order, duplicates, what is rejected, and what is never said."""

from __future__ import annotations

import hashlib
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_files import CATALOGUE, SECRET, schema

from fedrec.config import SchemaConfig
from fedrec.core.ids import clean_id
from fedrec.errors import DataError
from fedrec.institution.intake import index_frame, read_source, take_in, take_in_folder
from fedrec.institution.store import Store


def written(tmp_path: Path, text: str | bytes, name: str = "ratings.csv") -> Path:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path / name


def rows_of(text: str, **options) -> list[tuple]:
    """(user id, item id, rating, time) of each row that `index_frame` keeps, in its order."""
    lines = [line.split(",") for line in text.split()]
    frame = pd.DataFrame(lines, columns=["user", "item", "rating", "timestamp"])
    rows, ids, _ = index_frame(frame, CATALOGUE, **options)
    time = [None] * len(rows) if rows.time is None else rows.time.tolist()
    return [
        (ids[u], CATALOGUE[i], r, t)
        for u, i, r, t in zip(rows.user, rows.item, rows.rating.tolist(), time, strict=True)
    ]


def test_rows_come_by_user_oldest_first_and_the_earlier_line_of_a_tie_is_the_later_row():
    text = "v,a,1,50  u,b,2,20  u,c,3,10  u,d,4,20"
    # u: c at 10; b and d tie at 20, and b, which stands earlier in the file, counts as the latest
    assert rows_of(text) == [("u", "c", 3, 10), ("u", "d", 4, 20), ("u", "b", 2, 20), ("v", "a", 1, 50)]


def test_without_timestamps_the_order_of_the_file_is_the_order_of_time():
    text = "v,a,1,0  u,b,2,0  u,c,3,0"
    assert rows_of(text, time=None) == [("u", "b", 2, None), ("u", "c", 3, None), ("v", "a", 1, None)]


@pytest.mark.parametrize(("rule", "kept"), [("last", (2, 30)), ("first", (4, 10)), ("max", (4, 20))])
def test_one_row_stays_for_a_user_and_item_by_the_rule(rule, kept):
    # oldest first: rating 4 at 10, 4 at 20, 2 at 30; "max" takes the later of the two fours
    text = "u,a,4,20  u,a,2,30  u,a,4,10  u,b,5,1"
    assert rows_of(text, on_duplicate=rule)[1:] == [("u", "a", *kept)]


def test_duplicates_without_timestamps_go_by_their_place_in_the_file():
    text = "u,a,4,0  u,a,2,0"
    assert rows_of(text, time=None, on_duplicate="last") == [("u", "a", 2, None)]
    assert rows_of(text, time=None, on_duplicate="first") == [("u", "a", 4, None)]


def test_two_spellings_of_one_user_are_one_user():
    """e + combining acute (NFD) and é (NFC) look the same and are the same person; blanks around do not count."""
    frame = pd.DataFrame({"user": ["Ren\u00e9", "Rene\u0301", " Ren\u00e9 ", "Rene"], "item": list("abca")})
    rows, ids, _ = index_frame(frame, CATALOGUE, rating=None, time=None)
    assert ids == ["Rene", "Ren\u00e9"]
    assert rows.user.tolist() == [0, 1, 1, 1]


def test_ids_that_differ_stay_different():
    """Leading zeros, 2^63, Cyrillic а and Latin a, right-to-left marks, emoji, quotes, formulas."""
    names = [
        "7",
        "007",
        "9223372036854775808",
        "\u0430",
        "a",
        "\u202eabc",
        "abc",
        "🎬",
        "o'x;--",
        '"',
        "=1+1",
        "NA",
        "null",
    ]
    rows, ids, rejected = index_frame(pd.DataFrame({"user": names, "item": "a"}), CATALOGUE, rating=None, time=None)
    assert (len(rows), rows.n_users, ids) == (13, 13, sorted(names))
    assert sum(rejected.values()) == 0


def test_ids_of_a_frame_may_be_numbers():
    frame = pd.DataFrame({"user": [1, 2.0, "3", None, float("inf")], "item": ["a"] * 5})
    _, ids, rejected = index_frame(frame, CATALOGUE, rating=None, time=None)
    assert (ids, rejected["user"]) == (["1", "2", "3"], 2)
    gap = pd.DataFrame({"user": [10, 11, np.nan], "item": ["a"] * 3})  # pandas makes floats of these
    assert index_frame(gap, CATALOGUE, rating=None, time=None).user_ids == ["10", "11"]


@pytest.mark.parametrize("bad", [None, "", "  ", "a\nb", "a\x00b", "x" * 10_000, float("nan"), "\ud800"])
def test_what_cannot_be_an_id_is_none(bad):
    assert clean_id(bad) is None


@given(st.text())
def test_cleaning_an_id_twice_is_cleaning_it_once(text):
    once = clean_id(text)
    assert once is None or (clean_id(once) == once and unicodedata.is_normalized("NFC", once))


def test_each_rejected_row_is_counted_by_its_first_reason():
    text = """ok,a,3,10  ,a,3,10  u,,3,10  u,zz,3,10  u,b,nan,10  u,b,inf,10  u,b,6,10  u,b,0.5,10  u,b,x,10
              u,c,3,x  u,c,3,-1  u,c,3,4102444800  u,c,3,inf  ,zz,9,x"""
    frame = pd.DataFrame([line.split(",") for line in text.split()], columns=["user", "item", "rating", "timestamp"])
    rows, ids, rejected = index_frame(frame, CATALOGUE, scale=(1.0, 5.0))
    assert rejected == {"user": 2, "item": 1, "unknown_item": 1, "rating": 5, "time": 4}
    assert (len(rows), ids) == (1, ["ok"])


def test_times_in_1970_are_kept_and_milliseconds_are_divided():
    assert rows_of("u,a,1,0")[0][3] == 0
    assert rows_of("u,a,1,1700000000999", unit="ms")[0][3] == 1_700_000_000
    assert rows_of("u,a,1,1700000000999") == []  # milliseconds that are declared as seconds


def test_minus_zero_is_zero_and_large_play_counts_stay_exact():
    frame = pd.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "rating": ["-0.0", "100000"]})
    rows = index_frame(frame, CATALOGUE, time=None).rows
    assert not np.signbit(rows.rating).any()
    assert rows.rating.tolist() == [0.0, 100_000.0]


def test_types_and_shapes_are_those_of_interactions():
    rows = index_frame(pd.DataFrame({"user": ["u"], "item": ["b"], "rating": [1], "timestamp": [2]}), CATALOGUE).rows
    assert [a.dtype for a in (rows.user, rows.item, rows.rating, rows.time)] == ["int32", "int32", "float32", "int64"]
    assert (rows.n_users, rows.n_items, rows.item.tolist()) == (1, 4, [1])
    empty = index_frame(pd.DataFrame({"user": [], "item": []}), CATALOGUE, rating=None, time=None)
    assert (len(empty.rows), empty.rows.n_users, empty.user_ids) == (0, 0, [])


lines = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abcdz"), st.integers(0, 6), st.integers(0, 3)), max_size=25
)


@given(lines, st.sampled_from(["last", "first", "max"]))
def test_index_frame_agrees_with_a_plain_loop(table, rule):
    frame = pd.DataFrame(table, columns=["user", "item", "rating", "timestamp"]).astype(str)
    rows, ids, rejected = index_frame(frame, CATALOGUE, scale=(1.0, 5.0), on_duplicate=rule)
    good = [(u, t, -n, i, r) for n, (u, i, r, t) in enumerate(table) if i != "z" and 1 <= r <= 5]
    best: dict[tuple[str, str], tuple] = {}
    for row in sorted(good):
        old = best.get((row[0], row[3]))
        if old is None or rule == "last" or (rule == "max" and row[4] >= old[4]):
            best[(row[0], row[3])] = row
    expected = [(u, i, r, t) for u, t, _, i, r in sorted(best.values())]
    found = zip(rows.user, rows.item, rows.rating, rows.time, strict=True)
    assert [(ids[u], CATALOGUE[i], r, t) for u, i, r, t in found] == expected
    assert sum(rejected.values()) == len(table) - len(good)


@pytest.mark.parametrize(
    "text",
    [
        "user,item,rating,timestamp\nu,a,3,10\n",
        "\ufeffuser,item,rating,timestamp\r\nu,a,3,10\r\n",
        "timestamp,extra,rating,item,user\n10,zz,3,a,u\n",
        'user,item,rating,timestamp\n"u","a",3,10',
    ],
    ids=["plain", "BOM and CRLF", "other order and an extra column", "quotes and no last newline"],
)
def test_the_same_rows_are_read_from_each_way_to_write_them(tmp_path, text):
    frame = read_source(written(tmp_path, text), schema())
    assert frame.to_dict("list") == {"user": ["u"], "item": ["a"], "rating": ["3"], "timestamp": ["10"]}


def test_tabs_separate_in_a_tsv_file(tmp_path):
    file = written(tmp_path, "user\titem\trating\ttimestamp\nu\ta\t3\t10\n", "ratings.tsv")
    assert read_source(file, schema()).iloc[0].tolist() == ["u", "a", "3", "10"]


def test_nothing_in_a_cell_is_guessed(tmp_path):
    text = "user,item,rating,timestamp\nNA,007,3,10\nnull,1e5,3,10\n"
    assert read_source(written(tmp_path, text), schema())["user"].tolist() == ["NA", "null"]
    assert read_source(tmp_path / "ratings.csv", schema())["item"].tolist() == ["007", "1e5"]


BAD_FILES = {
    "empty": (b"", "is empty"),
    "blank line only": (b"\n", "is empty"),
    "header only": (b"user,item,rating,timestamp\n", "has a header but no rows"),
    "renamed column": (b"member,item,rating,timestamp\nu,a,3,1\n", "expected the columns user, .*found member, item"),
    "missing column": (b"user,item,rating\nu,a,3\n", "found user, item, rating$"),
    "column twice": (b"user,user,item,rating,timestamp\nu,v,a,3,1\n", "has a column more than once"),
    "no header": (f"{SECRET},a,3,10\n".encode(), "found 4 cells that do not look like column names"),
    "semicolons": (b"user;item;rating;timestamp\nu;a;3;1\n", "1 cells that do not look like column names"),
    "not UTF-8": (b"user,item,rating,timestamp\nu\xff,a,3,1\n", "is not UTF-8 text"),
    "a cell too many": (f"user,item,rating,timestamp\nu,a,3,1\n{SECRET},a,3,1,9\n".encode(), "more or fewer cells"),
    "a cell too many in every row": (f"user,item,rating,timestamp\n{SECRET},a,3,1,9\n".encode(), "more or fewer cells"),
    "a cell too few": (f"user,item,rating,timestamp\nu,a,3,1\n{SECRET},a\n".encode(), "more or fewer cells"),
    "open quote at the start": (f'user,item,rating,timestamp\n"{SECRET},a,3,1\n'.encode(), "more or fewer cells"),
    "open quote that swallows the rest": (
        f'user,item,rating,timestamp\nu,a,3,"1\n{SECRET},a,3,1\n'.encode(),
        "a quote is not closed",
    ),
    "two open quotes": (
        f'user,item,rating,timestamp\nu,a,3,"1\n{SECRET},a,3,1\n"u,a,3,1\n'.encode(),
        "more or fewer cells|a quote is not closed",
    ),
    "an id with a newline": (f'user,item,rating,timestamp\n"{SECRET}\nx",a,3,1\n'.encode(), "a line break"),
    "a zip": (b"PK\x03\x04\x00\x00user,item\n\x00", "do not look like column names"),
}


@pytest.mark.parametrize(("data", "says"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_cannot_be_read_is_refused_without_a_value_of_it(tmp_path, data, says):
    with pytest.raises(DataError, match=says) as caught:
        read_source(written(tmp_path, data), schema())
    assert SECRET not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_wrong_suffix_a_missing_file_and_a_zip_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"suffix must be \.csv or \.tsv"):
        read_source(written(tmp_path, "user,item\n", "ratings.xlsx"), schema())
    with pytest.raises(DataError, match="there is no such file"):
        read_source(tmp_path / "none.csv", schema())
    with zipfile.ZipFile(tmp_path / "bomb.csv", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ratings.csv", b"user,item,rating,timestamp\n" + b"u,a,3,1\n" * 1_000_000)
    with pytest.raises(DataError):  # never unpacked
        read_source(tmp_path / "bomb.csv", schema())


def test_an_id_with_nul_is_a_rejected_row_and_not_another_id(tmp_path):
    file = written(tmp_path, "user,item,rating,timestamp\nw\x00x,a,3,1\nw,b,3,1\n")
    report = take_in(file, schema(), CATALOGUE, tmp_path / "state")
    assert (report.rows_in, report.rows_kept, report.rejected["user"]) == (2, 1, 1)
    assert Store.open(tmp_path / "state").user_ids() == ["w"]


def test_a_line_break_in_a_column_that_is_not_read_is_no_problem(tmp_path):
    file = written(tmp_path, 'user,note,item,rating,timestamp\nu,"two\nlines",a,3,1\n')
    assert take_in(file, schema(), CATALOGUE, tmp_path / "state").rows_kept == 1


def test_a_report_has_the_figures_that_one_counts_by_hand(tmp_path):
    text = "user,item,rating,timestamp\nu,a,3,0\nu,a,4,86400\nu,b,5,60\nv,a,1,60\nv,zz,1,60\n"
    report = take_in(written(tmp_path, text), schema(), CATALOGUE, tmp_path / "state")
    found = report.as_dict()
    assert set(found.pop("quality")) >= {"score", "parts"}  # test_quality.py
    assert (
        found
        == {
            "version": Store.open(tmp_path / "state").version,
            "previous": None,
            "rows_in": 5,
            "rows_kept": 3,  # (u, a, 4), (u, b, 5), (v, a, 1)
            "duplicates": 1,
            "conflicts": 1,
            "filtered": {},
            "features": {},
            "catalogue": hashlib.sha256(b"a\nb\nc\nd").hexdigest()[:16],
            "rejected": {"user": 0, "item": 0, "unknown_item": 1, "rating": 0, "time": 0},
            "users": 2,
            "items": 2,
            "items_in_catalogue": 4,
            "density": 0.375,  # 3 / (2 users x 4 items)
            "first_time": "1970-01-01T00:01:00Z",
            "last_time": "1970-01-02T00:00:00Z",
        }
    )
    assert "3 of 5 rows kept" in report.text()
    assert "rejected 1 (unknown item 1), duplicates 1" in report.text()


def test_too_many_rejected_rows_stop_the_intake_and_leave_the_store_as_it_was(tmp_path):
    good = "user,item,rating,timestamp\n" + "".join(f"u{n},a,3,1\n" for n in range(98))
    state = tmp_path / "state"
    two_percent = schema(max_rejected=0.02)
    report = take_in(written(tmp_path, good + "x,zz,3,1\nx,a,9,1\n"), two_percent, CATALOGUE, state)
    assert report.rows_kept == 98  # exactly 2 of 100 may go
    with pytest.raises(DataError, match=r"3 of 101 rows are rejected \(unknown item 2, rating 1\)") as caught:
        take_in(written(tmp_path, good + f"{SECRET},zz,3,1\nx,a,9,1\ny,zz,3,1\n"), two_percent, CATALOGUE, state)
    assert SECRET not in str(caught.value)
    assert Store.open(state).version == report.version


def test_a_file_of_which_no_row_is_left_is_refused(tmp_path):
    file = written(tmp_path, "user,item,rating,timestamp\nu,zz,3,1\n")
    with pytest.raises(DataError, match=r"no row is left \(unknown item 1\)"):
        take_in(file, schema(), CATALOGUE, tmp_path / "state")


@pytest.mark.parametrize("text", ["u,a,3,1\n", "u,a,3,1\nv,a,3,1\n", "u,a,3,1\nu,b,3,1\n"])
def test_one_user_or_one_item_is_enough(tmp_path, text):
    file = written(tmp_path, "user,item,rating,timestamp\n" + text)
    assert take_in(file, schema(), CATALOGUE, tmp_path / "state").rows_kept == text.count("\n")


def test_a_source_without_rating_and_time_counts_every_row_as_one(tmp_path):
    plain = SchemaConfig.model_validate({"title": "T", "columns": {"user": "who", "item": "what"}})
    take_in(written(tmp_path, "who,what,rating\nu,a,9\n"), plain, CATALOGUE, tmp_path / "state")
    rows = Store.open(tmp_path / "state").rows()
    assert (rows.rating.tolist(), rows.time) == ([1.0], None)


def institution(tmp_path: Path) -> Path:
    folder = tmp_path / "one"
    (folder / "data").mkdir(parents=True)
    (tmp_path / "items.csv").write_text("item\na\nb\n")
    (tmp_path / "consortium.toml").write_text('name="c"\ntitle="C"\n[[member]]\nname="one"\nfolder="one"\n')
    (folder / "site.toml").write_text('name="one"\ntitle="One"\nowner="o@one.example"\n')
    (folder / "schema.toml").write_text('title="T"\n[columns]\nuser="user"\nitem="item"\n')
    (folder / "data" / "ratings.csv").write_text("user,item\nu,b\n")
    return folder


def test_an_institutions_folder_is_taken_in_as_its_files_say(tmp_path):
    folder = institution(tmp_path)
    report = take_in_folder(folder)
    store = Store.open(folder / "state")
    assert (store.version, store.n_items, store.user_ids()) == (report.version, 2, ["u"])
    assert store.rows().item.tolist() == [1]


def test_a_link_out_of_the_institutions_folder_is_not_followed(tmp_path):
    folder = institution(tmp_path)
    (folder / "data" / "ratings.csv").rename(tmp_path / "outside.csv")
    (folder / "data" / "ratings.csv").symlink_to(tmp_path / "outside.csv")
    with pytest.raises(DataError, match="outside the institution's folder"):
        take_in_folder(folder)
