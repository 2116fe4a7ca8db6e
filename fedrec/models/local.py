"""Local epochs: an institution trains the shared parameters itself, and its parameters leave in place of a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from fedrec.core.interactions import Interactions
from fedrec.core.optim import Adam, Optimiser, Plain
from fedrec.core.params import Array, PrivateParams, SharedParams, add
from fedrec.errors import WrongInput
from fedrec.models.base import Model, build, positive


@dataclass(frozen=True, slots=True)
class LocalEpochs:
    """theta_i, the parameters after E epochs on the institution's own rows, for every gradient model.

    An epoch takes one step per batch of users, against the model's own gradient of the mean loss over the
    batch. The optimiser starts anew every round, so that nothing but private parameters is kept. Batches are
    every n-th user, the same in every epoch: no random draw. With `proximal` > 0 the gradient has
    proximal * (theta_i - theta) added, which holds institutions of different tastes together.

    Source: McMahan et al. 2017, Communication-efficient learning, AISTATS, algorithm 1 (FedAvg);
    Li et al. 2020, Federated optimization in heterogeneous networks, MLSys, algorithm 2 (FedProx).

    Args:
        epochs: passes over the institution's rows, E.
        rate: learning rate of a local step.
        optimiser: "adam" or "sgd", plain descent.
        batch: users per step; 0 = all at once, as own code always is.
        decay: Adam's decoupled weight decay.
        proximal: mu of FedProx, in the units of the loss.
    """

    epochs: int = 1
    rate: float = 0.01
    optimiser: str = "adam"
    batch: int = 64
    decay: float = 0.01
    proximal: float = 0.0

    name: ClassVar[str] = "local"

    def __post_init__(self) -> None:
        positive(self, "epochs", "rate")
        positive(self, "batch", "decay", "proximal", zero=True)
        if self.optimiser not in ("adam", "sgd"):
            raise WrongInput(f"local.optimiser must be 'adam' or 'sgd', not {self.optimiser!r}")

    def fit(
        self, model: Model, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        """(theta_i, private) after the epochs; what came in stays as it is."""
        batches = max(1, -(-rows.n_users // self.batch)) if self.batch and model.by_user else 1
        steps: Optimiser = Plain(-self.rate) if self.optimiser == "sgd" else Adam(self.rate, weight_decay=self.decay)
        state, theta = steps.init(shared), shared
        for _ in range(self.epochs):
            after: dict[str, Array] = {}
            for batch in range(batches):
                users = np.arange(batch, rows.n_users, batches)
                part = rows if batches == 1 else _users(rows, users, batch, batches)
                own = {n: a[users] if n.startswith("users") else a for n, a in private.tensors.items()}
                gradient, kept = model.fit_site(part, theta, PrivateParams(own) if batches > 1 else private)
                step, state = steps.apply(state, theta, self._held(gradient, theta, shared))
                theta = add(theta, step)
                if batches == 1:
                    after = kept.tensors
                    continue
                for name, array in kept.tensors.items():
                    if name.startswith("users"):
                        whole = after.setdefault(name, np.empty((rows.n_users, *array.shape[1:]), array.dtype))
                        whole[users] = array
                    else:
                        after[name] = array
            private = PrivateParams(after)
        return theta, private

    def _held(self, gradient: SharedParams, theta: SharedParams, start: SharedParams) -> SharedParams:
        """The gradient with FedProx's pull towards where the round started."""
        if not self.proximal:
            return gradient
        pulled = {
            name: (g + self.proximal * (theta[name].astype(np.float64) - start[name])).astype(g.dtype)
            for name, g in gradient.tensors.items()
        }
        return SharedParams(pulled)

    def table(self) -> dict[str, Any]:
        """The plan's [local] table, which `from_table` reads."""
        return {"update": "parameters", **{field.name: getattr(self, field.name) for field in fields(self)}}

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> LocalEpochs | None:
        """The local epochs of a plan; None where gradients or statistics leave.

        Raises:
            WrongInput: a setting is unknown or wrong.
        """
        kind = table.get("update", "gradient")
        rest = {key: value for key, value in table.items() if key != "update"}
        if kind == "gradient" and not rest:
            return None
        if kind != "parameters":
            raise WrongInput("local.update must be 'parameters', or 'gradient' without other settings")
        made: LocalEpochs = build(cls, rest)
        return made


def _users(rows: Interactions, users: Array, first: int, step: int) -> Interactions:
    """The rows of every `step`-th user from `first` on, renumbered from 0."""
    mine = rows.take(rows.user % step == first)
    return Interactions(
        (mine.user // step).astype(mine.user.dtype), mine.item, mine.rating, mine.time, len(users), rows.n_items
    )
