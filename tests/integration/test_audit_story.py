"""A run at four real sites as an auditor sees it: log against site, packs, one story, the rounds done again."""

from __future__ import annotations

import json

import pytest
import real_sites
from real_sites import command, fresh

import fedrec
from fedrec.institution.audit import verify
from fedrec.institution.evidence import unpack
from fedrec.institution.evidence.find import Wanted, events_of

pytestmark = pytest.mark.sites


@pytest.fixture(scope="module")
def run(federation, owners):
    """Three rounds of matrix factorisation at all four sites, evaluated."""
    plan = fresh(fedrec.models.MF(factors=8), rounds=3, evaluate=True)
    real_sites.approved(federation, owners, plan)
    done = federation.train(plan, on_round=lambda *_: None)
    done.evaluate()
    return done


@pytest.fixture(scope="module")
def packs(run, sites, tmp_path_factory):
    """The evidence of every site, packed while it runs."""
    folder, made = tmp_path_factory.mktemp("packs"), []
    for name, site in sites.all.items():
        made.append(folder / f"{name}.zip")
        done = command("audit", "pack", site.folder, "--run", run.id, "--out", made[-1])
        assert done.returncode == 0, done.stderr
    return made


def test_every_act_of_the_run_has_its_event_and_every_event_its_act(run, sites):
    for site in sites.all.values():
        done = command("audit", "reconcile", site.folder, "--json", "-")
        assert (done.returncode, json.loads(done.stdout)["findings"]) == (0, []), site.name


def test_control_a_ledger_that_lost_a_task_is_found(run, aurora, tmp_path):
    import shutil
    import sqlite3
    from contextlib import closing

    copy = tmp_path / "aurora"
    shutil.copytree(aurora.folder, copy, ignore=shutil.ignore_patterns("*.sock", "lock", "blob"))
    with closing(sqlite3.connect(copy / "state" / "ledger.sqlite")) as db, db:
        assert db.execute("DELETE FROM jobs WHERE run=? AND kind='train' AND round=1", (run.id,)).rowcount == 1
    done = command("audit", "reconcile", copy, "--json", "-")
    assert done.returncode == 3
    found = json.loads(done.stdout)["findings"]
    assert [(one["kind"], one["where"]) for one in found] == [("event without act", "tasks")]
    (database,) = (copy / "state" / "syft").glob("*/db/*_json.db")
    with closing(sqlite3.connect(database)) as db, db:
        db.execute('DELETE FROM "Request" WHERE id=(SELECT id FROM "Request" LIMIT 1)')
    found = json.loads(command("audit", "reconcile", copy, "--json", "-").stdout)["findings"]
    assert ("event without act", "pysyft") in [(one["kind"], one["where"]) for one in found]


def test_four_packs_tell_one_story_that_others_witnessed(run, sites, packs):
    pinned = sites.config.keys
    for path in packs:
        verdict = unpack.check(path, pinned=pinned)
        assert verdict.verdict == "ok", (path.name, verdict.reason)
    done = command("audit", "timeline", *packs, "--plot", packs[0].with_name("story.png"), "--json", "-")
    story = json.loads(done.stdout)
    assert (done.returncode, story["clashes"], story["missing"]) == (0, [], [])
    assert [one["round"] for one in story["rounds"]] == [0, 1, 2]
    assert [one["updates"] for one in story["rounds"]] == [line["updates"] for line in run.log]
    assert any(row["act"] == "witness" for row in story["events"])
    assert all(clock["possible"] and clock["least_ms"] <= 0 <= clock["most_ms"] for clock in story["clocks"])


def test_the_rounds_done_again_give_the_updates_that_left(run, aurora):
    done = command("audit", "replay", aurora.folder, "--run", run.id, "--json", "-")
    tasks = json.loads(done.stdout)["tasks"]
    assert done.returncode == 0, done.stderr
    assert [(one["kind"], one["round"], one["same"]) for one in tasks] == [
        ("train", 0, True), ("train", 1, True), ("train", 2, True), ("evaluate", 2, True),
    ]  # fmt: skip
    assert [one["recorded"] for one in tasks[:3]] == [line["updates"]["aurora"] for line in run.log]


def test_an_export_and_a_pack_of_a_running_site_are_events_that_the_site_wrote(run, aurora, packs, tmp_path):
    before = len(list(events_of(aurora.folder, Wanted(act="export"))))
    done = command(
        "audit", "export", aurora.folder, "--run", run.id, "--format", "jsonl", "--out", tmp_path / "log.jsonl"
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == len(
        list(events_of(aurora.folder, Wanted(run=run.id)))
    )
    events = list(events_of(aurora.folder, Wanted(act="export")))
    assert [event["outcome"] for event in events[before:]] == ["intent", "done"]
    assert {event["detail"].get("form") for event in events} >= {"jsonl", "pack"}
    assert verify(aurora.folder).verdict == "ok"


def test_who_saw_what_is_told_for_a_real_site(run, aurora):
    done = command("audit", "access", aurora.folder, "--from", "2020-01-01", "--to", "2099-12-31", "--json", "-")
    told = json.loads(done.stdout)
    people = {one["who"]: one for one in told["accounts"]}
    assert people[aurora.owner]["roles"][0]["role"] == "owner"
    assert people[real_sites.SCIENTIST]["did"]["train"] >= 3
    assert run.log[0]["updates"]["aurora"] in {one["sha256"] for one in told["released"] if one["act"] == "fetch"}
