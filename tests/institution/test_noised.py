"""The step that adds noise: every array, its share of the cost, the parts of a secure sum, and evaluations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fedrec import models
from fedrec.core.metrics import Sums
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.errors import WrongInput
from fedrec.exchange.accountant import at_all, cost_of
from fedrec.exchange.budget import cost_of_plan
from fedrec.exchange.privacy import Privacy
from fedrec.institution.noised import noised, noised_sums, once
from fedrec.scientist.plan import Plan
from fedrec.simulation import simulate

MANY = np.zeros(20_000)
POPULAR = models.Popularity(clip=1.0)


def test_arrays_share_the_cost_of_a_release_by_their_bounds():
    """Two arrays, noise of 2: each has 2 sqrt(2) of its own bound, so that 1/8 + 1/8 is the 1/4 that was booked."""
    found = noised({"a": MANY, "b": MANY}, {"a": 1.0, "b": 10.0}, cost_of(2.0))
    assert found["a"].std() == pytest.approx(2.828, rel=0.03)
    assert found["b"].std() == pytest.approx(28.28, rel=0.03)


def test_an_array_that_means_nothing_now_becomes_zeros_and_costs_nothing():
    found = noised({"a": MANY, "b": MANY + 7}, {"a": 1.0, "b": 0.0}, cost_of(2.0))
    assert found["a"].std() == pytest.approx(2.0, rel=0.03)
    assert not found["b"].any()


def test_an_array_without_a_bound_does_not_leave():
    with pytest.raises(ValueError, match="bound"):
        noised({"a": MANY, "b": MANY}, {"a": 1.0}, cost_of(2.0))


def test_the_parts_of_a_secure_sum_add_up_to_the_noise_of_one_release():
    parts = [noised({"a": MANY}, {"a": 1.0}, cost_of(2.0), members=4)["a"] for _ in range(4)]
    assert parts[0].std() == pytest.approx(1.0, rel=0.03)
    assert sum(parts).std() == pytest.approx(2.0, rel=0.03)


def test_noise_lies_on_the_steps_that_a_fixed_point_sum_has():
    found = noised({"a": MANY + 0.3}, {"a": 1000.0}, cost_of(2.0), grids={"a": 1.0})["a"]
    np.testing.assert_array_equal(np.rint(found), found)


def test_an_evaluation_releases_four_noisy_sums_of_the_federated_model_and_no_others():
    whole = Sums(users=400, hr=100.0, ndcg=60.0, recall=80.0, map=40.0, mrr=50.0, novelty=200.0).as_dict()
    numbers = {"federated": whole, "local": whole, "popularity": whole, "federated:few": whole}
    drawn = [noised_sums(numbers, cost_of(2.0))["federated"] for _ in range(300)]
    assert {name for one in drawn for name, value in one.items() if value} == {"users", "hr", "ndcg", "recall"}
    assert {type(one["users"]) for one in drawn} == {int}
    for name in ("users", "hr", "ndcg", "recall"):  # four sums of at most 1 each: L2 norm 2, noise 4
        values = np.array([one[name] for one in drawn])
        assert values.std() == pytest.approx(4.0, rel=0.25)
        assert values.mean() == pytest.approx(whole[name], abs=1.5)


def test_sums_with_noise_stay_sums_that_users_can_have():
    few = Sums(users=1, hr=1.0).as_dict()
    for _ in range(50):
        found = noised_sums({"federated": few}, cost_of(20.0))["federated"]
        assert all(0 <= found[name] <= found["users"] for name in ("hr", "ndcg", "recall"))


def test_a_second_try_draws_no_noise_anew(tmp_path):
    path = tmp_path / "noised" / "job"
    assert once(path, b"first") == b"first"
    assert once(path, b"second") == b"first"
    assert path.stat().st_mode & 0o077 == 0


def people(extra=()):
    """Three institutions of 50 users, and perhaps one person more, with the same five rows at each of `extra`."""
    frames = {}
    for name in "abc":
        user, item = np.repeat(np.arange(50), 5), np.arange(250) * 7 % 20
        if name in extra:
            user, item = np.append(user, [99] * 5), np.append(item, [0, 1, 2, 3, 4])
        frames[name] = pd.DataFrame({"user": user, "item": item, "timestamp": np.arange(len(user))})
    return simulate(frames, rating=None, catalogue=[str(item) for item in range(20)])


def test_one_person_moves_a_bounded_statistic_by_no_more_than_the_clip():
    plan = Plan(POPULAR)
    without, everywhere = (people(extra).train(plan).shared["counts"] for extra in ("", "abc"))
    one = people("b").train(plan).shared["counts"]
    assert 0.99 < np.linalg.norm(one - without) <= 1.0
    assert 2.99 < np.linalg.norm(everywhere - without) <= 3.0


def test_a_customer_of_three_institutions_is_told_apart_as_the_request_says():
    """The attack that is best against noise: project on the person's own row. Its distance in deviations is mu.

    mu = 3 clips / (sqrt(3) sigma) = sqrt(3 x cost), which is what `at_all` prints; mu of one institution's customer is
    the square root of 3 smaller. 400 draws give mu to +- .1.
    """
    cost = cost_of_plan(Plan(POPULAR, privacy=Privacy(epsilon=4.0)).spec)
    exact = {extra: [people(extra)._rows[name] for name in "abc"] for extra in ("", "abc")}
    counts = {
        extra: [POPULAR.fit_site(rows, SharedParams({}), PrivateParams({}))[0]["counts"] for rows in parts]
        for extra, parts in exact.items()
    }
    row = sum(counts["abc"]) - sum(counts[""])
    row /= np.linalg.norm(row)
    seen = {
        extra: [sum(noised({"n": n}, {"n": 1.0}, cost)["n"] for n in parts) @ row for _ in range(400)]
        for extra, parts in counts.items()
    }
    mu = (np.mean(seen["abc"]) - np.mean(seen[""])) / np.std(seen[""])
    assert mu == pytest.approx(np.sqrt(at_all(cost, 3, summed=False) / 1e12), abs=0.4)
    assert mu > 1.25 * np.sqrt(cost / 1e12)  # the control: it is more than one institution's epsilon says


def test_a_simulated_run_spends_what_its_plan_says_and_reports_it():
    plan = Plan(POPULAR, privacy=Privacy(epsilon=4.0), train=("p1",), evaluate=True)
    run = people().train(plan)
    trained = run.epsilon
    assert run.log[-1]["epsilon"] == trained
    table = run.evaluate()
    assert trained < run.epsilon <= 4.0
    assert set(table["scope"]) == {"federated"}
    assert set(run.log[-1]["weights"].values()) == {1.0}  # how many rows each has is not told
    with pytest.raises(WrongInput, match="under an epsilon"):
        run.worth()


def test_a_run_without_epsilon_has_none():
    run = people().train(Plan(POPULAR))
    assert run.epsilon is None
    assert run.log[-1]["epsilon"] is None
