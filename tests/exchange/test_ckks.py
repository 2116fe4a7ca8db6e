"""Encrypted sums: how far they may be off, what is refused, how large they are. The attacks are in tests/attacks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import Refused
from fedrec.exchange import ckks
from fedrec.exchange.ckks import PLAIN, SLOTS, Grid, Q
from fedrec.exchange.ckks_plan import check_plan, grid_of, layout_of
from fedrec.exchange.plan import PlanText, Tensor
from fedrec.exchange.wire import decode, encode

KEY = ckks.make_key()
VECTOR = {"v": (np.dtype("float32"), (5,))}


def layout(tensors):
    return {name: (array.dtype, array.shape) for name, array in tensors.items()}


def summed(updates, grid, key=KEY):
    form = layout(updates[0])
    return ckks.decrypt(ckks.add([ckks.encrypt(one, key, grid) for one in updates], form), key, grid, form)


def code(call, *given):
    with pytest.raises(Refused) as refused:
        call(*given)
    return refused.value.code


def plan(sites=(), codec=None, **leaves):
    return PlanText("p", "why", {"name": "mf"}, {"name": "mean"}, leaves, sites=tuple(sites), codec=codec or {})


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 50), st.floats(1e-6, 1e9), st.integers(0, 2**32 - 1), st.integers(1, 3000))
def test_the_sum_is_off_by_half_a_step_for_each_site_and_no_more(sites, bound, seed, count):
    """And it is the exact sum of what was rounded: no noise of the encryption is in it, whatever the numbers."""
    rng, grid = np.random.default_rng(seed), Grid(sites, bound)
    rows = [rng.uniform(-1, 1, count) * bound for _ in range(min(sites, 4))]
    updates = [{"v": rows[i % len(rows)]} for i in range(sites)]
    found = summed(updates, grid)["v"]
    rounded = sum(np.rint(update["v"] / grid.step) for update in updates)
    np.testing.assert_array_equal(found, rounded * grid.step)
    assert np.abs(found - sum(update["v"] for update in updates)).max() <= grid.error * (1 + 1e-9) + bound * 1e-14


@pytest.mark.parametrize(("sites", "error"), [(2, 1e-9), (4, 2e-9), (10, 1e-7), (50, 6e-6)])
def test_the_error_that_is_stated_is_below_the_formula_of_the_pages(sites, error):
    """sites³ · bound · 2^-33: half a step each; a step has room for all sites' noise, and all their numbers for a sum."""
    assert Grid(sites, 1.0).error <= error
    assert Grid(sites, 1.0).error <= sites**3 * 2.0**-33
    assert Grid(sites, 64.0).error == 64 * Grid(sites, 1.0).error


@pytest.mark.parametrize("sites", [1, 3, 50])
def test_at_the_bound_of_every_site_nothing_wraps(sites):
    grid = Grid(sites, 3.0)
    for sign in (1, -1):
        update = {"v": np.full(2500, sign * 3.0), "n": np.full(4500, sign * grid.whole)}
        found = summed([update] * sites, grid)
        np.testing.assert_allclose(found["v"], sites * update["v"], atol=grid.error)
        np.testing.assert_array_equal(found["n"], sites * update["n"])


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**32 - 1), st.sampled_from([1, 4095, 4096, 4097]))
def test_whole_numbers_add_up_exactly(sites, seed, count):
    rng, grid = np.random.default_rng(seed), Grid(sites, 1.0)
    updates = [{"n": rng.integers(-grid.whole, grid.whole, count, endpoint=True)} for _ in range(sites)]
    found = summed(updates, grid)["n"]
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, sum(update["n"] for update in updates))


def test_arrays_come_back_under_their_names_and_in_their_shapes():
    rng = np.random.default_rng(0)
    update = {
        "b": rng.normal(size=(7, 3)).astype(np.float32), "a": rng.integers(0, 9, (2, 2, 5), np.int32),
        "c": np.float32(0.5).reshape(()), "z": rng.integers(0, 9, 6), "d": rng.normal(size=2100).clip(-5, 5),
    }  # fmt: skip
    grid = Grid(3, 8.0)
    found = summed([update] * 3, grid)
    assert found.keys() == update.keys()
    for name, array in update.items():
        assert found[name].shape == array.shape
        np.testing.assert_allclose(found[name], 3.0 * array, atol=grid.error if array.dtype.kind == "f" else 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.001, -1e30])
def test_a_number_above_the_bound_is_refused_and_not_wrapped(value):
    assert code(ckks.encrypt, {"v": np.array([0.5, value])}, KEY, Grid(3, 1.0)) == "ckks.range"


@pytest.mark.parametrize("value", [PLAIN // 12 + 1, -(PLAIN // 12) - 1, 2**63 - 1, -(2**63)])
def test_a_whole_number_above_the_range_is_refused_and_not_wrapped(value):
    assert code(ckks.encrypt, {"n": np.array([1, value])}, KEY, Grid(3, 1.0)) == "ckks.range"


@pytest.mark.parametrize("sites", [0, -1, 51])
def test_more_institutions_than_the_bits_bear_are_refused(sites):
    assert code(Grid, sites, 1.0) == "ckks.sites"


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.inf, 1e40])
def test_a_bound_that_is_none_is_refused(bound):
    assert code(Grid, 3, bound) == "ckks.range"


def wrong_forms():
    """Messages that a broken or bad site might send in place of one ciphertext of 5 numbers."""
    good = decode(ckks.encrypt({"v": np.ones(5)}, KEY, Grid(3, 1.0)))["ckks"]
    high = good.copy()
    high[0, 1, 7] = 255  # 2^56 - 1: above the modulus, as of another level
    return {
        "nothing": b"",
        "no safetensors": b"\x80\x04K\x00." * 50,
        "no array": encode({}),
        "another scheme": encode({"bfv": good}),
        "one more": encode({"ckks": good, "bfv": good}),
        "two ciphertexts": encode({"ckks": np.concatenate([good, good])}),
        "another degree": encode({"ckks": good[:, :, :2048].copy()}),
        "three parts": encode({"ckks": np.concatenate([good, good[:, :1]], axis=1)}),
        "another dtype": encode({"ckks": good.astype(np.int8)}),
        "above the modulus": encode({"ckks": high}),
        "cut": encode({"ckks": good})[:-1],
        "plain": encode({"v": np.ones(5, np.float32)}),
    }


@pytest.mark.parametrize("name", wrong_forms())
def test_a_message_of_another_form_is_refused_and_nothing_crashes(name):
    good, bad, grid = ckks.encrypt({"v": np.ones(5)}, KEY, Grid(3, 1.0)), wrong_forms()[name], Grid(3, 1.0)
    assert code(ckks.add, [good, bad], VECTOR) == "ckks.form"
    assert code(ckks.add, [bad, good], VECTOR) == "ckks.form"
    assert code(ckks.decrypt, bad, KEY, grid, VECTOR) == "ckks.form"


def test_the_modulus_is_seals_and_its_128_bits_are_checked_by_it():
    import tenseal as ts
    import tenseal.sealapi

    assert ts.sealapi.CoeffModulus.Create(ckks.DEGREE, list(ckks.BITS))[0].value() == Q
    assert ts.sealapi.PlainModulus.Batching(ckks.DEGREE, 40).value() == PLAIN
    ts.context(ts.SCHEME_TYPE.CKKS, ckks.DEGREE, -1, [55, 54])  # 109 bits, the table's limit
    with pytest.raises(ValueError, match="not set correctly"):
        ts.context(ts.SCHEME_TYPE.CKKS, ckks.DEGREE, -1, [55, 55])


@pytest.mark.parametrize(("dtype", "bytes_each"), [("float32", 28), ("int64", 14)])
def test_the_size_is_known_before_and_is_that_of_the_arrays(dtype, bytes_each):
    full = 3 * SLOTS["ckks" if dtype == "float32" else "bfv"]
    for count, ciphertexts in ((full, 3), (full + 1, 4)):
        update = {"v": np.zeros(count, dtype)}
        said = ckks.size(layout(update))
        assert said == ciphertexts * full // 3 * bytes_each
        assert said <= len(ckks.encrypt(update, KEY, Grid(3, 1.0))) <= said + 100


def test_a_dense_gram_is_refused_with_its_size_and_factors_and_top_items_fit():
    """1682² numbers are 1382 ciphertexts of 57344 bytes a float, 691 of as many a whole number."""
    dense = plan(gram=Tensor("float32", ("items", "items"), norm=1.0))
    with pytest.raises(Refused, match=r"ckks.bytes: encrypted, an update needs 79.2 MB, 16 MB may leave"):
        check_plan(dense, 1682, 4, 16 * 10**6)
    assert ckks.size(layout_of(plan(gram=Tensor("int32", ("items", "items"))), 1682)) == 691 * 2 * 4096 * 7
    check_plan(plan(v=Tensor("float32", ("items", 64), norm=1.0)), 1682, 4, 16 * 10**6)
    check_plan(plan(gram=Tensor("float32", (700, 700), norm=1.0)), 1682, 4, 16 * 10**6)


def test_a_plan_that_encryption_cannot_serve_is_refused_with_what_to_do():
    good = plan(v=Tensor("float32", (5,), norm=2.0), n=Tensor("int64", (5,)))
    check_plan(good, 9, 3, 10**6)
    assert grid_of(good, 3, factor=10.0).bound == 20.0
    assert code(check_plan, good, 9, 2, 10**6) == "plan.privacy"
    assert code(check_plan, plan(v=Tensor("float32", (5,))), 9, 3, 10**6) == "plan.privacy"
    assert (
        code(check_plan, plan(codec={"name": "int8"}, v=Tensor("float32", (5,), norm=2.0)), 9, 3, 10**6)
        == "plan.privacy"
    )
    assert code(check_plan, good, 9, 51, 10**6) == "ckks.sites"
