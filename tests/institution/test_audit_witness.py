"""Institutions keep one another's checkpoints, carried by a driver that cannot make one up."""

from __future__ import annotations

import json

import pytest
from audit_logs import KEY, OTHER, PERSON, PUBLIC, SIGNER, opened
from nacl.signing import SigningKey
from small_site import SCIENTIST, make_site

from fedrec.config import ConsortiumConfig
from fedrec.errors import Refused
from fedrec.exchange.passport import sign
from fedrec.institution.audit import read, verify
from fedrec.institution.site import Site
from fedrec.institution.verify import SIGNED
from fedrec.institution.witness import Witness


@pytest.fixture
def site(tmp_path):
    """Site a of a consortium whose other members are aurora and borealis."""
    made = make_site(tmp_path)
    text = (tmp_path / "consortium.toml").read_text()
    for signer in (SIGNER, OTHER):
        key = signer.key.verify_key.encode().hex()
        text += f'[[member]]\nname = "{signer.name}"\nfolder = "{signer.name}"\nkey = "{key}"\n'
    (tmp_path / "consortium.toml").write_text(text)
    made.close()
    return Site.open(made.folder)


@pytest.fixture
def aurora(tmp_path):
    log = opened(tmp_path / "aurora")
    yield log
    log.close()


def carry(witness, *checkpoints, since=0, run="run-1"):
    carried = [one if "checkpoint" in one else {"checkpoint": one, "from": 0, "proof": []} for one in checkpoints]
    return witness.exchange(SCIENTIST, json.dumps({"run": run, "since": since, "checkpoints": carried}).encode())


def grown(log, since=0):
    """What the driver carries from a log after one more act."""
    log.event("o", "owner", "approve", "x", outcome="done")
    facts = log.checkpoint()
    proof = log.proof(since, facts["size"]) if since else []
    return {"checkpoint": facts, "from": since, "proof": [part.hex() for part in proof]}


def witnessed(site):
    return [
        (event["outcome"], event["detail"]["size"], event["detail"]["proved"])
        for event in read(site.audit.folder, "witness")
    ]


def test_a_new_checkpoint_is_kept_once_and_the_answer_covers_it(site, aurora):
    witness, first = Witness(site), grown(aurora)
    answer = carry(witness, first)
    assert carry(witness, first)["checkpoint"] == answer["checkpoint"]  # nothing new: nothing is written
    assert witnessed(site) == [("done", 3, False)]
    (event,) = read(site.audit.folder, "witness")
    assert (event["actor"], event["object"], event["run"]) == (SCIENTIST.email, "aurora", "run-1")
    assert {name: event["detail"][name] for name in (*SIGNED, "signature")} == first["checkpoint"]
    assert answer["checkpoint"]["size"] > event["seq"]
    assert (answer["clashes"], answer["from"], answer["proof"]) == ([], 0, [])
    assert verify(aurora.folder, key=PUBLIC, witnesses=[site.audit.folder]).witnessed == 3
    assert verify(site.audit.folder).verdict == "ok"


def test_a_checkpoint_that_continues_the_one_before_is_kept_as_proved_also_after_a_restart(site, aurora):
    witness, first = Witness(site), grown(aurora)
    carry(witness, first)
    second = grown(aurora, since=first["checkpoint"]["size"])
    carry(witness, second)
    again = Witness(site)  # as after a restart: known from the log
    third = grown(aurora, since=second["checkpoint"]["size"])
    carry(
        again,
        second,
    ) and carry(again, third)
    assert witnessed(site) == [("done", 3, False), ("done", 6, True), ("done", 9, True)]
    assert carry(again, first)["clashes"] == []  # an old one, late, is no clash
    assert len(witnessed(site)) == 3


def test_a_shorter_one_of_an_unknown_length_that_is_dated_earlier_is_recorded_once(site, aurora):
    """Two drivers, or a history that was made up later: which, verify tells with the log itself."""
    witness, first = Witness(site), grown(aurora)
    second = grown(aurora)
    carry(witness, second)
    assert carry(witness, first)["clashes"] == []
    assert carry(witness, first)["clashes"] == carry(Witness(site), first)["clashes"] == []
    assert witnessed(site) == [("done", 6, False), ("late", 3, False)]
    assert verify(aurora.folder, key=PUBLIC, witnesses=[site.audit.folder]).witnesses[0]["held"] == 2


def test_a_wrong_proof_is_the_driver_s_word_and_no_clash(site, aurora):
    witness, first = Witness(site), grown(aurora)
    carry(witness, first)
    second = grown(aurora, since=3)
    assert carry(witness, {**second, "proof": second["proof"][:-1]})["clashes"] == []
    assert witnessed(site)[-1] == ("done", 6, False)


def test_the_site_gives_its_own_checkpoint_with_a_proof(site, aurora):
    witness = Witness(site)
    own = carry(witness)["checkpoint"]
    other = Witness.__new__(Witness)
    del other
    answer = carry(witness, grown(aurora), since=own["size"])
    assert answer["from"] == own["size"]
    from fedrec.exchange.merkle import extends

    roots = [bytes.fromhex(facts["root"]) for facts in (own, answer["checkpoint"])]
    proof = [bytes.fromhex(part) for part in answer["proof"]]
    assert own["size"] == 0 or extends(own["size"], answer["checkpoint"]["size"], *roots, proof)
    assert carry(witness, since=10**6)["from"] == 0


@pytest.mark.parametrize("how", ["other-history", "went-back"])
def test_two_histories_are_recorded_said_to_the_driver_and_to_the_owner(site, aurora, tmp_path, how, caplog):
    """Control: the same checkpoint, or an older one, is no clash (above)."""
    witness = Witness(site)
    for _ in range(2):
        last = grown(aurora)
        carry(witness, last)
    twin = opened(tmp_path / "twin")  # the same key: a rewritten log, or one from an old backup
    for _ in range(2 if how == "other-history" else 1):
        twin.event("o", "owner", "approve", "y" if how == "other-history" else "x", outcome="done")
        facts = twin.checkpoint()
    if how == "went-back":
        twin.event("o", "owner", "approve", "x", outcome="done")
        twin.event("o", "owner", "approve", "x", outcome="done")
        facts = twin.checkpoint()
        assert facts["size"] > last["checkpoint"]["size"] or facts["time"] > last["checkpoint"]["time"]
        facts = {**facts, "size": 4}
        facts = sign({name: facts[name] for name in SIGNED}, KEY)
    assert carry(witness, facts)["clashes"] == ["aurora"]
    assert carry(witness, facts)["clashes"] == [] or how == "other-history"
    assert witnessed(site)[-1][0] == "clash"
    assert "the audit log of aurora is not the one that was seen here before" in caplog.text
    assert carry(witness, grown(aurora))["clashes"] == []  # the run goes on
    assert verify(site.audit.folder).verdict == "ok"
    assert verify(twin.folder, witnesses=[site.audit.folder]).verdict == "witness-clash"


def test_a_driver_cannot_make_a_checkpoint_up(site, aurora, tmp_path):
    witness, good = Witness(site), grown(aurora)["checkpoint"]
    forged = sign({name: good[name] for name in SIGNED}, SigningKey.generate())
    own_key = SigningKey.generate()
    bad = [
        {**good, "size": 99}, {**good, "root": "00" * 32}, forged, {**good, "name": "borealis"},
        {**good, "kind": "fedrec-permit"}, {**good, "size": True}, {**good, "extra": 1},
        {key: value for key, value in good.items() if key != "time"}, [], None, {**good, "name": ["aurora"]},
        sign({**{name: good[name] for name in SIGNED}, "key": own_key.verify_key.encode().hex()}, own_key),
    ]  # fmt: skip
    for facts in bad:
        with pytest.raises(Refused, match=r"audit\.checkpoint"):
            carry(witness, {"checkpoint": facts, "from": 0, "proof": []})
    for stranger in ("nobody", "a"):  # no key is pinned for it here: nothing is kept
        assert carry(witness, {**good, "name": stranger})["clashes"] == []
    body = {"run": "r", "since": 0, "checkpoints": []}
    for wrong in (
        {}, [], {**body, "run": "a b"}, {**body, "since": "0"}, {**body, "since": True}, {**body, "checkpoints": [{}]},
        {**body, "checkpoints": [{"checkpoint": good, "from": 0, "proof": ["xy"]}]},
        {**body, "checkpoints": [{"checkpoint": good, "from": 0, "proof": ["00" * 32] * 65}]},
        {**body, "checkpoints": [{"checkpoint": good, "from": 0, "proof": []}] * 3},
    ):  # fmt: skip
        with pytest.raises(Refused, match=r"audit\.form"):
            witness.exchange(SCIENTIST, json.dumps(wrong).encode())
    with pytest.raises(Refused, match=r"audit\.form"):
        witness.exchange(SCIENTIST, b"[" * 100_000)
    assert witnessed(site) == []
    carry(witness, good)  # control
    assert len(witnessed(site)) == 1
    assert PERSON[0] == SCIENTIST.email
    assert ConsortiumConfig.load(tmp_path / "consortium.toml").member[1].key == PUBLIC
