"""Probabilities are judged by sums; the expected numbers are worked out by hand or pair by pair."""

import numpy as np
import pytest

from fedrec.core.features import from_values
from fedrec.core.interactions import Interactions
from fedrec.core.outcomes import Outcomes, measure, split_users


def patients(n=400, features=True):
    rng = np.random.default_rng(0)
    user = np.arange(n, dtype=np.int32)
    known = from_values({"age": rng.normal(50, 9, n).tolist()}, n) if features else None
    rating = rng.integers(0, 2, n).astype(np.float32)
    return Interactions(user, np.zeros(n, np.int32), rating, None, n, 1, known)


def test_sums_by_hand():
    """P = .8 for a yes and a no: log-loss -ln .8 - ln .2 = 1.8326, Brier .04 + .64; a tie, so AUC is a half."""
    means = measure(np.array([0.8, 0.8]), np.array([True, False])).means()
    assert means["log-loss"] == pytest.approx(1.832581 / 2, abs=1e-6)
    assert means["brier"] == pytest.approx(0.34)
    assert means["auc"] == 0.5


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    happened = rng.random(500) < 0.3
    logit = rng.normal(happened * 1.5, 1.0)
    pairs = logit[happened][:, None] - logit[~happened][None, :]
    right = float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())
    assert measure(1 / (1 + np.exp(-logit)), happened).means()["auc"] == pytest.approx(right, abs=0.003)


def test_sums_of_two_institutions_are_those_of_one_and_survive_json():
    rng = np.random.default_rng(1)
    p, happened = rng.random(100), rng.random(100) < 0.5
    both = measure(p[:40], happened[:40]) + measure(p[40:], happened[40:])
    whole = measure(p, happened)
    assert (both.users, both.yes, both.no) == (100, whole.yes, whole.no)
    assert both.log_loss == pytest.approx(whole.log_loss)
    assert Outcomes.from_dict(both.as_dict()) == both


def test_a_calibrated_prediction_has_a_smaller_error_than_one_that_is_too_sure():
    rng = np.random.default_rng(2)
    p = rng.uniform(0.2, 0.8, 20_000)
    happened = rng.random(20_000) < p
    sure = 1 / (1 + np.exp(-3 * np.log(p / (1 - p))))
    assert measure(p, happened).means()["calibration"] < 0.015
    assert measure(sure, happened).means()["calibration"] > 0.08


def test_no_number_is_the_worst_answer():
    means = measure(np.array([np.nan, np.nan]), np.array([True, False])).means()
    assert means["brier"] == pytest.approx(1.0)
    assert means["auc"] == 0.0


def test_nothing_judged_has_no_means():
    assert set(Outcomes().means().values()) == {None}
    assert measure(np.array([0.3]), np.array([True])).means()["auc"] is None


@pytest.mark.parametrize("protocol", ["p1", "p3", "validation"])
def test_a_fifth_of_the_users_is_held_out_and_never_trained_on(protocol):
    parts = split_users(patients(), protocol, 0)
    assert not set(parts.train.user) & set(parts.held.user)
    assert 0.15 < len(parts.held) / 400 < 0.25


def test_users_who_are_all_alike_are_dealt_out_too():
    parts = split_users(patients(features=False), "p1", 0)
    assert 0.15 < len(parts.held) / 400 < 0.25


def test_validation_users_are_not_test_users():
    held, validated = (split_users(patients(), protocol, 0).held.user for protocol in ("p1", "validation"))
    assert not set(held) & set(validated)


def test_who_is_held_out_does_not_depend_on_the_institution():
    rows = patients()
    part = rows.take(rows.user >= 100)
    alone = Interactions(part.user - 100, part.item, part.rating, None, 300, 1, rows.users.take(slice(100, None)))
    whole, mine = (split_users(r, "p1", 0).held.user for r in (rows, alone))
    assert [u - 100 for u in whole if u >= 100] == mine.tolist()
    assert split_users(rows, "p1", 1).held.user.tolist() != whole.tolist()
