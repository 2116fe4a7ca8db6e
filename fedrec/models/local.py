"""Local epochs: an institution trains the shared parameters itself, and its parameters leave in place of a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from fedrec.core.interactions import Interactions
from fedrec.core.optim import Adam, Optimiser, Plain
from fedrec.core.params import Array, PrivateParams, SharedParams, add
from fedrec.errors import WrongInput
from fedrec.models.base import Model, build, positive

CONTROL = "control_"  # before a parameter's name: SCAFFOLD's control variate of it


@dataclass(frozen=True, slots=True)
class LocalEpochs:
    """theta_i, the parameters after E epochs on the institution's own rows, for every gradient model.

    An epoch takes one step per batch of users, against the model's own gradient of the mean loss over the
    batch. The optimiser starts anew every round, so that nothing but private parameters is kept. Batches are
    every n-th user, the same in every epoch: no random draw. With `proximal` > 0 the gradient has
    proximal * (theta_i - theta) added, which holds institutions of different tastes together.

    With `scaffold` each institution keeps a control variate c_i, the mean of its gradients in a round, and steps
    against gradient - c_i + c, so that it does not drift to its own optimum; c, the mean over institutions, travels
    with the model as arrays `control_...`, and the change of c_i with the parameters. Weights of the mean are those
    of the aggregator; every institution takes part in every round.

    Source: McMahan et al. 2017, Communication-efficient learning, AISTATS, algorithm 1 (FedAvg);
    Li et al. 2020, Federated optimization in heterogeneous networks, MLSys, algorithm 2 (FedProx);
    Karimireddy et al. 2020, SCAFFOLD, ICML, algorithm 1 with option II.

    Args:
        epochs: passes over the institution's rows, E.
        rate: learning rate of a local step.
        optimiser: "adam" or "sgd", plain descent.
        batch: users per step; 0 = all at once, as own code always is.
        decay: Adam's decoupled weight decay.
        proximal: mu of FedProx, in the units of the loss.
        scaffold: control variates; with plain descent only. Twice the bytes.
    """

    epochs: int = 1
    rate: float = 0.01
    optimiser: str = "adam"
    batch: int = 64
    decay: float = 0.01
    proximal: float = 0.0
    scaffold: bool = False

    name: ClassVar[str] = "local"

    def __post_init__(self) -> None:
        positive(self, "epochs", "rate")
        positive(self, "batch", "decay", "proximal", zero=True)
        if self.optimiser not in ("adam", "sgd"):
            raise WrongInput(f"local.optimiser must be 'adam' or 'sgd', not {self.optimiser!r}")
        if self.scaffold and (self.optimiser != "sgd" or self.proximal):
            raise WrongInput("local.scaffold corrects plain descent: take optimiser='sgd', without proximal")

    def begin(self, shared: SharedParams) -> SharedParams:
        """The model before round 0: with `scaffold` control variates of zero, unless it has some."""
        if not self.scaffold:
            return shared
        zeros = {CONTROL + name: np.zeros_like(a) for name, a in _split(shared.tensors)[0].items()}
        return SharedParams({**zeros, **shared.tensors})

    def leaves(self, leaves: Mapping[str, str]) -> dict[str, str]:
        """The arrays of an update, from those of the model's gradient."""
        return {**leaves, **({CONTROL + name: form for name, form in leaves.items()} if self.scaffold else {})}

    def fit(
        self, model: Model, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        """(theta_i, private) after the epochs; what came in stays as it is."""
        (start, central), (own, before) = _split(shared.tensors), _split(private.tensors)
        mine = {name: before.get(name, np.zeros_like(c)) for name, c in central.items()}
        drift = {name: c - mine[name] for name, c in central.items()}
        theta, after, steps = self._epochs(model, rows, SharedParams(start), PrivateParams(own), drift)
        update, kept = dict(theta.tensors), dict(after.tensors)
        for name, c in central.items():
            mean = mine[name] - c + (start[name] - theta[name]) / np.float32(steps * self.rate)
            kept[CONTROL + name], update[CONTROL + name] = mean, c + (mean - mine[name])
        return SharedParams(update), PrivateParams(kept)

    def _epochs(
        self, model: Model, rows: Interactions, start: SharedParams, private: PrivateParams, drift: Mapping[str, Array]
    ) -> tuple[SharedParams, PrivateParams, int]:
        """(theta_i, private, steps taken)."""
        batches = max(1, -(-rows.n_users // self.batch)) if self.batch and model.by_user else 1
        steps: Optimiser = Plain(-self.rate) if self.optimiser == "sgd" else Adam(self.rate, weight_decay=self.decay)
        state, theta = steps.init(start), start
        for _ in range(self.epochs):
            after: dict[str, Array] = {}
            for batch in range(batches):
                users = np.arange(batch, rows.n_users, batches)
                part = rows if batches == 1 else _users(rows, users, batch, batches)
                own = {n: a[users] if n.startswith("users") else a for n, a in private.tensors.items()}
                gradient, kept = model.fit_site(part, theta, PrivateParams(own) if batches > 1 else private)
                step, state = steps.apply(state, theta, self._held(gradient, theta, start, drift))
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
        return theta, private, self.epochs * batches

    def _held(
        self, gradient: SharedParams, theta: SharedParams, start: SharedParams, drift: Mapping[str, Array]
    ) -> SharedParams:
        """The gradient with FedProx's pull towards where the round started, or with SCAFFOLD's correction."""
        if not self.proximal and not drift:
            return gradient
        held = {name: g.astype(np.float64) for name, g in gradient.tensors.items()}
        for name in held:
            if self.proximal:
                held[name] += self.proximal * (theta[name].astype(np.float64) - start[name])
            if drift:
                held[name] += drift[name]
        return SharedParams({name: held[name].astype(g.dtype) for name, g in gradient.tensors.items()})

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


def _split(arrays: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The arrays without control variates, and the control variates by their parameter's name."""
    own = {name: array for name, array in arrays.items() if not name.startswith(CONTROL)}
    return own, {name[len(CONTROL) :]: array for name, array in arrays.items() if name.startswith(CONTROL)}


def _users(rows: Interactions, users: Array, first: int, step: int) -> Interactions:
    """The rows of every `step`-th user from `first` on, renumbered from 0."""
    mine = rows.take(rows.user % step == first)
    known = None if rows.users is None else rows.users.take(users)
    return replace(mine, user=(mine.user // step).astype(mine.user.dtype), n_users=len(users), users=known)
