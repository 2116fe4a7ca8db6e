"""Encrypted sums: they are exact, what is refused, how large they are. The attacks are in tests/attacks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import Refused
from fedrec.exchange import ckks
from fedrec.exchange.ckks import PLAIN, Form, Layout, Q
from fedrec.exchange.ckks_plan import added, decrypted, encrypted, layout_of
from fedrec.exchange.plan import PlanText, Tensor
from fedrec.exchange.secure_sum import add, from_ring, to_ring

KEY = ckks.make_key()
WIDTHS = st.sampled_from([8, 16, 32, 64])
FIVE = Layout({"v": Form((5,), 32, False)}, 3)


def ring_of(rng, form, sites):
    """Numbers that `sites` institutions can add without wrapping, the largest and the smallest among them."""
    most = (2 ** (form.width - 1) - 1) // sites
    found = rng.integers(-most, most, form.shape, endpoint=True)
    found.ravel()[:2] = [most, -most][: found.size]
    return found.astype(f"int{form.width}").view(f"uint{form.width}")


def code(call, *given, **more):
    with pytest.raises(Refused) as refused:
        call(*given, **more)
    return refused.value.code


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 50), WIDTHS, WIDTHS, st.integers(0, 2**32 - 1), st.integers(1, 3000))
def test_the_decrypted_sum_is_exact_for_any_numbers_widths_and_sites(sites, width, counted, seed, size):
    """Fixed-point numbers by CKKS or BFV, counts by BFV: no noise of the encryption is left, and nothing wraps.

    The same ciphertexts come again and again, so that their noise adds up as it would at the very worst.
    """
    rng = np.random.default_rng(seed)
    layout = Layout({"v": Form((size,), width, False), "n": Form((2, 3), counted, True)}, sites)
    rings = [{name: ring_of(rng, form, sites) for name, form in layout.forms.items()} for _ in range(min(sites, 3))]
    given, sent = [rings[i % len(rings)] for i in range(sites)], [ckks.encrypt(ring, KEY, layout) for ring in rings]
    found = ckks.decrypt(ckks.add([sent[i % len(rings)] for i in range(sites)]), KEY, layout)
    for name in layout.forms:
        total = np.add.reduce([ring[name] for ring in given], dtype=given[0][name].dtype)
        assert (found[name].dtype, found[name].shape) == (total.dtype, total.shape)
        np.testing.assert_array_equal(found[name], total)


@pytest.mark.parametrize("sites", [3, 10, 11, 50])
def test_with_every_site_at_its_most_in_every_slot_nothing_wraps(sites):
    """4096 equal numbers are the worst for CKKS: they meet in one coefficient."""
    layout = Layout({"v": Form((4096,), 32, False), "n": Form((4096,), 32, True)}, sites)
    for most in ((2**31 - 1) // sites, -((2**31 - 1) // sites)):
        ring = {name: np.full(4096, most, np.int32).view(np.uint32) for name in layout.forms}
        found = ckks.decrypt(ckks.add([ckks.encrypt(ring, KEY, layout)] * sites), KEY, layout)
        for name in layout.forms:
            assert set(found[name].view(np.int32)) == {most * sites}


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 8), st.integers(4, 20), st.floats(0.01, 50), st.integers(0, 2**32 - 1))
def test_a_sum_is_off_by_half_a_step_for_each_site_and_no_more(sites, bits, large, seed):
    """The error of an encrypted sum is that of fixed-point numbers: sites · 2^-(bits + 1). Encryption adds none."""
    rng = np.random.default_rng(seed)
    leaves = {"v": Tensor("float64", (40,), fixed=(bits, 32))}
    plan = PlanText("p", "why", {"name": "mf"}, {"name": "sum"}, leaves, privacy={"sum": "ckks"})
    updates = [{"v": rng.uniform(-large, large, 40)} for _ in range(sites)]
    rings = [to_ring(plan, update, 9, 9, sites, 9) for update in updates]
    layout, names = layout_of(plan, 9, sites), [f"site-{i}" for i in range(sites)]
    sent = [encrypted(ring, KEY, layout, b"c", name) for ring, name in zip(rings, names, strict=True)]
    total = decrypted(added(sent, layout), KEY, layout, b"c", names)
    np.testing.assert_array_equal(total["v"], add(plan, rings, 9)["v"])
    error = np.abs(from_ring(plan, total, sites)["v"] - sum(update["v"] for update in updates)).max()
    assert error <= sites * 2.0 ** -(bits + 1) * (1 + 1e-9)


@pytest.mark.parametrize(("whole", "most"), [(False, 2**52 // 2**20 // 3), (True, PLAIN // 4 // 3)])
def test_a_number_above_the_range_is_refused_and_not_wrapped(whole, most):
    """A form of 32 bits lets no sum of three beyond 2^31 in; a number that `to_ring` did not make may still come."""
    assert Layout({"v": Form((2,), 32, whole)}, 3).most("bfv" if whole else "ckks") == most
    layout = Layout({"v": Form((2,), 32, whole)}, 10)
    worst = {"v": np.array([2**31 - 1, -(2**31)], np.int32).view(np.uint32)}
    if whole:  # BFV has room for it
        np.testing.assert_array_equal(ckks.decrypt(ckks.encrypt(worst, KEY, layout), KEY, layout)["v"], worst["v"])
    else:
        assert code(ckks.encrypt, worst, KEY, layout) == "ckks.range"


@pytest.mark.parametrize("sites", [0, -1, 51])
def test_more_institutions_than_the_bits_bear_are_refused(sites):
    assert code(Layout, {}, sites) == "ckks.sites"


def message():
    ring = {"v": np.arange(5, dtype=np.uint32)}
    return encrypted(ring, KEY, FIVE, b"c", "a")


def wrong_forms():
    """Messages that a broken or bad site might send in place of one ciphertext of 5 numbers and its tag."""
    good = message()
    part, high = good["ckks"], good["ckks"].copy()
    high[0, 1, 7] = 255  # 2^56 - 1: above the modulus, as of another level
    return {
        "nothing": {},
        "another scheme": {"bfv": part, "tag": good["tag"]},
        "one more": {**good, "bfv": part},
        "two ciphertexts": {**good, "ckks": np.concatenate([part, part])},
        "no ciphertext": {**good, "ckks": part[:0]},
        "another degree": {**good, "ckks": part[:, :, :2048]},
        "three parts": {**good, "ckks": np.concatenate([part, part[:, :1]], axis=1)},
        "another dtype": {**good, "ckks": part.astype(np.int8)},
        "above the modulus": {**good, "ckks": high},
        "not encrypted": {"v": np.ones(5, np.float32), "tag": good["tag"]},
        "no tag": {"ckks": part},
        "a short tag": {**good, "tag": good["tag"][:-1]},
        "a tag of another dtype": {**good, "tag": good["tag"].astype(np.float32)},
    }


@pytest.mark.parametrize("name", wrong_forms())
def test_a_message_of_another_form_is_refused_and_nothing_crashes(name):
    good, bad = message(), wrong_forms()[name]
    for messages in ([good, bad, good], [bad, good, good]):
        assert code(added, messages, FIVE) == "ckks.form"
    if "tag" not in name:
        asked = {key: part for key, part in bad.items() if key != "tag"} | {"tags": np.stack([good["tag"]] * 3)}
        assert code(decrypted, asked, KEY, FIVE, b"c", "abc") == "ckks.form"


@pytest.mark.parametrize("tags", [None, np.zeros((2, 84), np.uint8), np.zeros((3, 84)), np.zeros(252, np.uint8)])
def test_a_sum_without_a_tag_of_each_member_is_not_decrypted(tags):
    asked = {key: part for key, part in added([message()] * 3, FIVE).items() if key != "tags"}
    if tags is not None:
        asked["tags"] = tags
    assert code(decrypted, asked, KEY, FIVE, b"c", "abc") == "ckks.form"


def test_the_modulus_is_seals_and_its_128_bits_are_checked_by_it():
    import tenseal as ts
    import tenseal.sealapi

    assert ts.sealapi.CoeffModulus.Create(ckks.DEGREE, list(ckks.BITS))[0].value() == Q
    assert ts.sealapi.PlainModulus.Batching(ckks.DEGREE, 40).value() == PLAIN
    ts.context(ts.SCHEME_TYPE.CKKS, ckks.DEGREE, -1, [55, 54])  # 109 bits, the table's limit
    with pytest.raises(ValueError, match="not set correctly"):
        ts.context(ts.SCHEME_TYPE.CKKS, ckks.DEGREE, -1, [55, 55])


@pytest.mark.parametrize(
    ("width", "whole", "sites", "scheme", "each"),
    [
        (32, True, 50, "bfv", 14), (64, True, 50, "bfv", 28),
        (32, False, 10, "ckks", 28), (32, False, 50, "bfv", 14), (64, False, 4, "bfv", 28),
    ],
)  # fmt: skip
def test_the_size_is_known_before_and_is_that_of_the_arrays(width, whole, sites, scheme, each):
    slots = ckks.SLOTS[scheme]
    for count, size in (
        (slots, slots * each),
        (slots * 2, slots * 2 * each),
        (1, 57344 * each // (14 if scheme == "bfv" else 28)),
    ):
        form = Form((count,), width, whole)
        layout = Layout({"v": form}, sites)
        assert layout.scheme(form) == scheme
        sent = ckks.pack(ckks.encrypt({"v": np.zeros(count, f"uint{width}")}, KEY, layout))
        assert sum(part.nbytes for part in sent.values()) == layout.nbytes <= size
        assert count == 1 or layout.nbytes == size


def test_what_a_dense_gram_needs_and_what_fits_in_16_mb():
    """A site's cap is 16 MB unless it says otherwise. 1682² counts are 691 ciphertexts of 57,344 bytes."""

    def needs(shape, fixed):
        plan = PlanText("p", "why", {"name": "ease"}, {"name": "sum"}, {"v": Tensor("float32", shape, fixed=fixed)})
        return layout_of(plan, 1682, 4).nbytes / 1e6

    assert needs(("items", "items"), (0, 32)) == 691 * 57344 / 1e6  # 39.6 MB
    assert needs(("items", "items"), (24, 64)) > 64
    assert needs((1000, 1000), (0, 32)) < 16  # the 1,000 items touched most
    assert needs(("items", 64), (16, 32)) < 3.2
    assert needs(("items", 64), (24, 64)) < 3.2
