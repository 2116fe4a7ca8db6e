"""Every cap of site.toml: no plan, no approval and no permit given before goes above it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from small_site import (
    LIMITS,
    OWNER,
    SCIENTIST,
    START,
    VECTOR,
    Idle,
    approved,
    ended,
    make_site,
    own,
    recipe,
    sent,
    submitted,
    task,
    train,
)

from fedrec.config.site import Limits
from fedrec.errors import Refused
from fedrec.exchange.plan import Tensor
from fedrec.exchange.wire import decode
from fedrec.institution.decisions import Decisions
from fedrec.institution.jobs import Jobs
from fedrec.institution.site import Site

# cap → what the institution writes, a plan above it, the refusal
OF_PLANS = {
    "train": ("train = 5", recipe(rounds=3), "plan.rounds"),  # 3 rounds of 2 runs
    "megabytes": (
        "megabytes = 0.5",
        replace(recipe(), leaves={"g": Tensor("float32", ("items", 16000))}),
        "plan.bytes",
    ),
    "epsilon_limit": ("epsilon_limit = 4.0", recipe(), "plan.privacy"),
    "own_code": ("own_code = false", own(), "plan.own_code"),
    "allow_echo": ("allow_echo = false", replace(recipe(), model={"name": "echo"}), "plan.model"),
    "publish": ("publish = false", recipe(), "plan.publish"),
    "models": ('models = ["popularity"]', recipe(), "plan.model"),
    "purposes": ('purposes = ["research"]', recipe(), "plan.purpose"),
    "settings": ('settings = {"ease.l2" = [1.0, 100.0]}', recipe(), "plan.setting"),
}
OF_PERMITS = {"train", "evaluate", "days", "hours"}  # what was asked for is cut, which test_decisions.py tests
OF_JOBS = {"megabytes", "minutes", "memory_mb", "state_mb", "min_users_per_row"}
OF_THE_SITE = {
    "delta",
    "jail_level",
    "tell_errors",
    "replay_mb",
    "members_apart",
    "users_apart",
    "thin_cells",
    "leak_gate",
}  # test_spent, test_jail_levels, test_jail_attacks, test_audit_replay, test_sums, test_apart, test_told, test_held
LATER = (datetime.now(UTC).hour + 6) % 24  # an hour in which no test runs
LAX = "own_code = true\nallow_echo = true\n"


def code_of(call, *given):
    with pytest.raises(Refused) as caught:
        call(*given)
    return caught.value.code


def test_no_cap_is_forgotten_here():
    assert set(Limits.model_fields) == set(OF_PLANS) | OF_PERMITS | OF_JOBS | OF_THE_SITE


@pytest.mark.parametrize("cap", OF_PLANS)
def test_a_plan_above_a_cap_is_refused_when_submitted_approved_and_called(cap, tmp_path):
    line, plan, code = OF_PLANS[cap]
    lax = make_site(tmp_path, LAX)
    Decisions(lax, Jobs(lax, Idle())).check_submission(SCIENTIST, plan.text(), plan)  # the control: without the cap
    row, waiting = approved(lax, plan), submitted(lax, replace(plan, name="other"))
    raw = task(sent(lax, row, START))
    lax.close()
    toml = lax.folder / "site.toml"
    name = line.partition(" ")[0]
    kept = [old for old in toml.read_text().splitlines() if not old.startswith(name)]
    toml.write_text("\n".join([*kept, line]) + "\n")
    strict = Site.open(lax.folder)
    decisions = Decisions(strict, Jobs(strict, Idle()))
    another = replace(plan, name="another")
    assert code_of(decisions.check_submission, SCIENTIST, another.text(), another) == code
    assert code_of(decisions.approve, OWNER, waiting.id, {}, lambda: True) == code
    if cap != "megabytes":  # of a call, the guard measures what is there
        assert code_of(Jobs(strict, Idle()).start, row.key, row.fingerprint, raw) == code
        assert strict.ledger.used(row.id) == {}
    strict.close()


# cap → what the institution writes, the plan's own lines, the refusal
IN_JOBS = {
    "megabytes": ("megabytes = 0.01", "return {'v': np.ones(10**6)}, {}", "guard.bytes"),
    "minutes": ("minutes = 0.01", "while True:\n    pass", "jail.time"),
    "memory_mb": ("memory_mb = 200", "np.ones(40 * 10**6)", "jail.memory"),
    "state_mb": ("state_mb = 1", "return {'v': np.ones(8)}, {'s': np.ones(150_000)}", "guard.bytes"),
}


@pytest.mark.parametrize("defence", [True, False])
@pytest.mark.parametrize("cap", IN_JOBS)
def test_a_job_above_a_cap_is_ended(cap, defence, tmp_path, jail):
    """The control is the same cap, wide: the job ends by itself, or as an array that the plan did not declare."""
    line, lines, code = IN_JOBS[cap]
    kept = [old for old in LIMITS.replace("0.05", "0.5").splitlines() if not old.startswith(cap)]
    wide = {
        "state_mb": "state_mb = 2",
        "megabytes": "megabytes = 64",
        "minutes": "minutes = 0.1",
        "memory_mb": "memory_mb = 2048",
    }[cap]
    site = make_site(tmp_path, "\n".join([*kept, line if defence else wide]) + "\n")
    jobs = Jobs(site, jail)
    bounded = lines.replace("while True:", "import time\nbegan = time.monotonic()\nwhile time.monotonic() < began + 2:")
    answer = train(site, jobs, approved(site, own(bounded)), VECTOR)
    assert answer.get("code") == (code if defence else "guard.shape" if cap == "megabytes" else None), answer
    left = [path.stat().st_size for path in site.state.glob("private/*/*/*.safetensors")]
    assert (max(left, default=0) > 10**6) is (cap == "state_mb" and not defence)
    jobs.close()
    site.close()


def test_what_bounded_a_job_when_its_permit_was_signed_still_does_in_a_looser_site(tmp_path, jail):
    """The control is a permit of the looser site: the same plan's thin items leave."""
    site = make_site(tmp_path, "min_users_per_row = 3\n")
    before = approved(site, recipe("popularity"))
    again = with_limits(site, "min_users_per_row = 3", "min_users_per_row = 1")
    jobs = Jobs(again, jail)
    for row, zeroed in ((before, 4), (approved(again, recipe("popularity", name="after")), 0)):
        name = train(again, jobs, row)["passport"]["sha256"]
        counts = decode(again.blobs.path("out", row.id, name).read_bytes())["counts"]
        assert np.count_nonzero(counts == 0) == zeroed
    jobs.close()
    again.close()


def test_a_permit_of_a_stronger_jail_does_not_run_in_a_weaker_one(tmp_path, jail):
    site = make_site(tmp_path, "jail_level = 3\n")
    before = approved(site, recipe("popularity"))
    again = with_limits(site, "jail_level = 3", "jail_level = 2")
    jobs = Jobs(again, jail)
    assert train(again, jobs, before)["code"] == "jail.level"
    assert train(again, jobs, approved(again, recipe("popularity", name="after")))["status"] == "done"
    jobs.close()
    again.close()


@pytest.mark.parametrize(
    ("cap", "code"),
    [
        ("days = 1", "permit.expired"),
        ("evaluate = 0", "permit.kind"),
        (f'hours = "{LATER}-{LATER + 1}"', "permit.hours"),
        ("days = 3", ""),
    ],
)
def test_a_cap_that_is_lowered_reaches_permits_given_before(cap, code, tmp_path, jail):
    site = make_site(tmp_path)
    row, jobs = approved(site, recipe("popularity")), Jobs(site, jail)
    assert train(site, jobs, row)["status"] == "done"
    jobs.close()
    again = replace(with_limits(site, "[limits]", f"[limits]\n{cap}"), clock=lambda: datetime.now(UTC) + timedelta(2))
    jobs = Jobs(again, jail)
    raw = task(sent(again, row, START), "evaluate")
    if code:
        assert code_of(jobs.start, row.key, row.fingerprint, raw) == code
    else:
        assert ended(again, jobs, row, raw)["status"] == "done"
    jobs.close()
    again.close()


def with_limits(site, old, new):
    """The site started again after its owner changed a line of site.toml."""
    site.close()
    toml = site.folder / "site.toml"
    toml.write_text(toml.read_text().replace(old, new))
    return Site.open(site.folder)


@pytest.mark.parametrize("lowered", [True, False])
def test_a_job_found_again_after_a_restart_meets_the_caps_of_now(lowered, tmp_path, jail):
    """The control is the same restart under the caps that the job was reserved under."""
    site = make_site(tmp_path)
    row, jobs = approved(site, own("import time\ntime.sleep(1)")), Jobs(site, jail)
    key = jobs.start(row.key, row.fingerprint, task(sent(site, row, VECTOR)))["key"]
    jobs.close()
    assert site.ledger.job(key).status == "running"
    again = with_limits(site, "own_code = true", f"own_code = {'false' if lowered else 'true'}")
    jobs = Jobs(again, jail)
    assert jobs.recover() == 1
    answer = asyncio.run(jobs.wait(key, 10))
    assert (answer["status"], answer.get("code")) == (("refused", "plan.own_code") if lowered else ("done", None))
    jobs.close()
    again.close()


@pytest.mark.parametrize(("least", "zeroed"), [(1, 0), (2, 2), (3, 4), (7, 8)])
def test_items_behind_which_fewer_users_stand_leave_as_zero(least, zeroed, tmp_path, jail):
    """Train rows: films 0 to 7 have 1, 2, 3, 3, 3, 3, 2 and 1 of six users."""
    site = make_site(tmp_path, f"min_users_per_row = {least}\n")
    jobs, row = Jobs(site, jail), approved(site, recipe("popularity"))
    answer = train(site, jobs, row)
    released = decode(site.blobs.path("out", row.id, answer["passport"]["sha256"]).read_bytes())["counts"]
    assert np.count_nonzero(released == 0) == zeroed
    jobs.close()
    site.close()
