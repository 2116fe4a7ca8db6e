"""Ranks and gains by hand."""

import numpy as np
import pytest

from fedrec.core.interactions import Interactions
from fedrec.core.metrics import NEGATIVES, Sums, _sampled, errors, measure, measured, ranks, spread, summed
from fedrec.core.split import split

NAN = float("nan")


def rank_of(target: int, scores: list[float], seen: tuple[int, ...] = ()) -> int:
    candidate = np.ones((1, len(scores)), dtype=np.bool_)
    candidate[0, [*seen, target]] = False
    return int(ranks(np.array([scores]), candidate, np.array([0]), np.array([target]))[0])


def interactions(users: list[list[int]], n_items: int) -> Interactions:
    user = np.repeat(np.arange(len(users)), [len(items) for items in users]).astype(np.int32)
    item = np.array([item for items in users for item in items], dtype=np.int32)
    return Interactions(
        user, item, np.ones(len(item), np.float32), np.arange(len(item), dtype=np.int64), len(users), n_items
    )


def test_the_best_item_has_rank_zero():
    assert rank_of(1, [0.1, 0.9, 0.3]) == 0


def test_ties_count_against_the_model():
    assert rank_of(1, [0.5, 0.5, 0.5, 0.1]) == 2


def test_what_the_user_has_seen_does_not_compete():
    assert rank_of(1, [0.9, 0.5, 0.5, 0.1], seen=(0, 2)) == 0


def test_a_target_without_a_number_is_a_miss_however_few_candidates():
    sums = summed(np.array([rank_of(0, [NAN, 0.1])]), np.array([0]))
    assert sums == Sums(users=1)


def test_another_items_nan_counts_as_higher():
    assert rank_of(0, [0.5, NAN, 0.1]) == 1


def test_infinite_scores_are_ordinary_numbers():
    assert rank_of(0, [np.inf, np.inf, 1.0]) == 1
    assert rank_of(0, [-np.inf, 0.0, -np.inf]) == 2


def test_a_constant_model_never_hits():
    twelve = interactions([[0, 1, 2]], 14)  # 11 others compete
    assert measure(lambda low, high: np.zeros((high - low, 14)), split(twelve, "p1", 0), "p1", 0).hr == 0


def test_gains_by_hand():
    # rank 0: 1; rank 2: 1/log2(4) = .5; rank 9: 1/log2(11) = .28906; rank 10: no hit, but within 20; rank 20: nothing
    sums = summed(np.array([0, 2, 9, 10, 20]), np.arange(5))
    assert (sums.users, sums.hr, sums.recall) == (5, 3.0, 4.0)
    assert sums.ndcg == pytest.approx(1 + 0.5 + 0.2890648)
    means = sums.means()
    assert (means["hr@10"], means["recall@20"], means["precision@10"]) == (0.6, 0.8, pytest.approx(0.06))
    assert means["ndcg@10"] == pytest.approx(0.3578130)
    assert means["mrr@10"] == means["map@10"] == pytest.approx((1 + 1 / 3 + 1 / 10) / 5)


def test_several_held_items_by_hand():
    # one user, held items at ranks 0, 3 and 25: (1 + 1/log2(5)) / (1 + 1/log2(3) + 1/2) = 1.430677 / 2.130930
    sums = summed(np.array([0, 3, 25]), np.zeros(3, dtype=int))
    assert (sums.users, sums.hr) == (1, 1.0)
    assert sums.ndcg == pytest.approx(1.430677 / 2.130930, abs=1e-6)
    assert sums.recall == sums.recall10 == pytest.approx(2 / 3)
    # found at places 1 and 4, of three: precision 2/10, MAP (1/1 + 2/4) / 3, the first at place 1
    assert (sums.precision, sums.map, sums.mrr) == (0.2, pytest.approx(0.5), 1.0)


def test_a_perfect_model_has_ndcg_one_even_with_ties_among_its_hits():
    rows = split(interactions([list(range(60))], 100), "p3", 0)  # 12 held items, more than ten
    scores = np.zeros((1, 100))
    scores[0, 48:60] = 1.0
    sums = measure(lambda low, high: scores[low:high], rows, "p3", 0)
    assert (sums.hr, sums.ndcg, sums.recall) == (1.0, pytest.approx(1.0), 1.0)


def test_sums_of_two_institutions_add_up_and_nobody_has_no_mean():
    one, two = Sums(2, 1.0, 0.5, 1.0), Sums(3, 2.0, 1.0, 2.0)
    assert one + two == Sums(5, 3.0, 1.5, 3.0)
    assert Sums.from_dict((one + two).as_dict()) == one + two
    assert set(Sums().means().values()) == {None}


def test_errors_of_predicted_ratings_by_hand():
    """Held are the last rows, rated 4, 1 and 3; 4.5 is off by .5, 9 counts as 5 and so by 4, no number by 2 (to 1 or 5)."""
    rows = interactions([[0, 1, 2], [0, 1, 3], [1, 2, 0], [3, 2]], 4)  # two rows: not evaluated
    rows.rating[[2, 5, 8]] = 4, 1, 3
    scores = np.zeros((4, 4))
    scores[[0, 1, 2], [2, 3, 0]] = 4.5, 9, NAN
    off = errors(lambda low, high: scores[low:high], split(rows, "p1", 0), (1.0, 5.0))
    assert off.tolist() == [[1, 0.25, 0.5], [1, 16, 4], [1, 4, 2]]
    sums = Sums.of(np.zeros((3, 9)), None, off)
    assert (sums.means()["rmse"], sums.means()["mae"]) == (pytest.approx((20.25 / 3) ** 0.5), pytest.approx(6.5 / 3))
    assert (sums + sums).means() == sums.means()
    assert Sums.of(np.zeros((3, 9))).means()["rmse"] is None  # of a model that ranks


def test_coverage_and_gini_by_hand():
    assert spread(np.array([3, 3, 3, 3])) == {"coverage@10": 1.0, "gini@10": 0.0}
    # sorted 0 0 1 3, times -3 -1 1 3: 10 / (4 * 4)
    assert spread(np.array([1, 0, 3, 0])) == {"coverage@10": 0.5, "gini@10": 0.625}
    assert spread(np.zeros(4)) == {"coverage@10": None, "gini@10": None}


def test_lists_are_counted_as_users_get_them():
    """Two users of 13 items: the ten best of what they have not touched, the held-out item among them."""
    rows, times = split(interactions([[0, 1, 2], [12, 11, 10]], 13), "p1", 0), np.zeros(13, dtype=np.int64)
    measured(lambda low, high: np.tile(np.arange(13.0), (high - low, 1)), rows, "p1", 0, times)
    assert times.tolist() == [0, 1, 1, *[2] * 8, 1, 1]  # of 2 to 12 and of 0 to 10, each without its worst
    none = np.zeros(13, dtype=np.int64)
    measured(lambda low, high: np.zeros((high - low, 13)), rows, "p2", 0, none)
    assert not none.any()  # p2 has no lists


def test_p2_ranks_among_99_items_that_the_user_never_touched():
    users = [list(range(user, user + 5)) for user in range(40)]
    rows = split(interactions(users, 400), "p2", 0)
    candidate = np.ones((40, 400), dtype=np.bool_)
    candidate[rows.seen.user, rows.seen.item] = candidate[rows.held.user, rows.held.item] = False
    chosen = _sampled(candidate, rows, 0, 7)
    assert (chosen.sum(axis=1) == NEGATIVES).all()
    assert not (chosen & ~candidate).any()
    np.testing.assert_array_equal(chosen, _sampled(candidate, rows, 0, 7))
    assert (chosen != _sampled(candidate, rows, 0, 8)).any()


def test_p2_negatives_are_uniform():
    users = [[2 + user % 200, 202 + user // 200, 0, 1] for user in range(2000)]
    rows = split(interactions(users, 212), "p2", 0)
    free = np.ones((2000, 212), dtype=np.bool_)
    free[:, :2] = False
    share = _sampled(free, rows, 0, 0).mean(axis=0)[2:]  # 99/210 = .4714, standard error .011
    assert abs(share - 99 / 210).max() < 0.05


def test_p2_is_the_same_for_every_number_of_institutions():
    rng = np.random.default_rng(0)
    users = [rng.permutation(300)[:8].tolist() for _ in range(30)]
    table = rng.random((30, 300))

    def sums(part: list[int]) -> Sums:
        rows = split(interactions([users[user] for user in part], 300), "p2", 5)
        return measure(lambda low, high: table[part][low:high], rows, "p2", 5)

    apart = sums(list(range(0, 30, 2))) + sums(list(range(1, 30, 2)))
    assert apart.as_dict() == pytest.approx(sums(list(range(30))).as_dict())


def test_a_catalogue_of_fewer_than_100_items_is_ranked_whole():
    rows = split(interactions([[0, 1, 2]], 30), "p2", 0)
    upward = np.arange(30.0)[None, :]
    assert measure(lambda low, high: upward[low:high], rows, "p2", 0).recall == 0  # 27 are ahead
    assert measure(lambda low, high: -upward[low:high], rows, "p2", 0).hr == 1


def test_blocks_of_users_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    users = [rng.permutation(50)[: 3 + user % 9].tolist() for user in range(40)]
    table = rng.random((40, 50))
    for protocol in ("p1", "p2", "p3"):
        rows = split(interactions(users, 50), protocol, 0)
        whole = measure(lambda low, high: table[low:high], rows, protocol, 0)
        monkeypatch.setattr("fedrec.core.metrics.CELLS", 150)  # three users at once
        assert measure(lambda low, high: table[low:high], rows, protocol, 0).as_dict() == pytest.approx(whole.as_dict())
        monkeypatch.undo()
