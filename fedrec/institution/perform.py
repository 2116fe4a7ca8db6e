"""One task on one institution's rows: the same function in the jail and in fedrec.simulation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedrec.core.interactions import Interactions
from fedrec.core.optim import from_settings
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.exchange.plan import VALIDATION, PlanText
from fedrec.institution import work
from fedrec.institution.personal import BY_ROUNDS, STATISTICS, Compared, compared, compared_by_rounds
from fedrec.institution.uncompared import NAMES, Uncompared
from fedrec.models import from_plan
from fedrec.models.base import Model
from fedrec.models.local import LocalEpochs

LIST_LENGTH = 100  # items in the lists that a published model makes for every user
OWN = "own."  # before the names of what belongs to the institution's own model
WHY = "why"  # beside the lists: the reason why there is no comparison


@dataclass(frozen=True, slots=True)
class Done:
    """What a task made: an update that may leave, a state that stays, and counts.

    Args:
        update: the contribution; None but for train.
        state: what stays at the institution: private parameters (train), or recommendation lists and perhaps a model of
            its own (publish).
        rows: rows that were trained on; 0 but for train.
        users: users who have such rows.
        numbers: sums over users by scope; empty but for evaluate.
        measures: numbers that leave beside the update, by name; empty but for train.
        inside: what an evaluation finds and never leaves; empty but for evaluate.
    """

    update: dict[str, Array] | None = None
    state: dict[str, Array] | None = None
    rows: int = 0
    users: int = 0
    numbers: dict[str, Any] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    inside: work.Inside = field(default_factory=work.Inside)


def perform(
    plan: PlanText,
    kind: str,
    protocol: str,
    rows: Interactions,
    shared: Mapping[str, Array],
    private: Mapping[str, Array],
    scale: Sequence[float] | None = None,
    seconds: float = math.inf,
) -> Done:
    """Train, evaluate or make lists, as `kind` says.

    Args:
        protocol: which rows are trained on, or how the model is evaluated.
        rows: all rows of the institution, with features; the split is made here.
        private: what the round before left at this institution; empty in round 0.
        scale: lowest and highest rating, for a model that predicts ratings.
        seconds: how long a published model may be compared with the institution's own.
    """
    model, local = from_plan(plan.model), LocalEpochs.from_table(plan.local)
    users, items = (getattr(rows, of) if of in plan.features else None for of in ("users", "items"))
    rows = replace(rows, users=users, items=items)
    base, own = SharedParams(dict(shared)), PrivateParams(dict(private))
    least_most = (float(scale[0]), float(scale[1])) if scale else None

    def alone(protocol: str, before_round: Callable[[], None] = lambda: None) -> tuple[SharedParams, PrivateParams]:
        optimiser = from_settings(plan.aggregator)
        made, stays = work.train_alone(model, rows, protocol, plan.rounds, optimiser, plan.seed, local, before_round)
        return local.begin(made) if local else made, stays

    if kind == "train":
        trained = work.train(model, rows, protocol, base, own, plan.seed, local, plan.measures, least_most)
        leaves, stays = trained.contribution.tensors, trained.private.tensors
        return Done(leaves, stays, trained.rows, trained.users, measures=trained.measures)
    if kind == "evaluate":
        yardstick = None if protocol == VALIDATION else lambda: alone(protocol)  # many are validated, one is evaluated
        inside = work.Inside()
        numbers = work.evaluate(model, rows, protocol, base, own, plan.seed, yardstick, least_most, inside)
        return Done(numbers=numbers, inside=inside)
    lists = work.top_items(model, rows, base, own, min(LIST_LENGTH, rows.n_items))
    counts = base.tensors.get("counts", np.bincount(rows.item, minlength=rows.n_items))
    popular = np.lexsort((np.arange(rows.n_items), -counts))[:LIST_LENGTH].astype(np.int32)
    end = time.monotonic() + seconds

    def before_round() -> None:
        if time.monotonic() > end:
            raise Uncompared("time")

    def compare() -> Compared:
        if model.name in STATISTICS:
            return compared(model, rows, base, protocol, plan.seed, seconds)
        if model.name not in BY_ROUNDS:
            raise Uncompared("kind")
        before_round()
        found = (model, rows, base, own, protocol, plan.seed, lambda protocol: alone(protocol, before_round))
        return compared_by_rounds(*found, before_round, least_most)

    return Done(state={"lists": lists, "popular": popular} | _beside(model, rows, compare))


def _beside(model: Model, rows: Interactions, compare: Callable[[], Compared]) -> dict[str, Array]:
    """The institution's own model and its lists where it is to be kept, and what was compared: `personal.compared`.

    All is made whatever the verdict, so that the time it takes says nothing about it. Where nothing could be compared
    it says why, by the place in `uncompared.NAMES`.
    """
    try:
        found = compare()
        lists = work.top_items(model, rows, found.own, found.private, min(LIST_LENGTH, rows.n_items))
    except Exception as error:  # the lists that were asked for are there
        full = isinstance(error, MemoryError) or "allocate memory" in str(error)  # torch's is a RuntimeError
        word = error.word if isinstance(error, Uncompared) else "memory" if full else "own"
        if word == "own" and model.name != "own":
            raise
        return {WHY: np.array([NAMES.index(word)])}
    own = {f"{OWN}{name}": array for name, array in found.own.tensors.items()} | {f"{OWN}lists": lists}
    return {"ndcg": np.array(found.ndcg), **(own if found.keep else {})}
