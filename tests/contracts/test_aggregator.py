"""Laws of every aggregator; a new one is one more line in ALL."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec import aggregation, models
from fedrec.aggregation import Adam, Mean, SiteUpdate, Sum, Synchronous, WeightedMean
from fedrec.core.params import SharedParams
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.plan import Tensor, _literal
from fedrec.exchange.wire import decode, encode

ALL = [Sum(), Mean(), WeightedMean(), Adam(), Adam(lr=0.1, inner=Mean())]
MEANS = [Mean(), WeightedMean()]
every = pytest.mark.parametrize("aggregator", ALL, ids=repr)
SHARED = SharedParams({"items": np.zeros((2, 2), dtype=np.float32), "bias": np.zeros(3, dtype=np.float32)})


def update(value: float, weight: float = 1.0, site: str = "aurora") -> SiteUpdate:
    return SiteUpdate(site, weight, SharedParams({n: np.full_like(a, value) for n, a in SHARED.tensors.items()}))


@st.composite
def updates(draw: st.DrawFn) -> list[SiteUpdate]:
    number = st.floats(-1e3, 1e3, width=32)
    found = []
    for site in range(draw(st.integers(1, 6))):
        values = draw(st.lists(number, min_size=7, max_size=7))
        items, bias = np.array(values[:4], np.float32).reshape(2, 2), np.array(values[4:], np.float32)
        found.append(SiteUpdate(str(site), draw(st.integers(1, 10**6)), SharedParams({"items": items, "bias": bias})))
    return found


def step(aggregator, ups):
    return aggregator.apply(aggregator.init(SHARED), SHARED, ups)[0]


@every
@given(ups=updates(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_order_of_sites_hardly_matters_and_the_same_order_gives_the_same_bytes(aggregator, ups, data):
    shuffled = data.draw(st.permutations(ups))
    here, again = step(aggregator, ups), step(aggregator, ups)
    there = step(aggregator, shuffled)
    # Adam's first step is a sign: where the sum cancels out, the order may decide it
    wide = 2 * aggregator.lr if isinstance(aggregator, Adam) else 1e-3
    for name in SHARED.tensors:
        assert here[name].tobytes() == again[name].tobytes()
        np.testing.assert_allclose(here[name], there[name], rtol=1e-4, atol=wide)


@every
@given(ups=updates())
@settings(max_examples=20, deadline=None)
def test_inputs_are_untouched_and_dtypes_and_shapes_are_those_of_the_updates(aggregator, ups):
    state = aggregator.init(SHARED)
    before = [a.tobytes() for u in ups for a in u.tensors.tensors.values()]
    frozen = {name: array.tobytes() for name, array in state.items()}
    merged, _ = aggregator.apply(state, SHARED, ups)
    assert before == [a.tobytes() for u in ups for a in u.tensors.tensors.values()]
    assert frozen == {name: array.tobytes() for name, array in state.items()}
    assert not any(array.any() for array in SHARED.tensors.values())
    assert {n: (a.dtype, a.shape) for n, a in merged.tensors.items()} == {
        n: (a.dtype, a.shape) for n, a in ups[0].tensors.tensors.items()
    }


@every
def test_the_state_survives_a_checkpoint(aggregator):
    state = aggregator.init(SHARED)
    for value in (1.0, -2.0):
        _, state = aggregator.apply(state, SHARED, [update(value), update(3.0)])
    kept = decode(encode(state))
    straight, resumed = (aggregator.apply(s, SHARED, [update(0.5)])[0] for s in (state, kept))
    assert all(straight[name].tobytes() == resumed[name].tobytes() for name in SHARED.tensors)


@pytest.mark.parametrize("aggregator", [Sum(), *MEANS], ids=repr)
def test_of_one_update_it_is_the_identity(aggregator):
    assert step(aggregator, [update(0.1, weight=37)])["bias"].tobytes() == update(0.1).tensors["bias"].tobytes()


@pytest.mark.parametrize("aggregator", MEANS, ids=repr)
@given(ups=updates())
@settings(max_examples=20, deadline=None)
def test_a_mean_lies_between_the_smallest_and_the_largest(aggregator, ups):
    merged = step(aggregator, ups)
    for name in SHARED.tensors:
        stack = np.stack([u.tensors[name] for u in ups]).astype(np.float64)
        assert (merged[name] >= stack.min(axis=0) - 1e-3).all()
        assert (merged[name] <= stack.max(axis=0) + 1e-3).all()


def test_the_articles_two_institutions_by_hand():
    """theta_A = 2, theta_B = 6: (theta_A + theta_B) / 2 = 4; by volume 1 : 3 it is (2 + 18) / 4 = 5; the sum is 8."""
    pair = [update(2.0, weight=100, site="A"), update(6.0, weight=300, site="B")]
    assert step(Mean(), pair)["bias"].tolist() == [4, 4, 4]
    assert step(WeightedMean(), pair)["bias"].tolist() == [5, 5, 5]
    assert step(Sum(), pair)["bias"].tolist() == [8, 8, 8]


def test_adam_steps_against_the_merged_gradient_by_hand():
    """The first step is lr times the sign; the second mean of 4 and 4 is 4 again, so it is the same."""
    adam = Adam(lr=0.5, weight_decay=0.0, inner=Mean())
    state = adam.init(SHARED)
    for _ in range(2):
        merged, state = adam.apply(state, SHARED, [update(2.0), update(6.0)])
        np.testing.assert_allclose(merged["bias"], -0.5, rtol=1e-6)
    assert state["t"].tolist() == [2]


def test_whole_numbers_add_up_exactly_in_any_order():
    rng = np.random.default_rng(0)
    grams = [SharedParams({"gram": rng.integers(0, 2**20, (50, 50)).astype(np.float32)}) for _ in range(16)]
    ups = [SiteUpdate(str(site), 1, gram) for site, gram in enumerate(grams)]
    assert step(Sum(), ups)["gram"].tobytes() == step(Sum(), ups[::-1])["gram"].tobytes()


@every
def test_no_update_is_refused(aggregator):
    with pytest.raises(Refused) as refused:
        step(aggregator, [])
    assert refused.value.code in ("update.missing", "update.weight")


@every
def test_updates_of_different_shapes_are_refused(aggregator):
    other = SiteUpdate("borealis", 1.0, SharedParams({"items": np.zeros((1, 2), np.float32), "bias": np.zeros(3)}))
    with pytest.raises(Refused, match=r"update.shape.*borealis"):
        step(aggregator, [update(1.0), other])


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_a_weight_that_is_no_number_of_rows_is_refused(weight):
    with pytest.raises(Refused, match=r"update.weight.*borealis"):
        step(WeightedMean(), [update(1.0), update(1.0, weight, "borealis")])


def test_a_site_without_rows_does_not_count_and_none_with_rows_is_refused():
    assert step(WeightedMean(), [update(1.0, 10), update(99.0, 0)])["bias"].tolist() == [1, 1, 1]
    with pytest.raises(Refused, match=r"update.weight"):
        step(WeightedMean(), [update(1.0, 0)])


@every
def test_settings_make_the_same_aggregator_and_can_stand_in_a_plan(aggregator):
    table = aggregation.settings_of(aggregator)
    assert aggregation.create(table) == aggregator
    assert all(_literal(value) for value in table.values())
    assert Tensor.parse("float32 items") == Tensor("float32", ("items",))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"name": "median"}, "sum, mean, weighted-mean, adam"),
        ({}, "unknown aggregator None"),
        ({"name": "sum", "lr": 1.0}, "it has none"),
        ({"name": "adam", "rate": 1.0}, "allowed: lr"),
        ({"name": "adam", "lr": "fast"}, "must be a float"),
        ({"name": "adam", "lr": -1.0}, "above 0"),
        ({"name": "weighted-mean", "by": "moon"}, "'interactions'"),
        ({"name": "adam", "inner": "median"}, "unknown aggregator 'median'"),
    ],
)
def test_a_wrong_table_is_refused_with_what_is_allowed(table, says):
    with pytest.raises(WrongInput, match=says):
        aggregation.create(table)


def test_inner_settings_are_flat():
    table = {"name": "adam", "lr": 1, "inner": "weighted-mean", "inner_by": "interactions"}
    assert aggregation.create(table) == Adam(lr=1.0)
    assert aggregation.settings_of(Adam())["inner_by"] == "interactions"


def test_each_model_has_the_aggregator_that_fits_it():
    assert aggregation.default_for(models.Ease()) == Sum()
    assert aggregation.default_for(models.MF()) == Adam()
    assert aggregation.default_for(models.Echo()) == Mean()


def test_a_synchronous_schedule_asks_every_site_in_every_round():
    assert list(Synchronous(2).plan(["a", "b"])) == [("a", "b"), ("a", "b")]
    with pytest.raises(WrongInput, match="at least 1"):
        Synchronous(0)
