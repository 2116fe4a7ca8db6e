"""What lies in the data plane does not stay there: not after its permit, and not for ever under a live one."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from small_site import VECTOR, approved, ended, own, recipe, sent, task, train
from test_jobs import SLOW, files

from fedrec.institution.jobs import Jobs


def older(site, row, hours):
    """Make the request's files so much older."""
    then = time.time() - 3600 * hours
    for path in site.blobs.files(row.id):
        os.utime(path, (then, then))


def lying(site, row):
    return len(files(site, "in", row) + files(site, "out", row))


@pytest.mark.parametrize(("hours", "left"), [(25, 0), (23, 2)])
def test_an_old_file_goes_and_a_fresh_one_stays(hours, left, site, jobs):
    """A model and an update of a run whose driver never came back."""
    row = approved(site, recipe("popularity"))
    train(site, jobs, row)
    older(site, row, hours)
    jobs.sweep()
    assert lying(site, row) == left


@pytest.mark.parametrize(("hours", "left"), [(1.1, 0), (0.9, 2)])
def test_a_used_up_permits_files_stay_an_hour_for_a_driver_that_asks_again(hours, left, site, jobs):
    row = approved(site, recipe("popularity", runs=1, evaluate=False, publish=False))
    wanted = task(sent(site, row, {"counts": VECTOR["v"]}))
    answer = ended(site, jobs, row, wanted)
    older(site, row, hours)
    jobs.sweep()
    assert lying(site, row) == left
    assert ended(site, jobs, row, wanted) == answer  # the answer is the ledger's and stays


@pytest.mark.parametrize(("days", "left"), [(400, 0), (0, 2)])
@pytest.mark.parametrize("when", ["next task", "next start"])
def test_what_a_permit_that_ended_left_is_gone_at_the_next_task_of_another_plan(days, left, when, site, jail):
    clock = [datetime.now(UTC)]
    site = replace(site, clock=lambda: clock[0])
    jobs = Jobs(site, jail)
    row = approved(site, recipe("popularity"))
    train(site, jobs, row)
    clock[0] += timedelta(days=days)
    if when == "next task":
        other = approved(site, recipe("popularity", name="another"))
        train(site, jobs, other)
        assert lying(site, other) == 2
    else:
        Jobs(site, jail).recover()
    assert lying(site, row) == left
    jobs.close()


def test_what_a_running_job_starts_from_stays_however_old_it_is(site, jobs):
    row = approved(site, own(SLOW))
    wanted = task(sent(site, row, VECTOR))
    assert jobs.start(row.key, row.fingerprint, wanted)["status"] == "running"
    older(site, row, 1000)
    jobs.sweep()
    assert files(site, "in", row) == [wanted["base"]]
    assert ended(site, jobs, row, wanted)["status"] == "done"


def test_half_a_model_of_a_call_that_broke_goes_too(site, jobs):
    row = approved(site, recipe("popularity"))
    sent(site, row, VECTOR)
    half = site.blobs.path("in", row.id, ".part-abc")
    half.write_bytes(b"half")
    then = time.time() - 25 * 3600
    os.utime(half, (then, then))
    jobs.sweep()
    assert not half.exists()
    assert lying(site, row) == 1
