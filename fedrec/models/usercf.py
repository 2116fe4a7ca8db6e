"""User-based collaborative filtering over all users of all institutions, as one additive statistic."""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.models.base import counts, dense, queried


@dataclass(frozen=True, slots=True)
class UserCF:
    """score(u, j) = sum over all users v who touched j of the cosine between u and v.

    With unit rows this is (x_u / |x_u|) T, where T = sum_v (x_v / |x_v|) x_v' is a sum over users and so
    over institutions. All users are neighbours: the nearest k of a user are not additive, and finding
    them would show users to other institutions.
    Source: Resnick et al. 1994, CSCW; Aiolli 2013, RecSys, section 3 (the asymmetric cosine).
    """

    name: ClassVar[str] = "usercf"
    rounds_default: ClassVar[int] = 1
    aggregator_default: ClassVar[str] = "sum"
    by_user: ClassVar[bool] = True
    whole: ClassVar[tuple[str, ...]] = ("counts",)

    def leaves(self) -> dict[str, str]:
        return {"counts": "float32 items", "likeness": "float32 items x items"}

    def init(self, n_items: int, seed: int) -> SharedParams:
        dense(self.name, n_items)
        return SharedParams({"counts": np.zeros(n_items, dtype=np.float32)})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        x = rows.matrix()
        total = (_unit(x).T @ x).toarray().astype(np.float32)
        return SharedParams({"counts": counts(rows), "likeness": total}), private

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        return merged

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        if "likeness" not in shared.tensors:
            return np.zeros((rows.n_users, rows.n_items))
        return queried(_unit(rows.matrix()), shared["likeness"])


def _unit(x: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows of length 1 in float64; rows without entries stay empty."""
    length: Array = np.sqrt(np.maximum(np.diff(x.indptr), 1).astype(np.float64))
    unit = x.astype(np.float64)
    unit.data /= np.repeat(length, np.diff(x.indptr))
    return unit
