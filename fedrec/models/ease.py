"""EASE: a linear item-to-item model in closed form, exact after one federated round."""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.core.threads import one_thread
from fedrec.models.base import dense, gram, positive, queried


@dataclass(frozen=True, slots=True)
class Ease:
    """score(u) = x_u B, with B the ridge regression of every item on all others.

    P = (G + l2 I)^-1, B_ij = -P_ij / P_jj, B_jj = 0; G = X'X is the sum over institutions and needs
    n_items^2 floats at each of them.
    Source: Steck 2019, Embarrassingly shallow autoencoders for sparse data, WWW, algorithm 1.

    Args:
        l2: strength of the ridge, in users.
    """

    l2: float = 200.0

    name: ClassVar[str] = "ease"
    rounds_default: ClassVar[int] = 1
    aggregator_default: ClassVar[str] = "sum"
    by_user: ClassVar[bool] = True
    whole: ClassVar[tuple[str, ...]] = ("gram",)
    centre: ClassVar[tuple[str, ...]] = ("l2",)

    def __post_init__(self) -> None:
        positive(self, "l2")

    def leaves(self) -> dict[str, str]:
        return {"gram": "float32 items x items"}

    def init(self, n_items: int, seed: int) -> SharedParams:
        dense(self.name, n_items)
        return SharedParams({"counts": np.zeros(n_items, dtype=np.float32)})  # no n^2 zeros on the wire

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        return SharedParams({"gram": gram(rows)}), private

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        total = merged["gram"].astype(np.float64)
        touched = np.diag(total).astype(np.float32)
        total[np.diag_indices_from(total)] += self.l2
        with one_thread():
            lower, _ = linalg.lapack.dpotrf(total, lower=1, overwrite_a=1)
            inverse, _ = linalg.lapack.dpotri(lower, lower=1, overwrite_c=1)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        weights = inverse / -np.diag(inverse)
        np.fill_diagonal(weights, 0.0)
        return SharedParams({"weights": weights.astype(np.float32), "counts": touched})

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        if "weights" not in shared.tensors:
            return np.zeros((rows.n_users, rows.n_items))
        return queried(rows.matrix(), shared["weights"])
