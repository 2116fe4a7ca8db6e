"""Item-based collaborative filtering: items that the same users touched are neighbours."""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.models.base import dense, gram, positive


@dataclass(frozen=True, slots=True)
class ItemCF:
    """score(u, j) = sum of G_ij / (G_ii G_jj)^exponent over the user's items i among the neighbours of j.

    The neighbours are cut after the institutions' Grams G = X'X are summed, so the federated model
    is the centralised one.
    Source: Sarwar et al. 2001, WWW; the exponent as measured in quality.md; shrinkage of Bell and Koren 2007, ICDM.

    Args:
        neighbours: kept per item.
        exponent: .5 is the cosine; higher draws away from popular items.
        shrinkage: users; a pair that c users touched both of counts c / (c + shrinkage).
    """

    neighbours: int = 50
    exponent: float = 0.6
    shrinkage: float = 0.0

    name: ClassVar[str] = "itemcf"
    rounds_default: ClassVar[int] = 1
    aggregator_default: ClassVar[str] = "sum"
    by_user: ClassVar[bool] = True
    whole: ClassVar[tuple[str, ...]] = ("gram",)
    centre: ClassVar[tuple[str, ...]] = ("neighbours", "exponent", "shrinkage")

    def __post_init__(self) -> None:
        positive(self, "neighbours")
        positive(self, "exponent", "shrinkage", zero=True)

    def leaves(self) -> dict[str, str]:
        return {"gram": "float32 items x items"}

    def init(self, n_items: int, seed: int) -> SharedParams:
        dense(self.name, n_items)
        k = min(self.neighbours, n_items)
        return SharedParams(
            {
                "neighbours": np.zeros((n_items, k), dtype=np.int32),
                "weights": np.zeros((n_items, k), dtype=np.float32),
                "counts": np.zeros(n_items, dtype=np.float32),
            }
        )

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        return SharedParams({"gram": gram(rows)}), private

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        touched = np.diag(merged["gram"]).astype(np.float64)
        scale = np.maximum(touched, 1.0) ** -self.exponent
        like = merged["gram"] * scale[:, None] * scale[None, :]
        if self.shrinkage:
            like *= merged["gram"] / (merged["gram"] + self.shrinkage)
        np.fill_diagonal(like, 0.0)
        k = min(self.neighbours, len(like))
        nearest = np.argsort(-like, axis=1, kind="stable")[:, :k]  # `like` is symmetric; ties by item
        return SharedParams(
            {
                "neighbours": nearest.astype(np.int32),
                "weights": np.take_along_axis(like, nearest, axis=1).astype(np.float32),
                "counts": touched.astype(np.float32),
            }
        )

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        near, weight = shared["neighbours"], shared["weights"]
        edges = np.arange(0, near.size + 1, near.shape[1])
        table = sparse.csc_matrix((weight.ravel(), near.ravel(), edges), shape=(len(near), len(near)))
        table.check_format(full_check=True)  # places outside the table would be read from memory
        found: NDArray[Any] = (rows.matrix() @ table).toarray()
        return found
