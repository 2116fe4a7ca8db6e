"""Any ratings file: what is guessed, what is left out, and what is refused."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedrec.datasets import read_ratings
from fedrec.errors import WrongInput

ROWS = [("u1", "i1", "5", "100"), ("u1", "i2", "3", "200"), ("u2", "i1", "4", "150")]


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def lines(mark: str, *first: str) -> str:
    return "\n".join([*first, *(mark.join(row) for row in ROWS)]) + "\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", lines(",", "userId,movieId,rating,timestamp")),
        ("b.inter", lines("\t", "user_id:token\titem_id:token\trating:float\ttimestamp:float")),
        ("c.dat", lines("::")),
        ("d.data", lines("\t")),
        ("e.csv", "\ufeff" + lines(";", "Reviewer-ID;ASIN;Overall;UnixReviewTime")),
        ("f.csv", "timestamp,rating,item,user\n" + "\n".join(",".join(reversed(row)) for row in ROWS)),
    ],
)
def test_usual_files_are_read_without_being_told_how(tmp_path, name, text):
    found = read_ratings(written(tmp_path, name, text))
    assert found.frame["user"].tolist() == ["u1", "u1", "u2"]
    assert found.frame["item"].tolist() == ["i1", "i2", "i1"]
    assert found.frame["rating"].tolist() == [5.0, 3.0, 4.0]
    assert found.frame["timestamp"].tolist() == [100, 200, 150]
    assert not any(found.left_out.values())


def test_columns_may_be_named_or_numbered_and_what_was_taken_is_said(tmp_path):
    file = written(tmp_path, "a.csv", "who,when,what\nann,2020-01-01,x\nbob,2020-01-02T00:00:00Z,y\n")
    with pytest.raises(WrongInput, match="--user-column and --item-column; it has who, when, what"):
        read_ratings(file)
    found = read_ratings(file, {"user": "who", "item": "3", "timestamp": "when"})
    assert found.text().startswith("2 rows; columns: user = who, item = what, timestamp = when")
    assert found.frame["timestamp"].tolist() == [1577836800, 1577923200]
    with pytest.raises(WrongInput, match="has no column whom"):
        read_ratings(file, {"user": "whom", "item": "3"})


def test_parquet_and_milliseconds(tmp_path):
    frame = pd.DataFrame({"user": [1, 2], "item": [7, 8], "time": [1_600_000_000_000, 1_600_000_001_000]})
    frame.to_parquet(tmp_path / "a.parquet")
    found = read_ratings(tmp_path / "a.parquet")
    assert found.frame["timestamp"].tolist() == [1_600_000_000, 1_600_000_001]
    assert found.frame["user"].tolist() == ["1", "2"]
    assert "rating" not in found.columns


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    text = "user,item,rating,timestamp\n" + "a,b,1,10\n" * 10
    text += "a,b,1,10,extra\n" + " ,b,1,10\n" + "a,\x00,1,10\n" + "a,b,five,10\n" + "a,b,inf,10\n" + "a,b,1,-5\n"
    found = read_ratings(written(tmp_path, "a.csv", text))
    assert len(found.frame) == 10
    assert found.left_out == {
        "damaged lines": 1,
        "rows without a usable user": 1,
        "rows without a usable item": 1,
        "rows without a number as rating": 2,
        "rows without a usable time": 1,
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"user,item\n", "0 of 0 rows"),
        (b"user,item,rating\na,b,x\nc,d,y\n", "0 of 2 rows can be used"),
        (gzip.compress(b"user,item\na,b\n", mtime=0), "column"),
        (bytes(range(256)) * 4, "column|read|rows"),
    ],
)
def test_a_file_that_is_no_table_of_ratings_is_refused(tmp_path, content, says):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(WrongInput, match=says):
        read_ratings(tmp_path / "a.csv")


def test_a_missing_file_and_a_wrong_parquet_are_refused(tmp_path):
    with pytest.raises(WrongInput, match="no such file"):
        read_ratings(tmp_path / "none.csv")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(WrongInput, match="Parquet"):
        read_ratings(tmp_path / "a.parquet")


def test_a_group_comes_from_the_file_or_from_the_users_beside_it(tmp_path):
    file = written(tmp_path, "ratings.csv", "user,item,shop\n1,a,x\n2,a,y\n")
    written(tmp_path, "users.csv", "user,age\n1,young\n2,old\n")
    assert read_ratings(file, group="shop").frame["group"].tolist() == ["x", "y"]
    assert read_ratings(file, group="age").frame["group"].tolist() == ["young", "old"]
    with pytest.raises(WrongInput, match="column:town"):
        read_ratings(file, group="town")


def test_play_counts_up_to_a_hundred_thousand_stay_what_they_are(tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 100_001, 50)
    text = "userID\tartistID\tweight\n" + "".join(f"{n % 7}\t{n}\t{count}\n" for n, count in enumerate(counts))
    found = read_ratings(written(tmp_path, "user_artists.dat", text))
    assert found.columns == {"user": "userID", "item": "artistID", "rating": "weight"}
    assert found.frame["rating"].tolist() == counts.tolist()
