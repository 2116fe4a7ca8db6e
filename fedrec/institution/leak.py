"""What an update tells: who is in it, which items were touched, which cells stand for a few people.

The attacker of `membership` is the worst one: a person's history and every other row of the institution are known to
it, and it projects the update, less what it expects without the person, on what the person adds. Projections need only
the inner product of two users' contributions, which follows from the number of items that they share; so no attack
builds X'X, and all of them take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.core.interactions import Interactions
from fedrec.errors import DataError

Array = NDArray[np.float64]
AT_ONCE = 256  # items
STATISTICS = ("counts", "gram", "cooccurrence")


@dataclass(frozen=True, slots=True)
class Attack:
    """How well in was told from out.

    Args:
        advantage: true less false positives at the middle between in and out, chosen beforehand; -1 to 1.
        auc: the chance that an update with the person scores higher than one without; 0.5 is guessing.
    """

    advantage: float
    auc: float


def inner(shared: Array, statistic: str) -> Array:
    """Inner product of two users' contributions that share so many items.

    counts: a one for each item. gram: the upper triangle of x x' with its diagonal. cooccurrence: without it.
    """
    if statistic not in STATISTICS:
        raise DataError(f"{statistic} is none of {', '.join(STATISTICS)}")
    return {"counts": shared, "gram": shared * (shared + 1) / 2, "cooccurrence": shared * (shared - 1) / 2}[statistic]


def norms(rows: Interactions, statistic: str) -> Array:
    """L2 norm of what each user adds before any clip; shape (n_users,)."""
    return np.sqrt(inner(_items(rows).sum(axis=1).A1, statistic))


def membership(
    rows: Interactions,
    canaries: NDArray[np.int64],
    statistic: str,
    *,
    clip: float | None = None,
    sigma: float = 0.0,
    others: Interactions | None = None,
    trials: int = 500,
    seed: int = 0,
) -> Attack:
    """Tell from a sum whether a canary's rows are in it; each canary is in `trials` sums and out of as many.

    Args:
        rows: the institution's, canaries among them.
        canaries: user indices of `rows`.
        clip: L2 bound of what a user adds; None for no bound.
        sigma: noise of the whole sum in units of `clip`.
        others: the other institutions' users when only the sum of all is seen: the attacker knows from which
            population they come, not who they are (as many are drawn from it for each trial, with replacement).
        trials: sums with and sums without, per canary.
        seed: of the trials, not of any privacy.

    Raises:
        DataError: noise without a clip, no canary, or an unknown statistic.
    """
    if sigma and clip is None:
        raise DataError("noise is in units of the clip: give one")
    if not len(canaries):
        raise DataError("no canary")
    rng = np.random.default_rng(seed)
    own = norms(rows, statistic)
    bounded = own if clip is None else np.minimum(own, clip)
    scores: tuple[list[Array], list[Array]] = ([], [])
    crowd = None if others is None else _Crowd.of(others, statistic, clip)
    for user in canaries:
        for inside in (0, 1):
            score = np.full(trials, inside * bounded[user])
            if clip is not None:
                score += rng.normal(0.0, sigma * clip, trials)
            if crowd is not None and own[user]:
                score += crowd.deviations(_items(rows)[user], statistic, own[user], trials, rng)
            scores[inside].append(score - bounded[user] / 2)
    out, within = np.concatenate(scores[0]), np.concatenate(scores[1])
    return Attack(float((within > 0).mean() - (out > 0).mean()), _auc(within, out))


@dataclass(frozen=True, slots=True)
class _Crowd:
    """The users of the other institutions and the factor that clips each."""

    items: sparse.csr_matrix
    factor: Array

    @classmethod
    def of(cls, rows: Interactions, statistic: str, clip: float | None) -> _Crowd:
        size = norms(rows, statistic)
        factor = np.ones(len(size)) if clip is None else np.minimum(1.0, clip / np.maximum(size, 1e-12))
        return cls(_items(rows), factor)

    def deviations(self, canary: Any, statistic: str, norm: float, trials: int, rng: np.random.Generator) -> Array:
        """Projections of the crowds drawn, less the mean one; shape (trials,)."""
        shared = (self.items @ canary.T).toarray().ravel()
        each = inner(shared, statistic) * self.factor / norm
        users = len(each)
        drawn = rng.multinomial(users, np.full(users, 1 / users), size=trials)
        return np.asarray(drawn @ each - each.sum())


def bound(epsilon: float, delta: float) -> float:
    """The advantage that no attacker exceeds under (epsilon, delta).

    Source: the region of tests in Kairouz, Oh and Viswanath 2015, The composition theorem for DP, ICML.
    """
    return (exp(epsilon) - 1 + 2 * delta) / (exp(epsilon) + 1)


def touched(counts: Array, true: NDArray[np.bool_]) -> tuple[float, float]:
    """Items read off an update by its cells above a half: share of the true ones found, and share that is true."""
    found = counts > 0.5
    right = float((found & true).sum())
    return right / max(1.0, float(true.sum())), right / max(1.0, float(found.sum()))


def thin_cells(rows: Interactions, k: int) -> tuple[int, int]:
    """Cells of X'X (upper triangle with diagonal) backed by 1 to k - 1 users, and all that are backed by any.

    Made for some hundred items at a time: the whole of it may be larger than memory.
    """
    x = _items(rows).tocsc()
    few = every = 0
    for low in range(0, x.shape[1], AT_ONCE):
        gram = (x[:, low : low + AT_ONCE].T @ x).tocoo()
        cells = gram.data[gram.row + low <= gram.col]
        few, every = few + int((cells < k - 0.5).sum()), every + len(cells)
    return few, every


def _items(rows: Interactions) -> Any:
    return rows.matrix().astype(np.float64)


def _auc(within: Array, out: Array) -> float:
    """Source: Mann and Whitney 1947; ties count half."""
    ordered = np.sort(out)
    below, upto = np.searchsorted(ordered, within, "left"), np.searchsorted(ordered, within, "right")
    return float((below + upto).mean() / 2 / len(out))
