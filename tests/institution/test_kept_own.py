"""At publishing: an institution whose users the shared model serves worse keeps its own model; no answer says so."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from serving import COUNTS, serve
from small_site import approved, ended, recipe, sent, task, train

import fedrec
from fedrec import models
from fedrec.cli.main import cli
from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.core.split import split
from fedrec.errors import Refused
from fedrec.exchange.wire import decode, encode
from fedrec.institution import audit
from fedrec.institution.incoming import checked_made
from fedrec.institution.intake import take_in_folder
from fedrec.institution.jobs import Jobs
from fedrec.institution.perform import perform
from fedrec.institution.permit import Task
from fedrec.institution.personal import LEAST_USERS, compared
from fedrec.institution.published import Published, said_of
from fedrec.institution.recommending import Recommender
from fedrec.institution.store import Store
from fedrec.institution.uncompared import WORDS, Uncompared, told
from fedrec.models.base import gram

NONE = PrivateParams({})
MODELS = [models.Popularity(), models.ItemCF(), models.UserCF(), models.Ease(), models.Sequential(), models.Default()]


def walkers(users: int, step: int, seed: int, lowest: int = 0) -> Interactions:
    """Each user starts at one of ten items from `lowest` on and goes `step` of forty places on, nine times."""
    start = lowest + np.random.default_rng(seed).integers(0, 10, users)
    item = ((start[:, None] + step * np.arange(10)) % 40).astype(np.int32).ravel()
    user, time = np.repeat(np.arange(users, dtype=np.int32), 10), np.tile(np.arange(10, dtype=np.int64), users)
    return Interactions(user, item, np.ones(len(item), np.float32), time, users, 40)


def together(model, parts, protocol):
    """What all of them make of their rows under a protocol."""
    start, total = model.init(parts[0].n_items, 0), {}
    for rows in parts:
        for name, array in model.fit_site(split(rows, protocol, 0).train, start, NONE)[0].tensors.items():
            total[name] = total.get(name, 0) + array
    return model.finish(start, SharedParams(total))


@pytest.mark.parametrize("protocol", ["p1", "all"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_own_model_is_kept_where_the_others_are_of_the_opposite_kind_and_only_there(model, protocol):
    """Ours go on one place at a time; twenty times as many start elsewhere and go seven on. Control: they are as ours."""
    ours = walkers(60, 1, 0)
    opposite = together(model, [ours, walkers(1200, 7, 1, lowest=20)], protocol)
    alike = together(model, [ours] * 21, protocol)
    lost, won = (compared(model, ours, shared, protocol, 0) for shared in (opposite, alike))
    assert (lost.keep, won.keep) == (True, False)
    assert lost.ndcg[0] < lost.ndcg[1]
    alone = together(model, [ours], "all")
    for name, array in alone.tensors.items():
        np.testing.assert_array_equal(lost.own[name], array)


def test_too_few_users_and_too_little_time_are_said_and_nothing_is_compared():
    ours, few = walkers(60, 1, 0), walkers(LEAST_USERS - 1, 1, 0)
    shared = together(models.Popularity(), [ours], "p1")
    assert not compared(models.Popularity(), ours, shared, "p1", 0).keep
    for rows, seconds, word in ((few, math.inf, "few"), (ours, 0.0, "time")):
        with pytest.raises(Uncompared) as said:
            compared(models.Popularity(), rows, shared, "p1", 0, seconds)
        assert said.value.word == word


@pytest.mark.parametrize("model", [models.Ease(), models.Default()], ids=lambda model: model.name)
def test_four_thousand_items_are_compared_as_far_as_the_time_goes(model):
    """By the cube of the catalogue, and so before the first inversion: they cannot be stopped."""
    wide = replace(walkers(60, 1, 0), n_items=4000)
    began = time.monotonic()
    with pytest.raises(Uncompared, match="more than its part"):
        compared(model, wide, model.init(4000, 0), "all", 0, 0.5)
    assert time.monotonic() - began < 5.0


@pytest.mark.parametrize("model", [models.ItemCF(neighbours=20), models.Sequential()], ids=lambda model: model.name)
def test_more_than_three_thousand_items_are_compared(model):
    ours = replace(walkers(60, 1, 0), n_items=3001)
    others = replace(walkers(1200, 7, 1, lowest=20), n_items=3001)
    for rows, keep in (([ours, others], True), ([ours] * 21, False)):
        assert compared(model, ours, together(model, rows, "p1"), "p1", 0, 120.0).keep is keep


def test_a_model_with_noise_in_its_sums_is_compared_as_it_is():
    """Its validation rows cannot be taken out. It ranks backwards; the control is the same model forwards."""
    ours = walkers(60, 1, 0)
    for sign, keep in ((-1, True), (1, False)):
        noisy = together(models.Ease(), [ours] * 21, "all")
        noisy.tensors["weights"] = sign * noisy["weights"] + np.float32(0.01)
        assert compared(models.Ease(), ours, noisy, "all", 0).keep is keep


@pytest.fixture
def halves(site):
    """Sixty users who stay in one half of the catalogue; the Gram of 1600 others, of the opposite kind or alike."""
    lines = [f"u{u},film-{u % 2 * 4 + (u // 2 + step) % 4},4,{step}\n" for u in range(60) for step in range(4)]
    (site.folder / "data" / "ratings.csv").write_text("user,item,rating,timestamp\n" + "".join(lines))
    take_in_folder(site.folder)
    half = np.arange(8) // 4
    opposite = np.where(half[:, None] != half, 100, 0).astype(np.float32) + 400 * np.eye(8, dtype=np.float32)
    return {"opposite": opposite, "alike": 20 * gram(split(Store.open(site.state).rows(), "p1", 0).train)}


@pytest.mark.parametrize(("kind", "serves"), [("opposite", "own"), ("alike", "shared")])
def test_publishing_serves_what_is_better_here_says_so_inside_and_nothing_outside(kind, serves, site, halves, jail):
    now = replace(site, store=Store.open(site.state))
    jobs, model = Jobs(now, jail), models.Ease(l2=200.0)
    shared = model.finish(model.init(8, 0), SharedParams({"gram": halves[kind]})).tensors
    row = approved(now, recipe("ease"))
    train(now, jobs, row)
    answer = ended(now, jobs, row, task(sent(now, row, shared), "publish"))
    jobs.close()
    assert answer == {"status": "done", "numbers": {}, "key": answer["key"]}  # the same whatever is served
    (done,) = (e["detail"] for e in audit.read(now.audit.path) if (e["act"], e["outcome"]) == ("publish", "done"))
    assert (done["serves"], done["compared"]) == (serves, True)
    published = Published(site.state)
    assert [one["served"] for one in published.versions()] == ([False, True] if serves == "own" else [True])
    found = Recommender(site.folder).for_user("u0", 2)
    assert found.model == serves
    facts, arrays, _ = published.served()
    assert (facts["compared"]["own"] > facts["compared"]["shared"]) == (serves == "own")
    rows = now.store.rows()
    alone = model.finish(model.init(8, 0), model.fit_site(rows, model.init(8, 0), NONE)[0]).tensors
    np.testing.assert_array_equal(arrays["weights"], (alone if serves == "own" else shared)["weights"])
    listed = CliRunner().invoke(cli, ["site", "models", "list", str(site.folder)]).stdout
    assert listed.splitlines()[-1].startswith("*")
    assert ("the institution's own" in listed) == (serves == "own")
    assert "validation NDCG@10: shared 0." in listed
    published.use("1")
    assert Recommender(site.folder).for_user("u0", 2).model == "shared"


def test_the_list_of_models_says_how_far_the_lists_spread(site, halves):
    """Each user has touched four of eight films and gets the other four: every film in as many lists."""
    state = perform(recipe("popularity"), "publish", "p1", Store.open(site.state).rows(), START, {}).state
    file = site.state / "made"
    file.write_bytes(encode(state))
    made = checked_made(recipe("popularity"), file, 60, 8)
    base = site.state / "base"
    base.write_bytes(encode(START))
    now = replace(site, store=Store.open(site.state))
    row = approved(now, recipe("popularity"))
    Published(site.state).install(row, Task.parse(task("ab" * 32, "publish")), base, replace(made, own=None), now.store)
    shown = json.loads(CliRunner().invoke(cli, ["site", "models", "list", str(site.folder), "--json", "-"]).stdout)
    assert (shown["models"][0]["coverage@10"], shown["models"][0]["gini@10"]) == (1.0, 0.0)


def test_a_model_that_was_not_compared_says_so(site):
    """Six users are too few."""
    serve(site, shared=COUNTS, keeps=True)
    listed = CliRunner().invoke(cli, ["site", "models", "list", str(site.folder)]).stdout
    assert "not compared with an own one: too few users have a row to judge by" in listed
    assert Recommender(site.folder).for_user("canary-0", 2).model == "shared"


def test_the_scientist_is_told_where_the_plan_decides_that_nothing_is_compared_and_else_nothing(site, jail):
    jobs, answers = Jobs(site, jail), {}
    sums = fedrec.Plan(model=models.FeatureSums(), train=("p1",), publish=True).spec
    for plan, shared in ((sums, models.FeatureSums().init(8, 0).tensors), (recipe("popularity"), START)):
        row = approved(site, plan)
        train(site, jobs, row, shared)
        answers[plan.model["name"]] = ended(site, jobs, row, task(sent(site, row, shared), "publish"))
    jobs.close()
    assert answers["features"]["not_compared"] == "a model of this kind recommends nothing"
    assert "not_compared" not in answers["popularity"]  # six users: only the owner reads that they are too few
    found = [e["detail"] for e in audit.read(site.audit.path) if (e["act"], e["outcome"]) == ("publish", "done")]
    assert all("few" not in json.dumps(detail) and detail["compared"] is False for detail in found)
    assert len(found) == 2
    assert said_of(Published(site.state).current()).startswith("not compared with an own one: too few users")
    assert told(fedrec.Plan(model=models.MFExplicit()).spec, False) == {"not_compared": WORDS["scale"]}
    assert told(fedrec.Plan(model=models.MFExplicit()).spec, True) == {}


START = {"counts": np.zeros(8, dtype=np.float32)}
GOOD = {"ndcg": np.array([0.1, 0.2]), "own.counts": np.arange(8, dtype=np.float32)}
LISTS = np.zeros((6, 8), np.int32)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, ""),
        ({"own.counts": None, "own.lists": None}, ""),
        ({"own.lists": None}, "guard.dtype"),
        ({"own.counts": np.full(8, np.nan, np.float32)}, "guard.finite"),
        ({"own.counts": np.zeros(9, np.float32)}, "guard.shape"),
        ({"own.more": np.zeros(2)}, "guard.name"),
        ({"own.lists": LISTS + 8}, "guard.numbers"),
        ({"ndcg": np.array([0.1, 1.2])}, "guard.numbers"),
        ({"ndcg": np.array([0.1, np.nan])}, "guard.numbers"),
        ({"ndcg": np.zeros(3)}, "guard.numbers"),
        ({"more": np.zeros(2)}, "guard.name"),
        ({"why": np.array([6])}, "guard.numbers"),
        ({"why": np.array([0.5])}, "guard.numbers"),
    ],
    ids=str,
)
def test_a_model_of_its_own_is_taken_only_as_a_built_in_model_leaves_it(change, code, tmp_path):
    tensors = {"lists": LISTS, "popular": np.arange(8, dtype=np.int32), "own.lists": LISTS, **GOOD, **change}
    file = tmp_path / "state"
    file.write_bytes(encode({name: array for name, array in tensors.items() if array is not None}))
    if code:
        with pytest.raises(Refused, match=code.replace(".", r"\.")):
            checked_made(recipe("popularity"), file, 6, 8)
        return
    made = checked_made(recipe("popularity"), file, 6, 8)
    assert (made.own is None) == bool(change)
    assert set(decode(made.lists)) == {"lists", "popular"}
