"""The log against ledger, updates and models: nothing to find after a whole story, and each kind of gap is found."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from small_site import OWNER
from told import forged, tell

from fedrec.exchange.wire import sha256
from fedrec.institution.audit import verify
from fedrec.institution.evidence.find import Wanted, events_of
from fedrec.institution.evidence.reconcile import reconcile, unproved
from fedrec.institution.site import Site


@pytest.fixture(scope="module")
def story(tmp_path_factory, jail):
    return tell(tmp_path_factory.mktemp("told"), jail)


@pytest.fixture
def folder(story, tmp_path):
    """A copy of the site's folder that a test may change."""
    shutil.copytree(story.parent, tmp_path / "copy")
    return tmp_path / "copy" / story.name


def sql(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / "state" / "ledger.sqlite")) as db, db:
        assert db.execute(statement, values).rowcount != 0


def gaps(folder: Path) -> set[tuple[str, str]]:
    return {(one.kind, one.where) for one in reconcile(folder)}


def test_a_whole_story_leaves_nothing_to_find(story):
    assert reconcile(story) == []


def test_nothing_is_written_not_even_beside_the_ledger(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert reconcile(folder) == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("statement", "gap"),
    [
        ("DELETE FROM jobs WHERE kind='train' AND round=1", ("event without act", "tasks")),
        ("UPDATE jobs SET status='refused', answer='{\"code\": \"jail.time\"}' WHERE round=1", ("event without act", "tasks")),
        ("UPDATE jobs SET answer=replace(answer, '\"sha256\": \"', '\"sha256\": \"0') WHERE round=0", ("act without event", "tasks")),
        ("INSERT INTO jobs SELECT 'x', request, kind, run, 9, protocol, base, nonce, status, answer, '', '', '[]' FROM jobs LIMIT 1",
         ("act without event", "tasks")),
        ("INSERT INTO jobs SELECT 'x', request, kind, run, 9, protocol, base, nonce, 'running', NULL, '', '', '[]' FROM jobs LIMIT 1",
         ("act without event", "tasks")),
        ("DELETE FROM requests", ("event without act", "requests")),
        ("UPDATE requests SET decision='denied'", ("differs", "decisions")),
        ("UPDATE requests SET decision='waiting', permit_state='none'", ("event without act", "decisions")),
        ("UPDATE requests SET permit=replace(permit, '\"id\": \"', '\"id\": \"0')", ("differs", "permits")),
        ("INSERT INTO accounts VALUES ('eve@x.example', 'aa', 'owner', 1, '')", ("act without event", "accounts")),
        ("DELETE FROM accounts WHERE role='scientist'", ("event without act", "accounts")),
        ("UPDATE accounts SET role='owner' WHERE role='scientist'", ("differs", "accounts")),
        ("UPDATE accounts SET enabled=0 WHERE role='scientist'", ("differs", "accounts")),
        ("INSERT INTO pause VALUES (1, '', '')", ("act without event", "pause")),
    ],
)  # fmt: skip
def test_a_ledger_that_was_changed_is_found(folder, statement, gap):
    sql(folder, statement)
    assert gap in gaps(folder)


@pytest.mark.parametrize(
    ("act", "gap"),
    [
        ("train", ("act without event", "tasks")),
        ("evaluate", ("act without event", "tasks")),
        ("publish", ("act without event", "models")),
        ("submit", ("act without event", "requests")),
        ("approve", ("act without event", "decisions")),
        ("users.add", ("act without event", "accounts")),
    ],
)
def test_events_that_were_taken_out_by_someone_with_the_sites_key_are_found(folder, act, gap):
    """The log then verifies, which is why it is compared with what the site did."""
    forged(folder, lambda event: event, lambda event: event["act"] != act)
    assert verify(folder).verdict == "ok"
    assert gap in gaps(folder)


def test_an_event_of_another_update_than_the_one_that_left_is_found(folder):
    def other(event):
        if event["act"] == "train" and event["outcome"] == "done":
            event["detail"]["sha256"] = "0" * 64
        return event

    forged(folder, other)
    assert gaps(folder) == {("act without event", "tasks"), ("event without act", "tasks")}


def test_a_released_file_that_no_event_speaks_of_is_found_and_one_that_was_changed(folder):
    (done,) = (event for event in events_of(folder, Wanted(act="train", outcome="done")) if event["round"] == 2)
    out = folder / "state" / "blobs" / "out" / done["request"]
    out.mkdir(exist_ok=True)
    (out / sha256(b"rows")).write_bytes(b"rows")
    assert gaps(folder) == {("act without event", "updates")}
    (out / sha256(b"rows")).rename(out / done["detail"]["sha256"])
    assert gaps(folder) == {("differs", "updates")}


def test_a_model_that_nobody_published_is_found_and_one_that_is_served_in_secret(folder):
    models = folder / "state" / "models"
    (model,) = models.glob("[!.]*/model.json")
    shutil.copytree(model.parent, models / "other")
    facts = json.loads(model.read_text()) | {"model": "b" * 64}
    (models / "other" / "model.json").write_text(json.dumps(facts))
    (models / "current").write_text("other")
    assert gaps(folder) == {("act without event", "models"), ("differs", "models")}


def test_what_a_crash_left_open_may_have_happened_or_not(folder):
    """Only the outcome is missing: the ledger's row is neither proved nor disproved by it."""
    site = Site.open(folder)
    (approved,) = events_of(folder, Wanted(act="approve", outcome="done"))
    site.audit.event(OWNER.email, "owner", "revoke", approved["object"], outcome="intent", request=approved["request"])
    site.close()
    assert gaps(folder) == set()
    sql(folder, "UPDATE requests SET decision='revoked', permit_state='ended'")
    assert gaps(folder) == set()


def crashed(folder: Path, state: str, act: str, thing: str, **ids: object) -> None:
    """An act that a crash left open, and a start that says what became of it."""
    site = Site.open(folder)
    number = site.audit.event("site", "site", act, thing, outcome="intent", **ids)
    site.audit.start("a", {number: state}, {"policy": ""})
    site.close()


NEW = ("users.add", "eve@x.example")
ROW = "INSERT INTO accounts VALUES ('eve@x.example', 'aa', ?, ?, '')"


@pytest.mark.parametrize(("role", "enabled", "found"), [
    ("auditor", 1, set()),
    ("owner", 1, {("differs", "accounts")}),
    ("auditor", 0, {("differs", "accounts")}),
    (None, 0, {("event without act", "accounts")}),
])  # fmt: skip
def test_a_crash_hides_no_later_change_once_the_start_says_that_the_act_was_done(folder, role, enabled, found):
    crashed(folder, "done", *NEW, detail={"role": "auditor"})
    if role:
        sql(folder, ROW, role, enabled)
    assert gaps(folder) == found


@pytest.mark.parametrize("state", ["not-done", "again", "unknown"])
def test_an_act_that_was_not_done_or_that_nobody_knows_of_is_not_taken_for_done(folder, state):
    """What nobody knows is said, once; control: no start yet, so the row may be the act's."""
    copy = folder.parent / "open"
    shutil.copytree(folder, copy)
    crashed(folder, state, *NEW, detail={"role": "auditor"})
    said = {("unknown", "acts")} if state == "unknown" else set()
    assert gaps(folder) == said
    sql(folder, ROW, "auditor", 1)
    assert gaps(folder) == said | {("act without event", "accounts")}
    assert sum(one.kind == "unknown" for one in reconcile(folder)) == len(said)
    site = Site.open(copy)
    site.audit.event("site", "site", *NEW, outcome="intent", detail={"role": "auditor"})
    site.close()
    sql(copy, ROW, "auditor", 1)
    assert gaps(copy) == set()


def test_a_task_whose_answer_a_crash_kept_is_no_finding_and_another_one_is(folder):
    forged(folder, lambda event: event, lambda event: not (event["act"] == "train" and event["round"] == 2))
    assert gaps(folder) == {("act without event", "tasks")}
    (row,) = {(e["request"], e["run"], e["object"]) for e in events_of(folder, Wanted(act="train", outcome="done"))}
    with closing(sqlite3.connect(folder / "state" / "ledger.sqlite")) as db:
        (base,) = db.execute("SELECT base FROM jobs WHERE kind='train' AND round=2").fetchone()
    ids = {"request": row[0], "run": row[1], "round": 2, "detail": {"protocol": "p1", "base": base}}
    crashed(folder, "ended", "train", row[2], **ids)
    assert gaps(folder) == set()
    sql(
        folder,
        "INSERT INTO jobs SELECT 'x', request, kind, run, 9, protocol, base, nonce, status, answer, '', '', '[]' FROM jobs LIMIT 1",
    )
    assert gaps(folder) == {("act without event", "tasks")}


def test_checkpoints_of_others_that_nothing_led_to_are_listed(folder):
    """Controls: a run's first has nothing before it, and one that was shown to follow is no finding."""
    site = Site.open(folder)
    told = [("r", 3, False, "done"), ("r", 6, True, "done"), ("s", 9, False, "done")]
    for run, size, proved, outcome in told:
        site.audit.event(
            "s", "scientist", "witness", "b", outcome=outcome, run=run, detail={"size": size, "proved": proved}
        )
    assert unproved(folder) == []
    for run, size, outcome in (("s", 12, "done"), ("s", 5, "late"), ("t", 7, "clash")):
        site.audit.event(
            "s", "scientist", "witness", "b", outcome=outcome, run=run, detail={"size": size, "proved": False}
        )
    site.close()
    assert reconcile(folder) == []  # which says nothing about this site
    assert [said.split(" (")[0] for said in unproved(folder)] == [
        "b with 12 events came without a good proof",
        "b with 5 events does not fit what was kept",
        "b with 7 events does not fit what was kept",
    ]


def test_control_once_the_start_says_that_the_act_was_not_done_a_row_of_it_is_found(folder):
    test_what_a_crash_left_open_may_have_happened_or_not(folder)
    site = Site.open(folder)
    site.audit.start("a", {one["seq"]: "not-done" for one in site.audit.left_open()}, {"policy": ""})
    site.close()
    assert gaps(folder) == {("differs", "decisions")}
