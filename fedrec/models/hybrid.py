"""A hybrid of vectors and features: it serves items and users that nobody has seen in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams, add
from fedrec.models.base import positive
from fedrec.models.features import ITEM, USER, check_columns, inputs, mine
from fedrec.models.pairs import normal, user_state
from fedrec.models.softmax import blocks, fit_block


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Two towers, u = p_u + M'z_u and v = e_i + W'x_i with prepared features z, x, each over the root of
    their number; softmax of u.v over items.

    p_u and z_u stay at the institution. With item features e starts at zero, and only items that somebody has
    touched compete: here, or elsewhere, where e_i is no longer zero. So an item that nobody has touched is ranked
    by W'x_i alone. A user without rows has p_u = 0 and is served by M'z_u. The gradient of the mean loss leaves;
    averaged by row count it is the centralised one, but for round 0, where only items touched here compete.
    Source: the two towers of Covington et al. 2016, RecSys, and the sum of feature vectors of Kula 2015 (LightFM).

    Args:
        columns, centre, scale: the features and how they are prepared, see `FeatureSums.settings`.
        factors, steps, private_lr, user_decay: as in `MF`.
    """

    columns: tuple[str, ...] = ()
    centre: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    factors: int = 64
    steps: int = 5
    private_lr: float = 0.03
    user_decay: float = 2.0

    name: ClassVar[str] = "hybrid"
    rounds_default: ClassVar[int] = 25
    aggregator_default: ClassVar[str] = "adam"
    by_user: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "factors", "steps", "private_lr")
        positive(self, "user_decay", zero=True)
        check_columns(self)

    def _widths(self) -> dict[str, int]:
        widths = {"of_items": len(mine(self.columns, ITEM)), "of_users": len(mine(self.columns, USER))}
        return {name: width for name, width in widths.items() if width}

    def leaves(self) -> dict[str, str]:
        maps = {name: f"float32 {width} x {self.factors}" for name, width in self._widths().items()}
        return {"items": f"float32 items x {self.factors}", **maps}

    def init(self, n_items: int, seed: int) -> SharedParams:
        shapes: dict[str, tuple[int, ...]] = {"items": (n_items, self.factors)}
        shapes |= {name: (width, self.factors) for name, width in self._widths().items()}
        start = "of_items" if "of_items" in shapes else "items"
        return normal(seed, shapes, {start: 0.3 / self.factors**0.5})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        state, x = user_state(rows, private, self.factors), rows.matrix()
        features, items = torch.from_numpy(self._inputs(rows, USER)), torch.from_numpy(self._items(rows, shared))
        offset = torch.from_numpy(self._of(rows, shared, USER))
        competes = (np.diff(x.tocsc().indptr) > 0) | shared["items"].any(1) | ("of_items" not in shared.tensors)
        away = torch.from_numpy(np.where(competes, 0.0, -np.inf))
        slope_items, slope_users = torch.zeros_like(items), torch.zeros(features.shape[1], self.factors).double()
        for part in blocks(rows.n_users if x.nnz else 0, rows.n_items):
            touched = torch.from_numpy(x[part].toarray().astype(np.float64))
            wrong, user = fit_block(self, touched, items, state, part, offset[part], away)
            slope_items += wrong.T @ user
            slope_users += features[part].T @ (wrong @ items)
        state["step"] += self.steps
        found = {"items": slope_items.numpy(), "of_users": slope_users.numpy()}
        found["of_items"] = self._inputs(rows, ITEM).T @ found["items"]
        mean = {name: (found[name] / max(x.nnz, 1)).astype(np.float32) for name in shared.tensors}
        return SharedParams(mean), PrivateParams(state)

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        return add(shared, merged)

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        users = user_state(rows, private, self.factors)["users"] + self._of(rows, shared, USER)
        found: NDArray[Any] = users @ self._items(rows, shared).T
        return found

    def _items(self, rows: Interactions, shared: SharedParams) -> NDArray[np.float64]:
        return shared["items"].astype(np.float64) + self._of(rows, shared, ITEM)

    def _inputs(self, rows: Interactions, of: str) -> NDArray[np.float64]:
        """Prepared features over the root of their number, so that many weigh no more than a few."""
        raw = inputs(self, rows, of)
        found: NDArray[np.float64] = raw / max(1, raw.shape[1]) ** 0.5
        return found

    def _of(self, rows: Interactions, shared: SharedParams, of: str) -> NDArray[np.float64]:
        """What features say about users or items; zeros without any."""
        weights = shared.tensors.get("of_items" if of == ITEM else "of_users", np.zeros((0, self.factors)))
        return self._inputs(rows, of) @ weights.astype(np.float64)
