"""Implicit matrix factorisation by alternating least squares; every sweep is a sum over institutions."""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.models.base import positive

CELLS = 8_000_000  # numbers of normal equations held at once, 64 MB


@dataclass(frozen=True, slots=True)
class IALS:
    """Least squares of 1 on touched pairs and, with weight `unobserved`, of 0 on all pairs.

    A sweep: each institution solves its users' vectors from the item vectors (closed form, nothing is
    kept), and releases per item the sums of p p' (upper triangle) and of p over the users who touched it,
    and the total of p p'. The centre solves the item vectors. Sums are additive, so the federated model
    is the centralised one, up to float32 of what travels.
    Source: Hu, Koren, Volinsky 2008, ICDM; regularisation and settings of Rendle et al. 2022, RecSys,
    Revisiting the performance of iALS, sections 3 and 4.

    Args:
        factors: length of a vector; an update has items x (factors (factors + 3) / 2 + 1) numbers.
        unobserved: weight of a pair that nobody touched.
        ridge: strength of the regularisation.
        frequency: exponent of how much more a frequent user or item is regularised; 0..1.
    """

    factors: int = 64
    unobserved: float = 0.3
    ridge: float = 0.01
    frequency: float = 1.0

    name: ClassVar[str] = "ials"
    rounds_default: ClassVar[int] = 10
    aggregator_default: ClassVar[str] = "sum"
    by_user: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "factors", "unobserved", "ridge")
        positive(self, "frequency", zero=True)

    def leaves(self) -> dict[str, str]:
        d = self.factors
        return {
            "counts": "float32 items",
            "products": f"float32 items x {d * (d + 1) // 2}",
            "sums": f"float32 items x {d}",
            "total": f"float32 {d} x {d}",
            "users": "float32 1",
        }

    def init(self, n_items: int, seed: int) -> SharedParams:
        start = np.random.default_rng(seed).normal(0.0, 0.1 / np.sqrt(self.factors), (n_items, self.factors))
        return SharedParams({"items": start.astype(np.float32), "counts": np.zeros(n_items, dtype=np.float32)})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        x, d = rows.matrix(), self.factors
        users = self._users(rows, shared)
        upper = np.triu_indices(d)
        products = np.zeros((rows.n_items, len(upper[0])))
        by_item = x.T.tocsr().astype(np.float64)
        step = max(1, CELLS // max(1, rows.n_users))
        for low in range(0, len(upper[0]), step):
            one, other = upper[0][low : low + step], upper[1][low : low + step]
            products[:, low : low + step] = by_item @ (users[:, one] * users[:, other])
        touched = np.diff(x.indptr) > 0
        parts = {
            "counts": np.diff(by_item.indptr),
            "products": products,
            "sums": by_item @ users,
            "total": users.T @ users,
            "users": np.array([np.count_nonzero(touched)]),
        }
        return SharedParams({name: array.astype(np.float32) for name, array in parts.items()}), private

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        count = merged["counts"].astype(np.float64)
        weight = self.ridge * (count + self.unobserved * float(merged["users"][0])) ** self.frequency
        common = self.unobserved * merged["total"].astype(np.float64)
        d, upper = self.factors, np.triu_indices(self.factors)
        items = np.zeros((len(count), d))
        step = max(1, CELLS // d**2)
        for low in range(0, len(count), step):
            part = slice(low, low + step)
            left = np.zeros((len(items[part]), d, d))
            left[:, upper[0], upper[1]] = left[:, upper[1], upper[0]] = merged["products"][part]
            left += common
            left[:, np.arange(d), np.arange(d)] += weight[part, None]
            items[part] = np.linalg.solve(left, merged["sums"][part, :, None].astype(np.float64))[:, :, 0]
        return SharedParams({"items": items.astype(np.float32), "counts": merged["counts"]})

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        found: NDArray[Any] = self._users(rows, shared) @ shared["items"].astype(np.float64).T
        return found

    def _users(self, rows: Interactions, shared: SharedParams) -> Array:
        """Each user's vector given the items' vectors; zeros for a user without rows; shape (n_users, factors)."""
        items, x, d = shared["items"].astype(np.float64), rows.matrix(), self.factors
        common = self.unobserved * items.T @ items
        found = np.zeros((rows.n_users, d))
        for user in range(rows.n_users):
            mine = items[x.indices[x.indptr[user] : x.indptr[user + 1]]]
            if len(mine):
                weight = self.ridge * (len(mine) + self.unobserved * rows.n_items) ** self.frequency
                left = common + mine.T @ mine
                left[np.arange(d), np.arange(d)] += weight
                found[user] = np.linalg.solve(left, mine.sum(0))
        return found
