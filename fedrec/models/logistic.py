"""Logistic regression for yes/no outcomes: features in, probability out."""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from fedrec.core.interactions import Interactions
from fedrec.core.outcomes import yes
from fedrec.core.params import Array, PrivateParams, SharedParams, add
from fedrec.models.features import ITEM, USER, check_columns, inputs, mine


@dataclass(frozen=True, slots=True)
class Logistic:
    """P(yes | user, item) = sigmoid(w . x + b), x = the prepared features of both; the mean of binary cross-entropy.

    A row's outcome is yes when its rating is above 0. Nothing private is kept. The gradient of the mean loss
    leaves; averaged by row count it is the centralised gradient. Held out are whole users (core.outcomes).

    Args:
        columns, centre, scale: the features and how they are prepared, see `FeatureSums.settings`.
    """

    columns: tuple[str, ...] = ()
    centre: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    name: ClassVar[str] = "logistic"
    rounds_default: ClassVar[int] = 100
    aggregator_default: ClassVar[str] = "adam"
    by_user: ClassVar[bool] = True
    outcome: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_columns(self)

    def leaves(self) -> dict[str, str]:
        return {"weights": f"float32 {len(self.columns) + 1}"}

    def init(self, n_items: int, seed: int) -> SharedParams:
        """Zeros; the last number is the intercept."""
        return SharedParams({"weights": np.zeros(len(self.columns) + 1, dtype=np.float32)})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        of_users, of_items = inputs(self, rows, USER), inputs(self, rows, ITEM)
        wrong: Array = self._probability(rows, shared, of_users, of_items) - yes(rows)
        gradient = np.empty(len(self.columns) + 1)
        gradient[mine(self.columns, USER)] = np.bincount(rows.user, wrong, minlength=rows.n_users) @ of_users
        gradient[mine(self.columns, ITEM)] = np.bincount(rows.item, wrong, minlength=rows.n_items) @ of_items
        gradient[-1] = wrong.sum()
        return SharedParams({"weights": (gradient / max(len(rows), 1)).astype(np.float32)}), private

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        return add(shared, merged)

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        """The probability of yes for every user and item."""
        users, items = self._logits(shared, inputs(self, rows, USER), inputs(self, rows, ITEM))
        found: NDArray[Any] = expit(users[:, None] + items)
        return found

    def probability(self, rows: Interactions, shared: SharedParams) -> Array:
        """The probability of yes for each row; shape (rows,)."""
        return self._probability(rows, shared, inputs(self, rows, USER), inputs(self, rows, ITEM))

    def _probability(self, rows: Interactions, shared: SharedParams, of_users: Array, of_items: Array) -> Array:
        users, items = self._logits(shared, of_users, of_items)
        found: Array = expit(users[rows.user] + items[rows.item])
        return found

    def _logits(self, shared: SharedParams, of_users: Array, of_items: Array) -> tuple[Array, Array]:
        """The parts that users (with the intercept) and items add."""
        weights = shared["weights"].astype(np.float64)
        users = of_users @ weights[mine(self.columns, USER)] + weights[-1]
        return users, of_items @ weights[mine(self.columns, ITEM)]
