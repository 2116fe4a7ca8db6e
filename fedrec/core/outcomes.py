"""Yes/no outcomes: who is held out, and how good predicted probabilities are, as sums that add up over institutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.seeds import mix, user_keys
from fedrec.core.split import Split, known

BINS = 100
EDGES = np.linspace(-10.0, 10.0, BINS - 1)  # in log-odds, .2 apart
_MIDDLE = 1.0 / (1.0 + np.exp(-np.concatenate([[-10.1], (EDGES[1:] + EDGES[:-1]) / 2, [10.1]])))
TINY = 1e-15  # probabilities are held this far from 0 and 1: one wrong certainty costs 34.5


def split_users(rows: Interactions, protocol: str, seed: int) -> Split:
    """The rows under a protocol, by whole users: a fifth of them is held out, and another fifth for validation.

    A user with one row has no later row to hold out, so the protocols of core.split do not fit. Which users,
    depends on the seed and on their features and items: the same for every number of institutions, but for
    users who are equal in both; they are numbered, so that a fifth of them is held out too.

    Args:
        protocol: p1 and p2 train on three fifths, p3 on four, all on all; validation is as in core.split.
    """
    name = known(protocol)
    key = user_keys(rows, seed)
    if rows.users is not None:
        key = mix(key ^ rows.users.keys())
    key = mix(key + _places(key))
    part = (key % np.uint64(5))[rows.user]
    if name == "all":
        held, train = np.zeros(len(rows), dtype=np.bool_), np.ones(len(rows), dtype=np.bool_)
    else:
        held = part == (1 if name == "validation" else 0)
        train = part != 0 if name == "p3" else part >= 2
    return Split(rows.take(train), rows.take(held), rows.take(train))


def _places(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """How many before each have the same key."""
    order = np.argsort(key, kind="stable")
    first = np.searchsorted(key[order], key[order])
    found = np.empty(len(key), dtype=np.uint64)
    found[order] = np.arange(len(key)) - first
    return found


def yes(rows: Interactions) -> NDArray[np.bool_]:
    """Each row's outcome: a rating above 0; shape (rows,)."""
    return rows.rating > 0


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What leaves an institution: sums over judged rows, and counts by predicted log-odds.

    Args:
        users: rows that were judged.
        log_loss: sum of -ln of the probability given to what happened.
        brier: sum of squared differences.
        yes: rows with outcome yes, by bin of the prediction; `BINS` counts, bins .2 wide in log-odds.
        no: those with outcome no.
    """

    users: int = 0
    log_loss: float = 0.0
    brier: float = 0.0
    yes: tuple[int, ...] = field(default=(0,) * BINS)
    no: tuple[int, ...] = field(default=(0,) * BINS)

    def __add__(self, other: Outcomes) -> Outcomes:
        both = (np.add(self.yes, other.yes), np.add(self.no, other.no))
        counts = [tuple(int(count) for count in total) for total in both]
        return Outcomes(
            self.users + other.users, self.log_loss + other.log_loss, self.brier + other.brier, counts[0], counts[1]
        )

    def as_dict(self) -> dict[str, Any]:
        """The sums by name."""
        sums = {"users": self.users, "log_loss": self.log_loss, "brier": self.brier}
        return {**sums, "yes": list(self.yes), "no": list(self.no)}

    @classmethod
    def from_dict(cls, sums: Mapping[str, Any]) -> Outcomes:
        """The sums that `as_dict` wrote."""
        return cls(**{**sums, "yes": tuple(sums["yes"]), "no": tuple(sums["no"])})

    def means(self) -> dict[str, float | None]:
        """AUC, log-loss, Brier score and calibration error; None without rows (AUC: without both outcomes).

        AUC takes the rows of one bin as ties, so it is that of log-odds rounded to .2. The calibration error is
        the mean over rows of |share of yes - predicted| in ten groups by predicted probability.
        """
        if not self.users:
            return dict.fromkeys(("auc", "log-loss", "brier", "calibration"))
        y, n = np.array(self.yes, dtype=np.float64), np.array(self.no, dtype=np.float64)
        pairs = y.sum() * n.sum()
        auc = float(y @ (np.cumsum(n) - n / 2)) / pairs if pairs else None
        group = np.minimum((_MIDDLE * 10).astype(np.int64), 9)
        gap = np.bincount(group, y - _MIDDLE * (y + n), minlength=10)
        return {
            "auc": auc,
            "log-loss": self.log_loss / self.users,
            "brier": self.brier / self.users,
            "calibration": float(np.abs(gap).sum()) / self.users,
        }


def measure(probability: NDArray[Any], happened: NDArray[np.bool_]) -> Outcomes:
    """How well the predicted probabilities fit; both of shape (rows,). NaN counts as certain and wrong."""
    wrong = np.isnan(probability)
    p = np.clip(np.where(wrong, ~happened, probability).astype(np.float64), TINY, 1 - TINY)
    bins = np.searchsorted(EDGES, np.log(p) - np.log1p(-p), side="right")
    loss = -np.where(happened, np.log(p), np.log1p(-p)).sum()
    counts = [tuple(np.bincount(bins[which], minlength=BINS).tolist()) for which in (happened, ~happened)]
    return Outcomes(len(p), float(loss), float(((p - happened) ** 2).sum()), counts[0], counts[1])
