"""Randomness that depends on what a user touched, not on where the user stands in a file.

A generator drawn from row by row would give other test items as soon as the same users are spread
over other institutions. Hashes of (seed, items) give the same draw for every number of sites.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fedrec.core.interactions import Interactions


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash of each number, uniform over 64 bits; the same shape.

    Source: Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators (SplitMix64).
    """
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def item_keys(n_items: int, seed: int) -> NDArray[np.uint64]:
    """One hash per item of the catalogue; shape (n_items,)."""
    start = mix(np.array([seed % 2**63], dtype=np.uint64))
    return mix(np.arange(n_items, dtype=np.uint64) ^ start)


def user_keys(rows: Interactions, seed: int) -> NDArray[np.uint64]:
    """One hash per user, of the items that the user touched; shape (n_users,).

    Neither the user's index nor the order of the rows counts; two users with equal items share a key.
    """
    total = np.zeros(len(rows) + 1, dtype=np.uint64)
    np.cumsum(item_keys(rows.n_items, seed)[rows.item], out=total[1:])
    bounds = np.searchsorted(rows.user, np.arange(rows.n_users + 1))
    return mix(total[bounds[1:]] - total[bounds[:-1]])
