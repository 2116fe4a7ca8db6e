"""Secure sums at one site: which member sets it takes, what it lets leave, and that nothing tells its part."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from nacl.signing import SigningKey
from small_site import START, Account, approved, ended, make_site, recipe, sent, submitted, task

from fedrec.errors import Refused
from fedrec.exchange.plan import Tensor
from fedrec.exchange.wire import decode
from fedrec.institution import audit, policy
from fedrec.institution.decisions import Decisions
from fedrec.institution.evidence.replay import replay
from fedrec.institution.jobs import Jobs
from fedrec.institution.site import Site
from fedrec.institution.task_files import update_of

NAMES = ("a", "b", "c", "d")
OTHERS = {name: SigningKey(name.encode() * 32) for name in NAMES[1:]}


def secret(**asks):
    leaves = {"gram": Tensor("float32", ("items", "items"), fixed=(0, 32))}
    return dataclasses.replace(recipe(**asks), leaves=leaves, privacy={"sum": "secure"})


def four(tmp_path, limits: str = "") -> Site:
    """Institution a of four, which pins its own key and those of b, c and d."""
    site = make_site(tmp_path, limits)
    keys = {"a": site.keys.public} | {name: key.verify_key.encode().hex() for name, key in OTHERS.items()}
    members = "".join(f'[[member]]\nname = "{n}"\nfolder = "{n}"\nkey = "{key}"\n' for n, key in keys.items())
    (tmp_path / "consortium.toml").write_text('name = "c"\ntitle = "C"\n' + members)
    site.close()
    return Site.open(tmp_path / "a")


@pytest.fixture
def one(tmp_path):
    made = four(tmp_path)
    yield made
    made.close()


def summed(site, jail, members, row=None, start=START, **more):
    """The answer to a train task with these members, or the refusal."""
    jobs = Jobs(site, jail)
    try:
        row = row or approved(site, secret())
        raw = task(sent(site, row, start), **more) | {"members": list(members)}
        return ended(site, jobs, row, raw)
    except Refused as refused:
        return refused.answer()
    finally:
        jobs.close()


def test_what_leaves_is_masked_and_says_nothing_of_rows_or_users(one, jail):
    row = approved(one, secret())
    answer = summed(one, jail, NAMES, row)
    facts = answer["passport"]
    assert (facts["members"], facts["rows"], facts["users"]) == (list(NAMES), 0, 0)
    left = decode(one.blobs.path("out", row.id, facts["sha256"]).read_bytes())["gram"]
    assert left.dtype == np.uint32
    assert len(np.unique(left)) == left.size  # a Gram of six users has a handful of values
    plain = approved(one, recipe())
    jobs = Jobs(one, jail)
    open_ = ended(one, jobs, plain, task(sent(one, plain, START)))["passport"]
    jobs.close()
    shown = decode(one.blobs.path("out", plain.id, open_["sha256"]).read_bytes())["gram"]
    assert len(np.unique(shown)) < 8  # the control


WRONG = {
    "nobody": (), "without this one": NAMES[1:], "two": NAMES[:2], "a stranger": ("a", "b", "x"),
    "another order": ("b", "a", "c", "d"), "this one alone": ("a",),
}  # fmt: skip


@pytest.mark.parametrize("which", WRONG)
def test_a_site_takes_no_member_set_of(which, one, jail):
    row = approved(one, secret())
    assert summed(one, jail, WRONG[which], row)["code"] in ("sum.members", "sum.few")
    assert summed(one, jail, NAMES[:3], row)["status"] == "done"  # the control


def test_a_plan_without_a_secure_sum_takes_no_members(one, jail):
    assert summed(one, jail, NAMES, approved(one, recipe()))["code"] == "sum.members"


@pytest.mark.parametrize("apart", [2, 1])
def test_two_sums_that_differ_by_one_institution_do_not_both_leave(apart, tmp_path, jail):
    """Their difference would be that institution's part; the control is a site that does not mind."""
    site = four(tmp_path, f"members_apart = {apart}\n")
    first = approved(site, secret())
    answer = summed(site, jail, NAMES, first)
    site.ledger.leaves(answer["key"])
    for row in (first, approved(site, secret(name="again"))):  # also by another plan: the statistic is the same
        again = summed(site, jail, NAMES[:3], row)
        assert again.get("code") == ("sum.members" if apart == 2 else None), again
    assert summed(site, jail, NAMES, approved(site, secret(name="same")))["status"] == "done"
    site.close()


@pytest.mark.parametrize("schedule", [{}, {"name": "quorum", "least": 3}])
def test_gradients_at_two_nearly_equal_models_leave_over_the_same_institutions_only(schedule, one, jail):
    """Or their difference would be nearly one institution's gradient; a plan that may lose sites is the control."""
    leaves = {"items": Tensor("float32", ("items", 4), fixed=(24, 64))}
    changes = {"leaves": leaves, "privacy": {"sum": "secure"}, "schedule": schedule, "aggregator": {"name": "mean"}}
    row = approved(one, dataclasses.replace(recipe("mf", rounds=3), **changes))
    first, second = ({"items": np.full((8, 4), value, np.float32)} for value in (0.1, 0.1001))
    answer = summed(one, jail, NAMES, row, first)
    one.ledger.leaves(answer["key"])
    again = summed(one, jail, NAMES[:3], row, second, number=1)
    assert again.get("code") == (None if schedule else "sum.members"), again


def test_a_round_is_done_again_without_a_lost_site_only_while_nothing_has_left(one, jail):
    row = approved(one, secret())
    first = summed(one, jail, NAMES, row)
    again = summed(one, jail, NAMES[:3], row)
    assert again["status"] == "done"
    with pytest.raises(Refused) as refused:
        one.ledger.leaves(first["key"])
    assert refused.value.code == "sum.void"
    one.ledger.leaves(again["key"])
    assert summed(one, jail, NAMES, row, run="other")["code"] == "sum.members"


def test_the_masks_of_a_round_are_used_once(one, jail):
    """Two accounts with the same plan and run would get two updates under the same masks, and so their difference."""
    nonce, plan = "7" * 32, secret()
    assert summed(one, jail, NAMES, approved(one, plan), nonce=nonce)["status"] == "done"
    eve = Account("eve@lab.example", SigningKey(b"e" * 32).verify_key.encode().hex(), "scientist", True)
    row = submitted(one, plan, eve)
    Decisions(one, Jobs(one, jail)).approve(Account("o@a.example", "0b" * 32, "owner", True), row.id, {}, lambda: True)
    row = one.ledger.request(row.id)
    assert summed(one, jail, NAMES, row, nonce=nonce)["code"] == "sum.used"
    assert summed(one, jail, NAMES, row)["status"] == "done"  # the control: other masks


def test_a_masked_round_is_replayed_with_the_site_s_key_and_not_without(one, jail):
    detail = {"data_version": one.store.version, **policy.keep(one)}
    one.audit.event("site", "site", "start", "a", outcome="done", detail=detail)
    row = approved(one, secret())
    answer = summed(one, jail, NAMES, row)
    (again,) = replay(one.folder, "r", jail)
    assert again.same
    assert again.recorded == answer["passport"]["sha256"]
    key = one.state / "keys" / "site.key"
    key.rename(key.with_suffix(".away"))
    with pytest.raises(Refused) as refused:
        list(replay(one.folder, "r", jail))
    key.with_suffix(".away").rename(key)
    assert refused.value.code == "replay.keys"


def test_the_log_names_the_members_of_each_masked_round(one, jail):
    row = approved(one, secret())
    summed(one, jail, NAMES, row)
    said = [event["detail"].get("members") for event in audit.read(one.audit.path) if event["act"] == "train"]
    assert said == [" ".join(NAMES)] * 2


def test_a_task_under_way_keeps_its_members_over_a_restart(one, jail):
    row = approved(one, secret())
    answer = summed(one, jail, NAMES[:3], row)
    job = one.ledger.job(answer["key"])
    assert job is not None
    assert job.task.members == NAMES[:3]
    assert update_of(job) == answer["passport"]["sha256"]
    assert json.loads(json.dumps(answer["passport"]["members"])) == list(NAMES[:3])
