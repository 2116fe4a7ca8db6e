"""The round loop. Read this first: everything else is how a federation, a model or an aggregator does its part."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from fedrec.aggregation import SiteUpdate
from fedrec.aggregation.checks import check_update
from fedrec.aggregation.update import discounted
from fedrec.core.optim import State
from fedrec.core.params import SharedParams, moved
from fedrec.core.threads import one_thread
from fedrec.errors import Refused
from fedrec.exchange.recovery import threshold
from fedrec.exchange.secure_sum import add, from_ring
from fedrec.scientist.federation import Answer, Calls, Federation, RoundTask, SiteRefused, SiteState, Watch, nobody
from fedrec.scientist.plan import Plan

HOURS_S = 60.0  # how long to wait where too few sites take tasks at this hour
_log = logging.getLogger("fedrec")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: the next round's number, the model, the aggregator's state."""

    number: int
    shared: SharedParams
    state: State


@dataclass(frozen=True, slots=True)
class Round:
    """One committed round: who answered, and where the run stands after it.

    Args:
        answers: those that were merged, in the order of the consortium.
        before: the model that it started from; `step`: what was merged.
        seconds: by the federation's clock.
        late: rounds that an answer was late, by site; only those above 0.
        left_out: sites whose answer was not merged, with the code that says why.
    """

    number: int
    answers: tuple[Answer, ...]
    before: SharedParams
    step: SharedParams
    after: Progress
    seconds: float
    late: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[str, ...]:
        """Who was merged."""
        return tuple(answer.site for answer in self.answers)


class Away(NamedTuple):
    """A site at work: what it was asked, with the model that it has, and since when."""

    task: RoundTask
    since: float


def begin(plan: Plan, federation: Federation) -> Progress:
    """The state before round 0: the model's start from the plan's seed, or the model that the plan continues."""
    with one_thread():
        shared = plan.beginning or plan.built.init(federation.n_items, plan.seed)
        shared = plan.local.begin(shared) if plan.local else shared
        return Progress(0, shared, plan.merges.init(shared))


def train(
    plan: Plan,
    federation: Federation,
    run: str,
    protocol: str,
    sites: Sequence[str],
    start: Progress,
    watch: Watch = nobody,
) -> Iterator[Round]:
    """Yield each round as it ends, so that the caller may log, checkpoint or stop.

    Args:
        sites: in the order in which updates are added; the same in every call of one run, but may grow between rounds.
        watch: told what each site is doing.

    Raises:
        Refused: too few sites can still answer; the rounds yielded so far stand.
    """
    now, calls = start, federation.calls(watch)
    try:
        yield from _rounds(plan, calls, run, protocol, sites, now, watch)
    finally:
        calls.close()


def _rounds(
    plan: Plan, calls: Calls, run: str, protocol: str, sites: Sequence[str], now: Progress, watch: Watch
) -> Iterator[Round]:
    away: dict[str, Away] = {}
    seconds: list[float] = []
    while now.number < plan.spec.rounds:
        began = calls.clock()
        while True:
            chosen = plan.turns.choose(now.number, sites, away)
            task, came = _ask(plan, calls, run, protocol, chosen, now, away, seconds, watch)
            if came.enough:
                break
            _log.warning("round %d waits: %s take tasks at other hours", now.number, ", ".join(came.left_out))
            calls.sleep(HOURS_S)  # then the round is sent again: who has answered answers the same at once
        answers = sorted(came.answers, key=lambda answer: sites.index(answer.site))
        if task.members:
            asked = {answer.site for answer in answers}
            answers, updates = _summed(plan, calls, task, answers)
            came.left_out.update(dict.fromkeys(asked - {answer.site for answer in answers}, "site.lost"))
        else:
            updates = [came.updates[answer.site] for answer in answers]
        with one_thread():
            step, state = plan.merges.apply(now.state, now.shared, updates)
            before, now = now.shared, Progress(now.number + 1, plan.built.finish(now.shared, step), state)
        spent = calls.clock() - began
        yield Round(now.number - 1, tuple(answers), before, step, now, spent, came.late, came.left_out)


def _ask(
    plan: Plan,
    calls: Calls,
    run: str,
    protocol: str,
    chosen: tuple[str, ...],
    now: Progress,
    away: dict[str, Away],
    seconds: list[float],
    watch: Watch,
) -> tuple[RoundTask, _Came]:
    """Send a round and wait for it. Under a secure sum it is done again without the sites that did not answer.

    One that recovers goes on with enough of them.
    """
    secret, left_out = plan.spec.protects.sum != "plain", dict[str, str]()
    while True:
        task = RoundTask(plan, "train", run, now.number, protocol, chosen, now.shared, chosen if secret else ())
        calls.send(task)
        away |= {site: Away(task, calls.clock()) for site in chosen}
        came = _gather(plan, calls, len(chosen), away, task, seconds, watch)
        left_out |= came.left_out
        there = {answer.site for answer in came.answers}
        enough = threshold(len(chosen)) if plan.spec.protects.recover else len(chosen)
        if not secret or not came.enough or len(there) >= enough:
            return task, came._replace(left_out=left_out)
        _log.warning("round %d is done again without %s", now.number, ", ".join(sorted(set(chosen) - there)))
        chosen = tuple(site for site in chosen if site in there)


def _summed(plan: Plan, calls: Calls, task: RoundTask, answers: list[Answer]) -> tuple[list[Answer], list[SiteUpdate]]:
    """Add the members' masked updates; their sum as the one update that the aggregator takes."""
    found, rings = calls.fetch(task, answers)
    merged = from_ring(plan.spec, add(plan.spec, rings, calls.n_items), len(found))
    update = SiteUpdate("sum", 1.0, SharedParams(merged), users=1)
    check_update(update, {name: replace(one, norm=None) for name, one in plan.spec.leaves.items()}, calls.n_items)
    if plan.local is not None:
        update = replace(update, tensors=moved(update.tensors, task.shared, plan.merges.descends))
    return found, [update]


class _Came(NamedTuple):
    """What a round got: answers, their updates as the aggregator takes them, lateness and refusals by site."""

    answers: list[Answer]
    updates: dict[str, SiteUpdate]
    late: dict[str, int]
    left_out: dict[str, str]
    enough: bool = True


def _gather(
    plan: Plan, calls: Calls, chosen: int, away: dict[str, Away], task: RoundTask, seconds: list[float], watch: Watch
) -> _Came:
    """Wait as long as the schedule says; who answers is taken out of `away`.

    A site outside the hours of its permit is away, where the schedule can do without it: the round then waits for
    the others only, and is not `enough` when too few of them are left.

    Raises:
        Refused: the first refusal, once too few sites are left.
    """
    came, first, shut, number = _Came([], {}, {}, {}), None, 0, task.number
    at_work, began = len(away), calls.clock()
    wait = plan.turns.wait(chosen, at_work, seconds)
    until = None if wait.seconds is None else began + wait.seconds
    while len(came.answers) < wait.most:
        enough = len(came.answers) >= wait.least
        if not away or (first is not None and len(came.answers) + len(away) < wait.least):
            break
        over = until is not None and calls.clock() >= until
        if over and enough:
            break
        for answer in calls.receive(None if over else until):
            was = away.pop(answer.site)
            if isinstance(answer, SiteRefused):
                came.left_out[answer.site] = answer.code
                watch(SiteState(answer.site, was.task.number, "refused", answer))
                if answer.code == "permit.hours" and plan.turns.by_hours:
                    shut += 1
                    wait = replace(plan.turns.wait(chosen - shut, at_work - shut, seconds), seconds=wait.seconds)
                else:
                    first = first or answer
                continue
            seconds.append(calls.clock() - was.since)
            late = number - was.task.number
            try:
                if task.members:
                    _check_masked(was.task, task)
                    watch(SiteState(answer.site, number, "done"))
                    came.answers.append(answer)
                    continue
                came.updates[answer.site] = _as_merged(plan, calls, answer, was.task.shared, late)
            except Refused as refusal:
                first = first or SiteRefused(answer.site, refusal)
                came.left_out[answer.site] = refusal.code
                watch(SiteState(answer.site, was.task.number, "refused", refusal))
                calls.tell(answer.site, was.task, refusal)
                continue
            watch(SiteState(answer.site, was.task.number, "done"))
            came.answers.append(answer)
            if late:
                came.late[answer.site] = late
    enough = len(came.answers) >= max(1, wait.least)
    if not enough and (first is not None or not shut):
        raise first or Refused("update.few", f"{len(came.answers)} of {wait.least} sites answered", "Resume the run")
    return came._replace(enough=enough)


def _check_masked(asked: RoundTask, now: RoundTask) -> None:
    """Refuse a masked update of another sum. Raises: Refused `update.late`."""
    if (asked.number, asked.members) != (now.number, now.members):
        raise Refused("update.late", "its masks are of an earlier sum", "It is left out; the site may go on")


def _as_merged(plan: Plan, calls: Calls, answer: Answer, base: SharedParams, late: int) -> SiteUpdate:
    """The update as the aggregator takes it: checked; parameters as what they moved; a late one counts less.

    Raises:
        Refused: it is not what the plan declares.
    """
    if late > plan.turns.max_staleness:
        raise Refused("update.late", f"the answer is {late} rounds late", "It is left out; the site may go on")
    if answer.update is None:
        raise Refused("update.missing", "the answer holds no update", "Look at the site's answer")
    check_update(answer.update, plan.spec.leaves, calls.n_items)
    update = answer.update
    if plan.local is not None:
        update = replace(update, tensors=moved(update.tensors, base, plan.merges.descends))
    return discounted(update, late)
