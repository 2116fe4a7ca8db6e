"""The secure sum over four real datasites: the plain model, and a centre that saw nothing but noise and the sum."""

from __future__ import annotations

import json

import numpy as np
import pytest
import real_sites
from real_sites import approved, command, files_with, fresh

import fedrec
from fedrec.aggregation import Quorum
from fedrec.errors import Refused
from fedrec.exchange.privacy import Privacy
from fedrec.exchange.wire import decode
from fedrec.institution import audit
from fedrec.scientist.datasites import Datasites
from fedrec.scientist.federation import SiteRefused

pytestmark = pytest.mark.sites
SECURE = Privacy("secure")


@pytest.fixture(scope="module")
def simulated(sites):
    return real_sites.simulated(sites)


def test_ease_is_the_plain_model_to_the_bit_and_no_update_that_left_can_be_read(federation, owners, simulated, sites):
    secret, plain = (fresh(fedrec.models.Ease(l2=200.0), privacy=privacy) for privacy in (SECURE, None))
    requests = approved(federation, owners, secret)
    run = federation.train(secret)
    assert run.model_sha256 == simulated.train(plain).model_sha256
    assert run.log[0]["weights"] == {}
    for name, sha in run.log[0]["updates"].items():
        file = sites.all[name].folder / "state" / "blobs" / "out" / requests.ids[name] / sha
        left = decode(file.read_bytes())["gram"]
        assert abs(np.unpackbits(left.view(np.uint8)).mean() - 0.5) < 0.001  # a Gram is nearly all zeros
    done = command("audit", "replay", sites.all["aurora"].folder, "--run", run.id, "--json", "-")
    assert done.returncode == 0, done.stderr
    assert [task["same"] for task in json.loads(done.stdout)["tasks"]] == [True]


def test_a_gradient_model_is_the_simulated_one_to_the_bit(federation, owners, simulated):
    plan = fresh(fedrec.models.MF(factors=8), rounds=3, privacy=SECURE)
    approved(federation, owners, plan)
    real, same = federation.train(plan), simulated.train(plan)
    assert [line["model"] for line in real.log] == [line["model"] for line in same.log]
    open_ = simulated.train(fresh(fedrec.models.MF(factors=8), rounds=3))
    np.testing.assert_allclose(real.shared["items"], open_.shared["items"], rtol=0, atol=1e-5)


def test_a_round_is_done_again_without_a_site_that_was_lost_in_it(federation, owners, simulated, sites):
    plan = fresh(fedrec.models.MF(factors=8), rounds=2, privacy=SECURE, schedule=Quorum(3), seed=7)  # another start
    approved(federation, owners, plan)
    owners["aurora"].pause("a test")
    try:
        run = federation.train(plan)
    finally:
        owners["aurora"].resume()
    others = list(federation.sites())[1:]
    assert [line["sites"] for line in run.log] == [others] * 2
    assert run.log[0]["left_out"] == {"aurora": "permit.paused"}
    assert run.model_sha256 == simulated.train(plan, sites=others).model_sha256


def test_a_site_lost_between_its_answer_and_its_release_stops_the_round_and_it_is_resumed(
    federation, owners, simulated, monkeypatch
):
    plan = fresh(fedrec.models.MF(factors=8), rounds=2, privacy=SECURE)
    approved(federation, owners, plan)
    fetch, lost = Datasites.fetch, []

    def once(self, answer):
        if answer.site == "aurora" and not lost:
            lost.append(answer)
            raise Refused("site.lost", "aurora does not answer", "Resume")
        return fetch(self, answer)

    monkeypatch.setattr(Datasites, "fetch", once)
    run = fedrec.scientist.runs.Run.start(plan, federation)
    with pytest.raises(Refused) as refused:
        run.finish()
    assert refused.value.code == "site.lost"
    assert run.log == []
    assert run.resume().model_sha256 == simulated.train(plan).model_sha256


RECOVERING = Privacy("secure", recover=True)


def lost_when(monkeypatch, call, met):
    """A method of Datasites that loses sites: `met` says when, from the answer and the rest."""
    whole = getattr(Datasites, call)

    def lossy(self, answer, *rest):
        if met(answer, *rest):
            raise SiteRefused(answer.site, Refused("site.lost", "it does not answer", "Resume"))
        return whole(self, answer, *rest)

    monkeypatch.setattr(Datasites, call, lossy)


def trained(sites, run):
    """How often each institution has trained in a run."""
    acts = {name: audit.read(site.folder, "train") for name, site in sites.all.items()}
    return {name: sum(e["run"] == run and e["outcome"] == "intent" for e in found) for name, found in acts.items()}


@pytest.mark.parametrize(
    "when", ["before it answers", "before its update is fetched", "before it signs", "before it tells"]
)
def test_a_doubly_masked_round_ends_without_a_lost_site_and_is_not_done_again(
    when, federation, owners, simulated, sites, monkeypatch
):
    """Once its update is there it counts, whatever happens to it then; before, the sum is over the others."""
    seed = 20 + len(when)
    plan = fresh(fedrec.models.MF(factors=8), rounds=2, privacy=RECOVERING, schedule=Quorum(3), seed=seed)
    approved(federation, owners, plan)
    names = list(federation.sites())
    if when == "before its update is fetched":
        lost_when(monkeypatch, "fetch", lambda answer: answer.site == names[0])
    elif when != "before it answers":
        tells = when == "before it tells"
        lost_when(
            monkeypatch,
            "ask_about",
            lambda answer, _, wish: answer.site == names[0] and (b"signatures" in wish) == tells,
        )
    if when == "before it answers":
        owners[names[0]].pause("a test")
    try:
        run = federation.train(plan)
    finally:
        if when == "before it answers":
            owners[names[0]].resume()
    there = names[1:] if when in ("before it answers", "before its update is fetched") else names
    assert [line["sites"] for line in run.log] == [there] * 2
    single = fresh(fedrec.models.MF(factors=8), rounds=2, privacy=SECURE, schedule=Quorum(3), seed=seed)
    assert run.model_sha256 == simulated.train(single, sites=there).model_sha256
    assert trained(sites, run.id) == dict.fromkeys(names, 2) | ({names[0]: 0} if when == "before it answers" else {})
    for name in names[1:]:
        acts = [
            e["detail"]
            for e in audit.read(sites.all[name].folder, "unmask")
            if e["run"] == run.id and e["of"] and e["detail"]["step"] != "look"
        ]
        assert [(act["step"], act["among"]) for act in acts] == [
            (step, " ".join(there)) for _ in "01" for step in ("sign", "tell")
        ]


def test_a_driver_that_ends_between_the_signatures_and_the_masks_goes_on_with_what_was_signed(
    federation, owners, simulated, monkeypatch
):
    plan = fresh(fedrec.models.MF(factors=8), rounds=2, privacy=RECOVERING, seed=40)
    approved(federation, owners, plan)
    names, broken = list(federation.sites()), [True]
    lost_when(monkeypatch, "fetch", lambda answer: broken[0] and answer.site == names[0])
    lost_when(monkeypatch, "ask_about", lambda _, __, wish: broken[0] and b"signatures" in wish)
    run = fedrec.scientist.runs.Run.start(plan, federation)
    with pytest.raises(Refused) as refused:
        run.finish()
    assert (refused.value.code, run.log) == ("site.lost", [])
    broken.clear()
    broken.append(False)
    run.resume()
    assert [line["sites"] for line in run.log] == [names[1:], names]  # the first set was signed without it


def test_two_of_four_are_too_few_and_the_run_is_resumed(federation, owners, simulated, monkeypatch):
    plan = fresh(fedrec.models.MF(factors=8), rounds=1, privacy=RECOVERING, seed=41)
    approved(federation, owners, plan)
    names, broken = list(federation.sites()), [True]
    lost_when(monkeypatch, "fetch", lambda answer: broken[0] and answer.site in names[:2])
    run = fedrec.scientist.runs.Run.start(plan, federation)
    with pytest.raises(Refused) as refused:
        run.finish()
    assert (refused.value.code, run.log) == ("site.lost", [])
    broken[0] = False
    whole = fresh(fedrec.models.MF(factors=8), rounds=1, privacy=SECURE, seed=41)
    assert run.resume().model_sha256 == simulated.train(whole).model_sha256


def test_a_statistic_is_recovered_and_equal_to_the_bit(federation, owners, simulated, sites):
    secret = fresh(fedrec.models.Ease(l2=210.0), privacy=RECOVERING)
    approved(federation, owners, secret)
    run = federation.train(secret)
    assert run.model_sha256 == simulated.train(secret).model_sha256
    done = command("audit", "reconcile", sites.all["aurora"].folder)
    assert done.returncode == 0, done.stdout


def test_no_file_of_the_scientist_has_what_an_institution_sent(federation, owners, tmp_path):
    """The run's folder: the plan's own numbers are there, no weight, row count or update of a single site."""
    plan = fresh(fedrec.models.Ease(l2=200.0), privacy=SECURE)
    approved(federation, owners, plan)
    run = federation.train(plan, folder=tmp_path)
    assert run.folder is not None
    line = json.loads((run.folder / "rounds.jsonl").read_text())
    assert line["weights"] == {}
    assert "measures" not in line
    assert not files_with(tmp_path, [b'"rows":', b'"users":'])
