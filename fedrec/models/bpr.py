"""Matrix factorisation by Bayesian personalised ranking: a touched item must beat a drawn one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import softplus

from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams, add
from fedrec.models.base import positive
from fedrec.models.pairs import Pairs, Tensors, fit, normal, user_state


@dataclass(frozen=True, slots=True)
class BPR:
    """-log sigmoid(u . (v_i - v_j) + b_i - b_j) for touched items i and drawn, untouched items j.

    Negatives are drawn among all items that are not among the user's train rows, the held-out ones too.
    Source: Rendle et al. 2009, BPR, UAI, section 4.3.1.

    Args:
        factors: length of a vector.
        negatives: drawn per touched item and step.
        steps: private Adam steps per round.
        private_lr: their learning rate.
        user_decay: precision of the Gaussian prior on a user vector.
    """

    factors: int = 32
    negatives: int = 4
    steps: int = 5
    private_lr: float = 0.03
    user_decay: float = 0.5

    name: ClassVar[str] = "bpr"
    rounds_default: ClassVar[int] = 40
    aggregator_default: ClassVar[str] = "adam"
    by_user: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "factors", "negatives", "steps", "private_lr")
        positive(self, "user_decay", zero=True)

    def leaves(self) -> dict[str, str]:
        return {"biases": "float32 items", "items": f"float32 items x {self.factors}"}

    def init(self, n_items: int, seed: int) -> SharedParams:
        shapes = {"biases": (n_items,), "items": (n_items, self.factors)}
        return normal(seed, shapes, {"items": 0.3 / self.factors**0.5})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        return fit(rows, shared, private, self.factors, self._loss, self)

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        return add(shared, merged)

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        users = user_state(rows, private, self.factors)["users"]
        found: NDArray[Any] = users @ shared["items"].astype(np.float64).T + shared["biases"]
        return found

    def _loss(self, users: torch.Tensor, shared: Tensors, pairs: Pairs) -> torch.Tensor:
        score = users @ shared["items"].T + shared["biases"]
        ahead = score[pairs.user, pairs.item][:, None] - score[pairs.user[:, None], pairs.negative]
        return (softplus(-ahead) * pairs.counts).sum() / self.negatives
