"""The arithmetic that aggregators share: streaming sums, coordinates side by side, weights of sites."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fedrec.aggregation.update import SiteUpdate
from fedrec.core.params import Array, SharedParams
from fedrec.errors import Refused

NEXT = "The round was not merged; look at the sites' answers and send it again"
BLOCK = 250_000  # numbers that `by_coordinate` holds at once, over all sites


def combine(updates: Sequence[SiteUpdate], weights: Sequence[float]) -> SharedParams:
    """sum of w_i theta_i in the order given; memory does not grow with the number of updates.

    Raises:
        Refused: `update.missing` without updates, `update.shape` when they differ in names or shapes.
    """
    if not updates:
        raise Refused("update.missing", "no site sent an update", NEXT)
    first: SiteUpdate | None = None
    total: dict[str, Array] = {}
    for update, weight in zip(updates, weights, strict=True):
        theirs = update.tensors.tensors
        if first is None:
            first = update
            total = {name: np.zeros(array.shape, dtype=np.float64) for name, array in theirs.items()}
        _same(first, update)
        for name, array in theirs.items():
            total[name] += array if weight == 1.0 else weight * array.astype(np.float64)
    assert first is not None
    return SharedParams({name: array.astype(first.tensors[name].dtype) for name, array in total.items()})


def by_coordinate(updates: Sequence[SiteUpdate], rule: Callable[[Array], Array]) -> SharedParams:
    """Every number by a rule over the sites' values of it, some coordinates at a time.

    Args:
        rule: values of shape (coordinates, sites) → shape (coordinates,).

    Raises:
        Refused: as `combine`.
    """
    checked(updates)
    found = {}
    step = max(1, BLOCK // len(updates))
    for name, first in updates[0].tensors.tensors.items():
        flat = [update.tensors[name].reshape(-1) for update in updates]
        out = np.empty(first.size, dtype=first.dtype)

        def block(low: int, flat: Sequence[Array] = flat, out: Array = out) -> None:
            values = np.stack([one[low : low + step] for one in flat])
            out[low : low + step] = rule(np.ascontiguousarray(values.T))

        with ThreadPoolExecutor(os.cpu_count()) as threads:  # each number by itself: the same bytes on any of them
            list(threads.map(block, range(0, first.size, step)))
        found[name] = out.reshape(first.shape)
    return SharedParams(found)


def flat_blocks(updates: Sequence[SiteUpdate]) -> Iterator[Array]:
    """All numbers as matrices of shape (sites, coordinates), in float64, no larger than `BLOCK` each."""
    checked(updates)
    step = max(1, BLOCK // len(updates))
    for name in updates[0].tensors.tensors:
        flat = [update.tensors[name].reshape(-1) for update in updates]
        for low in range(0, flat[0].size, step):
            yield np.stack([values[low : low + step] for values in flat]).astype(np.float64)


def norm(tensors: SharedParams) -> float:
    """The L2 norm over all numbers of all arrays."""
    return float(np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in tensors.tensors.values())))


def checked(updates: Sequence[SiteUpdate]) -> None:
    """Raises: Refused `update.missing` without updates, `update.shape` when they differ in names or shapes."""
    if not updates:
        raise Refused("update.missing", "no site sent an update", NEXT)
    for update in updates:
        _same(updates[0], update)


def _same(first: SiteUpdate, update: SiteUpdate) -> None:
    one, other = first.tensors.tensors, update.tensors.tensors
    if other.keys() != one.keys() or any(other[name].shape != one[name].shape for name in one):
        raise Refused("update.shape", f"the update of {update.site} has other arrays than that of {first.site}", NEXT)
