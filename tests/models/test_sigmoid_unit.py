"""The article's example, repaired: it learns over rounds, and ends where pooled training ends."""

from itertools import pairwise

import pytest

from fedrec.examples import sigmoid_unit
from fedrec.examples.sigmoid_unit import generated, judged, plan, rounds
from fedrec.scientist.runs import Run
from fedrec.simulation import pooled


@pytest.fixture(scope="module")
def example():
    return generated()


@pytest.fixture(scope="module")
def table(example):
    return list(rounds(*example))


def test_it_is_the_articles_setting(example):
    made = plan()
    federation, (features, outcomes) = example
    assert (len(federation.sites()), features.shape[1], made.spec.rounds) == (10, 10, 10)
    assert made.spec.leaves["weights"].shape == (11,)
    assert len(outcomes) == 2000
    assert (made.spec.local["optimiser"], made.spec.aggregator["name"]) == ("adam", "weighted-mean")


def test_held_out_loss_falls_over_the_rounds(table):
    losses = [row["log-loss"] for row in table]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)  # ln 2: the unit knows nothing
    assert all(after < before for before, after in pairwise(losses[:6]))
    assert losses[-1] == pytest.approx(min(losses), abs=1e-4)
    assert losses[-1] < 0.4


def test_it_ends_within_a_hundredth_of_pooled_training(example, table):
    federation, held = example
    *_, last = rounds(pooled(federation), held)
    assert table[-1]["auc"] == pytest.approx(last["auc"], abs=0.01)
    assert last["auc"] > 0.85


def test_as_printed_with_a_new_state_every_round_nothing_is_learnt_over_rounds(example, table):
    """The control: ten first rounds are one round."""
    federation, held = example
    losses = set()
    for _ in range(3):
        run = Run.start(plan(), federation)
        next(run.rounds())
        losses.add(judged(run.shared["weights"], held).means()["log-loss"])
    assert losses == {table[1]["log-loss"]}
    assert table[-1]["log-loss"] < losses.pop() - 0.05


def test_it_prints_a_row_for_each_round_and_one_for_pooled_rows(capsys):
    sigmoid_unit.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 11 + 1
    assert lines[-1].startswith("pooled")
