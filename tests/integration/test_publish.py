"""Publishing on a running site: a write under the permit, checked, versioned, and put back by the owner."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from real_sites import approve_one, approved, events, fresh, put, run_task

import fedrec
from fedrec.demo.sites import SCIENTIST
from fedrec.exchange.wire import sha256

pytestmark = pytest.mark.sites


def command(*given):
    """A command of the institution's own machine: exit code, and what it printed as JSON."""
    run = subprocess.run(
        [sys.executable, "-m", "fedrec", *map(str, given), "--json", "-"], capture_output=True, text=True, check=False
    )
    return run.returncode, json.loads(run.stdout) if run.returncode == 0 else run.stderr


def models(site, *given):
    return command("site", "models", given[0], site.folder, *given[1:])


def counts(n_items, best):
    """A model that recommends the film `best` to everybody who has not seen it."""
    made = np.zeros(n_items, np.float32)
    made[best] = 10**6
    return {"counts": made}


def published(ada, approved, n_items, tensors, run):
    """One round from the plan's own start, and then this model instead of the merged one."""
    put(ada, approved.id, approved.plan.built.init(n_items, approved.plan.seed).tensors)
    trained = run_task(ada, approved, run=run)
    assert trained["status"] == "done", trained
    return run_task(ada, approved, kind="publish", run=run, base=put(ada, approved.id, tensors))


def test_models_are_published_under_the_permit_chosen_and_rolled_back(site, alone, its_owner):
    ada, owner, n_items = alone._sites["solo"], its_owner["solo"], alone.n_items
    approved = approve_one(ada, owner, fresh(runs=2, publish=True), n_items)
    early = run_task(ada, approved, kind="publish", run="none")
    assert early["code"] == "permit.protocol"  # nothing was trained in that run
    best = [3, 5]
    for number, item in enumerate(best):
        answer = published(ada, approved, n_items, counts(n_items, item), f"run-{number}")
        assert answer["status"] == "done", answer
    put(ada, approved.id, approved.plan.built.init(n_items, approved.plan.seed).tensors)
    used_up = run_task(ada, approved, kind="publish", run="run-1")
    assert used_up["code"] == "permit.rounds"

    code, listed = models(site, "list")
    first, second = listed["models"][-2:]
    assert (code, first["run"], second["run"], first["served"], second["served"]) == (0, "run-0", "run-1", False, True)
    assert {one["scientist"] for one in (first, second)} == {SCIENTIST}
    assert {one["request"] for one in (first, second)} == {approved.id}
    assert first["permit"] == second["permit"] != ""

    def served():
        code, found = command("recommend", site.folder, "--user", "nobody", "-k", 1)
        assert code == 0, found
        return found["items"]

    newest = served()
    assert models(site, "use", first["number"])[0] == 0
    older = served()
    assert newest != older
    assert models(site, "rollback")[0] == 0
    assert served() == newest
    assert models(site, "use", "999")[0] == 2
    assert served() == newest
    assert [event["outcome"] for event in events(site, act="models.rollback")][-2:] == ["intent", "done"]
    assert [event["outcome"] for event in events(site, act="publish", request=approved.id)][-4:-2] == ["intent", "done"]


def test_what_the_permit_does_not_cover_or_the_model_does_not_fit_is_not_published(site, alone, its_owner):
    ada, owner, n_items = alone._sites["solo"], its_owner["solo"], alone.n_items
    before = models(site, "list")[1]["models"]
    unasked = approve_one(ada, owner, fresh(runs=2), n_items)
    assert published(ada, unasked, n_items, counts(n_items, 1), "a")["code"] == "permit.kind"
    asked = approve_one(ada, owner, fresh(runs=3, publish=True), n_items)
    wrong = published(ada, asked, n_items, {"counts": np.zeros(n_items + 1, np.float32)}, "b")
    assert wrong["status"] == "refused", wrong
    lost = run_task(ada, asked, kind="publish", run="b", base=sha256(b"never sent"))
    assert lost["status"] == "refused"
    owner.undo(asked.id, "no more")
    gone = run_task(ada, asked, kind="publish", run="b")
    assert gone["code"] == "permit.revoked"
    assert models(site, "list")[1]["models"] == before


def test_the_scientist_is_warned_where_a_model_is_served_that_was_not_compared(alone, its_owner, caplog):
    plan = fresh(fedrec.models.FeatureSums(), publish=True)
    approved(alone, its_owner, plan)
    alone.train(plan).publish()
    said = [record.getMessage() for record in caplog.records if "without comparing" in record.getMessage()]
    assert len(said) == 1
    assert "solo" in said[0]
    assert "a model of this kind recommends nothing" in said[0]
