"""SIGKILL of a whole real site at random instants of a story that goes on all the while, and what stands afterwards.

The story: submit a plan, approve it, train its rounds, evaluate, publish; then the next plan. Whoever was cut off
waits for the site and does the same again, as a person or `fedrec run --resume` would.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import real_sites
from real_sites import ADA_PASSWORD, fresh, login

import fedrec
from fedrec.demo.sites import SCIENTIST, SiteProcess
from fedrec.errors import Refused
from fedrec.examples.my_factors import MyFactors
from fedrec.exchange.wire import sha256
from fedrec.institution import audit
from fedrec.institution.ledger import Ledger
from fedrec.scientist.runs import Run

ROUNDS = 5


class Story(threading.Thread):
    """Scientist and owner, plan after plan; keeps what the site has acknowledged to them."""

    def __init__(self, sites: Any, runs: Path) -> None:
        super().__init__(daemon=True)
        self.site: SiteProcess = sites.all["solo"]
        self.federation = fedrec.connect(sites.consortium, SCIENTIST, ADA_PASSWORD)
        self.owner = login(self.site, self.site.owner, self.site.owner_password)
        self.simulated = real_sites.simulated(sites)
        self.runs, self.up, self.over = runs, threading.Event(), threading.Event()
        self.submitted: set[str] = set()
        self.approved: set[str] = set()
        self.updates: set[tuple[str, str, int, str]] = set()
        self.told, self.cut = 0, Counter[str]()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self._plan()
        except BaseException as error:
            self.error = error

    def again(self, name: str, step: Callable[[], Any]) -> Any:
        """A step until it is done; only a lost site is a reason to do it again."""
        while True:
            try:
                return step()
            except Refused as refusal:
                if refusal.code not in ("site.lost", "site.closed"):
                    raise
                self.cut[name] += 1
                assert self.up.wait(120)
                time.sleep(0.02)

    def _plan(self) -> None:
        plan = fresh(code=MyFactors, rounds=ROUNDS, settings={"factors": 4}, evaluate=True, publish=True, name="mine")
        request = self.again("submit", lambda: self.federation.submit(plan).ids["solo"])
        self.submitted.add(request)
        self.again("approve", lambda: self._approve(plan, request))
        self.approved.add(request)
        run = self.again("start", lambda: Run.start(plan, self.federation, folder=self.runs))

        def train() -> Run:
            now = Run.load(self.federation, run.folder)
            for done in now.rounds():
                self.updates |= {(request, now.id, done.number, answer.receipt["sha256"]) for answer in done.answers}
            return now

        done = self.again("train", train)
        table = self.again("evaluate", done.evaluate)
        self.again("publish", done.publish)
        same = self.simulated.train(plan)
        assert done.model_sha256 == same.model_sha256
        assert table.to_dict() == same.evaluate().to_dict()
        self.told += 1

    def _approve(self, plan: Any, request: str) -> None:
        if self.federation.requests_of(plan)["solo"]["status"] != "approved":
            self.owner.approve(request)


def consistent(story: Story) -> None:
    """Ledger, audit log, released files and what was acknowledged say the same: nothing lost, nothing twice."""
    state, deadline = story.site.folder / "state", time.monotonic() + 60
    ledger = Ledger(state / "ledger.sqlite")
    try:
        while ledger.running():
            assert time.monotonic() < deadline, "a job does not end"
            time.sleep(0.05)
        with sqlite3.connect(state / "ledger.sqlite") as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            jobs = db.execute("SELECT key, request, kind, run, round, protocol, status FROM jobs").fetchall()
        rows = {row.id: row for row in ledger.requests()}
        answers = {key: job.answer or {} for key, *_ in jobs if (job := ledger.job(key)) is not None}
    finally:
        ledger.close()
    log = list(audit.read(state / "audit"))
    assert audit.verify(state / "audit").verdict == "ok"
    assert story.submitted <= set(rows)
    assert all(rows[request].signed_permit is not None for request in story.approved)
    assert not [row for row in rows.values() if row.permit_state == "pending"]
    assert len({row.fingerprint for row in rows.values()}) == len(rows)
    assert len({job[1:6] for job in jobs}) == len(jobs)
    assert {job[6] for job in jobs} <= {"done"}
    for (request, kind), count in Counter((job[1], job[2]) for job in jobs).items():
        assert count <= rows[request].signed_permit["tasks"][kind]
    said = Counter((event["detail"]["job"], event["outcome"]) for event in log if "job" in event["detail"])
    assert said == {(job[0], "done"): 1 for job in jobs}
    trained = [event["detail"] for event in log if event["act"] == "train" and "sha256" in event["detail"]]
    released = {detail["job"]: detail["sha256"] for detail in trained}
    passports = {key: answer["passport"] for key, answer in answers.items() if "passport" in answer}
    assert released == {key: passport["sha256"] for key, passport in passports.items()}
    known = {(p["request"], p["run"], p["round"], p["sha256"]) for p in passports.values()}
    assert story.updates <= known
    for file in (state / "blobs" / "out").rglob("*"):
        if file.is_file():
            assert sha256(file.read_bytes()) == file.name
            assert (file.parent.name, file.name) in {(request, name) for request, _, _, name in known}


def site_kills(folder: Path, times: int, seed: int = 5) -> dict[str, Any]:
    """Kill a site `times` times; returns what was going on. Raises AssertionError when anything is lost or doubled."""
    draw = random.Random(seed)
    with real_sites.lone(folder, port=real_sites.free_port()) as sites:
        real_sites.add_scientists(sites)
        story = Story(sites, folder / "runs")
        story.up.set()
        story.start()
        for _ in range(times):
            time.sleep(draw.uniform(0.02, 4.0))
            story.up.clear()
            story.site.stop(kill=True)
            story.site.start()
            story.site.wait()
            consistent(story)
            story.up.set()
            if story.error is not None:
                raise story.error
        story.over.set()
        story.join(180)
        if story.error is not None:
            raise story.error
        assert not story.is_alive()
        consistent(story)
        acknowledged = len(story.submitted) + len(story.approved) + len(story.updates)
        return {"kills": times, "cut off": dict(story.cut), "stories": story.told, "acknowledged": acknowledged}
