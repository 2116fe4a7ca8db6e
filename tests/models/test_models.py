"""Laws that hold for every model: a new one is one more line in ALL."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federating import deal, federate, measured, part

from fedrec import models
from fedrec.core.interactions import Interactions
from fedrec.core.optim import Adam, Plain
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.errors import WrongInput
from fedrec.exchange.plan import Tensor
from fedrec.institution import work

OWN = Path(models.__file__).parents[1].joinpath("examples/my_factors.py").read_text(encoding="utf-8")
STATISTICS = [
    models.Popularity(),
    models.ItemCF(neighbours=7),
    models.Ease(l2=5.0),
    models.Sequential(from_exponent=0.2, to_exponent=0.2),
    models.Default(l2=5.0),
    models.Private(most=60),
]
NEARLY = [
    models.UserCF(),
    models.IALS(factors=8),
    models.IALS(factors=8, block=4),
    models.MFExplicit(factors=2),
]  # sums of fractions: equal up to float32
GRADIENTS = [
    models.MF(factors=8),
    models.BPR(factors=8),
    models.NeuMF(factors=8),
    models.Hybrid(factors=8),
    models.OwnModel(OWN, {"factors": 8}),
]
TRAINED = [*STATISTICS, *NEARLY, *GRADIENTS]
ALL = [*TRAINED, models.Echo(megabytes=0.001), models.Logistic(), models.FeatureSums()]
every = pytest.mark.parametrize("model", ALL, ids=lambda model: model.name)
trained = pytest.mark.parametrize("model", TRAINED, ids=lambda model: model.name)


def same(one: SharedParams | PrivateParams, other: SharedParams | PrivateParams) -> bool:
    arrays = one.tensors
    return arrays.keys() == other.tensors.keys() and all(
        array.dtype == other[name].dtype and array.tobytes() == other[name].tobytes() for name, array in arrays.items()
    )


@every
def test_the_same_seed_gives_the_same_bytes(model, checkerboard):
    sites = deal(checkerboard, 2)
    first, second = (federate(model, sites, rounds=2) for _ in range(2))
    assert same(first[0], second[0])
    assert all(same(a, b) for a, b in zip(first[1], second[1], strict=True))


@every
def test_a_contribution_has_the_arrays_that_the_plan_declares(model, checkerboard):
    start = model.init(checkerboard.n_items, 0)
    contribution, _ = model.fit_site(checkerboard, start, PrivateParams({}))
    declared = {name: Tensor.parse(text) for name, text in model.leaves().items()}
    assert {n: (str(a.dtype), a.shape) for n, a in contribution.tensors.items()} == {
        n: (tensor.dtype, tensor.sized(checkerboard.n_items)) for n, tensor in declared.items()
    }


@every
def test_fitting_leaves_its_inputs_as_they_were(model, checkerboard):
    start = model.init(checkerboard.n_items, 0)
    _, private = model.fit_site(checkerboard, start, PrivateParams({}))
    before = [a.tobytes() for p in (start, private) for a in p.tensors.values()]
    model.fit_site(checkerboard, start, private)
    assert before == [a.tobytes() for p in (start, private) for a in p.tensors.values()]


@every
def test_a_model_survives_its_plan(model):
    again = models.from_plan(models.table_of(model))
    assert again == model


@trained
def test_renaming_users_changes_nothing(model, checkerboard):
    names = np.random.default_rng(1).permutation(checkerboard.n_users)
    here = federate(model, [checkerboard], rounds=3)
    there = federate(model, [part(checkerboard, names)], rounds=3)
    for name, array in here[0].tensors.items():
        np.testing.assert_allclose(array, there[0][name], atol=1e-6)
    scores = [work.scorer(model, checkerboard, here[0], here[1][0])(0, 80)]
    scores.append(work.scorer(model, part(checkerboard, names), there[0], there[1][0])(0, 80))
    np.testing.assert_allclose(scores[0][names], scores[1], atol=1e-5)


@trained
def test_what_leaves_does_not_grow_with_the_number_of_users(model, checkerboard):
    start = model.init(checkerboard.n_items, 0)
    shapes = [
        {n: a.shape for n, a in model.fit_site(rows, start, PrivateParams({}))[0].tensors.items()}
        for rows in (checkerboard, part(checkerboard, np.arange(3)))
    ]
    assert shapes[0] == shapes[1]


RANKING = [model for model in TRAINED[1:] if model.name != "mf-explicit"]  # which predicts ratings, all alike here


@pytest.mark.parametrize("model", RANKING, ids=lambda model: model.name)
def test_it_beats_popularity_on_a_checkerboard(model, checkerboard):
    sites = deal(checkerboard, 2)
    popular = measured(TRAINED[0], sites, "p3", federate(TRAINED[0], sites, "p3"))
    found = measured(model, sites, "p3", federate(model, sites, "p3"))
    assert found["ndcg@10"] > 1.3 * popular["ndcg@10"]


@pytest.mark.parametrize("model", STATISTICS, ids=lambda model: model.name)
@pytest.mark.parametrize("by", ["iid", "taste"])
@pytest.mark.parametrize("k", [4, 16])
def test_statistics_of_k_institutions_are_bit_identical_to_one(model, by, k, checkerboard):
    assert same(federate(model, deal(checkerboard, k, by))[0], federate(model, [checkerboard])[0])


@pytest.mark.parametrize("model", NEARLY, ids=lambda model: model.name)
@pytest.mark.parametrize("by", ["iid", "taste"])
@pytest.mark.parametrize("k", [4, 16])
def test_sums_of_fractions_of_k_institutions_are_those_of_one(model, by, k, checkerboard):
    one, many = (federate(model, sites)[0] for sites in ([checkerboard], deal(checkerboard, k, by)))
    for name, array in one.tensors.items():
        np.testing.assert_allclose(many[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", GRADIENTS, ids=lambda model: model.name)
@pytest.mark.parametrize("by", ["iid", "taste"])
def test_gradients_of_four_institutions_are_those_of_one(model, by, checkerboard):
    one, four = (federate(model, sites, rounds=8)[0]["items"] for sites in ([checkerboard], deal(checkerboard, 4, by)))
    assert abs(one - four).max() <= 1e-5


@trained
def test_one_institution_alone_trains_the_model_that_one_site_federated_gives(model, checkerboard):
    """The local-only baseline is the same model: with one institution they must agree."""
    optimiser = Plain() if model.aggregator_default == "sum" else Adam()
    shared, private = work.train_alone(model, checkerboard, "p1", 1, optimiser, 0)
    federated = federate(model, [checkerboard], rounds=1)
    assert same(shared, federated[0])
    assert same(private, federated[1][0])


@every
def test_an_institution_without_train_rows_contributes_nothing_and_does_not_fail(model, checkerboard):
    nobody = checkerboard.take(np.zeros(0, dtype=np.int64))
    start = model.init(nobody.n_items, 0)
    contribution, private = model.fit_site(nobody, start, PrivateParams({}))
    assert all(np.isfinite(array).all() for array in contribution.tensors.values())
    assert model.score(nobody, start, private).shape == (80, 60)


@trained
def test_scores_come_in_blocks_of_users_without_a_change(model, checkerboard):
    shared, (private,) = federate(model, [checkerboard], rounds=2)
    score = work.scorer(model, checkerboard, shared, private)
    whole = model.score(checkerboard, shared, private)
    np.testing.assert_allclose(np.concatenate([score(0, 7), score(7, 80)]), whole, atol=1e-12)


def test_ease_solves_the_ridge_regression_of_every_item():
    """Two items, three users: G = [[2, 1], [1, 2]], l2 = 1: B_01 = G_01 / (G_00 + 1) = 1/3."""
    merged = SharedParams({"gram": np.array([[2, 1], [1, 2]], dtype=np.float32)})
    shared = models.Ease(l2=1.0).finish(models.Ease().init(2, 0), merged)
    np.testing.assert_allclose(shared["weights"], [[0, 1 / 3], [1 / 3, 0]], atol=1e-7)
    np.testing.assert_array_equal(shared["counts"], [2, 2])


def test_item_cf_cuts_the_neighbours_after_the_sum_by_hand():
    """Item 0 meets item 1 twice and item 2 once, with 4, 2 and 1 users: 2/sqrt(8) = .7071 beats 1/sqrt(4) = .5."""
    merged = SharedParams({"gram": np.array([[4, 2, 1], [2, 2, 0], [1, 0, 1]], dtype=np.float32)})
    model = models.ItemCF(neighbours=1, exponent=0.5)
    shared = model.finish(model.init(3, 0), merged)
    np.testing.assert_array_equal(shared["neighbours"][:, 0], [1, 0, 0])
    np.testing.assert_allclose(shared["weights"][:, 0], [0.70710678, 0.70710678, 0.5], rtol=1e-6)


def test_item_cf_trusts_pairs_of_few_users_less_by_hand():
    """As above with shrinkage 2: .7071 x 2/4 = .3536 and .5 x 1/3 = .1667; the control, 0, leaves them."""
    merged = SharedParams({"gram": np.array([[4, 2, 1], [2, 2, 0], [1, 0, 1]], dtype=np.float32)})
    model = models.ItemCF(neighbours=1, exponent=0.5, shrinkage=2.0)
    shared = model.finish(model.init(3, 0), merged)
    np.testing.assert_allclose(shared["weights"][:, 0], [0.35355339, 0.35355339, 0.16666667], rtol=1e-6)
    plain = models.ItemCF(neighbours=1, exponent=0.5).finish(model.init(3, 0), merged)
    np.testing.assert_allclose(plain["weights"][:, 0], [0.70710678, 0.70710678, 0.5], rtol=1e-6)


def test_user_vectors_start_at_zero_and_item_vectors_come_from_the_seed():
    model = models.MF(factors=64)
    start = model.init(5000, 3)["items"]
    assert start.std() == pytest.approx(0.3 / 8, rel=0.01)
    assert same(model.init(5000, 3), SharedParams({"items": start}))
    assert not same(model.init(5000, 4), SharedParams({"items": start}))


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        (
            "easy",
            {},
            "popularity, itemcf, usercf, ease, sequential, default, private, ials, mf, bpr, mf-explicit, neumf, features, hybrid, logistic, echo, own",
        ),
        ("ease", {"l3": 1.0}, "allowed: l2"),
        ("popularity", {"l2": 1.0}, "allowed: clip"),
        ("ease", {"l2": "200"}, "must be a float"),
        ("ease", {"l2": True}, "must be a float"),
        ("ease", {"l2": float("nan")}, "above 0"),
        ("ease", {"l2": 0}, "above 0"),
        ("itemcf", {"neighbours": 5.0}, "must be a int"),
        ("mf", {"factors": 0}, "above 0"),
        ("ials", {"block": 7}, "must divide ials.factors"),
        ("ials", {"block": -8}, "0 or more"),
        ("mf", {"user_decay": -1.0}, "0 or more"),
        ("echo", {"megabytes": -1.0}, "above 0"),
    ],
)
def test_a_wrong_model_or_setting_is_refused_with_what_is_allowed(name, settings, says):
    with pytest.raises(WrongInput, match=says):
        models.create(name, settings)


def test_whole_numbers_are_taken_for_floats():
    assert models.create("ease", {"l2": 100}) == models.Ease(l2=100.0)


def test_private_vectors_of_other_users_are_not_used():
    with pytest.raises(WrongInput, match="private user vectors"):
        models.MF(factors=2)._state(
            part_of(3), PrivateParams({"users": np.zeros((4, 2)), "step": np.zeros(1, dtype=np.int64)})
        )


def part_of(users: int):
    from fedrec.core.interactions import Interactions

    empty = np.zeros(0, dtype=np.int32)
    return Interactions(empty, empty, empty.astype(np.float32), None, users, 5)


def test_the_sequential_model_counts_followers_by_their_distance():
    """One user, items 0 1 2: 1 follows 0 at lag 1 (weight 1), 2 follows 0 at lag 2 (weight 1/2).

    n = 1 for all, so W = C / 2. The query is 2^-2, 2^-1, 1 for items 0, 1, 2 with a half-life of one row.
    Item 2 gets .25 x .25 from 0 and .5 x .5 from 1; item 1 gets .25 x .5 from 0.
    """
    rows = Interactions(np.zeros(3, np.int32), np.arange(3, dtype=np.int32), np.ones(3, np.float32), np.arange(3), 1, 3)
    model = models.Sequential(half_life=1.0, recency=1.0)
    shared, private = federate(model, [rows], "all")
    np.testing.assert_allclose(model.score(rows, shared, private[0]), [[0.0, 0.125, 0.3125]], atol=1e-6)


def test_user_likeness_is_the_formula_over_pairs_of_users_on_items_that_the_user_has_not_touched(checkerboard):
    x = checkerboard.matrix().toarray().astype(np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = (unit @ unit.T - np.eye(len(x))) @ x  # cosine with every other user, times what he touched
    shared, private = federate(models.UserCF(), deal(checkerboard, 4), "all")
    found = models.UserCF().score(checkerboard, shared, private[0])
    np.testing.assert_allclose(found[x == 0], pairs[x == 0], rtol=1e-6)


def test_ratings_follow_the_tastes_behind_them():
    """A checkerboard of ratings, 5 and 1: popularity and biases are flat, the vectors must find it."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.permutation(40 * 30)[:800], 30)
    order = np.argsort(user, kind="stable")
    user, item = user[order].astype(np.int32), item[order].astype(np.int32)
    rating = np.where((user + item) % 2, 5.0, 1.0).astype(np.float32)
    rows = Interactions(user, item, rating, None, 40, 30)
    model = models.MFExplicit(factors=2, ridge=0.5)
    shared, private = federate(model, deal(rows, 4), "all")
    scores = model.score(rows, shared, private[0])
    truth = np.where(np.add.outer(np.arange(40), np.arange(30)) % 2, 5.0, 1.0)
    assert np.sqrt(((scores - truth) ** 2).mean()) < 0.5


def test_without_timestamps_the_default_is_ease(checkerboard):
    rows = replace(checkerboard, time=None)
    model, ease = models.Default(l2=5.0), models.Ease(l2=5.0)
    shared, alone = (federate(m, deal(rows, 2), "all")[0] for m in (model, ease))
    none = PrivateParams({})
    np.testing.assert_allclose(model.score(rows, shared, none), ease.score(rows, alone, none), atol=1e-6)
    assert not shared["next"].any()


def test_one_sweep_of_least_squares_is_the_solution_of_its_normal_equations(checkerboard):
    """The item step minimises the weighted squares given the users' vectors: its gradient vanishes."""
    model = models.IALS(factors=4)
    start = model.init(checkerboard.n_items, 0)
    shared, _ = federate(model, deal(checkerboard, 3), "all", rounds=1)
    x, users = checkerboard.matrix().toarray(), model._users(checkerboard, start)
    items = shared["items"].astype(np.float64)
    score, count = users @ items.T, x.sum(0)
    weight = model.ridge * (count + model.unobserved * len(users)) ** model.frequency
    slope = ((score - 1) * x + model.unobserved * score).T @ users + weight[:, None] * items
    np.testing.assert_allclose(slope, 0.0, atol=1e-4)


def test_a_block_of_least_squares_solves_its_coordinates_and_moves_no_others(checkerboard):
    """Round 1, so the second block: the slope along it vanishes, and the control, along the first, does not."""
    model = models.IALS(factors=4, block=2)
    before, _ = federate(model, deal(checkerboard, 3), "all", rounds=1)
    after, _ = federate(model, deal(checkerboard, 3), "all", rounds=2)
    np.testing.assert_array_equal(after["items"][:, :2], before["items"][:, :2])
    x, users = checkerboard.matrix().toarray(), model._users(checkerboard, before)
    items = after["items"].astype(np.float64)
    score, count = users @ items.T, x.sum(0)
    weight = model.ridge * (count + model.unobserved * len(users)) ** model.frequency
    slope = ((score - 1) * x + model.unobserved * score).T @ users + weight[:, None] * items
    np.testing.assert_allclose(slope[:, 2:], 0.0, atol=1e-4)
    assert abs(slope[:, :2]).max() > 1e-2


def test_least_squares_with_all_coordinates_in_one_block_are_those_without_blocks(checkerboard):
    sites = deal(checkerboard, 3)
    one, whole = (federate(models.IALS(factors=8, block=b), sites, rounds=3)[0]["items"] for b in (8, 0))
    np.testing.assert_allclose(one, whole, rtol=1e-4, atol=1e-5)


def test_least_squares_in_blocks_of_a_wide_catalogue_need_a_fortieth_of_the_bytes_and_little_memory():
    """20,000 items: 64 + 1 + 64 * 65 / 2 numbers an item, or 8 + 1 + 8 * 9 / 2. Without blocks the sums take 171 MB."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(300, dtype=np.int32), 20)
    rows = Interactions(user, rng.integers(0, 20_000, 6000), np.ones(6000, np.float32), None, 300, 20_000)
    found = {}
    for model in (models.IALS(), models.IALS(block=8)):
        start = model.init(rows.n_items, 0)
        tracemalloc.start()
        made, _ = model.fit_site(rows, start, PrivateParams({}))
        found[model.block] = (sum(array.nbytes for array in made.tensors.values()), tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert found[8][0] < found[0][0] / 40
    assert found[8][1] < 100e6 < 171e6 < found[0][1]


def test_which_models_release_gradients_is_known_without_loading_them():
    assert {name for name in models.NAMES if models.create(name, {}).aggregator_default == "adam"} == {
        *models.GRADIENTS
    }
