"""Codecs: the stated error and size hold for any array, and what one round loses the next one sends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedrec.errors import Refused, WrongInput
from fedrec.exchange.codec import CODECS, Float16, Float32, Int8, codec_of, pack_with_feedback
from fedrec.exchange.wire import decode, encode

every = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)
ANY = arrays.arrays(np.float32, SHAPES, elements=st.floats(-60000, 60000, width=32))


@every
@given(array=ANY)
def test_the_error_is_at_most_the_stated_one(codec, array):
    before = array.copy()
    found = codec.unpack(decode(encode(codec.pack({"v": array}))))["v"]
    assert (found.dtype, found.shape) == (np.float32, array.shape)
    assert (np.abs(found.astype(np.float64) - array) <= codec.error(array)).all()
    assert array.tobytes() == before.tobytes()


@every
@given(array=ANY)
def test_the_size_is_the_stated_one(codec, array):
    packed = codec.pack({"v": array})
    assert sum(part.nbytes for part in packed.values()) == codec.size(array)


@every
def test_what_is_no_float32_travels_as_it_is(codec):
    sent = {"n": np.arange(5), "d": np.array([0.1, 1e300])}
    found = codec.unpack(codec.pack(sent))
    assert {name: a.tobytes() for name, a in found.items()} == {name: a.tobytes() for name, a in sent.items()}
    assert codec.size(sent["n"]) == 40


@every
@given(
    rounds=st.lists(arrays.arrays(np.float32, (3, 4), elements=st.floats(-10, 10, width=32)), min_size=1, max_size=8)
)
def test_with_feedback_the_sum_over_rounds_is_right_to_one_rounds_error(codec, rounds):
    rest, sent = {}, np.zeros((3, 4))
    for gradient in rounds:
        packed, after = pack_with_feedback(codec, {"g": gradient}, rest)
        wanted = gradient + rest.get("g", np.float32(0))
        sent += codec.unpack(packed)["g"]
        rest = after
    slack = 1e-4  # float32 sums
    assert (np.abs(sent - np.sum(rounds, axis=0, dtype=np.float64)) <= codec.error(wanted) + slack).all()


def test_without_feedback_small_numbers_beside_large_ones_are_lost_for_good():
    """Control. Beside 127 a step is 1: a 0.3 is rounded to 0 each time; with feedback ten rounds bring 3."""
    gradient = np.array([127.0, 0.3], np.float32)
    plain = sum(Int8().unpack(Int8().pack({"g": gradient}))["g"][1] for _ in range(10))
    rest, fed = {}, 0.0
    for _ in range(10):
        packed, rest = pack_with_feedback(Int8(), {"g": gradient}, rest)
        fed += Int8().unpack(packed)["g"][1]
    assert plain == 0.0
    assert fed == pytest.approx(3.0, abs=0.5)


def test_bytes_of_item_vectors():
    """1682 x 64: float32 430,592, float16 half of it, int8 one byte each and four a row."""
    vectors = np.random.default_rng(0).normal(size=(1682, 64)).astype(np.float32)
    assert [codec.size(vectors) for codec in (Float32(), Float16(), Int8())] == [430_592, 215_296, 114_376]


def test_eight_bits_by_hand():
    """Largest 254, so steps of 2: 254 is 127, -3 is -1.5 and goes to the even -2, 0 stays; a row of zeros has scale 0."""
    packed = Int8().pack({"v": np.array([[254.0, -3.0, 0.0], [0.0, 0.0, 0.0]], np.float32)})
    assert packed["v"].tolist() == [[127, -2, 0], [0, 0, 0]]
    assert packed["scale.v"].tolist() == [[2.0], [0.0]]
    assert Int8().unpack(packed)["v"].tolist() == [[254, -4, 0], [0, 0, 0]]


@pytest.mark.parametrize("value", [np.nan, np.inf, 70000.0])
def test_a_number_that_float16_cannot_hold_is_refused(value):
    with pytest.raises(Refused, match=r"codec\.range"):
        Float16().pack({"v": np.array([1.0, value], np.float32)})


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_number_that_is_none_is_refused(value):
    with pytest.raises(Refused, match=r"codec\.range"):
        Int8().pack({"v": np.array([1.0, value], np.float32)})


@pytest.mark.parametrize("scale", [None, np.ones((2, 1)), np.ones(2, np.float32), np.ones((3, 1), np.float32)])
def test_eight_bits_without_a_scale_for_each_row_are_refused(scale):
    packed = {"v": np.ones((2, 3), np.int8)} | ({} if scale is None else {"scale.v": scale})
    with pytest.raises(Refused, match=r"codec\.form"):
        Int8().unpack(packed)


def test_a_codec_has_a_name():
    assert codec_of("int8") == Int8()
    with pytest.raises(WrongInput, match="float32, float16, int8"):
        codec_of("int4")
