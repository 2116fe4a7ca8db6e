"""After a crash the next start says of every act that was open what became of it."""

from __future__ import annotations

import asyncio
import errno
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

from fedrec.institution.audit import read, verify
from fedrec.institution.decisions import Decisions
from fedrec.institution.jobs import Jobs
from fedrec.institution.left_open import states
from fedrec.institution.permit import Task
from fedrec.institution.site import Site


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
