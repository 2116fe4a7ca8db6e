"""SCAFFOLD: institutions of different curvature do not drift to their own optima, which is what FedAvg does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from federating import deal

import fedrec
from fedrec import models
from fedrec.aggregation import CoordinateMedian, Sampled, SiteUpdate, WeightedMean
from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams, SharedParams, add, moved
from fedrec.errors import WrongInput
from fedrec.models import LocalEpochs
from fedrec.scientist.runs import Run
from fedrec.simulation import SimulatedFederation

ROWS = Interactions(*(np.zeros(1, dtype=kind) for kind in (np.int32, np.int32, np.float32, np.int64)), 1, 1)
SITES = {"steep": (9.0, 0.0), "flat": (1.0, 10.0)}  # curvature and optimum: the pooled one is 1, their mean is 5


@dataclass(frozen=True)
class Bowl:
    """curvature/2 (w - optimum)^2."""

    curvature: float
    optimum: float
    by_user = False

    def fit_site(self, rows, shared, private):
        return SharedParams({"w": np.float32(self.curvature) * (shared["w"] - np.float32(self.optimum))}), private


def federated(local: LocalEpochs, rounds: int = 60) -> float:
    """Where two institutions with five local epochs end."""
    shared, merges = local.begin(SharedParams({"w": np.array([4.0], dtype=np.float32)})), WeightedMean()
    private = {site: PrivateParams({}) for site in SITES}
    for _ in range(rounds):
        updates = []
        for site, bowl in SITES.items():
            parameters, private[site] = local.fit(Bowl(*bowl), ROWS, shared, private[site])
            updates.append(SiteUpdate(site, 1.0, moved(parameters, shared, descends=False), 1, {}))
        shared = add(shared, merges.apply({}, shared, updates)[0])
    return float(shared["w"][0])


def test_it_finds_the_pooled_optimum_where_local_epochs_alone_do_not():
    sgd = {"epochs": 5, "rate": 0.1, "optimiser": "sgd"}
    assert federated(LocalEpochs(**sgd, scaffold=True)) == pytest.approx(1.0, abs=1e-3)
    assert federated(LocalEpochs(**sgd)) > 2  # the control


def test_the_central_variate_is_the_mean_of_those_that_stay_at_the_sites(checkerboard):
    sites = SimulatedFederation(
        {str(n): part for n, part in enumerate(deal(checkerboard, 3, "taste"))}, checkerboard.n_items
    )
    run = sites.train(plan(rounds=4))
    own = [states[max(states)]["control_items"] for states in sites._private.values()]
    rows = [run.log[-1]["weights"][key[0]] for key in sites._private]
    assert np.std(own, axis=0).max() > 1e-4
    np.testing.assert_allclose(run.shared["control_items"], np.average(own, axis=0, weights=rows), atol=1e-5)


def test_a_resumed_run_has_its_variates(checkerboard, tmp_path):
    sites = SimulatedFederation({str(n): part for n, part in enumerate(deal(checkerboard, 3))}, checkerboard.n_items)
    whole = sites.train(plan(rounds=4))
    begun = Run.start(plan(rounds=4), sites, folder=tmp_path)
    rounds = begun.rounds()
    next(rounds), next(rounds)
    rounds.close()
    assert Run.load(sites, begun.folder).resume().model_sha256 == whole.model_sha256


def test_a_further_run_goes_on_with_the_central_variate(checkerboard):
    sites = SimulatedFederation({str(n): part for n, part in enumerate(deal(checkerboard, 3))}, checkerboard.n_items)
    first = sites.train(plan())
    more = sites.train(plan(start_from=first, rounds=1))
    assert abs(first.shared["control_items"]).max() > 0
    assert more.model_sha256 != first.model_sha256


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"local": LocalEpochs(2, optimiser="sgd", scaffold=True), "schedule": Sampled(2)}, "all sites"),
        ({"local": LocalEpochs(2, optimiser="sgd", scaffold=True), "aggregator": CoordinateMedian()}, "mean"),
    ],
)
def test_what_it_does_not_fit_is_refused_with_the_plan(changes, says):
    with pytest.raises(WrongInput, match=says):
        fedrec.Plan(model=models.MF(factors=4), train=("p1",), **changes)


def test_it_corrects_plain_descent_only():
    with pytest.raises(WrongInput, match="sgd"):
        LocalEpochs(2, scaffold=True)


def plan(**more):
    local = LocalEpochs(2, rate=0.5, optimiser="sgd", batch=0, scaffold=True)
    return fedrec.Plan(model=models.MF(factors=4), local=local, train=("p1",), **{"rounds": 3, **more})
