"""Tensors on the wire, passports and signed calls: what is accepted is whole, signed, timely and new."""

from __future__ import annotations

import json
import pickle
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from nacl.signing import SigningKey

from fedrec.errors import Refused
from fedrec.exchange import passport, signing, wire
from fedrec.institution.gate import Nonces

KEY, OTHER = SigningKey(b"k" * 32), SigningKey(b"o" * 32)
PUBLIC = KEY.verify_key.encode().hex()

some_array = st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.int64]).flatmap(
    lambda kind: arrays(kind, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


# wire


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda n: n != "__metadata__"),
        some_array,
        max_size=4,
    )
)
def test_tensors_come_back_to_the_bit_whatever_their_order(tensors):
    data = wire.encode(tensors)
    assert data == wire.encode(dict(reversed(tensors.items())))
    found = wire.decode(data)
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        assert (found[name].dtype, found[name].shape, found[name].tobytes()) == (
            array.dtype,
            array.shape,
            array.tobytes(),
        )


def test_a_view_and_its_copy_have_one_hash():
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert wire.digest({"a": base.T}) == wire.digest({"a": base.T.copy()})
    assert wire.digest({"a": base}) != wire.digest({"a": base.T})
    assert wire.digest({"a": np.zeros(1, np.float32)}) != wire.digest({"a": -np.zeros(1, np.float32)})


def bare(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


BAD = {
    "nothing": b"",
    "a pickle": pickle.dumps({"a": np.zeros(2)}),
    "a cut file": wire.encode({"a": np.zeros(9, np.float32)})[:-1],
    "more than it says": wire.encode({"a": np.zeros(9, np.float32)}) + b"x",
    "a header of 2**63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "a header that is no JSON": bare(b"{"),
    "a list": bare([]),
    "an unknown dtype": bare({"a": {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 8]}}, b"12345678"),
    "bfloat16, which numpy has not": bare({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, b"12"),
    "a negative shape": bare({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
    "a shape of 2**62": bare({"a": {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 4]}}, b"1234"),
    "offsets that overlap": bare({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, b"1234"),
    "257 tensors": wire.encode({str(number): np.zeros(1, np.float32) for number in range(257)}),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_safetensors_is_refused(what):
    with pytest.raises(Refused, match=r"wire\.format"):
        wire.decode(BAD[what])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 120), st.integers(0, 120))
def test_garbage_is_refused_and_nothing_else_is_raised(garbage, low, size):
    whole = wire.encode({"a": np.zeros(9, np.float32)})
    for data in (garbage, whole[:low] + garbage + whole[low + size :]):
        try:
            wire.decode(data)
        except Refused as refusal:
            assert refusal.code == "wire.format"  # noqa: PT017


def test_256_tensors_are_fine_and_a_pickle_is_never_opened(tmp_path):
    assert len(wire.decode(wire.encode({str(n): np.zeros(1, np.float32) for n in range(256)}))) == 256

    class Canary:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    data = pickle.dumps(Canary())
    with pytest.raises(Refused):
        wire.decode(data)
    assert not (tmp_path / "opened").exists()
    pickle.loads(data).close()  # the control
    assert (tmp_path / "opened").exists()


# passports

FACTS = dict.fromkeys(passport.FIELDS, "x") | {
    "round": 3,
    "bytes": 10,
    "rows": 5,
    "users": 2,
    "run": "r",
    "base": "b",
    "site": "a",
}


def code_of(signed, key=PUBLIC, **expected):
    try:
        passport.check(signed, key=key, **expected)
    except Refused as refusal:
        return refusal.code
    return ""


def test_a_whole_passport_signed_by_the_pinned_key_is_accepted():
    signed = passport.sign(FACTS, KEY)
    assert code_of(signed, site="a", run="r", round=3, base="b") == ""
    assert passport.signed_by(json.loads(json.dumps(signed)), PUBLIC)


@pytest.mark.parametrize("name", sorted(passport.FIELDS))
def test_a_passport_with_any_field_changed_missing_or_added_is_refused(name):
    signed = passport.sign(FACTS, KEY)
    assert code_of({**signed, name: "other"}) == "update.unsigned"
    assert code_of({key: value for key, value in signed.items() if key != name}) == "update.passport"
    short = {key: value for key, value in FACTS.items() if key != name}
    assert code_of(passport.sign(short, KEY)) == "update.passport"
    assert code_of(passport.sign({**FACTS, name + "_": 1}, KEY)) == "update.passport"
    assert code_of(passport.sign({**FACTS, name: "other"}, KEY), **{name: FACTS[name]}) == (
        "update.stale" if name in ("round", "base", "run") else f"update.{name}"
    )


@pytest.mark.parametrize("signature", ["", "00", "zz", "ab" * 64, "ab" * 65, None, 5, b"x"])
def test_a_signature_that_is_none_is_refused_and_does_not_crash(signature):
    assert code_of({**FACTS, "signature": signature}) == "update.unsigned"


@pytest.mark.parametrize(
    "key", ["", "00" * 32, "01" + "00" * 31, "zz" * 32, "ab" * 31, OTHER.verify_key.encode().hex()]
)
def test_another_key_or_one_that_is_none_is_refused(key):
    assert code_of(passport.sign(FACTS, KEY), key=key) == "update.unsigned"


def test_the_round_before_and_another_base_are_stale():
    signed = passport.sign(FACTS, KEY)
    assert [code_of(signed, round=4), code_of(signed, base="c"), code_of(signed, run="q")] == ["update.stale"] * 3
    assert code_of(signed, nonce="other") == "update.nonce"


def test_values_without_a_canonical_form_are_not_signed():
    for value in (float("nan"), float("inf"), b"x", {1, 2}):
        assert not passport.signed_by({**FACTS, "rows": value, "signature": "ab" * 64}, PUBLIC)


# signed calls

UID, BODY, SHA = "5" * 32, "c" * 64, "/fedrec/v1/blobs/" + "d" * 64


def call(method="PUT", target=SHA, uid=UID, body=BODY):
    return {
        name.lower(): value for name, value in signing.headers(KEY, method, target, uid, body=body, permit="r").items()
    }


def changed(headers):
    return call() | {f"x-fedrec-{name}": value for name, value in headers.items()}


def said(given_, method="PUT", target=SHA, uid=UID, body=BODY, nonces=None):
    try:
        return signing.check(given_, method, target, uid, body, (nonces or Nonces(600)).fresh)
    except Refused as refusal:
        return refusal.code


def test_a_signed_call_gives_its_key_and_permit():
    assert said(call()) == (PUBLIC, "r")


@pytest.mark.parametrize(
    "change",
    [{"method": "GET"}, {"target": SHA + "?wait=1"}, {"target": SHA[:-1] + "e"}, {"uid": "6" * 32}, {"body": "e" * 64}],
    ids=lambda change: next(iter(change)),
)
def test_a_call_signed_for_something_else_is_refused(change):
    assert said(call(), **change) == "gate.signature"
    assert said(call(**change), **change) == (PUBLIC, "r")  # the control


@pytest.mark.parametrize(
    "change",
    [
        {"key": OTHER.verify_key.encode().hex()},
        {"key": ""},
        {"key": "zz"},
        {"key": "00" * 32},
        {"permit": "q"},
        {"nonce": "0" * 32},
        {"time": "0"},
        {"time": "x"},
        {"signature": ""},
        {"signature": "ab" * 64},
        {"signature": "zz"},
    ],
    ids=str,
)
def test_a_call_with_a_changed_header_is_refused(change):
    assert said(changed(change)) == "gate.signature"


def test_a_call_without_headers_is_refused():
    assert said({}) == "gate.signature"


def signed_at(seconds, nonce="0" * 32):
    when = str(seconds)
    signature = KEY.sign(signing.message("PUT", SHA, UID, BODY, when, nonce, "r")).signature.hex()
    return changed({"time": when, "nonce": nonce, "signature": signature})


def test_the_clock_may_be_ten_minutes_off_and_no_more():
    now = int(time.time())
    assert said(signed_at(now - 590)) == said(signed_at(now + 590)) == (PUBLIC, "r")
    assert said(signed_at(now - 610)) == said(signed_at(now + 610)) == "gate.time"
    assert said(signed_at("nan")) == said(signed_at("1e9")) == said(signed_at("")) == "gate.signature"


def test_a_call_sent_again_is_refused_and_a_short_nonce_too():
    nonces, given_ = Nonces(600), call()
    assert said(given_, nonces=nonces) == (PUBLIC, "r")
    assert said(given_, nonces=nonces) == "gate.replay"
    assert said(call(), nonces=nonces) == (PUBLIC, "r")
    assert said(signed_at(int(time.time()), nonce="0")) == "gate.replay"
    assert said(signed_at(int(time.time()), nonce="")) == "gate.replay"


def test_a_call_that_is_refused_for_its_signature_burns_no_nonce():
    """Else anyone who saw a nonce could make the true call fail."""
    nonces, given_ = Nonces(600), call()
    assert said({**given_, "x-fedrec-signature": "ab" * 64}, nonces=nonces) == "gate.signature"
    assert said(given_, nonces=nonces) == (PUBLIC, "r")


def test_old_nonces_are_forgotten_only_after_their_calls_are_too_old():
    nonces = Nonces(0.0)
    assert all(nonces.fresh("k", str(number)) for number in range(1500))
    time.sleep(0.01)
    assert nonces.fresh("k", "last")
    assert len(nonces._seen) < 1500
    lasting = Nonces(600)
    assert all(lasting.fresh("k", str(number)) for number in range(1500))
    assert not any(lasting.fresh("k", str(number)) for number in range(1500))
