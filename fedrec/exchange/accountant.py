"""What noise costs: user-level differential privacy of Gaussian releases, in whole numbers that add up.

A release with noise of `sigma` L2 sensitivities costs 1 / sigma^2, and costs add: any sequence of Gaussian releases,
also one where each depends on those before, is as private as a single one with the summed cost. So a ledger keeps
whole numbers (`UNIT` = a cost of 1) and makes epsilon of their sum; nothing is lost by adding in another order.
Unit of privacy: one person added or removed, with all rows at one institution.

Source: Dong, Roth, Su 2022, Gaussian differential privacy, JRSS B 84, corollary 3.3 (composition) and 2.13
(epsilon, delta); the same formula in Balle and Wang 2018, ICML, theorem 8.
"""

from __future__ import annotations

import math

from scipy.special import log_ndtr

UNIT = 10**12  # a cost of 1, of one release whose noise is one sensitivity
MARGIN = 1e-4  # of every epsilon, and a tenth of it besides: pays for the grid and for rounding
MOST = 10**5  # epsilon above this is no promise


def cost_of(sigma: float) -> int:
    """The cost of one release, rounded up; `sigma` in L2 sensitivities, above 0."""
    return math.ceil(UNIT / sigma**2)


def sigma_of(cost: int) -> float:
    """The noise, in L2 sensitivities, of one release that costs no more than this; `cost` at least 1."""
    return math.sqrt(UNIT / cost)


def epsilon_of(cost: int, delta: float) -> float:
    """Epsilon of releases that cost this much together, never below the true one; inf where it is above `MOST`.

    Args:
        delta: the chance that epsilon does not hold; above 0, below 1.
    """
    if cost <= 0:
        return 0.0
    mu = math.sqrt(cost / UNIT)
    if _delta(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while _delta(high, mu) > delta:
        low, high = high, 2 * high
        if high > MOST:
            return math.inf
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(middle, mu) > delta else (low, middle)
    return high * (1 + MARGIN) + MARGIN / 10


def cost_within(epsilon: float, delta: float) -> int:
    """The largest cost whose epsilon is not above this one."""
    low, high = 0, UNIT
    while epsilon_of(high, delta) <= epsilon:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if epsilon_of(middle, delta) <= epsilon else (low, middle)
    return low


def calibrated(epsilon: float, delta: float, releases: int = 1) -> float:
    """The noise, in L2 sensitivities, of each of so many releases that keep epsilon together."""
    return sigma_of(cost_within(epsilon, delta) // releases)


def at_all(cost: int, institutions: int, summed: bool) -> int:
    """The cost for a person who is a customer of every institution, of a plan that costs `cost` at each.

    Args:
        summed: a secure sum: the noise of all institutions together is that of one plain release, and this person is
            in the sum once for each; else each institution's release has the whole noise.
    """
    return cost * institutions ** (2 if summed else 1)


def _delta(epsilon: float, mu: float) -> float:
    """The least delta of a Gaussian release with mean distance `mu` in deviations of the noise."""
    first, second = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(-math.expm1(min(second - first, 0.0)) * math.exp(first))
