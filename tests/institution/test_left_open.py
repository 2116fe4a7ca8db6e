"""After a crash the next start says of every act that was open what became of it."""

from __future__ import annotations

import pytest
from small_site import OWNER, SCIENTIST, START, Idle, approved, make_site, recipe, sent, submitted, task

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
    site.ledger.reserve("j" * 32, row.id, raw, site.now(), site.keys.public)
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
        intent(site, "users.add"): "unknown",
    }
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
