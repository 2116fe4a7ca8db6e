"""The pause: at once nothing runs and nothing leaves, over a restart too; afterwards everything goes on, paid once."""

from __future__ import annotations

import asyncio
import time

import pytest
from small_site import OWNER, VECTOR, Idle, approved, ended, events, own, recipe, sent, submitted, task, train

from fedrec.errors import Refused
from fedrec.institution.decisions import Decisions
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import Ledger
from fedrec.institution.site import Site

SLOW = "import time\ntime.sleep(1)"


def code_of(call, *given):
    try:
        call(*given)
    except Refused as refusal:
        return refusal.code
    return ""


def test_a_running_job_ends_within_five_seconds_and_goes_on_paid_once(site, jobs):
    row, decisions = approved(site, own(SLOW)), Decisions(site, jobs)
    wanted = task(sent(site, row, VECTOR))
    answer = jobs.start(row.key, row.fingerprint, wanted)
    assert answer["status"] == "running"
    began = time.monotonic()
    assert decisions.pause(OWNER.email, "owner", "a fire") == 0
    assert time.monotonic() - began < 5
    assert jobs._active == {}
    for call in (
        lambda: jobs.answer(answer["key"]),
        lambda: jobs.start(row.key, row.fingerprint, wanted),
        lambda: jobs.start(row.key, row.fingerprint, {**wanted, "nonce": "1" * 32}),
        lambda: jobs.permit_of(row.id),
    ):
        with pytest.raises(Refused, match=r"permit\.paused.*a fire"):
            call()
    assert site.ledger.job(answer["key"]).status == "running"
    assert decisions.resume(OWNER.email, "owner") == 1
    assert asyncio.run(jobs.wait(answer["key"], 20))["status"] == "done"
    assert site.ledger.used(row.id) == {"train": 1}
    assert events(site).count("done") == 1
    assert (events(site, "pause"), events(site, "resume")) == (["intent", "done"], ["intent", "done"])


def test_control_without_the_pause_the_same_calls_are_answered(site, jobs):
    row = approved(site, own(SLOW))
    wanted = task(sent(site, row, VECTOR))
    key = jobs.start(row.key, row.fingerprint, wanted)["key"]
    assert [code_of(jobs.answer, key), code_of(jobs.permit_of, row.id)] == ["", ""]
    assert ended(site, jobs, row, wanted)["status"] == "done"


def test_what_was_done_before_the_pause_stays_inside_until_its_end(site, jobs):
    row, decisions = approved(site, recipe("popularity")), Decisions(site, jobs)
    answer = train(site, jobs, row)
    site.ledger.pause("", site.now())
    assert code_of(jobs.answer, answer["key"]) == "permit.paused"
    assert site.blobs.path("out", row.id, answer["passport"]["sha256"]).exists()
    decisions.resume(OWNER.email, "owner")
    assert jobs.answer(answer["key"]) == answer


def test_a_pause_outlives_the_process_and_the_jobs_of_a_paused_site_wait(site, jail):
    first = Jobs(site, jail)
    row = approved(site, own(SLOW))
    key = first.start(row.key, row.fingerprint, task(sent(site, row, VECTOR)))["key"]
    Decisions(site, first).pause("site", "operator", "")
    first.close()
    assert code_of(Ledger(site.state / "ledger.sqlite").check_pause) == "permit.paused"
    again = Site.open(site.folder)
    second = Jobs(again, jail)
    second.recover()
    deadline = time.monotonic() + 5
    while second._active and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (again.ledger.job(key).status, second._active) == ("running", {})
    Decisions(again, second).resume("site", "operator")
    assert asyncio.run(second.wait(key, 20))["status"] == "done"
    assert again.ledger.used(row.id) == {"train": 1}
    second.close()
    again.close()


def test_deny_and_revoke_work_in_a_pause_and_a_revoked_job_does_not_come_back(site, jobs):
    row, decisions = approved(site, own(SLOW)), Decisions(site, jobs)
    key = jobs.start(row.key, row.fingerprint, task(sent(site, row, VECTOR)))["key"]
    decisions.pause("site", "operator", "")
    decisions.undo(OWNER, row.id, "no more", lambda: True)
    assert code_of(jobs.answer, key) == "permit.revoked"
    decisions.resume("site", "operator")
    deadline = time.monotonic() + 10
    while site.ledger.running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (site.ledger.job(key).status, site.ledger.job(key).answer["code"]) == ("refused", "permit.revoked")


def test_a_job_that_does_not_end_is_counted_and_said(site):
    class Deaf(Idle):
        def kill(self, job): ...

    jobs = Jobs(site, Deaf())
    jobs._active["x"] = None
    assert jobs.pause(0.05) == 1
    assert submitted(site, recipe()).decision == "waiting"
