"""What a scientist sees and steers, on running sites: attach, a search, contributions, refusals told, copied folders."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace

import pytest
from real_sites import ADA_PASSWORD, approved, events, fresh, simulated

import fedrec
from fedrec.demo.sites import SCIENTIST
from fedrec.errors import Refused, WrongInput
from fedrec.scientist.datasites import Datasites
from fedrec.scientist.runs import Run

pytestmark = pytest.mark.sites


def test_what_each_institution_adds_is_told_exactly_as_in_the_simulation(federation, owners, sites):
    plan = fresh(validate=5)
    approved(federation, owners, plan)
    found = federation.train(plan, on_round=lambda *_: None).contributions()
    assert found.to_dict() == simulated(sites).train(plan).contributions().to_dict()
    assert len(found) == 4


def test_settings_are_chosen_from_one_release_as_in_the_simulation(federation, owners, sites):
    base = fresh(fedrec.models.ItemCF())
    grid = {"exponent": [0.3, 0.6], "neighbours": [20, 80]}
    asked = replace(base, search={name: list(values) for name, values in grid.items()}, validate=4)
    approved(federation, owners, asked)  # the owners read what is tried; the search finds their decision there
    found = federation.search(base, grid, wait=30)
    same = simulated(sites).search(base, grid)
    assert found.table.to_dict() == same.table.to_dict()
    assert (found.settings, found.run.model_sha256) == (same.settings, same.run.model_sha256)
    assert (found.cost["plans"], found.cost["train"], found.cost["validate"]) == (1, 1, 4)
    with pytest.raises(Refused, match=r"permit\.rounds: .*all 4 evaluate tasks"):
        found.run.validate(base.built.init(federation.n_items, 0))  # a fifth model; one of the four is answered again
    assert found.run.validate()["ndcg@10"].iloc[-1] == found.table["ndcg@10"].max()


def test_a_later_program_finds_the_waiting_requests_and_then_the_run(federation, owners, sites, tmp_path):
    """Attached by the plan while owners decide; by the run's name after its program is gone."""
    names = ("aurora", "delphi")
    plan = fresh(fedrec.models.MF(factors=8), rounds=3, sites=names)
    first = federation.submit(plan)
    assert set(first.ids) == set(names)
    later = fedrec.connect(sites.consortium, SCIENTIST, ADA_PASSWORD)
    requests = later.attach(plan.fingerprint[:12])
    assert (requests.ids, requests.plan.text) == (first.ids, plan.text)
    assert set(requests.status()["status"]) == {"waiting"}
    with pytest.raises(WrongInput, match="no plan of yours"):
        later.attach("0000000000000000")
    for name, request in requests.ids.items():
        owners[name].approve(request)
    assert set(requests.wait(30)["site"]) == set(names)
    run, states = Run.start(requests.plan, later, folder=tmp_path), []
    next(run.rounds())
    again = federation.attach(run.id, tmp_path)
    again.resume(on_state=states.append)
    whole = simulated(sites).train(plan)
    assert (again.resumed_from, again.sites) == (1, names)
    assert again.model_sha256 == whole.model_sha256
    for name in names:
        seen = [one.state for one in states if (one.site, one.number) == (name, 1)]
        assert seen[0] == "sending"
        assert seen[-2:] == ["uploading", "done"]
    goes_on = replace(plan, start_from=again, purpose=f"{plan.purpose} on")
    approved_on = federation.submit(goes_on)
    for name, request in approved_on.ids.items():
        owners[name].approve(request)
    wrong = Run.start(goes_on, federation)
    wrong.now = replace(wrong.now, shared=goes_on.built.init(federation.n_items, 3))
    with pytest.raises(Refused, match=r"task\.start"):
        wrong.finish()
    assert len(federation.train(goes_on, on_round=lambda *_: None).log) == 3


def test_an_update_that_the_centre_refuses_is_in_the_owners_log(federation, owners, sites):
    """The site's word about its rows is spoiled on the way; the other three make the round."""
    plan = fresh(fedrec.models.MF(factors=8), rounds=2, schedule=fedrec.aggregation.Quorum(3))
    approved(federation, owners, plan)

    class Spoils(Datasites):
        def _one(self, name, *rest):
            answer = super()._one(name, *rest)
            return replace(answer, update=replace(answer.update, weight=-1.0)) if name == "delphi" else answer

    spoils = Spoils(federation.config, federation._sites)
    told = []
    run = spoils.train(plan, on_round=lambda *_: None, on_refusal=told.append)
    spoils._pool.shutdown()
    assert [(one.site, one.why.code) for one in told] == [("delphi", "update.weight")] * 2
    assert [line["left_out"] for line in run.log] == [{"delphi": "update.weight"}] * 2
    site = sites.all["delphi"]
    noted = [one for one in events(site, act="left-out", run=run.id) if one["outcome"] == "done"]
    assert {(one["actor"], one["round"], one["detail"]["code"]) for one in noted} == {
        (SCIENTIST, number, "update.weight") for number in (0, 1)
    }
    assert not events(sites.all["aurora"], act="left-out", run=run.id)


def test_two_programs_on_copies_of_one_folder_pay_each_round_once_and_make_one_model(solo, alone, its_owner, tmp_path):
    """No lock is between them: at the site the same task is the same job. Whoever falls behind is told so."""
    plan = fresh(fedrec.models.MF(factors=4), rounds=5)
    requests = approved(alone, its_owner, plan)
    run = Run.start(plan, alone, folder=tmp_path)
    next(run.rounds())
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    other, found = fedrec.connect(solo.consortium, SCIENTIST, ADA_PASSWORD), {}
    barrier = threading.Barrier(2)

    def drive(federation, folder):
        barrier.wait()
        try:
            found[folder] = Run.load(federation, folder).resume().model_sha256
        except Refused as refusal:
            found[folder] = refusal.code

    threads = [threading.Thread(target=drive, args=given) for given in ((alone, run.folder), (other, copy))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = simulated(solo).train(plan).model_sha256
    assert whole in found.values()
    assert set(found.values()) <= {whole, "update.gone"}, found
    assert list(requests.status()["status"]) == ["used"]  # five tasks for five rounds: a sixth would be refused
    jobs = [one for one in events(solo.all["solo"], act="train", run=run.id) if one["outcome"] == "done"]
    assert sorted(one["round"] for one in jobs) == [0, 1, 2, 3, 4]
