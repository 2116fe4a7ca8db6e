"""Implicit matrix factorisation by alternating least squares; every sweep is a sum over institutions."""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.errors import WrongInput
from fedrec.models.base import positive

CELLS = 8_000_000  # numbers of normal equations held at once, 64 MB
SWEEPS = 4  # of blocks, when the plan does not say


@dataclass(frozen=True, slots=True)
class IALS:
    """Least squares of 1 on touched pairs and, with weight `unobserved`, of 0 on all pairs.

    A sweep: each institution solves its users' vectors from the item vectors (closed form, nothing is
    kept), and releases per item the sums of p p' (upper triangle) and of p over the users who touched it,
    and the total of p p'. The centre solves the item vectors. Sums are additive, so the federated model
    is the centralised one, up to float32 of what travels.

    With `block` a round does so for that many coordinates of every item vector, the next round for the next ones,
    while the others stay: of p p' only the block's square leaves, and in place of the sums of p those of
    p (1 - p.v), which the site can make since it has v. With all coordinates in one block both are the same step.
    Source: Hu, Koren, Volinsky 2008, ICDM; regularisation and settings of Rendle et al. 2022, RecSys,
    Revisiting the performance of iALS, sections 3 and 4; blocks of Rendle et al. 2021, iALS++, arXiv 2110.14044,
    section 4, here with the users solved whole before each.

    Args:
        factors: length of a vector; an update has items x (b (b + 3) / 2 + 1) numbers, b = factors or `block`.
        block: coordinates of the item vectors that a round moves, a divisor of `factors`; 0 = all.
        unobserved: weight of a pair that nobody touched.
        ridge: strength of the regularisation.
        frequency: exponent of how much more a frequent user or item is regularised; 0..1.
    """

    factors: int = 64
    block: int = 0
    unobserved: float = 0.3
    ridge: float = 0.01
    frequency: float = 1.0

    name: ClassVar[str] = "ials"
    aggregator_default: ClassVar[str] = "sum"
    by_user: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "factors", "unobserved", "ridge")
        positive(self, "frequency", "block", zero=True)
        if self.block and self.factors % self.block:
            raise WrongInput(f"ials.block must divide ials.factors, {self.factors}; {self.block} does not")

    @property
    def rounds_default(self) -> int:
        """Ten sweeps, or SWEEPS of blocks: the users are solved anew for every block."""
        return SWEEPS * self.factors // self.block if self.block else 10

    @property
    def width(self) -> int:
        """Coordinates that a round moves."""
        return self.block or self.factors

    def leaves(self) -> dict[str, str]:
        b, d = self.width, self.factors
        return {
            "counts": "float32 items",
            "products": f"float32 items x {b * (b + 1) // 2}",
            "sums": f"float32 items x {b}",
            "total": f"float32 {d} x {d}",
            "users": "float32 1",
        }

    def init(self, n_items: int, seed: int) -> SharedParams:
        start = np.random.default_rng(seed).normal(0.0, 0.1 / np.sqrt(self.factors), (n_items, self.factors))
        shared = {"items": start.astype(np.float32), "counts": np.zeros(n_items, dtype=np.float32)}
        return SharedParams(shared | ({"blocks": np.zeros(1, dtype=np.int64)} if self.block else {}))

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        x = rows.matrix()
        users, part = self._users(rows, shared), self._part(shared)
        moved = users[:, part]
        upper = np.triu_indices(self.width)
        products = np.zeros((rows.n_items, len(upper[0])), dtype=np.float32)
        by_item = x.T.tocsr().astype(np.float64)
        step = max(1, CELLS // max(1, rows.n_users, rows.n_items))
        for low in range(0, len(upper[0]), step):
            one, other = upper[0][low : low + step], upper[1][low : low + step]
            products[:, low : low + step] = by_item @ (moved[:, one] * moved[:, other])
        parts = {
            "counts": np.diff(by_item.indptr),
            "products": products,
            "sums": _missing(by_item, users, shared["items"]) @ moved if self.block else by_item @ users,
            "total": users.T @ users,
            "users": np.array([np.count_nonzero(np.diff(x.indptr))]),
        }
        return SharedParams({name: array.astype(np.float32, copy=False) for name, array in parts.items()}), private

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        count = merged["counts"].astype(np.float64)
        weight = self.ridge * (count + self.unobserved * float(merged["users"][0])) ** self.frequency
        total = self.unobserved * merged["total"].astype(np.float64)
        b, upper, place = self.width, np.triu_indices(self.width), self._part(shared)
        items, right = shared["items"].astype(np.float64), merged["sums"].astype(np.float64)
        if self.block:
            right -= items @ total[:, place] + weight[:, None] * items[:, place]
        else:
            items[:] = 0.0
        step = max(1, CELLS // b**2)
        for low in range(0, len(count), step):
            part = slice(low, low + step)
            left = np.zeros((len(items[part]), b, b))
            left[:, upper[0], upper[1]] = left[:, upper[1], upper[0]] = merged["products"][part]
            left += total[place, place]
            left[:, np.arange(b), np.arange(b)] += weight[part, None]
            items[part, place] += np.linalg.solve(left, right[part, :, None])[:, :, 0]
        made = {"items": items.astype(np.float32), "counts": merged["counts"]}
        return SharedParams(made | ({"blocks": shared["blocks"] + 1} if self.block else {}))

    def _part(self, shared: SharedParams) -> slice:
        """The coordinates of this round."""
        low = int(shared["blocks"][0]) % (self.factors // self.block) * self.block if self.block else 0
        return slice(low, low + self.width)

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


def _missing(by_item: sparse.csr_matrix, users: Array, items: Array) -> sparse.csr_matrix:
    """1 - p.v of every touched pair; items by users."""
    missing, values = np.empty(by_item.nnz), items.astype(np.float64)
    item = np.repeat(np.arange(by_item.shape[0]), np.diff(by_item.indptr))
    step = max(1, CELLS // users.shape[1])
    for low in range(0, by_item.nnz, step):
        at = slice(low, low + step)
        missing[at] = 1.0 - np.einsum("rd,rd->r", users[by_item.indices[at]], values[item[at]])
    return sparse.csr_matrix((missing, by_item.indices, by_item.indptr), shape=by_item.shape)
