"""The float leak: noise in floats tells the value in its last bits. Control: numpy's noise does."""

from __future__ import annotations

import numpy as np
import pytest

from fedrec.exchange.noise import add_noise, grid_for

TRIES = 2000


def naive(value: float, random: np.random.Generator) -> float:
    """A float plus a float of noise: what most code does."""
    return float(value + random.normal())


def told(released: float, grid: float) -> bool:
    """The attacker's question: is this number off the grid of whole steps around 0? Around 0 no noise was rounded."""
    return np.rint(released / grid) * grid != released


@pytest.mark.parametrize("defence", [True, False])
def test_the_last_bits_of_a_release_tell_nobody_which_neighbour_it_is(defence):
    """Without the user the value is 0, with him 1. Small noise added to 1 loses its bits below 2^-52; added to 0 not.

    So a release below 1/2 with finer bits than 2^-53 was made from 0, for certain, whatever epsilon says.
    """
    random, grid = np.random.default_rng(4), grid_for(1.0) if defence else 2.0**-53
    right = {0.0: 0, 1.0: 0}
    for value in right:
        for _ in range(TRIES):
            out = float(add_noise(np.array([value]), 1.0, 1.0, grid)[0]) if defence else naive(value, random)
            right[value] += abs(out) < 0.5 and told(out, grid)
    if defence:
        assert right == {0.0: 0, 1.0: 0}
    else:  # the control: never said of 1, and said of 0 for a good part of its releases
        assert right[1.0] == 0
        assert right[0.0] > TRIES / 20
