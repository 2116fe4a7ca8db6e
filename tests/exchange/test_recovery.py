"""Double masks: the sum over who is left, whoever is lost, and what a centre that lies about it can read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

import fedrec
from fedrec import models
from fedrec.errors import Refused
from fedrec.exchange import recovery, shamir
from fedrec.exchange.privacy import Privacy
from fedrec.exchange.recovery import agreement, check_among, locked, rows_of, threshold, told, unlocked
from fedrec.exchange.secure_sum import add, from_ring, keystream, masked, pair_seed, to_ring

CONTEXT = b'{"round":1}'
KEYS = {f"site{number:02}": SigningKey((b"%02d" % number).ljust(32, b".")) for number in range(50)}


def consortium(count):
    return {name: key.verify_key.encode().hex() for name, key in list(KEYS.items())[:count]}


def updates(members, seed=0):
    random = np.random.default_rng(seed)
    return {
        name: {"b": random.integers(0, 2**32, (3, 2), dtype=np.uint32), "a": random.integers(0, 256, 5, dtype=np.uint8)}
        for name in members
    }


def sent(members, seed=0):
    """What every member would send: by name, (masked arrays, sealed rows by reader)."""
    found = {}
    for name, ring in updates(members, seed).items():
        arrays, rows = rows_of(locked(ring, name, KEYS[name], members, CONTEXT), len(members))
        found[name] = arrays, dict(zip(members, rows, strict=True))
    return found


def added(rings):
    total = {}
    for ring in rings:
        for name, array in ring.items():
            total[name] = total[name] + array if name in total else array.copy()
    return total


def tell(messages, members, reader, among):
    return told({name: messages[name][1][reader] for name in among}, KEYS[reader], members, CONTEXT)


def code(call, *given, **more):
    with pytest.raises(Refused) as refused:
        call(*given, **more)
    return refused.value.code


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(4, 12), st.integers(0, 99))
def test_the_sum_over_whoever_is_left_is_exact_whoever_answers(data, count, seed):
    members = consortium(count)
    need, names = threshold(count), list(members)
    among = sorted(data.draw(st.sets(st.sampled_from(names), min_size=need)))
    asked = sorted(data.draw(st.sets(st.sampled_from(among), min_size=need)))
    messages, truth = sent(members, seed), updates(members, seed)
    total = added(messages[name][0] for name in among)
    said = {reader: tell(messages, members, reader, among) for reader in asked}
    got = unlocked(total, names, among, said)
    for array in ("a", "b"):
        np.testing.assert_array_equal(got[array], added(truth[name] for name in among)[array])


@settings(max_examples=10, deadline=None)
@given(st.data(), st.integers(4, 30), st.integers(0, 10**9), st.integers(0, 2**32 - 1))
def test_the_weighted_mean_of_whoever_is_left_is_right_to_a_millionth(data, count, heaviest, seed):
    members, draws = consortium(count), np.random.default_rng(seed)
    spec = fedrec.Plan(model=models.create("mf", {"factors": 4}), privacy=Privacy("secure", recover=True)).spec
    arrays = {name: (0.2 * draws.standard_normal((6, 4))).astype(np.float32) for name in members}
    weights = {
        name: max(1, int(weight)) for name, weight in zip(members, draws.integers(0, heaviest + 1, count), strict=True)
    }
    rings = {name: to_ring(spec, {"items": arrays[name]}, weights[name], 1, count, 6) for name in members}
    names, need = list(members), threshold(count)
    among = sorted(data.draw(st.sets(st.sampled_from(names), min_size=need)))
    messages = {}
    for name in among:
        arrays_, rows = rows_of(locked(rings[name], name, KEYS[name], members, CONTEXT), count)
        messages[name] = arrays_, dict(zip(members, rows, strict=True))
    said = {reader: tell(messages, members, reader, among) for reader in among[:need]}
    total = unlocked(add(spec, [messages[name][0] for name in among], 6), names, among, said)
    exact = sum(weights[name] * arrays[name].astype(np.float64) for name in among)
    got = from_ring(spec, total, len(among))["items"]
    np.testing.assert_allclose(got, exact / sum(weights[name] for name in among), rtol=0, atol=1e-6)


def test_fifty_members_lose_sixteen():
    members = consortium(50)
    among = list(members)[16:]
    messages = sent(members)
    said = {reader: tell(messages, members, reader, among) for reader in among}
    got = unlocked(added(messages[name][0] for name in among), list(members), among, said)
    np.testing.assert_array_equal(got["b"], added(updates(members)[name] for name in among)["b"])


def test_the_same_round_gives_the_same_bytes_and_another_round_others():
    members, ring = consortium(5), updates(consortium(5))["site00"]
    first, again = (locked(ring, "site00", KEYS["site00"], members, CONTEXT) for _ in range(2))
    other = locked(ring, "site00", KEYS["site00"], members, CONTEXT + b" ")
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert (array != other[name]).any()


def test_one_member_below_the_threshold_tells_nothing():
    members = consortium(5)
    among = list(members)
    messages = sent(members)
    said = {reader: tell(messages, members, reader, among) for reader in among[: threshold(5) - 1]}
    total = added(messages[name][0] for name in among)
    assert refused_or(unlocked, total, among, among, said, truth=added(updates(members).values()))


def refused_or(call, *given, truth):
    """Too few shares give another secret, or none."""
    try:
        return (call(*given)["b"] != truth["b"]).any()
    except Refused as refusal:
        return refusal.code == "sum.unmask"


def read_update(messages, members, name, said):
    """A centre's try to read one update: all its masks that the answers give, and that they are enough."""
    seeds = {}
    for other in members:
        shares = {
            number: bytes.fromhex(what[name][other])
            for number, (reader, what) in enumerate(said.items(), start=1)
            if what is not None and other in what.get(name, ())
        }
        if len(shares) >= threshold(len(members)):
            seeds[other] = shamir.join(shares)
    if set(seeds) != set(members):
        return None
    names = list(members)
    flat = {key: array.copy() for key, array in sorted(messages[name][0].items())}
    for other, seed in seeds.items():
        stream = keystream(seed)
        for array in flat.values():
            mask = np.frombuffer(stream.update(bytes(array.nbytes)), array.dtype).reshape(array.shape)
            before = other != name and names.index(other) < names.index(name)
            array += mask if before else (-mask.astype(np.int64)).astype(array.dtype)
    return flat


@pytest.mark.parametrize("defence", [True, False])
def test_a_centre_that_lies_about_who_is_missing_reads_no_update(defence):
    """It tells each member another set, with the victim in and others out, to collect all masks of the victim's update.

    The control: members that tell without the signatures of the others, as often as they are asked.
    """
    members, victim = consortium(5), "site00"
    names, messages = list(members), sent(members)
    need = threshold(5)
    # sets of `need` with the victim in it: each other member is missing from one of them
    wishes = [[name for name in names if name != out] for out in names[1:]]
    assert all(len(wish) == need for wish in wishes)
    signatures = {}  # what honest members sign: one set each, the first that they are asked for
    for number, name in enumerate(names):
        wish = next(one for one in wishes[number % 4 :] + wishes if name in one)
        signatures[name] = tuple(wish), agreement(wish, CONTEXT, KEYS[name])
    said = {name: {} for name in names}
    for wish in wishes:
        for reader in wish:
            got = {name: signature for name, (signed, signature) in signatures.items() if signed == tuple(wish)}
            try:
                if defence:
                    check_among(wish, members, reader, got, CONTEXT)
                what = tell(messages, members, reader, wish)
            except Refused:
                continue
            for name, shares in what.items():
                said[reader].setdefault(name, {}).update(shares)
    got = read_update(messages, members, victim, said)
    if defence:
        assert got is None
    else:
        np.testing.assert_array_equal(got["b"], updates(members)[victim]["b"])


def test_an_update_that_is_said_to_be_missing_stays_unreadable_also_with_the_masks_of_its_pairs():
    """The centre has it, and leaves it out: it learns the pairs' masks from the others, but not its own one.

    The control: with the masks of its pairs alone, as in secure_sum.py, it would be open.
    """
    members, hidden = consortium(4), "site03"
    among = [name for name in members if name != hidden]
    messages = sent(members)
    said = {reader: tell(messages, members, reader, among) for reader in among}
    numbers = {name: number for number, name in enumerate(members, start=1)}
    pairs = {
        name: shamir.join({numbers[reader]: bytes.fromhex(what[name][hidden]) for reader, what in said.items()})
        for name in among
    }
    assert pairs == {name: pair_seed(KEYS[name], members[hidden], hidden, CONTEXT) for name in among}
    assert not any(hidden in what for what in said.values())  # nobody tells a share of its own mask

    def without_pairs(ring):
        flat = {key: array.copy() for key, array in sorted(ring.items())}
        for name in among:
            recovery._mask(flat, pairs[name], add=True)  # it comes last in the order, so it took them off
        return flat

    truth = updates(members)[hidden]
    assert (without_pairs(messages[hidden][0])["b"] != truth["b"]).all()
    single = masked(truth, hidden, KEYS[hidden], members, CONTEXT)
    np.testing.assert_array_equal(without_pairs(single)["b"], truth["b"])


def test_rows_of_another_round_reader_or_maker_are_refused():
    members, messages = consortium(4), sent(consortium(4))
    own, key = "site01", KEYS["site01"]
    good = {"site00": messages["site00"][1][own]}
    assert set(told(good, key, members, CONTEXT)["site00"]) == {"site00", "site01", "site02", "site03"}
    spoilt = bytes([good["site00"][0] ^ 1]) + good["site00"][1:]
    for rows in ({"site00": spoilt}, {"site02": good["site00"]}, {"site00": messages["site00"][1]["site02"]}):
        assert code(told, rows, key, members, CONTEXT) == "sum.unmask"
    assert code(told, good, key, members, CONTEXT + b" ") == "sum.unmask"


@pytest.mark.parametrize("name", ["few", "order", "stranger", "without", "twice", "forged", "other-set"])
def test_a_set_that_too_few_signed_is_refused(name):
    members = consortium(5)
    among = list(members)[:4]
    signed = {one: agreement(among, CONTEXT, KEYS[one]) for one in among}
    check_among(among, members, "site00", signed, CONTEXT)  # the control
    wish, own = among, "site00"
    if name == "few":
        wish = among[:3]
    elif name == "order":
        wish = among[::-1]
    elif name == "stranger":
        wish = [*among, "mallory"]
    elif name == "without":
        own = "site04"
    elif name == "twice":
        signed = dict.fromkeys(among, signed["site00"])
    elif name == "forged":
        signed |= {"site03": agreement(among, CONTEXT, SigningKey.generate())}
    else:
        signed |= {"site03": agreement(list(members), CONTEXT, KEYS["site03"])}
    assert code(check_among, wish, members, own, signed, CONTEXT) == "sum.unmask"


def test_a_message_without_shares_is_refused():
    members, ring = consortium(4), updates(consortium(4))["site00"]
    plain = masked(ring, "site00", KEYS["site00"], members, CONTEXT)
    whole = locked(ring, "site00", KEYS["site00"], members, CONTEXT)
    assert code(rows_of, plain, 4) == "update.shape"
    assert code(rows_of, whole, 5) == "update.shape"
    assert code(rows_of, {**whole, recovery.SHARES: whole[recovery.SHARES].astype(np.uint16)}, 4) == "update.shape"


def test_shares_are_of_a_secret_of_32_bytes():
    secret = b"\xff" * 32
    shares = shamir.split(secret, 5, bytes(range(128)))
    assert shamir.join({1: shares[0], 3: shares[2], 5: shares[4]}) == secret
    assert shamir.join({number: shares[number - 1] for number in (2, 3, 4)}) == secret
    with pytest.raises(ValueError, match="no shares"):
        shamir.join({1: shares[0], 2: shares[1][:-1], 3: shares[2]})
