"""How the centre turns the sites' contributions into one step.

Contributions are added in the order given, in float64, and sent on in their own dtype; the caller sorts
them by consortium.toml, so that one set of updates has one result. Updates stay as they are.
"""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fedrec.aggregation.update import SiteUpdate
from fedrec.core.optim import Adam as AdamSteps
from fedrec.core.optim import State
from fedrec.core.params import Array, SharedParams
from fedrec.errors import Refused, WrongInput


class Aggregator(Protocol):
    """Pure values: state goes in, state comes out. The state is a flat dict of arrays."""

    def init(self, shared: SharedParams) -> State:
        """The state before the first round."""
        ...

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        """What `Model.finish` gets as `merged`, and the next state."""
        ...


@dataclass(frozen=True, slots=True)
class Sum:
    """theta = sum of contributions: for statistics. Exact for whole numbers below 2**24."""

    def init(self, shared: SharedParams) -> State:
        return {}

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        return combine(updates, [1.0] * len(updates)), state


@dataclass(frozen=True, slots=True)
class Mean:
    """theta = (1/N) sum of contributions, whatever their size; with two sites (theta_A + theta_B) / 2."""

    def init(self, shared: SharedParams) -> State:
        return {}

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        return combine(updates, [1.0 / max(1, len(updates))] * len(updates)), state


@dataclass(frozen=True, slots=True)
class WeightedMean:
    """theta = sum w_i theta_i / sum w_i: gradients of mean losses become the gradient over all rows.

    Trusts the weights that the sites report.
    Source: McMahan et al. 2017, AISTATS, algorithm 1.

    Args:
        by: what w_i counts; "interactions", the train rows.
    """

    by: str = "interactions"

    def __post_init__(self) -> None:
        if self.by != "interactions":
            raise WrongInput(f"weighted-mean.by must be 'interactions', not {self.by!r}")

    def init(self, shared: SharedParams) -> State:
        return {}

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        weights = [update.weight for update in updates]
        for update in updates:
            if not (np.isfinite(update.weight) and update.weight >= 0):
                raise _refused("weight", f"the weight of {update.site} is no number of rows")
        total = sum(weights)
        if total <= 0:
            raise _refused("weight", "no site has rows to train on")
        return combine(updates, [weight / total for weight in weights]), state


@dataclass(frozen=True, slots=True)
class Adam:
    """The centre's optimiser over an aggregated gradient; fits one gradient a round.

    Source: Reddi et al. 2021, Adaptive federated optimization, ICLR, algorithm 2, with decoupled weight
    decay and bias correction (core.optim.Adam). The defaults are the recipe of quality.md.

    Args:
        lr: learning rate; beta1, beta2, eps, weight_decay as in core.optim.Adam.
        inner: merges the sites' gradients.
    """

    lr: float = 0.03
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.03
    inner: Aggregator = field(default_factory=WeightedMean)

    def __post_init__(self) -> None:
        betas = 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1
        if not (betas and self.lr > 0 and self.eps > 0 and self.weight_decay >= 0):
            raise WrongInput("adam: lr and eps must be above 0, betas in [0, 1), weight_decay at least 0")

    @property
    def _steps(self) -> AdamSteps:
        return AdamSteps(self.lr, self.beta1, self.beta2, self.eps, self.weight_decay)

    def init(self, shared: SharedParams) -> State:
        return {**self._steps.init(shared), **_prefixed(self.inner.init(shared))}

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        before = {name[len(_INNER) :]: array for name, array in state.items() if name.startswith(_INNER)}
        gradient, inner = self.inner.apply(before, shared, updates)
        step, after = self._steps.apply(state, shared, gradient)
        return step, {**after, **_prefixed(inner)}


def combine(updates: Sequence[SiteUpdate], weights: Sequence[float]) -> SharedParams:
    """sum of w_i theta_i in the order given; memory does not grow with the number of updates.

    Raises:
        Refused: `update.missing` without updates, `update.shape` when they differ in names or shapes.
    """
    if not updates:
        raise _refused("missing", "no site sent an update")
    first = updates[0].tensors.tensors
    total: dict[str, Array] = {name: np.zeros(array.shape, dtype=np.float64) for name, array in first.items()}
    for update, weight in zip(updates, weights, strict=True):
        theirs = update.tensors.tensors
        if theirs.keys() != first.keys() or any(theirs[name].shape != first[name].shape for name in first):
            raise _refused("shape", f"the update of {update.site} has other arrays than that of {updates[0].site}")
        for name, array in theirs.items():
            total[name] += array if weight == 1.0 else weight * array.astype(np.float64)
    return SharedParams({name: array.astype(first[name].dtype) for name, array in total.items()})


_INNER = "inner."


def _prefixed(state: State) -> State:
    return {_INNER + name: array for name, array in state.items()}


def _refused(part: str, reason: str) -> Refused:
    return Refused(f"update.{part}", reason, "The round was not merged; look at the sites' answers and send it again")
