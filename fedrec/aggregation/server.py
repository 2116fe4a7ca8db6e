"""The centre's optimisers, wrapped round any aggregator that merges gradients.

Source of all four: Reddi et al. 2021, Adaptive federated optimization, ICLR, algorithm 2. For parameters after
local epochs the "gradient" is theta - theta_i, what the sites moved, with its sign turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from fedrec.aggregation.aggregators import Aggregator, WeightedMean
from fedrec.aggregation.update import SiteUpdate
from fedrec.core import optim
from fedrec.core.optim import Optimiser, State
from fedrec.core.params import SharedParams
from fedrec.errors import WrongInput

_INNER = "inner."


class _Server:
    """Merge with `inner`, then one step of the optimiser with this class's settings."""

    __slots__ = ()
    descends: ClassVar[bool] = True
    optimiser: ClassVar[type[Any]]
    inner: Aggregator

    def __post_init__(self) -> None:
        if self.inner.descends:
            raise WrongInput("an optimiser wraps what merges gradients, not what already steps against them")
        self._steps  # noqa: B018  checks the settings

    @property
    def _steps(self) -> Optimiser:
        made: Optimiser = self.optimiser(**{key.name: getattr(self, key.name) for key in fields(self.optimiser)})
        return made

    def init(self, shared: SharedParams) -> State:
        return {**self._steps.init(shared), **_prefixed(self.inner.init(shared))}

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        before = {name[len(_INNER) :]: array for name, array in state.items() if name.startswith(_INNER)}
        own = {name: array for name, array in state.items() if not name.startswith(_INNER)}
        gradient, inner = self.inner.apply(before, shared, updates)
        step, after = self._steps.apply(own, shared, gradient)
        return step, {**after, **_prefixed(inner)}

    def survives(self, sites: int) -> int:
        return self.inner.survives(sites)


@dataclass(frozen=True, slots=True)
class Adam(_Server):
    """The centre's Adam over an aggregated gradient; fits one gradient a round.

    With decoupled weight decay and bias correction (core.optim.Adam). The defaults are the recipe of quality.md.

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

    optimiser: ClassVar[type[Any]] = optim.Adam


@dataclass(frozen=True, slots=True)
class Momentum(_Server):
    """The centre's momentum: steps keep a share of the last direction. For parameters, lr = 1 and beta = 0 is FedAvg.

    Args:
        lr: learning rate; beta as in core.optim.Momentum.
        inner: merges the sites' contributions.
    """

    lr: float = 1.0
    beta: float = 0.9
    inner: Aggregator = field(default_factory=WeightedMean)

    optimiser: ClassVar[type[Any]] = optim.Momentum


@dataclass(frozen=True, slots=True)
class Adagrad(_Server):
    """The centre's Adagrad: rare items keep a large step, popular ones a small.

    Args:
        lr: learning rate; beta1, eps as in core.optim.Adagrad.
        inner: merges the sites' contributions.
    """

    lr: float = 0.1
    beta1: float = 0.0
    eps: float = 1e-8
    inner: Aggregator = field(default_factory=WeightedMean)

    optimiser: ClassVar[type[Any]] = optim.Adagrad


@dataclass(frozen=True, slots=True)
class Yogi(_Server):
    """The centre's Yogi: as Adam, steadier when gradients come in bursts.

    Args:
        lr: learning rate; beta1, beta2, eps as in core.optim.Yogi.
        inner: merges the sites' contributions.
    """

    lr: float = 0.03
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    inner: Aggregator = field(default_factory=WeightedMean)

    optimiser: ClassVar[type[Any]] = optim.Yogi


def _prefixed(state: State) -> State:
    return {_INNER + name: array for name, array in state.items()}
