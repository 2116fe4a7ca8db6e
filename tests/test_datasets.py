"""ML-100K to the byte, a made-up file with known structure, and dealing users out."""

from __future__ import annotations

import csv
import hashlib
import stat
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.datasets import deal, get_ml100k, split_by_user, synthetic, users_of
from fedrec.errors import Unreachable, WrongInput
from fedrec.institution.index import index_frame

RATINGS_SHA256 = "99a930993ab4ede918f884038aca70c11c9f9ab24ec223ee33cfcfb62e0598b8"
WHEEL = "recbole-1.2.1-py3-none-any.whl"


@pytest.fixture(scope="module")
def ml100k(tmp_path_factory) -> tuple[Path, Path]:
    """(folder with the three files, cache), by a real download."""
    dest, cache = tmp_path_factory.mktemp("ml"), tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDREC_CACHE", str(cache))
        get_ml100k(dest)
    return dest, cache


def read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_ml100k_has_its_known_size_and_order(ml100k):
    dest, _ = ml100k
    ratings, users, items = (read(dest / f"{name}.csv") for name in ("ratings", "users", "items"))
    assert (len(ratings), len(users), len(items)) == (100_001, 944, 1683)
    assert ratings[:2] == [["user", "item", "rating", "timestamp"], ["196", "242", "3", "881250949"]]
    assert items[0] == ["item", "title", "year", "genres"]
    assert items[1] == ["1", "Toy Story", "1995", "Animation|Children's|Comedy"]
    assert items[543] == ["543", "Misérables, Les", "1995", "Drama|Musical"]
    assert users[1] == ["1", "24", "M", "technician", "85711"]
    assert hashlib.sha256((dest / "ratings.csv").read_bytes()).hexdigest() == RATINGS_SHA256


def test_ml100k_has_the_ties_that_quality_md_counts(ml100k):
    """415 of 943 users tie on their last timestamp, and popularity alone hits 80 of 943 last films (.085)."""
    frame = pd.read_csv(ml100k[0] / "ratings.csv", dtype=str)
    rows = index_frame(frame, list(pd.read_csv(ml100k[0] / "items.csv", dtype=str)["item"])).rows
    last = np.append(np.flatnonzero(np.diff(rows.user)), len(rows) - 1)
    assert np.count_nonzero(rows.time[last] == rows.time[last - 1]) == 415
    train = np.ones(len(rows), dtype=bool)
    train[last] = train[last - 1] = False
    history = np.ones(len(rows), dtype=bool)
    history[last] = False
    count = np.asarray(rows.take(train).matrix().sum(axis=0)).ravel()
    score = np.where(rows.take(history).matrix().toarray() > 0, -1.0, count)
    own = score[np.arange(rows.n_users), rows.item[last]]
    assert np.count_nonzero((score >= own[:, None]).sum(axis=1) <= 10) == 80


def test_the_wheel_is_cached_and_a_spoilt_cache_is_fetched_again(ml100k, tmp_path, monkeypatch):
    _, cache = ml100k
    monkeypatch.setenv("FEDREC_CACHE", str(cache))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert get_ml100k(tmp_path / "a").sha256 == RATINGS_SHA256  # without network
    own = tmp_path / "cache"
    own.mkdir()
    (own / WHEEL).write_bytes((cache / WHEEL).read_bytes()[:-1])
    monkeypatch.setenv("FEDREC_CACHE", str(own))
    with pytest.raises(Unreachable, match="is there a network"):
        get_ml100k(tmp_path / "b")
    assert not (tmp_path / "b").exists()
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache))
    assert get_ml100k(tmp_path / "c").sha256 == RATINGS_SHA256


def test_without_network_the_error_is_one_that_the_demo_can_catch(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Unreachable) as caught:
        get_ml100k(tmp_path / "ml")
    assert caught.value.exit_code == 2
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_that_is_not_the_pinned_one_is_not_kept(ml100k, tmp_path, monkeypatch):
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(ml100k[1] / WHEEL) as old, zipfile.ZipFile(index / WHEEL, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))  # same content, other bytes
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    with pytest.raises(WrongInput, match="is not ML-100K as pinned"):
        get_ml100k(tmp_path / "ml")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_copy_one_has_gives_the_same_ratings(ml100k, tmp_path):
    _, cache = ml100k
    with zipfile.ZipFile(cache / WHEEL) as archive:
        inter = archive.read("recbole/dataset_example/ml-100k/ml-100k.inter")
    (tmp_path / "ml-100k.inter").write_bytes(inter)
    (tmp_path / "u.data").write_bytes(inter.split(b"\n", 1)[1].replace(b"\n", b"\r\n"))
    for number, file in enumerate((cache / WHEEL, tmp_path / "ml-100k.inter", tmp_path / "u.data")):
        found = get_ml100k(tmp_path / str(number), from_file=file)
        assert (found.sha256, found.rows, found.users, found.items) == (RATINGS_SHA256, 100_000, 943, 1682)
        assert [row[0] for row in read(tmp_path / str(number) / "items.csv")][:3] == ["item", "1", "2"]


def test_a_file_that_is_not_ml100k_is_refused(ml100k, tmp_path):
    (tmp_path / "u.data").write_bytes(b"196\t242\t3\t881250949\n")
    (tmp_path / "x.whl").write_bytes(b"no zip")
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.inter", "user_id:token\n1\t1\t1\t1\n")
    with zipfile.ZipFile(tmp_path / "bomb.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.inter", b"0" * 20_000_000)
    for name, says in [
        ("u.data", "is not ML-100K as pinned"),
        ("x.whl", "is not a recbole wheel"),
        ("other.whl", "is not ML-100K as pinned"),
        ("bomb.whl", "is larger than ML-100K"),
        ("none.inter", "there is no such file"),
    ]:
        with pytest.raises(WrongInput, match=says):
            get_ml100k(tmp_path / "out", from_file=tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_synthetic_data_is_the_same_bytes_for_the_same_seed(tmp_path):
    first = synthetic(tmp_path / "a", users=60, items=100, seed=3)
    assert synthetic(tmp_path / "b", users=60, items=100, seed=3) == first
    for name in ("ratings.csv", "users.csv", "items.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert synthetic(tmp_path / "c", users=60, items=100, seed=4).sha256 != first.sha256
    assert (first.users, first.items, len(read(tmp_path / "a" / "ratings.csv"))) == (60, 100, first.rows + 1)


def test_synthetic_data_of_other_sizes_is_refused_when_it_cannot_be(tmp_path):
    with pytest.raises(WrongInput, match="at least 8 users and 80 items"):
        synthetic(tmp_path, users=7)


def test_synthetic_data_has_the_structure_that_it_claims(tmp_path):
    synthetic(tmp_path, users=200, items=400, seed=1)
    frame = pd.read_csv(tmp_path / "ratings.csv")
    assert not frame.duplicated(["user", "item"]).any()
    assert frame["rating"].between(1, 5).all()
    assert frame["timestamp"].is_monotonic_decreasing
    # taste: 70 % of the 70 % that follow no chain are of the main cluster, and chains stay in their cluster;
    # by chance it would be one in eight
    taste = pd.read_csv(tmp_path / "users.csv").set_index("user")["taste"]
    genre = pd.read_csv(tmp_path / "items.csv").set_index("item")["genres"]
    own = (frame["user"].map(taste) == frame["item"].map(genre)).mean()
    assert 0.4 < own < 0.9
    # popularity: the most popular tenth of the items has far more than a tenth of the rows
    counts = frame["item"].value_counts()
    assert counts.iloc[:40].sum() > 0.2 * len(frame)
    # order: some item follows another right away in far more than 1/400 of its cases
    rows = frame.iloc[::-1]
    after = rows.groupby("user")["item"].shift(-1)
    pairs = pd.crosstab(rows["item"], after)
    assert (pairs.max(axis=1) / pairs.sum(axis=1)).median() > 0.1


USERS = [f"u{n:02d}" for n in range(25)]


@given(st.permutations(USERS), st.sampled_from(["iid", "size"]), st.integers(1, 25), st.integers(0, 99))
def test_dealing_depends_on_the_users_and_the_seed_and_not_on_their_order(shuffled, by, count, seed):
    straight = dict(zip(USERS, deal(USERS, count, by, seed), strict=True))
    assert dict(zip(shuffled, deal(shuffled, count, by, seed), strict=True)) == straight
    sizes = np.bincount(list(straight.values()), minlength=count)
    assert len(sizes) == count
    assert sizes.min() >= 1
    if by == "iid":
        assert sizes.max() - sizes.min() <= 1


def test_sizes_fall_like_one_over_the_rank():
    # 1/1 + 1/2 + 1/3 + 1/4 = 25/12: shares .48 .24 .16 .12; one each first, then 1000 by share
    users = [str(n) for n in range(1004)]
    assert np.bincount(deal(users, 4, "size", 0)).tolist() == [481, 241, 161, 121]


@pytest.mark.parametrize(("count", "by"), [(0, "iid"), (26, "iid"), (26, "size"), (4, "taste")])
def test_a_deal_that_cannot_be_is_refused(count, by):
    with pytest.raises(WrongInput):
        deal(USERS, count, by, 0)


def ratings(tmp_path: Path) -> Path:
    lines = [f"u{n % 6},i{n},{n % 5 + 1},{n}" for n in range(30)]
    (tmp_path / "ratings.csv").write_text("user,item,rating,timestamp\n" + "\n".join(lines) + "\n")
    return tmp_path / "ratings.csv"


@pytest.mark.parametrize("by", ["iid", "size"])
def test_a_split_loses_no_row_keeps_users_whole_and_keeps_their_order(tmp_path, by):
    file = ratings(tmp_path)
    rows = split_by_user(file, tmp_path / "out", 3, by, seed=1)
    assert list(rows) == ["site-01", "site-02", "site-03"]
    assert sum(rows.values()) == 30
    seen: list[list[str]] = []
    whole = read(file)[1:]
    for name, count in rows.items():
        part = read(tmp_path / "out" / name / "data" / "ratings.csv")
        assert part[0] == ["user", "item", "rating", "timestamp"]
        assert len(part) == count + 1
        users = {row[0] for row in part[1:]}
        assert part[1:] == [row for row in whole if row[0] in users]
        seen += part[1:]
    assert sorted(seen) == sorted(whole)
    assert stat.S_IMODE((tmp_path / "out" / "site-01" / "data" / "ratings.csv").stat().st_mode) == 0o600


def test_four_institutions_are_the_cinemas_and_names_can_be_given(tmp_path):
    file = ratings(tmp_path)
    assert list(split_by_user(file, tmp_path / "a", 4)) == ["aurora", "borealis", "cinema-lumen", "delphi"]
    assert list(split_by_user(file, tmp_path / "b", ["north", "south"])) == ["north", "south"]
    assert (tmp_path / "b" / "south" / "data" / "ratings.csv").is_file()


def test_two_spellings_of_a_user_go_to_one_institution(tmp_path):
    names = [f"x{n}" for n in range(9)]
    text = "user,item\n" + "".join(f"{name}\u00e9,1\n{name}e\u0301,2\n" for name in names)
    (tmp_path / "r.csv").write_text(text, encoding="utf-8")
    rows = split_by_user(tmp_path / "r.csv", tmp_path, 3)
    assert rows == {"site-01": 6, "site-02": 6, "site-03": 6}
    for name in rows:
        users = [row[0] for row in read(tmp_path / name / "data" / "ratings.csv")[1:]]
        assert len({user[:2] for user in users}) == 3


def test_a_column_of_the_file_or_of_the_users_beside_it_can_decide(tmp_path):
    file = ratings(tmp_path)
    (tmp_path / "users.csv").write_text("user,town\nu0,A\nu1,A\nu2,A\nu3,B\nu4,B\nu5,C\n")
    rows = split_by_user(file, tmp_path / "out", ["one", "two"], "column:town")
    # A (3 users) to one; B (2) to two; C (1) to two, which has fewer users; 5 rows each
    assert rows == {"one": 15, "two": 15}
    inside = {row[0] for row in read(tmp_path / "out" / "one" / "data" / "ratings.csv")[1:]}
    assert inside == {"u0", "u1", "u2"}
    (tmp_path / "own.csv").write_text("user,item,shop\nu1,1,x\nu2,1,y\nu1,2,x\n")
    assert split_by_user(tmp_path / "own.csv", tmp_path / "own", ["p", "q"], "column:shop") == {"p": 2, "q": 1}


def test_a_column_that_names_the_institutions_says_whose_users_they_are(tmp_path):
    """By the rule for other values the larger group would go to the first institution, north."""
    file = ratings(tmp_path)
    whose = ["south"] * 4 + ["north"] * 2
    users = "".join(f"u{number},{name},4{number}\n" for number, name in enumerate(whose))
    (tmp_path / "users.csv").write_text(f"user,institution,age\n{users}u9,north,49\n")
    rows = split_by_user(file, tmp_path / "out", ["north", "south"], "column:institution")
    assert rows == {"north": 10, "south": 20}
    users_of(tmp_path / "users.csv", tmp_path / "out" / "north" / "data" / "ratings.csv")
    beside = tmp_path / "out" / "north" / "data" / "users.csv"
    assert beside.read_text() == "user,institution,age\nu4,north,44\nu5,north,45\n"  # u9 has no row
    assert beside.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("institutions", "by", "says"),
    [
        (0, "iid", "at least one"),
        (["a", "a"], "iid", "each named once"),
        (["../a", "b"], "iid", "a-z, 0-9"),
        (7, "iid", "6 users cannot be dealt out to 7"),
        (2, "column:none", "neither ratings.csv nor a users.csv"),
        (3, "column:rating", "has 1 values, too few for 3"),
        (2, "taste", "must be iid, size or column:NAME"),
    ],
)
def test_a_split_that_cannot_be_is_refused_before_a_file_is_written(tmp_path, institutions, by, says):
    (tmp_path / "ratings.csv").write_text("user,item,rating\n" + "".join(f"u{n},1,3\n" for n in range(6)))
    with pytest.raises(WrongInput, match=says):
        split_by_user(tmp_path / "ratings.csv", tmp_path / "out", institutions, by)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", [None, b"", b"user,item\n", b"user,item\n\xff,1\n", b"user,item\nu,1,2,3\n"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, data):
    if data is not None:
        (tmp_path / "r.csv").write_bytes(data)
    with pytest.raises(WrongInput):
        split_by_user(tmp_path / "r.csv", tmp_path / "out", 2)
