"""One round loop for every schedule: on a simulated clock, with sites that are slow, refuse or lie."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_simulation import rows, split

import fedrec
from fedrec import models
from fedrec.aggregation import Buffered, Mean, Periodic, Quorum, Sampled, Stop, Synchronous, WeightedMean
from fedrec.core.params import SharedParams
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.privacy import Privacy
from fedrec.models import LocalEpochs
from fedrec.scientist.federation import SiteRefused
from fedrec.scientist.runs import Run
from fedrec.simulation import SimulatedFederation

MF = models.MF(factors=4)


def plan(schedule=None, rounds=6, **more):
    return fedrec.Plan(model=MF, rounds=rounds, train=("p1",), schedule=schedule, **more)


def slow(**seconds):
    """Four sites; those named take so many seconds, the others one."""
    sites = split(rows(40), 4)
    return SimulatedFederation(sites._rows, sites.n_items, seconds={f"site-{n[1:]}": s for n, s in seconds.items()})


def refusing(site, rounds):
    """Four sites, of which one says no in these rounds."""

    class Refuses(SimulatedFederation):
        def run(self, task):
            if task.kind == "train" and task.number in rounds and site in task.sites:
                raise SiteRefused(site, Refused("permit.revoked", "the data owner revoked this permit", "Ask"))
            return super().run(task)

    sites = split(rows(40), 4)
    return Refuses(sites._rows, sites.n_items)


def merged(run):
    return [tuple(name.removeprefix("site-") for name in line["sites"]) for line in run.log]


def test_a_named_synchronous_schedule_is_the_default_one():
    assert slow().train(plan(Synchronous())).model_sha256 == slow().train(plan()).model_sha256


def test_two_of_four_are_drawn_each_round_and_a_resumed_run_draws_the_same(tmp_path):
    whole = slow().train(plan(Sampled(2, seed=5)))
    assert {len(names) for names in merged(whole)} == {2}
    assert len(set(merged(whole))) > 1
    sites = slow()
    run = Run.start(plan(Sampled(2, seed=5)), sites, folder=tmp_path)
    for done in run.rounds():
        if done.number == 2:
            break
    again = Run.load(sites, run.folder).finish()
    assert (again.resumed_from, again.model_sha256) == (3, whole.model_sha256)


def test_periodic_sites_take_turns_and_keep_their_private_vectors_between():
    run = slow().train(plan(Periodic(2)))
    assert merged(run) == [("0", "2"), ("1", "3")] * 3
    alone = split(rows(40), 4)
    run = alone.train(plan(Periodic(2), rounds=3))
    steps = {key[0]: max(states) for key, states in alone._private.items()}
    assert steps == {"site-0": 2, "site-1": 1, "site-2": 2, "site-3": 1}
    taken = {key[0]: int(states[max(states)]["step"][0]) for key, states in alone._private.items()}
    assert taken == {"site-0": 10, "site-1": 5, "site-2": 10, "site-3": 5}  # five steps a round


def test_every_site_is_evaluated_on_the_round_that_it_trained_last():
    run = slow().train(plan(Periodic(2), rounds=3, evaluate=True))
    table = run.evaluate()
    assert set(table["institution"]) == {"all", *slow().sites()}
    assert table[(table.scope == "federated") & (table.institution == "all")].iloc[0]["users"] == 40


def test_a_quorum_goes_on_without_a_slow_site_and_says_so():
    run = slow(s2=100.0).train(plan(Quorum(3, patience=2.0), rounds=5))
    assert [line["seconds"] for line in run.log] == [100.0, 2.0, 1.0, 1.0, 1.0]
    # round 0 measures, it waits for all; round 1 waits until its deadline; then nobody waits for the one at work
    assert merged(run) == [("0", "1", "2", "3"), *[("0", "1", "3")] * 4]


@pytest.mark.parametrize("recover", [False, True])
def test_a_secure_sum_goes_on_without_a_slow_site_and_one_that_recovers_trains_nobody_twice(recover):
    privacy = Privacy("secure", recover=recover)
    run = slow(s2=100.0).train(plan(Quorum(3, patience=2.0), rounds=4, privacy=privacy))
    assert merged(run) == [("0", "1", "2", "3"), *[("0", "1", "3")] * 3]
    again = 0.0 if recover else 1.0
    assert [line["seconds"] for line in run.log] == [100.0, 2.0 + again, 1.0, 1.0]


def test_a_late_answer_is_merged_with_less_weight_or_left_out():
    """Rounds end at 3.5, 5.5 (deadline), 6.5 and 7.5: what site 2 got at 3.5 comes back at 7, two rounds late."""
    kept = slow(s2=3.5).train(plan(Quorum(3, patience=2.0, max_staleness=2), rounds=4))
    assert merged(kept)[1:] == [("0", "1", "3"), ("0", "1", "3"), ("0", "1", "2", "3")]
    assert kept.log[3]["late"] == {"site-2": 2}
    out = slow(s2=3.5).train(plan(Quorum(3, patience=2.0, max_staleness=1), rounds=4))
    assert merged(out)[3] == ("0", "1", "3")
    assert out.log[3]["left_out"] == {"site-2": "update.late"}


def test_asynchronous_rounds_do_not_wait_for_a_slow_site_and_its_answers_count_all_the_same():
    """Three sites of 1 s fill the buffer every second; the one of 10 s is nine rounds late."""
    run = slow(s3=10.0).train(plan(Buffered(3), rounds=12))
    assert [line["seconds"] for line in run.log] == [1.0] * 12
    assert [line["late"] for line in run.log if "late" in line] == [{"site-3": 9}]
    waiting = slow(s3=10.0).train(plan(rounds=12))
    assert sum(line["seconds"] for line in waiting.log) == 120.0


def test_an_answer_that_is_too_late_is_left_out_and_the_site_starts_again():
    run = slow(s3=10.0).train(plan(Buffered(3, max_staleness=5), rounds=12))
    assert [line["left_out"] for line in run.log if "left_out" in line] == [{"site-3": "update.late"}]


def test_a_late_answer_weighs_one_over_the_root_of_its_age():
    """Parameters 3 from base 1 moved by 2; three rounds late they count 2 / sqrt(4) = 1. On time: 2."""
    from fedrec.aggregation import SiteUpdate
    from fedrec.aggregation.update import discounted

    update = SiteUpdate("a", 1.0, SharedParams({"v": np.array([2.0], np.float32)}))
    assert discounted(update, 3).tensors["v"].tolist() == [1.0]
    assert discounted(update, 0) is update


def test_the_simulated_clock_makes_asynchronous_runs_deterministic():
    one, two = (slow(s1=2.5, s3=7.0).train(plan(Buffered(2), rounds=9)) for _ in range(2))
    assert one.model_sha256 == two.model_sha256
    assert merged(one) == merged(two)


def test_a_refusal_leaves_the_site_out_where_the_quorum_holds_and_it_may_come_back():
    run = refusing("site-1", {2, 3}).train(plan(Quorum(3), rounds=6))
    assert [len(names) for names in merged(run)] == [4, 4, 3, 3, 4, 4]
    assert run.log[2]["left_out"] == {"site-1": "permit.revoked"}


def test_a_refusal_below_the_quorum_stops_cleanly_and_synchronous_rounds_need_all(tmp_path):
    for schedule in (Quorum(4), None):
        run = Run.start(plan(schedule), refusing("site-1", {2}), folder=tmp_path)
        with pytest.raises(Refused, match=r"permit\.revoked.*site-1.*2 rounds are committed"):
            run.finish()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda t: {"items": t["items"].astype(np.float64)}, "update.dtype"),
        (lambda t: {"items": t["items"][:-1]}, "update.shape"),
        (lambda t: {**t, "more": t["items"]}, "update.shape"),
        (lambda t: {}, "update.shape"),
        (lambda t: {"items": np.where(t["items"] == t["items"].max(), np.nan, t["items"])}, "update.finite"),
        (lambda t: {"items": t["items"] * np.float32(np.inf)}, "update.finite"),
        (lambda t: {"items": t["items"] * np.float32(1e6)}, "update.norm"),
    ],
)
def test_a_bad_update_is_left_out_with_its_own_code(spoil, code):
    """A site that lies after its guard; the control is the same loop with what the guard let through."""
    run = lying(lambda update: {"tensors": SharedParams(spoil(update.tensors.tensors))})
    assert run.log[0]["left_out"] == {"site-3": code}
    assert merged(run)[0] == ("0", "1", "2")
    assert "left_out" not in lying(lambda update: {}).log[0]


@pytest.mark.parametrize("weight", [float("nan"), -1.0, 1e12, 0.5, float("inf")])
def test_a_number_of_rows_that_cannot_be_true_is_left_out(weight):
    assert lying(lambda update: {"weight": weight}).log[0]["left_out"] == {"site-3": "update.weight"}


def lying(change):
    from dataclasses import replace

    class Lies(SimulatedFederation):
        def run(self, task):
            for answer in super().run(task):
                bad = answer.site == "site-3"
                yield replace(answer, update=replace(answer.update, **change(answer.update))) if bad else answer

    sites = split(rows(40), 4)
    return Lies(sites._rows, sites.n_items).train(plan(Quorum(3), rounds=1, norms={"items": 10.0}))


# when a run ends


def test_patience_ends_a_run_with_its_best_model_also_after_a_resume(tmp_path):
    """Steps far too large: validation does not get better for long, and the last model is not the best."""
    wild = plan(rounds=40, aggregator=fedrec.aggregation.Adam(lr=2.0), stop=Stop(patience=3))
    sites = slow()
    run = Run.start(wild, sites, folder=tmp_path).finish()
    qualities = [line["quality"] for line in run.log]
    best = int(np.argmax(qualities))
    assert len(run.log) == best + 4 < 40
    kept = run.log[best - 1]["model"]  # round `best` started from what round best - 1 had made
    assert run.model_sha256 == kept != run.log[-1]["model"]
    again = Run.load(sites, run.folder).finish()
    assert (again.model_sha256, len(again.log)) == (kept, len(run.log))


def test_a_small_step_ends_a_run():
    steps = [line["norm"] for line in slow().train(plan(rounds=10)).log]
    limit = sorted(steps)[3]
    first = next(number for number, step in enumerate(steps) if step < limit)
    assert len(slow().train(plan(rounds=10, stop=Stop(step=limit))).log) == first + 1 < 10


def test_qualities_leave_only_where_the_plan_says_so_and_weigh():
    """The numbers that leave stand in the plan's text; the weights are what they make of them."""
    assert all("quality" not in line for line in slow().train(plan(rounds=2)).log)
    by = plan(rounds=2, aggregator=WeightedMean("data-quality"), local=LocalEpochs())
    assert by.spec.measures == ("data-quality",)
    sites = split(rows(40), 4)
    bad = SimulatedFederation(sites._rows, sites.n_items, quality={"site-0": 0.0})
    without = SimulatedFederation({k: v for k, v in sites._rows.items() if k != "site-0"}, sites.n_items)
    mean = plan(rounds=2, aggregator=Mean(), local=LocalEpochs())
    np.testing.assert_allclose(bad.train(by).shared["items"], without.train(mean).shared["items"], atol=1e-6)
    own = plan(rounds=2, aggregator=WeightedMean("model-quality"), local=LocalEpochs())
    assert own.spec.measures == ("model-quality",)
    assert np.isfinite(slow().train(own).shared["items"]).all()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"model": models.Ease(), "local": LocalEpochs()}, "releases no gradients"),
        ({"model": models.Ease(), "schedule": Buffered()}, "releases no gradients"),
        ({"model": MF, "stop": Stop(patience=2)}, "p1 and p2 only"),
        ({"model": MF, "aggregator": WeightedMean("model-quality"), "train": ("p3",)}, "p1 and p2 only"),
    ],
)
def test_a_plan_that_would_mean_nothing_is_refused_when_it_is_made(more, says):
    with pytest.raises(WrongInput, match=says):
        fedrec.Plan(**more)


def test_a_plan_with_all_of_it_has_one_text_and_a_plain_one_none_of_it():
    full = plan(Buffered(2), local=LocalEpochs(3, proximal=0.1), stop=Stop(patience=2))
    assert fedrec.Plan.from_text(full.text).text == full.text
    assert all(f"[{title}]" in full.text for title in ("local", "schedule", "stop"))
    assert not any(f"[{title}]" in plan().text for title in ("local", "schedule", "stop"))
    assert json.dumps(full.spec.local)


def open_at(**hours):
    """Four sites whose permits are for these seconds of the simulated clock, FIRST to before LAST; others always."""

    class ByHours(SimulatedFederation):
        def calls(self, watch):
            self.line = super().calls(watch)
            return self.line

        def run(self, task):
            first, last = hours.get(task.sites[0].replace("site-", "s"), (0, float("inf")))
            if task.kind == "train" and not first <= self.line.clock() < last:
                raise SiteRefused(task.sites[0], Refused("permit.hours", "other hours", "Try again in these hours"))
            return super().run(task)

    sites = split(rows(40), 4)
    return ByHours(sites._rows, sites.n_items)


@pytest.mark.parametrize("schedule", [Periodic(1), Quorum(2), Buffered(2)], ids=repr)
def test_a_site_outside_its_hours_is_away_and_comes_back(schedule):
    run = open_at(s2=(4, 1000), s3=(0, 3)).train(plan(schedule))
    assert run.log[0]["left_out"] == {"site-2": "permit.hours"}
    last = max(line["round"] for line in run.log if "3" in str(line["sites"]))
    assert any("site-2" in line["sites"] for line in run.log[last:])
    assert len(run.log) == 6


@pytest.mark.parametrize(("schedule", "merged_first"), [(Periodic(1), ("0", "1")), (Quorum(3), ("0", "1", "2", "3"))])
def test_too_few_within_their_hours_wait_for_the_others_and_nothing_is_trained_twice(schedule, merged_first):
    """Nobody is open before second 100; Periodic then does with two, a quorum of three waits for the others too."""
    hours = {"s0": (100, 10**6), "s1": (100, 10**6), "s2": (400, 10**6), "s3": (400, 10**6)}
    sites = open_at(**hours)
    run = sites.train(plan(schedule, rounds=2))
    assert merged(run)[0] == merged_first
    steps = {key[0]: int(states[max(states)]["step"][0]) for key, states in sites._private.items()}
    assert set(steps.values()) <= {5, 10}
    assert steps["site-0"] == 10


def test_control_a_synchronous_run_does_not_do_without_a_site_outside_its_hours():
    with pytest.raises(Refused, match=r"permit\.hours"):
        open_at(s2=(4, 10)).train(plan())


def test_a_quorum_larger_than_the_consortium_is_no_round():
    with pytest.raises(Refused, match=r"update\.few"):
        slow().train(plan(Quorum(5)))
