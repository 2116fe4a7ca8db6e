"""The protocols by hand, and that nothing but the order of rows decides."""

import numpy as np
import pytest

from fedrec.core.interactions import Interactions
from fedrec.core.split import split
from fedrec.errors import WrongInput


def rows(*users: list[int], time: bool = True, n_items: int = 20) -> Interactions:
    """Each user's items, oldest first."""
    user = np.repeat(np.arange(len(users)), [len(items) for items in users]).astype(np.int32)
    item = np.array([item for items in users for item in items], dtype=np.int32)
    clock = np.arange(len(item), dtype=np.int64) if time else None
    return Interactions(user, item, np.ones(len(item), dtype=np.float32), clock, len(users), n_items)


def items(part: Interactions, user: int) -> list[int]:
    return part.item[part.user == user].tolist()


def test_p1_holds_out_the_last_row_and_leaves_the_last_but_one_out_of_training():
    parts = split(rows([7, 3, 9, 1, 5]), "p1", seed=0)
    assert (items(parts.train, 0), items(parts.held, 0), items(parts.seen, 0)) == ([7, 3, 9], [5], [7, 3, 9, 1])


def test_p2_splits_as_p1():
    first, second = (split(rows([7, 3, 9, 1, 5]), protocol, seed=0) for protocol in ("p1", "p2"))
    assert items(first.train, 0) == items(second.train, 0)
    assert items(first.held, 0) == items(second.held, 0)


def test_validation_trains_as_p1_and_never_shows_the_last_row():
    parts = split(rows([7, 3, 9, 1, 5]), "validation", seed=0)
    assert (items(parts.train, 0), items(parts.held, 0), items(parts.seen, 0)) == ([7, 3, 9], [1], [7, 3, 9])


def test_p3_holds_out_the_last_fifth_rounded_down():
    parts = split(rows([0, 1, 2, 3], [0, 1, 2, 3, 4], list(range(14))), "p3", seed=0)
    assert [items(parts.held, user) for user in range(3)] == [[], [4], [12, 13]]
    assert items(parts.train, 2) == items(parts.seen, 2) == list(range(12))


def test_all_trains_on_every_row():
    parts = split(rows([7, 3], [1]), "all", seed=0)
    assert (len(parts.train), len(parts.held), len(parts.seen)) == (3, 0, 3)


@pytest.mark.parametrize("protocol", ["p1", "p2", "validation"])
def test_users_with_fewer_than_three_rows_are_trained_on_and_not_evaluated(protocol):
    parts = split(rows([4], [4, 5], [4, 5, 6]), protocol, seed=0)
    assert (items(parts.train, 0), items(parts.train, 1), items(parts.train, 2)) == ([4], [4, 5], [4])
    assert set(parts.held.user.tolist()) == {2}


def test_no_rows_at_all_split_into_nothing():
    parts = split(rows(), "p1", seed=0)
    assert len(parts.train) == len(parts.held) == len(parts.seen) == 0


def test_an_unknown_protocol_is_refused_with_the_names_that_exist():
    with pytest.raises(WrongInput, match="p1, p2, p3, validation, all"):
        split(rows([1, 2, 3]), "p4", seed=0)


def test_without_timestamps_the_held_item_is_random_by_the_seed_and_not_the_last():
    many = rows(*[list(range(user, user + 10)) for user in range(10)], time=False)
    chosen = [split(many, "p1", seed).held.item - np.arange(10) for seed in range(200)]
    places = np.bincount(np.concatenate(chosen), minlength=10)  # 2000 draws, 200 expected a place, deviation 13.4
    assert places.min() > 130
    assert places.max() < 270
    np.testing.assert_array_equal(split(many, "p1", 3).held.item, chosen[3] + np.arange(10))


def test_without_timestamps_a_user_has_the_same_test_item_in_whatever_institution_and_order():
    together = split(rows([1, 2, 3, 4], [5, 6, 7, 8, 9], time=False), "p1", seed=4)
    elsewhere = split(rows([8, 9, 5, 7, 6], time=False), "p1", seed=4)
    assert items(together.held, 1) == items(elsewhere.held, 0)
    assert sorted(items(together.train, 1)) == sorted(items(elsewhere.train, 0))
