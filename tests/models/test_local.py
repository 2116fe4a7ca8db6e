"""Parameters after local epochs: FedAvg and FedProx against what they must equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federating import deal

import fedrec
from fedrec import models
from fedrec.aggregation import GradientMean, Mean, Momentum, WeightedMean
from fedrec.core.params import PrivateParams, add
from fedrec.errors import WrongInput
from fedrec.institution import work
from fedrec.models import LocalEpochs
from fedrec.simulation import SimulatedFederation, pooled

OWN = Path(models.__file__).parents[1].joinpath("examples/my_factors.py").read_text(encoding="utf-8")
GRADIENTS = [models.MF(factors=8), models.OwnModel(OWN, {"factors": 8})]
gradients = pytest.mark.parametrize("model", GRADIENTS, ids=lambda model: model.name)
NOTHING = PrivateParams({})


def plan(model, local, rounds=3, **more):
    code = {"code": model.text, "settings": model.settings} if isinstance(model, models.OwnModel) else {"model": model}
    return fedrec.Plan(**code, local=local, rounds=rounds, train=("p1",), **more)


def federation(rows, k=3, by="iid"):
    return SimulatedFederation({str(n): part for n, part in enumerate(deal(rows, k, by))}, rows.n_items)


@gradients
def test_one_epoch_of_plain_descent_is_the_gradient_method(model, checkerboard):
    """Mean of (theta - eta g_i) = theta - eta mean g_i: McMahan's FedSGD, whichever of the two leaves."""
    sites = federation(checkerboard)
    sgd = LocalEpochs(1, rate=0.5, optimiser="sgd", batch=0)
    parameters = sites.train(plan(model, sgd, aggregator=Mean())).shared["items"]
    gradient = sites.train(plan(model, None, aggregator=GradientMean(0.5))).shared["items"]
    np.testing.assert_allclose(parameters, gradient, atol=1e-6)


@gradients
def test_the_second_epochs_gradient_is_taken_at_the_local_parameters(model, checkerboard):
    """theta_1 = theta - eta g(theta), theta_2 = theta_1 - eta g(theta_1); not theta - 2 eta g(theta)."""
    start = model.init(checkerboard.n_items, 0)
    theta, private = start, NOTHING
    for _ in range(2):
        gradient, private = model.fit_site(checkerboard, theta, private)
        theta = add(theta, type(theta)({"items": (-0.5 * gradient["items"]).astype(np.float32)}))
    found, _ = LocalEpochs(2, rate=0.5, optimiser="sgd", batch=0).fit(model, checkerboard, start, NOTHING)
    np.testing.assert_allclose(found["items"], theta["items"], atol=1e-7)


@gradients
def test_what_came_in_stays_as_it_was_and_the_same_gives_the_same_bytes(model, checkerboard):
    local, start = LocalEpochs(2, batch=16, proximal=0.1), model.init(checkerboard.n_items, 0)
    _, private = local.fit(model, checkerboard, start, NOTHING)
    before = [a.tobytes() for p in (start, private) for a in p.tensors.values()]
    one, two = (local.fit(model, checkerboard, start, private) for _ in range(2))
    assert before == [a.tobytes() for p in (start, private) for a in p.tensors.values()]
    for a, b in zip(one, two, strict=True):
        assert all(a[name].tobytes() == b[name].tobytes() for name in a.tensors)


def test_a_batch_of_all_users_is_no_batch_and_small_ones_keep_each_users_vector(checkerboard):
    model, start = GRADIENTS[0], GRADIENTS[0].init(checkerboard.n_items, 0)
    whole, one = (LocalEpochs(2, batch=size).fit(model, checkerboard, start, NOTHING) for size in (0, 80))
    assert whole[0]["items"].tobytes() == one[0]["items"].tobytes()
    _, private = LocalEpochs(1, rate=1e-12, batch=7).fit(model, checkerboard, start, NOTHING)
    _, straight = model.fit_site(checkerboard, start, NOTHING)
    for name in ("users", "users_mean", "users_square"):
        np.testing.assert_allclose(private[name], straight[name], atol=1e-8)
    assert private["step"].tolist() == straight["step"].tolist() == [5]


@gradients
def test_a_strong_proximal_term_holds_an_institution_at_the_global_model(model, checkerboard):
    start = model.init(checkerboard.n_items, 0)
    away = {
        mu: np.linalg.norm(
            LocalEpochs(10, rate=0.05, optimiser="sgd", proximal=mu).fit(model, checkerboard, start, NOTHING)[0][
                "items"
            ]
            - start["items"]
        )
        for mu in (0.0, 1.0, 10.0)
    }
    assert away[0.0] > away[1.0] > 1.5 * away[10.0] > 0


def test_an_institution_alone_is_the_federation_of_one(checkerboard):
    local = LocalEpochs(2)
    asked = plan(GRADIENTS[0], local)
    one = pooled(federation(checkerboard)).train(asked)
    rows = pooled(federation(checkerboard))._rows["all"]
    optimiser = fedrec.core.optim.from_settings(asked.spec.aggregator)
    shared, _ = work.train_alone(GRADIENTS[0], rows, "p1", 3, optimiser, 0, local)
    np.testing.assert_array_equal(shared["items"], one.shared["items"])


def test_a_server_optimiser_of_rate_one_without_momentum_is_the_mean_of_parameters(checkerboard):
    sites = federation(checkerboard)
    mean = sites.train(plan(GRADIENTS[0], LocalEpochs(2)))
    momentum = sites.train(plan(GRADIENTS[0], LocalEpochs(2), aggregator=Momentum(1.0, 0.0, WeightedMean())))
    other = sites.train(plan(GRADIENTS[0], LocalEpochs(2), aggregator=GradientMean(1.0)))
    np.testing.assert_allclose(momentum.shared["items"], mean.shared["items"], atol=1e-6)
    assert abs(other.shared["items"] - mean.shared["items"]).max() < 0.01  # the same but for the weights


@gradients
@pytest.mark.parametrize("by", ["iid", "taste"])
def test_local_epochs_learn(model, by, checkerboard):
    sites = deal(checkerboard, 3, by)
    federated = SimulatedFederation({str(n): part for n, part in enumerate(sites)}, checkerboard.n_items)
    run = federated.train(plan(model, LocalEpochs(5, rate=0.03), rounds=8, evaluate=True))
    table = run.evaluate().set_index(["scope", "institution"])["ndcg@10"]
    assert table["federated", "all"] > 1.3 * table["popularity", "all"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"epochs": 2}, "'parameters'"),
        ({"update": "gradient", "epochs": 2}, "'parameters'"),
        ({"update": "parameters", "epochs": 0}, "above 0"),
        ({"update": "parameters", "optimiser": "lamb"}, "'adam' or 'sgd'"),
        ({"update": "parameters", "proximal": -1.0}, "0 or more"),
        ({"update": "parameters", "steps": 1}, "allowed: epochs"),
    ],
)
def test_a_wrong_table_is_refused_with_what_is_allowed(table, says):
    with pytest.raises(WrongInput, match=says):
        LocalEpochs.from_table(table)


def test_a_table_makes_the_same_epochs():
    local = LocalEpochs(5, proximal=0.1, optimiser="sgd")
    assert LocalEpochs.from_table(local.table()) == local
    assert LocalEpochs.from_table({}) is LocalEpochs.from_table({"update": "gradient"}) is None
