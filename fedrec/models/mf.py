"""Matrix factorisation with the full softmax: user vectors stay, item gradients travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams, add
from fedrec.errors import WrongInput
from fedrec.models.base import positive

ROUNDED = 1 - 2**-10  # of `clip`; the rest pays for rounding to float32, of up to 16,000 users who all pull one way


@dataclass(frozen=True, slots=True)
class MF:
    """p(item | user) = softmax over all items of u.v; every item competes, the held-out ones too.

    A round at an institution: `steps` Adam steps on its own user vectors, of the loss *summed* over its
    rows plus user_decay/2 |u|^2, then the gradient of the *mean* loss for the item vectors. Averaged
    by row count this is the centralised gradient for every number of institutions and every split.

    With `clip` the *sum* of the users' gradients leaves, each scaled down to an L2 norm of at most `clip`: what
    differential privacy needs (DP-FedSGD; Abadi et al. 2016, CCS, algorithm 1, with a person in place of a row;
    McMahan et al. 2018, ICLR). A user's gradient is the product of two vectors, so its norm is that of one times that
    of the other. Sums of different institutions must weigh the same: row counts would tell.

    Args:
        factors: length of a vector.
        clip: largest norm of one user's part of the gradient; 0 leaves the mean unclipped.
        steps: private Adam steps per round.
        private_lr: their learning rate.
        user_decay: precision of the Gaussian prior on a user vector; chosen on ML-100K's validation
            rows (without it NDCG@10 falls from .070 to .055).
    """

    factors: int = 64
    steps: int = 5
    private_lr: float = 0.03
    user_decay: float = 2.0
    clip: float = 0.0

    name: ClassVar[str] = "mf"
    rounds_default: ClassVar[int] = 25
    aggregator_default: ClassVar[str] = "adam"
    by_user: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "factors", "steps", "private_lr")
        positive(self, "user_decay", "clip", zero=True)

    def leaves(self) -> dict[str, str]:
        return {"items": f"float32 items x {self.factors}"}

    def sensitivity(self, number: int) -> dict[str, float] | None:  # noqa: ARG002
        """Largest L2 norm of what one user adds to each array, the same in every round; None without `clip`."""
        return {"items": self.clip} if self.clip else None

    def init(self, n_items: int, seed: int) -> SharedParams:
        spread = 0.3 / np.sqrt(self.factors)
        start = np.random.default_rng(seed).normal(0.0, spread, (n_items, self.factors))
        return SharedParams({"items": start.astype(np.float32)})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        import torch  # here: a site asks what a user adds at most, and has no torch

        from fedrec.models.softmax import blocks, fit_block

        state = self._state(rows, private)
        items = torch.from_numpy(shared["items"].astype(np.float64))
        x, gradient = rows.matrix(), torch.zeros_like(items)
        for part in blocks(rows.n_users, rows.n_items):
            touched = torch.from_numpy(x[part].toarray().astype(np.float64))
            wrong, users = fit_block(self, touched, items, state, part)
            if self.clip:
                norms = wrong.norm(dim=1) * users.norm(dim=1)
                users = users * (self.clip * ROUNDED / norms.clamp(min=self.clip * ROUNDED))[:, None]
            gradient += wrong.T @ users
        state["step"] += self.steps
        found = gradient if self.clip else gradient / max(x.nnz, 1)
        return SharedParams({"items": found.numpy().astype(np.float32)}), PrivateParams(state)

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        return add(shared, merged)

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        users = self._state(rows, private)["users"]
        found: NDArray[Any] = users @ shared["items"].astype(np.float64).T
        return found

    def _state(self, rows: Interactions, private: PrivateParams) -> dict[str, Array]:
        """A copy of the private arrays: user vectors, their Adam moments, steps taken; zeros in round 0."""
        shape = (rows.n_users, self.factors)
        if not private.tensors:
            zeros = {name: np.zeros(shape) for name in ("users", "users_mean", "users_square")}
            return {**zeros, "step": np.zeros(1, dtype=np.int64)}
        if private["users"].shape != shape:
            raise WrongInput(f"the private user vectors have shape {private['users'].shape}, the rows need {shape}")
        return {name: array.copy() for name, array in private.tensors.items()}
