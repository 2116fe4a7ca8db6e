"""The round loop. Read this first: everything else is how a federation, a model or an aggregator does its part."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fedrec.core.optim import State
from fedrec.core.params import SharedParams
from fedrec.core.threads import one_thread
from fedrec.scientist.federation import Answer, Federation, RoundTask
from fedrec.scientist.plan import Plan


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: the next round's number, the model, the aggregator's state."""

    number: int
    shared: SharedParams
    state: State


@dataclass(frozen=True, slots=True)
class Round:
    """One committed round: who answered, and where the run stands after it."""

    number: int
    answers: tuple[Answer, ...]
    after: Progress
    seconds: float
    sites: tuple[str, ...] = field(default=())


def begin(plan: Plan, federation: Federation) -> Progress:
    """The state before round 0: the model's start from the plan's seed."""
    with one_thread():
        shared = plan.built.init(federation.n_items, plan.seed)
        return Progress(0, shared, plan.merges.init(shared))


def train(
    plan: Plan, federation: Federation, run: str, protocol: str, sites: Sequence[str], start: Progress
) -> Iterator[Round]:
    """Yield each round as it ends, so that the caller may log, checkpoint or stop.

    Args:
        sites: the same in every call of one run, in the order in which updates are added.

    Raises:
        Refused: a site said no in the middle; the rounds yielded so far stand.
    """
    model, aggregator, now = plan.built, plan.merges, start
    for number, chosen in enumerate(plan.schedule.plan(sites)):
        if number < start.number:
            continue
        began = time.monotonic()
        answers = tuple(federation.run(RoundTask(plan, "train", run, number, protocol, chosen, now.shared)))
        with one_thread():
            step, state = aggregator.apply(now.state, now.shared, [a.update for a in answers if a.update])
            now = Progress(number + 1, model.finish(now.shared, step), state)
        yield Round(number, answers, now, time.monotonic() - began, chosen)
