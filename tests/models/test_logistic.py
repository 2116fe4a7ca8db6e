"""Yes/no outcomes from features: the gradient is right, the preparation is one, together is as good as pooled."""

from dataclasses import replace

import numpy as np
import pytest
from federating import federate

import fedrec
from fedrec import models
from fedrec.core.features import from_values
from fedrec.core.interactions import Interactions
from fedrec.core.outcomes import Outcomes
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.errors import WrongInput
from fedrec.institution import work
from fedrec.simulation import SimulatedFederation, pooled

NOTHING = PrivateParams({})


def patients(n=600, sites=4, seed=0):
    """A risk that grows with dose and with one of three wards; a tenth of the doses is unknown. No two are alike."""
    rng = np.random.default_rng(seed)
    dose, ward = rng.normal(100, 20, n), rng.integers(0, 3, n)
    happened = rng.random(n) < 1 / (1 + np.exp(-((dose - 100) / 10 + 2.0 * (ward == 1) - 0.5)))
    height = rng.normal(170, 9, n)
    unknown = rng.random(n) < 0.1
    found = {}
    for number in range(sites):
        mine = np.arange(number, n, sites)
        k = len(mine)
        known = from_values(
            {
                "dose": [None if unknown[u] else float(dose[u]) for u in mine],
                "ward": [f"w{ward[u]}" for u in mine],
                "height": [float(height[u]) for u in mine],
            },
            k,
        )
        rows = np.arange(k, dtype=np.int32)
        found[str(number)] = Interactions(
            rows, np.zeros(k, np.int32), happened[mine].astype(np.float32), None, k, 1, known
        )
    return SimulatedFederation(found, 1)


WANTED = ("user.dose", "user.ward=w0", "user.ward=w1", "user.ward=w2")


def prepared(federation, **settings):
    sums = models.FeatureSums(WANTED, outcome=True, **settings)
    run = federation.train(fedrec.Plan(model=sums, train=("p1",)))
    return sums.settings(run.shared)


def judged(federation, model, rounds=60):
    run = federation.train(fedrec.Plan(model=model, rounds=rounds, train=("p1",)))
    total = Outcomes()
    for rows in federation._rows.values():
        answer = work.evaluate(model, rows, "p1", run.shared, NOTHING, 0, None)
        total += Outcomes.from_dict(answer["federated"])
    return run.shared, total.means()


def test_the_gradient_is_that_of_the_mean_cross_entropy():
    (rows,) = patients(sites=1)._rows.values()
    rows = replace(rows, items=from_values({"price": [2.0]}, 1))
    model = models.Logistic((*WANTED, "item.price"), (100.0, 0.0, 0.0, 0.0, 1.0), (20.0, 1.0, 1.0, 1.0, 1.0))
    at = np.random.default_rng(0).normal(size=6)

    def loss(weights):
        p = model.probability(rows, SharedParams({"weights": weights}))
        return -np.where(rows.rating > 0, np.log(p), np.log1p(-p)).mean()

    contribution, _ = model.fit_site(rows, SharedParams({"weights": at}), NOTHING)
    steps = 1e-5 * np.eye(6)
    np.testing.assert_allclose(
        contribution["weights"], [(loss(at + s) - loss(at - s)) / 2e-5 for s in steps], atol=1e-5
    )


def test_preparation_is_the_same_for_one_institution_and_for_four():
    federation = patients()
    four, one = prepared(federation, least=2), prepared(pooled(federation), least=2)
    assert four["columns"] == one["columns"] == ("user.dose", "user.dose?", *WANTED[1:])
    np.testing.assert_allclose(four["centre"], one["centre"], rtol=1e-5)
    (rows,) = pooled(federation)._rows.values()
    dose = rows.users.column("dose")[work._split(models.Logistic(), rows, "p1", 0).train.user]
    assert four["centre"][0] == pytest.approx(np.nanmean(dose), rel=1e-5)
    assert four["scale"][0] == pytest.approx(np.nanstd(dose), rel=1e-5)
    assert four["centre"][1] == pytest.approx(np.isnan(dose).mean(), rel=1e-5)


def test_a_value_of_too_few_users_does_not_leave():
    known = from_values({"ward": ["rare"] * 3 + ["common"] * 40 + ["other"] * 40, "dose": [1.0] * 3 + [None] * 80}, 83)
    user = np.arange(83, dtype=np.int32)
    rows = Interactions(user, np.zeros(83, np.int32), np.ones(83, np.float32), None, 83, 1, known)
    columns = ("user.ward=rare", "user.ward=common", "user.dose")
    for least, shown in ((4, [False, True, False]), (3, [True, True, True])):
        sums = models.FeatureSums(columns, least=least)
        found, _ = sums.fit_site(rows, sums.init(1, 0), NOTHING)
        assert found["sums"].any(1).tolist() == shown


def test_items_columns_are_weighed_by_train_rows():
    """Item 0 (price 1) is touched by two users, item 1 (price 4) by one: mean 2, and nothing unknown."""
    rows = Interactions(
        np.array([0, 1, 1], np.int32), np.array([0, 0, 1], np.int32), np.ones(3, np.float32), None, 2, 2,
        None, from_values({"price": [1.0, 4.0]}, 2),
    )  # fmt: skip
    sums = models.FeatureSums(("item.price",), least=1)
    found, _ = sums.fit_site(rows, sums.init(2, 0), NOTHING)
    np.testing.assert_array_equal(found["sums"], [[0, 3, 6, 18]])


def test_four_institutions_train_the_pooled_model_and_find_the_risk():
    federation = patients()
    model = models.Logistic(**prepared(federation))
    together, means = judged(federation, model)
    alone, central = judged(pooled(federation), model)
    np.testing.assert_allclose(together["weights"], alone["weights"], atol=1e-5)
    assert means["auc"] == pytest.approx(central["auc"], abs=1e-4)
    _, blind = judged(federation, models.Logistic())
    assert means["auc"] > 0.75 > blind["auc"]
    assert means["log-loss"] < blind["log-loss"] - 0.1
    assert means["calibration"] < 0.12


def test_shuffled_outcomes_are_predicted_at_chance():
    """The leak test: features of held-out users are known, their outcomes must not be."""
    federation, rng = patients(n=2000), np.random.default_rng(5)
    rows = {name: replace(r, rating=rng.permutation(r.rating)) for name, r in federation._rows.items()}
    shuffled = SimulatedFederation(rows, 1)
    _, means = judged(shuffled, models.Logistic(**prepared(shuffled)))
    assert abs(means["auc"] - 0.5) < 0.08


def test_evaluation_compares_with_alone_and_with_the_share_of_yes():
    federation = patients()
    model = models.Logistic(**prepared(federation))
    run = federation.train(fedrec.Plan(model=model, rounds=40, train=("p1",)))
    rows = federation._rows["0"]
    found = work.evaluate(model, rows, "p1", run.shared, NOTHING, 0, lambda: (model.init(1, 0), NOTHING))
    means = {scope: Outcomes.from_dict(sums).means() for scope, sums in found.items()}
    assert set(means) == {"federated", "local", "popularity"}
    assert means["local"]["auc"] == means["popularity"]["auc"] == 0.5
    assert means["federated"]["log-loss"] < means["popularity"]["log-loss"]


def test_a_run_is_evaluated_validated_searched_and_drawn_by_its_area():
    federation = patients()
    model = models.Logistic(**prepared(federation))
    plan = fedrec.Plan(model=model, rounds=30, train=("p1",), evaluate=True, validate=1)
    run = federation.train(plan)
    table = run.evaluate().set_index(["scope", "institution"])
    assert table.loc[("federated", "all"), "auc"] > table.loc[("popularity", "all"), "auc"] + 0.2
    assert table.loc[("federated", "all"), "users"] == table.loc["federated"]["users"][:-1].sum()
    assert run.validate().set_index("institution").loc["all", "auc"] > 0.7
    assert run.plot() is not None
    assert run.plot("auc") is not None
    assert "p1 auc" in set(run.compare(run).iloc[:, 0].astype(str)) | set(run.compare(run).index.astype(str))
    found = federation.search(plan, {"columns": [[], list(model.columns)], "centre": [[]], "scale": [[]]})
    assert found.settings["columns"] == list(model.columns)


def test_the_score_of_a_pair_is_the_probability_of_its_row():
    federation = patients()
    model, (rows, *_) = models.Logistic(**prepared(federation)), federation._rows.values()
    shared = SharedParams({"weights": np.arange(len(model.columns) + 1) / 10})
    np.testing.assert_allclose(
        model.score(rows, shared, NOTHING)[rows.user, rows.item], model.probability(rows, shared)
    )
    np.testing.assert_allclose(work.scorer(model, rows, shared, NOTHING)(3, 9), model.score(rows, shared, NOTHING)[3:9])


@pytest.mark.parametrize(
    "settings",
    [
        {"columns": ("age",)},
        {"columns": ("user.age", "user.age")},
        {"columns": ("user.age",), "centre": (1.0, 2.0)},
        {"columns": ("user.age",), "centre": ("x",)},
        {"columns": ("user.age",), "scale": (0.0,)},
    ],
)
def test_columns_that_cannot_be_read_are_refused(settings):
    with pytest.raises(WrongInput, match=r"columns|centre|scale"):
        models.Logistic(**settings)


def test_the_model_survives_its_plan():
    model = models.Logistic(**prepared(patients()))
    assert fedrec.Plan.from_text(fedrec.Plan(model=model).text).built == model
    assert fedrec.Plan(model=model).spec.features == ("users",)


def test_a_job_gets_no_features_that_the_plan_does_not_name():
    rows = patients()._rows["0"]
    from fedrec.institution.perform import perform

    plan = fedrec.Plan(model=models.Logistic(), train=("all",))
    blind = replace(rows, users=None)
    same = [perform(plan.spec, "train", "all", r, plan.built.init(1, 0).tensors, {}).update for r in (rows, blind)]
    assert same[0]["weights"].tobytes() == same[1]["weights"].tobytes()
    assert federate(models.Logistic(), [rows], "all", 2)[0]["weights"].shape == (1,)
