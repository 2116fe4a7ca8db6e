"""Beside a shared model with noise an institution keeps its own exact one, at a weight that its own users choose."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from serving import serve
from small_site import recipe

from fedrec.core.interactions import Interactions
from fedrec.core.optim import Plain
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.core.split import split
from fedrec.exchange.plan import Tensor
from fedrec.institution import work
from fedrec.institution.audit import read
from fedrec.institution.blending import UNKNOWN, WEIGHTS, blended
from fedrec.institution.intake import take_in_folder
from fedrec.institution.personalise import personalise
from fedrec.institution.published import Published
from fedrec.institution.recommending import Recommender
from fedrec.institution.store import Store
from fedrec.models import Default, Private
from fedrec.models.base import standard

NONE, MODEL, OWN = PrivateParams({}), Private(most=40), Default(l2=5.0)


def walkers(users: int, step: int, seed: int) -> Interactions:
    """Each user goes from a random item `step` of forty places on, nine times."""
    start = np.random.default_rng(seed).integers(0, 40, users)
    item = ((start[:, None] + step * np.arange(10)) % 40).astype(np.int32).ravel()
    user, time = np.repeat(np.arange(users, dtype=np.int32), 10), np.tile(np.arange(10, dtype=np.int64), users)
    return Interactions(user, item, np.ones(len(item), np.float32), time, users, 40)


def trained(*sites: Interactions, noise: float = 0.0) -> SharedParams:
    shared, random = MODEL.init(40, 0), np.random.default_rng(0)
    for number, _ in enumerate(("counts", "pairs")):
        parts = [MODEL.fit_site(split(rows, "p1", 0).train, shared, NONE)[0].tensors for rows in sites]
        total = {name: sum(part[name] for part in parts) for name in parts[0]}
        for name, most in MODEL.sensitivity(number).items():
            total[name] = (total[name] + random.normal(0, noise * most, total[name].shape)).astype(np.float32)
        shared = MODEL.finish(shared, SharedParams(total))
    return shared


def test_a_model_drowned_in_noise_gets_no_weight_and_a_good_one_for_few_users_does():
    """Six users know little alone; 2,000 others of their kind know much, unless noise hides it."""
    few, others = walkers(6, 3, 1), walkers(2000, 3, 2)
    good, noisy = (blended(MODEL, OWN, few, trained(few, others, noise=n), "p1") for n in (0.0, 1000.0))
    assert noisy.weight == 0.0
    assert good.weight > 0.0
    assert good.ndcg[good.weight] == max(good.ndcg.values())


def test_the_ends_are_the_two_models_on_validation_rows():
    rows = walkers(60, 3, 1)
    shared = trained(rows, walkers(300, 7, 2))
    found = blended(MODEL, OWN, rows, shared, "all")
    alone = work.train_alone(OWN, rows, "validation", 1, Plain(), 0)[0]
    assert tuple(found.ndcg) == WEIGHTS
    assert found.ndcg[1.0] == pytest.approx(work.validated(MODEL, rows, shared, NONE, 0))
    assert found.ndcg[0.0] == pytest.approx(work.validated(OWN, rows, alone, NONE, 0))


def test_without_validation_rows_both_weigh_the_same():
    rows = walkers(5, 3, 1)
    first = np.flatnonzero(np.append(True, rows.user[1:] != rows.user[:-1]))
    assert blended(MODEL, OWN, rows.take(first), MODEL.init(40, 0), "all").weight == UNKNOWN == 0.5


@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_served_blend_scores_as_both_together(weight):
    rows = walkers(60, 3, 1)
    shared = trained(rows)
    found = replace(blended(MODEL, Default(), rows, shared, "all"), weight=weight)
    own, given = Default().score(rows, found.own, NONE), MODEL.score(rows, shared, NONE)
    by_hand = (1 - weight) * standard(own) + weight * standard(given)
    np.testing.assert_allclose(MODEL.score(rows, found.served(shared), NONE), by_hand)


def test_at_the_site_the_blend_is_kept_and_served_and_the_log_does_not_tell_the_weight(site):
    lines = [f"u{user},film-{(user + step) % 8},4,{step}\n" for user in range(60) for step in range(5)]
    (site.folder / "data" / "ratings.csv").write_text("user,item,rating,timestamp\n" + "".join(lines))
    take_in_folder(site.folder)
    now = replace(site, store=Store.open(site.state))
    declared = {name: Tensor.parse(text) for name, text in Private(most=8).leaves().items()}
    plan = replace(recipe(), name="private", model={"name": "private", "most": 8}, leaves=declared, rounds=2)
    rows, shared = now.store.rows(), Private(most=8).init(8, 0)
    for _ in range(2):
        shared = Private(most=8).finish(shared, Private(most=8).fit_site(rows, shared, NONE)[0])
    serve(now, shared=shared.tensors, plan=plan, protocol="all")
    answer, published = personalise(site.folder), Published(site.state)
    published.use(str(answer["number"]))
    assert answer["weight"] in WEIGHTS
    assert published.current()["personal"] == f"shared weighs {answer['weight']:g}"
    served = Recommender(site.folder)
    assert served.for_user("u0", 3).how == "list"
    assert served.for_items(["film-1", "film-2"], 3).how == "folded"
    done = [event["detail"] for event in read(site.folder, "personalise") if event["outcome"] == "done"]
    assert done == [{"verdict": "weighed", "number": 2}]
    assert "weighs" not in json.dumps(list(read(site.folder, "personalise")))
