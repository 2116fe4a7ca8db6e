"""The ledger: no overshoot, no double reservation, no acknowledged write lost to a kill, no void permit that lives."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest
from nacl.signing import SigningKey
from small_site import SCIENTIST, recipe

import fedrec
from fedrec.config import Limits
from fedrec.errors import Refused
from fedrec.exchange.passport import sign
from fedrec.exchange.plan import fingerprint
from fedrec.institution.audit import AuditLog, Signer, read, verify
from fedrec.institution.ledger import Ledger, RequestRow
from fedrec.institution.permit import Here, Task

SITE = SigningKey(b"site".ljust(32, b"."))
PUBLIC = SITE.verify_key.encode().hex()
HERE = Here("a", PUBLIC, "c", Limits(train=10**6))
NOW = "2026-05-17T12:00:00Z"
PLAN = recipe(rounds=5, runs=4)  # 20 train tasks


def log_in(folder):
    return AuditLog(folder / "audit", Signer("a", "0" * 32, SITE), segment=100_000)


def permit(train=20):
    facts = {
        "id": "p",
        "request": "r" * 32,
        "site": "a",
        "scientist_key": SCIENTIST.key,
        "consortium": "c",
        "approved_at": "2026-05-01T00:00:00Z",
        "fingerprint": fingerprint(PLAN.text()),
        "fedrec": fedrec.__version__,
        "not_before": "2026-01-01T00:00:00Z",
        "not_after": "2027-01-01T00:00:00Z",
        "hours": "0-24",
        "tasks": {"train": train, "evaluate": 0, "publish": 0},
        "protocols": ["p1"],
        "rounds": 5,
    }
    return sign(facts, SITE)


def row(**more):
    given = RequestRow(
        "r" * 32,
        "c" * 32,
        fingerprint(PLAN.text()),
        "ease",
        SCIENTIST.email,
        SCIENTIST.key,
        PLAN.text(),
        NOW,
        "waiting",
        "",
        "",
        "",
        None,
        "none",
    )
    return replace(given, **more)


def live(path, train=20):
    ledger = Ledger(path)
    ledger.add_request(row())
    ledger.permit_pending("r" * 32, permit(train))
    ledger.decide("r" * 32, "approved", "o@x.org", NOW, "")
    return ledger


def task(number):
    return Task("train", f"run-{number}", number % 5, "p1", "a" * 64, f"{number:032x}")


def reserve(ledger, number):
    return ledger.reserve(task(number).key("r" * 32), "r" * 32, task(number), NOW, HERE)


def test_eight_threads_never_reserve_more_than_the_permit_has(tmp_path):
    ledger, taken, codes = live(tmp_path / "l"), [], []

    def twenty(first):
        for number in range(first, first + 20):
            try:
                taken.append(reserve(ledger, number))
            except Refused as refusal:
                codes.append(refusal.code)

    threads = [threading.Thread(target=twenty, args=(1000 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [None] * 20
    assert codes == ["permit.rounds"] * 140
    assert ledger.used("r" * 32) == {"train": 20}


def test_the_same_job_from_eight_threads_is_one_reservation(tmp_path):
    ledger, found = live(tmp_path / "l", train=1), []
    threads = [threading.Thread(target=lambda: found.append(reserve(ledger, 7))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(job is None for job in found) == [False] * 7 + [True]
    assert {job.key for job in found if job} == {task(7).key("r" * 32)}
    assert ledger.used("r" * 32) == {"train": 1}


def test_a_used_task_is_never_given_back(tmp_path):
    ledger = live(tmp_path / "l", train=1)
    reserve(ledger, 1)
    ledger.finish(task(1).key("r" * 32), "refused", {"code": "jail.time"}, NOW)
    with pytest.raises(Refused, match=r"permit\.rounds"):
        reserve(ledger, 2)


def test_a_job_ends_once(tmp_path):
    ledger = live(tmp_path / "l")
    reserve(ledger, 1)
    key = task(1).key("r" * 32)
    ledger.finish(key, "done", {"first": 1}, NOW)
    ledger.finish(key, "refused", {"second": 2}, NOW)
    assert (ledger.job(key).status, ledger.job(key).answer) == ("done", {"first": 1})
    assert ledger.running() == []


FULL = """
import json, resource, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import test_ledger as t
ledger = t.live(Path(sys.argv[1]), train=20)
size = Path(sys.argv[1] + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 60_000, resource.RLIM_INFINITY))
said = []
for number in range(20):
    try:
        t.reserve(ledger, number)
        said.append("ok")
    except Exception as error:
        said.append(type(error).__name__)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
used = ledger.used("r" * 32).get("train", 0)
t.reserve(ledger, 99)
print(json.dumps([said, used, t.Ledger(Path(sys.argv[1])).used("r" * 32)["train"]]))
"""


def test_a_full_disk_reserves_nothing_and_the_ledger_works_again_when_there_is_room(tmp_path):
    given = [sys.executable, "-c", FULL, str(tmp_path / "l"), os.path.dirname(__file__)]
    run = subprocess.run(given, capture_output=True, text=True, check=True)
    said, used, after = json.loads(run.stdout)
    assert "ok" in said
    assert said[-1] != "ok"
    assert used == said.count("ok")
    assert after == used + 1


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import test_ledger as t

def work(folder, out):
    ledger, log, number = t.Ledger(folder / "l"), t.log_in(folder), 1000 * int(sys.stdin.readline())
    log.start("a", {event["seq"]: "unknown" for event in log.left_open()}, {})
    while True:
        number += 1
        intent = log.event("s", "scientist", "train", "x", outcome="intent", round=number)
        os.write(out, f"intent {number}\\n".encode())
        t.reserve(ledger, number)
        os.write(out, f"reserved {number}\\n".encode())
        ledger.first_time(b"%d" % number)
        os.write(out, f"call {number}\\n".encode())
        ledger.finish(t.task(number).key("r" * 32), "done", {"n": number}, t.NOW)
        log.event("s", "scientist", "train", "x", outcome="done", of=intent, round=number)
        os.write(out, f"done {number}\\n".encode())

for _ in range(int(sys.argv[3])):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        work(Path(sys.argv[2]), write)
    os.close(write)
    print(pid, flush=True)
    with os.fdopen(read) as acknowledged:
        for line in acknowledged:
            print(line, end="")
    os.waitpid(pid, 0)
    print("killed", flush=True)
"""


def test_sixty_kills_lose_and_double_nothing(tmp_path):
    """benchmarks/kills.py does the same a thousand times."""
    assert kills(tmp_path, 60)["acknowledged"] >= 45


def kills(tmp_path, times, seed=5):
    """A process writes through ledger and log, says what was acknowledged, and is killed at a random instant."""
    live(tmp_path / "l", train=10**6).close()
    draw = random.Random(seed)
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, os.path.dirname(__file__), str(tmp_path), str(times)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    acknowledged = {"intent": set(), "reserved": set(), "call": set(), "done": set()}
    for number in range(times):
        pid = int(child.stdout.readline())
        child.stdin.write(f"{number}\n")
        child.stdin.flush()
        if number % 4:  # three of four are killed while they write, one while it opens the files
            kind, value = child.stdout.readline().split()
            acknowledged[kind].add(int(value))
        time.sleep(draw.uniform(0.001, 0.04))
        os.kill(pid, signal.SIGKILL)
        while (line := child.stdout.readline()) != "killed\n":
            kind, value = line.split()
            acknowledged[kind].add(int(value))
    assert child.wait(10) == 0
    ledger, log = Ledger(tmp_path / "l"), log_in(tmp_path)
    events = [event for event in read(log.folder) if event["actor"] == "s"]
    assert verify(log.folder, key=PUBLIC).verdict == "ok"
    assert acknowledged["intent"] <= {event["round"] for event in events if event["outcome"] == "intent"}
    assert acknowledged["done"] <= {event["round"] for event in events if event["outcome"] == "done"}
    with sqlite3.connect(tmp_path / "l") as db:
        found = db.execute("SELECT CAST(substr(run, 5) AS INTEGER), status FROM jobs").fetchall()
        jobs = dict(found)
        assert len(found) == len(jobs) == ledger.used("r" * 32)["train"]  # nothing is there twice
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert acknowledged["reserved"] <= set(jobs)
    assert {jobs[number] for number in acknowledged["done"]} <= {"done"}
    assert not any(ledger.first_time(b"%d" % number) for number in acknowledged["call"])
    assert set(jobs) <= {event["round"] for event in events}  # nothing was reserved without its intent
    for outcome in ("intent", "done"):
        rounds = [event["round"] for event in events if event["outcome"] == outcome]
        assert len(rounds) == len(set(rounds))
    ledger.close()
    log.close()
    return {
        "kills": times,
        "acknowledged": sum(map(len, acknowledged.values())),
        "jobs": len(jobs),
        "events": len(events),
    }


def test_a_ledger_of_an_older_fedrec_is_read_and_goes_on(tmp_path):
    """Its jobs have no members."""
    ledger = live(tmp_path / "ledger.sqlite")
    reserve(ledger, 1)
    ledger.close()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db, db:
        db.execute("ALTER TABLE jobs DROP COLUMN members")
    again = Ledger(tmp_path / "ledger.sqlite")
    assert [job.task for job in again.jobs_of("r" * 32)] == [task(1)]
    assert reserve(again, 2) is None
    again.close()
