"""The model made for noise: one user's part is bounded whatever the rows, and noise on the sums leaves it useful."""

from __future__ import annotations

import numpy as np
import pytest
from federating import deal, federate, measured
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.institution import work
from fedrec.models import Default, Private
from fedrec.models.private import STEPS, noise, shrunk

NONE = PrivateParams({})
ITEMS, MODEL = 12, Private(most=8)
TOP = SharedParams({"counts": np.array([1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 0, 1], np.float32)})  # all but 1, 4, 6, 10


def rows_of(items: list[list[int]], timed: bool = True) -> Interactions:
    """Users with these items, oldest first."""
    user = np.repeat(np.arange(len(items), dtype=np.int32), [len(one) for one in items])
    item = np.array([i for one in items for i in one], dtype=np.int32)
    time = np.arange(len(item), dtype=np.int64) if timed else None
    return Interactions(user, item, np.ones(len(item), np.float32), time, len(items), ITEMS)


def sums(model, rows: Interactions, number: int) -> dict[str, np.ndarray]:
    start = TOP if number else model.init(ITEMS, 0)
    return {n: a.astype(np.float64) for n, a in model.fit_site(rows, start, NONE)[0].tensors.items()}


people = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=30), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(people=people, timed=st.booleans(), number=st.sampled_from([0, 1]))
def test_no_user_adds_more_than_the_sensitivity_to_any_array(people, timed, number):
    whole, rest = (sums(MODEL, rows_of(part, timed), number) for part in (people, people[1:] or [[]]))
    for name, most in MODEL.sensitivity(number).items():
        assert np.linalg.norm(whole[name] - rest[name]) <= most


def test_a_model_without_a_bound_lets_one_user_add_without_end():
    """Control: the norm of the default model's counts grows with the user's rows."""
    norms = [np.linalg.norm(sums(Default(), rows_of([list(range(n))]), 0)["gram"]) for n in (3, 12)]
    assert norms == [3.0, 12.0]


def test_a_user_adds_nearly_as_much_as_allowed():
    for number, name in ((0, "counts"), (1, "near")):
        added = np.linalg.norm(sums(MODEL, rows_of([[0, 2, 3, 5, 7]]), number)[name])
        assert 0.99 * STEPS < added <= STEPS


def test_pairs_count_by_their_distance_and_items_that_were_not_chosen_do_not():
    """Items 0, 2, 3 at places 0, 1, 2 (item 1 is not chosen): lags 1, 2, 1; weights 1, 1/2, 1; norm 3/2."""
    near = sums(Private(most=8, half_life=1.0), rows_of([[0, 1, 2, 3]]), 1)["near"]
    assert near[[0, 1, 7]].tolist() == [np.floor(STEPS / 1.5), np.floor(STEPS / 3), np.floor(STEPS / 1.5)]
    assert np.count_nonzero(near) == 3


def test_without_timestamps_all_pairs_count_alike():
    """Three pairs, each 1 / sqrt 3; item 0 twice is once."""
    near = sums(MODEL, rows_of([[3, 0, 2, 0]], timed=False), 1)["near"]
    assert near[[0, 1, 7]].tolist() == [np.floor(STEPS / 3**0.5)] * 3


def test_the_noise_is_read_off_what_lies_below_zero():
    rng = np.random.default_rng(0)
    true = np.concatenate([np.zeros(20_000), rng.uniform(50, 90, 500)])
    assert noise(true + rng.normal(0, 3.0, true.shape)) == pytest.approx(3.0, rel=0.03)
    assert noise(true) == 0.0


def test_what_noise_would_show_alone_is_cut_and_what_stands_above_it_is_found():
    rng, n, sigma, t = np.random.default_rng(0), 400, 1.0, 100.0
    wigner = np.triu(rng.normal(0, sigma, (n, n)), 1)
    wigner += wigner.T
    assert not shrunk(wigner / 1.05, sigma).any()
    side = rng.normal(size=n)
    side /= np.linalg.norm(side)
    found = shrunk(wigner + t * np.outer(side, side), sigma)
    assert np.linalg.eigvalsh(found)[-1] == pytest.approx(t, rel=0.02)
    np.testing.assert_array_equal(shrunk(wigner, 0.0), wigner)


def noised(rows: Interactions, model: Private, sigma: float, seed: int) -> SharedParams:
    """The model of one run whose sums get Gaussian noise once: 1 / sigma^2 is what both rounds add up to."""
    rng, shared = np.random.default_rng(seed), model.init(rows.n_items, 0)
    for number in range(model.rounds_default):
        added = work.train(model, rows, "p1", shared, NONE, 0).contribution
        spread = {n: sigma * s / model.share(number) ** 0.5 for n, s in model.sensitivity(number).items()}
        shared = model.finish(
            shared,
            SharedParams(
                {n: (a + rng.normal(0, spread[n], a.shape)).astype(np.float32) for n, a in added.tensors.items()}
            ),
        )
    return shared


@pytest.mark.parametrize(("sigma", "least"), [(0.6002, 0.32), (1.0812, 0.29), (1.9938, 0.27), (3.7306, 0.24)])
def test_ml100k_keeps_its_figures_at_epsilon_8_4_2_1(sigma, least, ml100k):
    """Sigma of epsilon for add/remove one user at delta 1e-5: quality.md; mean of three seeds of the noise."""
    model = Private()
    trained = (noised(ml100k, model, sigma, seed) for seed in range(3))
    found = [measured(model, [ml100k], "p2", (shared, [NONE]))["ndcg@10"] for shared in trained]
    assert np.mean(found) >= least


def test_without_noise_it_is_far_better_than_popularity(ml100k):
    model, sites = Private(), deal(ml100k, 4)
    assert measured(model, sites, "p2", federate(model, sites))["ndcg@10"] >= 0.40
