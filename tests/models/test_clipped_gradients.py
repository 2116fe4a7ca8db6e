"""Softmax factors with `clip`: no user moves the released gradient further than that, in any round."""

from __future__ import annotations

import numpy as np
from federating import deal
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation import Adam, Mean, SiteUpdate
from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.models import MF

ITEMS = 9


def gradients(model: MF, items: list[list[int]], scale: float, rounds: int) -> list[np.ndarray]:
    """What leaves in each round, while item vectors of this size stay as they are."""
    user = np.repeat(np.arange(len(items), dtype=np.int32), [len(one) for one in items])
    item = np.array([i for one in items for i in one], dtype=np.int32)
    rows = Interactions(user, item, np.ones(len(item), np.float32), None, len(items), ITEMS)
    shared = SharedParams({"items": np.float32(scale) * model.init(ITEMS, 0)["items"]})
    private, found = PrivateParams({}), []
    for _ in range(rounds):
        update, private = model.fit_site(rows, shared, private)
        found.append(update["items"].astype(np.float64))
    return found


people = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=20), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(people=people, clip=st.sampled_from([1e-3, 0.1, 2.0]), scale=st.sampled_from([0.1, 1.0, 100.0]))
def test_no_user_moves_the_gradient_further_than_clip_in_any_round(people, clip, scale):
    model = MF(factors=4, clip=clip)
    whole, rest = (gradients(model, group, scale, 3) for group in (people, people[1:] or [[]]))
    for number, (one, other) in enumerate(zip(whole, rest, strict=True)):
        assert np.linalg.norm(one - other) <= model.sensitivity(number)["items"]


def test_without_clip_one_user_of_many_rows_moves_it_far_and_there_is_no_bound():
    """Control: the very rows that `clip` = 0.01 holds."""
    people = [list(range(5)), [1]]
    loose, held = (gradients(MF(factors=4, clip=clip), people, 100.0, 2)[-1] for clip in (0.0, 0.01))
    rest = gradients(MF(factors=4), people[1:], 100.0, 2)[-1]
    assert np.linalg.norm(loose - rest) > 0.01
    assert np.linalg.norm(held) <= 0.02
    assert MF().sensitivity(0) is None


def test_a_wide_clip_gives_the_gradient_without_one(checkerboard):
    free, wide = (
        model.fit_site(checkerboard, model.init(60, 0), PrivateParams({}))[0]["items"]
        for model in (MF(factors=8), MF(factors=8, clip=1e6))
    )
    np.testing.assert_allclose(wide / checkerboard.matrix().nnz, free, atol=1e-8)


def test_clipped_sums_of_four_institutions_are_those_of_one(checkerboard):
    model = MF(factors=8, clip=0.5)
    start = model.init(60, 0)
    one, *four = (
        model.fit_site(rows, start, PrivateParams({}))[0]["items"] for rows in [checkerboard, *deal(checkerboard, 4)]
    )
    np.testing.assert_allclose(np.sum(four, axis=0), one, atol=1e-5)


def test_without_weights_the_clipped_model_still_learns(checkerboard):
    """Users of even items and users of odd ones: after training each ranks its own half above the other."""
    model, merge = MF(factors=8, clip=0.5), Adam(inner=Mean())
    shared, sites = model.init(60, 0), deal(checkerboard, 2)
    state, private = merge.init(shared), [PrivateParams({})] * 2
    for _ in range(25):
        done = [model.fit_site(rows, shared, own) for rows, own in zip(sites, private, strict=True)]
        private = [after for _, after in done]
        updates = [SiteUpdate(str(site), 0.0, update) for site, (update, _) in enumerate(done)]
        step, state = merge.apply(state, shared, updates)
        shared = model.finish(shared, step)
    mine = sites[0]
    scores = model.score(mine, shared, private[0])
    even = mine.item[np.searchsorted(mine.user, np.arange(mine.n_users))] % 2 == 0
    ahead = scores[:, ::2].mean(1) - scores[:, 1::2].mean(1)
    assert ((ahead > 0) == even).all()
