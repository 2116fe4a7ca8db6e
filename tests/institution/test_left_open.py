"""After a crash the next start says of every act that was open what became of it."""

from __future__ import annotations

import asyncio
import errno
import json
import os

import pytest
from small_site import (
    OWNER,
    SCIENTIST,
    START,
    Idle,
    approved,
    ended,
    events,
    make_site,
    recipe,
    sent,
    submitted,
    task,
)

from fedrec.errors import Refused
from fedrec.institution.audit import CROWD, read, verify
from fedrec.institution.decisions import Decisions
from fedrec.institution.jobs import Jobs
from fedrec.institution.left_open import states
from fedrec.institution.permit import Task
from fedrec.institution.site import Site
from fedrec.institution.verify import MAX_OPEN


@pytest.fixture
def site(tmp_path):
    return make_site(tmp_path)


def opened_again(site) -> Site:
    site.audit.close()
    return Site.open(site.folder)


def intent(site, act, thing="x", **ids) -> int:
    return site.audit.event("somebody", "owner", act, thing, outcome="intent", **ids)


def test_each_open_act_is_named_with_what_became_of_it(site):
    row = approved(site, recipe())
    permit = row.signed_permit["id"]
    waiting = submitted(site, recipe("popularity"))
    raw = Task.parse(task(sent(site, row, START)))
    site.ledger.reserve("j" * 32, row.id, raw, site.now(), site.here)
    ids = {"request": row.id, "permit": permit, "run": "r", "round": 0}
    expected = {
        intent(site, "approve", request=row.id, permit=permit): "done",
        intent(site, "approve", request=row.id, permit="another"): "not-done",
        intent(site, "deny", request=waiting.id): "not-done",
        intent(site, "train", **ids): "again",
        intent(site, "train", **{**ids, "round": 1}): "not-done",
        intent(site, "evaluate", **ids): "not-done",
        intent(site, "data.delete", site.store.version): "not-done",
        intent(site, "data.delete", "gone"): "done",
        intent(site, "pause"): "not-done",
        intent(site, "resume"): "done",
        intent(site, "users.add"): "not-done",
        intent(site, "users.disable", OWNER.email): "done",
        intent(site, "users.reset"): "unknown",
        intent(site, "users.add", OWNER.email, detail={"role": "reviewer"}): "not-done",
        intent(site, "login", "site"): "unanswered",
        intent(site, "redact", "0" * 64): "done",
        intent(site, "models.use", "model", detail={"number": 1}): "not-done",
        intent(site, "config", "site.toml", detail={"policy": "x"}): "not-done",
        intent(site, "submit", row.fingerprint): "not-done",
        site.audit.event(row.scientist, "scientist", "submit", row.fingerprint, outcome="intent"): "done",
        intent(site, "send", raw.base, request=row.id): "done",
        intent(site, "send", "0" * 64, request=row.id): "not-done",
        intent(site, "call", "code.call", request=row.id): "unanswered",
        intent(site, "fetch", "0" * 64, request=row.id): "unknown",
    }
    site.ledger.add_account(OWNER.email, OWNER.key, "owner", site.now())
    site.ledger.disable_account(OWNER.email)
    site = opened_again(site)
    assert states(site) == expected
    site.audit.start("a", states(site), {"void_permits": 0})
    (start,) = read(site.audit.folder, "start")
    assert {key: value for key, value in start["detail"].items() if key.startswith("open_")} == {
        f"open_{number}": state for number, state in expected.items()
    }
    assert states(site) == {}
    assert verify(site.audit.folder).verdict == "ok"
    site.ledger.finish("j" * 32, "done", {"status": "done"}, site.now())
    number = intent(site, "train", **ids)
    Decisions(site, Jobs(site, Idle())).undo(OWNER, waiting.id, "no", lambda: True)
    denied = intent(site, "deny", request=waiting.id)
    site = opened_again(site)
    assert states(site) == {number: "ended", denied: "done"}
    assert SCIENTIST.role == "scientist"


def served(site, number):
    place = site.state / "models" / f"m{number}"
    place.mkdir(parents=True)
    (place / "model.json").write_text(json.dumps({"model": "ab" * 32, "number": number, "data_version": "v"}))
    (site.state / "models" / "current").write_text(place.name)


@pytest.mark.parametrize("act", ["users.add", "models.use", "models.rollback", "config", "redact", "data.take"])
def test_what_files_and_ledger_tell_is_told_of_the_act_done_and_not_done(site, act):
    site.ledger.add_account("x@y.example", "aa", "auditor", site.now())
    site.audit.event("p@x.example", "scientist", "call", "y", outcome="done")
    (name,) = site.audit.texts.holding("p@x.example")
    old, new = {"policy": "a", "schema": "b"}, {"policy": "c", "schema": "b"}
    (site.state / "settings.json").write_text(json.dumps(old))
    version = site.store.version
    site.audit.event(
        "site", "operator", "data.take", "source", outcome="done", detail={"before": "", "version": version}
    )
    served(site, 1)
    ids = {
        "users.add": ("x@y.example", {"role": "reviewer"}), "models.use": ("model", {"number": 2}),
        "models.rollback": ("model", {"number": 2}), "config": ("site.toml", {**new, "before_policy": "a"}),
        "redact": (name, {}), "data.take": ("source", {}),
    }  # fmt: skip
    number = intent(site, act, ids[act][0], detail=ids[act][1])
    assert states(site) == {number: "not-done"}
    site.ledger.add_account("x@y.example", "aa", "reviewer", site.now())
    served(site, 2)
    (site.state / "settings.json").write_text(json.dumps(new))
    site.audit.texts.erase(name)
    site.audit.event(
        "site", "operator", "data.take", "source", outcome="done", detail={"before": "v2", "version": version}
    )
    assert states(site) == {number: "done"}


def test_nobody_fills_the_log_with_open_acts_so_that_the_owner_cannot_act(site):
    """Control: one more of them is refused by its code, and the acts of one call each still fit."""
    row = approved(site, recipe())

    def fetch(number: int) -> int:
        return site.audit.event(*row_of, "fetch", f"{number:064d}", outcome="intent")

    row_of = (SCIENTIST.email, SCIENTIST.role)
    for number in range(CROWD):
        fetch(number)
    for number in range(1000 - CROWD):
        with pytest.raises(Refused, match=r"audit\.write: 500 acts are open"):
            fetch(CROWD + number)
    site.audit.event(*row_of, "call", "GET jobs", outcome="done")
    with site.audit.act("anonymous", "none", "login", OWNER.email):
        pass
    decisions = Decisions(site, Jobs(site, Idle()))
    decisions.undo(OWNER, row.id, "no", lambda: True)
    decisions.pause(OWNER.email, "owner", "stop")
    decisions.resume(OWNER.email, "owner")
    approved(site, recipe("popularity"))
    assert site.ledger.request(row.id).decision == "revoked"
    for number in range(MAX_OPEN - 1 - CROWD):
        site.audit.event(OWNER.email, "owner", "view", str(number), outcome="intent")
    with pytest.raises(Refused, match=r"audit\.write: 999 acts are open"):
        site.audit.event(OWNER.email, "owner", "view", "x", outcome="intent")
    site.audit.event("site", "site", "stop", "a", outcome="done")
    assert len(verify(site.audit.folder).open) == MAX_OPEN - 1
    site = opened_again(site)
    site.audit.start("a", states(site), {})
    assert (verify(site.audit.folder).verdict, verify(site.audit.folder).open) == ("ok", [])


class Starved(Idle):
    """A jail on a disk that is full; with `log`, the site's log cannot be written either."""

    def __init__(self, log=None) -> None:
        self.log, self.spare = log, None

    def run(self, *_):
        if self.log is not None:
            self.spare, full = os.dup(self.log._file), os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, self.log._file)
            os.close(full)
        raise OSError(errno.ENOSPC, "no space")


@pytest.mark.parametrize("log_too", [False, True])
def test_a_task_that_met_trouble_and_was_not_sent_again_goes_on_at_the_next_start(log_too, site, jail):
    """The try has its outcome once the log can be written; else it stays open, and the next start says so."""
    row, starved = approved(site, recipe()), Starved(site.audit if log_too else None)
    jobs = Jobs(site, starved)
    raw = task(sent(site, row, START))
    found = ended(site, jobs, row, raw)
    assert (found["status"], found["code"]) == ("refused", "site.disk")
    jobs.close()
    if starved.spare is not None:
        os.dup2(starved.spare, site.audit._file)
        os.close(starved.spare)
    tried = ["intent"] if log_too else ["intent", "site.disk"]
    assert (events(site), verify(site.audit.folder).verdict) == (tried, "ok")
    site = opened_again(site)
    assert list(states(site).values()) == (["again"] if log_too else [])
    site.audit.start("a", states(site), {})
    jobs = Jobs(site, jail)
    assert jobs.recover() == 1
    assert asyncio.run(jobs.wait(Task.parse(raw).key(row.id), 20))["status"] == "done"
    jobs.close()
    assert events(site) == [*tried, "intent", "done"]
    assert verify(site.audit.folder).verdict == "ok"
