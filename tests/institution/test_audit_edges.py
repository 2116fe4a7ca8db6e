"""What the verifier says of lines that fit the chain and are wrong all the same; and of a newest file that is not."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from audit_logs import OTHER, PUBLIC, kept, opened, write

from fedrec.errors import Refused
from fedrec.exchange.wire import canonical
from fedrec.institution import audit
from fedrec.institution.verify import Checker, main, signed


def line(seq=0, prev="0" * 64, **changes):
    """A line whose hash and place are right."""
    body = {
        "act": "x", "actor": "a", "at": "t", "detail": {}, "object": "o", "of": None, "outcome": "intent", "permit": "",
        "prev": prev, "purpose": "", "request": "", "role": "r", "round": None, "run": "", "seq": seq,
    } | changes  # fmt: skip
    return canonical({**body, "hash": hashlib.sha256(canonical(body)).hexdigest()}) + b"\n"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "does not begin with its site's signed checkpoint"),
        ({"round": True}, "not a whole number"),
        ({"of": "1"}, "not a whole number"),
        ({"act": "checkpoint"}, "not readable"),
        ({"seq": 1}, "event 0 is missing"),
        ({"prev": "1" * 64}, "does not follow"),
        ({"detail": {"x": None}}, "the detail"),
        ({"detail": {"x": 2**53}}, "the detail"),
    ],
)
def test_a_line_that_fits_and_is_wrong_is_named(changes, says):
    assert says in Checker().feed(line(**changes))


def test_a_checkpoint_of_other_events_is_found_without_its_signature(tmp_path):
    log = opened(tmp_path)
    first = json.loads(log.path.read_bytes())
    state = Checker()
    assert state.feed(log.path.read_bytes()) == ""
    again = {**first, "seq": 1, "prev": first["hash"]}
    del again["hash"]
    assert "does not stand for the events before it" in state.feed(line(**again))
    log.close()


def test_a_witness_of_garbage_is_nobodys_testimony_and_no_checkpoint_is_signed(tmp_path):
    log = write(tmp_path / "a", 3)
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b'{"act":"witness"\n{"act":"checkpoint","detail":[]}\n\xff\n')
    assert audit.verify(log, PUBLIC, [bad, kept(tmp_path / "b", [])]).verdict == "ok"
    assert not signed({})
    assert not signed({"key": "zz"})


def test_the_file_as_a_program_says_what_it_found(tmp_path, capsys):
    log = write(tmp_path / "a", 3)
    for words, code in (
        ([str(log), "--key", PUBLIC], 0),
        ([str(log), "--key", OTHER.key.verify_key.encode().hex()], 3),
        ([str(tmp_path / "none")], 2),
    ):
        assert main(words) == code
        assert json.loads(capsys.readouterr().out)["verdict"] == {0: "ok", 3: "tampered", 2: "unreadable"}[code]


def test_a_proof_that_would_need_an_older_file_is_not_given(tmp_path):
    log = opened(tmp_path, segment=3000)
    for number in range(30):
        log.event("a", "site", "x", str(number), outcome="done")
    size = log.checkpoint()["size"]
    assert log.proof(1, size) is None
    assert log.proof(0, size) is None
    assert log.proof(size, size + 2) is None
    assert log.proof(size, size) is not None
    log.close()


def test_an_error_of_our_own_in_writing_is_raised_and_the_next_event_is_written(tmp_path, monkeypatch):
    log = opened(tmp_path)

    def broken(*_):
        raise RuntimeError("our bug")

    with monkeypatch.context() as patch:
        patch.setattr(audit.os, "fdatasync", broken)
        with pytest.raises(RuntimeError):
            log.event("a", "site", "x", "o", outcome="done")
    log.event("a", "site", "x", "o", outcome="done")
    log.close()
    assert audit.verify(tmp_path).verdict == "ok"
    assert len(list(audit.read(tmp_path, "x"))) == 2


def test_a_log_whose_next_file_cannot_be_begun_refuses_and_goes_on_later(tmp_path, monkeypatch):
    log = opened(tmp_path, segment=1000)
    log.event("a", "site", "x", "o", outcome="done")
    real = audit.os.fdatasync

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(audit.os, "fdatasync", full)
        with pytest.raises(Refused, match=r"audit\.write"):
            log.event("a", "site", "x", "o", outcome="done")
    assert audit.os.fdatasync is real
    log.event("a", "site", "x", "o", outcome="done")
    log.close()
    assert (audit.verify(tmp_path).verdict, len(list(audit.read(tmp_path, "x")))) == ("ok", 4)


@pytest.mark.parametrize("damage", [rb'"peaks":"zz', b"\xff"])
def test_a_newest_file_whose_first_event_is_unreadable_is_not_written_to(damage, tmp_path):
    write(tmp_path, 30, segment=3000)
    newest = max(tmp_path.glob("*.jsonl"))
    data = newest.read_bytes()
    newest.write_bytes(re.sub(rb'"peaks":"', damage, data, count=1) if damage != b"\xff" else damage + data)
    with pytest.raises(Refused, match=r"audit\.tampered"):
        opened(tmp_path)


def test_an_end_that_is_longer_than_any_event_is_no_torn_line(tmp_path):
    path = write(tmp_path, 3)
    path.write_bytes(path.read_bytes() + b"x" * (1 << 16))
    with pytest.raises(Refused, match=r"audit\.tampered"):
        opened(tmp_path)
