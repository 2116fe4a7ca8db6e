"""The default: EASE and the sequential model together, one round, exact for every split."""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.models.base import dense, positive, queried, standard
from fedrec.models.ease import Ease
from fedrec.models.sequential import Sequential, recent


@dataclass(frozen=True, slots=True)
class Default:
    """score = z(recent query x EASE weights) + share z(sequential), each standardised over a user's items.

    An institution without timestamps gets plain EASE, and gives its Gram only. Popular items serve
    users without rows (their scores are the counts).
    Source: quality.md (measured there); the parts: `Ease`, `Sequential`.

    Args:
        l2: EASE's ridge, in users.
        floor: weight of an item touched long ago in EASE's query, 0..1.
        recency: half-life of the query, in rows since.
        share: weight of the sequential part.
    """

    l2: float = 200.0
    floor: float = 0.2
    recency: float = 5.0
    share: float = 1.0

    name: ClassVar[str] = "default"
    rounds_default: ClassVar[int] = 1
    aggregator_default: ClassVar[str] = "sum"
    by_user: ClassVar[bool] = True
    whole: ClassVar[tuple[str, ...]] = ("gram",)
    centre: ClassVar[tuple[str, ...]] = ("l2",)

    def __post_init__(self) -> None:
        positive(self, "l2", "recency")
        positive(self, "floor", "share", zero=True)

    def leaves(self) -> dict[str, str]:
        return {"gram": "float32 items x items", "follows": "float32 items x items"}

    def init(self, n_items: int, seed: int) -> SharedParams:
        dense(self.name, n_items)
        return SharedParams({"counts": np.zeros(n_items, dtype=np.float32)})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        gram = self._ease().fit_site(rows, shared, private)[0]["gram"]
        return SharedParams({"gram": gram, "follows": self._sequential().follows(rows)}), private

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        ease = self._ease().finish(shared, merged)
        sums = SharedParams({"counts": ease["counts"], "follows": merged["follows"]})
        return SharedParams({**ease.tensors, "next": self._sequential().finish(shared, sums)["next"]})

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        if "weights" not in shared.tensors:
            return np.zeros((rows.n_users, rows.n_items))
        near = queried(recent(rows, self.recency, self.floor), shared["weights"])
        if rows.time is None:
            scores = near
        else:
            scores = standard(near) + self.share * standard(self._sequential().score(rows, shared, private))
        nobody = np.bincount(rows.user, minlength=rows.n_users) == 0
        scores[nobody] = shared["counts"]
        found: NDArray[Any] = scores
        return found

    def _ease(self) -> Ease:
        return Ease(l2=self.l2)

    def _sequential(self) -> Sequential:
        return Sequential(recency=self.recency)
