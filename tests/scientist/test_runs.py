"""Runs: after a crash at any point the same model, to the last bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import fedrec
from fedrec import models
from fedrec.core.interactions import Interactions
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.wire import decode, digest
from fedrec.scientist.driver import begin, train
from fedrec.scientist.runs import Run
from fedrec.simulation import SimulatedFederation

PLAN = fedrec.Plan(model=models.MF(factors=4), rounds=5, train=("p1",), evaluate=True)


def federation():
    rng = np.random.default_rng(3)
    found = {}
    for site, users in (("a", 4), ("b", 7)):
        item = np.concatenate([rng.permutation(12)[:6] for _ in range(users)]).astype(np.int32)
        user = np.repeat(np.arange(users, dtype=np.int32), 6)
        found[site] = Interactions(
            user, item, np.ones(len(item), np.float32), np.arange(len(item), dtype=np.int64), users, 12
        )
    return SimulatedFederation(found, 12)


class Crash(BaseException):
    """The scientist's process ends here."""


def expected():
    """The uninterrupted run: model, and the model after each round."""
    run = Run.start(PLAN, federation()).finish()
    return run.model_sha256, [line["model"] for line in run.log]


def started(sites, folder, rounds):
    """A run that ended after so many committed rounds."""
    run = Run.start(PLAN, sites, folder=folder)
    for done in run.rounds():
        if done.number == rounds - 1:
            break
    return run.folder


def finished(sites, folder):
    run = Run.load(sites, folder)
    return run.finish()


def agrees(run, folder):
    sha, rounds = expected()
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert run.model_sha256 == sha
    assert [line["round"] for line in run.log] == [line["round"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["model"] for line in lines] == rounds
    assert digest(decode((folder / "model.safetensors").read_bytes())) == sha
    assert sha in (folder / "card.md").read_text()


@pytest.mark.parametrize("rounds", [1, 2, 4, 5])
def test_a_run_stopped_after_a_committed_round_ends_in_the_same_model(tmp_path, rounds):
    sites = federation()
    folder = started(sites, tmp_path, rounds)
    run = finished(sites, folder)
    assert run.resumed_from == rounds
    agrees(run, folder)


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize(
    "lost", ["checkpoint", "half a line", "line and checkpoint", "torn new checkpoint", "pruning", "card and model"]
)
def test_a_crash_inside_a_commit_ends_in_the_same_model(tmp_path, rounds, lost):
    sites = federation()
    folder = started(sites, tmp_path, rounds)
    log, checkpoint = folder / "rounds.jsonl", folder / "checkpoints" / f"{rounds:06d}.safetensors"
    lines = log.read_text().splitlines(keepends=True)
    if lost == "line and checkpoint":  # before both
        log.write_text("".join(lines[:-1]))
    if lost == "half a line":
        log.write_text("".join(lines)[:-20])
    if lost in ("checkpoint", "half a line", "line and checkpoint"):  # the line comes first
        checkpoint.unlink()
    if lost == "torn new checkpoint":  # inside the writing of the next checkpoint
        (checkpoint.parent / f".{rounds + 1:06d}.safetensors").write_bytes(checkpoint.read_bytes()[:100])
    if lost == "pruning":  # after the line, before older checkpoints were deleted
        shutil.copy(checkpoint, checkpoint.with_name("000000.safetensors"))
    again = finished(sites, folder)
    agrees(again, folder)
    assert len(list(folder.glob("checkpoints/[0-9]*"))) == 2
    third = finished(sites, folder)  # and once more: what was repaired stays readable
    assert (third.resumed_from, third.model_sha256) == (5, expected()[0])


def test_two_crashes_in_one_run_end_in_the_same_model(tmp_path):
    sites = federation()
    folder = started(sites, tmp_path, 2)
    log = folder / "rounds.jsonl"
    log.write_text(log.read_text() + '{"round": 2, "si')
    second = Run.load(sites, folder)
    next(iter(second.rounds()))
    log.write_text(log.read_text() + '{"round": 3, "si')
    run = finished(sites, folder)
    assert run.resumed_from == 3
    agrees(run, folder)


def test_a_second_driver_of_one_folder_is_refused_and_goes_on_once_the_first_has_ended(tmp_path):
    sites = federation()
    first = Run.start(PLAN, sites, folder=tmp_path)
    rounds = first.rounds()
    next(rounds)
    second = Run.load(sites, first.folder)
    with pytest.raises(Refused, match=rf"run\.busy: .*process {os.getpid()}"):
        second.finish()
    next(rounds)
    rounds.close()
    agrees(second.resume(), first.folder)  # from where the first one stood, not from where it was read
    assert second.resumed_from == 2


def test_the_lock_goes_with_its_process_however_it_ends(tmp_path):
    sites = federation()
    run = Run.start(PLAN, sites, folder=tmp_path)
    code = (
        "import os, signal, sys; from pathlib import Path; from fedrec.scientist.folder import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code, run.folder], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Refused, match=rf"run\.busy: .*process {other.pid}"):
            run.finish()
        other.kill()
    agrees(run.finish(), run.folder)


def test_a_torn_first_checkpoint_starts_the_run_from_its_beginning(tmp_path):
    sites = federation()
    run = Run.start(PLAN, sites, folder=tmp_path)
    (run.folder / "checkpoints" / ".000001.safetensors").write_bytes(b"torn")
    again = finished(sites, run.folder)
    assert again.resumed_from == 0
    agrees(again, run.folder)


@pytest.mark.parametrize("at", range(5))
def test_a_crash_after_the_sites_trained_and_before_the_centre_merged_counts_no_round_twice(tmp_path, at):
    """The sites have moved on, the centre has not: asked again, they start from the round before."""
    sites, plain = federation(), federation()

    class Dies(SimulatedFederation):
        def run(self, task):
            answers = super().run(task)
            if task.number == at and not getattr(self, "dead", False):
                self.dead = True
                raise Crash
            return answers

    dying = Dies(sites._rows, 12)
    run = Run.start(PLAN, dying, folder=tmp_path)
    with pytest.raises(Crash):
        run.finish()
    again = finished(dying, run.folder)
    assert again.resumed_from == at
    agrees(again, run.folder)
    assert plain.sites() == ("a", "b")


def test_a_refusal_in_the_middle_says_where_the_run_stands_and_keeps_it(tmp_path):
    class Refuses(SimulatedFederation):
        no = True

        def run(self, task):
            if task.number == 3 and self.no:
                raise Refused("permit.revoked", "b: the data owner revoked this permit", "Talk to the owner")
            return super().run(task)

    sites = Refuses(federation()._rows, 12)
    run = Run.start(PLAN, sites, folder=tmp_path)
    with pytest.raises(
        Refused, match=r"permit\.revoked: b: .*round 3 of 5; 3 rounds are committed.*--resume"
    ) as caught:
        run.finish()
    assert caught.value.code == "permit.revoked"
    sites.no = False
    agrees(finished(sites, run.folder), run.folder)


def test_a_folder_without_a_run_or_with_another_plan_is_refused(tmp_path):
    with pytest.raises(WrongInput, match="holds no run"):
        Run.load(federation(), tmp_path)
    (tmp_path / "run.json").write_text('{"run":')
    with pytest.raises(WrongInput, match="holds no run"):
        Run.load(federation(), tmp_path)
    folder = started(federation(), tmp_path, 1)
    (folder / "plan.toml").write_text(fedrec.Plan(model=models.MF(factors=5), rounds=5, train=("p1",)).text)
    with pytest.raises(WrongInput, match="not the plan"):
        Run.load(federation(), folder)
    (folder / "plan.toml").unlink()
    with pytest.raises(WrongInput, match="holds no run"):
        Run.load(federation(), folder)


def test_a_protocol_must_be_one_of_the_plans():
    several = fedrec.Plan(model=models.Popularity(), train=("p1", "p3"))
    with pytest.raises(WrongInput, match="name one as protocol"):
        Run.start(several, federation())
    with pytest.raises(WrongInput, match="name one as protocol"):
        Run.start(several, federation(), protocol="p2")
    assert Run.start(several, federation(), protocol="p3").protocol == "p3"
    assert Run.start(several, federation(), protocol="p1").id != Run.start(several, federation(), protocol="p1").id


def test_the_evaluation_is_the_mean_over_all_users_not_over_sites():
    run = Run.start(PLAN, federation()).finish()
    table = run.evaluate().set_index(["scope", "institution"])
    assert set(table.index.get_level_values("institution")) == {"a", "b", "all"}
    a, b, both = (table.loc[("federated", name)] for name in ("a", "b", "all"))
    assert (a["users"], b["users"], both["users"]) == (4, 7, 11)
    for measure in ("hr@10", "ndcg@10", "recall@20"):
        assert both[measure] == pytest.approx((4 * a[measure] + 7 * b[measure]) / 11, abs=1e-12)


# the driver


def test_the_loop_yields_committed_values_and_starts_anywhere():
    sites = federation()
    first = list(train(PLAN, sites, "r", "p1", sites.sites(), begin(PLAN, sites)))
    assert [done.number for done in first] == [0, 1, 2, 3, 4]
    assert [done.after.number for done in first] == [1, 2, 3, 4, 5]
    assert {done.sites for done in first} == {("a", "b")}
    rest = list(train(PLAN, sites, "r", "p1", sites.sites(), first[3].after))
    assert [done.number for done in rest] == [4]
    assert digest(rest[-1].after.shared.tensors) == digest(first[-1].after.shared.tensors)
    assert list(train(PLAN, sites, "r", "p1", sites.sites(), first[-1].after)) == []


def test_without_any_site_that_may_run_nothing_starts():
    class Nobody(SimulatedFederation):
        def ready(self, plan):
            return ()

    sites = Nobody(federation()._rows, 12)
    with pytest.raises(Refused, match=r"permit\.missing.*no institution has approved"):
        Run.start(PLAN, sites).finish()


def test_a_task_has_one_message_however_often_it_is_made():
    sites = federation()
    seen = []

    class Listens(SimulatedFederation):
        def run(self, task):
            seen.append((task.message(), task.message()))
            return super().run(task)

    Run.start(PLAN, Listens(sites._rows, 12)).finish()
    assert all(one == two for one, two in seen)
    assert len({one["nonce"] for one, _ in seen}) == 5


def test_a_run_goes_on_with_the_sites_that_it_was_started_with(tmp_path):
    """The permit of a site whose last round was reserved but not committed counts as used: resume asks it all the same."""
    sites = federation()
    run = Run.start(PLAN, sites, folder=tmp_path)
    next(run.rounds())

    class Used(SimulatedFederation):
        def ready(self, plan):
            return self.sites()[:1]

    again = Used(sites._rows, 12)
    again._private = sites._private
    resumed = Run.load(again, run.folder)
    assert resumed.sites == ("a", "b")
    assert resumed.finish().model_sha256 == Run.start(PLAN, federation()).finish().model_sha256
