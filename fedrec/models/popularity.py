"""The yardstick that every recommender must beat: what most users touched."""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.models.base import counts


@dataclass(frozen=True, slots=True)
class Popularity:
    """An item's score is the number of users who touched it, the same for everyone."""

    name: ClassVar[str] = "popularity"
    rounds_default: ClassVar[int] = 1
    aggregator_default: ClassVar[str] = "sum"
    by_user: ClassVar[bool] = True
    whole: ClassVar[tuple[str, ...]] = ("counts",)

    def leaves(self) -> dict[str, str]:
        return {"counts": "float32 items"}

    def init(self, n_items: int, seed: int) -> SharedParams:
        return SharedParams({"counts": np.zeros(n_items, dtype=np.float32)})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        return SharedParams({"counts": counts(rows)}), private

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        return merged

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        return np.broadcast_to(shared["counts"], (rows.n_users, rows.n_items))
