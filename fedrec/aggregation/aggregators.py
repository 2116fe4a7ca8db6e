"""How the centre turns the sites' contributions into one: sums and means, and steps against gradients.

Contributions are added in the order given, in float64, and sent on in their own dtype; the caller sorts
them by consortium.toml, so that one set of updates has one result. Updates stay as they are.
"""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from fedrec.aggregation.merge import NEXT, combine
from fedrec.aggregation.update import SiteUpdate
from fedrec.core.optim import State
from fedrec.core.params import SharedParams
from fedrec.errors import Refused, WrongInput

WEIGHTS = ("interactions", "users", "data-quality", "model-quality")
CLAIMS = {"data-quality", "model-quality"}  # shares in [0, 1] that a site says of itself
MOST = 3.0  # a claim counts at most so many times the median of all


class Aggregator(Protocol):
    """Pure values: state goes in, state comes out. The state is a flat dict of arrays.

    Attributes:
        descends: it takes gradients and steps against them; False: it merges whatever comes.
    """

    descends: ClassVar[bool]

    def init(self, shared: SharedParams) -> State:
        """The state before the first round."""
        ...

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        """What `Model.finish` gets as `merged`, and the next state."""
        ...

    def survives(self, sites: int) -> int:
        """How many of so many sites may send anything at all, and the result stays near what the others sent."""
        ...


class _Trusting:
    """No state, and one bad site is one too many."""

    __slots__ = ()
    descends: ClassVar[bool] = False

    def init(self, shared: SharedParams) -> State:
        return {}

    def survives(self, sites: int) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Sum(_Trusting):
    """theta = sum of contributions: for statistics. Exact for whole numbers below 2**24."""

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        return combine(updates, [1.0] * len(updates)), state


@dataclass(frozen=True, slots=True)
class Mean(_Trusting):
    """theta = (1/N) sum of contributions, whatever their size; with two sites (theta_A + theta_B) / 2."""

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        return combine(updates, [1.0 / max(1, len(updates))] * len(updates)), state


@dataclass(frozen=True, slots=True)
class WeightedMean(_Trusting):
    """theta = sum w_i theta_i / sum w_i: gradients of mean losses become the gradient over all rows.

    Trusts the numbers that the sites report; a quality is held to [0, 1] and to three times the median of all,
    because a liar gains by it.
    Source: McMahan et al. 2017, AISTATS, algorithm 1.

    Args:
        by: what w_i counts: "interactions" (train rows), "users", "data-quality" (the score of the site's intake),
            "model-quality" (of its model on its own validation rows, see `Stop`), or a product such as
            "interactions*model-quality".
    """

    by: str = "interactions"

    def __post_init__(self) -> None:
        factors = self.by.split("*")
        if not set(factors) <= set(WEIGHTS) or len(set(factors)) != len(factors):
            allowed = ", ".join(repr(name) for name in WEIGHTS)
            raise WrongInput(f"weighted-mean.by must be one of {allowed} or a product of them, not {self.by!r}")

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        weights = [1.0] * len(updates)
        for factor in self.by.split("*"):
            weights = [a * b for a, b in zip(weights, _weights(factor, updates), strict=True)]
        total = sum(weights)
        if total <= 0:
            raise Refused("update.weight", f"no site has a weight by {self.by} above 0", NEXT)
        return combine(updates, [weight / total for weight in weights]), state


@dataclass(frozen=True, slots=True)
class GradientMean(_Trusting):
    """theta ← theta - alpha (1/N) sum of gradients: the article's first gradient form.

    Args:
        alpha: learning rate.
    """

    alpha: float = 0.1

    descends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _positive("gradient-mean.alpha", self.alpha)

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        return combine(updates, [-self.alpha / max(1, len(updates))] * len(updates)), state


@dataclass(frozen=True, slots=True)
class GradientSum(_Trusting):
    """theta ← theta - sum of alpha_i gradient_i: one learning rate per institution, the article's second form.

    With equal rates it steps N times as far as `GradientMean`.

    Args:
        alpha: the rate of every institution that is not named.
        sites: institutions with rates of their own.
        alphas: their rates, in the same order.
    """

    alpha: float = 0.1
    sites: tuple[str, ...] = ()
    alphas: tuple[float, ...] = ()

    descends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if len(self.sites) != len(self.alphas) or len(set(self.sites)) != len(self.sites):
            raise WrongInput("gradient-sum: name each institution of `sites` once, with one rate each in `alphas`")
        for alpha in (self.alpha, *self.alphas):
            _positive("gradient-sum.alpha", alpha)

    @classmethod
    def of(cls, rates: Mapping[str, float], others: float = 0.1) -> GradientSum:
        """From {institution: rate}; `others` for those not in it."""
        return cls(others, tuple(rates), tuple(rates.values()))

    def apply(self, state: State, shared: SharedParams, updates: Sequence[SiteUpdate]) -> tuple[SharedParams, State]:
        own = dict(zip(self.sites, self.alphas, strict=True))
        return combine(updates, [-own.get(update.site, self.alpha) for update in updates]), state


def _weights(factor: str, updates: Sequence[SiteUpdate]) -> list[float]:
    """One weight a site. Raises: Refused `update.weight` for one that is none."""
    if factor in ("interactions", "users"):
        found = [float(update.weight if factor == "interactions" else update.users) for update in updates]
        what = "rows" if factor == "interactions" else "users"
    else:
        found, what = [float(update.measures.get(factor, math.nan)) for update in updates], factor
    for update, weight in zip(updates, found, strict=True):
        if not math.isfinite(weight) or (weight < 0 and factor not in CLAIMS):
            raise Refused("update.weight", f"the weight of {update.site} is no number of {what}", NEXT)
    if factor not in CLAIMS or not found:
        return found
    shares = np.clip(found, 0.0, 1.0)
    return [float(share) for share in np.minimum(shares, MOST * np.median(shares))]


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise WrongInput(f"{name} must be above 0 and finite, not {value!r}")
