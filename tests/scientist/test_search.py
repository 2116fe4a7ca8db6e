"""Choosing settings on validation rows, and what each institution adds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_schedules import plan, slow
from test_simulation import rows, split

import fedrec
from fedrec import models
from fedrec.aggregation import Stop
from fedrec.config import Limits
from fedrec.core.params import PrivateParams
from fedrec.errors import Refused, WrongInput
from fedrec.institution.permit import Task, evaluations_of, reservable
from fedrec.simulation import SimulatedFederation

EASE = fedrec.Plan(model=models.Ease(l2=20.0), train=("p1",))
OTHER = {"l2": 7.0, "exponent": 0.2, "neighbours": 3, "shrinkage": 5.0, "from_exponent": 0.1, "to_exponent": 0.9}
STATISTICS = [models.Ease(), models.ItemCF(), models.Sequential(), models.Default()]


@pytest.mark.parametrize("model", STATISTICS, ids=lambda model: model.name)
def test_what_a_model_calls_its_centres_settings_is_read_at_the_centre_only(model):
    """The site's contribution and its scores are the same with another value; the finished model is not."""
    part = rows(20)
    start, none = model.init(part.n_items, 0), PrivateParams({})
    for name in model.centre:
        changed = replace(model, **{name: OTHER[name]})
        given, (other, _) = model.fit_site(part, start, none)[0], changed.fit_site(part, start, none)
        assert {key: a.tobytes() for key, a in given.tensors.items()} == {
            key: a.tobytes() for key, a in other.tensors.items()
        }
        assert model.leaves() == changed.leaves()
        made = changed.finish(start, given)
        np.testing.assert_array_equal(model.score(part, made, none), changed.score(part, made, none))
        plain = model.finish(start, given)
        assert any(plain[key].tobytes() != made[key].tobytes() for key in plain.tensors), name


def test_control_a_setting_that_the_site_reads_changes_its_contribution_or_its_scores():
    part, one, two = rows(20), models.Sequential(), models.Sequential(window=3)
    start, none = one.init(part.n_items, 0), PrivateParams({})
    assert (
        one.fit_site(part, start, none)[0]["follows"].tobytes()
        != two.fit_site(part, start, none)[0]["follows"].tobytes()
    )
    assert "window" not in models.Sequential.centre


def test_one_release_of_a_statistic_serves_every_setting():
    sites, released = split(rows(40), 4), []

    class Counts(SimulatedFederation):
        def run(self, task):
            released.append((task.kind, task.protocol))
            return super().run(task)

    found = Counts(sites._rows, sites.n_items).search(EASE, {"l2": [2.0, 20.0, 500.0]})
    assert released.count(("train", "p1")) == 4  # four sites, once each
    assert released.count(("evaluate", "validation")) == 3
    assert list(found.table["l2"]) == [2.0, 20.0, 500.0]
    assert found.settings["l2"] == found.table.loc[found.table["ndcg@10"].idxmax(), "l2"]
    assert found.cost == {"plans": 1, "train": 1, "validate": 3, "bytes_up": 0, "bytes_down": 0, "seconds": 1.0}
    alone = slow().train(fedrec.Plan(model=models.Ease(**found.settings), train=("p1",)))
    assert found.run.model_sha256 == alone.model_sha256
    assert "[search]\nl2 = [2.0, 20.0, 500.0]" in found.run.plan.text


def test_other_models_are_trained_once_for_each_setting():
    found = slow().search(plan(rounds=2), {"user_decay": [0.5, 2.0], "factors": [2, 4]})
    assert (len(found.table), found.cost["plans"], found.cost["train"]) == (4, 4, 8)
    best = found.table["ndcg@10"].idxmax()
    assert found.settings == {
        "user_decay": found.table.loc[best, "user_decay"],
        "factors": found.table.loc[best, "factors"],
    }
    assert found.run.plan.spec.model["factors"] == found.settings["factors"]


def test_a_model_of_ratings_is_chosen_by_its_errors_and_left_out_by_them():
    """Ratings follow the film, not what is touched next; a heavy ridge still ranks well, and predicts badly."""
    every = rows(60, 12)
    rated = replace(every, rating=np.where(every.item % 3, 2.0, 5.0).astype(np.float32))
    asks = fedrec.Plan(model=models.MFExplicit(factors=1), rounds=3, train=("p1",), validate=1)
    found = split(rated, 3).search(asks, {"ridge": [1e5, 0.1, 30.0]})
    assert found.settings == {"ridge": 0.1}
    assert found.table["rmse"].idxmin() == 1
    assert found.table["ndcg@10"].idxmax() != 1  # control: by NDCG another one would win
    table = found.run.validate().set_index("institution")
    squares = sum(table.loc[site, "rmse"] ** 2 * table.loc[site, "users"] for site in ("site-1", "site-2"))
    others = (squares / table.loc[["site-1", "site-2"], "users"].sum()) ** 0.5
    assert found.run.contributions()["with"][0] == pytest.approx(others)


@pytest.mark.parametrize("grid", [{}, {"l2": []}, {"nothing": [1]}, {"l2": [-1.0]}])
def test_nothing_to_try_or_a_wrong_setting_is_said_before_anything_runs(grid):
    with pytest.raises(WrongInput):
        slow().search(EASE, grid)


def test_leaving_a_statistic_out_is_exact():
    """The model without an institution is the one that the others make alone."""
    from fedrec.exchange.wire import digest
    from fedrec.scientist.search import _without

    asks = replace(EASE, validate=5)
    run = slow().train(asks)
    table = run.contributions().set_index("left out")
    assert list(table.index) == list(slow().sites())
    for site in slow().sites():
        others = [one for one in slow().sites() if one != site]
        alone = slow().train(asks, sites=others)
        assert digest(_without(run, site).tensors) == alone.model_sha256
        said = alone.validate().set_index("institution").loc["all"]
        assert table.loc[site, "without"] == pytest.approx(said["ndcg@10"], abs=1e-12)
        assert table.loc[site, "change"] == table.loc[site, "without"] - table.loc[site, "with"]


def test_other_models_are_made_again_in_simulation_and_refused_at_real_sites():
    run = slow().train(plan(rounds=2, validate=1))
    table = run.contributions()
    assert len(table) == 4
    assert table["with"].between(0, 1).all()
    run.federation.simulated = False
    with pytest.raises(WrongInput, match="rehearse"):
        run.contributions()
    with pytest.raises(WrongInput, match="validate=5"):
        slow().train(EASE).contributions()


# the permit


def task(base, protocol="validation", kind="evaluate"):
    return {"kind": kind, "run": "r", "round": 0, "protocol": protocol, "base": base * 64, "nonce": "0" * 32}


def test_a_permit_counts_validations_and_only_they_may_name_other_models_of_a_round():
    caps = Limits()
    permit = {"tasks": {"train": 1, "evaluate": 9}, "protocols": ["p1"], "rounds": 1, "validate": 2}
    trained = [("train", 0, "p1", "done")]
    once, twice = [("evaluate", 0, "validation", "done")], [("evaluate", 0, "validation", "done")] * 2
    reservable(permit, Task.parse(task("a")), {}, trained, caps)
    reservable(permit, Task.parse(task("b")), {}, trained + once, caps)
    with pytest.raises(Refused, match=r"permit\.evaluate: all 2 validations"):
        reservable(permit, Task.parse(task("c")), {}, trained + twice, caps)
    with pytest.raises(Refused, match=r"permit\.evaluate: all 0 validations"):  # a permit from before
        reservable({key: permit[key] for key in permit if key != "validate"}, Task.parse(task("a")), {}, trained, caps)
    with pytest.raises(Refused, match=r"permit\.protocol"):
        reservable(permit, Task.parse(task("a")), {}, [("train", 0, "p3", "done")], caps)
    with pytest.raises(Refused, match=r"permit\.evaluate: evaluate is allowed once"):
        reservable(permit, Task.parse(task("a", "p1")), {}, [*trained, ("evaluate", 0, "p1", "done")], caps)
    for kind in ("train", "publish"):
        with pytest.raises(Refused, match=r"task\.form"):
            Task.parse(task("a", kind=kind))
    assert evaluations_of(replace(EASE, validate=3, evaluate=True).spec) == 5


def test_validation_rows_are_asked_for_under_p1_and_p2_only():
    with pytest.raises(WrongInput, match="validation rows"):
        replace(EASE, train=("p3",), validate=1)


def test_a_model_of_ratings_stops_by_its_errors():
    """A round's quality is that of the model it started from: 1 - RMSE / width of the scale, mean over the sites."""
    every = rows(60, 12)
    rated = replace(every, rating=np.where(every.item % 3, 2.0, 5.0).astype(np.float32))
    asks = fedrec.Plan(model=models.MFExplicit(factors=1), rounds=4, train=("p1",), stop=Stop(patience=9))
    run = split(rated, 1).train(asks)
    short = split(rated, 1).train(replace(asks, rounds=3, stop=None, validate=1))
    rmse = short.validate()["rmse"].iloc[0]
    assert run.log[3]["quality"] == pytest.approx(1 - rmse / 3, abs=1e-4)
    assert run.log[0]["quality"] < run.log[3]["quality"]
