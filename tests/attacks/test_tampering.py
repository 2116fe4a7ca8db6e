"""Attacks on a past audit log: trust.md, section 4, T1 to T15 and T17 (T19, T20: tests of reconcile and of a full disk).

Three attackers: one who edits the file; one who also makes numbers, links, hashes and Merkle roots fit again; one who
has stolen the site's key as well, or is the site. Only the last, and whoever cuts the end off, needs a witness to be
caught. The control of each test is the same attack on a reader without that defence: it must succeed there.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "institution"))
from audit_logs import KEY, OTHER, PUBLIC, SIGNER, changed, checkpoints, forged, kept, write

from fedrec.institution.audit import read, verify
from fedrec.institution.verify import Checker

MUTATIONS = 2000  # benchmarks/audit.py does 10,000, and every byte of T1


def plain(path: Path) -> str:
    """The control: a log of lines as others have it, read without chain, signature or witness."""
    try:
        events = list(read(path))
        return "ok" if all(isinstance(event["act"], str) for event in events) else "tampered"
    except (ValueError, KeyError, TypeError):
        return "tampered"


class Case:
    """A log of some acts, its bytes, and a witness of its last checkpoint."""

    def __init__(self, folder: Path, acts: int) -> None:
        self.data = write(folder / "own", acts).read_bytes()
        self.lines = self.data.splitlines(keepends=True)
        self.stranger = write(folder / "stranger", acts, OTHER, "someone@else.example").read_bytes().splitlines(True)
        self.witness = kept(folder / "witness", [checkpoints(self.data)[-1]])
        self.file = folder / "0001.jsonl"

    def verdict(self, data: bytes, witness: bool = False):
        self.file.write_bytes(data)
        return verify(self.file, witnesses=[self.witness] if witness else [])

    def control(self, data: bytes) -> str:
        self.file.write_bytes(data)
        return plain(self.file)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return Case(tmp_path_factory.mktemp("log"), 20)


def every_byte(folder: Path, step: int) -> int:
    """Change bytes of a thousand events one by one, every byte of every 20th event; how many were changed."""
    lines = write(folder, 499).read_bytes().splitlines(keepends=True)
    assert len(lines) >= 1000
    state, count = Checker(), 0
    for line in lines:
        for place in range(0, len(line), 1 if state.seq % 20 == 0 else step):
            changed_line = bytearray(line)
            changed_line[place] ^= 1 << (place % 7)
            assert state.feed(bytes(changed_line)), (state.seq, place)
            count += 1
        assert state.feed(line) == ""
    return count


def test_t1_a_changed_byte_of_a_thousand_events_is_found_in_its_event(tmp_path):
    """The control is that of T13."""
    assert every_byte(tmp_path, 13) > 60_000


@pytest.mark.parametrize("at", [0, 1, 20, 39])
def test_t2_to_t5_deleted_inserted_swapped_and_doubled_events(log, at):
    lines = log.lines
    attacks = {
        "delete": (lines[:at] + lines[at + 1 :], at),
        "insert": ([*lines[:at], lines[at].replace(b'"role":"', b'"role":"x'), *lines[at:]], at),
        "swap": ([*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]], at),
        "double": (lines[: at + 1] + lines[at:], at + 1),
    }
    for name, (attacked, first) in attacks.items():
        found = log.verdict(b"".join(attacked))
        assert (found.verdict, found.first_bad) == ("tampered", first), name
        assert log.control(b"".join(attacked)) == "ok", name
    for extra in (b"\n", b"{}\n", b"null\n", b"[]\n", b"\xff\n"):
        assert log.verdict(b"".join([*lines[:at], extra, *lines[at:]])).first_bad == at


@pytest.mark.parametrize("count", range(1, 42))
def test_t6_a_cut_tail_is_found_by_what_another_institution_holds(log, count):
    cut = b"".join(log.lines[:-count])
    assert log.verdict(cut).verdict == "ok"  # control: without a witness nobody can know
    found = log.verdict(cut, witness=True)
    assert (found.verdict, found.first_bad) == ("witness-clash", len(log.lines) - count)
    assert log.verdict(log.data, witness=True).verdict == "ok"
    torn = b"".join(log.lines[: 1 - count]) if count > 1 else log.data
    assert log.verdict(torn[:-5], witness=True).verdict == "witness-clash"  # cut inside a line: the same


def test_t7_a_cut_head_or_a_removed_file(log, tmp_path):
    for count in (1, 2, 30):
        assert log.verdict(b"".join(log.lines[count:])).first_bad == 0
        assert log.control(b"".join(log.lines[count:])) == "ok"
    folder = write(tmp_path / "long", 100, segment=20_000)
    files = sorted(folder.glob("*.jsonl"))
    assert len(files) > 3
    assert verify(folder).verdict == "ok"
    for file in files[:-1]:
        data = file.read_bytes()
        file.unlink()
        assert verify(folder).verdict == "tampered"
        assert plain(folder) == "ok"
        file.write_bytes(data)
    witness, last = kept(tmp_path / "w", [checkpoints(files[-1].read_bytes())[-1]]), files[-1]
    last.unlink()
    assert verify(folder).verdict == "ok"  # the newest file is a cut tail
    assert verify(folder, witnesses=[witness]).verdict == "witness-clash"


def other_approver(events):
    next(event for event in events if event["seq"] == 9).update(actor="eve@lab.example")


@pytest.mark.parametrize("keep", [True, False])
def test_t8_a_history_rewritten_with_the_stolen_key_clashes_with_what_others_hold(log, keep):
    rewritten = changed(log.data, other_approver, KEY)
    assert log.verdict(rewritten).verdict == "ok"  # control
    assert verify(log.file, key=PUBLIC).verdict == "ok"
    found = log.verdict(rewritten, witness=True)
    assert (found.verdict, found.first_bad) == ("witness-clash", 41)
    longer = [json.loads(line) for line in rewritten.splitlines()]
    longer = longer if keep else longer[:-1]  # without the checkpoint that the witness holds
    assert log.verdict(forged(longer + longer[1:3], KEY), witness=True).verdict == "witness-clash"


def test_t8_without_the_key_the_signature_tells(log):
    rewritten = changed(log.data, other_approver, None)
    found = log.verdict(rewritten)
    assert (found.verdict, found.first_bad) == ("tampered", 41)
    assert "not signed" in found.reason
    mine = [json.loads(line) for line in log.lines]
    for event in mine:
        if event["act"] == "checkpoint":
            event["detail"]["key"] = OTHER.key.verify_key.encode().hex()
    other_approver(mine)
    own_key = forged(mine, OTHER.key)
    assert log.verdict(own_key).verdict == "ok"  # control: nobody said whose key it is
    assert verify(log.file, key=PUBLIC).verdict == "tampered"
    assert verify(log.file, pinned={"aurora": (PUBLIC,)}).verdict == "tampered"
    found = log.verdict(own_key, witness=True)  # whose key is right the witness cannot say: it holds nothing signed so
    assert (found.verdict, found.pinned, found.code, found.witnesses[0]["unreadable"]) == ("ok", False, 2, 1)


def test_t9_two_histories_for_two_auditors(log, tmp_path):
    second = tmp_path / "second.jsonl"
    second.write_bytes(changed(log.data, other_approver, KEY))
    log.file.write_bytes(log.data)
    assert verify(second).verdict == verify(log.file).verdict == "ok"  # control: each alone
    assert verify(second, witnesses=[log.file]).verdict == "witness-clash"
    assert verify(log.file, witnesses=[second]).verdict == "witness-clash"
    assert verify(second, witnesses=[log.witness]).verdict == "witness-clash"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"at":"2', b'"at":"1'),  # T11 back-dated
        (b'"actor":"~', b'"actor":"o'),  # T12 same length
        (b'"bytes":', b'"bytes":1'),  # T13 from here on: another number, and other writings of the same event
        (b'"ok":true', b'"ok":1'),
        (b'"round":', b'"round":0.0,"round":'),
        (b'"actor":"~', b'"actor":"\\u007e'),
        (b'"seq":10', b'"seq":1e1'),
        (b'"seq":10', b'"seq":10.0'),
        (b'"seq":', b'"seq": '),
        (b'"run":"r"', b'"run":"r","run":"r"'),
        (b'"guard":"passed","ok":true', b'"ok":true,"guard":"passed"'),
        (b'"guard":"passed"', b'"guard":"\\ud800"'),
        (b'"round":', b'"round":NaN,"x":'),
        (b"}\n", b"}\r\n"),
        (b"{", b"\xef\xbb\xbf{"),
    ],
)
def test_t11_to_t13_back_dating_other_actors_and_other_writings(log, old, new):
    place = next(n for n, line in enumerate(log.lines) if (n > 9 and old in line and b'"guard"' in line) or n == 10)
    place = 10 if old in log.lines[10] else next(n for n, line in enumerate(log.lines) if n > 9 and old in line)
    attacked = b"".join([*log.lines[:place], log.lines[place].replace(old, new, 1), *log.lines[place + 1 :]])
    assert attacked != log.data
    found = log.verdict(attacked)
    assert (found.verdict, found.first_bad) == ("tampered", place)


def test_t13_control_a_reader_without_the_chain_takes_other_writings_for_the_same(log):
    for old, new in ((b'"at":"2', b'"at":"1'), (b'"actor":"~', b'"actor":"o'), (b'"seq":', b'"seq": ')):
        assert log.control(log.data.replace(old, new)) == "ok"


def test_t14_another_site_s_events_do_not_fit_in(log):
    for at in (0, 1, 20, 41):
        spliced = b"".join([*log.lines[:at], log.stranger[at], *log.lines[at + 1 :]])
        assert log.verdict(spliced).verdict == "tampered"
        assert log.control(spliced) == "ok"
    whole = b"".join(log.stranger)
    assert log.verdict(whole).site == "borealis"  # said, and found by the key that the consortium pins
    assert verify(log.file, key=PUBLIC).verdict == "tampered"
    mixed = [*map(json.loads, log.lines), *map(json.loads, log.stranger)]
    assert log.verdict(forged(mixed, None)).verdict == "tampered"


def test_t15_a_torn_tail_is_called_so(log):
    for cut in (1, 10, len(log.lines[-1]) - 1):
        assert log.verdict(log.data[:-cut]).verdict == "incomplete-tail"
    assert log.verdict(log.data + b"\x00" * 5000).verdict == "incomplete-tail"
    assert log.verdict(log.data + b"\x00" * 5000 + b"\n").verdict == "tampered"  # control: not torn, but added


@pytest.mark.parametrize("what", ["outcome", "second-outcome", "silent-start", "no-checkpoint", "intent-again"])
def test_acts_without_their_other_half_are_found_also_with_the_stolen_key(log, what):
    """Whoever signs such a log anew still has to invent the other half."""
    events = [json.loads(line) for line in log.lines]
    number = next(n for n, event in enumerate(events) if event["outcome"] == "intent")
    outcome = next(n for n, event in enumerate(events) if event["of"] == number)
    start = {**events[0], "act": "start", "seq": 999, "detail": {}}
    attacked = {
        "outcome": events[:number] + events[number + 1 :],
        "second-outcome": [*events, {**events[outcome], "seq": 1000}],
        "silent-start": [*events[:outcome], start, *events[outcome:]],
        "no-checkpoint": [*events, {**start, "detail": {}}, {**start, "seq": 1000}],
        "intent-again": [*events, {**events[outcome], "outcome": "intent", "seq": 1000}],
    }[what]
    found = log.verdict(forged(attacked, KEY))
    assert found.verdict == "tampered"
    assert log.control(forged(attacked, KEY)) == "ok"


def mutated(draw: random.Random, log: Case) -> tuple[str, bytes]:
    """One attack on a log, chosen at random: its kind and the bytes."""
    data, lines = log.data, log.lines
    at, to = draw.randrange(len(lines)), draw.randrange(len(lines))
    place, length = draw.randrange(len(data)), draw.randrange(1, 300)
    kind = draw.choices(
        [
            "flip",
            "byte",
            "remove",
            "add",
            "delete",
            "double",
            "swap",
            "move",
            "splice",
            "field",
            "cut",
            "fit",
            "stolen",
        ],
        [16, 12, 12, 12, 8, 6, 8, 6, 6, 6, 4, 2, 2],
    )[0]
    rest = [*lines[:at], *lines[at + 1 :]]
    event = json.loads(lines[at])

    def field(events):
        name = draw.choice(["actor", "at", "object", "outcome", "permit", "purpose", "request", "role", "run"])
        events[at][name] = events[at][name] + draw.choice("xyz")

    match kind:
        case "flip":
            return kind, data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
        case "byte":
            return kind, data[:place] + draw.randbytes(1) + data[place + 1 :]
        case "remove":
            rest = data[:place] + data[place + length :]
            return ("cut" if data.startswith(rest) and rest.endswith(b"\n") else kind), rest
        case "add":
            return kind, data[:place] + draw.randbytes(draw.randrange(1, 40)) + data[place:]
        case "delete":
            return ("cut" if at == len(lines) - 1 else kind), b"".join(rest)
        case "double":
            return kind, b"".join([*lines[:to], lines[at], *lines[to:]])
        case "swap":
            lines = lines.copy()
            lines[at], lines[to] = lines[to], lines[at]
            return kind, b"".join(lines)
        case "move":
            return kind, b"".join([*rest[:to], lines[at], *rest[to:]])
        case "splice":
            return kind, b"".join([*lines[:at], log.stranger[to], *lines[at + 1 :]])
        case "field":
            field(events := {at: event})
            return kind, b"".join(
                [*lines[:at], json.dumps(events[at], separators=(",", ":")).encode() + b"\n", *lines[at + 1 :]]
            )
        case "cut":
            return kind, b"".join(lines[: draw.randrange(1, len(lines))])
        case _:
            return kind, changed(data, field, KEY if kind == "stolen" else None)


def mutations(log: Case, count: int, seed: int = 1) -> dict[str, Counter[str]]:
    """What became of so many mutated logs, by kind: found alone, found with a witness, or not found."""
    draw, found = (
        random.Random(seed),
        {"alone": Counter(), "tail": Counter(), "witness": Counter(), "not": Counter(), "control": Counter()},
    )
    for _ in range(count):
        kind, data = mutated(draw, log)
        if data == log.data:
            continue
        log.file.write_bytes(data)
        found["control"][plain(log.file)] += 1
        verdict = verify(log.file).verdict
        if verdict not in ("ok", "incomplete-tail"):
            found["alone"][kind] += 1
        elif verdict == "incomplete-tail":  # the end of the last line was hit, which is said
            found["tail"][kind] += 1
        elif verify(log.file, witnesses=[log.witness]).verdict == "witness-clash":
            found["witness"][kind] += 1
        else:
            found["not"][kind] += 1
    return found


def test_mutated_logs_are_all_detected(tmp_path):
    """Without a witness a cut tail, and a history rewritten with the stolen key, are invisible; with one they are not."""
    found = mutations(Case(tmp_path, 8), MUTATIONS)
    said = {name: dict(counts) for name, counts in found.items()}
    print(said)
    assert found["not"] == Counter(), said
    assert set(found["witness"]) == {"cut", "stolen"}, said
    assert set(found["tail"]) <= {"flip", "byte", "remove", "add"}, said
    assert "cut" not in found["alone"], said
    assert sum(found["alone"].values()) > 0.85 * MUTATIONS
    assert found["control"]["ok"] > 0.2 * MUTATIONS  # control: a plain reader is content with these
    assert SIGNER.name == "aurora"
