"""Matrix factorisation of explicit ratings with biases; every sweep is a sum over institutions."""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.models.base import positive


@dataclass(frozen=True, slots=True)
class MFExplicit:
    """rating(u, j) = mean + b_u + b_j + p_u . q_j, by alternating least squares with a ridge.

    A sweep: each institution solves (p_u, b_u) of its users in closed form and keeps nothing; it releases,
    per item, the sums over the item's raters of x x' and of x (rating - mean - b_u) with x = (p_u, 1), and
    the number and sum of its ratings. The centre solves (q_j, b_j) and the mean. The federated model is the
    centralised one, up to float32 of what travels.
    Source: Koren, Bell, Volinsky 2009, IEEE Computer, eq. 4; alternating least squares as in Zhou et al.
    2008, AAIM, section 3.

    Args:
        factors: length of a vector; an update has items x ((factors + 1)(factors + 4) / 2) numbers and a few.
        ridge: on vectors and biases, in ratings.
    """

    factors: int = 5
    ridge: float = 12.0

    name: ClassVar[str] = "mf-explicit"
    rounds_default: ClassVar[int] = 15
    aggregator_default: ClassVar[str] = "sum"
    by_user: ClassVar[bool] = True
    rates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "factors", "ridge")

    def leaves(self) -> dict[str, str]:
        d = self.factors + 1
        return {
            "products": f"float32 items x {d * (d + 1) // 2}",
            "sums": f"float32 items x {d}",
            "ratings": "float32 2",
        }

    def init(self, n_items: int, seed: int) -> SharedParams:
        start = np.random.default_rng(seed).normal(0.0, 0.1, (n_items, self.factors + 1))
        start[:, -1] = 0.0
        return SharedParams({"items": start.astype(np.float32), "mean": np.zeros(1, dtype=np.float32)})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        vectors = self._users(rows, shared)
        left = rows.rating.astype(np.float64) - float(shared["mean"][0]) - vectors[rows.user, -1]
        upper = np.triu_indices(self.factors + 1)
        extended = np.hstack([vectors[:, :-1], np.ones((rows.n_users, 1))])  # x = (p_u, 1)
        by_item = _table(rows, np.ones(len(rows))).T
        parts = {
            "products": by_item @ (extended[:, upper[0]] * extended[:, upper[1]]),
            "sums": _table(rows, left).T @ extended,
            "ratings": np.array([len(rows), rows.rating.sum(dtype=np.float64)]),
        }
        return SharedParams({name: array.astype(np.float32) for name, array in parts.items()}), private

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        """The sums were made with the mean before; its change goes into the items' biases' right side."""
        count, total = (float(number) for number in merged["ratings"])
        mean = total / count if count else 0.0
        d, upper = self.factors + 1, np.triu_indices(self.factors + 1)
        left = np.zeros((len(merged["sums"]), d, d))
        left[:, upper[0], upper[1]] = left[:, upper[1], upper[0]] = merged["products"]
        right = merged["sums"] - (mean - float(shared["mean"][0])) * left[:, :, -1]
        left[:, np.arange(d), np.arange(d)] += self.ridge
        items = np.linalg.solve(left, right[:, :, None])[:, :, 0]
        return SharedParams({"items": items.astype(np.float32), "mean": np.array([mean], dtype=np.float32)})

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        """Predicted ratings, not clipped to the scale."""
        items, vectors = shared["items"].astype(np.float64), self._users(rows, shared)
        found: NDArray[Any] = vectors[:, :-1] @ items[:, :-1].T + items[:, -1] + vectors[:, -1:] + shared["mean"][0]
        return found

    def _users(self, rows: Interactions, shared: SharedParams) -> Array:
        """(p_u, b_u) of each user given the items; zeros for a user without rows; shape (n_users, factors + 1)."""
        items = shared["items"].astype(np.float64)
        extended = np.hstack([items[:, :-1], np.ones((len(items), 1))])
        left = rows.rating.astype(np.float64) - float(shared["mean"][0]) - items[rows.item, -1]
        edges = np.searchsorted(rows.user, np.arange(rows.n_users + 1))
        found, ridge = np.zeros((rows.n_users, self.factors + 1)), self.ridge * np.eye(self.factors + 1)
        for user, (first, last) in enumerate(pairwise(edges)):
            if first < last:
                mine = extended[rows.item[first:last]]
                found[user] = np.linalg.solve(mine.T @ mine + ridge, mine.T @ left[first:last])
        return found


def _table(rows: Interactions, values: Array) -> sparse.csr_matrix:
    """Users by items; rows of one pair add up."""
    return sparse.csr_matrix((values, (rows.user, rows.item)), shape=(rows.n_users, rows.n_items))
