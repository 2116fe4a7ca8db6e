"""The audit log: what is written, that it is on disk, and what happens when it cannot be; garbage never crashes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from audit_logs import PUBLIC, opened, write
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedrec.errors import Refused
from fedrec.institution.audit import read, verify
from fedrec.institution.verify import GAP

ANY_FILE = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def sixty(tmp_path_factory):
    """Thirty acts, so sixty events, between two checkpoints."""
    return write(tmp_path_factory.mktemp("log"), 30).read_bytes()


def verdict(tmp_path, data, **more):
    file = tmp_path / "x.jsonl"
    file.write_bytes(data)
    return verify(file, **more)


def one(folder: Path) -> None:
    log = opened(folder)
    log.event("o", "owner", "approve", "x", outcome="done")
    log.close()


def test_untouched_events_are_ok(tmp_path, sixty):
    found = verdict(tmp_path, sixty)
    assert found.as_dict() == {
        "verdict": "ok", "events": 62, "first_bad": None, "reason": "", "site": "aurora", "key": PUBLIC, "keys": [PUBLIC], "signed": 61,
        "pinned": False, "open": [], "witnessed": 0, "witnesses": [], "absent": 2,
    }  # fmt: skip
    assert verdict(tmp_path, sixty, key=PUBLIC.upper()) == replace(found, pinned=True)
    assert verdict(tmp_path, b"").verdict == "unreadable"
    keys = set("seq at actor role purpose act object outcome of request permit run round detail prev hash".split())
    assert all(set(event) == keys for event in read(tmp_path / "x.jsonl"))


@pytest.mark.parametrize("cut", [1, 2, 50, 300])
def test_a_torn_tail_is_called_so_repaired_and_said(tmp_path, sixty, cut):
    path = tmp_path / "0001.jsonl"
    path.write_bytes(sixty[:-cut])
    found = verify(path)
    assert (found.verdict, found.first_bad) == ("incomplete-tail", 61)
    one(tmp_path)
    assert verify(path).verdict == "ok"
    events = list(read(path))
    assert [event["outcome"] for event in events[60:]] == ["done", "torn-tail", "intent", "done"]
    lost = len(sixty.splitlines(keepends=True)[61]) - cut
    assert events[61]["detail"] == {"bytes": lost}


def test_a_tail_of_zeros_after_a_power_cut_is_repaired_too(tmp_path):
    path = write(tmp_path, 1)
    with path.open("ab") as file:
        file.write(bytes(4096))
    assert verify(path).verdict == "incomplete-tail"
    one(tmp_path)
    assert (verify(path).verdict, verify(path).events) == ("ok", 7)


def test_a_crash_right_after_the_start_or_in_the_very_first_event_is_no_tampering(tmp_path):
    log = opened(tmp_path / "a")
    log.event("site", "site", "start", "aurora", outcome="done")  # and not the checkpoint that follows
    log.close()
    one(tmp_path / "a")
    assert [event["act"] for event in read(tmp_path / "a")][1:] == ["start", "checkpoint", "approve", "approve"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0001.jsonl").write_bytes(b'{"act":"check')
    one(tmp_path / "b")
    assert [event["act"] for event in read(tmp_path / "b")] == ["checkpoint", "repair", "approve", "approve"]
    assert verify(tmp_path / "a").verdict == verify(tmp_path / "b").verdict == "ok"


def test_a_file_that_holds_nothing_whole_is_not_a_log(tmp_path):
    for data in (b"", b"x", b'{"act":"checkpoint"', bytes(4096)):
        assert verdict(tmp_path, data).verdict == "unreadable"
    assert verdict(tmp_path, bytes(200_000)).verdict == "tampered"


def test_the_chain_goes_on_over_a_restart_and_eight_threads(tmp_path):
    write(tmp_path, 2)
    log = opened(tmp_path)

    def twenty():
        for _ in range(20):
            log.event("a", "owner", "approve", "x", outcome="done")

    threads = [threading.Thread(target=twenty) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert verify(log.path).verdict == "ok"
    assert sum(event["act"] == "approve" for event in read(log.path)) == 320
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_a_checkpoint_is_signed_at_least_every_so_many_events(tmp_path):
    path = write(tmp_path, GAP)
    places = [event["seq"] for event in read(path) if event["act"] == "checkpoint"]
    assert places[:3] == [0, GAP, 2 * GAP]
    assert verify(path).signed == places[-1] == 2 * GAP + 3


def test_a_long_log_is_several_files_with_one_chain(tmp_path):
    folder = write(tmp_path, 200, segment=30_000)
    files = sorted(folder.glob("*.jsonl"))
    assert [file.name for file in files[:3]] == ["0001.jsonl", "0002.jsonl", "0003.jsonl"]
    assert all(30_000 <= file.stat().st_size < 60_000 for file in files[:-1])
    seqs = [event["seq"] for event in read(folder)]
    assert seqs == list(range(len(seqs)))
    assert (verify(folder, key=PUBLIC).verdict, verify(folder).events) == ("ok", len(seqs))
    assert verify(files[1]).verdict == "tampered"  # a part is not the log
    again = opened(folder, segment=30_000)  # opened from its newest file alone
    again.event("o", "owner", "approve", "x", outcome="done")
    again.close()
    assert (verify(folder).verdict, verify(folder).events) == ("ok", len(seqs) + 2)


def test_files_are_changed_also_while_acts_are_open_and_a_crash_loses_none_of_them(tmp_path):
    log = opened(tmp_path, segment=3000)
    first = log.event("s", "scientist", "train", "x", outcome="intent", run="r", round=0)
    for _ in range(9):
        log.event("o", "owner", "approve", "x", outcome="done")
    assert len(list(tmp_path.glob("*.jsonl"))) > 2
    log.close()
    log = opened(tmp_path, segment=3000)
    assert [(event["seq"], event["run"], event["round"]) for event in log.left_open()] == [(first, "r", 0)]
    log.start("aurora", {first: "again"}, {"void_permits": 0})
    assert log.left_open() == []
    assert verify(tmp_path).verdict == "ok"
    with pytest.raises(ValueError, match="one intent and one outcome"):
        log.event("s", "scientist", "train", "x", outcome="done", of=first)
    log.close()


@pytest.mark.parametrize("begun", [b"", b'{"act":"checkpoint","ac'])
def test_a_crash_while_a_new_file_is_begun_is_repaired(tmp_path, begun):
    folder = write(tmp_path, 40, segment=30_000)
    files = sorted(folder.glob("*.jsonl"))
    after = folder / f"{len(files) + 1:04d}.jsonl"
    after.write_bytes(begun)
    assert verify(folder).verdict == ("incomplete-tail" if begun else "ok")
    log = opened(folder, segment=30_000)
    assert (log.path, after.exists()) == (files[-1], False)
    log.event("o", "owner", "approve", "x", outcome="done")
    log.close()
    assert verify(folder).verdict == "ok"
    assert [event["act"] for event in read(folder)][-3:] == ["repair"] * bool(begun) + ["approve"] * 2 or not begun


def test_when_no_new_file_can_be_begun_the_act_is_refused_and_later_goes_on(tmp_path):
    """A real limit: no file handle is left."""
    log = opened(tmp_path, segment=1500)
    for _ in range(2):
        log.event("o", "owner", "approve", "x", outcome="done")
    before = sorted(tmp_path.glob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(tmp_path, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(Refused, match=r"audit\.write"):
            log.event("o", "owner", "approve", "x", outcome="done")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sorted(tmp_path.glob("*")) == before
    log.event("o", "owner", "approve", "x", outcome="done")
    log.close()
    assert len(list(tmp_path.glob("*"))) == len(before) + 1
    assert (verify(tmp_path).verdict, sum(event["act"] == "approve" for event in read(tmp_path))) == ("ok", 6)


def test_a_start_that_keeps_silent_about_an_open_act_is_not_written(tmp_path):
    log = opened(tmp_path)
    number = log.event("s", "scientist", "train", "x", outcome="intent")
    for states in ({}, {number: "again", number + 1: "done"}):
        with pytest.raises(ValueError, match="without saying what became"):
            log.start("aurora", states, {})
    log.start("aurora", {number: "again"}, {})
    assert verify(log.path).verdict == "ok"


def test_an_event_that_would_not_verify_is_not_written_and_its_neighbours_are(tmp_path):
    log = opened(tmp_path)
    for bad in ({"a": 1.5}, {"a": 2**53}, {"\xe9": 1}, {"a": None}, {"a": "x" * 70_000}):
        with pytest.raises(ValueError, match=r"detail|too long|canonical"):
            log.event("o", "owner", "approve", "x", outcome="done", detail=bad)
    log.event("o\ud800", "owner", "approve", "x", outcome="done", detail={"a": 2**53 - 1})
    assert (verify(log.path).verdict, [event["actor"] for event in read(log.path)]) == ("ok", ["site", "o?", "o?"])


@ANY_FILE
@given(st.binary(max_size=300))
@example(b"[" * 100_000 + b"\n")
@example(b"1" * 10_000 + b"\n")
@example(b'{"hash":' * 50_000 + b"\n")
def test_garbage_never_crashes_the_verifier_and_is_never_ok(tmp_path, data):
    assert verdict(tmp_path, data).verdict in ("tampered", "unreadable")


@ANY_FILE
@given(st.data())
def test_a_log_with_a_random_edit_is_never_ok(tmp_path, sixty, data):
    low = data.draw(st.integers(0, len(sixty) - 1))
    high = data.draw(st.integers(low, min(len(sixty), low + 2000)))
    changed = sixty[:low] + data.draw(st.binary(max_size=40)) + sixty[high:]
    whole = changed == sixty or (changed.endswith(b"\n") and sixty.startswith(changed))  # a cut tail needs a witness
    assert (verdict(tmp_path, changed).verdict == "ok") == whole


def test_a_missing_log_is_unreadable_and_does_not_raise(tmp_path):
    assert verify(tmp_path / "none.jsonl").verdict == "unreadable"
    assert verify(tmp_path).verdict == "unreadable"


def test_an_act_writes_intent_and_outcome_whatever_happens(tmp_path):
    log = opened(tmp_path)
    with log.act("o", "owner", "approve", "x", request="r", detail={"a": 1}) as facts:
        facts["b"] = 2
    with pytest.raises(Refused), log.act("o", "owner", "approve", "x"):
        raise Refused("gate.self", "no", "no")
    with pytest.raises(ZeroDivisionError), log.act("o", "owner", "approve", "x"):
        _ = 1 / 0
    events = list(read(log.path))[1:]
    assert [(event["outcome"], event["of"]) for event in events] == [
        ("intent", None), ("done", 1), ("intent", None), ("gate.self", 3), ("intent", None),
        ("error ZeroDivisionError", 5),
    ]  # fmt: skip
    assert [event["detail"] for event in events][:3] == [{"a": 1}, {"a": 1, "b": 2}, {}]


@pytest.mark.parametrize("broken", ["full", "closed", "read-only"])
def test_without_a_written_intent_the_act_does_not_happen(tmp_path, broken):
    log, happened = opened(tmp_path), []
    log.event("o", "owner", "approve", "x", outcome="done")
    spare = os.dup(log._file)
    if broken == "closed":
        os.close(log._file)
    else:
        bad = os.open("/dev/full" if broken == "full" else log.path, os.O_WRONLY if broken == "full" else os.O_RDONLY)
        os.dup2(bad, log._file)
        os.close(bad)
    with pytest.raises(Refused, match=r"audit\.write"), log.act("o", "owner", "approve", "x"):
        happened.append(1)
    assert happened == []
    os.dup2(spare, log._file)
    os.close(spare)
    with log.act("o", "owner", "approve", "x"):
        happened.append(2)
    assert happened == [2]
    assert (verify(log.path).verdict, verify(log.path).events) == ("ok", 5)


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from audit_logs import opened
from fedrec.errors import Refused
from fedrec.institution.audit import verify
log, done, codes = opened(Path(sys.argv[1])), 0, []
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
for number in range(20):
    try:
        with log.act("o", "owner", "approve", "x"):
            done += 1
    except Refused as refusal:
        codes.append(str(refusal))
size = log.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.event("o", "owner", "approve", "x", outcome="after")
print([done, sorted(set(codes)), size, verify(log.path).verdict, verify(log.path).events])
"""


def test_a_full_disk_refuses_and_leaves_a_whole_log(tmp_path):
    """A real limit on the file's size, in a process of its own: the kernel writes a part of the line, then fails."""
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        check=True,
    )
    done, codes, size, found, count = json.loads(run.stdout.replace("'", '"'))
    events = list(read(tmp_path / "0001.jsonl"))
    assert found == "ok"
    assert size <= 5000
    assert len(codes) == 1
    assert codes[0].startswith("audit.write: the audit log cannot be written (")
    assert "None" not in codes[0]
    assert count == len(events)
    intents = [event for event in events if event["outcome"] == "intent"]
    assert 0 < done <= len(intents) - 1 <= done + 1  # one act at most has no outcome; the last one is "after"
    assert done < 20
    assert events[-1]["outcome"] == "after"


def test_a_log_whose_last_event_is_garbage_is_said_plainly_at_the_start(tmp_path):
    path = write(tmp_path, 3)
    path.write_bytes(path.read_bytes() + b"garbage\n")
    with pytest.raises(Refused, match=r"audit\.tampered"):
        opened(tmp_path)
    assert verify(path).verdict == "tampered"
