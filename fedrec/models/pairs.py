"""What models of (user, item) pairs share: negatives without a generator, and private steps before a gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.core.seeds import item_keys, mix, user_keys
from fedrec.errors import WrongInput
from fedrec.models.softmax import Settings, private_step

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Distinct touched pairs, and negatives drawn for each; all of shape (pairs,) or (pairs, negatives).

    Args:
        counts: 1.0, or 0.0 where the drawn item is one that the user touched.
    """

    user: torch.Tensor
    item: torch.Tensor
    negative: torch.Tensor
    counts: torch.Tensor


Loss = Callable[[torch.Tensor, Tensors, Pairs], torch.Tensor]


def drawn(rows: Interactions, negatives: int, step: int) -> Pairs:
    """Each touched pair with negatives for this step.

    They are hashes of (user's items, item, step): no generator, the same for every number of institutions.
    """
    x = rows.matrix()
    x.sort_indices()
    user = np.repeat(np.arange(rows.n_users), np.diff(x.indptr))
    key = user_keys(rows, 0)[user] ^ item_keys(rows.n_items, step)[x.indices]
    draws = np.stack([mix(key + np.uint64(number)) % np.uint64(rows.n_items) for number in range(negatives)], 1)
    negative = draws.astype(np.int64).reshape(len(user), negatives)
    cells = user.astype(np.int64) * rows.n_items
    touched = np.isin(cells[:, None] + negative, cells + x.indices)
    counts = torch.from_numpy((~touched).astype(np.float64))
    return Pairs(
        torch.from_numpy(user), torch.from_numpy(x.indices.astype(np.int64)), torch.from_numpy(negative), counts
    )


class Steps(Settings, Protocol):
    """The same with negatives for each pair, as BPR and NeuMF state them."""

    @property
    def negatives(self) -> int: ...


def fit(
    rows: Interactions,
    shared: SharedParams,
    private: PrivateParams,
    width: int,
    loss: Loss,
    model: Steps,
) -> tuple[SharedParams, PrivateParams]:
    """`steps` Adam steps on the user vectors, then the gradient of the mean loss for what is shared.

    Args:
        width: numbers per user.
        loss: sum over pairs, from (user vectors, shared tensors, pairs).
        model: says how many steps, at which rate, with how many negatives.
    """
    steps, negatives = model.steps, model.negatives
    state = user_state(rows, private, width)
    fixed = {name: torch.from_numpy(array.astype(np.float64)) for name, array in shared.tensors.items()}
    users, mean, square = (torch.from_numpy(state[name]) for name in ("users", "users_mean", "users_square"))
    taken = int(state["step"][0])
    for step in range(taken + 1, taken + steps + 1):
        now = users.clone().requires_grad_(True)
        total = loss(now, fixed, drawn(rows, negatives, step)) + model.user_decay / 2 * (now**2).sum()
        (slope,) = torch.autograd.grad(total, now)
        private_step(users, mean, square, slope, step, model.private_lr)
    state["step"] += steps
    pairs = drawn(rows, negatives, taken + steps + 1)
    moving = {name: tensor.requires_grad_(True) for name, tensor in fixed.items()}
    total = loss(users, moving, pairs) / max(len(pairs.user), 1)
    slopes = torch.autograd.grad(total, list(moving.values()), materialize_grads=True)
    gradient = {name: slope.numpy().astype(np.float32) for name, slope in zip(moving, slopes, strict=True)}
    return SharedParams(gradient), PrivateParams(state)


def user_state(rows: Interactions, private: PrivateParams, width: int) -> dict[str, Array]:
    """A copy of the private arrays: user vectors, their Adam moments, steps taken; zeros in round 0."""
    shape = (rows.n_users, width)
    if not private.tensors:
        zeros: dict[str, Array] = {name: np.zeros(shape) for name in ("users", "users_mean", "users_square")}
        return {**zeros, "step": np.zeros(1, dtype=np.int64)}
    if private["users"].shape != shape:
        raise WrongInput(f"the private user vectors have shape {private['users'].shape}, the rows need {shape}")
    return {name: array.copy() for name, array in private.tensors.items()}


def normal(seed: int, shapes: Mapping[str, tuple[int, ...]], spread: Mapping[str, float]) -> SharedParams:
    """Shared arrays of N(0, spread^2) in float32, drawn in the order of `shapes`; 0 where no spread is named."""
    rng, made = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        values: NDArray[Any] = rng.normal(0.0, spread[name], shape) if name in spread else np.zeros(shape)
        made[name] = values.astype(np.float32)
    return SharedParams(made)
