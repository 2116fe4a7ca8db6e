"""The audit log: every change is found, nothing is acknowledged that was not written, garbage never crashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedrec.errors import Refused
from fedrec.institution.audit import START, AuditLog, _wrong, read, verify

ANY_FILE = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def write(folder: Path, count: int, actor: str = "sci@lab.example") -> Path:
    log = AuditLog(folder)
    for number in range(count):
        log.event(
            actor, "scientist", "train", "ab" * 32, outcome="done", run="r", round=number, detail={"bytes": 10 * number}
        )
    log.close()
    return log.path


@pytest.fixture(scope="module")
def sixty(tmp_path_factory):
    return write(tmp_path_factory.mktemp("log"), 60).read_bytes()


def verdict(tmp_path, data):
    file = tmp_path / "x.jsonl"
    file.write_bytes(data)
    return verify(file)


def test_sixty_untouched_events_are_ok(tmp_path, sixty):
    found = verdict(tmp_path, sixty)
    assert found.as_dict() == {"verdict": "ok", "events": 60, "first_bad": None, "reason": ""}
    assert verdict(tmp_path, b"").as_dict() == {"verdict": "ok", "events": 0, "first_bad": None, "reason": ""}


def test_every_changed_byte_is_found_in_its_event(tmp_path, sixty):
    """`verify` asks `_wrong` line by line; a line that is wrong alone is wrong in the log."""
    previous = START
    for number, line in enumerate(sixty.splitlines(keepends=True)):
        assert _wrong(line, number, previous) == ""
        for place in range(len(line) - 1):
            changed = bytearray(line)
            changed[place] ^= 1 << (place % 7)
            assert _wrong(bytes(changed), number, previous), (number, place)
        previous = json.loads(line)["hash"]


def test_changed_bytes_and_all_changed_newlines_are_found_in_the_whole_log(tmp_path, sixty):
    """A flipped last newline is a line that was not written whole, and says so; everything else is tampering."""
    last = len(sixty) - 1
    for place in sorted({*range(0, last, 211), *(place for place in range(last) if sixty[place] == 10), last}):
        changed = bytearray(sixty)
        changed[place] ^= 1 << (place % 8)
        found = verdict(tmp_path, bytes(changed))
        assert found.verdict == ("incomplete-tail" if place == last else "tampered"), (place, found)
        assert found.first_bad == sixty[:place].count(b"\n"), place


@pytest.mark.parametrize("at", [0, 1, 30, 58])
def test_deleting_inserting_swapping_and_doubling_events_is_found(tmp_path, sixty, at):
    lines = sixty.splitlines(keepends=True)
    without = lines[:at] + lines[at + 1 :]
    swapped = [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]
    doubled = lines[: at + 1] + lines[at:]
    for changed, first in ((without, at), (swapped, at), (doubled, at + 1)):
        assert (verdict(tmp_path, b"".join(changed)).verdict, verdict(tmp_path, b"".join(changed)).first_bad) == (
            "tampered",
            first,
        )
    for extra in (b"\n", b"{}\n", b"null\n", b"[]\n", lines[at].replace(b'"round":', b'"round": '), b"\xff\n"):
        assert verdict(tmp_path, b"".join([*lines[:at], extra, *lines[at:]])).verdict == "tampered", extra


def test_another_sites_events_do_not_fit_in(tmp_path, sixty):
    other = write(tmp_path / "other", 60, "someone@else.example").read_bytes().splitlines(keepends=True)
    lines = sixty.splitlines(keepends=True)
    for at in (1, 30, 59):
        assert verdict(tmp_path, b"".join([*lines[:at], other[at], *lines[at + 1 :]])).first_bad == at
    assert verdict(tmp_path, b"".join([lines[0], *other[1:]])).first_bad == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"round":5', b'"round":5.0'),
        (b'"round":5', b'"round":5,"round":5'),
        (b'"actor":"sci@', b'"actor":"\\u0073ci@'),
        (b'"actor":"sci@lab', b'"actor":"sci@bal'),  # same length
        (b'"seq":5', b'"seq":5e0'),
        (b'"bytes":50', b'"bytes":true'),
        (b'"round":5', b'"round":NaN'),
        (b'"outcome":"done"', b'"outcome":"\\ud800"'),
    ],
)
def test_another_writing_of_the_same_event_is_found(tmp_path, sixty, old, new):
    lines = sixty.splitlines(keepends=True)
    assert old in lines[5]
    lines[5] = lines[5].replace(old, new)
    assert (verdict(tmp_path, b"".join(lines)).verdict, verdict(tmp_path, b"".join(lines)).first_bad) == ("tampered", 5)


@pytest.mark.parametrize("cut", [1, 2, 50, 300])
def test_a_torn_tail_is_called_so_repaired_and_said(tmp_path, sixty, cut):
    folder = tmp_path / "site"
    path = write(folder, 60)
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    found = verify(path)
    assert (found.verdict, found.first_bad) == ("incomplete-tail", 59)
    write(folder, 1)
    assert verify(path).verdict == "ok"
    events = list(read(path))
    assert [event["outcome"] for event in events[58:]] == ["done", "torn-tail", "done"]
    lost = len(data.splitlines(keepends=True)[59]) - cut
    assert events[59]["detail"] == {"bytes": lost}


def test_a_tail_of_zeros_after_a_power_cut_is_repaired_too(tmp_path):
    path = write(tmp_path, 3)
    with path.open("ab") as file:
        file.write(bytes(4096))
    assert verify(path).verdict == "incomplete-tail"
    write(tmp_path, 1)
    assert (verify(path).verdict, verify(path).events) == ("ok", 5)


def test_the_chain_goes_on_over_a_restart_and_eight_threads(tmp_path):
    write(tmp_path, 5)
    log = AuditLog(tmp_path)

    def twenty():
        for _ in range(20):
            log.event("a", "owner", "approve", "x", outcome="done")

    threads = [threading.Thread(target=twenty) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert (verify(log.path).verdict, verify(log.path).events) == ("ok", 165)
    assert log.path.stat().st_mode & 0o777 == 0o600


@ANY_FILE
@given(st.binary(max_size=300))
@example(b"[" * 100_000 + b"\n")
@example(b"1" * 10_000 + b"\n")
@example(b'{"hash":' * 50_000 + b"\n")
def test_garbage_never_crashes_the_verifier_and_is_never_ok(tmp_path, data):
    assert verdict(tmp_path, data).verdict in ({"ok"} if not data else {"tampered", "incomplete-tail"})


@ANY_FILE
@given(st.data())
def test_a_log_with_a_random_edit_is_never_ok(tmp_path, sixty, data):
    low = data.draw(st.integers(0, len(sixty) - 1))
    high = data.draw(st.integers(low, min(len(sixty), low + 2000)))
    changed = sixty[:low] + data.draw(st.binary(max_size=40)) + sixty[high:]
    whole = (
        changed == sixty or (changed.endswith(b"\n") and sixty.startswith(changed)) or not changed
    )  # a cut tail needs a witness
    assert (verdict(tmp_path, changed).verdict == "ok") == whole


def test_a_missing_log_is_unreadable_and_does_not_raise(tmp_path):
    assert verify(tmp_path / "none.jsonl").verdict == "unreadable"
    assert verify(tmp_path).verdict == "unreadable"


def test_an_act_writes_intent_and_outcome_whatever_happens(tmp_path):
    log = AuditLog(tmp_path)
    with log.act("o", "owner", "approve", "x", request="r", detail={"a": 1}) as facts:
        facts["b"] = 2
    with pytest.raises(Refused), log.act("o", "owner", "approve", "x"):
        raise Refused("gate.self", "no", "no")
    with pytest.raises(ZeroDivisionError), log.act("o", "owner", "approve", "x"):
        _ = 1 / 0
    assert [event["outcome"] for event in read(log.path)] == [
        "intent", "done", "intent", "gate.self", "intent", "error ZeroDivisionError",
    ]  # fmt: skip
    assert [event["detail"] for event in read(log.path)][:3] == [{"a": 1}, {"a": 1, "b": 2}, {}]


@pytest.mark.parametrize("broken", ["full", "closed", "read-only"])
def test_without_a_written_intent_the_act_does_not_happen(tmp_path, broken):
    log, happened = AuditLog(tmp_path), []
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
    assert (verify(log.path).verdict, verify(log.path).events) == ("ok", 3)


FULL = """
import resource, sys
from pathlib import Path
from fedrec.errors import Refused
from fedrec.institution.audit import AuditLog, verify
log, done, codes = AuditLog(Path(sys.argv[1])), 0, []
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
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
    run = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    done, codes, size, found, count = json.loads(run.stdout.replace("'", '"'))
    events = list(read(tmp_path / "0001.jsonl"))
    assert found == "ok"
    assert size <= 3000
    assert len(codes) == 1
    assert codes[0].startswith("audit.write: the audit log cannot be written (")
    assert "None" not in codes[0]
    assert count == len(events)
    assert done == sum(event["outcome"] == "intent" for event in events)
    assert done < 20
    assert events[-1]["outcome"] == "after"


def test_a_log_whose_last_event_is_garbage_is_said_plainly_at_the_start(tmp_path):
    path = write(tmp_path, 3)
    path.write_bytes(path.read_bytes() + b"garbage\n")
    with pytest.raises(Refused, match=r"audit\.tampered"):
        AuditLog(tmp_path)
    assert verify(path).verdict == "tampered"
