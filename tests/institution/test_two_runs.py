"""Two runs of one plan at one site: they share its permit and its files, and neither takes anything from the other."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

from small_site import VECTOR, approved, ended, own, recipe, sent, task, train
from test_jobs import files

from fedrec.errors import Refused

SLOW_ON_OTHER_ROWS = "import time\nif len(rows.user) != 18:\n    time.sleep(2)"  # p1 trains on 18 rows


def test_two_runs_of_one_plan_from_the_same_model_do_not_delete_each_others_files(site, jobs):
    """Both send the same start and get the same update; the faster run's end takes nothing from the slower one."""
    row = approved(site, recipe("popularity"))
    first, second = (train(site, jobs, row, run=run)["passport"] for run in ("a", "b"))
    assert (first["base"], first["sha256"]) == (second["base"], second["sha256"])
    assert train(site, jobs, row, run="a", kind="evaluate")["status"] == "done"
    assert files(site, "out", row) == [second["sha256"]]  # run b has not fetched it yet
    assert files(site, "in", row) == [second["base"]]
    assert ended(site, jobs, row, task(second["base"], "evaluate", run="b"))["status"] == "done"
    assert files(site, "in", row) + files(site, "out", row) == []


def test_a_job_keeps_the_model_it_starts_from_whatever_the_other_run_does(site, jobs):
    row = approved(site, replace(own(SLOW_ON_OTHER_ROWS, runs=2), train=("p1", "p3")))
    base = sent(site, row, VECTOR)
    assert ended(site, jobs, row, task(base, run="a"))["status"] == "done"
    slow = jobs.start(row.key, row.fingerprint, task(base, run="b", protocol="p3"))
    assert slow["status"] == "running"
    found = ended(site, jobs, row, task(base, "evaluate", run="a"))
    assert found["status"] == "done", found
    assert jobs.answer(slow["key"])["status"] == "running"
    assert asyncio.run(jobs.wait(slow["key"], 10))["status"] == "done"


def test_two_runs_at_once_get_as_many_rounds_as_the_permit_has_and_not_one_more(site, jobs):
    """Two drivers with the same plan, each with threads of its own, at one permit of five tasks."""
    row = approved(site, recipe("popularity", rounds=9, runs=2), rounds=5)
    answers, barrier = [], threading.Barrier(8)

    def call(run, number):
        barrier.wait()
        try:
            answers.append(train(site, jobs, row, run=run, number=number)["status"])
        except Refused as refusal:
            answers.append(refusal.code)

    threads = [threading.Thread(target=call, args=(run, number)) for run in ("a", "b") for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert site.ledger.used(row.id) == {"train": 5}
    assert answers.count("permit.rounds") == 3
    assert len(answers) == 8
