"""Is it worth it for us: intervals from sums alone, and the sentence."""

import numpy as np
import pandas as pd
import pytest

import fedrec
from fedrec.core.metrics import EVERY_USER, Sums, bootstrap
from fedrec.core.outcomes import Outcomes
from fedrec.errors import WrongInput
from fedrec.scientist.federation import Answer
from fedrec.scientist.worth import verdict, worth
from fedrec.simulation import pooled


def users(ndcg):
    """Values of users of whom only NDCG@10 is set."""
    found = np.zeros((len(ndcg), len(EVERY_USER)))
    found[:, 1] = ndcg
    return found


def test_intervals_from_sums_are_those_of_the_bootstrap_over_users():
    """Of a mean and of a paired difference, on skewed values of 400 users; the bootstrap sees every user."""
    rng = np.random.default_rng(5)
    alone = np.where(rng.random(400) < 0.15, rng.random(400), 0.0)
    together = np.clip(alone + np.where(rng.random(400) < 0.1, rng.normal(0.3, 0.2, 400), 0.0), 0, 1)
    ours, theirs = Sums.of(users(together)), Sums.of(users(alone), users(together))
    drawn = rng.integers(0, 400, (5000, 400))
    for found, values in ((ours.interval(), together), (theirs.gain(ours)[1:], together - alone)):
        expected = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
        assert found == pytest.approx(expected, abs=0.1 * (expected[1] - expected[0]))


def test_the_bootstrap_of_counted_values_is_that_of_drawn_users():
    rng = np.random.default_rng(3)
    values = np.where(rng.random(150) < 0.2, np.round(rng.random(150), 1), 0.0)
    drawn = values[rng.integers(0, 150, (20_000, 150))].mean(axis=1)
    assert bootstrap(values, 1, 20_000) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=2e-3)
    assert bootstrap(values[:1], 1) is None


def test_a_paired_interval_is_narrower_than_two_intervals_apart():
    """Control for the pairing: equal gains of unequal users are certain, the means themselves are not."""
    alone = np.random.default_rng(1).random(100) * 0.8
    ours, theirs = Sums.of(users(alone + 0.1)), Sums.of(users(alone), users(alone + 0.1))
    gain, low, high = theirs.gain(ours)
    assert (gain, high - low) == (pytest.approx(0.1), pytest.approx(0, abs=1e-6))
    below, above = ours.interval()
    assert above - below > 0.05


def test_institutions_add_up_to_the_interval_of_all_users():
    rng = np.random.default_rng(2)
    alone, together = rng.random(60), rng.random(60)
    apart = [Sums.of(users(alone[part]), users(together[part])) for part in (slice(0, 20), slice(20, 60))]
    ours = sum((Sums.of(users(together[part])) for part in (slice(0, 20), slice(20, 60))), start=Sums())
    whole = Sums.of(users(alone), users(together))
    assert sum(apart, start=Sums()).gain(ours) == pytest.approx(whole.gain(Sums.of(users(together))))


def test_one_user_has_no_interval():
    assert Sums.of(users([1.0])).interval() is None
    assert Sums().gain(Sums()) is None


BASE = {"users": 50, "popularity": 0.05, "local": 0.1, "federated": 0.15, "gain": 0.05, "low": 0.01, "high": 0.09}


@pytest.mark.parametrize(
    ("change", "begins"),
    [
        ({}, "Yes: +0.0500 NDCG@10 (+50%)"),
        ({"low": -0.01}, "Cannot be told from chance with 50 users"),
        ({"gain": -0.05, "low": -0.09, "high": -0.01}, "No: the model of its own is better"),
        ({"popularity": 0.2}, "No: it beats the model of its own"),
        ({"local": 0.0}, "Yes: +0.0500 NDCG@10, 95 %"),
        ({"gain": None, "low": None, "high": None}, "Too few users to tell."),
    ],
)
def test_the_verdict_is_one_sentence(change, begins):
    assert verdict({**BASE, **change}).startswith(begins)


def test_a_group_that_one_institution_holds_back_is_made_of_the_others():
    some, none = Sums.of(users([0.5] * 10)).as_dict(), Sums.of(users([0.5] * 4)).as_dict()
    scopes = ("federated", "local", "popularity")
    large = Answer("a", numbers={**dict.fromkeys(scopes, some), **{f"{scope}:few": some for scope in scopes}})
    rows = worth([large, Answer("b", numbers=dict.fromkeys(scopes, none))])
    assert [(row["institution"], row["group"], row["users"]) for row in rows] == [
        ("a", "", 10), ("b", "", 4), ("all", "", 14), ("a", "few", 10), ("all", "few", 10)
    ]  # fmt: skip


def test_a_run_says_for_each_institution_whether_it_is_worth_it(tmp_path):
    """Two tastes, both known everywhere only together; centralised is EASE's federated model itself."""
    rng = np.random.default_rng(0)
    frames = {
        name: pd.DataFrame(
            [(f"{name}{u}", f"{u % 4}-{i}", t) for u in range(40) for t, i in enumerate(rng.permutation(12)[:8])],
            columns=["user", "item", "timestamp"],
        )
        for name in "abc"
    }
    federation = fedrec.simulate(frames, rating=None)
    plan = fedrec.Plan(model=fedrec.models.Ease(l2=20.0), train=("p1",), evaluate=True)
    run = federation.train(plan)
    table = run.worth(centralised=pooled(federation).train(plan))
    everybody = table[(table["institution"] == "all") & (table["group"] == "")].iloc[0]
    assert everybody["centralised"] == pytest.approx(everybody["federated"])
    assert everybody["users"] == 120
    assert everybody["low"] < everybody["gain"] < everybody["high"]
    assert list(table["institution"][:4]) == ["a", "b", "c", "all"]
    inside = federation.inside[run.id, "p1"]
    gaps = {name: one.ndcg["federated"] - one.ndcg["local"] for name, one in inside.items()}
    gaps["all"] = np.concatenate(list(gaps.values()))
    for row in table[table["group"] == ""].to_dict("records"):  # every user's value is here: the bootstrap's intervals
        assert (row["low"], row["high"]) == bootstrap(gaps[row["institution"]], 0)
        assert row["gain"] == pytest.approx(gaps[row["institution"]].mean())
    assert worth(run.evaluations["p1"])[3]["low"] == pytest.approx(everybody["low"], rel=0.15)  # of sums alone: normal
    run.plot("worth", tmp_path / "worth.png")
    assert (tmp_path / "worth.png").stat().st_size > 5_000


def test_outcomes_are_no_rankings():
    with pytest.raises(WrongInput, match="outcomes"):
        worth([Answer("a", numbers={"federated": Outcomes().as_dict()})])
