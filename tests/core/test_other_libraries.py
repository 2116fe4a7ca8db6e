"""The same rankings judged by another program: pytrec-eval-terrier 0.5.11 (trec_eval) and, for NDCG, scikit-learn 1.9.1.

Both were run once, on 12 drawn rankings of 40 items with 1 to 10 relevant ones, and agreed with one another; what they
gave is stored here. Neither is installed with fedrec.
"""

import numpy as np
import pytest

from fedrec.core.metrics import values

# ranks of the relevant items from 0; success_10, ndcg_cut_10, recall_20, recall_10, P_10, map_cut_10, and recip_rank
# where something is found in the first ten
JUDGED = [
    ([0, 19, 21, 22, 33], [1.0, 0.3391602, 0.4, 0.2, 0.1, 0.2, 1.0]),
    ([3, 8, 14, 16, 25], [1.0, 0.2481657, 0.8, 0.4, 0.2, 0.0944444, 0.25]),
    ([6, 14, 16, 25, 31, 38], [1.0, 0.1008675, 0.5, 0.1666667, 0.1, 0.0238095, 0.1428571]),
    ([0, 1, 14, 16, 17, 24, 25, 27, 35], [1.0, 0.3833428, 0.5555556, 0.2222222, 0.2, 0.2222222, 1.0]),
    ([11, 13, 34], [0.0, 0.0, 0.6666667, 0.0, 0.0, 0.0, 0.0]),
    ([0, 1, 2, 3, 14, 21, 25, 35], [1.0, 0.6479396, 0.625, 0.5, 0.4, 0.5, 1.0]),
    ([5, 8, 9, 10], [1.0, 0.3694174, 1.0, 0.75, 0.3, 0.1722222, 0.1666667]),
    ([0, 2, 5, 8, 12, 27, 30], [1.0, 0.5929734, 0.7142857, 0.5714286, 0.4, 0.3730159, 1.0]),
    ([0, 1, 4, 9, 10, 13, 20, 32, 35], [1.0, 0.5422142, 0.6666667, 0.4444444, 0.4, 0.3333333, 1.0]),
    ([0, 11], [1.0, 0.6131472, 1.0, 0.5, 0.1, 0.5, 1.0]),
    ([6], [1.0, 0.3333333, 1.0, 1.0, 0.1, 0.1428571, 0.1428571]),
    ([3, 8, 12, 21, 23], [1.0, 0.2481657, 0.6, 0.4, 0.2, 0.0944444, 0.25]),
]


@pytest.mark.parametrize(("ranks", "judged"), JUDGED, ids=lambda value: str(value) if isinstance(value[0], int) else "")
def test_a_ranking_gets_the_values_that_trec_eval_gives_it(ranks, judged):
    found = values(np.array(ranks), np.zeros(len(ranks), dtype=int))
    assert found[0].tolist() == pytest.approx(judged, abs=1e-6)


def test_users_in_any_order_are_judged_apart():
    user = np.repeat(np.arange(len(JUDGED)), [len(ranks) for ranks, _ in JUDGED])
    rank = np.concatenate([ranks for ranks, _ in JUDGED])
    order = np.random.default_rng(0).permutation(len(user))
    found = values(rank[order], user[order])
    np.testing.assert_allclose(found, [judged for _, judged in JUDGED], atol=1e-6)
