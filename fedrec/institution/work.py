"""What an institution does with its rows: pure functions, run in the jail and in fedrec.simulation.

Nothing here touches files or the network; linear algebra runs on one thread, so both give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.core import outcomes
from fedrec.core.interactions import Interactions
from fedrec.core.metrics import Scorer, Sums, by_rows, errors, measure, measured, users_at_once
from fedrec.core.optim import Optimiser
from fedrec.core.outcomes import Outcomes
from fedrec.core.params import PrivateParams, SharedParams, moved
from fedrec.core.split import Split, split
from fedrec.core.threads import one_thread
from fedrec.errors import WrongInput
from fedrec.models.base import Model, counts
from fedrec.models.local import LocalEpochs


@dataclass(frozen=True, slots=True)
class Trained:
    """One institution's part of a round.

    Args:
        contribution: what may leave.
        private: what stays, for the next round and for scoring.
        rows: distinct (user, item) pairs trained on: the contribution's weight.
        users: users with such rows.
    """

    contribution: SharedParams
    private: PrivateParams
    rows: int
    users: int
    measures: dict[str, float] = field(default_factory=dict)


def train(
    model: Model,
    rows: Interactions,
    protocol: str,
    shared: SharedParams,
    private: PrivateParams,
    seed: int,
    local: LocalEpochs | None = None,
    measures: Collection[str] = (),
    scale: tuple[float, float] | None = None,
) -> Trained:
    """Train on the protocol's train rows.

    Args:
        rows: all rows of the institution.
        private: what the round before left here; empty in round 0.
        seed: of the split; only used without timestamps.
        local: epochs after which parameters leave; None lets the model's own contribution leave.
        measures: what to measure on the validation rows, see `validated`: "global-quality" of the model as it came,
            "model-quality" of the model as it was trained here.
        scale: lowest and highest rating.
    """
    found = {}
    with one_thread():
        seen = _split(model, rows, protocol, seed).train
        if "global-quality" in measures:
            found["global-quality"] = validated(model, rows, shared, private, seed, scale)
        contribution, after = _fit(model, seen, shared, private, local)
        if "model-quality" in measures:
            mine = shared if local is None else contribution
            found["model-quality"] = validated(model, rows, mine, after, seed, scale)
        touched = seen.matrix()
    return Trained(contribution, after, int(touched.nnz), int(np.count_nonzero(np.diff(touched.indptr))), found)


def validated(
    model: Model,
    rows: Interactions,
    shared: SharedParams,
    private: PrivateParams,
    seed: int,
    scale: tuple[float, float] | None = None,
) -> float:
    """How good a model is on this institution's validation rows, 0 to 1; 0 without such rows.

    NDCG@10 on each user's last row but one, mean over the users who have one; of outcomes the AUC over the validation
    users; of ratings 1 - RMSE / width of the scale, where the scale is known.
    """
    parts = _split(model, rows, "validation", seed)
    if scale is not None and getattr(model, "rates", False):
        rated, squares, _ = errors(scorer(model, parts.train, shared, private), parts, scale).sum(axis=0)
        return float(1.0 - np.sqrt(squares / rated) / (scale[1] - scale[0])) if rated else 0.0
    sums = _measured(model, parts, "validation", shared, private, seed)
    return sums.means()["auc" if isinstance(sums, Outcomes) else "ndcg@10"] or 0.0


def _fit(
    model: Model, rows: Interactions, shared: SharedParams, private: PrivateParams, local: LocalEpochs | None
) -> tuple[SharedParams, PrivateParams]:
    if local is None:
        return model.fit_site(rows, shared, private)
    return local.fit(model, rows, shared, private)


@dataclass(frozen=True, slots=True)
class Inside:
    """What an evaluation finds that is no part of what may leave; only a simulation, which holds all rows, reads it.

    Args:
        listed: by scope, in how many users' ten best each item stands; shape (n_items,).
        ndcg: by scope and group of users, NDCG@10 of each user; shape (users,).
    """

    listed: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    ndcg: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def evaluate(
    model: Model,
    rows: Interactions,
    protocol: str,
    shared: SharedParams,
    private: PrivateParams,
    seed: int,
    alone: Callable[[], tuple[SharedParams, PrivateParams]] | None,
    scale: tuple[float, float] | None = None,
    inside: Inside | None = None,
) -> dict[str, dict[str, Any]]:
    """Sums over this institution's users: how well the held-out items are found.

    Args:
        shared: a model trained under the same protocol.
        private: what its last round left here.
        alone: makes the local-only model, see `train_alone`; None leaves "local" out.
        scale: lowest and highest rating; without it a model of ratings is not judged by its errors.
        inside: gets what stays here.

    Returns:
        By scope (federated, local, popularity) what core.metrics.Sums.as_dict holds, or Outcomes.as_dict; and by
        scope and group of users ("local:few") the same, where every group is large enough (metrics.by_rows).
        Popularity counts over all institutions when the model carries `counts`, over this one otherwise; of outcomes
        it gives everybody this institution's share of yes.

    Raises:
        WrongInput: the protocol holds nothing out.
    """
    if protocol == "all":
        raise WrongInput("protocol 'all' holds no rows out, there is nothing to evaluate")
    with one_thread():
        parts = _split(model, rows, protocol, seed)
        popular = shared.tensors.get("counts", counts(parts.train))

        def same_for_all(low: int, high: int) -> NDArray[Any]:
            return np.broadcast_to(popular, (high - low, rows.n_items))

        trained = {"federated": (shared, private), **({} if alone is None else {"local": alone()})}
        if _judges(model):
            share = outcomes.yes(parts.train).mean() if len(parts.train) else 0.5
            judged = {scope: _judged(model, parts, each) for scope, (each, _) in trained.items()}
            judged["popularity"] = outcomes.measure(np.full(len(parts.held), share), outcomes.yes(parts.held))
            return {scope: sums.as_dict() for scope, sums in judged.items()}
        scorers = {scope: scorer(model, parts.train, *each) for scope, each in trained.items()}
        scorers["popularity"] = same_for_all
        values, off = {}, {}
        for scope, score in scorers.items():
            times = np.zeros(rows.n_items, dtype=np.int64)
            values[scope] = measured(score, parts, protocol, seed, times)
            if inside is not None:
                inside.listed[scope] = times
        if scale is not None and getattr(model, "rates", False):
            off = {scope: errors(scorers[scope], parts, scale) for scope in trained}
    groups = {} if protocol == "validation" else by_rows(parts)
    ours, everybody = values["federated"], np.ones(len(values["federated"]), dtype=np.bool_)
    groups = {"": everybody, **groups}
    if inside is not None:
        inside.ndcg.update({scope + group: values[scope][who, 1] for group, who in groups.items() for scope in values})
    return {
        scope + group: Sums.of(
            each[who], None if scope == "federated" else ours[who], off[scope][who] if scope in off else None
        ).as_dict()
        for group, who in groups.items()
        for scope, each in values.items()
    }


def train_alone(
    model: Model,
    rows: Interactions,
    protocol: str,
    rounds: int,
    optimiser: Optimiser,
    seed: int,
    local: LocalEpochs | None = None,
    before_round: Callable[[], None] = lambda: None,
) -> tuple[SharedParams, PrivateParams]:
    """The local-only baseline: the same model, rounds and optimiser on this institution's rows only.

    Args:
        before_round: called before each round; what it raises ends the training.
    """
    with one_thread():
        seen = _split(model, rows, protocol, seed).train
        shared, private = model.init(rows.n_items, seed), PrivateParams({})
        state = optimiser.init(shared)
        for _ in range(rounds):
            before_round()
            contribution, private = _fit(model, seen, shared, private, local)
            if local is not None:
                contribution = moved(contribution, shared, optimiser.descends)
            step, state = optimiser.apply(state, shared, contribution)
            shared = model.finish(shared, step)
    return shared, private


def top_items(
    model: Model, rows: Interactions, shared: SharedParams, private: PrivateParams, k: int
) -> NDArray[np.int32]:
    """The best items that each user has not touched, best first, equal scores by item index.

    Returns:
        Item indices; shape (n_users, k); -1 where a user has fewer untouched items than k.
    """
    found = np.full((rows.n_users, k), -1, dtype=np.int32)
    with one_thread():
        score = scorer(model, rows, shared, private)
        step = users_at_once(rows.n_items)
        for low in range(0, rows.n_users, step):
            high = min(low + step, rows.n_users)
            scores = np.array(score(low, high), dtype=np.float64)
            scores[np.isnan(scores)] = -np.inf
            part = _block(rows, low, high)
            scores[part.user, part.item] = -np.inf
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            known = np.take_along_axis(scores, best, axis=1) > -np.inf
            found[low:high, : best.shape[1]] = np.where(known, best, -1)
    return found


def scorer(model: Model, rows: Interactions, shared: SharedParams, private: PrivateParams) -> Scorer:
    """Scores by block of users: memory stays bounded where the model allows it (`by_user`)."""
    if not model.by_user:
        whole = model.score(rows, shared, private)
        return lambda low, high: whole[low:high]

    def score(low: int, high: int) -> NDArray[Any]:
        part = {name: array[low:high] if name.startswith("users") else array for name, array in private.tensors.items()}
        return model.score(_block(rows, low, high), shared, PrivateParams(part))

    return score


def _measured(
    model: Model, parts: Split, protocol: str, shared: SharedParams, private: PrivateParams, seed: int
) -> Sums | Outcomes:
    if _judges(model):
        return _judged(model, parts, shared)
    return measure(scorer(model, parts.train, shared, private), parts, protocol, seed)


def _judged(model: Model, parts: Split, shared: SharedParams) -> Outcomes:
    probability = model.probability(parts.held, shared)  # type: ignore[attr-defined]
    return outcomes.measure(probability, outcomes.yes(parts.held))


def _judges(model: Model) -> bool:
    """Whether it predicts outcomes."""
    return hasattr(model, "probability")


def _split(model: Model, rows: Interactions, protocol: str, seed: int) -> Split:
    by_user = getattr(model, "outcome", False)
    return outcomes.split_users(rows, protocol, seed) if by_user else split(rows, protocol, seed)


def _block(rows: Interactions, low: int, high: int) -> Interactions:
    """The rows of users low..high-1, renumbered from 0."""
    first, last = np.searchsorted(rows.user, [low, high])
    part = slice(int(first), int(last))
    time = None if rows.time is None else rows.time[part]
    known = None if rows.users is None else rows.users.take(slice(low, high))
    return Interactions(
        rows.user[part] - low, rows.item[part], rows.rating[part], time, high - low, rows.n_items, known, rows.items
    )
