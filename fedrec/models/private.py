"""A model made for noise: what one user adds is bounded, and what noise drowns is left out."""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.core.threads import one_thread
from fedrec.errors import WrongInput
from fedrec.models.base import positive, queried, standard
from fedrec.models.default import Default
from fedrec.models.sequential import recent

STEPS = 2**12  # a user's sums have at most this L2 norm and are whole numbers
OWN, WEIGHT = "own.", "weight"  # an institution's own default model beside a served one, see institution.blending
WHOLE = 2**24  # sums stop here, at one institution: float32 holds whole numbers up to it, so rounding adds nothing


@dataclass(frozen=True, slots=True)
class Private:
    """score = z(recent query x W) + blend z(counts); W of items that users touched near each other in time.

    Round 0 releases how often items were touched, x_u / |x_u| summed over users; the centre keeps the items that
    stand above the noise. Round 1 releases for each pair of these the sum over users of 2^(-(lag - 1) / half_life),
    lag = rows between the two, which each user scales to norm 1; without timestamps every pair weighs 1. The centre
    cuts the spectrum at the edge of the noise, 2 sigma sqrt(n), and shrinks what is above it. It needs no sigma:
    these sums are never negative, so what lies below 0 is noise and tells its size. Without noise nothing is cut.
    Source: Benaych-Georges and Nadakuditi 2011, Advances in Mathematics, for the shrinkage (example 3.1);
    settings chosen on ML-100K's validation rows, benchmarks/privacy.py.

    Args:
        most: items whose pairs are counted, at most; an update has most (most - 1) / 2 numbers.
        above: an item is one of them when its count stands so many deviations of the noise above 0.
        first: part of the privacy budget that round 0 gets; the rest is round 1's.
        window: lags 1..window - 1 count, in rows.
        half_life: of a pair's weight, in rows.
        exponent: how much popular items are held back.
        recency: half-life of an item's weight in the query, in rows since the user touched it.
        blend: weight of the counts.
    """

    most: int = 800
    above: float = 2.0
    first: float = 0.3
    window: int = 31
    half_life: float = 10.0
    exponent: float = 0.3
    recency: float = 3.0
    blend: float = 0.2

    name: ClassVar[str] = "private"
    rounds_default: ClassVar[int] = 2
    aggregator_default: ClassVar[str] = "sum"
    by_user: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "most", "first", "window", "half_life", "recency")
        positive(self, "above", "exponent", "blend", zero=True)
        if self.first >= 1 or not 2 <= self.most <= 4000:
            raise WrongInput("private.first is below 1, and private.most from 2 to 4000")

    def leaves(self) -> dict[str, str]:
        return {"counts": "float32 items", "near": f"float32 {self.most * (self.most - 1) // 2}"}

    def sensitivity(self, number: int) -> dict[str, float] | None:
        """Largest L2 norm of what one user adds to each array in round `number`.

        0 says that the array means nothing in this round: whoever adds noise must write zeros there, since a centre
        could ask round 1 of the model of round 0. None after the second round.
        """
        if number > 1:
            return None
        return {"counts": float(STEPS), "near": 0.0} if number == 0 else {"counts": 0.0, "near": float(STEPS)}

    def share(self, number: int) -> float:
        """The part of a run's budget, 1 / sigma^2, that round `number` gets; 0 after the second."""
        return {0: self.first, 1: 1.0 - self.first}.get(number, 0.0)

    def init(self, n_items: int, seed: int) -> SharedParams:
        return SharedParams({"counts": np.zeros(n_items, dtype=np.float32)})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        counts, near = np.zeros(rows.n_items), np.zeros(self.most * (self.most - 1) // 2)
        if shared["counts"].any():
            near = self._near(rows, self._top(shared["counts"]))
        else:
            x = rows.matrix()
            counts += x.T @ np.floor(STEPS / np.sqrt(np.maximum(np.diff(x.indptr), 1)))
        sums = {"counts": counts, "near": near}
        return SharedParams({n: np.minimum(a, WHOLE).astype(np.float32) for n, a in sums.items()}), private

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        if not shared["counts"].any():
            return SharedParams({"counts": (merged["counts"] / STEPS).astype(np.float32)})
        top, sums = self._top(shared["counts"]), merged["near"].astype(np.float64) / STEPS
        near = np.zeros((len(top), len(top)))
        one, other = np.triu_indices(len(top), 1)
        near[one, other] = near[other, one] = sums[_cell(one, other, self.most)]
        held = shared["counts"][top].astype(np.float64) ** -self.exponent
        weights = np.zeros((self.most, self.most), dtype=np.float32)  # of one shape for every draw of the noise
        weights[: len(top), : len(top)] = shrunk(near, noise(sums)) * np.outer(held, held)
        np.fill_diagonal(weights, 0.0)
        return SharedParams({"counts": shared["counts"], "weights": weights})

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        popular = standard(np.maximum(shared["counts"], 0.0)[None, :].astype(np.float64))
        found = np.zeros((rows.n_users, rows.n_items))
        if "weights" in shared.tensors:
            top = self._top(shared["counts"])
            weights = shared["weights"][: len(top), : len(top)]
            found[:, top] = queried(recent(rows, self.recency, 0.0)[:, top], weights)
        scores: NDArray[Any] = standard(found) + self.blend * popular
        if WEIGHT in shared.tensors:
            own = {n.removeprefix(OWN): a for n, a in shared.tensors.items() if n.startswith(OWN)}
            weight = float(shared[WEIGHT][0])
            exact = standard(Default().score(rows, SharedParams(own), private))
            scores = (1.0 - weight) * exact + weight * standard(scores)
        return scores

    def _top(self, counts: Array) -> Array:
        """The items whose pairs are counted, ascending: those that stand above the noise."""
        best = np.argsort(-counts, kind="stable")[: self.most]
        found: Array = np.sort(best[counts[best] > self.above * noise(counts)])
        return found

    def _near(self, rows: Interactions, top: Array) -> Array:
        """The pairs' sums at one institution, whole numbers; shape (most (most - 1) / 2,)."""
        place = np.full(rows.n_items, -1, dtype=np.int64)
        place[top] = np.arange(len(top))
        x = recent(rows, 1.0, 1.0)[:, top]  # each pair of user and item once
        if rows.time is None:
            size = np.diff(x.indptr)
            each = np.floor(STEPS / np.sqrt(np.maximum(size * (size - 1) / 2, 1)))
            both = sparse.triu(x.T @ sparse.diags(each) @ x, 1).tocoo()
            return self._summed(both.row, both.col, both.data)
        key = rows.user.astype(np.int64) * rows.n_items + rows.item
        last = len(rows) - 1 - np.unique(key[::-1], return_index=True)[1]  # of rows that repeat a pair
        keep = np.sort(last[place[rows.item[last]] >= 0])
        user, item = rows.user[keep], place[rows.item[keep]]
        lags = [
            (same, same + lag, 2.0 ** (-(lag - 1) / self.half_life))
            for lag in range(1, min(self.window, len(user)))
            if (same := np.flatnonzero(user[lag:] == user[:-lag])).size
        ]
        square = np.zeros(rows.n_users)
        for first, _, weight in lags:
            square += weight**2 * np.bincount(user[first], minlength=rows.n_users)
        scale = STEPS / np.sqrt(np.maximum(square, 1.0))
        return sum(
            (self._summed(item[first], item[second], np.floor(w * scale[user[first]])) for first, second, w in lags),
            start=np.zeros(self.most * (self.most - 1) // 2),
        )

    def _summed(self, one: Array, other: Array, values: Array) -> Array:
        low, high = np.minimum(one, other), np.maximum(one, other)
        cells = self.most * (self.most - 1) // 2
        return np.bincount(_cell(low, high, self.most), values, minlength=cells)


def noise(sums: Array) -> float:
    """The standard deviation of the noise in sums that are never negative: the root mean square of those below 0."""
    below = sums[sums < 0]
    return float(np.sqrt(np.mean(below**2))) if len(below) else 0.0


def shrunk(matrix: Array, sigma: float) -> Array:
    """A symmetric matrix without what noise of `sigma` in each cell would give alone; itself where sigma is 0.

    An eigenvalue t of the truth shows as w = t + n sigma^2 / t; those at or below 2 sigma sqrt(n) cannot be told.
    """
    if sigma == 0.0 or not len(matrix):
        return matrix
    edge = 2.0 * sigma * np.sqrt(len(matrix))
    with one_thread():
        seen, vectors = linalg.eigh(matrix)
    kept = seen > edge
    true = (seen[kept] + np.sqrt(seen[kept] ** 2 - edge**2)) / 2.0
    found: Array = (vectors[:, kept] * true) @ vectors[:, kept].T
    return found


def _cell(low: Array, high: Array, most: int) -> Array:
    """Where the pair low < high stands among the pairs of `most` places."""
    low = low.astype(np.int64)
    found: Array = low * (2 * most - low - 1) // 2 + high - low - 1
    return found
