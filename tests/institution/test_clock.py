"""The site's clock an hour off: what a permit and a task make of it. Signed calls: tests/exchange/test_signed.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from small_site import START, approved, ended, events, recipe, sent, task

from fedrec.errors import Refused
from fedrec.institution import audit
from fedrec.institution.jobs import Jobs
from fedrec.institution.permit import Task, stamp

NOON = datetime(2027, 3, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def timed(site, jail, clock):
    """The site with that clock, and its jobs."""
    site = replace(site, clock=clock)
    jobs = Jobs(site, jail)
    yield site, jobs
    jobs.close()


@pytest.mark.parametrize(
    ("limits", "leap", "code"),
    [
        ({}, HOUR, "done"),  # a clock ahead: the permit ends an hour early, and that is all
        ({"until": "2027-03-01T12:30:00Z"}, HOUR, "permit.expired"),
        ({"hours": "12-13"}, HOUR, "permit.hours"),
        ({}, -HOUR, "permit.early"),  # a clock behind: nothing runs before the moment of the approval
        ({"until": "2027-03-01T12:30:00Z"}, timedelta(0), "done"),
    ],
)
def test_a_leap_of_the_clock_refuses_or_runs_and_uses_nothing_up(limits, leap, code, timed, clock):
    site, jobs = timed
    row = approved(site, recipe("popularity"), **limits)
    raw = task(sent(site, row, START))
    clock.time = NOON + leap
    try:
        said = ended(site, jobs, row, raw)["status"]
    except Refused as refusal:
        said = refusal.code
    assert said == code
    clock.time = NOON
    assert ended(site, jobs, row, raw)["status"] == "done"
    assert site.ledger.used(row.id) == {"train": 1}
    assert audit.verify(site.audit.path).verdict == "ok"


@pytest.mark.parametrize(
    ("limits", "leap", "code"), [({}, -HOUR, "permit.early"), ({"hours": "12-13"}, HOUR, "permit.hours")]
)
def test_a_task_that_ends_at_the_wrong_time_gives_nothing_then_and_its_answer_later(limits, leap, code, timed, clock):
    """Reserved at noon, found again after a restart with the clock off: not run, not lost."""
    site, jobs = timed
    row = approved(site, recipe("popularity"), **limits)
    raw = task(sent(site, row, START))
    clock.time = NOON + leap
    parsed = Task.parse(raw)
    key = parsed.key(row.id)
    site.ledger.reserve(key, row.id, parsed, stamp(NOON), site.here)
    assert jobs.recover() == 1
    with pytest.raises(Refused) as caught:
        asyncio.run(jobs.wait(key, 10))
    assert caught.value.code == code
    assert site.ledger.job(key).status == "running"
    clock.time = NOON
    assert ended(site, jobs, row, raw)["status"] == "done"
    assert events(site)[-1] == "done"
    assert events(site).count("done") == 1
