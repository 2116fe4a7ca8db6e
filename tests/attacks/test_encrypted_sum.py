"""The centre against encrypted sums: it reads nothing, and no institution decrypts for it anything but the whole sum.

`defence=False` is the control: the same attack, with the key in the centre's hands, or at an institution that decrypts
whatever it is brought.
"""

from __future__ import annotations

import numpy as np
import pytest
from nacl.signing import SigningKey

from fedrec.errors import Refused
from fedrec.exchange import ckks, ckks_tag
from fedrec.exchange.ckks import Grid, Q
from fedrec.exchange.passport import sign

NAMES = ["aurora", "borealis", "delphi", "lumen"]
SIGNERS = {name: SigningKey(name.encode().ljust(32, b".")) for name in NAMES}
PINNED = {name: signer.verify_key.encode().hex() for name, signer in SIGNERS.items()}
GRID = Grid(4, 8.0)
FORM = {"v": (np.dtype("float64"), (3000,)), "n": (np.dtype("int64"), (9,))}
FACTS = ckks_tag.about("run-1", 0, "p1", "ab" * 32, NAMES)
KEY, OTHER = ckks.make_key(), ckks.make_key()


@pytest.fixture(scope="module")
def round_():
    """What the centre holds after a round: every institution's ciphertext and its statement; and, for us, the updates."""
    rng = np.random.default_rng(7)
    updates = {name: {"v": rng.normal(size=3000), "n": rng.integers(0, 100, 9)} for name in NAMES}
    sent = {name: ckks.encrypt(update, KEY, GRID) for name, update in updates.items()}
    said = [ckks_tag.state(sent[name], FORM, KEY, FACTS, name, SIGNERS[name]) for name in NAMES]
    return updates, sent, said


def decrypted(data, said, defence, facts=FACTS, key=KEY):
    """What an institution answers to a wish to decrypt."""
    if defence:
        ckks_tag.check_sum(data, FORM, key, facts, said, PINNED)
    return ckks.decrypt(data, key, GRID, FORM)


def code(call, *given, **more):
    with pytest.raises(Refused) as refused:
        call(*given, **more)
    return refused.value.code


def test_the_whole_sum_is_decrypted_and_nobody_brought_a_single_ciphertext(round_):
    updates, sent, said = round_
    found = decrypted(ckks.add(list(sent.values()), FORM), said, defence=True)
    np.testing.assert_allclose(found["v"], sum(update["v"] for update in updates.values()), atol=GRID.error * 1.01)
    np.testing.assert_array_equal(found["n"], sum(update["n"] for update in updates.values()))


@pytest.mark.parametrize("defence", [True, False])
def test_the_centre_cannot_read_an_update(round_, defence):
    """It has ciphertexts, sums and statements. With a key of its own all it gets is noise; with theirs, the update."""
    updates, sent, _ = round_
    if defence:
        assert code(ckks.decrypt, sent["aurora"], OTHER, GRID, FORM) == "ckks.garbage"
        raw = ckks._decrypted("ckks", ckks.unpack(sent["aurora"], FORM)["ckks"], OTHER, GRID.scale)[:3000]
        assert abs(np.corrcoef(raw, updates["aurora"]["v"])[0, 1]) < 0.1  # 5 standard errors of 3000 pairs
    else:
        found = ckks.decrypt(sent["aurora"], KEY, GRID, FORM)
        np.testing.assert_allclose(found["v"], updates["aurora"]["v"], atol=GRID.error)


def test_equal_updates_have_nothing_in_common_once_encrypted(round_):
    """Or the centre would compare: two numbers modulo Q are equal by chance once in 2^54."""
    updates, sent, _ = round_
    again = ckks.unpack(ckks.encrypt(updates["aurora"], KEY, GRID), FORM)
    for name, part in ckks.unpack(sent["aurora"], FORM).items():
        assert not (part == again[name]).any()


ATTACKS = {
    "one institution's ciphertext alone": lambda sent: sent["aurora"],
    "a sum of three of the four": lambda sent: ckks.add([sent[name] for name in NAMES[:3]], FORM),
    "a sum with one member twice": lambda sent: ckks.add([*sent.values(), sent["aurora"]], FORM),
}


@pytest.mark.parametrize("defence", [True, False])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_institution_decrypts_nothing_but_the_sum_of_all(round_, name, defence):
    """Each of these, with the sum of all that is released anyway, gives one institution's update."""
    updates, sent, said = round_
    wish = ATTACKS[name](sent)
    if defence:
        assert code(decrypted, wish, said, True) == "ckks.sum"
        return
    found, total = decrypted(wish, said, False)["n"], sum(update["n"] for update in updates.values())
    one = {"a sum of three of the four": total - found, "a sum with one member twice": found - total}.get(name, found)
    victim = "lumen" if name == "a sum of three of the four" else "aurora"
    np.testing.assert_array_equal(one, updates[victim]["n"])


@pytest.mark.parametrize("defence", [True, False])
def test_a_sum_that_was_moved_a_little_does_not_give_the_key_away(round_, defence):
    """c0 + c1 s: whoever adds d to c1 and is told the numbers learns d·s, and so the shared key itself.

    Adding Q // PLAIN to the first coefficient of BFV's c1 adds the key's own coefficients, -1, 0 or 1, to the plaintext:
    the same numbers, whatever the ciphertext was.
    """
    _, sent, said = round_
    read = []
    for data in (ckks.add(list(sent.values()), FORM), sent["aurora"]):
        parts = ckks.unpack(data, FORM)
        moved = parts["bfv"].copy()
        moved[0, 1, 0] = (int(moved[0, 1, 0]) + Q // ckks.PLAIN) % Q
        if defence:
            assert code(decrypted, ckks.pack({**parts, "bfv": moved}), said, True) == "ckks.sum"
        else:
            change = ckks._decrypted("bfv", moved, KEY, 1) - ckks._decrypted("bfv", parts["bfv"], KEY, 1)
            read.append(change % ckks.PLAIN)
    if not defence:
        np.testing.assert_array_equal(read[0], read[1])
        assert (read[0] != 0).mean() > 0.99


@pytest.mark.parametrize("defence", [True, False])
def test_what_comes_out_has_no_noise_from_which_the_key_could_be_found(defence):
    """Li and Micciancio 2021: the decrypted numbers must not depend on what the encryption drew."""
    update = {"v": np.random.default_rng(1).normal(size=3000)}
    form = {"v": FORM["v"]}
    sums = [ckks.add([ckks.encrypt(update, KEY, GRID) for _ in range(4)], form) for _ in range(2)]
    if defence:
        first, second = (ckks.decrypt(total, KEY, GRID, form)["v"] for total in sums)
        np.testing.assert_array_equal(first, second)
    else:  # on a finer grid than the noise is, the same two sums differ
        fine = [ckks._decrypted("ckks", ckks.unpack(total, form)["ckks"], KEY, GRID.scale // 2**14) for total in sums]
        assert (fine[0] != fine[1]).mean() > 0.5


CHANGES = {
    "another member's signature": lambda said: sign({**unsigned(said), "site": said["site"]}, SIGNERS["borealis"]),
    "a changed tag": lambda said: {**said, "tag": "00" + said["tag"][2:]},
    "a tag that was signed but never made with the key": lambda said: sign(
        {**unsigned(said), "tag": "00" * 84}, SIGNERS["aurora"]
    ),
    "a tag that is no hex": lambda said: sign({**unsigned(said), "tag": "xy"}, SIGNERS["aurora"]),
    "another kind": lambda said: sign({**unsigned(said), "kind": "x"}, SIGNERS["aurora"]),
    "a field more": lambda said: sign({**unsigned(said), "more": 1}, SIGNERS["aurora"]),
}


def unsigned(said):
    return {name: value for name, value in said.items() if name != "signature"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_statement_is_refused(round_, name):
    _, sent, said = round_
    total = ckks.add(list(sent.values()), FORM)
    assert code(decrypted, total, [CHANGES[name](said[0]), *said[1:]], True) == "ckks.unsigned"


@pytest.mark.parametrize("field", ["run", "round", "protocol", "plan"])
def test_statements_of_another_round_are_refused_though_they_are_signed(round_, field):
    _, sent, said = round_
    other = {**FACTS, field: 1 if field == "round" else "other"}
    assert code(decrypted, ckks.add(list(sent.values()), FORM), said, True, facts=other) == "ckks.members"


def test_the_members_are_at_least_three_each_once_and_all_have_stated(round_):
    _, sent, said = round_
    total = ckks.add(list(sent.values()), FORM)
    for few in (NAMES[:2], [NAMES[0]] * 3, []):
        assert code(ckks_tag.about, "run-1", 0, "p1", "ab" * 32, few) == "ckks.members"
    assert code(decrypted, total, said[:3], True) == "ckks.members"
    assert code(decrypted, total, [*said[:3], said[0]], True) == "ckks.members"
    three = ckks_tag.about("run-1", 0, "p1", "ab" * 32, NAMES[:3])
    assert code(decrypted, ckks.add(list(sent.values())[:3], FORM), said[:3], True, facts=three) == "ckks.members"
    assert code(ckks_tag.state, sent["lumen"], FORM, KEY, three, "lumen", SIGNERS["lumen"]) == "ckks.members"


def test_an_update_under_another_key_is_named_as_such(round_):
    _, sent, said = round_
    data = ckks.encrypt({"v": np.zeros(3000), "n": np.zeros(9, np.int64)}, OTHER, GRID)
    swapped = ckks_tag.state(data, FORM, OTHER, FACTS, "aurora", SIGNERS["aurora"])
    total = ckks.add([data, *list(sent.values())[1:]], FORM)
    assert code(decrypted, total, [swapped, *said[1:]], True) == "ckks.key"


@pytest.mark.parametrize("defence", [True, False])
def test_the_centre_cannot_mix_ciphertexts_because_it_does_not_see_their_tags(round_, defence):
    """With tags a and b of two ciphertexts, b·A - a·B has tag 0 and is added to a sum unseen. Sealed, they say nothing."""
    _, sent, said = round_
    total = ckks.unpack(ckks.add(list(sent.values()), FORM), FORM)
    first, second = (ckks.unpack(sent[name], FORM) for name in NAMES[:2])
    hashes = [ckks_tag.tag(one, KEY, FACTS) for one in (first, second)]
    factors = [hashes[1][0], hashes[0][0]] if not defence else [int(said[i]["tag"][:12], 16) for i in (0, 1)]
    mixed = {
        name: ((total[name].astype(object) + first[name].astype(object) * factors[0]
                - second[name].astype(object) * factors[1]) % Q).astype(np.uint64)
        for name in total
    }  # fmt: skip
    same = [a == b for a, b in zip(ckks_tag.tag(mixed, KEY, FACTS), ckks_tag.tag(total, KEY, FACTS), strict=True)]
    assert same[0] is not defence  # the first of the eight hashes; for all eight, eight more ciphertexts are needed
    assert code(decrypted, ckks.pack(mixed), said, True) == "ckks.sum"
