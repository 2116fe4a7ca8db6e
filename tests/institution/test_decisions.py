"""Decisions of owners: who may, within which limits, in an order that a crash cannot hurt."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from small_site import OWNER, SCIENTIST, START, Idle, approved, make_site, own, recipe, sent, submitted, task

import fedrec
from fedrec import models
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.passport import signed_by
from fedrec.exchange.plan import Tensor
from fedrec.exchange.privacy import Privacy
from fedrec.institution.audit import read
from fedrec.institution.decisions import Decisions
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import Account
from fedrec.institution.limits import check_limits
from fedrec.institution.permit import Task
from fedrec.institution.site import Site

SECOND = Account("second@a.example", "0b" * 32, "reviewer", True)


@pytest.fixture
def decisions(site):
    return Decisions(site, Jobs(site, Idle()))


def yes():
    return True


def no():
    return False


def code_of(call, *given):
    with pytest.raises(Refused) as caught:
        call(*given)
    return caught.value.code


def acts(site, act):
    return [event["outcome"] for event in read(site.audit.path) if event["act"] == act]


@pytest.mark.parametrize(
    "by",
    [
        replace(SCIENTIST, role="owner"),
        Account(SCIENTIST.email, "0c" * 32, "owner", True),  # the same person by e-mail
        Account("other@lab.example", SCIENTIST.key, "owner", True),  # the same person by key
    ],
)
def test_nobody_approves_a_request_of_his_own(site, decisions, by):
    row = submitted(site, recipe())
    called = []
    assert code_of(decisions.approve, by, row.id, {}, lambda: bool(called.append(1))) == "gate.self"
    assert called == []
    assert site.ledger.request(row.id).decision == "waiting"


@pytest.mark.parametrize(("asked", "given"), [(None, "20-24"), ("8-22", "20-22"), ("21-24", "21-24"), ("8-20", None)])
def test_a_permit_has_the_hours_that_the_site_and_the_owner_have_in_common(asked, given, tmp_path):
    site = make_site(tmp_path, 'hours = "20-24"\n')
    row = submitted(site, recipe())
    decisions = Decisions(site, Jobs(site, Idle()))
    if given is None:
        assert code_of(decisions.approve, OWNER, row.id, {"hours": asked}, yes) == "permit.limit"
    else:
        decisions.approve(OWNER, row.id, {"hours": asked}, yes)
        assert site.ledger.request(row.id).signed_permit["hours"] == given
    site.close()


@pytest.mark.parametrize("hours", ["8", "18-8", "8-8", "0-25", "night", 8])
def test_a_site_with_other_hours_than_a_day_has_does_not_open(hours, tmp_path):
    with pytest.raises(WrongInput, match="hours"):
        make_site(tmp_path, f"hours = {hours!r}\n")


def test_control_another_owner_approves_it_and_the_permit_says_who_what_and_when(site, decisions):
    row = submitted(site, recipe(rounds=1, runs=9))
    decisions.approve(OWNER, row.id, {"rounds": 4, "hours": "8-18", "reason": "fine"}, yes)
    after = site.ledger.request(row.id)
    permit = after.signed_permit
    assert signed_by(permit, site.keys.public)
    assert (after.decision, after.decided_by, after.reason) == ("approved", OWNER.email, "fine")
    assert permit["tasks"] == {
        "train": 4,
        "evaluate": 18,
        "publish": 9,
    }  # one protocol, nine runs, two ways to evaluate
    assert (permit["hours"], permit["approver"], permit["approver_key"]) == ("8-18", OWNER.email, OWNER.key)
    assert (permit["scientist_key"], permit["fingerprint"]) == (row.key, row.fingerprint)
    assert (permit["data_version"], permit["consortium"]) == (site.store.version, site.consortium.hash)
    assert acts(site, "approve") == ["intent", "done"]


def test_the_sites_caps_cut_what_the_owner_gives(tmp_path):
    site = make_site(tmp_path, "train = 20\nevaluate = 3\ndays = 2\n")
    row = approved(site, recipe(runs=20), rounds=400)
    permit = row.signed_permit
    assert permit["tasks"] == {"train": 20, "evaluate": 3, "publish": 20}
    first, last = (datetime.fromisoformat(permit[name]) for name in ("not_before", "not_after"))
    assert last - first == timedelta(days=2)
    site.close()


@pytest.mark.parametrize(
    "limits",
    [
        {"round": 3},
        {"rounds": 0},
        {"rounds": True},
        {"rounds": "10"},
        {"epsilon": 1.0},
        {"hours": "18-8"},
        {"until": "soon"},
    ],
    ids=repr,
)
def test_a_limit_that_is_unknown_or_wrong_approves_nothing(site, decisions, limits):
    row = submitted(site, recipe())
    assert code_of(decisions.approve, OWNER, row.id, limits, yes) == "permit.limit"
    assert (site.ledger.request(row.id).decision, site.ledger.request(row.id).permit) == ("waiting", None)


def test_a_denial_needs_a_reason_and_acts_even_when_pysyft_says_no(site, decisions):
    row = submitted(site, recipe())
    for empty in ("", "  \n"):
        assert code_of(decisions.undo, OWNER, row.id, empty, yes) == "request.reason"
    assert site.ledger.request(row.id).decision == "waiting"
    assert code_of(decisions.undo, OWNER, row.id, "not for us", no) == "site.error"
    assert (site.ledger.request(row.id).decision, site.ledger.request(row.id).reason) == ("denied", "not for us")
    assert acts(site, "deny") == ["intent", "site.error"]


def test_an_approval_that_pysyft_refuses_leaves_no_permit(site, decisions):
    row = submitted(site, recipe())
    assert code_of(decisions.approve, OWNER, row.id, {}, no) == "site.error"
    assert site.ledger.request(row.id).signed_permit is None
    assert acts(site, "approve") == ["intent", "site.error"]


class Killed(BaseException):
    """The process ends here: nothing after it is executed, not even the audit log's outcome."""


def test_the_order_is_intent_then_pending_then_pysyft_then_live_then_outcome(site, decisions):
    row, seen = submitted(site, recipe()), []

    def look():
        found = site.ledger.request(row.id)
        seen.append((acts(site, "approve"), found.permit_state, found.decision, found.signed_permit))
        return True

    decisions.approve(OWNER, row.id, {}, look)
    assert seen == [(["intent"], "pending", "waiting", None)]


def test_a_crash_between_permit_and_pysyft_leaves_a_void_permit(site, decisions):
    row = submitted(site, recipe())

    def crash():
        raise Killed

    with pytest.raises(Killed):
        decisions.approve(OWNER, row.id, {}, crash)
    again = Site.open(site.folder)
    assert again.ledger.void_pending() == 1
    jobs = Jobs(again, Idle())
    assert code_of(jobs.start, row.key, row.fingerprint, task(sent(again, row, START))) == "permit.missing"
    Decisions(again, jobs).approve(OWNER, row.id, {}, yes)
    assert jobs.permit_of(row.id)["request"] == row.id
    again.close()


def test_without_room_for_the_intent_nothing_is_approved(site, decisions):
    row, called = submitted(site, recipe()), []
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, site.audit._file)
    os.close(full)
    assert code_of(decisions.approve, OWNER, row.id, {}, lambda: bool(called.append(1))) == "audit.write"
    assert code_of(decisions.undo, OWNER, row.id, "no", lambda: bool(called.append(1))) == "audit.write"
    assert (called, site.ledger.request(row.id).permit_state) == ([], "none")


def test_a_denial_during_another_owners_approval_stays(site, decisions):
    row = submitted(site, recipe())

    def deny():
        decisions.undo(SECOND, row.id, "no", yes)
        return True

    assert code_of(decisions.approve, OWNER, row.id, {}, deny) == "permit.denied"
    assert (site.ledger.request(row.id).decision, site.ledger.request(row.id).decided_by) == ("denied", SECOND.email)
    assert site.ledger.request(row.id).signed_permit is None


def test_a_new_approval_gives_back_no_used_task(site, decisions):
    row = approved(site, recipe(runs=1))
    wanted = task(sent(site, row, START))
    one = Task.parse(wanted)
    site.ledger.reserve(one.key(row.id), row.id, one, site.now(), site.here)
    decisions.undo(OWNER, row.id, "pause", yes)
    decisions.approve(OWNER, row.id, {}, yes)
    sent(site, row, START)  # the revocation deleted it
    assert code_of(Jobs(site, Idle()).start, row.key, row.fingerprint, {**wanted, "nonce": "1" * 32}) == "permit.rounds"


def test_an_unknown_request_is_refused_and_a_known_plan_is_not_submitted_twice(site, decisions):
    assert code_of(decisions.approve, OWNER, "f" * 32, {}, yes) == "permit.missing"
    assert code_of(decisions.undo, OWNER, "f" * 32, "no", yes) == "permit.missing"
    plan = recipe()
    decisions.check_submission(SCIENTIST, plan.text(), plan)
    submitted(site, plan)
    assert code_of(decisions.check_submission, SCIENTIST, plan.text(), plan) == "request.exists"
    decisions.check_submission(replace(SCIENTIST, key="0d" * 32), plan.text(), plan)


@pytest.mark.parametrize(
    ("plan", "limits", "code"),
    [
        (replace(recipe(), fedrec="0.0.1"), "", "plan.version"),
        (replace(recipe(), model={"name": "magic"}), "", "plan.model"),
        (replace(recipe(), model={"name": "echo"}), "", "plan.model"),
        (own(), "", "plan.own_code"),
        (recipe(), 'models = ["popularity"]', "plan.model"),
        (own(), 'models = ["popularity"]\nown_code = true', "plan.model"),
        (recipe(runs=21), "train = 20", "plan.rounds"),
        (recipe(), "publish = false", "plan.publish"),
        (recipe(), "epsilon_limit = 4.0", "plan.privacy"),
        (recipe(), 'purposes = ["research"]', "plan.purpose"),
        (replace(recipe(), use="marketing"), 'purposes = ["research", "teaching"]', "plan.purpose"),
        *(
            (recipe(model={"l2": value}), '[limits.settings]\n"ease.l2" = [1.0, 1000.0]', "plan.setting")
            for value in (0.999, 1000.1, -1, 0, True, "10", [10.0])
        ),
        (replace(recipe(), model={"name": "ease"}), 'settings = {"ease.l2" = [1, 1000]}', "plan.setting"),
        (replace(recipe(), leaves={"gram": Tensor("float64", (10**9, 10**9))}), "", "plan.bytes"),
        (
            replace(recipe(), leaves={"gram": Tensor("float32", ("items", 31251))}),
            "megabytes = 1",
            "plan.bytes",
        ),  # 1,000,032
    ],
)
def test_a_plan_above_the_sites_limits_is_refused_at_submission_and_at_approval(tmp_path, plan, limits, code):
    site = make_site(tmp_path, limits + "\n")
    decisions = Decisions(site, Jobs(site, Idle()))
    assert code_of(decisions.check_submission, SCIENTIST, plan.text(), plan) == code
    row = submitted(site, plan)
    assert code_of(decisions.approve, OWNER, row.id, {}, yes) == code
    site.close()


@pytest.mark.parametrize("privacy", [None, Privacy("secure")], ids=["plain", "secure sum"])
def test_too_large_an_update_of_a_hundred_thousand_items_is_refused_with_models_that_are_not(tmp_path, privacy):
    """Of the site's own default, 64 MB. Control: what the refusal names is accepted."""
    site = make_site(tmp_path, "megabytes = 64\n")
    wide = fedrec.Plan(model=models.IALS(), privacy=privacy).spec
    with pytest.raises(Refused, match=r"with 100000 items these fit: ials with block=8, mf$"):
        check_limits(wide, site.config, 100_000)
    for model in (models.IALS(block=8), models.MF()):
        check_limits(fedrec.Plan(model=model, privacy=privacy).spec, site.config, 100_000)
    with pytest.raises(Refused, match=r"with 3000 items these fit: ease, ials with block=8$"):
        check_limits(fedrec.Plan(model=models.Default(), privacy=privacy).spec, site.config, 3000)
    site.close()


def test_control_at_the_limit_a_plan_is_accepted(tmp_path):
    site = make_site(tmp_path, 'train = 20\nmegabytes = 1\nallow_echo = true\nmodels = ["ease", "echo"]\n')
    large = replace(recipe(), leaves={"gram": Tensor("float32", ("items", 31250))})  # 1,000,000 bytes
    for plan in (recipe(runs=20), large, replace(recipe(), model={"name": "echo"})):
        row, decisions = submitted(site, plan), Decisions(site, Jobs(site, Idle()))
        decisions.approve(OWNER, row.id, {}, lambda: True)
        assert site.ledger.request(row.id).decision == "approved"
    site.close()


def test_control_an_allowed_use_and_a_setting_at_its_edge_are_accepted_and_stand_in_the_permit(tmp_path):
    limits = 'purposes = ["research"]\nsettings = {"ease.l2" = [1, 1000], "mf.rate" = [0, 1]}\n'
    site = make_site(tmp_path, limits)
    for value in (1, 1.0, 1000.0):
        check_limits(replace(recipe(model={"l2": value}), use="research"), site.config, 8)
    permit = approved(site, replace(recipe(), use="research")).signed_permit
    assert (permit["purpose"], permit["use"], permit["ranges"]) == ("P", "research", {"ease.l2": [1.0, 1000.0]})
    assert check_limits(replace(recipe("popularity"), use="research"), site.config, 8) is None
    site.close()


def test_limits_that_became_tighter_hold_at_the_next_call(tmp_path):
    site = make_site(tmp_path)
    row = approved(site, recipe())
    path = site.folder / "site.toml"
    path.write_text(path.read_text() + 'purposes = ["teaching"]\n')
    site.close()
    again = Site.open(site.folder)
    assert code_of(Jobs(again, Idle()).start, row.key, row.fingerprint, task(sent(again, row, START))) == "plan.purpose"
    again.close()
