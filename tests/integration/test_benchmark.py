"""`fedrec benchmark rounds` in its smallest form, and what keeps a round's cost from growing."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
from real_sites import approve_one, command, finished, fresh

pytestmark = pytest.mark.sites


def test_a_small_benchmark_prints_what_its_contract_names():
    done = command("benchmark", "rounds", "--sites", 1, "--payload", 0.01, "--repeats", 3, "--json", "-")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report) == {"rows", "start"}
    (row,) = report["rows"]
    assert (row["payload_mb"], row["institutions"], row["repeats"]) == (0.01, 1, 3)
    assert row["seconds"] > row["floor_seconds"] > 0
    assert row["seconds"] > row["grpc_seconds"] > 0
    assert abs(row["ratio"] - row["seconds"] / row["floor_seconds"]) < 0.02 * row["ratio"]
    assert set(report["start"]) == {"one_site_seconds", "all_sites_seconds"}


def stored(site) -> int:
    """How many tasks and answers lie in PySyft's own database."""
    (database,) = (site.folder / "state" / "syft").glob("*/db/*.db")
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT COUNT(*) FROM ActionObject").fetchone()[0])


def test_pysyft_does_not_keep_every_task_and_every_answer(site, alone, its_owner):
    ada = alone._sites["solo"]
    plan = approve_one(ada, its_owner["solo"], fresh(), alone.n_items)
    before, task = stored(site), plan.task()
    for _ in range(12):  # without the site's cleaning each call leaves two objects for ever
        assert finished(ada, plan.id, ada.call(plan.function, task))["status"] == "done"
    assert stored(site) - before <= 8  # ledger.RESULTS: an answer may be read again for a while
