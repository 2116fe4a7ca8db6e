"""At publishing a model that took many rounds: the institution trains its own for as many, and keeps it if it must."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
from small_site import approved, ended, recipe, sent, task, train

import fedrec
from fedrec import models
from fedrec.core.features import from_values
from fedrec.core.interactions import Interactions
from fedrec.core.metrics import measure
from fedrec.core.outcomes import measure as measure_outcomes
from fedrec.core.outcomes import split_users, yes
from fedrec.core.params import PrivateParams
from fedrec.core.split import split
from fedrec.examples.my_factors import MyFactors
from fedrec.exchange.wire import decode, encode
from fedrec.institution import audit, work
from fedrec.institution.incoming import checked_made
from fedrec.institution.intake import take_in_folder
from fedrec.institution.jobs import Jobs
from fedrec.institution.perform import perform
from fedrec.institution.published import Published, said_of
from fedrec.institution.recommending import Recommender
from fedrec.institution.site import Site
from fedrec.institution.uncompared import NAMES
from fedrec.simulation import SimulatedFederation

BLOCKS, STRIPES = np.arange(40) // 10, np.arange(40) % 4  # two ways to put forty films in four kinds


def tastes(users, seed, kind):
    """Each user touches six films of one kind; two kinds are rated 5, two 1."""
    rng = np.random.default_rng(seed)
    item = np.concatenate([rng.permutation(np.flatnonzero(kind == u % 4))[:6] for u in range(users)]).astype(np.int32)
    user, time = np.repeat(np.arange(users, dtype=np.int32), 6), np.tile(np.arange(6, dtype=np.int64), users)
    return Interactions(user, item, np.where(kind[item] < 2, 5.0, 1.0).astype(np.float32), time, users, 40)


OURS = tastes(80, 0, BLOCKS)
PLANS = {
    "mf": fedrec.Plan(model=models.MF(factors=8), rounds=30, train=("p1",)),
    "mf on all": fedrec.Plan(model=models.MF(factors=8), rounds=30),
    "bpr": fedrec.Plan(model=models.BPR(factors=8), rounds=30, train=("p1",)),
    "local epochs": fedrec.Plan(model=models.MF(factors=8), rounds=6, local=models.LocalEpochs(3), train=("p1",)),
    "scaffold": fedrec.Plan(
        model=models.MF(factors=8), rounds=6, local=models.LocalEpochs(3, 0.5, "sgd", scaffold=True), train=("p1",)
    ),
    "ials in blocks": fedrec.Plan(model=models.IALS(factors=8, block=4), train=("p1",)),
    "made for noise": fedrec.Plan(model=models.Private(most=40), train=("p1",)),
    "own code": fedrec.Plan(code=MyFactors, rounds=30, train=("p1",)),
    "ratings": fedrec.Plan(model=models.MFExplicit(factors=2), rounds=6, train=("p1",)),
}


def published(plan, kind, **more):
    """What the institution's jail makes of a model that it trained with three others of this kind."""
    parts = {"a": OURS} | {f"b{seed}": tastes(200, seed, kind) for seed in (1, 2, 3)}
    sites = SimulatedFederation(parts, 40)
    shared = sites.train(plan).shared
    states = next(states for key, states in sites._private.items() if key[0] == "a")
    private = states[max(states)] if states else {}
    return shared, perform(plan.spec, "publish", plan.train[0], OURS, shared.tensors, private, (1.0, 5.0), **more).state


@pytest.mark.parametrize("name", PLANS)
def test_an_institution_of_another_kind_keeps_the_own_model_and_an_ordinary_one_takes_the_shared(name, tmp_path):
    plan = PLANS[name]
    kept = {}
    for others, kind in (("opposite", STRIPES), ("alike", BLOCKS)):
        _, state = published(plan, kind)
        (tmp_path / others).write_bytes(encode(state))
        kept[others] = checked_made(plan.spec, tmp_path / others, OURS.n_users, 40)
    opposite, alike = kept["opposite"], kept["alike"]
    assert opposite.ndcg[0] < opposite.ndcg[1]
    assert alike.ndcg[1] == opposite.ndcg[1]  # the own one is the same
    assert (opposite.own is None, alike.own is None) == (False, True)
    optimiser = fedrec.core.optim.from_settings(plan.spec.aggregator)
    alone, stays = work.train_alone(plan.built, OURS, "all", plan.spec.rounds, optimiser, 0, plan.local)
    alone = plan.local.begin(alone) if plan.local else alone
    assert opposite.own[0] == encode(alone.tensors)  # of all rows
    lists = work.top_items(plan.built, OURS, alone, stays, 40)
    assert opposite.own[1] == encode({"lists": lists, "popular": decode(opposite.lists)["popular"]})


def test_what_is_compared_is_ndcg_on_validation_rows_that_neither_has_seen():
    plan = PLANS["mf"]
    shared, state = published(plan, BLOCKS)
    optimiser, parts = fedrec.core.optim.from_settings(plan.spec.aggregator), split(OURS, "validation", 0)
    alone = work.train_alone(plan.built, OURS, "p1", 30, optimiser, 0)
    by_hand = measure(work.scorer(plan.built, parts.train, *alone), parts, "validation", 0).means()["ndcg@10"]
    assert state["ndcg"][1] == pytest.approx(by_hand)
    assert shared.tensors.keys() == alone[0].tensors.keys()


def test_a_comparison_that_would_take_too_long_is_left_and_the_lists_are_there():
    plan = PLANS["mf"]
    state = published(plan, STRIPES, seconds=0.0)[1]
    assert set(state) == {"lists", "popular", "why"}
    assert NAMES[state["why"][0]] == "time"
    np.testing.assert_array_equal(state["lists"], published(plan, STRIPES)[1]["lists"])


def patients(users, seed, sign):
    """Yes is likely where the dose is high, or where it is low."""
    rng = np.random.default_rng(seed)
    dose = rng.normal(0.0, 1.0, users)
    happened = (rng.random(users) < 1 / (1 + np.exp(-4.0 * sign * dose))).astype(np.float32)
    known = from_values({"dose": dose.tolist()}, users)
    return Interactions(np.arange(users, dtype=np.int32), np.zeros(users, np.int32), happened, None, users, 1, known)


@pytest.mark.parametrize("protocol", ["p1", "all"])
def test_yes_and_no_outcomes_are_compared_by_log_loss_of_held_out_users(protocol, tmp_path):
    """Elsewhere a low dose is the danger. Control: it is as here."""
    ours, kept = patients(300, 0, 1), {}
    model = models.Logistic(columns=("user.dose",), centre=(0.0,), scale=(1.0,))
    plan = fedrec.Plan(model=model, rounds=60, train=(protocol,))
    for sign in (1, -1):
        parts = {"a": ours} | {f"b{seed}": patients(900, seed, sign) for seed in (1, 2)}
        shared = SimulatedFederation(parts, 1).train(plan).shared
        state = perform(plan.spec, "publish", protocol, ours, shared.tensors, {}).state
        (tmp_path / "made").write_bytes(encode(state))
        made = kept[sign] = checked_made(plan.spec, tmp_path / "made", 300, 1)
        held = split_users(ours, "validation", 0).held
        loss = measure_outcomes(model.probability(held, shared), yes(held)).means()["log-loss"]
        assert -np.log(made.ndcg[0]) == pytest.approx(loss)
    assert (kept[1].own is None, kept[-1].own is None) == (True, False)
    facts = {
        "compared": {"shared": np.exp(-1.25), "own": np.exp(-0.5)},
        "table": {"name": "logistic"},
        "coverage@10": None,
    }
    assert said_of(facts) == "validation log-loss: shared 1.2500, own 0.5000"


MORE = """    def fit_site(self, rows, shared, private):
        {}
"""
ALONE = """    def fit_site(self, rows, shared, private):
        if not private:
            raise ValueError("it begins anew")
"""


@pytest.mark.parametrize("asked", ["np.zeros(10**15)", "torch.zeros(10**15)"])
def test_a_comparison_without_memory_is_left_and_the_owner_reads_why(asked):
    plan = fedrec.Plan(code=MyFactors, rounds=3, train=("p1",))
    text = inspect.getsource(MyFactors).replace("    def fit_site(self, rows, shared, private):\n", MORE.format(asked))
    spec = replace(plan.spec, model={**plan.spec.model, "code": text})
    start = plan.built.init(40, 0)
    private = plan.built.fit_site(OURS, start, PrivateParams({}))[1]
    state = perform(spec, "publish", "p1", OURS, start.tensors, private.tensors).state
    assert NAMES[state["why"][0]] == "memory"


def test_own_code_that_fails_alone_leaves_the_lists_and_the_owner_reads_why():
    text = inspect.getsource(MyFactors)
    plan = fedrec.Plan(code=MyFactors, rounds=3, train=("p1",))
    bad = text.replace("    def fit_site(self, rows, shared, private):\n", ALONE)
    assert bad != text
    spec = replace(plan.spec, model={**plan.spec.model, "code": bad})
    start = plan.built.init(40, 0)
    private = plan.built.fit_site(OURS, start, PrivateParams({}))[1]
    states = [perform(each, "publish", "p1", OURS, start.tensors, private.tensors).state for each in (plan.spec, spec)]
    np.testing.assert_array_equal(states[0]["lists"], states[1]["lists"])
    assert ["why" in state for state in states] == [False, True]
    assert NAMES[states[1]["why"][0]] == "own"


def test_a_site_serves_its_own_users_by_what_it_kept_and_says_what_was_compared(site, jail):
    """Sixty users who stay in one half of the films; in the model that comes every other film is alike."""
    lines = [f"u{u},film-{u % 2 * 4 + (u // 2 + step) % 4},4,{step}\n" for u in range(60) for step in range(4)]
    (site.folder / "data" / "ratings.csv").write_text("user,item,rating,timestamp\n" + "".join(lines))
    take_in_folder(site.folder)
    now = Site.open(site.folder)
    plan = recipe("mf", rounds=20)
    row, jobs = approved(now, plan), Jobs(now, jail)
    items = models.MF(factors=4).init(8, 0).tensors
    assert train(now, jobs, row, items)["status"] == "done"
    wrong = {"items": np.tile([[9.0], [-9.0]], (4, 4)).astype(np.float32)}
    answer = ended(now, jobs, row, task(sent(now, row, wrong), "publish"))
    jobs.close()
    assert answer == {"status": "done", "numbers": {}, "key": answer["key"]}
    (done,) = (e["detail"] for e in audit.read(now.audit.path) if (e["act"], e["outcome"]) == ("publish", "done"))
    assert (done["serves"], done["compared"]) == ("own", True)
    served = Published(site.state).current()
    assert served["compared"]["own"] > served["compared"]["shared"]
    assert "validation NDCG@10: shared 0." in said_of(served)
    found = Recommender(site.folder)
    assert found.for_user("u0", 2).model == "own"
    assert found.for_items(["film-0", "film-1"], 2).items == ["film-2", "film-3"]  # folded in
