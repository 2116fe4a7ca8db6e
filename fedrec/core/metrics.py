"""How well held-out items are found: sums and counts, so that institutions can be added up.

Rank of a held-out item = the number of candidates that score at least as high. Ties count against the
model, a score that is no number is a miss, and another candidate's NaN counts as higher. Several held-out
items of one user (p3) do not push each other down when they tie: they take the places one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.seeds import item_keys, mix, user_keys
from fedrec.core.split import Split

CUT, RECALL_CUT, NEGATIVES = 10, 20, 99
CELLS = 4_000_000  # scores held at once, about 32 MB
EVERY_USER = ("hr", "ndcg", "recall", "recall10", "precision", "map", "mrr", "novelty", "popular")  # in [0, 1] each
LISTED = EVERY_USER[-2:]  # of them those about the list
NAMES = ("hr@10", "ndcg@10", "recall@20", "recall@10", "precision@10", "map@10", "mrr@10", "novelty@10", "popular@10")
GROUPS, GROUP_EDGES, LEAST_GROUP = (":few", ":some", ":many"), (20, 100), 10
Z95 = 1.959964  # of the normal distribution
Scorer = Callable[[int, int], NDArray[Any]]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """What leaves an institution: sums over its evaluated users of values in [0, 1]; no user's value leaves.

    With several held-out items (p3) HR@10 asks whether any of them is in the first ten, NDCG@10 and MAP@10 are
    divided by the best that this user allows, recalls by the user's number of held-out items, and MRR@10 takes the
    first that is found. Novelty and popular@10 are about the list itself, by the institution's own train rows:
    the mean self-information of the ten items (1 = nobody here touched them), and the share of the ten that are
    among the institution's most popular tenth of items. Under p2 there is no list, and both are 0.

    A model that predicts ratings has three sums more, of its errors on the held-out rows; see `errors`.

    Args:
        ndcg_squares: sum of the squares of NDCG@10, for its interval.
        gap_squares: sum of the squares of (NDCG@10 of the federated model - of this one), for the interval of their
            difference; 0 for the federated model itself.
        rated: held-out rows whose rating was predicted; 0 for a model that ranks.
        squared: sum over them of the squared error, in ratings.
        absolute: sum of the absolute error.
    """

    users: int = 0
    hr: float = 0.0
    ndcg: float = 0.0
    recall: float = 0.0
    recall10: float = 0.0
    precision: float = 0.0
    map: float = 0.0
    mrr: float = 0.0
    novelty: float = 0.0
    popular: float = 0.0
    ndcg_squares: float = 0.0
    gap_squares: float = 0.0
    rated: int = 0
    squared: float = 0.0
    absolute: float = 0.0

    @classmethod
    def of(cls, values: Values, federated: Values | None = None, off: Values | None = None) -> Sums:
        """The sums of users' values; shape (users, len(EVERY_USER)).

        Args:
            federated: the values of the same users with the federated model; None where `values` are those.
            off: their `errors`, of a model that predicts ratings.
        """
        rated, squared, absolute = (0.0, 0.0, 0.0) if off is None else off.sum(axis=0).tolist()
        ndcg = values[:, 1]
        gap = 0.0 if federated is None else float(((federated[:, 1] - ndcg) ** 2).sum())
        named = dict(zip(EVERY_USER, values.sum(axis=0).tolist(), strict=True))
        sums = cls(len(values), **named, ndcg_squares=float((ndcg**2).sum()), gap_squares=gap)
        return replace(sums, rated=int(rated), squared=squared, absolute=absolute)

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def as_dict(self) -> dict[str, float]:
        """The sums by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, sums: Mapping[str, float]) -> Sums:
        """The sums that `as_dict` wrote."""
        counts = {name: int(sums[name]) for name in ("users", "rated")}
        return cls(**{field.name: counts.get(field.name, float(sums[field.name])) for field in fields(cls)})  # type: ignore[arg-type]

    def means(self) -> dict[str, float | None]:
        """Means over users, by the names of the JSON contract, None without users; `rmse` and `mae` over rows."""
        named = zip(NAMES, EVERY_USER, strict=True)
        listed = self.novelty or self.popular  # under p2 there is no list to be novel
        found = {
            name: getattr(self, each) / self.users if self.users and (listed or each not in LISTED) else None
            for name, each in named
        }
        rmse, mae = (sqrt(self.squared / self.rated), self.absolute / self.rated) if self.rated else (None, None)
        return {**found, "rmse": rmse, "mae": mae}

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of NDCG@10; None for fewer than two users."""
        return _interval(self.users, self.ndcg, self.ndcg_squares)

    def gain(self, federated: Sums) -> tuple[float, float, float] | None:
        """(mean, low, high) of NDCG@10 of the federated model minus this one, paired by user; None as `interval`."""
        found = _interval(self.users, federated.ndcg - self.ndcg, self.gap_squares)
        return None if found is None else ((federated.ndcg - self.ndcg) / self.users, *found)


def bootstrap(values: Values, seed: int, times: int = 2000) -> tuple[float, float] | None:
    """The 95 % interval of a mean over users, for callers who hold every user's value; None for fewer than two.

    Users are drawn with replacement; how often each different value is drawn is multinomial, so it is cheap.

    Source: Efron 1979, Bootstrap methods, section 2; percentiles.
    """
    if len(values) < 2:
        return None
    different, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=times)
    low, high = np.quantile(drawn @ different / len(values), [0.025, 0.975])
    return float(low), float(high)


def _interval(users: int, total: float, squares: float) -> tuple[float, float] | None:
    """Of a mean, by the normal distribution, from sums alone."""
    if users < 2:
        return None
    mean = total / users
    half = Z95 * sqrt(max(0.0, squares / users - mean**2) / (users - 1))
    return mean - half, mean + half


def users_at_once(n_items: int) -> int:
    """How many users' scores fit in `CELLS`."""
    return max(1, CELLS // max(1, n_items))


def measure(score: Scorer, rows: Split, protocol: str, seed: int) -> Sums:
    """Sums over the users with held-out rows; as `measured`."""
    return Sums.of(measured(score, rows, protocol, seed))


def measured(score: Scorer, rows: Split, protocol: str, seed: int, times: NDArray[np.int64] | None = None) -> Values:
    """EVERY_USER's values of the users with held-out rows, ascending; shape (users, len(EVERY_USER)).

    Args:
        score: scores of users lo..hi-1 for all items, not masked; shape (hi - lo, n_items).
        rows: the split, users and items as the scorer knows them.
        protocol: p2 ranks among 99 items that the user never touched; every other among all not seen.
        seed: draws p2's negatives, the same for every number of institutions.
        times: gets added in how many users' ten best each item stands, not under p2; shape (n_items,).
    """
    held, n_items = rows.held, rows.held.n_items
    found, step = [np.zeros((0, len(EVERY_USER)))], users_at_once(n_items)
    known = _popularity(rows.train)
    for low in range(0, held.n_users, step):
        high = min(low + step, held.n_users)
        pairs = np.unique(np.stack([_of(held, "user", low, high), _of(held, "item", low, high)]), axis=1)
        if pairs.shape[1] == 0:
            continue
        user, item = pairs[0] - low, pairs[1]
        candidate = np.ones((high - low, n_items), dtype=np.bool_)
        candidate[_of(rows.seen, "user", low, high) - low, _of(rows.seen, "item", low, high)] = False
        candidate[user, item] = False
        scores = score(low, high)
        if protocol == "p2":
            lists = np.zeros((len(np.unique(user)), 2))
            candidate = _sampled(candidate, rows, low, seed)
        else:
            best = _best(scores, candidate, user, item)
            lists = known[:, best].mean(axis=2).T
            if times is not None:
                times += np.bincount(best.ravel(), minlength=n_items)
        found.append(np.column_stack([values(ranks(scores, candidate, user, item), user), lists]))
    return np.concatenate(found)


def errors(score: Scorer, rows: Split, scale: tuple[float, float]) -> Values:
    """How far predicted ratings are off, for the users of `measured`: (held-out rows, sum of squared, of absolute).

    A prediction is first cut to the scale, so no error is above its width; one that is no number has the largest.

    Args:
        scale: the lowest and the highest rating.

    Returns:
        Shape (users, 3); errors in ratings.
    """
    held, (least, most) = rows.held, scale
    found, step = np.zeros((held.n_users, 3)), users_at_once(held.n_items)
    for low in range(0, held.n_users, step):
        high = min(low + step, held.n_users)
        user, item = _of(held, "user", low, high) - low, _of(held, "item", low, high)
        if len(user) == 0:
            continue
        true = np.clip(_of(held, "rating", low, high).astype(np.float64), least, most)
        said = np.clip(np.asarray(score(low, high))[user, item].astype(np.float64), least, most)
        off = np.where(np.isnan(said), np.maximum(true - least, most - true), np.abs(said - true))
        for place, each in enumerate((np.ones(len(off)), off**2, off)):
            found[low:high, place] = np.bincount(user, each, minlength=high - low)
    return found[np.unique(held.user)]


def by_rows(rows: Split) -> dict[str, NDArray[np.bool_]]:
    """The evaluated users in groups by their number of train rows: ":few" below 20, ":some" below 100, ":many".

    None at all where one of them has users, but fewer than LEAST_GROUP: it could be told from the others' sums.

    Returns:
        By group, who of `measured`'s users is in it; groups without users are left out.
    """
    count = np.bincount(rows.train.user, minlength=rows.train.n_users)[np.unique(rows.held.user)]
    which = np.searchsorted(GROUP_EDGES, count, side="right")
    groups = {name: which == number for number, name in enumerate(GROUPS) if (which == number).any()}
    return groups if all(who.sum() >= LEAST_GROUP for who in groups.values()) else {}


def _popularity(train: Interactions) -> Values:
    """Self-information of each item as a share of the most there can be, and whether it is of the most popular tenth.

    Returns:
        Shape (2, n_items).
    """
    x = train.matrix()
    touched = np.bincount(x.indices, minlength=train.n_items)
    most = np.log2(np.count_nonzero(np.diff(x.indptr)) + 1.0) or 1.0
    tenth = np.zeros(train.n_items)
    tenth[np.argsort(-touched, kind="stable")[: train.n_items // 10]] = 1.0
    return np.stack([1.0 - np.log2(touched + 1.0) / most, tenth])


def _best(
    scores: NDArray[Any], candidate: NDArray[np.bool_], user: NDArray[Any], item: NDArray[Any]
) -> NDArray[np.int64]:
    """Each user's ten best items in no order; users as in np.unique(user), shape (users, 10 or all items)."""
    evaluated = np.unique(user)
    open_ = np.where(candidate, scores, -np.inf).astype(np.float64)
    open_[user, item] = scores[user, item]
    open_ = np.nan_to_num(open_[evaluated], nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    cut = min(CUT, open_.shape[1])
    return np.argpartition(-open_, cut - 1, axis=1)[:, :cut]


def spread(times: NDArray[Any]) -> dict[str, float | None]:
    """How lists of ten spread over the catalogue: `coverage@10`, the share of items that stand in any list, and
    `gini@10`, 0 where all items stand in as many and near 1 where a few stand in all; None without lists.

    Args:
        times: in how many lists each item stands; shape (n_items,).

    Source: Gini 1912; Adomavicius, Kwon 2012, IEEE TKDE.
    """
    total, n = float(times.sum()), len(times)
    if not total:
        return {"coverage@10": None, "gini@10": None}
    place = 2 * np.arange(1, n + 1) - n - 1
    gini = float(place @ np.sort(times).astype(np.float64)) / (n * total)
    return {"coverage@10": float(np.count_nonzero(times)) / n, "gini@10": gini}


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
    found = values(rank, user)
    return Sums.of(np.column_stack([found, np.zeros((len(found), 2))]))


def values(rank: NDArray[np.int64], user: NDArray[Any]) -> Values:
    """Each user's values but those of the list, in the order of EVERY_USER; shape (users, 7), users as np.unique(user).

    Source: Manning, Raghavan, Schütze 2008, Introduction to Information Retrieval, chapter 8.
    """
    each, held = np.unique(user, return_inverse=True, return_counts=True)[1:]
    place = np.minimum(rank, CUT).astype(np.float64)
    hit = rank < CUT
    best = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(CUT) + 2.0))])
    hits = np.bincount(each, hit)
    order = np.lexsort((rank, each))
    nth = np.empty(len(rank))
    nth[order] = np.arange(len(rank)) - np.searchsorted(each[order], each[order]) + 1.0  # how many are found up to it
    first = np.zeros(len(held))
    np.maximum.at(first, each, np.where(hit, 1.0 / (place + 1.0), 0.0))
    return np.column_stack(
        [
            hits > 0,
            np.bincount(each, np.where(hit, 1.0 / np.log2(place + 2.0), 0.0)) / best[np.minimum(held, CUT)],
            np.bincount(each, rank < RECALL_CUT) / held,
            hits / held,
            hits / CUT,
            np.bincount(each, np.where(hit, nth / (place + 1.0), 0.0)) / np.minimum(held, CUT),
            first,
        ]
    )


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
