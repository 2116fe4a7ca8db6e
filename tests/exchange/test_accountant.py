"""Epsilon of a ledger's whole numbers, against an accountant that fedrec did not write."""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st

from fedrec.exchange.accountant import UNIT, at_all, calibrated, cost_of, cost_within, epsilon_of, sigma_of

DELTA = 1e-5


@pytest.mark.parametrize(("epsilon", "sigma"), [(1, 3.7306), (2, 1.9938), (4, 1.0812), (8, 0.6002)])
def test_one_release_has_the_noise_that_is_published(epsilon, sigma):
    """shared/quality.md, from dp-accounting's PLD."""
    assert calibrated(epsilon, DELTA) == pytest.approx(sigma, rel=2e-4)


def test_epsilon_is_never_below_an_independent_accountants_on_200_random_schedules():
    """Nor above that of RDP, which is known to give too much away."""
    random = np.random.default_rng(11)
    for _ in range(200):
        sigmas = np.exp(random.uniform(math.log(0.8), math.log(60), random.integers(1, 4)))
        times, delta = random.integers(1, 40, len(sigmas)), 10.0 ** -int(random.integers(4, 9))
        tight, loose = PLDAccountant(value_discretization_interval=1e-3), RdpAccountant()
        for sigma, count in zip(sigmas, times, strict=True):
            tight.compose(dp_accounting.GaussianDpEvent(sigma), int(count))
            loose.compose(dp_accounting.GaussianDpEvent(sigma), int(count))
        spent = sum(int(count) * cost_of(sigma) for sigma, count in zip(sigmas, times, strict=True))
        assert tight.get_epsilon(delta) <= epsilon_of(spent, delta) <= loose.get_epsilon(delta)


@given(st.floats(0.01, 100), st.sampled_from([1e-3, 1e-5, 1e-9]), st.integers(1, 500))
def test_a_budget_split_over_releases_is_kept_and_used_up(epsilon, delta, releases):
    spent = releases * cost_of(calibrated(epsilon, delta, releases))
    assert epsilon_of(spent - 2 * releases, delta) <= epsilon  # each cost is rounded up, by two at most
    assert epsilon_of(spent, delta) > 0.999 * epsilon


@given(st.floats(1e-3, 1e3))
def test_noise_and_cost_are_inverse_and_no_cost_is_rounded_down(sigma):
    cost = cost_of(sigma)
    assert cost >= UNIT / sigma**2
    assert sigma_of(cost) <= sigma
    assert sigma_of(cost) == pytest.approx(sigma, rel=1e-5)


def test_nothing_released_costs_nothing_and_too_much_is_no_promise():
    assert epsilon_of(0, DELTA) == 0
    assert epsilon_of(10**6 * UNIT, DELTA) == math.inf
    assert epsilon_of(cost_of(1e6), DELTA) == 0  # even epsilon 0 holds but for less than delta


def test_more_noise_for_longer_runs_and_less_for_larger_budgets():
    assert calibrated(4, DELTA, 30) > calibrated(4, DELTA, 10) > calibrated(8, DELTA, 10)
    assert cost_within(4, 1e-7) < cost_within(4, DELTA)


def test_a_customer_of_four_institutions_has_spent_at_all_of_them():
    """By hand: four releases of sigma 2 are as one of sigma 1; in a secure sum four parts of one are one of sigma .5."""
    one = cost_of(2.0)
    assert at_all(one, 4, summed=False) == cost_of(1.0)
    assert at_all(one, 4, summed=True) == cost_of(0.5)
