"""Users whom no round has seen are served from their rows alone, at once, as well as the others."""

from __future__ import annotations

import time

import numpy as np
import pytest
from federating import federate, part

from fedrec import models
from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams
from fedrec.models.fold import fold_in, softmax_users

ITEM_BASED = [models.Ease(), models.Default(), models.Sequential(), models.UserCF(), models.ItemCF()]
GRADIENTS = [models.MF(factors=8), models.BPR(factors=8), models.NeuMF(factors=8)]
NONE = PrivateParams({})


def few(items: list[int], n_items: int) -> Interactions:
    """One user with these items, oldest first."""
    item = np.array(items, dtype=np.int32)
    ones = np.ones(len(item), dtype=np.float32)
    return Interactions(np.zeros_like(item), item, ones, np.arange(len(item), dtype=np.int64), 1, n_items)


@pytest.mark.parametrize("model", ITEM_BASED, ids=lambda model: model.name)
def test_a_user_alone_scores_as_among_all_and_a_new_one_in_two_milliseconds(model, ml100k):
    shared, _ = federate(model, [ml100k], "all")
    together = model.score(part(ml100k, np.arange(60)), shared, NONE)
    alone = [model.score(part(ml100k, np.array([user])), shared, NONE)[0] for user in range(60)]
    assert np.array(alone).tobytes() == np.asarray(together).tobytes()
    rows, taken = few([3, 99, 400, 7, 1200], ml100k.n_items), []
    for _ in range(30):
        began = time.perf_counter()
        scores = model.score(rows, shared, fold_in(model, rows, shared))[0]
        np.argsort(-scores, kind="stable")
        taken.append(time.perf_counter() - began)
    assert min(taken) < 0.002


def test_a_user_vector_of_softmax_mf_is_solved():
    """At the lowest point of a convex loss its slope, worked out by differences here, is zero."""
    items = np.random.default_rng(1).normal(0, 1, (12, 3))
    touched, decay = [0, 5, 7], 0.5

    def loss(u):
        z = items @ u
        return len(touched) * np.log(np.exp(z).sum()) - z[touched].sum() + decay / 2 * u @ u

    u = softmax_users(few(touched, 12), items, decay)[0]
    nudge = 1e-5 * np.eye(3)
    slope = [(loss(u + step) - loss(u - step)) / 2e-5 for step in nudge]
    assert np.abs(slope).max() < 1e-6
    assert loss(u) < loss(np.zeros(3)) - 0.1
    nobody = Interactions(*(np.zeros(0, dtype=t) for t in (np.int32, np.int32, np.float32, np.int64)), 2, 12)
    assert not softmax_users(nobody, items, decay).any()


@pytest.mark.parametrize("model", GRADIENTS, ids=lambda model: model.name)
def test_new_users_of_gradient_models_get_their_own_colour(model, checkerboard):
    """Even users touch even items. The control: the same users before they are folded in are served at random."""
    new = part(checkerboard, np.arange(60, 80))
    shared, _ = federate(model, [part(checkerboard, np.arange(60))], "all", rounds=60)

    def own_colour(scores):
        scores = np.array(scores)
        scores[new.user, new.item] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        return np.mean(best % 2 == np.arange(20)[:, None] % 2)

    assert own_colour(model.score(new, shared, fold_in(model, new, shared))) > 0.9
    assert own_colour(model.score(new, shared, NONE)) < 0.75
