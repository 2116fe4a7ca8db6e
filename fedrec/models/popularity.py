"""The yardstick that every recommender must beat: what most users touched."""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.models.base import counts, positive

STEPS = 2**20  # in which a user's part of a count is whole


@dataclass(frozen=True, slots=True)
class Popularity:
    """An item's score is the number of users who touched it, the same for everyone.

    Args:
        clip: largest L2 norm of what one user adds, needed under an epsilon: a user of n items counts each as
            clip / sqrt(n) where that is below 1. 0 = everyone counts as 1.
    """

    clip: float = 0.0

    name: ClassVar[str] = "popularity"
    rounds_default: ClassVar[int] = 1
    aggregator_default: ClassVar[str] = "sum"
    by_user: ClassVar[bool] = True
    whole: ClassVar[tuple[str, ...]] = ("counts",)

    def __post_init__(self) -> None:
        positive(self, "clip", zero=True)

    def leaves(self) -> dict[str, str]:
        return {"counts": f"{self._dtype} items"}

    def sensitivity(self, number: int) -> dict[str, float] | None:
        return {"counts": self.clip} if self.clip else None

    def init(self, n_items: int, seed: int) -> SharedParams:
        return SharedParams({"counts": np.zeros(n_items, dtype=self._dtype)})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        if not self.clip:
            return SharedParams({"counts": counts(rows)}), private
        x = rows.matrix()
        each = np.minimum(1.0, self.clip / np.sqrt(np.maximum(np.diff(x.indptr), 1)))
        bounded = x.T @ (np.floor(each * STEPS) / STEPS)  # exact in float64: no user changes how others are rounded
        return SharedParams({"counts": np.asarray(bounded, dtype=np.float64)}), private

    @property
    def _dtype(self) -> str:
        return "float64" if self.clip else "float32"

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        return merged

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        return np.broadcast_to(shared["counts"], (rows.n_users, rows.n_items))
