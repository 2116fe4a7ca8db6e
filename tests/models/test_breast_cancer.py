"""A real table of outcomes, and scikit-learn beside: four clinics train what one with all rows would."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from federating import federate
from sklearn.linear_model import LogisticRegression

from fedrec import models
from fedrec.core.outcomes import measure, yes
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.models.features import USER, inputs
from fedrec.simulation import pooled

bench = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "breast_cancer.py")))
EASY = ("user.mean_texture", "user.mean_smoothness", "user.mean_symmetry")  # their optimum is near: no weight is large


@pytest.fixture(scope="module")
def clinics():
    return bench.clinics("size")


@pytest.fixture(scope="module")
def optimum(clinics):
    """scikit-learn's weights for the EASY columns of all women, without a penalty."""
    settings = {"columns": EASY, "centre": (19.0, 0.096, 0.18), "scale": (4.3, 0.014, 0.027)}
    model = models.Logistic(**settings)
    (rows,) = pooled(clinics)._rows.values()
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(inputs(model, rows, USER), yes(rows))
    return model, rows, fitted, np.append(fitted.coef_[0], fitted.intercept_)


def test_federated_is_pooled_and_as_good_as_scikit_learn_on_women_held_out(clinics):
    model = bench.prepared(clinics)
    found = bench.judged(clinics, model)
    assert found["federated"]["auc"] == pytest.approx(found["pooled"]["auc"], abs=0.01)
    assert found["federated"]["auc"] > 0.97 > 0.6 > found["popularity"]["auc"]
    assert found["federated"]["auc"] == pytest.approx(bench.scikit(clinics, model)["auc"], abs=0.01)


def test_sixteen_small_clinics_gain_by_it():
    """Four clinics with 85 women each do not: the table is easy, see the benchmark. Means over who is held out."""
    found = []
    for seed in range(3):
        small = bench.clinics("iid", 16, seed)
        found.append(bench.judged(small, bench.prepared(small, seed), seed))
    means = {
        (scope, figure): np.mean([one[scope][figure] for one in found])
        for scope in ("federated", "local")
        for figure in ("auc", "log-loss")
    }
    assert means["federated", "auc"] > means["local", "auc"] + 0.002
    assert means["federated", "log-loss"] < means["local", "log-loss"] - 0.02


def test_at_scikit_learns_optimum_the_clinics_gradient_is_nothing(clinics, optimum):
    model, rows, fitted, weights = optimum

    def gradient(at):
        parts = [
            (len(part), model.fit_site(part, SharedParams({"weights": at}), PrivateParams({}))[0]["weights"])
            for part in clinics._rows.values()
        ]
        return sum(count * one for count, one in parts) / len(rows)

    assert abs(gradient(weights)).max() < 1e-5
    assert abs(gradient(weights * 0.9)).max() > 1e-3
    theirs = fitted.predict_proba(inputs(model, rows, USER))[:, 1]
    np.testing.assert_allclose(model.probability(rows, SharedParams({"weights": weights})), theirs, atol=1e-9)


def test_a_hundred_federated_rounds_come_to_scikit_learns_loss(clinics, optimum):
    model, rows, _, weights = optimum
    shared, _ = federate(model, list(clinics._rows.values()), "all", 100)
    found, best, nothing = (
        measure(model.probability(rows, SharedParams({"weights": one})), yes(rows)).means()["log-loss"]
        for one in (shared["weights"], weights, np.zeros(len(weights)))
    )
    assert found == pytest.approx(best, abs=1e-3)
    assert nothing > best + 0.1
