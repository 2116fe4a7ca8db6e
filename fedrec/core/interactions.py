"""One institution's interactions as columns of numbers, in an order that carries the time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.core.features import Features


@dataclass(frozen=True, slots=True)
class Interactions:
    """Rows sorted by user, oldest first; everything downstream goes by position, not by `time`.

    Among equal timestamps the row that stands earlier in the source file counts as the later one
    (quality.md, ties). Users and items are indices; raw ids stay in the store's own table.

    Args:
        user: user index; shape (n,), 0 <= user < n_users, ascending.
        item: index in the consortium's catalogue; shape (n,), 0 <= item < n_items.
        rating: the source's rating or count; shape (n,).
        time: seconds since 1970; shape (n,), or None when the source has no timestamps.
        users: what is known about users, by index; None where nothing is. It never leaves the institution.
        items: what is known about items.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    rating: NDArray[np.float32]
    time: NDArray[np.int64] | None
    n_users: int
    n_items: int
    users: Features | None = None
    items: Features | None = None

    def __len__(self) -> int:
        return len(self.user)

    def matrix(self) -> sparse.csr_matrix:
        """Users by items, 1.0 where the user touched the item at least once; shape (n_users, n_items)."""
        ones = np.ones(len(self.user), dtype=np.float32)
        found = sparse.csr_matrix((ones, (self.user, self.item)), shape=(self.n_users, self.n_items))
        found.data[:] = 1.0
        return found

    def take(self, keep: NDArray[Any]) -> Interactions:
        """The rows where `keep` is True (or at these positions); users keep their indices."""
        time = None if self.time is None else self.time[keep]
        return replace(self, user=self.user[keep], item=self.item[keep], rating=self.rating[keep], time=time)
