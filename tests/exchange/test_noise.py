"""The noise: its law, its grid, and that it is enough whatever the shape."""

from __future__ import annotations

import os

import numpy as np
import pytest

from fedrec.exchange.noise import add_noise, discrete_gaussian, grid_for


def stream(seed: int):
    """Bytes that repeat: for tests only."""
    return np.random.default_rng(seed).bytes


@pytest.mark.parametrize("deviation", [2.5, 16.0, 31.9])
def test_whole_numbers_follow_the_discrete_gaussian(deviation):
    """Chi square over the bins within four deviations; 99.99 % of right samples are below the bound."""
    found = discrete_gaussian(200_000, deviation, stream(3))
    most = int(4 * deviation)
    all_ = np.exp(-(np.arange(-100 * most, 100 * most + 1) ** 2) / (2 * deviation**2))
    bins = np.arange(-most, most + 1)
    wanted = len(found) * np.exp(-(bins**2) / (2 * deviation**2)) / all_.sum()
    seen = np.bincount(found[np.abs(found) <= most] + most, minlength=len(bins))
    square = ((seen - wanted) ** 2 / wanted).sum()
    assert square < len(bins) + 4 * np.sqrt(2 * len(bins))


def test_the_noise_has_the_size_that_was_asked_for():
    """10,000 draws; the deviation of a sample's deviation is 1 / sqrt(20,000) of it, five of them are 3.6 %."""
    values = np.zeros(10_000)
    noisy = add_noise(values, 3.0, 2.0, grid_for(6.0))
    assert noisy.std() == pytest.approx(6.0, rel=0.036)
    assert abs(noisy.mean()) < 0.3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_released_number_is_on_the_grid(dtype):
    values = np.random.default_rng(0).normal(0, 40, (30, 20)).astype(dtype)
    grid = grid_for(1.5)
    noisy = add_noise(values, 1.0, 1.5, grid)
    assert noisy.dtype == dtype
    assert noisy.shape == values.shape
    np.testing.assert_array_equal(np.rint(noisy / grid) * grid, noisy)


def test_a_coarse_grid_pays_for_its_rounding():
    """Rounding may move a neighbour's 10,000 numbers by half a step each: 100 steps more in L2, worked out by hand."""
    noisy = add_noise(np.zeros(10_000), 100.0, 1.0, 1.0)
    assert noisy.std() == pytest.approx(200.0, rel=0.05)


def test_noise_comes_from_the_given_source_and_by_default_from_the_operating_system():
    values = np.zeros(50)
    again = [add_noise(values, 1.0, 1.0, grid_for(1.0), stream(1)) for _ in range(2)]
    np.testing.assert_array_equal(*again)
    assert add_noise.__defaults__ == (os.urandom,)
    assert (add_noise(values, 1.0, 1.0, grid_for(1.0)) != again[0]).any()


@pytest.mark.parametrize("grid", [0.3, 2.0**-50, 1.0])
def test_a_grid_that_is_none_or_does_not_fit_the_noise_is_an_error(grid):
    with pytest.raises(ValueError, match="grid"):
        add_noise(np.zeros(3), 1.0, 1.0, grid)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_value_that_has_no_place_on_the_grid_is_an_error(bad):
    with pytest.raises(ValueError, match="finite"):
        add_noise(np.array([bad]), 1.0, 1.0, grid_for(1.0))
