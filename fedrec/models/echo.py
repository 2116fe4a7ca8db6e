"""A model that learns nothing: it measures what a round costs."""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.models.base import positive


@dataclass(frozen=True, slots=True)
class Echo:
    """Each institution sends back what it got. Refused by sites unless `allow_echo = true`.

    Args:
        megabytes: size of the payload; MB = 10**6 bytes.
    """

    megabytes: float = 1.0

    name: ClassVar[str] = "echo"
    rounds_default: ClassVar[int] = 20
    aggregator_default: ClassVar[str] = "mean"
    by_user: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "megabytes")

    @property
    def _numbers(self) -> int:
        return max(1, round(self.megabytes * 1e6 / 4))

    def leaves(self) -> dict[str, str]:
        return {"payload": f"float32 {self._numbers}"}

    def init(self, n_items: int, seed: int) -> SharedParams:
        return SharedParams({"payload": np.random.default_rng(seed).random(self._numbers, dtype=np.float32)})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        return shared, private

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        return merged

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        return np.zeros((rows.n_users, rows.n_items), dtype=np.float32)
