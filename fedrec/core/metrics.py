"""How well held-out items are found: sums and counts, so that institutions can be added up.

Rank of a held-out item = the number of candidates that score at least as high. Ties count against the
model, a score that is no number is a miss, and another candidate's NaN counts as higher. Several held-out
items of one user (p3) do not push each other down when they tie: they take the places one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.seeds import item_keys, mix, user_keys
from fedrec.core.split import Split

CUT, RECALL_CUT, NEGATIVES = 10, 20, 99
CELLS = 4_000_000  # scores held at once, about 32 MB
Scorer = Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Sums:
    """What leaves an institution: sums over its evaluated users.

    With several held-out items (p3) HR@10 asks whether any of them is in the first ten, NDCG@10 is
    divided by the best that this user allows, and Recall@20 by the user's number of held-out items.
    """

    users: int = 0
    hr: float = 0.0
    ndcg: float = 0.0
    recall: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.users + other.users, self.hr + other.hr, self.ndcg + other.ndcg, self.recall + other.recall)

    def as_dict(self) -> dict[str, float]:
        """The sums by name."""
        return {"users": self.users, "hr": self.hr, "ndcg": self.ndcg, "recall": self.recall}

    @classmethod
    def from_dict(cls, sums: Mapping[str, float]) -> Sums:
        """The sums that `as_dict` wrote."""
        return cls(int(sums["users"]), float(sums["hr"]), float(sums["ndcg"]), float(sums["recall"]))

    def means(self) -> dict[str, float | None]:
        """Means over users, by the names of the JSON contract; None without users."""
        named = {"hr@10": self.hr, "ndcg@10": self.ndcg, "recall@20": self.recall}
        return {name: total / self.users if self.users else None for name, total in named.items()}


def users_at_once(n_items: int) -> int:
    """How many users' scores fit in `CELLS`."""
    return max(1, CELLS // max(1, n_items))


def measure(score: Scorer, rows: Split, protocol: str, seed: int) -> Sums:
    """Sums over the users with held-out rows.

    Args:
        score: scores of users lo..hi-1 for all items, not masked; shape (hi - lo, n_items).
        rows: the split, users and items as the scorer knows them.
        protocol: p2 ranks among 99 items that the user never touched; every other among all not seen.
        seed: draws p2's negatives, the same for every number of institutions.
    """
    held, n_items = rows.held, rows.held.n_items
    total, step = Sums(), users_at_once(n_items)
    for low in range(0, held.n_users, step):
        high = min(low + step, held.n_users)
        pairs = np.unique(np.stack([_of(held, "user", low, high), _of(held, "item", low, high)]), axis=1)
        if pairs.shape[1] == 0:
            continue
        user, item = pairs[0] - low, pairs[1]
        candidate = np.ones((high - low, n_items), dtype=np.bool_)
        candidate[_of(rows.seen, "user", low, high) - low, _of(rows.seen, "item", low, high)] = False
        candidate[user, item] = False
        if protocol == "p2":
            candidate = _sampled(candidate, rows, low, seed)
        total += summed(ranks(score(low, high), candidate, user, item), user)
    return total


def ranks(
    scores: NDArray[Any], candidate: NDArray[np.bool_], user: NDArray[Any], item: NDArray[Any]
) -> NDArray[np.int64]:
    """Rank of each held-out item, 0 = best; shape (pairs,).

    Args:
        scores: shape (users, items).
        candidate: what competes with the held-out items, themselves left out; the same shape.
        user: row of each held-out item; shape (pairs,).
        item: its column; shape (pairs,).
    """
    target = scores[user, item]
    best_first = np.lexsort((-target, user))
    place = np.arange(len(user)) - np.searchsorted(user[best_first], user[best_first])
    found = np.empty(len(user), dtype=np.int64)
    found[best_first] = place
    step = users_at_once(scores.shape[1])
    for low in range(0, len(user), step):
        part = slice(low, low + step)
        lower = scores[user[part]] < target[part, None]
        found[part] += np.count_nonzero(candidate[user[part]] & ~lower, axis=1)
    found[np.isnan(target)] = np.iinfo(np.int64).max
    return found


def summed(rank: NDArray[np.int64], user: NDArray[Any]) -> Sums:
    """Sums over users from the ranks of their held-out items; both of shape (pairs,), users in any order."""
    each, held = np.unique(user, return_inverse=True, return_counts=True)[1:]
    gain = np.where(rank < CUT, 1.0 / np.log2(np.minimum(rank, CUT) + 2.0), 0.0)
    best = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(CUT) + 2.0))])
    hits = np.bincount(each, rank < CUT)
    ndcg = np.bincount(each, gain) / best[np.minimum(held, CUT)]
    recall = np.bincount(each, rank < RECALL_CUT) / held
    return Sums(len(held), float(np.count_nonzero(hits)), float(ndcg.sum()), float(recall.sum()))


def _sampled(candidate: NDArray[np.bool_], rows: Split, low: int, seed: int) -> NDArray[np.bool_]:
    """99 of each user's candidates, uniformly without replacement; users start at `low`.

    They have the 99 smallest hashes of (seed, user's items, item): no generator, no order of users.
    """
    if candidate.shape[1] <= NEGATIVES:
        return candidate
    users = user_keys(rows.seen, seed)[low : low + len(candidate), None]
    key = mix(item_keys(rows.seen.n_items, seed)[None, :] ^ users)
    key[~candidate] = np.iinfo(np.uint64).max
    chosen = np.zeros_like(candidate)
    np.put_along_axis(chosen, np.argpartition(key, NEGATIVES, axis=1)[:, :NEGATIVES], True, axis=1)
    return chosen & candidate


def _of(rows: Interactions, column: str, low: int, high: int) -> NDArray[Any]:
    """One column of the rows of users low..high-1."""
    first, last = np.searchsorted(rows.user, [low, high])
    values: NDArray[Any] = getattr(rows, column)[first:last]
    return values
