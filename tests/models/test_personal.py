"""An institution bends the shared model towards its own users, and never serves worse than what it has alone."""

from __future__ import annotations

import numpy as np
import pytest
from federating import deal, federate

from fedrec import models
from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.core.split import split
from fedrec.errors import WrongInput
from fedrec.institution import work
from fedrec.institution.personal import GAMMAS, personal, statistic

NONE = PrivateParams({})


def walkers(users: int, step: int, seed: int, n_items: int = 40) -> Interactions:
    """Each user goes from a random item `step` places on, nine times: the next item is certain."""
    start = np.random.default_rng(seed).integers(0, n_items, users)
    item = ((start[:, None] + step * np.arange(10)) % n_items).astype(np.int32).ravel()
    user = np.repeat(np.arange(users, dtype=np.int32), 10)
    time = np.tile(np.arange(10, dtype=np.int64), users)
    return Interactions(user, item, np.ones(len(item), np.float32), time, users, n_items)


@pytest.mark.parametrize("model", [models.Ease(), models.Sequential(), models.Default()], ids=lambda model: model.name)
def test_the_sums_of_all_institutions_are_read_back_from_the_model_to_the_last_count(model, ml100k):
    sites = deal(ml100k, 4)
    shared, _ = federate(model, sites, "all")
    found = statistic(model, shared)
    for name, array in model.fit_site(ml100k, model.init(ml100k.n_items, 0), NONE)[0].tensors.items():
        np.testing.assert_array_equal(found[name], array)


def test_no_counts_no_reading_back(ml100k):
    shared = SharedParams({**federate(models.Ease(), [ml100k], "all")[0].tensors})
    noisy = {**shared.tensors, "weights": shared["weights"] + np.float32(0.001) * np.sign(shared["weights"])}
    with pytest.raises(WrongInput, match="plain counts"):
        statistic(models.Ease(), SharedParams(noisy))
    with pytest.raises(WrongInput, match="do not fit"):
        statistic(models.Ease(), SharedParams({"counts": shared["counts"]}))
    with pytest.raises(WrongInput, match="itemcf"):
        statistic(models.ItemCF(), shared)


def test_an_institution_of_another_kind_keeps_its_own_model_and_says_so():
    """Its users step by 3, those of the others by 7. The control: of the same kind, it does not keep its own."""
    model, others = models.Sequential(), walkers(600, 7, 1)
    for step, kept in ((3, True), (7, False)):
        mine = walkers(40, step, 2)
        shared, _ = federate(model, [mine, others], "p1")
        found = personal(model, mine, shared, "p1", 0)
        assert (found.gamma is None) == kept, found
        assert ("the institution's own is kept" in found.text()) == kept
        alone, _ = federate(model, [mine], "all")
        assert (found.shared["next"].tobytes() == alone["next"].tobytes()) == kept
        assert (found.ndcg["local"] > found.ndcg["shared"] + 0.1) == kept


def test_where_the_shared_model_is_best_it_stays_as_it_is():
    model, mine = models.Sequential(), walkers(5, 7, 2)
    shared, _ = federate(model, [mine, walkers(600, 7, 1)], "p1")
    found = personal(model, mine, shared, "p1", 0)
    assert (found.gamma, found.shared is shared) == (0.0, True)


def test_a_personal_model_is_ease_of_all_and_gamma_times_own():
    model = models.Ease(l2=5.0)
    mine, others = walkers(60, 3, 2), walkers(600, 7, 1)
    shared, _ = federate(model, [mine, others], "all")
    found = personal(model, mine, shared, "all", 0)
    assert found.gamma in GAMMAS[1:], found
    grams = [model.fit_site(rows, shared, NONE)[0]["gram"] for rows in (mine, others)]
    total = grams[0] + grams[1] + np.float32(found.gamma) * grams[0]
    by_hand = model.finish(shared, SharedParams({"gram": total}))
    np.testing.assert_array_equal(found.shared["weights"], by_hand["weights"])


@pytest.mark.parametrize("protocol", ["all", "p1"])
def test_what_is_validated_on_is_taken_out_of_the_shared_model_first(protocol):
    """Trained on all rows, the shared model knows the rows that choose: it would win by having seen the answer."""
    model, mine, others = models.Default(), walkers(60, 3, 2), walkers(60, 7, 1)
    shared, _ = federate(model, [mine, others], protocol)
    found = personal(model, mine, shared, protocol, 0)
    parts = split(mine, "validation", 0)
    rest = split(others, protocol, 0).train
    clean, _ = federate(model, [parts.train, rest], "all")
    assert found.ndcg["shared"] == pytest.approx(work.validated(model, mine, clean, NONE, 0), abs=1e-12)
    if protocol == "all":
        assert work.validated(model, mine, shared, NONE, 0) > found.ndcg["shared"] + 0.01


def test_a_model_of_other_rows_is_refused():
    model = models.Ease()
    shared, _ = federate(model, [walkers(20, 7, 1)], "all")
    with pytest.raises(WrongInput, match="not trained on this institution"):
        personal(model, walkers(60, 3, 2), shared, "all", 0)
