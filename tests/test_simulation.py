"""A federation in one process: the same model as one institution with all rows."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import fedrec
from fedrec import models
from fedrec.core.interactions import Interactions
from fedrec.errors import DataError, Refused
from fedrec.scientist.runs import Run
from fedrec.simulation import SimulatedFederation, pooled, simulate


def rows(users=24, n_items=15, seed=1):
    rng = np.random.default_rng(seed)
    item = np.concatenate([rng.permutation(n_items)[: 4 + user % 5] for user in range(users)]).astype(np.int32)
    user = np.repeat(np.arange(users, dtype=np.int32), [4 + user % 5 for user in range(users)])
    return Interactions(
        user, item, np.ones(len(item), np.float32), np.arange(len(item), dtype=np.int64), users, n_items
    )


def split(all_rows, k):
    """Users dealt in turn to k institutions."""
    found = {}
    for site in range(k):
        mine = all_rows.user % k == site
        found[f"site-{site}"] = Interactions(
            (all_rows.user[mine] // k).astype(np.int32),
            all_rows.item[mine],
            all_rows.rating[mine],
            all_rows.time[mine],
            len(range(site, all_rows.n_users, k)),
            all_rows.n_items,
        )
    return SimulatedFederation(found, all_rows.n_items)


EASE = fedrec.Plan(model=models.Ease(l2=5.0), train=("p1",), evaluate=True)
ITEMCF = fedrec.Plan(model=models.ItemCF(), train=("p1",), evaluate=True)
POPULARITY = fedrec.Plan(model=models.Popularity(), train=("p1",), evaluate=True)


@pytest.mark.parametrize("plan", [EASE, ITEMCF, POPULARITY], ids=lambda plan: plan.spec.name)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_statistic_models_have_one_hash_for_every_number_of_institutions(plan, k):
    central = pooled(split(rows(), 4))
    assert central.sites() == ("all",)
    run = split(rows(), k).train(plan)
    assert run.model_sha256 == central.train(plan).model_sha256


def test_ease_is_the_formula_to_the_bit_and_worked_out_by_hand_for_two_films():
    """Film 0 touched by 3 users, film 1 by 2, both by 1: G = [[3, 1], [1, 2]], with l2 = 1: B01 = 1/4, B10 = 1/3."""
    user, item = np.array([0, 1, 1, 2, 3], np.int32), np.array([0, 0, 1, 0, 1], np.int32)
    every = Interactions(user, item, np.ones(5, np.float32), np.arange(5, dtype=np.int64), 4, 2)
    plan = fedrec.Plan(model=models.Ease(l2=1.0))
    run = split(every, 2).train(plan)
    assert run.shared["weights"].tolist() == pytest.approx(np.array([[0, 1 / 4], [1 / 3, 0]], np.float32))
    assert run.shared["counts"].tolist() == [3, 2]
    assert run.model_sha256 == pooled(split(every, 2)).train(plan).model_sha256


def test_gradients_agree_to_rounding_for_every_number_of_institutions():
    plan = fedrec.Plan(model=models.MF(factors=4), rounds=4, train=("all",))
    central = pooled(split(rows(), 1)).train(plan).shared["items"]
    for k in (2, 4):
        np.testing.assert_allclose(split(rows(), k).train(plan).shared["items"], central, atol=1e-5)


def test_the_same_seed_gives_the_same_hash_also_in_another_process():
    plan = fedrec.Plan(model=models.MF(factors=4), rounds=3, train=("p1",), seed=7)
    mine = split(rows(), 2).train(plan).model_sha256
    assert split(rows(), 2).train(plan).model_sha256 == mine
    assert (
        split(rows(), 2).train(fedrec.Plan(model=models.MF(factors=4), rounds=3, train=("p1",), seed=8)).model_sha256
        != mine
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom test_simulation import *\n"
        "plan = fedrec.Plan(model=models.MF(factors=4), rounds=3, train=('p1',), seed=7)\n"
        "print(split(rows(), 2).train(plan).model_sha256)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, __file__.rpartition("/")[0]], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == mine


def test_the_order_of_institutions_does_not_change_exact_sums():
    sites = split(rows(), 4)
    turned = SimulatedFederation(dict(reversed(sites._rows.items())), sites.n_items)
    assert turned.train(EASE).model_sha256 == sites.train(EASE).model_sha256


def test_federated_sums_of_an_evaluation_are_those_of_the_centralised_model():
    federated, central = (sites.train(EASE).evaluate("p1") for sites in (split(rows(), 4), pooled(split(rows(), 4))))
    one, other = (
        table[(table.scope == "federated") & (table.institution == "all")].iloc[0] for table in (federated, central)
    )
    assert (one["users"], other["users"]) == (24, 24)
    for measure in ("hr@10", "ndcg@10", "recall@20"):
        assert one[measure] == pytest.approx(other[measure], abs=1e-12)


def test_two_runs_at_once_do_not_share_private_state():
    plan = fedrec.Plan(model=models.MF(factors=4), rounds=3, train=("p1",))
    sites, alone = split(rows(), 2), split(rows(), 2).train(plan).model_sha256
    first, second = Run.start(plan, sites), Run.start(plan, sites)
    for _ in zip(first.rounds(), second.rounds(), strict=True):
        pass
    assert first.model_sha256 == second.model_sha256 == alone


def test_an_update_that_a_site_would_not_release_is_not_released_here():
    text = (
        "class Bad:\n    def init(self, n_items, seed):\n        return {'v': np.zeros(n_items)}\n"
        "    def fit_site(self, rows, shared, private):\n        return {'v': np.full(rows.n_items, np.nan)}, private\n"
        "    def score(self, rows, shared, private):\n        return np.zeros((rows.n_users, rows.n_items))\n"
    )
    with pytest.raises(Refused, match=r"guard\.finite"):
        split(rows(), 2).train(fedrec.Plan(code=text, rounds=1))


def test_frames_become_a_federation():
    frames = {
        "a": pd.DataFrame({"user": ["u", "u"], "item": ["x", "y"], "rating": [5, 4], "timestamp": [1, 2]}),
        "b": pd.DataFrame({"user": ["u"], "item": ["z"], "rating": [3], "timestamp": [1]}),
    }
    sites = simulate(frames)
    assert (sites.sites(), sites.n_items, sites.catalogue) == (("a", "b"), 3, ("x", "y", "z"))
    assert sites.train(fedrec.Plan(model=models.Popularity())).shared["counts"].tolist() == [1, 1, 1]
    bare = simulate({"a": frames["a"][["user", "item"]]}, rating=None, time=None, catalogue=["y", "x", "w"])
    assert bare.train(fedrec.Plan(model=models.Popularity())).shared["counts"].tolist() == [1, 1, 0]
    for wrong in ({"time": "when"}, {"user": "who"}, {"item": "what"}, {"rating": "stars"}):
        with pytest.raises(DataError, match=next(iter(wrong.values()))):
            simulate(frames, **wrong)


def test_importing_fedrec_loads_nothing_heavy():
    code = (
        "import sys, fedrec; print([name for name in ('syft', 'torch', 'pandas', 'pydantic') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
