"""What an institution does with its rows: weights, sums, lists."""

import numpy as np
import pytest

from fedrec import models
from fedrec.core.interactions import Interactions
from fedrec.core.optim import Plain
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.errors import WrongInput
from fedrec.institution import work

NONE = PrivateParams({})


def rows(*users: list[int], n_items: int = 8) -> Interactions:
    user = np.repeat(np.arange(len(users)), [len(items) for items in users]).astype(np.int32)
    item = np.array([item for items in users for item in items], dtype=np.int32)
    clock = np.arange(len(item), dtype=np.int64)
    return Interactions(user, item, np.ones(len(item), np.float32), clock, len(users), n_items)


def few(sums: dict[str, float]) -> dict[str, float]:
    return {name: sums[name] for name in ("users", "hr", "ndcg", "recall")}


def counts(*values: float) -> SharedParams:
    return SharedParams({"counts": np.array(values, dtype=np.float32)})


def test_the_weight_counts_distinct_train_pairs_and_users_who_have_one():
    done = work.train(models.Popularity(), rows([0, 0, 1, 2, 3], [4]), "p1", counts(*[0] * 8), NONE, 0)
    assert (done.rows, done.users) == (3, 2)  # 0 and 1 of the first user, the second's only row; 2 and 3 are held
    assert done.contribution["counts"].tolist() == [1, 1, 0, 0, 1, 0, 0, 0]


def test_evaluation_gives_sums_for_the_three_scopes_by_hand():
    """Held are 3 and 7. Shared counts rank 3 first (1) and 7 last of 5 (rank 4: 1/log2(6) = .38685)."""
    mine, model = rows([0, 1, 2, 3], [0, 1, 2, 7]), models.Popularity()

    def alone():
        return work.train_alone(model, mine, "p1", 1, Plain(), 0)

    found = work.evaluate(model, mine, "p1", counts(0, 0, 0, 9, 3, 3, 3, 1), NONE, 0, alone)
    assert set(found) == {"federated", "local", "popularity"}
    assert few(found["federated"]) == pytest.approx({"users": 2, "hr": 2.0, "ndcg": 1.38685, "recall": 2.0}, abs=1e-5)
    assert found["popularity"] == found["federated"]
    assert found["federated"]["ndcg_squares"] == pytest.approx(1 + 0.386853**2, abs=1e-5)
    # alone, both held items tie with the four never touched: rank 4 each
    assert few(found["local"]) == pytest.approx({"users": 2, "hr": 2.0, "ndcg": 2 * 0.386853, "recall": 2.0}, abs=1e-5)
    assert found["local"]["gap_squares"] == pytest.approx((1 - 0.386853) ** 2, abs=1e-5)  # of one user; 0 of the other


def test_without_a_local_baseline_there_is_no_local_scope():
    mine = rows([0, 1, 2, 3])
    assert "local" not in work.evaluate(models.Popularity(), mine, "p1", counts(*range(8)), NONE, 0, None)


def test_popularity_falls_back_to_the_institutions_own_counts():
    mine, model = rows([0, 1, 2, 3], [3, 1, 0, 5]), models.MF(factors=2)
    done = work.train(model, mine, "p1", model.init(8, 0), NONE, 0)
    assert work.evaluate(model, mine, "p1", model.init(8, 0), done.private, 0, None)["popularity"]["users"] == 2


def test_nothing_is_held_out_of_all():
    with pytest.raises(WrongInput, match="no rows out"):
        work.evaluate(models.Popularity(), rows([0, 1, 2]), "all", counts(*range(8)), NONE, 0, None)


def test_lists_hold_unseen_items_best_first_with_ties_by_item():
    found = work.top_items(models.Popularity(), rows([7, 6], [0]), counts(5, 1, 5, 2, 0, 0, 9, 9), NONE, 3)
    assert found.tolist() == [[0, 2, 3], [6, 7, 2]]
    assert found.dtype == np.int32


def test_lists_end_with_minus_one_when_the_catalogue_does():
    found = work.top_items(models.Popularity(), rows([0, 1, 2]), SharedParams({"counts": np.ones(8)}), NONE, 10)
    assert found.tolist() == [[3, 4, 5, 6, 7, -1, -1, -1, -1, -1]]


def test_a_score_that_is_no_number_is_never_recommended():
    shared = SharedParams({"counts": np.array([1, np.nan, 3, np.inf, 0, 0, 0, -np.inf])})
    assert work.top_items(models.Popularity(), rows([0]), shared, NONE, 7).tolist() == [[3, 2, 4, 5, 6, -1, -1]]


def test_users_without_rows_get_a_list_too():
    mine = Interactions(*(np.zeros(0, kind) for kind in (np.int32, np.int32, np.float32, np.int64)), 2, 3)
    assert work.top_items(models.Popularity(), mine, counts(1, 3, 2), NONE, 2).tolist() == [[1, 2], [1, 2]]


def test_groups_of_users_are_released_all_or_none_and_add_up():
    """Ten users with few rows and ten with more: two groups; with nine of the one kind there are none."""

    def scopes(*lengths: int) -> dict[str, dict[str, float]]:
        mine = rows(*[[(user + n) % 60 for n in range(length)] for user, length in enumerate(lengths)], n_items=60)
        return work.evaluate(models.Popularity(), mine, "p1", counts(*range(60)), NONE, 0, None)

    found = scopes(*[10] * 10, *[30] * 10)
    assert set(found) == {a + b for a in ("federated", "popularity") for b in ("", ":few", ":some")}
    for name, total in found["federated"].items():
        assert total == pytest.approx(found["federated:few"][name] + found["federated:some"][name])
    assert set(scopes(*[10] * 9, *[30] * 11)) == {"federated", "popularity"}
