"""Laws of every aggregator; a new one is one more line in ALL."""

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec import aggregation, models
from fedrec.aggregation import (
    Adagrad,
    Adam,
    CoordinateMedian,
    GeometricMedian,
    GradientMean,
    GradientSum,
    Krum,
    Mean,
    Momentum,
    MultiKrum,
    NormBound,
    SiteUpdate,
    Sum,
    TrimmedMean,
    WeightedMean,
    Yogi,
)  # fmt: skip
from fedrec.core.params import SharedParams
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.plan import Tensor
from fedrec.exchange.plan_form import literal
from fedrec.exchange.wire import decode, encode

WEIGHTED = [WeightedMean(), WeightedMean("users"), WeightedMean("data-quality"), WeightedMean("users*model-quality")]
MEANS = [Mean(), *WEIGHTED]
BETWEEN = [*MEANS, CoordinateMedian(), TrimmedMean(1), TrimmedMean(2), Krum(), MultiKrum(), GeometricMedian()]
ROBUST = [
    CoordinateMedian(), TrimmedMean(1), TrimmedMean(2), Krum(), MultiKrum(), MultiKrum(bad=1, keep=1), GeometricMedian(),
    NormBound(), NormBound(0.5),
]  # fmt: skip
SERVERS = [Adam(), Adam(lr=0.1, inner=Mean()), Momentum(), Adagrad(), Yogi(inner=TrimmedMean(1))]
DESCENDS = [GradientMean(), GradientSum.of({"0": 0.5, "7": 0.1}), *SERVERS]
ALL = [Sum(), *MEANS, *ROBUST, *DESCENDS]
SIGNS = (Adam, Adagrad, Yogi)
every = pytest.mark.parametrize("aggregator", ALL, ids=repr)
SHARED = SharedParams({"items": np.zeros((2, 2), dtype=np.float32), "bias": np.zeros(3, dtype=np.float32)})
GOOD = {"data-quality": 0.9, "model-quality": 0.2}


def update(value: float, weight: float = 1.0, site: str = "aurora", users: int = 1, **measures: float) -> SiteUpdate:
    tensors = SharedParams({n: np.full_like(a, value) for n, a in SHARED.tensors.items()})
    return SiteUpdate(site, weight, tensors, users, GOOD | measures)


def five(*values: float) -> list[SiteUpdate]:
    """Updates with these values, the last one repeated until there are five."""
    return [update(value, site=str(n)) for n, value in enumerate([*values, *[values[-1]] * (5 - len(values))])]


@st.composite
def updates(draw: st.DrawFn) -> list[SiteUpdate]:
    number = st.floats(-1e3, 1e3, width=32)
    found = []
    for site in range(draw(st.integers(5, 8))):  # Krum and a trim of two at each end need five
        values = draw(st.lists(number, min_size=7, max_size=7))
        items, bias = np.array(values[:4], np.float32).reshape(2, 2), np.array(values[4:], np.float32)
        rows = draw(st.integers(1, 10**6))
        quality = {"data-quality": 1.0, "model-quality": draw(st.floats(0.01, 1))}
        found.append(SiteUpdate(str(site), rows, SharedParams({"items": items, "bias": bias}), rows // 3 + 1, quality))
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
    # the first step of these is a sign: where the sum cancels out, the order may decide it
    wide = 2 * aggregator.lr if isinstance(aggregator, SIGNS) else 1e-3
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
        _, state = aggregator.apply(state, SHARED, five(value, 3.0))
    kept = decode(encode(state))
    straight, resumed = (aggregator.apply(s, SHARED, five(0.5))[0] for s in (state, kept))
    assert all(straight[name].tobytes() == resumed[name].tobytes() for name in SHARED.tensors)


@pytest.mark.parametrize("aggregator", [Sum(), *MEANS, CoordinateMedian(), GeometricMedian(), NormBound()], ids=repr)
def test_of_one_update_it_is_the_identity(aggregator):
    assert step(aggregator, [update(0.1, weight=37)])["bias"].tobytes() == update(0.1).tensors["bias"].tobytes()


@pytest.mark.parametrize("aggregator", [*MEANS, *ROBUST[:-1]], ids=repr)
def test_of_equal_updates_it_is_the_identity(aggregator):
    np.testing.assert_allclose(step(aggregator, five(0.1))["bias"], 0.1, rtol=1e-6)


@pytest.mark.parametrize("aggregator", BETWEEN, ids=repr)
@given(ups=updates())
@settings(max_examples=20, deadline=None)
def test_a_mean_lies_between_the_smallest_and_the_largest(aggregator, ups):
    merged = step(aggregator, ups)
    for name in SHARED.tensors:
        stack = np.stack([u.tensors[name] for u in ups]).astype(np.float64)
        assert (merged[name] >= stack.min(axis=0) - 1e-3).all()
        assert (merged[name] <= stack.max(axis=0) + 1e-3).all()


@pytest.mark.parametrize("aggregator", ALL, ids=repr)
@pytest.mark.parametrize("sites", [5, 7, 8])
@pytest.mark.parametrize("lie", [1e6, -1e30])
def test_it_survives_as_many_bad_sites_as_it_says_and_no_more(aggregator, sites, lie):
    """Honest sites send 1.0, 1.1 … and the result stays within them; with one liar more it follows the lie.

    Rules that bound the norm stay below the largest honest norm instead; with a bound of one's own no number
    of liars gets past it. Krum's claim ends where N >= 2 bad + 3 does, so one colluder more need not break it.
    """
    bad = aggregator.survives(sites)

    def moved(liars: int) -> float:
        honest = [update(1 + n / 10, site=f"h{n}") for n in range(sites - liars)]
        merged = step(aggregator, [*honest, *(update(lie, site=f"l{n}") for n in range(liars))])
        return float(abs(merged["bias"].astype(np.float64)).max())

    one = moved(0)
    assert moved(bad) <= max(2 * one, 2.0)
    colluding_may_fail = isinstance(aggregator, (Krum, MultiKrum, *SIGNS))
    if bad < sites and not colluding_may_fail:
        assert moved(bad + 1) > 1e3


@pytest.mark.parametrize("aggregator", [Sum(), *WEIGHTED[:1], Mean(), NormBound()], ids=repr)
def test_memory_does_not_grow_with_the_number_of_sites(aggregator):
    """Updates are made when they are looked at, as those on a disk are; ten or two hundred cost the same."""

    class Lazy(Sequence):
        def __init__(self, count):
            self.count = count

        def __len__(self):
            return self.count

        def __getitem__(self, site):
            if not 0 <= site < self.count:
                raise IndexError
            return SiteUpdate(str(site), 1.0, SharedParams({"items": np.full(100_000, site, np.float32)}))

    peaks = []
    for count in (10, 200):
        tracemalloc.start()
        merged = aggregator.apply({}, SHARED, Lazy(count))[0]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert np.isfinite(merged["items"]).all()
    assert peaks[1] < 1.1 * peaks[0]


def test_adam_takes_two_steps_by_hand():
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
    wrong = SharedParams({"items": np.zeros((1, 2), np.float32), "bias": np.zeros(3)})
    other = SiteUpdate("borealis", 1.0, wrong, 1, GOOD)
    with pytest.raises(Refused, match=r"update.shape.*borealis"):
        step(aggregator, [*five(1.0), other])


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
    assert all(literal(value) for value in table.values())
    assert Tensor.parse("float32 items") == Tensor("float32", ("items",))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"name": "middle"}, "sum, mean, weighted-mean, gradient-mean"),
        ({}, "unknown aggregator None"),
        ({"name": "sum", "lr": 1.0}, "it has none"),
        ({"name": "adam", "rate": 1.0}, "allowed: lr"),
        ({"name": "adam", "lr": "fast"}, "must be a float"),
        ({"name": "adam", "lr": -1.0}, "above 0"),
        ({"name": "weighted-mean", "by": "moon"}, "'interactions'"),
        ({"name": "weighted-mean", "by": "users*users"}, "'interactions'"),
        ({"name": "adam", "inner": "middle"}, "unknown aggregator 'middle'"),
        ({"name": "adam", "inner": "gradient-mean"}, "already steps"),
        ({"name": "adam", "beta2": 1.0}, "betas in"),
        ({"name": "adam", "weight_decay": -1.0}, "weight_decay"),
        ({"name": "momentum", "lr": 0}, "momentum: lr"),
        ({"name": "gradient-mean", "alpha": 0.0}, "above 0"),
        ({"name": "gradient-sum", "sites": ["a"]}, "one rate each"),
        ({"name": "gradient-sum", "sites": "a"}, "must be a list"),
        ({"name": "trimmed-mean", "trim": 0}, "1 or more"),
        ({"name": "trimmed-mean", "trim": True}, "must be a int"),
        ({"name": "krum", "bad": -1}, "0 or more"),
        ({"name": "multi-krum", "keep": -1}, "0 or more"),
        ({"name": "norm-bound", "bound": -1.0}, "0 or more"),
        ({"name": "geometric-median", "steps": 0}, "1 or more"),
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


@pytest.mark.parametrize("name", ["data-quality", "model-quality"])
def test_a_claimed_quality_is_held_to_one_and_to_three_times_the_median(name):
    """Claims .1 .1 .1 and 50 → 1 → .3: weights 1 1 1 3, so values 0 0 0 1 give 3 / 6; unheld it were 50 / 50.3."""
    ups = [*(update(0.0, **{name: 0.1}) for _ in range(3)), update(1.0, **{name: 50.0})]
    np.testing.assert_allclose(step(WeightedMean(name), ups)["bias"], 0.5)
    np.testing.assert_allclose(step(WeightedMean(name), [*ups[:3], update(1.0, **{name: -5.0})])["bias"], 0.0)


def test_weights_multiply_by_hand():
    """Users 10 and 30, quality .3 and .1: 3 and 3, so 2 and 6 give 4; by users alone (20 + 180) / 40 = 5."""
    one = update(2.0, users=10, **{"model-quality": 0.3})
    other = update(6.0, users=30, **{"model-quality": 0.1})
    np.testing.assert_allclose(step(WeightedMean("users*model-quality"), [one, other])["bias"], 4.0)
    np.testing.assert_allclose(step(WeightedMean("users"), [one, other])["bias"], 5.0)


@pytest.mark.parametrize("quality", [float("nan"), float("inf"), None])
def test_a_quality_that_is_none_is_refused(quality):
    other = SiteUpdate("borealis", 1.0, update(1.0).tensors, 1, {} if quality is None else {"data-quality": quality})
    with pytest.raises(Refused, match=r"update.weight.*borealis"):
        step(WeightedMean("data-quality"), [update(1.0), other])


def test_too_few_updates_for_a_rule_are_refused():
    for rule, enough in ((TrimmedMean(2), 5), (Krum(1), 5), (MultiKrum(2), 7)):
        ups = [update(1.0, site=str(n)) for n in range(enough)]
        assert step(rule, ups)["bias"].tolist() == [1, 1, 1]
        with pytest.raises(Refused, match=rf"update.few.*{enough} updates, {enough - 1} came"):
            step(rule, ups[1:])


def test_robust_rules_by_hand():
    """Of 1 2 3 4 100: the median 3, trimmed by one (2+3+4)/3 = 3, Krum the 2 (neighbours 1 and 3 at distance 1)."""
    ups = five(1.0, 2.0, 3.0, 4.0, 100.0)
    for rule, value in ((CoordinateMedian(), 3), (TrimmedMean(1), 3), (Krum(1), 2), (MultiKrum(1, 2), 2.5)):
        np.testing.assert_allclose(step(rule, ups)["bias"], value, rtol=1e-6)
    # seven equal numbers: norms are sqrt(7) times the value, so the bound is that of the 3: (1+2+3+3+3) / 5
    np.testing.assert_allclose(step(NormBound(), ups)["bias"], 2.4, rtol=1e-6)
    np.testing.assert_allclose(step(NormBound(2 * 7**0.5), ups)["bias"], 1.8, rtol=1e-6)


def test_the_geometric_median_is_the_corner_where_a_majority_sits_and_the_middle_of_a_triangle():
    """Three of five at 0: their pull cannot be outweighed. Of an equilateral triangle it is the centre."""
    assert abs(step(GeometricMedian(), five(1.0, -5.0, 0.0))["bias"]).max() < 1e-3
    corners = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.5, 3**0.5 / 2, 0.0)]
    ups = [SiteUpdate(str(n), 1.0, SharedParams({"bias": np.array(c, np.float32)})) for n, c in enumerate(corners)]
    found = GeometricMedian(50).apply({}, SHARED, ups)[0]["bias"]
    np.testing.assert_allclose(found, [0.5, 3**0.5 / 6, 0.0], atol=1e-4)
