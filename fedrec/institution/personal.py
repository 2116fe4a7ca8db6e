"""A shared model bent towards one institution's own users, or its own model where the shared one is worse for them.

For additive models: their statistic is read back from the model, G_all + gamma G_own makes a model anew, and gamma is
chosen on the institution's own validation rows, which are first taken out of what the shared model was trained on.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.metrics import CUT, errors, ranks
from fedrec.core.outcomes import TINY, split_users, yes
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.core.split import Split, split
from fedrec.core.threads import one_thread
from fedrec.errors import WrongInput
from fedrec.institution.uncompared import Uncompared
from fedrec.institution.work import scorer
from fedrec.models import OUTCOMES
from fedrec.models.base import Model
from fedrec.models.fold import ROUNDS
from fedrec.models.sequential import STEPS, Sequential

TRIED = 800  # items of the inversion whose time says what a large one takes
LEAST_USERS = 20  # with a validation row: of fewer, two standard errors say nothing
GAMMAS = (0.0, 0.5, 1.0, 2.0, 3.0)
NOISE = 2.0  # standard errors of a paired difference
NAMES = ("ease", "sequential", "default")
STATISTICS = (*NAMES, "popularity", "itemcf", "usercf")  # what an institution can train alone at once
INVERTED = ("ease", "default")
BY_ROUNDS = ("mf", "bpr", "neumf", "hybrid", "ials", "mf-explicit", "logistic", "private", "own")  # and by rounds
Alone = Callable[[str], tuple[SharedParams, PrivateParams]]
_NONE = PrivateParams({})


@dataclass(frozen=True, slots=True)
class Personal:
    """What an institution serves.

    Args:
        shared: its parameters, of the same form as the shared model's.
        gamma: how often its own statistic counts once more; None where its own model is kept instead.
        ndcg: on its validation rows: shared, personal (with gamma), local.
    """

    shared: SharedParams
    gamma: float | None
    ndcg: dict[str, float]

    def text(self) -> str:
        """One sentence for the owner."""
        scores = ", ".join(f"{name} {value:.4f}" for name, value in self.ndcg.items())
        if self.gamma is None:
            verdict = "the shared model loses beyond noise, so the institution's own is kept"
        elif self.gamma:
            verdict = f"own users count {self.gamma:g} times more"
        else:
            verdict = "the shared model is best as it is"
        return f"{verdict} (validation NDCG@10: {scores})"


@dataclass(frozen=True, slots=True)
class Compared:
    """The shared model beside the institution's own, on its own validation rows.

    Args:
        own: the own model, of all rows.
        keep: whether the shared one loses by more than NOISE standard errors of the paired difference.
        ndcg: NDCG@10 of the shared one, and of the own; of a model of ratings 1 - mean squared error / width², where
            width is that of the scale; of yes/no outcomes exp(-log-loss).
        private: what its users have in it, of a model that needs rounds.
    """

    own: SharedParams
    keep: bool
    ndcg: tuple[float, float]
    private: PrivateParams = _NONE


def compared(
    model: Model, rows: Interactions, shared: SharedParams, protocol: str, seed: int, seconds: float = math.inf
) -> Compared:
    """Whether the institution's own model serves its users better.

    Where the shared model was trained on the validation rows, these are first taken out of it. Where they cannot be, it
    is compared as it is, and its memory of them speaks for it: itemcf has forgotten its sums, noise hides them, or the
    inversions that it takes would take too long.

    Args:
        rows, protocol, seed: as in `personal`.
        seconds: how long it may take, by the time of a small inversion here and now.

    Raises:
        Uncompared: few users have a validation row, or there is no time.
    """
    start, parts = model.init(rows.n_items, seed), split(rows, "validation", seed)
    _enough(parts)
    with one_thread():
        inversion = _inversion(rows.n_items) if model.name in INVERTED else 0.0
        if 2 * inversion > seconds or seconds <= 0:
            raise Uncompared("time")
        train, clean = _own(model, parts.train, start), shared
        if protocol not in ("p1", "p2") and model.name != "itemcf" and 4 * inversion <= seconds:
            trained = _own(model, split(rows, protocol, seed).train, start)
            with contextlib.suppress(WrongInput):  # there is noise in it
                total = statistic(model, shared)
                if all(float((total[n] - trained[n] + train[n]).min()) >= -0.01 for n in total):
                    clean = _made(model, start, (1.0, total), (-1.0, trained), (1.0, train))
        ours, alone = _gains(model, parts, clean), _gains(model, parts, _made(model, start, (1.0, train)))
        own = _made(model, start, (1.0, _own(model, rows, start)))
    return Compared(own, _wins(alone - ours), (float(ours.mean()), float(alone.mean())))


def _inversion(n_items: int) -> float:
    """Seconds that one inversion takes, and what goes with it: a small one times the cube, twice what was measured."""
    began = time.monotonic()
    np.linalg.inv(np.eye(TRIED) + 1.0)
    return (time.monotonic() - began) * (n_items / TRIED) ** 3


def compared_by_rounds(
    model: Model,
    rows: Interactions,
    shared: SharedParams,
    private: PrivateParams,
    protocol: str,
    seed: int,
    alone: Alone,
    before_round: Callable[[], None],
    scale: tuple[float, float] | None = None,
) -> Compared:
    """As `compared`, of a model that needs many rounds: the institution's own is trained for as many.

    Validation rows cannot be taken out of shared parameters that have seen them (all, p3), whose memory of them
    speaks for the shared model; its users' vectors are fitted anew without these rows. Of yes/no outcomes whole users
    are held out.

    Args:
        private: what the last round left here.
        alone: trains the own model under a protocol.
        before_round: may raise, and so end the comparison.
        scale: lowest and highest rating, for a model of ratings.

    Raises:
        Uncompared: few users have a validation row, or there is no scale; and what `before_round` raises.
    """
    judges, rates = model.name in OUTCOMES, getattr(model, "rates", False)
    parts = (split_users if judges else split)(rows, "validation", seed)
    _enough(parts)
    if rates and scale is None:
        raise Uncompared("scale")
    with one_thread():
        if protocol not in ("p1", "p2") and model.aggregator_default != "sum" and not judges:
            private = _NONE
            for _ in range(ROUNDS):
                before_round()
                private = model.fit_site(parts.train, shared, private)[1]
        found = []
        for each in ((shared, private), alone("p1")):
            if judges:
                found.append(-_losses(model, parts, each[0]))
            elif rates and scale is not None:
                rated = errors(scorer(model, parts.train, *each), parts, scale)
                found.append(1.0 - rated[:, 1] / rated[:, 0] / (scale[1] - scale[0]) ** 2)
            else:
                found.append(_gains(model, parts, *each))
        own, stays = alone("all")
    ours, mine = (float(each.mean()) for each in found)
    figures = (math.exp(ours), math.exp(mine)) if judges else (ours, mine)
    return Compared(own, _wins(found[1] - found[0]), figures, stays)


def _enough(parts: Split) -> None:
    if len(np.unique(parts.held.user)) < LEAST_USERS:
        raise Uncompared("few")


def _losses(model: Model, parts: Split, shared: SharedParams) -> NDArray[np.float64]:
    """Log-loss of each user with a validation row, the mean over the rows; shape (users with one,)."""
    p = np.clip(model.probability(parts.held, shared), TINY, 1 - TINY)  # type: ignore[attr-defined]
    loss = -np.log(np.where(yes(parts.held), p, 1 - p))
    _, user, times = np.unique(parts.held.user, return_inverse=True, return_counts=True)
    found: NDArray[np.float64] = np.bincount(user, loss) / times
    return found


def _own(model: Model, rows: Interactions, start: SharedParams) -> Mapping[str, Array]:
    """The institution's statistic of these rows."""
    return model.fit_site(rows, start, _NONE)[0].tensors


def _made(model: Model, start: SharedParams, *terms: tuple[float, Mapping[str, Array]]) -> SharedParams:
    """The model of a weighted sum of statistics."""
    mixed = {name: sum(w * each[name].astype(np.float64) for w, each in terms) for name in terms[0][1]}
    return model.finish(start, SharedParams({n: a.astype(np.float32) for n, a in mixed.items()}))  # type: ignore[union-attr]


def personal(model: Model, rows: Interactions, shared: SharedParams, protocol: str, seed: int) -> Personal:
    """The model for this institution's own users.

    Gamma 0 is the shared model. Another gamma, and then the own model, is taken only when it wins by more than NOISE
    standard errors of the paired difference over users: choosing among noise makes a model worse.

    Args:
        rows: what the institution had when the model was trained.
        protocol: which of them the shared model was trained on.
        seed: of the split; only used without timestamps.

    Raises:
        WrongInput: not one of NAMES, or the model's statistic cannot be read back from it.
    """
    with one_thread():
        total, start = statistic(model, shared), model.init(rows.n_items, seed)
        parts = split(rows, "validation", seed)
        trained, train, whole = (_own(model, r, start) for r in (split(rows, protocol, seed).train, parts.train, rows))
        clean = {n: total[n] - trained[n] + train[n] for n in total}
        if min(float(clean[n].min()) for n in clean) < 0:
            raise WrongInput("the served model was not trained on this institution's rows as they are here")
        gains = {g: _gains(model, parts, _made(model, start, (1.0, clean), (g, train))) for g in GAMMAS}
        alone = _gains(model, parts, _made(model, start, (1.0, train)))
        gamma = max(GAMMAS, key=lambda g: gains[g].mean())
        if not _wins(gains[gamma] - gains[0.0]):
            gamma = 0.0
        keep_own = _wins(alone - gains[gamma])
        found = _made(model, start, *([(1.0, whole)] if keep_own else [(1.0, total), (gamma, whole)]))
    ndcg = {"shared": gains[0.0], "personal": gains[gamma], "local": alone}
    return Personal(
        shared if gamma == 0.0 and not keep_own else found,
        None if keep_own else gamma,
        {name: float(each.mean()) for name, each in ndcg.items()},
    )


def statistic(model: Model, shared: SharedParams) -> dict[str, Array]:
    """The sums over all institutions from which a finished model was made; whole numbers.

    EASE: with M = (I - B)^-1, G_ij + l2 [i = j] = M_ij (G_ii + l2) / M_ii, and G_ii are the counts.
    Sequential: C = W (n_i^a n_j^b + 1). Popularity and user CF are their sums, whole or not.

    Raises:
        WrongInput: not one of NAMES, or what comes out are no counts: noise was added, or it is another model.
    """
    if model.name in ("popularity", "usercf"):  # the model is the statistic
        return dict(shared.tensors)
    if model.name not in NAMES:
        raise WrongInput(f"{model.name} cannot be personalised; {', '.join(NAMES)} can")
    known, found = shared.tensors, dict[str, NDArray[Any]]()
    try:
        n = known["counts"].astype(np.float64)
        if model.name != "sequential":
            l2 = float(getattr(model, "l2"))  # noqa: B009
            inverse = np.linalg.inv(np.eye(len(n)) - known["weights"].astype(np.float64))
            found["gram"] = inverse * ((n + l2) / np.diag(inverse))[:, None] - l2 * np.eye(len(n))
        else:
            found["counts"] = n
        if model.name != "ease":
            way = model if isinstance(model, Sequential) else Sequential()
            found["follows"] = known["next"] * (np.outer(n**way.from_exponent, n**way.to_exponent) + 1.0) * STEPS
    except (KeyError, ValueError, np.linalg.LinAlgError) as error:
        raise WrongInput(f"the served model's arrays do not fit together ({type(error).__name__})") from None
    whole = {name: np.rint(array) for name, array in found.items()}
    if any(not np.abs(found[name] - whole[name]).max() < 0.25 or whole[name].min() < 0 for name in found):
        raise WrongInput("the served model is not made of plain counts, so it cannot be personalised")
    return {name: array.astype(np.float32) for name, array in whole.items()}


def _wins(ahead: NDArray[np.float64]) -> bool:
    """Whether a paired difference over users is above zero beyond noise."""
    n = len(ahead)
    return n > 1 and float(ahead.mean()) > NOISE * float(ahead.std(ddof=1)) / n**0.5


def _gains(model: Model, parts: Split, shared: SharedParams, private: PrivateParams = _NONE) -> NDArray[np.float64]:
    """NDCG@10 of each user with a validation row; shape (users with one,)."""
    held, seen = parts.held, parts.seen
    score = scorer(model, parts.train, shared, private)
    found = []
    for low in range(0, held.n_users, 1000):
        high = min(low + 1000, held.n_users)
        mine = (held.user >= low) & (held.user < high)
        known = (seen.user >= low) & (seen.user < high)
        candidate = np.ones((high - low, held.n_items), dtype=np.bool_)
        candidate[seen.user[known] - low, seen.item[known]] = False
        candidate[held.user[mine] - low, held.item[mine]] = False
        if mine.any():
            rank = ranks(np.asarray(score(low, high)), candidate, held.user[mine] - low, held.item[mine])
            found.append(np.where(rank < CUT, 1.0 / np.log2(np.minimum(rank, CUT) + 2.0), 0.0))
    return np.concatenate([*found, np.zeros(0)])
