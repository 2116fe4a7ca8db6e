"""A site under plans that leave rounds out, send parameters, or release a quality beside an update."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_site import approved, ended, own, recipe, sent, task, train

from fedrec import models
from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.errors import Refused
from fedrec.exchange.wire import decode
from fedrec.institution import work
from fedrec.institution.guard import check_measures
from fedrec.institution.review import details, text_of
from fedrec.institution.store import Store
from fedrec.models import LocalEpochs

COUNTING = 'count = private.get("users", np.zeros(6)) + 1\nreturn {"v": np.full(8, count[0])}, {"users": count}'
ITEMS = {"items": np.random.default_rng(0).normal(0, 0.15, (8, 4)).astype(np.float32)}


def no_score() -> float:
    raise AssertionError("nobody asked for the score of the data")


def counted(site, jobs, row, number):
    """The private counter after this round, as the contribution says it."""
    passport = train(site, jobs, row, {"v": np.full(8, number, np.float32)}, number=number)["passport"]
    return decode(site.blobs.path("out", row.id, passport["sha256"]).read_bytes())["v"][0]


def rows(site) -> Interactions:
    return Store.open(site.state).rows()


def test_under_a_schedule_a_site_goes_on_from_the_last_round_that_it_trained(site, jobs):
    row = approved(site, replace(own(COUNTING), schedule={"name": "sampled", "k": 2, "seed": 0}))
    assert [counted(site, jobs, row, number) for number in (2, 3, 7)] == [1, 2, 3]
    kept = sorted(path.stem for path in (site.state / "private" / row.id / "r").iterdir())
    assert kept == ["3", "7"]  # of what came before, only what round 7 started from


def test_a_lost_private_state_is_refused_under_a_schedule_too(site, jobs):
    row = approved(site, replace(own(COUNTING), schedule={"name": "sampled", "k": 2, "seed": 0}))
    counted(site, jobs, row, 2)
    (site.state / "private" / row.id / "r" / "2.safetensors").unlink()
    raw = task(sent(site, row, {"v": np.full(8, 5, np.float32)}), number=5)
    assert ended(site, jobs, row, raw)["code"] == "task.round"


def test_control_without_a_schedule_no_round_may_be_left_out(site, jobs):
    row = approved(site, own(COUNTING))
    raw = task(sent(site, row, {"v": np.full(8, 2, np.float32)}), number=2)
    assert ended(site, jobs, row, raw)["code"] == "task.round"


def test_parameters_after_local_epochs_leave_a_site_as_they_leave_the_function(site, jobs):
    local = LocalEpochs(2, batch=4)
    row = approved(site, replace(recipe("mf"), local=local.table(), aggregator={"name": "mean"}))
    passport = train(site, jobs, row, ITEMS)["passport"]
    found = decode(site.blobs.path("out", row.id, passport["sha256"]).read_bytes())
    wanted = work.train(models.MF(factors=4), rows(site), "p1", SharedParams(ITEMS), PrivateParams({}), 0, local)
    assert found["items"].tobytes() == wanted.contribution["items"].tobytes()
    assert passport["measures"] == {}


def test_a_wrong_local_table_trains_nothing(site, jobs):
    row = approved(site, replace(recipe("mf"), local={"update": "parameters", "epochs": -1}))
    assert ended(site, jobs, row, task(sent(site, row, ITEMS)))["status"] == "refused"


def test_the_passport_carries_the_qualities_that_the_plan_asks_for_and_no_others(site, jobs):
    asked = {"name": "weighted-mean", "by": "data-quality*model-quality"}
    plan = replace(recipe("mf"), aggregator=asked, stop={"patience": 3, "gain": 0.0, "step": 0.0})
    row = approved(site, plan)
    said = train(site, jobs, row, ITEMS)["passport"]["measures"]
    assert set(said) == {"data-quality", "model-quality", "global-quality"}
    score = Store.open(site.state).quality()
    wanted = work.train(
        models.MF(factors=4), rows(site), "p1", SharedParams(ITEMS), PrivateParams({}), 0, None, plan.measures
    ).measures
    assert said == {name: round(10_000 * value) for name, value in {**wanted, "data-quality": score}.items()}
    assert 0 < said["model-quality"] < 10_000


def test_the_owner_reads_what_leaves_beside_an_update_and_what_trains_here(site):
    asked = {"name": "adam", "inner": "weighted-mean", "inner_by": "users*model-quality"}
    row = approved(site, replace(recipe("mf"), aggregator=asked, local=LocalEpochs(5, proximal=0.5).table()))
    text = text_of(details(row, {}, "2026-01-01T00:00:00Z", 8, site.config.limits, None))
    assert "stand behind it, how good the model trained here is on validation rows" in text
    assert "local epochs = 5" in text
    assert "local proximal = 0.5" in text


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        {"model-quality": 0.5, "more": 0.1},
        {"model-quality": 1.5},
        {"model-quality": -0.1},
        {"model-quality": float("nan")},
        {"model-quality": "0.5"},
        {"model-quality": True},
        [0.5],
    ],
)
def test_a_measure_that_the_plan_does_not_ask_for_or_that_is_no_share_is_refused(said):
    with pytest.raises(Refused, match=r"guard\.numbers"):
        check_measures(said, ("model-quality",), no_score)


def test_a_measure_leaves_in_ten_thousandths():
    both = ("data-quality", "model-quality")
    assert check_measures({"model-quality": 0.123456789}, both, lambda: 0.5) == {
        "data-quality": 5000,
        "model-quality": 1235,
    }
    assert check_measures({}, (), no_score) == check_measures(None, (), no_score) == {}
