"""Gaussian noise in whole numbers of a grid, from the operating system's cryptographic generator.

Noise in floats tells: which floats a sum of a value and a float of noise can be depends on the value, in its last
bits (Mironov 2012, CCS). So a value is put on a grid first, and the noise is a whole number of the grid's steps.
Source: Canonne, Kairouz, Steinke 2020, NeurIPS, algorithms 2 and 3, done for whole arrays: each candidate is accepted
with a chance that is right to 2^-53, which over 10^7 numbers moves delta by less than 10^-8.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedrec.core.params import Array

Source = Callable[[int], bytes]  # so many random bytes, each time others
FINE, COARSE = 2**45, 2**4  # steps of the grid in one deviation of the noise, at most and at least
STEPS = 2**24  # and as a rule: as fine as float32
BLOCK = 2**18  # candidates that are drawn at once
_TAIL = np.exp(-np.arange(1, 45.0)) * 2.0**63  # 2^63 times the chance that a geometric number is at least 1, 2, ...


def grid_for(deviation: float) -> float:
    """A grid for noise of this standard deviation: a power of two, so that sums of numbers on it are on it."""
    return 2.0 ** math.floor(math.log2(deviation)) / STEPS


def add_noise(values: Array, sensitivity: float, sigma: float, grid: float, random: Source = os.urandom) -> Array:
    """The values, rounded to the grid, with discrete Gaussian noise of `sigma` sensitivities.

    Rounding moves each number by half a step at most, so the sensitivity of what is rounded is larger by the grid times
    the root of their count; that is added here.

    Args:
        values: finite floats of any shape.
        sensitivity: largest L2 distance of `values` with and without one user; above 0.
        sigma: noise in sensitivities; above 0.
        grid: step, a power of two; the deviation of the noise has from 16 to 2^45 of them.
        random: bytes of a cryptographic generator.

    Returns:
        The same shape and dtype; every number is a multiple of `grid`.

    Raises:
        ValueError: a grid that is no power of two, or too fine or too coarse; values too large for it.
    """
    deviation = sigma * (sensitivity + grid * math.sqrt(values.size)) / grid
    if math.frexp(grid)[0] != 0.5 or not COARSE <= deviation <= FINE:
        raise ValueError(f"grid {grid!r}: a power of two, with {COARSE} to {FINE} steps in the noise's deviation")
    steps = np.rint(values.astype(np.float64).ravel() / grid)
    if not (np.abs(steps) < 2.0**60).all():
        raise ValueError("values: finite, and less than 2^60 steps of the grid")
    noisy = steps.astype(np.int64) + discrete_gaussian(values.size, deviation, random)
    found: Array = (noisy * grid).reshape(values.shape).astype(values.dtype)
    return found


def discrete_gaussian(count: int, deviation: float, random: Source = os.urandom) -> NDArray[np.int64]:
    """Whole numbers y with chances in proportion to exp(-y^2 / (2 deviation^2)); shape (count,).

    Args:
        deviation: in whole numbers, from 1 to 2^45.
    """
    width = 2 ** max(1, math.ceil(math.log2(deviation)))  # of the discrete Laplace numbers that it is made from
    found, have = np.empty(count, dtype=np.int64), 0
    while have < count:
        asked = min(BLOCK, 3 * (count - have) + 64)
        words = np.frombuffer(random(24 * asked), dtype="<u8").reshape(3, asked) >> np.uint64(1)  # 63 bits each
        low = (words[0] & np.uint64(width - 1)).astype(np.int64)
        high = len(_TAIL) - np.searchsorted(_TAIL[::-1], words[1].astype(np.float64), side="right")
        size = low + width * high
        negative = (words[0] >> np.uint64(62)).astype(np.bool_)  # a bit that `low` does not use
        # chance of a candidate: its own geometric part is in it already, so take that out and put the Gaussian's in
        chance = np.exp(-low / width - (size - deviation**2 / width) ** 2 / (2 * deviation**2))
        taken = (words[2] >> np.uint64(10)).astype(np.float64) * 2.0**-53 < chance
        taken &= ~(negative & (size == 0))  # else 0 would come twice as often
        good = np.where(negative, -size, size)[taken][: count - have]
        found[have : have + len(good)] = good
        have += len(good)
    return found
