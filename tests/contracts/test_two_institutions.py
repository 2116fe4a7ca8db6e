"""The article's two institutions, A and B, with every number done by hand; notebook 5 prints them.

The losses are (theta - 2)^2 / 2 and (theta - 6)^2 / 2. theta starts at 0; after one local step of rate .5 theta_A = 1
and theta_B = 3, where the gradients are -1 and -3; at the global theta = 0 they are -2 and -6.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from fedrec.aggregation import Adam, GradientMean, GradientSum, Mean, SiteUpdate, Sum, WeightedMean
from fedrec.core.params import SharedParams

ROWS = {"A": 100, "B": 300}
LOCAL, AT_LOCAL, AT_GLOBAL = {"A": 1.0, "B": 3.0}, {"A": -1.0, "B": -3.0}, {"A": -2.0, "B": -6.0}
THETA = SharedParams({"theta": np.zeros(1, np.float32)})


def updates(values):
    return [SiteUpdate(s, ROWS[s], SharedParams({"theta": np.array([v], np.float32)})) for s, v in values.items()]


def theta_after(aggregator, values, start=0.0):
    step = aggregator.apply(aggregator.init(THETA), THETA, updates(values))[0]["theta"]
    return float(step[0]) + (start if aggregator.descends else 0.0)


def test_the_articles_two_institutions_by_hand():
    """(1 + 3) / 2 = 2; by rows (1·100 + 3·300) / 400 = 2.5; the sum is 4."""
    assert theta_after(Mean(), LOCAL) == 2.0
    assert theta_after(WeightedMean(), LOCAL) == 2.5
    assert theta_after(Sum(), LOCAL) == 4.0


def test_gradients_at_local_parameters_are_not_those_at_the_global_one():
    """theta - alpha (1/N) sum: 0 + .5 · (1 + 3) / 2 = 1 at the local parameters, 0 + .5 · (2 + 6) / 2 = 2 at the global."""
    assert theta_after(GradientMean(0.5), AT_LOCAL) == 1.0
    assert theta_after(GradientMean(0.5), AT_GLOBAL) == 2.0


def test_one_learning_rate_per_institution():
    """theta - alpha_A g_A - alpha_B g_B = 0 + .5 · 1 + .1 · 3 = .8; unnamed institutions have the common rate."""
    assert theta_after(GradientSum.of({"A": 0.5, "B": 0.1}), AT_LOCAL) == pytest.approx(0.8, abs=1e-6)
    assert theta_after(GradientSum.of({"A": 0.5}, others=0.25), AT_LOCAL) == pytest.approx(1.25, abs=1e-6)
    assert theta_after(GradientSum.of({"B": 0.1, "A": 0.5}), AT_LOCAL) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("gradients", [AT_LOCAL, AT_GLOBAL])
def test_the_two_gradient_forms_differ_by_the_number_of_institutions(gradients):
    """With equal rates the sum steps N = 2 times as far; the mean with rate N alpha is the sum with alpha."""
    assert theta_after(GradientSum(0.5), gradients) == 2 * theta_after(GradientMean(0.5), gradients)
    assert theta_after(GradientMean(1.0), gradients) == theta_after(GradientSum(0.5), gradients)


def test_adam_steps_against_the_merged_gradient_by_hand():
    """Its first step is lr times the sign of the gradient, whatever its size."""
    assert theta_after(Adam(lr=0.5, weight_decay=0.0, inner=Mean()), AT_LOCAL) == pytest.approx(0.5, rel=1e-6)


def test_the_notebook_prints_these_numbers(capsys):
    source = Path(__file__).parents[2] / "notebooks" / "src" / "05_aggregation.py"
    names = runpy.run_path(str(source))
    said = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert said == ["2.0", "2.5", "1.0", "2.0", "2.0", "0.8", "2.0", "2.0", "2.5", "3.0", "2.0", "4.0"]
    assert names["table"].loc["mean"].tolist() == [2.0, 334.67]
    assert names["table"].loc["median"].tolist() == [2.0, 3.0]
