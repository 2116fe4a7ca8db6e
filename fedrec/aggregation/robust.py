"""Aggregators that bound what dishonest institutions can do.

Each ignores the weights that sites report: a liar would also lie about its size. So a small institution counts
as much as a large one, and where tastes differ much between institutions the rare taste is cut off as a lie is.
They merge what comes: gradients need an optimiser round them, such as Adam(inner=TrimmedMean(1)).
"""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrec.aggregation.merge import NEXT, by_coordinate, checked, combine, flat_blocks, norm
from fedrec.aggregation.update import SiteUpdate
from fedrec.core.optim import State
from fedrec.core.params import Array, SharedParams
from fedrec.errors import Refused, WrongInput


class _Robust:
    """No state, no weights."""

    __slots__ = ()
    descends: ClassVar[bool] = False

    def init(self, shared: SharedParams) -> State:
        return {}


@dataclass(frozen=True, slots=True)
class CoordinateMedian(_Robust):
    """Per coordinate, the middle value.

    Assumes that the honest sites' values lie around one centre. Survives fewer than half of the sites; each
    result lies between two honest values. With two institutions it is the mean.
    Source: Yin et al. 2018, Byzantine-robust distributed learning, ICML, algorithm 1, option I.
    """

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        return by_coordinate(updates, _median), state

    def survives(self, sites: int) -> int:
        return (sites - 1) // 2


@dataclass(frozen=True, slots=True)
class TrimmedMean(_Robust):
    """Per coordinate, drop the `trim` smallest and largest values; average the rest.

    Survives `trim` bad sites of at least 2 trim + 1; each result lies between two honest values.
    Source: Yin et al. 2018, ICML, algorithm 1, option II.

    Args:
        trim: sites dropped at each end.
    """

    trim: int = 1

    def __post_init__(self) -> None:
        _whole("trimmed-mean.trim", self.trim, 1)

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        _enough(updates, 2 * self.trim + 1, "the trimmed mean")

        def rule(values: Array) -> Array:
            ordered = np.sort(values, axis=1)[:, self.trim : values.shape[1] - self.trim]
            found: Array = ordered.mean(axis=1, dtype=np.float64)
            return found

        return by_coordinate(updates, rule), state

    def survives(self, sites: int) -> int:
        return self.trim if sites > 2 * self.trim else 0


@dataclass(frozen=True, slots=True)
class NormBound(_Robust):
    """Scale every contribution down to an L2 norm of at most `bound`, then take the mean.

    Ends scaling attacks; a bad site still moves the mean by up to bound / N in a direction of its choice. For
    gradients and parameters after local epochs (where it bounds what they moved), not for statistics.
    With the median as bound, fewer than half of the sites cannot raise it.
    Source: Sun et al. 2019, Can you really backdoor federated learning?, section 3.

    Args:
        bound: in the units of the contribution; 0 takes the median norm of the round.
    """

    bound: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound >= 0):
            raise WrongInput(f"norm-bound.bound must be 0 or more and finite, not {self.bound!r}")

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        norms = [norm(update.tensors) for update in updates]
        bound = self.bound or float(np.median(norms)) if norms else 0.0
        factors = [min(1.0, bound / length) if length else 1.0 for length in norms]
        return combine(updates, [factor / len(updates) for factor in factors]), state

    def survives(self, sites: int) -> int:
        return sites if self.bound else (sites - 1) // 2


@dataclass(frozen=True, slots=True)
class GeometricMedian(_Robust):
    """The point with the least sum of distances to all contributions, by smoothed Weiszfeld steps.

    Survives fewer than half of the sites, and turns with the data: it looks at whole updates, not at coordinates.
    Source: Pillutla, Kakade, Harchaoui 2022, Robust aggregation for federated learning, IEEE TSP, algorithm 2;
    started at the coordinate median, so that few steps are enough whatever a liar sends.

    Args:
        steps: Weiszfeld steps.
    """

    steps: int = 8

    def __post_init__(self) -> None:
        _whole("geometric-median.steps", self.steps, 1)

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        point = by_coordinate(updates, _median)
        for _ in range(self.steps):
            away = [_distance(update.tensors, point) for update in updates]
            least = 1e-6 * float(np.median(away)) or 1e-30
            near = [1.0 / max(length, least) for length in away]
            point = combine(updates, [weight / math.fsum(near) for weight in near])
        return point, state

    def survives(self, sites: int) -> int:
        return (sites - 1) // 2


@dataclass(frozen=True, slots=True)
class MultiKrum(_Robust):
    """The mean of the `keep` contributions that lie closest to their neighbours.

    A contribution's score is the sum of its squared distances to the N - bad - 2 nearest others. Needs
    N >= 2 bad + 3, so five institutions for one bad site. Assumes that honest updates resemble each other.
    Source: Blanchard et al. 2017, Machine learning with adversaries, NeurIPS, sections 4 and 5.

    Args:
        bad: how many sites may be dishonest.
        keep: contributions averaged; 0 takes N - bad - 2.
    """

    bad: int = 1
    keep: int = 0

    def __post_init__(self) -> None:
        _whole("multi-krum.bad", self.bad, 0)
        _whole("multi-krum.keep", self.keep, 0)

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        _enough(updates, 2 * self.bad + 3, "Krum")
        count = len(updates)
        keep = min(self.keep or count, count - self.bad - 2)
        best = set(_krum_order(updates, self.bad)[:keep])
        return combine([u for i, u in enumerate(updates) if i in best], [1.0 / keep] * keep), state

    def survives(self, sites: int) -> int:
        return self.bad if sites >= 2 * self.bad + 3 else 0


@dataclass(frozen=True, slots=True)
class Krum(_Robust):
    """The one contribution that lies closest to its neighbours: MultiKrum with keep = 1.

    Throws the work of all other sites away, every round. Needs N >= 2 bad + 3.
    Source: Blanchard et al. 2017, NeurIPS, section 4.

    Args:
        bad: how many sites may be dishonest.
    """

    bad: int = 1

    def __post_init__(self) -> None:
        _whole("krum.bad", self.bad, 0)

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        return MultiKrum(self.bad, 1).apply(state, shared, updates)

    def survives(self, sites: int) -> int:
        return MultiKrum(self.bad).survives(sites)


def _krum_order(updates: Sequence[SiteUpdate], bad: int) -> list[int]:
    """Positions, best score first; equal scores by the site's name, so that the order of sites does not decide."""
    product: Array = np.zeros((len(updates), len(updates)))
    for block in flat_blocks(updates):
        product += block @ block.T
    square = np.diag(product)
    distance = np.maximum(square[:, None] + square[None, :] - 2 * product, 0.0)
    np.fill_diagonal(distance, np.inf)
    score = np.sort(distance, axis=1)[:, : len(updates) - bad - 2].sum(axis=1)
    return sorted(range(len(updates)), key=lambda i: (float(f"{score[i]:.6e}"), updates[i].site))


def _median(values: Array) -> Array:
    ordered, count = np.sort(values, axis=1), values.shape[1]  # twice as fast here as np.median
    found: Array = (ordered[:, (count - 1) // 2].astype(np.float64) + ordered[:, count // 2]) / 2
    return found


def _distance(tensors: SharedParams, point: SharedParams) -> float:
    parts = (np.sum(np.square(array.astype(np.float64) - point[name])) for name, array in tensors.tensors.items())
    return math.sqrt(sum(float(part) for part in parts))


def _enough(updates: Sequence[SiteUpdate], least: int, name: str) -> None:
    checked(updates)
    if len(updates) < least:
        raise Refused("update.few", f"{name} needs {least} updates, {len(updates)} came", NEXT)


def _whole(name: str, value: int, least: int) -> None:
    if value < least:
        raise WrongInput(f"{name} must be {least} or more, not {value}")
