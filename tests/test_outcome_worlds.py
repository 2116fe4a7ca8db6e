"""The worlds with outcomes, hospitals and banks: their law is in the data, and a federated model finds it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import fedrec
from fedrec import models
from fedrec.core.outcomes import EDGES, Outcomes
from fedrec.core.params import PrivateParams
from fedrec.datasets import bank, care
from fedrec.datasets.bank import LAW as RISK
from fedrec.datasets.bank import LINES
from fedrec.datasets.care import CASE_MIX, COMES_WITH, CONDITIONS, HOSPITALS
from fedrec.datasets.care import LAW as STAYING
from fedrec.institution import work
from fedrec.simulation import SimulatedFederation, simulate

KINDS = {
    care: {"conditions": "tags", "setting": "text", "smoker": "text", "lives_alone": "text"}
    | dict.fromkeys(("age", "distance_km", "dropouts", "weeks"), "number"),
    bank: {"job": "text", "kind": "text", "secured": "text"}
    | dict.fromkeys(("age", "income", "debt_ratio", "delays"), "number"),
}


@pytest.fixture(scope="module", params=[(care, STAYING), (bank, RISK)], ids=["hospitals", "banks"])
def world(request, tmp_path_factory):
    """Eight times as many people as in the demo, and the columns of the law prepared."""
    make, law = request.param
    folder = tmp_path_factory.mktemp(make.__name__)
    make(folder, 0, times=8)
    ratings, users, items = (pd.read_csv(folder / f"{name}.csv", dtype=str) for name in ("ratings", "users", "items"))
    ratings[["rating", "timestamp"]] = ratings[["rating", "timestamp"]].astype(int)
    of = {name: list(group) for name, group in users.groupby("institution")["user"]}
    federation = simulate(
        {name: ratings[ratings["user"].isin(own)] for name, own in of.items()},
        catalogue=list(items["item"]),
        user_features={name: users[users["user"].isin(own)] for name, own in of.items()},
        item_features=items,
        kinds=KINDS[make],
    )
    return SimpleNamespace(make=make, law=law, federation=federation, ratings=ratings, users=users, items=items)


def learnt(federation, law):
    """The trained model and its weights by column, for one unit of the column's own."""
    sums = models.FeatureSums(tuple(law), outcome=True)
    model = models.Logistic(**sums.settings(federation.train(fedrec.Plan(model=sums, train=("p1",))).shared))
    shared = federation.train(fedrec.Plan(model=model, rounds=100, train=("p1",))).shared
    weights = shared["weights"][:-1] / np.array(model.scale)
    return model, shared, dict(zip(model.columns, weights.tolist(), strict=True))


def deviations(federation, law):
    """Of the columns as they vary from row to row: the size that a weight is judged by."""
    found = {}
    for column in law:
        of, name = column.split(".", 1)
        values = [
            (rows.users if of == "user" else rows.items).column(name)[rows.user if of == "user" else rows.item]
            for rows in federation._rows.values()
        ]
        found[column] = float(np.nanstd(np.concatenate(values)))
    return found


def test_the_law_is_found_again_and_only_where_it_is(world):
    size = deviations(world.federation, world.law)
    model, shared, weights = learnt(world.federation, world.law)
    for column, stated in world.law.items():
        assert weights[column] * stated > 0
        assert weights[column] * size[column] == pytest.approx(stated * size[column], abs=0.08)
    strong = sorted(world.law, key=lambda column: abs(world.law[column]) * size[column])
    assert strong[-1] == max(weights, key=lambda column: abs(weights[column]) * size.get(column, 0))
    _, _, nothing = learnt(shuffled(world.federation), world.law)
    assert max(abs(nothing[column]) * size[column] for column in world.law) < 0.08

    total = Outcomes()  # of held-out people
    for rows in world.federation._rows.values():
        total += Outcomes.from_dict(work.evaluate(model, rows, "p1", shared, PrivateParams({}), 0, None)["federated"])
    assert total.means()["auc"] > 0.7
    middle = np.concatenate([[-10.1], (EDGES[1:] + EDGES[:-1]) / 2, [10.1]])
    assert np.dot(expit(middle), np.add(total.yes, total.no)) == pytest.approx(sum(total.yes), rel=0.05)
    assert slope(middle, np.array(total.yes), np.array(total.no)) == pytest.approx(1, abs=0.1)


def slope(at, yes, no):
    """By how much observed log-odds grow when predicted ones grow by 1: below 1 is overconfident."""
    weights = np.array([0.0, 1.0])
    x = np.column_stack([np.ones_like(at), at])
    for _ in range(20):  # Newton
        p = expit(x @ weights)
        weights += np.linalg.solve(x.T @ (x * ((yes + no) * p * (1 - p))[:, None]), x.T @ (yes - (yes + no) * p))
    return weights[1]


def shuffled(federation):
    """Outcomes dealt out anew among all rows: shares of yes differ between institutions no more, either."""
    known = federation._rows
    outcomes = np.random.default_rng(0).permutation(np.concatenate([rows.rating for rows in known.values()]))
    ends = np.cumsum([len(rows) for rows in known.values()])[:-1]
    parts = zip(known.items(), np.split(outcomes, ends), strict=True)
    return SimulatedFederation({name: replace(rows, rating=part) for (name, rows), part in parts}, federation.n_items)


def test_hospitals_have_the_case_mixes_that_are_stated(tmp_path):
    care(tmp_path, 0, times=4)
    users = pd.read_csv(tmp_path / "users.csv")
    first = users["conditions"].str.split("|").str[0]
    for hospital, mix in zip(HOSPITALS, CASE_MIX, strict=True):
        share = first[users["institution"] == hospital].value_counts(normalize=True)
        stated = np.array(mix) / sum(mix)
        np.testing.assert_allclose([share.get(one, 0.0) for one in CONDITIONS], stated, atol=0.06)
    second = users["conditions"].str.split("|").str[1]
    pairs = {(CONDITIONS[one], CONDITIONS[other]) for one, other in enumerate(COMES_WITH)}
    assert set(zip(first[second.notna()], second.dropna(), strict=True)) == pairs
    assert second.notna().mean() == pytest.approx(0.5, abs=0.05)


def test_bank_lines_that_go_together_are_held_together_in_one_flavour(tmp_path):
    bank(tmp_path, 0)
    ratings, items = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("ratings", "items"))
    held = ratings.merge(items, on="item").assign(line=lambda frame: frame["title"].str.split(",").str[0])
    beside = {line[0]: LINES[line[3]][0] for line in LINES}
    has = set(zip(held["user"], held["line"], held["flavour"], strict=True))
    other = {
        flavour: list(items["flavour"].unique())[place - 1] for place, flavour in enumerate(items["flavour"].unique())
    }
    rows = list(zip(held["user"], held["line"], held["flavour"], strict=True))
    together = np.mean([(user, beside[line], flavour) in has for user, line, flavour in rows])
    chance = np.mean([(user, beside[line], other[flavour]) in has for user, line, flavour in rows])
    assert together > 0.5 > 0.25 > chance
