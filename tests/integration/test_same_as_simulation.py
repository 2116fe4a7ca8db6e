"""Four real datasites give the very model that the simulation gives, which equals central training."""

from __future__ import annotations

import numpy as np
import pytest
import real_sites
from real_sites import approved, fresh

import fedrec
from fedrec.examples.my_factors import MyFactors
from fedrec.simulation import pooled

pytestmark = pytest.mark.sites


@pytest.fixture(scope="module")
def simulated(sites):
    return real_sites.simulated(sites)


def test_ease_over_four_sites_is_the_simulated_model_to_the_bit_and_the_central_one_to_a_millionth(
    federation, owners, simulated
):
    plan = fresh(fedrec.models.Ease(l2=200.0), train=("p1", "all"), evaluate=True)
    approved(federation, owners, plan)
    real, same = federation.train(plan, protocol="all"), simulated.train(plan, protocol="all")
    assert real.model_sha256 == same.model_sha256
    assert real.log[0]["sites"] == list(federation.sites())
    whole = pooled(simulated)
    central = whole.train(plan, protocol="all")
    rows = whole._rows["all"].take(np.arange(20_000))  # scores of some hundred users say as much as all
    nothing = fedrec.core.params.PrivateParams({})
    scores = [plan.built.score(rows, run.shared, nothing) for run in (real, central)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-6)


def test_evaluation_over_four_sites_gives_the_simulated_numbers(federation, owners, simulated):
    plan = fresh(fedrec.models.Ease(l2=200.0), evaluate=True)
    approved(federation, owners, plan)
    table, same = federation.train(plan).evaluate(), simulated.train(plan).evaluate()
    assert table.to_dict() == same.to_dict()
    mean = table.set_index(["scope", "institution"]).loc[("federated", "all")]
    # the anchors of docs: EASE with l2 = 200 on the last-item split of ML-100K
    assert mean["users"] == 943
    assert mean["hr@10"] == pytest.approx(0.154, rel=0.01)
    assert mean["ndcg@10"] == pytest.approx(0.0785, rel=0.01)


def test_own_code_over_four_sites_is_the_simulated_model_to_the_bit_and_the_recipe_to_a_hundred_thousandth(
    federation, owners, simulated
):
    own = fresh(code=MyFactors, rounds=4, name="my_factors", evaluate=True)
    recipe = fresh(fedrec.models.MF(), rounds=4)
    approved(federation, owners, own)
    real, same = federation.train(own), simulated.train(own)
    assert [line["model"] for line in real.log] == [line["model"] for line in same.log]  # round by round
    built_in = simulated.train(recipe)
    np.testing.assert_allclose(real.shared["items"], built_in.shared["items"], rtol=0, atol=1e-5)
    # user vectors stay at the sites, so their effect is seen in what the sites count
    assert real.evaluate().to_dict() == same.evaluate().to_dict()


def test_local_epochs_sampled_sites_qualities_and_int8_over_four_sites_are_the_simulated_run_to_the_bit(
    federation, owners, simulated
):
    """Two of four sites a round, parameters after local epochs as int8, weights by the quality that the sites released."""
    plan = fresh(
        fedrec.models.MF(factors=8),
        rounds=6,
        evaluate=True,
        local=fedrec.models.LocalEpochs(2, proximal=0.01),
        aggregator=fedrec.aggregation.WeightedMean("interactions*model-quality"),
        schedule=fedrec.aggregation.Sampled(2, seed=1),
        stop=fedrec.aggregation.Stop(patience=3),
        codec="int8",
    )
    approved(federation, owners, plan)
    real, same = federation.train(plan), simulated.train(plan)
    # with all calls less than two sites' bare arrays as float32; a site's first round also lists this account's plans
    seen = [set().union(*(line["sites"] for line in real.log[:number])) for number in range(len(real.log))]
    known = [line["bytes_up"] for line, before in zip(real.log, seen, strict=True) if set(line["sites"]) <= before]
    assert max(known) < 2 * 1682 * 8 * 4
    facts = ("model", "sites", "weights", "quality", "norm")
    assert [[line[key] for key in facts] for line in real.log] == [[line[key] for key in facts] for line in same.log]
    assert {len(line["sites"]) for line in real.log} == {2}
    assert real.evaluate().to_dict() == same.evaluate().to_dict()


def test_asynchronous_rounds_over_four_sites_merge_whoever_has_answered(federation, owners):
    plan = fresh(fedrec.models.MF(factors=8), rounds=6, schedule=fedrec.aggregation.Buffered(2))
    approved(federation, owners, plan)
    run = federation.train(plan)
    assert [len(line["sites"]) for line in run.log] == [2] * 6
    assert {site for line in run.log for site in line["sites"]} <= set(federation.sites())
    assert np.isfinite(run.shared["items"]).all()


def test_control_variates_stay_at_four_sites_from_round_to_round_as_in_the_simulation(federation, owners, simulated):
    local = fedrec.models.LocalEpochs(2, rate=0.5, optimiser="sgd", scaffold=True)
    plan = fresh(fedrec.models.MF(factors=4), rounds=3, local=local)
    approved(federation, owners, plan)
    assert federation.train(plan).model_sha256 == simulated.train(plan).model_sha256
