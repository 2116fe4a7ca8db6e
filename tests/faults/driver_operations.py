"""Kills the scientist's program at its n-th operation on disk, for n = 1, 2, 3… until a whole run passes; prints JSON.

    python tests/faults/driver_operations.py FOLDER

Each trial is a process of its own that starts a run on a simulated federation, whose sites keep their private vectors in
a file as real ones do. A profile function sees every call that opens, writes, syncs, moves or deletes a file and sends
SIGKILL before the n-th. Then another process resumes the run, and ends it; every
third time it is killed as well at its n-th, and one more ends it.
"""

from __future__ import annotations

import builtins
import json
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: F401  (imported once, and not again in each process)

import fedrec
from fedrec.aggregation import Stop
from fedrec.core.interactions import Interactions
from fedrec.scientist.runs import Run
from fedrec.simulation import SimulatedFederation

PLAN = fedrec.Plan(model=fedrec.models.MF(factors=4), rounds=3, train=("p1",), stop=Stop(patience=3))
ON_DISK = {os.write, os.replace, os.mkdir, os.fsync, os.open, os.unlink, builtins.open, open}


class Kept(SimulatedFederation):
    """Sites that outlive the scientist's program."""

    file = Path()

    def run(self, task: Any) -> Any:
        before = sys.getprofile()
        sys.setprofile(None)  # the sites' own operations are not counted
        if self.file.exists():
            self._private = pickle.loads(self.file.read_bytes())
        answers = super().run(task)
        self.file.write_bytes(pickle.dumps(self._private))
        sys.setprofile(before)
        return answers


def federation(folder: Path) -> Kept:
    rng, found = np.random.default_rng(3), {}
    for site, users in (("a", 4), ("b", 7)):
        item = np.concatenate([rng.permutation(12)[:6] for _ in range(users)]).astype(np.int32)
        user = np.repeat(np.arange(users, dtype=np.int32), 6)
        time = np.arange(len(item), dtype=np.int64)
        found[site] = Interactions(user, item, np.ones(len(item), np.float32), time, users, 12)
    kept = Kept(found, 12)
    kept.file = folder / "sites"
    return kept


def go(folder: Path, at: int) -> dict[str, Any]:
    """Start the run, or resume the one that is there, and end the process at operation `at`; 0 is never."""
    sites, count = federation(folder), 0

    def strike(frame: Any, event: str, called: Any) -> None:
        nonlocal count
        written = event == "c_call" and (
            (called.__name__ in ("write", "flush") and type(getattr(called, "__self__", None)).__module__ == "_io")
            or (callable(called) and called.__hash__ is not None and called in ON_DISK)
        )
        count += written
        if written and count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    runs = [path.parent for path in (folder / "runs").glob("*/run.json")]
    run = Run.load(sites, runs[0]) if runs else None
    sys.setprofile(strike)
    run = run or Run.start(PLAN, sites, folder=folder / "runs")
    run.finish()
    sys.setprofile(None)
    (done,) = [path.parent for path in (folder / "runs").glob("*/model.safetensors")]
    lines = [json.loads(line) for line in (done / "rounds.jsonl").read_text().splitlines()]
    return {
        "model": run.model_sha256,
        "rounds": [(line["round"], line["model"], line["quality"]) for line in lines],
        "file": fedrec.exchange.wire.sha256((done / "model.safetensors").read_bytes()),
        "operations": count,
    }


def apart(what: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What a process of its own returns; None when it was killed."""
    reads, writes = os.pipe()
    if (child := os.fork()) == 0:
        try:
            found = what()
        except BaseException as error:
            found = {"error": repr(error)}
        with os.fdopen(writes, "w") as pipe:
            json.dump(found, pipe)
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None


def main(root: Path) -> None:
    trials: list[dict[str, Any]] = []
    number, last = 0, root / "trial"
    while number < 2 or trials[-1]["killed"]:
        shutil.rmtree(last, ignore_errors=True)
        (last / "runs").mkdir(parents=True)
        killed, found = 0, None
        for at in (number, number, 0) if number % 3 == 1 else (number, 0):
            if found is None:
                found = apart(lambda at=at: go(last, at))
                killed += found is None
        trials.append((found or {}) | {"killed": killed, "at": number})
        number += 1
    sys.stdout.write(json.dumps(trials))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
