"""Which item follows which: decayed co-occurrence in the order of each user's rows."""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.models.base import counts, dense, positive, queried

STEPS = 256  # a follower counts in whole 256ths, so that float32 sums are exact in any order below 65,536 followers


@dataclass(frozen=True, slots=True)
class Sequential:
    """score(u, j) = sum of recency(i) W_ij over the user's items i, with W = C / (n_i^.5 n_j^.3 + 1).

    C_ij = sum over users of 2^(-(lag - 1) / half_life) for every j that stands `lag` rows after i, lag < window.
    Without timestamps there is no order: such an institution adds nothing to C.
    Source: item-to-item sequence rules as in Ludewig and Jannach 2018, UMUAI, section 3.1; exponents and
    half-lives as measured in quality.md.

    Args:
        window: lags 1..window - 1 count, in rows.
        half_life: of a follower's weight, in rows.
        from_exponent, to_exponent: how much popular items i and j are held back.
        recency: half-life of an item's weight in the query, in rows since the user touched it.
    """

    window: int = 18
    half_life: float = 3.0
    from_exponent: float = 0.5
    to_exponent: float = 0.3
    recency: float = 5.0

    name: ClassVar[str] = "sequential"
    rounds_default: ClassVar[int] = 1
    aggregator_default: ClassVar[str] = "sum"
    by_user: ClassVar[bool] = True
    whole: ClassVar[tuple[str, ...]] = ("counts",)
    centre: ClassVar[tuple[str, ...]] = ("from_exponent", "to_exponent")

    def __post_init__(self) -> None:
        positive(self, "window", "half_life", "recency")
        positive(self, "from_exponent", "to_exponent", zero=True)

    def leaves(self) -> dict[str, str]:
        return {"counts": "float32 items", "follows": "float32 items x items"}

    def init(self, n_items: int, seed: int) -> SharedParams:
        dense(self.name, n_items)
        return SharedParams({"counts": np.zeros(n_items, dtype=np.float32)})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        return SharedParams({"counts": counts(rows), "follows": self.follows(rows)}), private

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        touched = merged["counts"].astype(np.float64)
        scale = np.outer(touched**self.from_exponent, touched**self.to_exponent) + 1.0
        weights = (merged["follows"] / STEPS / scale).astype(np.float32)
        return SharedParams({"counts": merged["counts"], "next": weights})

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        if "next" not in shared.tensors or rows.time is None:
            return np.zeros((rows.n_users, rows.n_items))
        return queried(recent(rows, self.recency, 0.0), shared["next"])

    def follows(self, rows: Interactions) -> Array:
        """C of this institution in 256ths; float32, shape (n_items, n_items)."""
        total = np.zeros((rows.n_items, rows.n_items), dtype=np.float32)
        if rows.time is None:
            return total
        for lag in range(1, self.window):
            weight = round(STEPS * 2.0 ** (-(lag - 1) / self.half_life))
            same = np.flatnonzero(rows.user[lag:] == rows.user[:-lag])
            if weight == 0 or same.size == 0:
                break
            pairs = (rows.item[same], rows.item[same + lag])
            ones = np.full(same.size, weight, dtype=np.float32)
            found = sparse.coo_matrix((ones, pairs), shape=total.shape).tocsr()
            total += found.toarray()
        np.fill_diagonal(total, 0.0)
        return total


def recent(rows: Interactions, half_life: float, floor: float) -> sparse.csr_matrix:
    """The query: users by items, floor + (1 - floor) 2^(-since / half_life); shape (n_users, n_items).

    `since` counts the same user's later rows; an item touched several times goes by the last. Without
    timestamps every touched item weighs 1.
    """
    x = rows.matrix()
    if rows.time is None:
        return x.astype(np.float64)
    last = np.searchsorted(rows.user, rows.user, side="right") - 1
    since = last - np.arange(len(rows))
    weight = floor + (1.0 - floor) * 2.0 ** (-since / half_life)
    key = rows.user.astype(np.int64) * rows.n_items + rows.item
    latest = np.unique(key[::-1], return_index=True)[1]  # the first from the end is the last row of a pair
    keep = len(rows) - 1 - latest
    pairs = (weight[keep], (rows.user[keep], rows.item[keep]))
    return sparse.csr_matrix(pairs, shape=(rows.n_users, rows.n_items))
