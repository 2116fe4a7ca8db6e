"""The guard: the last look at an update before it may leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from fedrec.core.params import Array
from fedrec.errors import Refused
from fedrec.exchange.plan import Tensor

_NEXT = "The owner's log says which check it was; mend the plan and submit it again"


@dataclass(frozen=True, slots=True)
class Guard:
    """What one release may look like.

    Args:
        leaves: the permit's arrays by name.
        n_items: length of the catalogue.
        max_bytes: the site's cap on the encoded update.
        min_users_per_row: rows backed by fewer users are zeroed; 1 leaves all.
    """

    leaves: Mapping[str, Tensor]
    n_items: int
    max_bytes: int
    min_users_per_row: int = 1

    def check(self, tensors: Mapping[str, Array], encoded_bytes: int) -> None:
        """Raises: Refused `guard.name`, `.dtype`, `.shape`, `.finite` or `.bytes`; says which check, never which value."""
        if set(tensors) != set(self.leaves):
            raise Refused("guard.name", "the update has other arrays than the plan declares", _NEXT)
        for name, tensor in self.leaves.items():
            array = tensors[name]
            if str(array.dtype) != tensor.dtype:
                raise Refused("guard.dtype", f"{name} is {array.dtype}, declared {tensor.dtype}", _NEXT)
            if array.shape != tensor.sized(self.n_items):
                raise Refused("guard.shape", f"{name} has another shape than declared", _NEXT)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Refused("guard.finite", f"{name} holds a value that is not finite", _NEXT)
        if encoded_bytes > self.max_bytes:
            raise Refused("guard.bytes", f"the update is larger than {self.max_bytes} bytes", _NEXT)

    def cohort(self, tensors: Mapping[str, Array], seen: sparse.csr_matrix) -> tuple[dict[str, Array], int]:
        """Zero the item rows (and columns) that too few users stand behind.

        Args:
            seen: users by items of the rows that were trained on.

        Returns:
            The arrays, and how many items were zeroed.
        """
        users = np.asarray((seen > 0).sum(axis=0)).ravel()
        thin = np.flatnonzero(users < self.min_users_per_row)
        if self.min_users_per_row <= 1 or not len(thin):
            return dict(tensors), 0
        kept = {}
        for name, tensor in self.leaves.items():
            array = np.array(tensors[name])
            for axis, size in enumerate(tensor.shape):
                if size == "items":
                    array[(slice(None),) * axis + (thin,)] = 0
            kept[name] = array
        return kept, len(thin)
