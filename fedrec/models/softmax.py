"""What models with a softmax over all items share: private steps for a block of users, then the slope of their loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from fedrec.core.params import Array

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # of the private Adam
CELLS = 2_000_000  # logits held at once, 16 MB each


class Settings(Protocol):
    """Settings of a model: private Adam steps per round, their rate, precision of the prior on a user's vector."""

    @property
    def steps(self) -> int: ...
    @property
    def private_lr(self) -> float: ...
    @property
    def user_decay(self) -> float: ...


def blocks(n_users: int, n_items: int) -> Iterator[slice]:
    """Users in blocks whose logits fit in `CELLS`."""
    step = max(1, CELLS // n_items)
    return (slice(low, min(low + step, n_users)) for low in range(0, n_users, step))


def private_step(
    users: torch.Tensor, mean: torch.Tensor, square: torch.Tensor, slope: torch.Tensor, step: int, rate: float
) -> None:
    """Adam's step number `step`, from 1, of user vectors along their slope; in place, moments too. All of one shape."""
    mean.mul_(BETA1).add_(slope, alpha=1 - BETA1)
    square.mul_(BETA2).addcmul_(slope, slope, value=1 - BETA2)
    root = (square / (1 - BETA2**step)).sqrt_().add_(EPS)
    users.addcdiv_(mean, root, value=-rate / (1 - BETA1**step))


def fit_block(
    model: Settings,
    touched: torch.Tensor,
    items: torch.Tensor,
    state: dict[str, Array],
    part: slice,
    offset: torch.Tensor | float = 0.0,
    away: torch.Tensor | float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Private steps for some users, in place; then (slope of their summed loss by logit, their vectors).

    Args:
        touched: 1.0 where a user touched an item; shape (users, items).
        state: private arrays of all users, as `pairs.user_state` gives them; `part` is changed.
        offset: what is added to the users' own vectors.
        away: -inf for items that do not compete, else 0.
    """
    own, mean, square = (torch.from_numpy(state[n][part]) for n in ("users", "users_mean", "users_square"))
    total, taken = touched.sum(1, keepdim=True), int(state["step"][0])
    for step in range(taken + 1, taken + model.steps + 1):
        wrong = torch.softmax((own + offset) @ items.T + away, 1) * total - touched
        slope = wrong @ items + model.user_decay * own
        private_step(own, mean, square, slope, step, model.private_lr)
    user = own + offset
    return torch.softmax(user @ items.T + away, 1) * total - touched, user
