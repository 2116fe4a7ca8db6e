"""The leak test of quality.md: remembering which items were drawn as negatives must be worth nothing.

A model that may not sample the held-out item as a negative has been told what not to answer.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from fedrec.core.interactions import Interactions
from fedrec.core.metrics import Sums
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.institution import work

USERS, ITEMS, EACH = 600, 300, 20
NOBODY = np.zeros((USERS, 0), dtype=np.int64)


@dataclass(frozen=True)
class Memoriser:
    """Samples 20 negatives per row from what the user has not in its train rows; scores how rarely one was drawn.

    Args:
        never: items per user that it refuses to sample: the leak.
    """

    never: np.ndarray

    name: ClassVar[str] = "memoriser"
    rounds_default: ClassVar[int] = 1
    aggregator_default: ClassVar[str] = "sum"
    by_user: ClassVar[bool] = True

    def leaves(self):
        return {}

    def init(self, n_items, seed):
        return SharedParams({})

    def fit_site(self, rows, shared, private):
        rng, drawn = np.random.default_rng(0), np.zeros((rows.n_users, rows.n_items))
        free = rows.matrix().toarray() == 0
        np.put_along_axis(free, self.never, False, axis=1)
        for user in range(rows.n_users):
            np.add.at(drawn[user], rng.choice(np.flatnonzero(free[user]), 20 * int((rows.user == user).sum())), 1)
        return shared, PrivateParams({"users": drawn})

    def finish(self, shared, merged):
        return merged

    def score(self, rows, shared, private):
        return -private["users"] + 1e-6 * np.random.default_rng(1).random(private["users"].shape)


def random_rows() -> Interactions:
    rng = np.random.default_rng(0)
    item = np.concatenate([rng.permutation(ITEMS)[:EACH] for _ in range(USERS)]).astype(np.int32)
    user = np.repeat(np.arange(USERS, dtype=np.int32), EACH)
    return Interactions(user, item, np.ones(len(item), np.float32), np.arange(len(item)), USERS, ITEMS)


def hits(model: Memoriser) -> float:
    rows = random_rows()
    done = work.train(model, rows, "p2", SharedParams({}), PrivateParams({}), 0)
    sums = work.evaluate(model, rows, "p2", done.contribution, done.private, 0, None)["federated"]
    mean = Sums.from_dict(sums).means()["hr@10"]
    assert mean is not None
    return mean


def test_remembering_the_negatives_is_worth_no_more_than_chance():
    assert hits(Memoriser(NOBODY)) <= 0.13


def test_the_control_leaks_and_is_caught():
    """If the memoriser failed here too, the test above would prove nothing."""
    held = random_rows().item.reshape(USERS, EACH)[:, -1:]
    assert hits(Memoriser(held.astype(np.int64))) > 0.3


@pytest.mark.parametrize("protocol", ["p1", "p2", "p3"])
def test_a_model_is_trained_without_a_single_held_out_row(protocol):
    rows, seen = random_rows(), []

    class Spy(Memoriser):
        def fit_site(self, rows, shared, private):
            seen.append(rows)
            return shared, private

    work.train(Spy(NOBODY), rows, protocol, SharedParams({}), PrivateParams({}), 0)
    kept = EACH - (4 if protocol == "p3" else 2)
    oldest = rows.item.reshape(USERS, EACH)[:, :kept].ravel()
    np.testing.assert_array_equal(seen[0].item, oldest)
