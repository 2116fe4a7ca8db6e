"""One of four real sites has a tenth of the time: its jobs are stopped (SIGSTOP) for nine tenths of it.

Used by `python benchmarks/aggregation.py slow --real`. A round is one local epoch with many private steps, so that what
a site computes is more than what a round costs besides. The clock runs from the run's start. How good the model is
after each round is worked out when the run is over, on all institutions' validation rows, with vectors that are fitted
to it from their other rows: the same measure for every schedule, whoever was merged last.
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
from fedrec.aggregation import Buffered, Quorum, Schedule
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.core.split import split
from fedrec.datasets import get_ml100k
from fedrec.demo.sites import SCIENTIST, Sites, prepare
from fedrec.institution import work
from fedrec.institution.store import Store
from fedrec.models import MF, LocalEpochs
from fedrec.scientist.runs import Run

sys.path.append(str(Path(__file__).parents[1] / "tests" / "faults"))
from bad_lines import jobs_of

SLICE_S, SHARE = 0.2, 0.1
ROUNDS, STEPS = 14, 100  # synchronous rounds whose end is the goal; private steps per batch
FITTED = 8  # rounds of private steps for the vectors that a model is measured with
ROOT = Path(__file__).parents[1]


def real(movies: Path | None) -> Iterator[dict[str, Any]]:
    """Seconds to 95 % of what the synchronous rounds reach, synchronous, with a quorum and asynchronous."""
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
                    ("synchronous", None, ROUNDS),
                    ("quorum 3", Quorum(3, 2.0, 20), 2 * ROUNDS),
                    ("buffered 3", Buffered(3), 2 * ROUNDS),
                ):
                    found = list(_measured(sites, federation, schedule, rounds))
                    goal = goal or 0.95 * found[-1][1]
                    reached = next(((n, s) for n, (s, value) in enumerate(found, 1) if value >= goal), (None, None))
                    row = {"schedule": name, "goal": round(goal, 4), "rounds": reached[0]}
                    yield row | {"seconds": reached[1] and round(reached[1], 1), "all seconds": round(found[-1][0], 1)}


def _measured(sites: Sites, federation: Any, schedule: Schedule | None, rounds: int) -> Iterator[tuple[float, float]]:
    """(seconds, NDCG@10 on validation rows) after each round."""
    from fedrec.scientist.syft_client import SyftSite, quiet

    plan = fedrec.Plan(
        model=MF(steps=STEPS), local=LocalEpochs(1), rounds=rounds, train=("p1",), schedule=schedule,
        purpose=f"measure {secrets.token_hex(4)}",
    )  # fmt: skip
    requests = federation.submit(plan)
    with quiet():
        for name, request in requests.ids.items():
            site = sites.all[name]
            SyftSite(name, site.url, site.owner, site.owner_password).approve(request)
    run, began = Run.start(plan, federation), time.monotonic()
    ends = [(time.monotonic() - began, done.after.shared) for done in run.rounds()]
    yield from ((seconds, _quality(sites, shared)) for seconds, shared in ends)


def _quality(sites: Sites, shared: SharedParams) -> float:
    """NDCG@10 on the validation rows of all institutions, mean over their users."""
    total, users = 0.0, 0
    for site in sites.all.values():
        rows, private = Store.open(site.folder / "state").rows(), PrivateParams({})
        for _ in range(FITTED):
            _, private = MF().fit_site(split(rows, "validation", 0).train, shared, private)
        total += work.validated(MF(), rows, shared, private, 0) * rows.n_users
        users += rows.n_users
    return total / users


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
