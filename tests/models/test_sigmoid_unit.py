"""The article's example, repaired: it learns over rounds, ends where pooled training ends, and is the same on sites."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from fedrec.demo.article import approved
from fedrec.examples import sigmoid_unit
from fedrec.examples.sigmoid_unit import generated, judged, plan, rounds, simulated, table
from fedrec.scientist.runs import Run
from fedrec.simulation import pooled


@pytest.fixture(scope="module")
def example():
    frames, held = generated()
    return simulated(frames), held


@pytest.fixture(scope="module")
def lines(example):
    federation, held = example
    return list(rounds(Run.start(plan(), federation), held))


def test_it_is_the_articles_setting(example):
    made = plan()
    federation, (features, outcomes) = example
    assert (len(federation.sites()), features.shape[1], made.spec.rounds) == (10, 10, 10)
    assert made.spec.leaves["weights"].shape == (11,)
    assert len(outcomes) == 2000
    assert (made.spec.local["optimiser"], made.spec.aggregator["name"]) == ("adam", "weighted-mean")


def test_held_out_loss_falls_over_the_rounds(lines):
    losses = [row["log-loss"] for row in lines]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)  # ln 2: the unit knows nothing
    assert all(after < before for before, after in pairwise(losses[:6]))
    assert losses[-1] == pytest.approx(min(losses), abs=1e-4)
    assert losses[-1] < 0.4


def test_it_ends_within_a_hundredth_of_pooled_training(example, lines):
    federation, held = example
    *_, last = rounds(Run.start(plan(), pooled(federation)), held)
    assert lines[-1]["auc"] == pytest.approx(last["auc"], abs=0.01)
    assert last["auc"] > 0.85


def test_as_printed_with_a_new_state_every_round_nothing_is_learnt_over_rounds(example, lines):
    """The control: ten first rounds are one round."""
    federation, held = example
    losses = set()
    for _ in range(3):
        run = Run.start(plan(), federation)
        next(run.rounds())
        losses.add(judged(run.shared["weights"], held).means()["log-loss"])
    assert losses == {lines[1]["log-loss"]}
    assert lines[-1]["log-loss"] < losses.pop() - 0.05


def test_it_prints_a_row_for_each_round_one_for_pooled_rows_and_the_model(capsys, example):
    assert sigmoid_unit.main(real=False) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + 11 + 1 + 1
    assert printed[-2].startswith("pooled")
    assert printed[-1].endswith(table(*example)[1])


@pytest.mark.sites
@pytest.mark.timeout(120)
def test_on_datasites_the_table_and_the_model_are_the_simulations_and_every_site_ends(tmp_path):
    """Two of the ten: `python -m fedrec.examples.sigmoid_unit --real` starts all."""
    frames, held = generated(rows=50, institutions=2)
    said: list[str] = []
    with approved(tmp_path / "consortium", frames, plan(), said.append) as federation:
        assert federation.sites() == ("i0", "i1")
        assert len(of_folder(tmp_path)) == 2
        on_sites, model = table(federation, held)
    expected, same = table(simulated(frames), held)
    assert on_sites.equals(expected)
    assert model == same
    assert of_folder(tmp_path) == []
    assert [text for text in said if text.startswith("2 owners read and approved it")]


def of_folder(folder: Path) -> list[int]:
    """Sites that serve a folder below it."""
    pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    return [pid for pid in pids if f"serve\0{folder}" in _line(pid)]


def _line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
