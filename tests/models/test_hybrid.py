"""Features carry the model to items and users that nobody has seen; the control has the features shuffled."""

from dataclasses import replace

import numpy as np
import pytest
from federating import federate

from fedrec import models
from fedrec.core.features import from_values
from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams
from fedrec.simulation import SimulatedFederation, pooled

GENRES, USERS, ITEMS, COLD = 4, 240, 80, 16
COLUMNS = tuple(f"item.genre={g}" for g in range(GENRES)) + tuple(f"user.town={g}" for g in range(GENRES))


def readers(sites=4, seed=0, lie=False):
    """Every town likes one genre. The last 16 items and each institution's last 6 users have no rows at all."""
    rng = np.random.default_rng(seed)
    genre, k = np.arange(ITEMS) % GENRES, USERS // sites
    told = rng.permutation(genre) if lie else genre
    of_items = from_values({"genre": [[str(g)] for g in told]}, ITEMS)
    warm, found = np.arange(ITEMS - COLD), {}
    for number in range(sites):
        town = rng.integers(0, GENRES, k)
        rows = []
        for user in range(k - 6):
            weight = np.where(genre[warm] == town[user], 8.0, 1.0)
            rows += [(user, item) for item in rng.choice(warm, 12, replace=False, p=weight / weight.sum())]
        user, item = np.array(rows, dtype=np.int32).T
        of_users = from_values({"town": [str(t) for t in town]}, k)
        clock = np.arange(len(user), dtype=np.int64)
        found[str(number)] = Interactions(
            user, item, np.ones(len(user), np.float32), clock, k, ITEMS, of_users, of_items
        )
    return SimulatedFederation(found, ITEMS)


def trained(federation, model):
    rows = list(federation._rows.values())
    shared, private = federate(model, rows, "all")
    return [(r, model.score(r, shared, p)) for r, p in zip(rows, private, strict=True)], shared


def liked(rows, users, items):
    """Whether the town likes the genre; shape (users, items)."""
    town = np.stack([rows.users.column(f"town={g}") for g in range(GENRES)], 1)[users]
    genre = (np.arange(ITEMS) % GENRES)[items]
    return town[:, genre] > 0


def area(scored, users, items):
    """Mean share of (liked, not liked) pairs of items in the right order; a half is chance."""
    shares = []
    for rows, scores in scored:
        chosen = users(rows)
        right, s = liked(rows, chosen, items), scores[chosen][:, items]
        for yes, mine in zip(right, s, strict=True):
            gap = mine[yes][:, None] - mine[~yes]
            shares.append((gap > 0).mean() + 0.5 * (gap == 0).mean())
    return float(np.mean(shares))


def seen(rows):
    return np.unique(rows.user)


def unseen(rows):
    return np.arange(rows.n_users - 6, rows.n_users)


MODEL = models.Hybrid(COLUMNS, factors=8)
COLD_ITEMS, WARM_ITEMS = np.arange(ITEMS - COLD, ITEMS), np.arange(ITEMS - COLD)


@pytest.fixture(scope="module")
def federation():
    return readers()


@pytest.fixture(scope="module")
def scored(federation):
    return trained(federation, MODEL)[0]


def test_items_that_nobody_has_seen_are_ranked_by_their_features(scored):
    assert area(scored, seen, COLD_ITEMS) > 0.9


def test_without_features_they_are_ranked_at_chance(federation):
    blind = trained(federation, models.Hybrid(factors=8))[0]
    assert area(blind, seen, COLD_ITEMS) < 0.65
    assert area(blind, seen, WARM_ITEMS) > 0.75  # the control: it has learnt what it can


def test_with_wrong_features_they_are_ranked_at_chance():
    lied = trained(readers(lie=True), MODEL)[0]
    assert area(lied, seen, COLD_ITEMS) < 0.6


def test_users_without_rows_are_served_by_their_features(scored, federation):
    assert area(scored, unseen, COLD_ITEMS) > 0.9
    assert area(scored, unseen, WARM_ITEMS) > 0.9
    items_only = trained(federation, models.Hybrid(COLUMNS[:GENRES], factors=8))[0]
    assert area(items_only, unseen, WARM_ITEMS) == 0.5


def test_what_nobody_has_touched_has_no_vector_of_its_own(federation):
    _, shared = trained(federation, MODEL)
    assert not shared["items"][COLD_ITEMS].any()
    assert shared["items"][WARM_ITEMS].any(1).all()


def test_four_institutions_are_nearly_as_good_as_one(scored, federation):
    central = trained(pooled(federation), MODEL)[0]
    k = USERS // 4

    def everyone(rows):
        return np.concatenate([np.arange(first, first + k - 6) for first in range(0, USERS, k)])

    for items in (COLD_ITEMS, WARM_ITEMS):
        assert area(scored, seen, items) == pytest.approx(area(central, everyone, items), abs=0.02)


def test_users_features_do_not_leave(federation):
    """Of the users' features a map of columns by factors leaves, however many users there are."""
    rows = federation._rows["0"]
    contribution, private = MODEL.fit_site(rows, MODEL.init(ITEMS, 0), PrivateParams({}))
    assert {name: array.shape for name, array in contribution.tensors.items()} == {
        "items": (ITEMS, 8), "of_items": (GENRES, 8), "of_users": (GENRES, 8),
    }  # fmt: skip
    assert private["users"].shape == (rows.n_users, 8)


def test_local_epochs_hand_each_batch_of_users_its_own_features(federation):
    rows, local = federation._rows["0"], models.LocalEpochs(8, batch=16)
    shared, private = local.fit(MODEL, rows, MODEL.init(ITEMS, 0), PrivateParams({}))
    assert area([(rows, MODEL.score(rows, shared, private))], unseen, WARM_ITEMS) > 0.8
    town = rows.users.labels["town"]
    mixed = replace(town, has=town.has[np.random.default_rng(0).permutation(rows.n_users)])
    wrong = replace(rows, users=replace(rows.users, labels={"town": mixed}))
    lied, private = local.fit(MODEL, wrong, MODEL.init(ITEMS, 0), PrivateParams({}))
    assert area([(rows, MODEL.score(wrong, lied, private))], unseen, WARM_ITEMS) < 0.7
