"""What an update tells about one person, with and without noise."""

from __future__ import annotations

import numpy as np
import pytest

from fedrec.core.interactions import Interactions
from fedrec.errors import DataError
from fedrec.institution import leak

SIGMA, EPSILON, DELTA = 1.9938, 2.0, 1e-5
CANARIES = np.arange(10)


def some(users: int, seed: int) -> Interactions:
    """Users of 5 to 19 of 60 items."""
    rng = np.random.default_rng(seed)
    item = [rng.choice(60, rng.integers(5, 20), replace=False) for _ in range(users)]
    user = np.repeat(np.arange(users), [len(own) for own in item]).astype(np.int32)
    found = np.concatenate(item).astype(np.int32)
    return Interactions(user, found, np.ones(len(user), np.float32), None, users, 60)


ROWS = some(80, 0)


@pytest.mark.parametrize("statistic", leak.STATISTICS)
def test_without_noise_the_attack_is_above_the_bound_of_epsilon_and_with_it_within(statistic):
    """The first half is the control: an attack that fails without noise would prove nothing."""
    clip = float(np.median(leak.norms(ROWS, statistic)))
    bare = leak.membership(ROWS, CANARIES, statistic, clip=clip)
    noised = leak.membership(ROWS, CANARIES, statistic, clip=clip, sigma=SIGMA, trials=2000)
    assert bare.advantage == 1.0
    assert bare.auc == 1.0
    # 0.7616 is the bound; a person at the clip is told with 2 Phi(1 / (2 sigma)) - 1 = 0.198, so 0.05 is chance
    assert 0.05 < noised.advantage < 0.25
    assert noised.advantage < leak.bound(EPSILON, DELTA) < bare.advantage


def test_the_projection_is_that_of_the_matrix_itself():
    x = ROWS.matrix().toarray().astype(np.float64)
    upper = np.triu_indices(60)
    first, second = (np.outer(x[user], x[user])[upper] for user in (0, 1))
    assert first @ second == leak.inner(np.array([x[0] @ x[1]]), "gram")[0]
    assert leak.norms(ROWS, "gram")[0] == pytest.approx(np.linalg.norm(first))
    above = np.triu_indices(60, 1)
    assert leak.norms(ROWS, "cooccurrence")[0] == pytest.approx(np.linalg.norm(np.outer(x[0], x[0])[above]))


def test_a_sum_over_institutions_hides_a_person_only_among_those_whom_the_attacker_does_not_know():
    alone = leak.membership(ROWS, CANARIES, "counts")
    summed = leak.membership(ROWS, CANARIES, "counts", others=some(240, 1))
    assert 0.0 < summed.advantage < alone.advantage == 1.0


def test_trials_are_those_of_the_seed():
    one, same, other = (
        leak.membership(ROWS, CANARIES, "gram", clip=10.0, sigma=SIGMA, seed=seed) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_all_items_are_read_off_exact_counts_and_noise_mixes_others_in():
    counts = np.asarray(ROWS.matrix().sum(axis=0), dtype=np.float64).ravel()
    counts[::2] = 0.0  # half of the catalogue untouched
    assert leak.touched(counts, counts > 0) == (1.0, 1.0)
    noised = counts + np.random.default_rng(0).normal(0, 20, 60)
    assert leak.touched(noised, counts > 0)[1] < 0.9


def test_thin_cells_are_those_of_a_few_users():
    # user 0: items 0 1; user 1: items 0 1; user 2: items 0 2. Cells: 00=3 01=2 11=2 02=1 22=1
    rows = Interactions(
        np.array([0, 0, 1, 1, 2, 2], np.int32),
        np.array([0, 1, 0, 1, 0, 2], np.int32),
        np.ones(6, np.float32),
        None,
        3,
        3,
    )
    assert leak.thin_cells(rows, 2) == (2, 5)
    assert leak.thin_cells(rows, 3) == (4, 5)


def test_noise_without_a_clip_means_nothing_and_is_an_error():
    with pytest.raises(DataError, match="clip"):
        leak.membership(ROWS, CANARIES, "counts", sigma=1.0)
    with pytest.raises(DataError, match="none of"):
        leak.membership(ROWS, CANARIES, "medians")
    with pytest.raises(DataError, match="no canary"):
        leak.membership(ROWS, CANARIES[:0], "counts")
