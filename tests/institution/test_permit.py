"""Permits: 10,000 random (permit, call) pairs against an independent oracle, and every limit at and over its edge."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from nacl.signing import SigningKey

import fedrec
from fedrec.config import Limits
from fedrec.errors import Refused
from fedrec.exchange.passport import sign
from fedrec.exchange.plan import PlanText, Tensor
from fedrec.institution.ledger import RequestRow
from fedrec.institution.permit import Here, Task, check, make, reservable, stamp

KEY, OTHER = SigningKey(b"1" * 32), SigningKey(b"2" * 32)
PUBLIC = KEY.verify_key.encode().hex()
NOW = datetime(2026, 5, 17, 12, 30, tzinfo=UTC)
CAPS = Limits()
HERE = Here("a", PUBLIC, "c", CAPS)
FINGER, OTHER_FINGER = "ab" * 32, "cd" * 32


def plan(**asks):
    given = {"rounds": 3, "runs": 2, "train": ("p1", "p3"), "evaluate": True, "publish": True, "days": 30, **asks}
    return PlanText("x", "P", {"name": "ease"}, {"name": "sum"}, {"g": Tensor.parse("float32 items")}, **given)


def made(asks=None, caps=CAPS, fingerprint=FINGER, now=NOW, **limits):
    return make(
        plan(**(asks or {})),
        request="r",
        fingerprint=fingerprint,
        scientist="s@x.org",
        scientist_key="5" * 64,
        site="a",
        data_version="d",
        consortium="c",
        approver="o@x.org",
        approver_key="6" * 64,
        now=now,
        limits=limits,
        caps=caps,
    )


def task(kind="train", number=0, protocol="p1", run="run"):
    return Task(kind, run, number, protocol, "ef" * 32, "0" * 32)


def row(permit, decision="approved"):
    state = "none" if permit is None else "live"
    return RequestRow(
        "r", "code", FINGER, "x", "s@x.org", "5" * 64, "", stamp(NOW), decision, "", "", "", json.dumps(permit), state
    )


def answered(permit, decision, moment, wanted, used, run, caps=CAPS):
    """The code of the package, or "" when the task may run."""
    try:
        live = check(row(permit, decision), stamp(moment), replace(HERE, caps=caps))
        reservable(live, wanted, used, run, caps)
    except Refused as refusal:
        return refusal.code
    return ""


BOUND = {"request": "r", "scientist_key": "5" * 64, "site": "a", "consortium": "c"}


def oracle(facts, decision, moment, wanted, used, run):
    """From contracts.md, not from permit.py: the set of codes that may be given; {""} = the task may run.

    `facts` are what the owner agreed to, before they became JSON; None when nothing is signed or live.
    """
    if decision in ("denied", "revoked"):
        return {f"permit.{decision}"}
    if decision != "approved" or facts is None:
        return {"permit.missing"}
    no = set()
    if not facts["signed"]:
        return {"permit.signature"}
    if facts["finger"] != FINGER:
        no.add("permit.fingerprint")
    if facts["bound"] != BOUND:
        no.add("permit.other")
    if facts["version"] != fedrec.__version__:
        no.add("permit.version")
    if moment < facts["from"]:
        no.add("permit.early")
    if moment >= facts["until"]:
        no.add("permit.expired")
    if not facts["hours"][0] <= moment.hour < facts["hours"][1]:
        no.add("permit.hours")
    if facts["counts"][wanted.kind] == 0:
        no.add("permit.kind")
    elif used.get(wanted.kind, 0) >= facts["counts"][wanted.kind]:
        no.add("permit.rounds")
    trained = [(n, p) for kind, n, p, status in run if kind == "train" and status == "done"]
    if wanted.kind == "train":
        if wanted.protocol not in ("p1", "p3") or wanted.round > 2:
            no.add("permit.protocol")
        return no or {""}
    same_rows = {"p1": ("p1", "p2"), "p2": ("p1", "p2")}.get(wanted.protocol, (wanted.protocol,))
    if not any(p in same_rows for _, p in trained):
        no.add("permit.protocol")
    if wanted.round not in [n for n, _ in trained] or any(
        (kind, n, p) == (wanted.kind, wanted.round, wanted.protocol) for kind, n, p, _ in run
    ):
        no.add("permit.evaluate")
    return no or {""}


def random_case(draw):
    begin = NOW + timedelta(hours=draw.randrange(-48, 48), minutes=draw.randrange(60))
    hours = draw.choice([(0, 24)] * 8 + [(8, 18), (12, 13), (0, 1), (23, 24)])
    days, limit = draw.choice([1, 30]), draw.choice([None, 1, 2, 12, 13, 99])
    until = draw.choice([None, NOW + timedelta(hours=draw.randrange(1, 60))])
    asks = {"evaluate": draw.random() < 0.8, "publish": draw.random() < 0.8, "days": days}
    limits = {"rounds": limit, "until": until and until.isoformat(), "hours": f"{hours[0]}-{hours[1]}"}
    finger, version = draw.choice([FINGER] * 19 + [OTHER_FINGER]), draw.choice([fedrec.__version__] * 19 + ["0.0.9"])
    signed = draw.random() < 0.95
    bound = {name: draw.choice([value] * 49 + ["other"]) for name, value in BOUND.items()}
    permit = {**made(asks, fingerprint=finger, now=min(begin, NOW), **limits), "fedrec": version, **bound}
    caps = draw.choice([CAPS] * 6 + [Limits(train=2), Limits(evaluate=1), Limits(evaluate=0), Limits(days=1)])
    ends = min(begin, NOW) + timedelta(days=min(days, caps.days))
    facts = {
        "signed": signed,
        "finger": finger,
        "version": version,
        "bound": bound,
        "hours": hours,
        "from": min(begin, NOW),
        "until": min(ends, until) if until else ends,
        "counts": {
            "train": min(12, limit or 12, caps.train),
            "evaluate": min(8, caps.evaluate) if asks["evaluate"] else 0,
            "publish": 2 if asks["publish"] else 0,
        },
    }
    done = [
        (
            draw.choice(["train"] * 3 + ["evaluate", "publish"]),
            draw.randrange(3),
            draw.choice(["p1", "p2", "p3"]),
            draw.choice(["done", "done", "refused", "running"]),
        )
        for _ in range(draw.randrange(4))
    ]
    used = {kind: draw.choice([0, 0, 1, 2, 11, 12]) for kind in ("train", "evaluate", "publish")}
    wanted = task(
        draw.choice(["train", "evaluate", "publish"]), draw.randrange(4), draw.choice(["p1", "p2", "p3", "all"])
    )
    missing = draw.random() < 0.05
    sealed = None if missing else sign(permit, KEY if signed else OTHER)
    decision = draw.choice(["approved"] * 15 + ["waiting", "denied", "revoked"])
    return (
        sealed,
        None if missing else facts,
        decision,
        NOW + timedelta(minutes=draw.randrange(-10, 3000)),
        wanted,
        used,
        done,
        caps,
    )


def test_the_package_and_the_oracle_agree_on_10000_random_pairs():
    draw, counts = random.Random(1), {}
    for number in range(10_000):
        permit, facts, decision, moment, wanted, used, done, caps = random_case(draw)
        said = answered(permit, decision, moment, wanted, used, done, caps)
        may = oracle(facts, decision, moment, wanted, used, done)
        assert said in may, (number, said, may, permit, decision, moment, wanted, used, done, caps)
        counts[said] = counts.get(said, 0) + 1
    assert len(counts) == 15  # fourteen codes, and "" for what may run
    assert counts[""] > 50


def test_control_a_permit_that_runs_stops_with_any_single_change():
    good = sign(made(), KEY)
    noon = stamp(NOW)
    assert check(row(good), noon, HERE) == good
    for name in good:
        changed = {**good, name: "x"}
        with pytest.raises(Refused, match=r"permit\.signature"):
            check(row(changed), noon, HERE)
        with pytest.raises(Refused, match=r"permit\.signature"):
            check(row({key: value for key, value in good.items() if key != name}), noon, HERE)


def test_the_counts_are_the_plans_cut_to_the_caps_and_the_owners_limit():
    assert made()["tasks"] == {"train": 12, "evaluate": 8, "publish": 2}  # 3 rounds, 2 runs, 2 protocols
    assert made(rounds=5)["tasks"]["train"] == 5
    assert made(rounds=50)["tasks"]["train"] == 12
    assert made(caps=Limits(train=4, evaluate=3, days=7))["tasks"] == {"train": 4, "evaluate": 3, "publish": 2}
    assert made(caps=Limits(train=4, evaluate=3, days=7))["not_after"] == "2026-05-24T12:30:00Z"
    assert made({"evaluate": False, "publish": False})["tasks"] == {"train": 12, "evaluate": 0, "publish": 0}
    assert made(until="2026-05-18T10:00:00+02:00")["not_after"] == "2026-05-18T08:00:00Z"
    assert made(until="2026-05-18")["not_after"] == "2026-05-18T00:00:00Z"
    assert made(until="2099-01-01")["not_after"] == "2026-06-16T12:30:00Z"
    assert (made()["hours"], made(hours=None)["hours"], made(hours="8-18")["hours"]) == ("0-24", "0-24", "8-18")


WRONG = {
    "rounds": [0, -1, True, False, "10", 1.0, float("nan"), float("inf"), 1e309, [1], ""],
    "until": [
        0,
        True,
        "10",
        "tomorrow",
        float("nan"),
        "",
        "2026-13-01",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ],
    "hours": [
        0,
        False,
        "",
        8,
        "8",
        "18-8",
        "8-8",
        "0-25",
        "-1-5",
        "8-18-20",
        "8–18",
        "²-8",
        "８-18",
        " 8-18",
        "8-18\n",
        "nan",
        [8, 18],
    ],
    "epsilon": [1.0, 0, "1"],
    "round": [1],
    "days": [1000],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values], ids=repr
)
def test_a_limit_that_is_not_of_its_form_is_refused(name, value):
    with pytest.raises(Refused) as caught:
        made(**{name: value})
    assert caught.value.code == "permit.limit"


@pytest.mark.parametrize("until", ["0206-06-01", "0300-01-01T00:00:00Z", "1999-12-31", "2026-05-17T12:30:00Z"])
def test_a_permit_that_would_end_before_it_begins_is_not_made(until):
    """Years below 1000 once gave "206-...", which sorts behind "2026-..." and never ends."""
    with pytest.raises(Refused) as caught:
        made(until=until)
    assert caught.value.code == "permit.limit"


@pytest.mark.parametrize(
    ("change", "moment", "code"),
    [
        ({}, "2026-05-17T12:29:59Z", "permit.early"),
        ({}, "2026-05-17T12:30:00Z", ""),
        ({}, "2026-06-16T12:29:59Z", ""),
        ({}, "2026-06-16T12:30:00Z", "permit.expired"),
        ({"hours": "8-18"}, "2026-05-18T07:59:59Z", "permit.hours"),
        ({"hours": "8-18"}, "2026-05-18T08:00:00Z", ""),
        ({"hours": "8-18"}, "2026-05-18T17:59:59Z", ""),
        ({"hours": "8-18"}, "2026-05-18T18:00:00Z", "permit.hours"),
    ],
)
def test_the_edges_of_time(change, moment, code):
    assert answered(sign(made(**change), KEY), "approved", datetime.fromisoformat(moment), task(), {}, []) == code


def test_the_last_task_runs_and_the_next_does_not():
    permit = sign(made(rounds=2), KEY)
    assert answered(permit, "approved", NOW, task(), {"train": 1}, []) == ""
    assert answered(permit, "approved", NOW, task(), {"train": 2}, []) == "permit.rounds"
    assert answered(permit, "approved", NOW, task(number=2), {}, []) == ""
    assert answered(permit, "approved", NOW, task(number=3), {}, []) == "permit.protocol"


GOOD = {"kind": "train", "run": "r-1.x_Y", "round": 0, "protocol": "p1", "base": "a" * 64, "nonce": "b" * 32}
BAD = {
    "kind": ["", "Train", "delete", None, 1],
    "run": ["", ".r", "-r", "a/b", "../x", "a" * 65, "ä", "a\n", None],
    "round": [-1, 1_000_000, 1.0, "0", True, None, float("nan")],
    "protocol": ["", "p4", "P1", None],
    "base": ["", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n", "../" + "a" * 61, None],
    "nonce": ["", "b" * 31, "b" * 33, "B" * 32, None],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values], ids=repr)
def test_a_task_with_a_wrong_field_is_refused(key, value):
    with pytest.raises(Refused, match=r"task\.form"):
        Task.parse({**GOOD, key: value})


@pytest.mark.parametrize(
    "raw", [None, [], "train", {}, {**GOOD, "more": 1}, {k: v for k, v in GOOD.items() if k != "nonce"}]
)
def test_a_task_with_other_keys_is_refused(raw):
    with pytest.raises(Refused, match=r"task\.form"):
        Task.parse(raw)


def test_the_jobs_key_depends_on_every_field_and_the_request():
    keys = {Task.parse(GOOD).key("r"), Task.parse(GOOD).key("q")}
    for key, value in {
        "kind": "evaluate",
        "run": "s",
        "round": 1,
        "protocol": "p3",
        "base": "c" * 64,
        "nonce": "c" * 32,
    }.items():
        keys.add(Task.parse({**GOOD, key: value}).key("r"))
    assert len(keys) == 8
    assert Task.parse(dict(reversed(GOOD.items()))).key("r") in keys
