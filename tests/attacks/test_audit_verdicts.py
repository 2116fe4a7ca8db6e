"""What a verdict must not hide: whose key it believed, what each witness holds, acts without an end, a failed erasure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "institution"))
from audit_logs import KEY, OTHER, PUBLIC, SIGNER, changed, checkpoints, forged, kept, opened, write

from fedrec.cli.main import cli
from fedrec.exchange.passport import sign
from fedrec.institution.audit import verify
from fedrec.institution.texts import redact
from fedrec.institution.verify import SIGNED

CONSORTIUM = 'name = "c"\ntitle = "C"\n[[member]]\nname = "aurora"\nfolder = "aurora"\nkey = "{}"\n'
OTHER_PUBLIC = OTHER.key.verify_key.encode().hex()


def commanded(*words: object) -> tuple[int, dict, str]:
    given = ["audit", "verify", *map(str, words)]
    said = CliRunner().invoke(cli, given)
    found = CliRunner().invoke(cli, [*given, "--json", "-"])
    assert said.exit_code == found.exit_code
    return found.exit_code, json.loads(found.stdout), said.stdout


def other_approver(events):
    next(event for event in events if event["seq"] == 9).update(actor="eve@lab.example")


def signed_anew(data: bytes) -> bytes:
    """The log with another approver, as somebody signs it who has his own key only."""
    events = [json.loads(line) for line in data.splitlines()]
    for event in events:
        if event["act"] == "checkpoint":
            event["detail"]["key"] = OTHER_PUBLIC
    other_approver(events)
    return forged(events, OTHER.key)


def test_a_folder_is_pinned_by_its_own_consortium_and_what_nobody_pins_is_said(tmp_path):
    """Control: without site.toml the same rewritten log is ok, but says which key to compare."""
    site = tmp_path / "aurora"
    path = write(site / "state" / "audit", 8)
    code, found, said = commanded(site)
    assert (code, found["pinned"], f"key not pinned: compare {PUBLIC}" in said) == (0, False, True)
    path.write_bytes(signed_anew(path.read_bytes()))
    code, found, said = commanded(site)
    assert (code, found["pinned"], f"key not pinned: compare {OTHER_PUBLIC}" in said) == (0, False, True)
    (tmp_path / "consortium.toml").write_text(CONSORTIUM.format(PUBLIC))
    (site / "site.toml").write_text('name = "aurora"\ntitle = "A"\nowner = "o@a.example"\n')
    assert commanded(site)[0] == 3
    write(tmp_path / "again", 8)
    path.write_bytes((tmp_path / "again" / "0001.jsonl").read_bytes())
    (tmp_path / "again" / "texts").rename(site / "state" / "audit" / "moved")
    for text in (site / "state" / "audit" / "moved").iterdir():
        text.rename(site / "state" / "audit" / "texts" / text.name)
    code, found, said = commanded(site)
    assert (code, found["pinned"], "not pinned" in said) == (0, True, False)
    (tmp_path / "consortium.toml").write_text(CONSORTIUM.format(""))
    assert commanded(site)[1]["pinned"] is False


@pytest.mark.parametrize("how", ["other-key", "no-signature", "own-key", "not-hex"])
def test_a_forged_line_of_a_witness_frames_nobody(tmp_path, how):
    """Control: the same line, signed by the site's key, is a clash."""
    path = write(tmp_path / "a", 8)
    good = checkpoints(path.read_bytes())[-1]
    bare = {name: good[name] for name in SIGNED} | {"root": "00" * 32}
    line = {
        "other-key": {**bare, "key": "ab" * 32, "signature": "00" * 64},
        "no-signature": {**bare, "signature": "00" * 64},
        "own-key": sign({**bare, "key": OTHER_PUBLIC}, OTHER.key),
        "not-hex": {**bare, "signature": "zz"},
    }[how]
    for key in ("", PUBLIC):
        found = verify(path, key, [kept(tmp_path / f"liar{key}", [line])])
        assert (found.verdict, found.code) == ("ok", 2)
        (liar,) = found.witnesses
        assert (liar["witness"], liar["held"], liar["unreadable"]) == ("borealis", 0, 1)
        assert "1 lines of borealis about it are not signed by its key" in found.sentence()
        found = verify(path, key, [kept(tmp_path / f"both{key}", [line, good])])
        assert (found.verdict, found.code, found.witnesses[0]["held"]) == ("ok", 0, 1)
    assert verify(path, witnesses=[kept(tmp_path / "control", [sign(bare, KEY)])]).verdict == "witness-clash"


def test_each_witness_is_verified_and_says_how_much_it_holds(tmp_path):
    """The control is a whole witness."""
    path = write(tmp_path / "a", 200)
    marks = checkpoints(path.read_bytes())
    assert len(marks) == 3
    whole = kept(tmp_path / "whole", marks)
    found = verify(path, PUBLIC, [whole])
    row = {"witness": "borealis", "verdict": "ok", "held": 3, "newest": marks[-1]["size"], "unreadable": 0}
    assert (found.witnesses, found.code, found.witnessed) == ([row], 0, marks[-1]["size"])
    nothing = kept(tmp_path / "nothing", [])
    found = verify(path, PUBLIC, [whole, nothing])
    assert ([one["held"] for one in found.witnesses], found.code) == ([3, 0], 2)
    assert "borealis holds nothing of it" in found.sentence()
    assert commanded(path, "--key", PUBLIC, "--witness", nothing)[0] == 2
    cut = tmp_path / "cut.jsonl"
    lines = (whole / "0001.jsonl").read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    found = verify(path, PUBLIC, [cut])
    assert (found.verdict, found.witnesses[0]["verdict"], found.code) == ("ok", "tampered", 2)
    assert "own log is tampered" in found.sentence()
    assert verify(path, PUBLIC, [tmp_path / "none"]).witnesses[0]["verdict"] == "unreadable"


def test_what_a_changed_witness_still_holds_signed_is_a_clash(tmp_path):
    """Its own chain is broken, but a signature of the site is no one else's word. Control: without the witness."""
    path = write(tmp_path / "a", 8)
    witness = kept(tmp_path / "w", checkpoints(path.read_bytes())) / "0001.jsonl"
    witness.write_bytes(witness.read_bytes().replace(b'"proved":false', b'"proved":true', 1))
    path.write_bytes(changed(path.read_bytes(), other_approver, KEY))
    assert verify(path).verdict == "ok"  # control
    assert verify(path, witnesses=[witness]).verdict == "witness-clash"


def test_an_act_that_stays_open_is_said_and_a_stop_has_to_name_it(tmp_path):
    """The control is the log without that act."""
    log = opened(tmp_path / "a")
    number = log.event("o", "owner", "revoke", "x", outcome="intent")
    for _ in range(50):
        log.event("s", "scientist", "call", "y", outcome="done")
    log.checkpoint()
    found = verify(log.path)
    assert (found.verdict, found.open) == ("ok", [number])
    assert f"1 acts without outcome, the first at event {number}" in found.sentence()
    log.event("site", "site", "stop", "a", outcome="done")
    log.checkpoint()
    found = verify(log.path)
    assert (found.verdict, found.open) == ("ok", [number])  # named by the stop; the next start says what became of it
    log.close()
    events = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    stop = next(event for event in events if event["act"] == "stop")
    assert stop["detail"] == {f"open_{number}": "revoke"}
    stop["detail"] = {}
    log.path.write_bytes(forged(events, KEY))
    assert (verify(log.path).verdict, verify(log.path).first_bad) == ("tampered", stop["seq"])
    log.path.write_bytes(forged([event for event in events if event["seq"] != number], KEY))  # control: nothing is open
    assert verify(log.path).open == []
    assert SIGNER.name == "aurora"


@pytest.mark.parametrize(("outcome", "verdict"), [("done", "ok"), ("error OSError", "tampered"), ("", "tampered")])
def test_only_an_erasure_that_was_done_excuses_a_missing_text(tmp_path, outcome, verdict):
    """The control is the outcome `done`."""
    log = opened(tmp_path)
    log.event("p@x.example", "scientist", "call", "y", outcome="done")
    (name,) = log.texts.holding("p@x.example")
    number = log.event("site", "operator", "redact", name, outcome="intent")
    if outcome:
        log.event("site", "operator", "redact", name, outcome=outcome, of=number)
    log.checkpoint()
    assert verify(tmp_path).verdict == "ok"  # the text is there
    (tmp_path / "texts" / name).unlink()
    assert verify(tmp_path).verdict == verdict
    log.close()


@pytest.mark.parametrize(("state", "verdict"), [("done", "ok"), ("not-done", "tampered"), ("unknown", "tampered")])
def test_an_erasure_that_a_crash_left_open_counts_when_the_start_says_that_it_was_done(tmp_path, state, verdict):
    """The control is the state `done`."""
    log = opened(tmp_path)
    log.event("p@x.example", "scientist", "call", "y", outcome="done")
    (name,) = log.texts.holding("p@x.example")
    number = log.event("site", "operator", "redact", name, outcome="intent")
    (tmp_path / "texts" / name).unlink()
    log.start("a", {number: state}, {})
    log.close()
    assert verify(tmp_path).verdict == verdict


def test_control_a_text_erased_as_it_should_be_is_no_finding(tmp_path):
    log = opened(tmp_path)
    log.event("p@x.example", "scientist", "call", "y", outcome="done")
    assert redact(log, log.texts.holding("p@x.example"))
    log.checkpoint()
    log.close()
    assert (verify(tmp_path).verdict, verify(tmp_path).absent) == ("ok", 1)
