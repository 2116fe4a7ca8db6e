"""A shared model with noise in it beside the institution's own without: weighed on the institution's own users.

Nothing of this leaves, neither the weight nor what it was chosen by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.metrics import Scorer, measured
from fedrec.core.optim import Plain
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.core.split import split
from fedrec.core.threads import one_thread
from fedrec.institution.work import scorer, train_alone
from fedrec.models.base import Model, standard
from fedrec.models.private import OWN, WEIGHT

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
UNKNOWN = 0.5  # the weight where no user has a validation row
NDCG = 1  # its column in what `measured` gives
_NONE = PrivateParams({})


@dataclass(frozen=True, slots=True)
class Blend:
    """score = (1 - weight) z(own) + weight z(shared), each standardised over a user's items.

    Args:
        weight: one of WEIGHTS; 0 leaves the shared model out.
        own: the parameters of the institution's own model, which is exact.
        ndcg: mean NDCG@10 on the validation rows by weight; empty without any.
    """

    weight: float
    own: SharedParams
    ndcg: dict[float, float]

    def served(self, shared: SharedParams) -> SharedParams:
        """The shared model with the own one in it, as `Private.score` reads it."""
        own = {f"{OWN}{name}": array for name, array in self.own.tensors.items()}
        return SharedParams({**shared.tensors, **own, WEIGHT: np.array([self.weight])})

    def text(self) -> str:
        """One sentence for the owner."""
        scores = ", ".join(f"{w:g}: {value:.4f}" for w, value in self.ndcg.items())
        of = f"the shared model weighs {self.weight:g}, the institution's own the rest"
        return f"{of} (validation NDCG@10 by weight: {scores})"


def blended(shared_model: Model, own_model: Model, rows: Interactions, shared: SharedParams, protocol: str) -> Blend:
    """The blend that finds the validation rows of this institution's users best.

    The own model does not know these rows when it is weighed. The shared one knows them where it was trained on them
    (protocols p3 and all): by how much is what its epsilon bounds.

    Args:
        own_model: a statistic model, trained here in one round without noise.
        protocol: which rows the own model is made of in the end.
    """
    with one_thread():
        parts = split(rows, "validation", 0)
        first = train_alone(own_model, rows, "validation", 1, Plain(), 0)[0]
        ends = scorer(own_model, parts.train, first, _NONE), scorer(shared_model, parts.train, shared, _NONE)
        ndcg = {w: measured(mixed(*ends, w), parts, "validation", 0)[:, NDCG] for w in WEIGHTS}
        own = train_alone(own_model, rows, protocol, 1, Plain(), 0)[0]
    if not len(ndcg[0.0]):
        return Blend(UNKNOWN, own, {})
    means = {w: float(each.mean()) for w, each in ndcg.items()}
    return Blend(max(means, key=means.__getitem__), own, means)


def mixed(own: Scorer, shared: Scorer, weight: float) -> Scorer:
    """Scores of both models for the same users, as one."""

    def score(low: int, high: int) -> NDArray[Any]:
        return (1.0 - weight) * _standard(own, low, high) + weight * _standard(shared, low, high)

    return score


def _standard(score: Scorer, low: int, high: int) -> NDArray[Any]:
    return standard(np.asarray(score(low, high), dtype=np.float64))
