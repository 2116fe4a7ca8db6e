"""The centre against encrypted sums: it reads nothing, and no institution decrypts for it anything but the whole sum.

`defence=False` is the control: the same attack with the key in the centre's hands, or at an institution that decrypts
whatever it is brought.
"""

from __future__ import annotations

import numpy as np
import pytest

from fedrec.errors import Refused
from fedrec.exchange import ckks, ckks_tag
from fedrec.exchange.ckks import Form, Layout, Q
from fedrec.exchange.ckks_plan import added, decrypted, encrypted

NAMES = ["aurora", "borealis", "delphi", "lumen"]
LAYOUT = Layout({"v": Form((3000,), 32, False), "n": Form((9,), 32, True)}, 4)
ROUND = b"the plan, the run, the round, the rows, the model, the members"
KEY, OTHER = ckks.make_key(), ckks.make_key()


@pytest.fixture(scope="module")
def round_():
    """The updates; and what the centre holds after a round, every institution's message."""
    rng = np.random.default_rng(7)
    rings = {
        name: {"v": rng.integers(-(10**6), 10**6, 3000).astype(np.int32).view(np.uint32),
               "n": rng.integers(0, 100, 9, np.uint32)}
        for name in NAMES
    }  # fmt: skip
    return rings, {name: encrypted(ring, KEY, LAYOUT, ROUND, name) for name, ring in rings.items()}


def wish(messages, sent):
    """A wish to decrypt the sum of some messages, with every member's tag."""
    total = added(messages, LAYOUT)
    return {**total, "tags": np.stack([sent[name]["tag"] for name in NAMES])}


def answer(asked, defence, key=KEY, context=ROUND, names=NAMES):
    """What an institution answers."""
    if defence:
        return decrypted(asked, key, LAYOUT, context, names)
    parts = {name: part for name, part in asked.items() if name != "tags"}
    return ckks.decrypt(ckks.unpack(parts, LAYOUT), key, LAYOUT)


def ciphers_of(message):
    return ckks.unpack({name: part for name, part in message.items() if name not in ("tag", "tags")}, LAYOUT)


def code(call, *given, **more):
    with pytest.raises(Refused) as refused:
        call(*given, **more)
    return refused.value.code


def test_the_whole_sum_is_decrypted_and_nobody_brought_a_single_ciphertext(round_):
    rings, sent = round_
    found = answer(added(list(sent.values()), LAYOUT), defence=True)
    for name in LAYOUT.forms:
        np.testing.assert_array_equal(found[name], sum(ring[name] for ring in rings.values()))


@pytest.mark.parametrize("defence", [True, False])
def test_the_centre_cannot_read_an_update(round_, defence):
    """It has ciphertexts, sums and tags. With a key of its own it gets noise; with theirs, the update."""
    rings, sent = round_
    ciphers = ciphers_of(sent["aurora"])
    if defence:
        assert code(ckks.decrypt, ciphers, OTHER, LAYOUT) == "ckks.garbage"
        raw = ckks._decrypted("ckks", ciphers["ckks"], OTHER, LAYOUT.scale("ckks"))[:3000]
        assert abs(np.corrcoef(raw, rings["aurora"]["v"].view(np.int32))[0, 1]) < 0.1  # 5 standard errors
    else:
        np.testing.assert_array_equal(ckks.decrypt(ciphers, KEY, LAYOUT)["v"], rings["aurora"]["v"])


def test_equal_updates_have_nothing_in_common_once_encrypted(round_):
    """Or the centre would compare: two numbers modulo Q are equal by chance once in 2^54. Control: who has the key can."""
    rings, sent = round_
    again = ckks.encrypt(rings["aurora"], KEY, LAYOUT)
    np.testing.assert_array_equal(ckks.decrypt(again, KEY, LAYOUT)["v"], rings["aurora"]["v"])
    for name, part in ciphers_of(sent["aurora"]).items():
        assert not (part == again[name]).any()


ATTACKS = {
    "one institution alone": lambda sent: [sent["aurora"]],
    "three of the four": lambda sent: [sent[name] for name in NAMES[:3]],
    "one member twice": lambda sent: [*sent.values(), sent["aurora"]],
}


@pytest.mark.parametrize("defence", [True, False])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_institution_decrypts_nothing_but_the_sum_of_all(round_, name, defence):
    """Each of these, with the sum that is released anyway, gives one institution's update."""
    rings, sent = round_
    asked = wish(ATTACKS[name](sent), sent)
    if defence:
        assert code(answer, asked, True) == "ckks.sum"
        return
    found, total = answer(asked, False)["n"], sum(ring["n"] for ring in rings.values())
    one = {"three of the four": total - found, "one member twice": found - total}.get(name, found)
    np.testing.assert_array_equal(one, rings["lumen" if name == "three of the four" else "aurora"]["n"])


@pytest.mark.parametrize("defence", [True, False])
def test_a_sum_that_was_moved_a_little_does_not_give_the_key_away(round_, defence):
    """c0 + c1 s: whoever adds d to c1 and is told the numbers learns d·s, and so the shared key itself.

    Adding Q // PLAIN to the first coefficient of BFV's c1 adds the key's own coefficients, -1, 0 or 1, to the plaintext:
    the same numbers, whatever the ciphertext was.
    """
    _, sent = round_
    read = []
    for messages in (list(sent.values()), [sent["aurora"]]):
        asked = wish(messages, sent)
        ciphers = ciphers_of(asked)
        moved = ciphers["bfv"].copy()
        moved[0, 1, 0] = (int(moved[0, 1, 0]) + Q // ckks.PLAIN) % Q
        if defence:
            assert code(answer, {**asked, **ckks.pack({"bfv": moved})}, True) == "ckks.sum"
        else:
            change = ckks._decrypted("bfv", moved, KEY, 1) - ckks._decrypted("bfv", ciphers["bfv"], KEY, 1)
            read.append(change % ckks.PLAIN)
    if not defence:
        np.testing.assert_array_equal(read[0], read[1])
        assert (read[0] != 0).mean() > 0.99


@pytest.mark.parametrize("defence", [True, False])
def test_what_comes_out_has_no_noise_from_which_the_key_could_be_found(round_, defence):
    """Li and Micciancio 2021: what is decrypted must not depend on what the encryption drew."""
    ring = round_[0]["aurora"]
    sums = [ckks.add([ckks.encrypt(ring, KEY, LAYOUT) for _ in range(4)]) for _ in range(2)]
    if defence:
        first, second = (ckks.decrypt(total, KEY, LAYOUT)["v"] for total in sums)
        np.testing.assert_array_equal(first, second)
    else:  # read to more digits than are released, the same two sums differ
        scale = LAYOUT.scale("ckks") // 2**14
        fine = [ckks._decrypted("ckks", total["ckks"], KEY, scale) for total in sums]
        assert (fine[0] != fine[1]).mean() > 0.5


def test_a_changed_tag_is_refused(round_):
    """The control is the same sum with the tags untouched."""
    _, sent = round_
    asked = added(list(sent.values()), LAYOUT)
    answer(asked, True)
    for at in (0, 40, 83):
        tags = asked["tags"].copy()
        tags[2, at] ^= 1
        assert code(answer, {**asked, "tags": tags}, True) == "ckks.tag"


def test_tags_of_another_round_another_order_or_one_member_twice_are_refused(round_):
    """The control is the same sum with the tags of its round, in their order."""
    _, sent = round_
    asked = added(list(sent.values()), LAYOUT)
    answer(asked, True)
    assert code(answer, asked, True, context=b"another round, or other members") == "ckks.tag"
    assert code(answer, {**asked, "tags": asked["tags"][[1, 0, 2, 3]]}, True) == "ckks.tag"
    assert code(answer, {**asked, "tags": asked["tags"][[0, 0, 2, 3]]}, True) == "ckks.tag"


@pytest.mark.parametrize("whose", ["the member's", "the decrypting institution's"])
def test_a_key_that_was_swapped_at_one_institution_is_noticed_and_named(round_, whose):
    """The control is the sum under the key that all have."""
    rings, sent = round_
    answer(added(list(sent.values()), LAYOUT), True)
    if whose == "the member's":
        sent = {**sent, "delphi": encrypted(rings["delphi"], OTHER, LAYOUT, ROUND, "delphi")}
    asked, key = added(list(sent.values()), LAYOUT), KEY if whose == "the member's" else OTHER
    with pytest.raises(Refused, match=r"ckks.tag: the tag of " + ("delphi" if whose == "the member's" else "aurora")):
        answer(asked, True, key=key)


@pytest.mark.parametrize("defence", [True, False])
def test_the_centre_cannot_mix_ciphertexts_because_it_does_not_see_their_tags(round_, defence):
    """With tags a and b of two ciphertexts A and B, b·A - a·B has tag 0 and is added to a sum unseen. Sealed, they say nothing.

    The control mixes for the first of the eight hashes; nine ciphertexts would do for all.
    """
    _, sent = round_
    asked = added(list(sent.values()), LAYOUT)
    total, first, second = ciphers_of(asked), ciphers_of(sent["aurora"]), ciphers_of(sent["borealis"])
    if defence:
        factors = [int.from_bytes(sent[name]["tag"][12:19].tobytes(), "big") for name in NAMES[1::-1]]
    else:
        factors = [ckks_tag.tag(one, KEY, ROUND)[0] for one in (second, first)]
    mixed = {
        name: ((part.astype(object) + first[name].astype(object) * factors[0]
                - second[name].astype(object) * factors[1]) % Q).astype(np.uint64)
        for name, part in total.items()
    }  # fmt: skip
    same = ckks_tag.tag(mixed, KEY, ROUND)[0] == ckks_tag.tag(total, KEY, ROUND)[0]
    assert same is not defence
    assert code(answer, {**asked, **ckks.pack(mixed)}, True) == "ckks.sum"
