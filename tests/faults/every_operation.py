"""Fails or kills a site at its n-th operation on disk, for n = 1, 2, 3… until a whole task passes; prints JSON.

    python tests/faults/every_operation.py kill|full|handles train|publish|approve|revoke FOLDER

Each trial is a process of its own on a copy of one prepared site (no PySyft; the task runs in this process instead
of the jail, with the jail's own code). A profile function sees every call that opens, writes, syncs, moves or makes
a file, and every SQLite statement; before the n-th it sends SIGKILL, or raises what the system would. Then another
process opens the same folder as a restart would, or the same one goes on, and the same task is sent again.
"""

from __future__ import annotations

import asyncio
import builtins
import errno
import functools
import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "institution"))

from small_site import OWNER, START, approved, make_site, recipe, sent, submitted, task, train

from fedrec.institution import audit, endpoint
from fedrec.institution.decisions import Decisions
from fedrec.institution.jail import Report
from fedrec.institution.jail_child import _perform
from fedrec.institution.jobs import Jobs
from fedrec.institution.permit import Task
from fedrec.institution.site import Site
from fedrec.institution.trouble import refusal_of

ON_DISK = {os.write, os.replace, os.mkdir, os.fsync, os.fdatasync, os.ftruncate, os.open, builtins.open, open}
FAULTS = {"full": errno.ENOSPC, "handles": errno.EMFILE}
FAILS = {"full": ON_DISK, "handles": {os.open, open}}


class Here:
    """Runs a task in this process: what it computes is the jail's, its walls are not the question here."""

    level = 2

    def run(self, job: str, spec: Mapping[str, Any], files: Mapping[str, int], limits: object) -> Report:
        return Report(_perform(dict(spec), dict(files), 60.0), 0.0, os.getpid(), os.getuid())

    def kill(self, job: str) -> None: ...


class Strike:
    """Counts operations on disk over all threads and strikes at the n-th; 0 only counts."""

    def __init__(self, fault: str, at: int) -> None:
        self._fault, self._at, self.count = fault, at, 0

    def __call__(self, frame: Any, event: str, called: Any) -> None:
        if event != "c_call":
            return
        statement = isinstance(getattr(called, "__self__", None), sqlite3.Connection) and called.__name__ == "execute"
        among = ON_DISK if self._fault == "kill" else FAILS[self._fault]
        if not (statement and self._fault != "handles") and not (callable(called) and called in among):
            return
        self.count += 1
        if self.count != self._at:
            return
        if self._fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if statement:
            raise sqlite3.OperationalError("database or disk is full")
        raise OSError(FAULTS[self._fault], os.strerror(FAULTS[self._fault]))


def prepare(folder: Path, kind: str) -> dict[str, Any]:
    """A site with a permit, the model in its place and, for evaluate and publish, a trained round; the task to send."""
    site = make_site(folder)
    row = (submitted if kind == "approve" else approved)(site, recipe("popularity"))
    jobs = Jobs(site, Here())
    if kind in ("publish", "revoke"):
        assert train(site, jobs, row)["status"] == "done"
    raw = task(sent(site, row, START), kind if kind == "publish" else "train")
    jobs.close()
    site.close()
    return {"kind": kind, "key": row.key, "text": row.plan, "id": row.id, "raw": raw}


def once(site: Site, jobs: Jobs, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Send the task as PySyft's endpoint does, and wait as the site's own route does; or take the owner's decision."""
    if plan["kind"] in ("approve", "revoke"):
        return decide(site, jobs, plan)
    endpoint.serve(jobs.start)
    answer = endpoint.call(plan["key"], plan["text"], plan["raw"])
    try:
        return asyncio.run(jobs.wait(answer["key"], 20)) if answer["status"] == "running" else answer
    except Exception as error:
        return dict(refusal_of(error).answer())


def decide(site: Site, jobs: Jobs, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The owner's decision on the plan, which PySyft takes."""
    decisions = Decisions(site, jobs)
    try:
        if plan["kind"] == "approve":
            decisions.approve(OWNER, plan["id"], {}, lambda: True)
        else:
            decisions.undo(OWNER, plan["id"], "no", lambda: True)
    except Exception as error:
        return dict(refusal_of(error).answer())
    return {"status": "done"}


def trial(folder: Path, plan: Mapping[str, Any], fault: str, at: int) -> dict[str, Any]:
    """One task with a strike; without a kill the same process then sends it again."""
    site = Site.open(folder / "a")
    jobs, strike = Jobs(site, Here()), Strike(fault, at)
    threading.setprofile(strike)
    sys.setprofile(strike)
    first = once(site, jobs, plan)
    sys.setprofile(None)
    threading.setprofile(None)
    found = {"first": first.get("code", first["status"]), "struck": at > 0 and strike.count >= at}
    return found | after(site, jobs, plan)


def restarted(folder: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What a start does after a crash, then the task sent again."""
    site = Site.open(folder / "a")
    jobs = Jobs(site, Here())
    site.ledger.void_pending()
    jobs.recover()
    return after(site, jobs, plan)


def after(site: Site, jobs: Jobs, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Send the task once more, then hold ledger, log and files against one another."""
    row = site.ledger.request(plan["id"])
    between = None if row is None else [row.decision, row.permit_state]
    last = once(site, jobs, plan)
    jobs.close()
    job = Task.parse(plan["raw"]).key(plan["id"])
    log = list(audit.read(site.audit.path))
    said = Counter(event["outcome"] for event in log if event["detail"].get("job") == job)
    out = site.blobs.path("out", plan["id"], "x").parent
    folders = site.state / "jobs"
    row = site.ledger.request(plan["id"])
    found = {
        "between": between,
        "decision": None if row is None else [row.decision, row.permit_state],
        "last": last.get("code", last["status"]),
        "answer": {key: last.get(key) for key in ("passport", "numbers")},
        "verdict": audit.verify(site.audit.path).verdict,
        "said": dict(said),
        "used": site.ledger.used(plan["id"]).get(plan["raw"]["kind"], 0),
        "out": sorted(path.name for path in out.glob("*")) if out.exists() else [],
        "running": len(site.ledger.running()),
        "left": [path.name for path in folders.iterdir()] if folders.exists() else [],
        "parts": [path.name for path in site.state.rglob(".part-*")],
    }
    site.close()
    return found


def apart(work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What a function returns in a process of its own; None when it was killed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            text = json.dumps(work())
        except BaseException as error:
            text = json.dumps({"error": repr(error)})
        with os.fdopen(write, "w") as file:
            file.write(text)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        data = file.read()
    os.waitpid(pid, 0)
    return json.loads(data) if data else None


def main(fault: str, kind: str, root: Path) -> None:
    plan = apart(lambda: prepare(root / "site", kind))
    assert plan is not None
    assert "error" not in plan, plan
    trials, number, folder = [], 0, root / "trial"
    while number < 2 or trials[-1].get("struck", True):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(root / "site", folder)
        found = apart(functools.partial(trial, folder, plan, fault, number))
        if found is None:
            found = (apart(functools.partial(restarted, folder, plan)) or {}) | {"first": "killed", "struck": True}
        trials.append(found | {"at": number})
        number += 1
    sys.stdout.write(json.dumps(trials))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
