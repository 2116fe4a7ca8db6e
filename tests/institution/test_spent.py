"""Noise and its booking at a site: charged before it leaves, once, over all plans, and never above a limit."""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from small_site import OWNER, Idle, approved, ended, events, make_site, recipe, sent, submitted, task

from fedrec.errors import Refused
from fedrec.exchange.accountant import epsilon_of
from fedrec.exchange.budget import cost_of_plan, cost_of_task
from fedrec.exchange.plan import Tensor
from fedrec.exchange.wire import decode
from fedrec.institution import audit, one_job
from fedrec.institution.decisions import Decisions
from fedrec.institution.evidence.reconcile import reconcile
from fedrec.institution.evidence.replay import replay
from fedrec.institution.jobs import Jobs
from fedrec.institution.limits import check_limits
from fedrec.institution.noised import noised
from fedrec.institution.permit import Task
from fedrec.institution.review import details, text_of
from fedrec.institution.site import Site
from fedrec.institution.task_files import kept_noise
from fedrec.models import Popularity

BEGIN = {"counts": np.zeros(8)}
MODEL = Popularity(clip=1.0)


def noisy(epsilon=4.0, name="noisy", **asks):
    """Popularity with an epsilon; one run on p1 unless asked otherwise."""
    asks = {"runs": 1, "evaluate": False, "publish": False, **asks}
    plan = recipe("popularity", {"clip": 1.0}, name=name, **asks)
    privacy = {"sum": "plain", "epsilon": float(epsilon), "delta": 1e-5}
    return replace(plan, leaves={"counts": Tensor.parse("float64 items")}, privacy=privacy)


def refusing(*_):
    raise Refused("guard.norm", "the norm is too large", "Send less")


def released(site, row, passport):
    return decode(site.blobs.path("out", row.id, passport["sha256"]).read_bytes())["counts"]


def test_an_update_leaves_with_noise_and_without_its_numbers_of_rows_and_users(site, jobs):
    row = approved(site, noisy())
    done = ended(site, jobs, row, task(sent(site, row, BEGIN)))
    assert done["status"] == "done", done
    facts = done["passport"]
    assert (facts["rows"], facts["users"]) == (0, 0)
    plain = approved(site, replace(noisy(name="plain"), privacy={}))
    exact = released(site, plain, ended(site, jobs, plain, task(sent(site, plain, BEGIN)))["passport"])
    found = released(site, row, facts)
    assert (found != exact).all()
    assert np.abs(found - exact).max() < 8 * 1.0812  # eight deviations


def test_a_release_is_booked_once_and_a_task_sent_again_is_free(site, jobs):
    row = approved(site, noisy())
    raw = task(sent(site, row, BEGIN))
    first = ended(site, jobs, row, raw)
    cost = cost_of_task(noisy(), MODEL, "train", 0)
    assert first["passport"]["cost"] == site.ledger.spent() == site.ledger.spent(row.id) == cost > 0
    assert ended(site, jobs, row, raw)["passport"] == first["passport"]
    assert site.ledger.spent() == cost
    (event,) = [one for one in audit.read(site.audit.path) if one["act"] == "train" and one["outcome"] == "done"]
    assert event["detail"]["cost"] == cost


def test_an_evaluation_is_booked_and_has_noise(site, jobs):
    plan = noisy(evaluate=True)
    row = approved(site, plan)
    base = sent(site, row, BEGIN)
    ended(site, jobs, row, task(base))
    before = site.ledger.spent()
    found = ended(site, jobs, row, task(sent(site, row, BEGIN), "evaluate"))
    assert set(found["numbers"]) == {"federated"}
    assert site.ledger.spent() - before == found["cost"] == cost_of_task(plan, MODEL, "evaluate", 0) > 0
    assert epsilon_of(site.ledger.spent(), 1e-5) < 4.0


def test_an_approver_may_cut_epsilon_and_the_noise_grows(site, jobs):
    row = approved(site, noisy(), epsilon=1.0)
    assert (row.signed_permit["epsilon"], row.signed_permit["delta"]) == (1.0, 1e-5)
    facts = ended(site, jobs, row, task(sent(site, row, BEGIN)))["passport"]
    assert epsilon_of(facts["cost"], 1e-5) == pytest.approx(1.0, rel=1e-3)


def test_a_round_asked_for_twice_is_refused_once_the_permits_epsilon_is_spent(site):
    """Three rounds are approved; the first one asked for three times would cost no more, a fourth is not there."""
    row = approved(site, noisy(rounds=3, runs=2), epsilon=4.0)
    most = cost_of_plan(noisy(), 4.0)
    keys = [Task("train", "r", 0, "p1", "0" * 64, f"{number:032x}") for number in range(3)]
    for one in keys[:2]:
        site.ledger.reserve(one.key(row.id), row.id, one, site.now(), site.here, most // 2)
    with pytest.raises(Refused, match=r"the permit allows epsilon 4; 4\.00 is spent") as caught:
        site.ledger.reserve(keys[2].key(row.id), row.id, keys[2], site.now(), site.here, most // 2)
    assert caught.value.code == "ledger.epsilon"
    assert site.ledger.used(row.id) == {"train": 2}


@pytest.mark.parametrize("nothing_leaves", [False, True])
@pytest.mark.parametrize(
    "change", ["", "DELETE FROM spent", "UPDATE spent SET cost=cost-1", "INSERT INTO spent VALUES ('x', 'y', 1, '')"]
)
def test_a_budget_that_was_changed_is_found_beside_the_log(site, jobs, change, nothing_leaves, monkeypatch):
    row = approved(site, noisy())
    if nothing_leaves:
        monkeypatch.setattr(one_job, "update_of", refusing)
    done = ended(site, jobs, row, task(sent(site, row, BEGIN)))
    assert done["status"] == ("refused" if nothing_leaves else "done")
    assert site.ledger.spent() > 0
    with closing(sqlite3.connect(site.folder / "state" / "ledger.sqlite")) as db, db:
        db.executescript(change)
    assert bool([one for one in reconcile(site.folder) if one.where == "budget"]) is bool(change)


def test_a_crash_between_booking_and_release_spends_once_and_releases_once(site, jail):
    row = approved(site, noisy())
    raw = task(sent(site, row, BEGIN))
    one = Task.parse(raw)
    cost = cost_of_task(noisy(), MODEL, "train", 0)
    site.ledger.reserve(one.key(row.id), row.id, one, site.now(), site.here, cost)
    site.close()  # the crash
    again = Site.open(site.folder)
    jobs = Jobs(again, jail)
    assert jobs.recover() == 1
    assert ended(again, jobs, row, raw)["passport"]["cost"] == cost
    assert again.ledger.spent() == cost
    jobs.close()


@pytest.mark.parametrize("defence", [True, False])
def test_a_job_that_a_crash_repeats_releases_the_very_numbers_of_its_first_try(defence, site, jail):
    """Two drawings for one booking would be worth twice the epsilon. Control: without what was kept there are two."""
    row = approved(site, noisy())
    raw = task(sent(site, row, BEGIN))
    key, jobs, seen = Task.parse(raw).key(row.id), Jobs(site, jail), []
    finish = site.ledger.finish
    for crash in (True, False):

        def torn(job, status, answer, now, crash=crash):
            seen.append(answer["passport"]["sha256"])
            if crash:
                raise OSError("the machine is gone")
            finish(job, status, answer, now)

        site.ledger.finish = torn
        with contextlib.suppress(OSError):
            ended(site, jobs, row, raw)
        if not defence:
            kept_noise(site.state, key).unlink(missing_ok=True)
    assert len(seen) == 2
    assert (seen[0] == seen[1]) is defence
    assert not kept_noise(site.state, key).exists()
    jobs.close()


def test_all_plans_of_all_scientists_share_the_limit_of_the_site(tmp_path, jail):
    """Two plans of epsilon 2 cost as much as one of epsilon 2.97."""
    site = make_site(tmp_path, "epsilon_limit = 2.5\n")
    jobs = Jobs(site, jail)
    first, second = approved(site, noisy(2, "one")), approved(site, noisy(2, "two"))
    base = sent(site, first, BEGIN)
    assert ended(site, jobs, first, task(base))["status"] == "done"
    with pytest.raises(Refused, match=r"allows epsilon 2\.5; 2\.00 is spent and this would make it 2\.9") as caught:
        ended(site, jobs, second, task(sent(site, second, BEGIN)))
    assert caught.value.code == "ledger.epsilon"
    assert site.ledger.used(second.id) == {}
    assert events(site)[-1] == "ledger.epsilon"
    waiting = submitted(site, noisy(2, "three"))
    with pytest.raises(Refused, match=r"allows epsilon 2\.5"):
        Decisions(site, Jobs(site, Idle())).approve(OWNER, waiting.id, {}, lambda: True)
    Decisions(site, Jobs(site, Idle())).approve(OWNER, waiting.id, {"epsilon": 1.0}, lambda: True)  # 2.3 together
    jobs.close()
    site.close()


def test_a_site_with_a_limit_takes_plans_with_an_epsilon_below_it_and_no_others(tmp_path):
    site = make_site(tmp_path, "epsilon_limit = 2.5\n")
    check_limits(noisy(2), site.config)
    for plan in (noisy(3), recipe()):
        with pytest.raises(Refused) as caught:
            check_limits(plan, site.config)
        assert caught.value.code == "plan.privacy"
    site.close()


def test_a_site_refuses_by_itself_a_plan_whose_model_bounds_nobody(site):
    with pytest.raises(Refused, match="does not bound"):
        check_limits(replace(noisy(), model={"name": "popularity", "clip": 0.0}), site.config)
    with pytest.raises(Refused, match="does not bound"):
        check_limits(replace(recipe(), privacy=noisy().privacy), site.config)


def test_a_round_with_noise_cannot_be_replayed_and_the_auditor_is_told_why(site, jobs, jail):
    row = approved(site, noisy())
    ended(site, jobs, row, task(sent(site, row, BEGIN)))
    with pytest.raises(Refused, match=r"replay\.noise: .* nobody can draw again"):
        list(replay(site.folder, "r", jail))


def test_films_of_few_users_are_not_zeroed_before_noise(tmp_path, jail):
    """Whether a film is below the threshold is itself a fact about a user."""
    site = make_site(tmp_path, "min_users_per_row = 6\n")
    jobs, row = Jobs(site, jail), approved(site, noisy(100))
    found = released(site, row, ended(site, jobs, row, task(sent(site, row, BEGIN)))["passport"])
    assert np.abs(found).min() > 0
    jobs.close()
    site.close()


def test_the_owner_reads_what_epsilon_means_what_is_spent_and_what_it_is_for_a_customer_of_all(site):
    row = approved(site, noisy(), epsilon=2.0)
    shown = details(row, {}, site.now(), 8, site.config.limits, None, institutions=4, spent=cost_of_plan(noisy(1)))
    text = text_of(shown)
    assert "epsilon 2 with delta 1e-05, for all that this plan releases here about one person's rows" in text
    assert "change his odds on whether they are in by a factor of 7.39" in text  # e^2
    assert "for a customer of all 4 institutions it is epsilon" in text
    assert "all plans together have spent epsilon 1 here" in text
    assert "how many rows and users stand behind an update does not leave" in text
    assert "epsilon 2 in all its releases, delta 1e-05" in text


def test_noise_is_added_to_what_the_model_bounds(site):
    """The bound is the model's clip; nowhere can it be set by hand."""
    assert MODEL.sensitivity(0) == {"counts": 1.0}
    assert Popularity(clip=3.0).sensitivity(0) == {"counts": 3.0}
    loud = noised({"counts": np.zeros(5000)}, Popularity(clip=3.0).sensitivity(0), 10**12)["counts"]
    assert loud.std() == pytest.approx(3.0, rel=0.05)
