"""Neural matrix factorisation: a product of vectors and a small network, side by side."""

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
class NeuMF:
    """logit(u, i) = w . (u_g * v_g) + mlp(u_m, v_m) + b_i; cross-entropy of touched against drawn items.

    The network's layers have 2d, d and d/2 units. The user's two vectors stay at the institution; item
    vectors, biases and the network travel.
    Source: He et al. 2017, Neural collaborative filtering, WWW, section 3.4. The item bias is ours.

    Args:
        factors: length of each of the two vectors, even.
        negatives: drawn per touched item and step.
        steps: private Adam steps per round.
        private_lr: their learning rate.
        user_decay: precision of the Gaussian prior on a user's vectors.
    """

    factors: int = 16
    negatives: int = 4
    steps: int = 5
    private_lr: float = 0.03
    user_decay: float = 0.5

    name: ClassVar[str] = "neumf"
    rounds_default: ClassVar[int] = 40
    aggregator_default: ClassVar[str] = "adam"
    by_user: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "factors", "negatives", "steps", "private_lr")
        positive(self, "user_decay", zero=True)

    def _shapes(self, n_items: int) -> dict[str, tuple[int, ...]]:
        d = self.factors
        half = max(1, d // 2)
        return {
            "biases": (n_items,),
            "items": (n_items, d),
            "items_mlp": (n_items, d),
            "layer1": (2 * d, d),
            "layer1_bias": (d,),
            "layer2": (d, half),
            "layer2_bias": (half,),
            "out": (half,),
            "product": (d,),
        }

    def leaves(self) -> dict[str, str]:
        sizes = {name: shape[1:] if name in _BY_ITEM else shape for name, shape in self._shapes(1).items()}
        return {
            name: "float32 " + " x ".join([*(["items"] if name in _BY_ITEM else []), *map(str, shape)])
            for name, shape in sizes.items()
        }

    def init(self, n_items: int, seed: int) -> SharedParams:
        d = self.factors
        spread = {"items": 0.3 / d**0.5, "items_mlp": 0.3 / d**0.5, "layer1": 1 / d**0.5, "layer2": (2 / d) ** 0.5}
        start = normal(seed, self._shapes(n_items), {**spread, "out": (2 / d) ** 0.5})
        return SharedParams({**start.tensors, "product": np.ones(d, dtype=np.float32)})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        return fit(rows, shared, private, 2 * self.factors, self._loss, self)

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        return add(shared, merged)

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        users = torch.from_numpy(user_state(rows, private, 2 * self.factors)["users"])
        fixed = {name: torch.from_numpy(array.astype(np.float64)) for name, array in shared.tensors.items()}
        every = torch.arange(rows.n_items)
        found = np.empty((rows.n_users, rows.n_items))
        for user in range(rows.n_users):
            found[user] = self._logits(users[user].expand(rows.n_items, -1), every, fixed).numpy()
        return found

    def _logits(self, user: torch.Tensor, item: torch.Tensor, shared: Tensors) -> torch.Tensor:
        d = self.factors
        product = (user[:, :d] * shared["items"][item]) @ shared["product"]
        hidden = torch.cat([user[:, d:], shared["items_mlp"][item]], 1)
        hidden = torch.relu(hidden @ shared["layer1"] + shared["layer1_bias"])
        hidden = torch.relu(hidden @ shared["layer2"] + shared["layer2_bias"])
        return product + hidden @ shared["out"] + shared["biases"][item]

    def _loss(self, users: torch.Tensor, shared: Tensors, pairs: Pairs) -> torch.Tensor:
        right = softplus(-self._logits(users[pairs.user], pairs.item, shared)).sum()
        wrong = self._logits(users[pairs.user.repeat_interleave(self.negatives)], pairs.negative.ravel(), shared)
        return right + (softplus(wrong) * pairs.counts.ravel()).sum()


_BY_ITEM = ("biases", "items", "items_mlp")
