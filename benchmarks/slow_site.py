"""One of four real sites has a tenth of the time: its jobs are stopped (SIGSTOP) for nine tenths of it.

Used by `python benchmarks/aggregation.py slow --real`. The quality after a round is what the sites release with
`Stop`: NDCG@10 on validation rows of the model that the next round started from. The clock runs from the run's start.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fedrec
from fedrec.aggregation import Buffered, Quorum, Schedule, Stop
from fedrec.datasets import get_ml100k
from fedrec.demo.sites import SCIENTIST, Sites, prepare
from fedrec.models import LocalEpochs
from fedrec.scientist.runs import Run

sys.path.append(str(Path(__file__).parents[1] / "tests" / "faults"))
from bad_lines import jobs_of

SLICE_S, SHARE = 0.2, 0.1
ROOT = Path(__file__).parents[1]


def real(movies: Path | None) -> Iterator[dict[str, Any]]:
    """Seconds to 95 % of what ten synchronous rounds reach, synchronous, with a quorum and asynchronous."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "movies"
        if movies is None:
            movies = Path(folder) / "data"
            movies.mkdir()
            get_ml100k(movies)
        prepare(ROOT / "domains" / "movies", work, movies)
        owners: dict[str, str] = {}
        with Sites(work, lambda name: owners.setdefault(name, secrets.token_urlsafe(12))) as sites:
            password = secrets.token_urlsafe(12)
            sites.add_user(SCIENTIST, "scientist", password)
            federation, goal = fedrec.connect(sites.consortium, SCIENTIST, password), 0.0
            slow = next(reversed(sites.all.values()))
            with tenth(int(slow.facts["pid"])):
                for name, schedule, rounds in (
                    ("synchronous", None, 10),
                    ("quorum 3", Quorum(3, 2.0, 20), 30),
                    ("buffered 3", Buffered(3), 30),
                ):
                    found = list(_measured(sites, federation, schedule, rounds))
                    goal = goal or 0.95 * found[-1][1]
                    reached = next(((n, s) for n, (s, value) in enumerate(found, 1) if value >= goal), (None, None))
                    row = {"schedule": name, "goal": round(goal, 4), "rounds": reached[0]}
                    yield row | {"seconds": reached[1] and round(reached[1], 1), "all seconds": round(found[-1][0], 1)}


def _measured(sites: Sites, federation: Any, schedule: Schedule | None, rounds: int) -> Iterator[tuple[float, float]]:
    """(seconds, quality) after each round but the last."""
    from fedrec.scientist.syft_client import SyftSite, quiet

    plan = fedrec.Plan(
        model=fedrec.models.MF(), local=LocalEpochs(5), rounds=rounds + 1, train=("p1",), schedule=schedule,
        stop=Stop(patience=1000), purpose=f"measure {secrets.token_hex(4)}",
    )  # fmt: skip
    requests = federation.submit(plan)
    with quiet():
        for name, request in requests.ids.items():
            site = sites.all[name]
            SyftSite(name, site.url, site.owner, site.owner_password).approve(request)
    run, began = Run.start(plan, federation), time.monotonic()
    ends = [time.monotonic() - began for _ in run.rounds()]
    yield from zip(ends, [line["quality"] for line in run.log[1:]], strict=False)


@contextlib.contextmanager
def tenth(pid: int) -> Iterator[None]:
    """Let the jobs of a site's jail run for a tenth of the time only."""
    ended = threading.Event()

    def throttle() -> None:
        while not ended.wait(SLICE_S * SHARE):
            jobs = jobs_of(pid)
            _tell(jobs, signal.SIGSTOP)
            time.sleep(SLICE_S * (1 - SHARE) if jobs else 0)
            _tell(jobs, signal.SIGCONT)

    thread = threading.Thread(target=throttle)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _tell(pids: list[int], what: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)
