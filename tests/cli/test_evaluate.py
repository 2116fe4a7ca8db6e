"""fedrec evaluate: one ratings file, K institutions, in simulation."""

import json
import subprocess
import sys

import numpy as np
import pytest

from fedrec.core.interactions import Interactions
from fedrec.datasets import deal_by_taste
from fedrec.datasets.about import read_about


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "fedrec", "evaluate", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def dirty(tmp_path_factory):
    """Two tastes, duplicates, users with one row, no times, ids of letters, one damaged line."""
    rng = np.random.default_rng(3)
    lines = ["customer,sku,plays"]
    for user in range(120):
        for item in rng.permutation(30)[:12]:
            lines.append(f"kunde {user},{'AB'[user % 2]}{item},{rng.integers(1, 100_000)}")
    lines += lines[1:50] + ["kunde 0,A1,3,4"] + [f"once {n},A{n},1" for n in range(5)]
    file = tmp_path_factory.mktemp("dirty") / "plays.csv"
    file.write_text("\n".join(lines))
    return file


@pytest.mark.parametrize("by", ["iid", "size", "cluster"])
def test_the_json_is_that_of_the_contract_and_together_beats_alone(dirty, by):
    done = evaluate("--ratings", dirty, "--model", "ease", "--institutions", 6, "--by", by, "--json", "-")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["model"], row["protocol"], row["institutions"], row["by"]) == ("ease", "p1", 6, by)
    assert (row["users"], row["items"], len(row["local_by_institution"])) == (125, 60, 6)
    found = {name for name in row["local"] if name not in ("novelty@10", "popular@10")}  # by each institution's counts
    lists, rated = {"coverage@10", "gini@10"}, {"rmse", "mae"}
    assert {"hr@10", "ndcg@10", "recall@20", "recall@10", "precision@10", "map@10", "mrr@10"} | lists | rated == found
    assert [row[scope]["rmse"] for scope in ("local", "federated", "centralised")] == [None] * 3  # it ranks
    assert row["federated"]["coverage@10"] > row["popularity"]["coverage@10"]
    assert row["federated"]["gini@10"] < row["popularity"]["gini@10"]
    assert all(row["federated"][name] == pytest.approx(row["centralised"][name]) for name in found)
    everybody = next(one for one in row["worth"] if (one["institution"], one["group"]) == ("all", ""))
    assert everybody["gain"] == pytest.approx(row["federated"]["ndcg@10"] - row["local"]["ndcg@10"])
    assert everybody["verdict"].split()[0] in ("Yes:", "No:", "Cannot")
    low, high = row["intervals"]["federated"]
    assert low < row["federated"]["ndcg@10"] < high
    assert row["federated"]["ndcg@10"] >= row["popularity"]["ndcg@10"]
    assert row["left_out"]["damaged lines"] == 1
    assert "user = customer, item = sku, rating = plays" in done.stderr


def test_a_table_is_printed_for_people(dirty):
    done = evaluate("--ratings", dirty, "--model", "popularity", "--protocol", "p3")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[2:6]] == [
        "popularity",
        "local",
        "federated",
        "centralised",
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "eaze"), "unknown model 'eaze'"),
        (("--model", "logistic"), "logistic ranks nothing"),
        (("--model", "features"), "features ranks nothing"),
        (("--model", "ease", "--item-features", "x.csv"), "ease reads no features"),
        (("--by", "age"), "must be iid, size, cluster or column:NAME"),
        (("--by", "column:age"), "has this column"),
        (("--institutions", 1000), "cannot be dealt out"),
        (("--user-column", "nobody"), "has no column nobody"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(dirty, arguments, says):
    done = evaluate("--ratings", dirty, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_ratings_are_predicted_and_judged_by_their_errors(tmp_path):
    """A user's and an item's bias, and noise of 0 or 1: alone the items' biases are hardly known."""
    rng = np.random.default_rng(0)
    of_user, of_item = rng.choice([1, 2], 120), rng.choice([0, 2], 30)
    pairs = [(user, item) for user in range(120) for item in rng.permutation(30)[:8]]
    lines = [f"{u},{i},{of_user[u] + of_item[i] + rng.integers(0, 2)}" for u, i in pairs]
    file = tmp_path / "stars.csv"
    file.write_text("user,item,rating\n" + "\n".join(lines))
    done = evaluate(
        "--ratings", file, "--model", "mf-explicit", "--institutions", 12, "--protocol", "p3", "--json", "-"
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["federated"]["rmse"] == pytest.approx(row["centralised"]["rmse"], rel=1e-3)
    assert row["federated"]["rmse"] < 0.9 * row["local"]["rmse"]
    assert row["federated"]["mae"] <= row["federated"]["rmse"]
    assert row["popularity"]["rmse"] is None  # it predicts no ratings
    assert all(0 < one["rmse"] < 4 for one in row["federated_by_institution"].values())


@pytest.fixture(scope="module")
def towns(tmp_path_factory):
    """Users of four towns, each with a genre of its own, three rows each, and tables about users and items."""
    rng, folder = np.random.default_rng(1), tmp_path_factory.mktemp("towns")
    rows = [(user, 4 * rng.integers(0, 20) + user % 4) for user in range(160) for _ in range(4)]
    folder.joinpath("rows.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in dict.fromkeys(rows)))
    lines = [f"{i},Title {i},{1990 + i},{'ABCD'[i % 4]}|all\n" for i in range(80)]
    folder.joinpath("items.csv").write_text("movieId,title,year,genres\n" + "".join(lines))
    folder.joinpath("users.csv").write_text("user_id,town\n" + "".join(f"{u},t{u % 4}\n" for u in range(160)))
    return folder


def test_hybrid_is_better_with_the_features_of_two_tables(towns):
    words = [
        "--ratings",
        towns / "rows.csv",
        "--model",
        "hybrid",
        "--institutions",
        2,
        "--protocol",
        "p1",
        "--json",
        "-",
    ]
    tables = ["--item-features", towns / "items.csv", "--user-features", towns / "users.csv"]
    with_, without = evaluate(*words, *tables), evaluate(*words)
    assert (with_.returncode, without.returncode) == (0, 0), with_.stderr + without.stderr
    assert "items.csv: year = number, genres = tags; left out: title" in with_.stderr
    assert "users.csv: town = text" in with_.stderr
    known, blind = (json.loads(done.stdout)["federated"]["ndcg@10"] for done in (with_, without))
    assert known > 1.5 * blind


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2.5", "", "-3"] * 10, "number"),
        (["1"] * 39 + ["unknown"], "number"),
        (["1"] * 30 + ["unknown"] * 10, "text"),
        (["a|b", "b", "c|a"] * 10, "tags"),
        (["m", "f"] * 20, "text"),
        ([f"title {n}" for n in range(40)], None),
        ([f"{n}|{n + 1}x" for n in range(400)], None),
        ([f"{n:05d}" for n in range(40)], None),  # codes
        ([""] * 40, None),
    ],
)
def test_the_kind_of_a_column_is_guessed_from_its_cells(cells, kind, tmp_path):
    file = tmp_path / "items.tsv"
    file.write_text("item_id:token\tx\tsure\n" + "".join(f"i{n}\t{c}\t{n}\n" for n, c in enumerate(cells)))
    about = read_about(file, "item")
    assert (about.kinds.get("x"), about.kinds["sure"]) == (kind, "number")
    assert about.left_out == (() if kind else ("x",))
    assert list(about.frame["item"][:2]) == ["i0", "i1"]


def test_a_wide_catalogue_gets_a_model_that_fits_it(tmp_path):
    """17,000 items and few users: a dense Gram is refused by name, the default becomes implicit ALS."""
    rng = np.random.default_rng(0)
    pairs = [(user, item) for user in range(60) for item in rng.integers(0, 17_000, 300)]
    file = tmp_path / "wide.csv"
    file.write_text("user,item\n" + "\n".join(f"{user},{item}" for user, item in pairs) + f"\n0,{16_999}\n")
    text = file.read_text() + "".join(f"60,{item}\n" for item in range(17_000))
    file.write_text(text)
    refused = evaluate("--ratings", file, "--model", "ease", "--institutions", 2)
    assert refused.returncode == 2
    assert "17000 items are above 15000; take ials or mf instead" in refused.stderr


def test_a_cut_by_taste_parts_users_of_different_tastes():
    rng = np.random.default_rng(0)
    item = np.concatenate([rng.permutation(20)[:8] + 20 * (user % 2) for user in range(40)]).astype(np.int32)
    user = np.repeat(np.arange(40, dtype=np.int32), 8)
    rows = Interactions(user, item, np.ones(len(item), np.float32), None, 40, 40)
    place = deal_by_taste(rows, 2)
    assert sorted([set(place[::2].tolist()), set(place[1::2].tolist())], key=min) == [{0}, {1}]


def test_a_file_that_is_not_utf8_keeps_its_ids_apart_and_says_so(tmp_path):
    rows = [f"jos{'éè'[n % 2]}{n // 2},film {i},{i}" for n in range(40) for i in range(n % 3, n % 3 + 8)]
    text = "\n".join(["user,item,timestamp", *rows, rows[0]])
    for encoding in ("utf-8", "latin-1"):
        (tmp_path / f"{encoding}.csv").write_text(text, encoding=encoding)
        done = evaluate(
            "--ratings", tmp_path / f"{encoding}.csv", "--model", "popularity", "--institutions", 2, "--json", "-"
        )
        assert json.loads(done.stdout)["users"] == 40
        assert json.loads(done.stdout)["duplicates"] == 1
        assert ("read as latin-1" in done.stderr) == (encoding == "latin-1")


@pytest.mark.parametrize(
    ("header", "rows", "model", "said"),
    [
        ("user,item", 8, "sequential", "sequential needs to know when"),
        ("user,item", 8, "mf-explicit", "mf-explicit needs ratings that differ"),
        ("user,item", 1, "ease", "no user has a row to hold out"),
    ],
)
def test_a_model_that_the_file_cannot_feed_is_refused_in_words(tmp_path, header, rows, model, said):
    lines = [f"u{user},i{(user + step) % 12}" for user in range(30) for step in range(rows)]
    (tmp_path / "file.csv").write_text("\n".join([header, *lines]))
    done = evaluate("--ratings", tmp_path / "file.csv", "--model", model, "--institutions", 2)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr


def test_p2_has_no_lists_and_wide_figures_stand_apart(tmp_path):
    lines = [f"u{user},i{(user * step) % 17},{10_000 * step}" for user in range(30) for step in range(1, 9)]
    (tmp_path / "file.csv").write_text("\n".join(["user,item,rating", *lines]))
    done = evaluate(
        "--ratings",
        tmp_path / "file.csv",
        "--model",
        "mf-explicit",
        "--institutions",
        2,
        "--protocol",
        "p2",
        "--json",
        "-",
    )
    assert json.loads(done.stdout)["federated"]["novelty@10"] is None
    shown = evaluate(
        "--ratings", tmp_path / "file.csv", "--model", "mf-explicit", "--institutions", 2
    ).stdout.splitlines()
    head = next(line for line in shown if "rmse" in line).split()
    assert all(
        len(line.split()) == len(head) + 1
        for line in shown
        if line.startswith(("popularity", "local ", "federated", "centralised "))
    )
