"""T1 and T17 of trust.md through the verdict itself: every byte of a log, and a hundred thousand lines of garbage."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "institution"))
from audit_logs import KEY, PERSON, PUBLIC, changed, kept, opened, write

from fedrec.exchange.wire import canonical
from fedrec.institution.audit import verify
from fedrec.institution.verify import Checker

LINES = 100_000


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The bytes of a log of two acts."""
    return write(tmp_path_factory.mktemp("small"), 2).read_bytes()


def test_t1_every_byte_of_a_log_is_found_by_the_verdict(small, tmp_path):
    """The last byte is the last line's end: without it the line was not written whole. Control: the log itself."""
    data, path = small, tmp_path / "0001.jsonl"
    wrong = []
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << (place % 7)]) + data[place + 1 :])
        expected = "incomplete-tail" if place == len(data) - 1 else "tampered"
        if verify(path).verdict != expected:
            wrong.append(place)
    assert wrong == []
    path.write_bytes(data)
    assert verify(path).verdict == "ok"


def garbage(draw: random.Random, lines: list[bytes]) -> bytes:
    """A line of random bytes, a good one damaged, or an event whose hash fits and whose parts are anything."""
    kind = draw.randrange(4)
    if kind == 0:
        return draw.randbytes(draw.randrange(200)).replace(b"\n", b"") + b"\n"
    event = json.loads(draw.choice(lines))
    values = [
        None,
        True,
        -1,
        1 << 60,
        "",
        "x",
        "\u2028",
        [],
        {},
        {"size": "9"},
        10**40,
        dict(event["detail"]),
        event["hash"],
    ]
    if kind == 1:
        line = bytearray(draw.choice(lines))
        line[draw.randrange(len(line) - 1)] = draw.choice([*range(10), *range(11, 256)])
        return bytes(line)
    for _ in range(draw.randrange(1, 4)):
        place = draw.choice([event, event["detail"]]) if isinstance(event["detail"], dict) else event
        place[draw.choice([*place, "new", "size", "open_x", "open_1"])] = json.loads(json.dumps(draw.choice(values)))
    if kind == 3:
        return json.dumps(event).encode() + b"\n"
    event[draw.choice(["detail", "of", "round", "seq"])] = draw.choice(
        [True, "x", [], {"x": []}]
    )  # else it may be good
    event.pop("hash", None)
    try:
        return canonical({**event, "hash": hashlib.sha256(canonical(event)).hexdigest()}) + b"\n"
    except (ValueError, TypeError):
        return json.dumps(event).encode() + b"\n"


def test_t17_a_hundred_thousand_lines_of_garbage_are_refused_each_and_nobodys_testimony(small, tmp_path):
    """Control: the same checker takes each good line right after the garbage."""
    draw, lines = random.Random(17), small.splitlines(keepends=True)
    states = [Checker()]
    for line in lines:
        state = Checker()
        assert [state.feed(one) for one in lines[: len(states)]] == [""] * len(states), line
        states.append(state)
    bad, taken = [], []
    for number in range(LINES):
        line = garbage(draw, lines)
        state = states[number % len(states)]
        if line in lines:
            continue
        bad.append(line)
        if not state.feed(line):
            taken.append(line)
            break
    assert taken == []
    assert len(bad) > 0.95 * LINES
    assert [states[number].feed(line) for number, line in enumerate(lines)] == [""] * len(lines)
    path, liar = tmp_path / "0001.jsonl", tmp_path / "liar.jsonl"
    path.write_bytes(small)
    liar.write_bytes(b"".join(bad))
    found = verify(path, witnesses=[liar])
    assert (found.verdict, found.code, found.witnesses[0]["verdict"]) == ("ok", 2, "tampered")
    assert found.witnesses[0]["unreadable"] > 1000


def blind(folder: Path, acts: int, behind: int) -> dict[str, int]:
    """How many cuts, and changes of one event with the stolen key, a witness misses that is some acts behind the end."""
    log = opened(folder / "own")
    for number in range(acts):
        if number == acts - behind:
            mark = log.checkpoint()
        log.event(*PERSON, "call", str(number), outcome="done")
    mark = log.checkpoint() if not behind else mark
    log.checkpoint()
    log.close()
    data, path = log.path.read_bytes(), folder / "0001.jsonl"
    lines, witness = data.splitlines(keepends=True), kept(folder / "w", [mark])
    found = {"events": len(lines), "behind": len(lines) - 1 - mark["size"], "cuts": len(lines) - 1, "cuts_unseen": 0}
    found |= {"changes": 0, "changes_unseen": 0}
    for at, line in enumerate(lines[1:], 1):
        path.write_bytes(b"".join(lines[:at]))
        found["cuts_unseen"] += verify(path, PUBLIC, [witness]).verdict == "ok"
        if b'"act":"checkpoint"' not in line:
            path.write_bytes(changed(data, lambda events, at=at: events[at].update(run="other"), KEY))
            found["changes"] += 1
            found["changes_unseen"] += verify(path, PUBLIC, [witness]).verdict == "ok"
    return found


@pytest.mark.parametrize("behind", [0, 1, 4])
def test_a_witness_behind_the_end_sees_what_it_covers_and_no_more(tmp_path, behind):
    """Two events an act; a cut that leaves the checkpoint that it holds leaves what came after it. Control: behind = 0."""
    found = blind(tmp_path, 12, behind)
    assert found["changes"] == 24
    assert found["changes_unseen"] == 2 * behind
    assert found["cuts_unseen"] == found["behind"]
    assert found["behind"] == (2 * behind + 1 if behind else 0)
