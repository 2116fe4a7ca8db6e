"""How a plan's epsilon is spent over its tasks, and which plans can have one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from fedrec import models
from fedrec.aggregation import Stop, WeightedMean
from fedrec.errors import WrongInput
from fedrec.exchange.accountant import UNIT, epsilon_of, sigma_of
from fedrec.exchange.budget import cost_of_plan, cost_of_task, evaluations_of, report, why_not
from fedrec.exchange.privacy import Privacy
from fedrec.models.local import LocalEpochs
from fedrec.scientist.plan import Plan

POPULAR = models.Popularity(clip=1.0)
FOUR = Privacy(epsilon=4.0)


@dataclass(frozen=True)
class Shared:
    """A model of two rounds that cost differently."""

    name: ClassVar[str] = "shared"

    def share(self, number):
        return [0.3, 0.7][number]


def plan(**more):
    return Plan(POPULAR, privacy=FOUR, **more)


def test_all_tasks_of_a_plan_cost_what_its_epsilon_allows_and_no_more():
    spec = plan(rounds=3, runs=2, train=("p1", "p3"), evaluate=True).spec
    train = sum(cost_of_task(spec, POPULAR, "train", number) for number in range(3))
    spent = 2 * 2 * train + evaluations_of(spec) * cost_of_task(spec, POPULAR, "evaluate", 0)
    assert spent <= cost_of_plan(spec)
    assert epsilon_of(spent, 1e-5) == pytest.approx(4.0, rel=1e-3)


def test_one_release_without_evaluations_gets_the_whole_epsilon():
    spec = plan().spec
    assert sigma_of(cost_of_task(spec, POPULAR, "train", 0)) == pytest.approx(1.0812, rel=2e-4)
    assert cost_of_task(spec, POPULAR, "publish", 0) == 0


def test_a_model_may_share_its_cost_out_unevenly():
    spec = plan(rounds=2).spec
    first, second = (cost_of_task(spec, Shared(), "train", number) for number in range(2))
    assert first / second == pytest.approx(3 / 7)
    assert first + second <= cost_of_plan(spec)


def test_a_permit_may_cut_epsilon_and_not_raise_it():
    spec = plan().spec
    assert epsilon_of(cost_of_plan(spec, 2.0), 1e-5) == pytest.approx(2.0, rel=1e-3)
    assert cost_of_plan(spec, 9.0) == cost_of_plan(spec)


def test_a_plan_without_epsilon_costs_nothing_and_says_that_it_promises_nothing():
    spec = Plan(POPULAR).spec
    assert cost_of_task(spec, POPULAR, "train", 0) == 0
    assert why_not(spec, POPULAR) is None
    assert report(spec, POPULAR) == ["this plan adds no noise: there is no differential-privacy promise"]


class Own:
    def init(self, n_items, seed):
        return {}

    def fit_site(self, rows, shared, private):
        return {}, {}

    def score(self, rows, shared, private):
        return None


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"model": models.Ease()}, "ease .* does not bound .* popularity"),
        ({"model": models.Popularity()}, "does not bound"),
        ({"model": None, "code": Own}, "own code could lie"),
        ({"stop": Stop(patience=2), "train": ("p1",), "rounds": 9}, "global-quality would leave without noise"),
        ({"aggregator": WeightedMean(by="data-quality")}, "data-quality would leave without noise"),
        ({"norms": {"counts": 1.0}}, "no norms"),
        ({"privacy": Privacy(epsilon=0.001), "rounds": 100_000, "runs": 1000}, "too small"),
    ],
)
def test_what_an_epsilon_cannot_be_kept_with_is_refused_with_the_alternative(what, says):
    with pytest.raises(WrongInput, match=says):
        Plan(**({"model": POPULAR, "privacy": FOUR} | what))
    Plan(**({"model": POPULAR} | what | {"privacy": None}))  # the control


def test_local_epochs_have_no_bound():
    spec = replace(plan().spec, local=LocalEpochs(2).table())
    assert "local epochs" in why_not(spec, POPULAR)[0]


def test_the_report_says_what_a_customer_of_all_institutions_has_to_know():
    """One institution 4; of four together the cost is fourfold, of a secure sum sixteenfold."""
    spec = plan().spec
    cost = cost_of_plan(spec)
    lines = "\n".join(report(spec, POPULAR, 4))
    assert "epsilon 4 with delta 1e-05" in lines
    assert "by a factor of 54.6" in lines
    assert f"all 4 institutions it is epsilon {epsilon_of(4 * cost, 1e-5):.3g}" in lines
    secure = replace(spec, privacy=Privacy("secure", epsilon=4.0).table())
    assert f"epsilon {epsilon_of(16 * cost, 1e-5):.3g}" in "\n".join(report(secure, POPULAR, 4))
    assert Plan(POPULAR, privacy=FOUR).epsilon_report(4) == lines


def test_a_unit_is_one_release_with_the_noise_of_one_person():
    assert sigma_of(UNIT) == 1.0
