"""`fedrec run --every` at a real site: it trains when the data are new, from the model that it trained before."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_sites import ADA_PASSWORD

from fedrec.demo.sites import SCIENTIST, clean_environment
from fedrec.exchange.plan import PlanText
from fedrec.institution.ledger import Ledger

pytestmark = pytest.mark.sites
RUN = """consortium = "{consortium}"
name = "every"
purpose = "kept up to date"
rounds = {rounds}
publish = true
[model]
name = "mf"
factors = 4
"""


def started(folder: Path) -> subprocess.Popen[bytes]:
    """The command, with what it says in a file."""
    run = [sys.executable, "-m", "fedrec", "run", "run.toml", "--every", "3s", "--json", "out.json"]
    environment = clean_environment(FEDREC_USER=SCIENTIST, FEDREC_PASSWORD=ADA_PASSWORD)
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(run, cwd=folder, env=environment, stdout=said, stderr=said)


def approve(site, owner) -> None:
    """The owner approves what waits."""
    ledger = Ledger(site.folder / "state" / "ledger.sqlite")
    waiting = [row.id for row in ledger.requests() if row.decision == "waiting" and "kept up to date" in row.plan]
    ledger.close()
    for request in waiting:
        owner.approve(request)


def state_of(folder: Path) -> dict[str, object]:
    path = folder / "runs" / "every.every.json"
    return json.loads(path.read_text()) if path.exists() else {}


def until(folder: Path, met, site, owner) -> None:
    deadline = time.monotonic() + 120
    while not met():
        assert time.monotonic() < deadline, (folder / "said").read_text()
        approve(site, owner)
        time.sleep(0.3)


def test_new_data_are_trained_on_from_the_last_model_also_by_a_program_that_was_killed(
    solo, site, alone, its_owner, tmp_path
):
    owner, data = its_owner["solo"], site.folder / "data" / "ratings.csv"
    old, before = data.read_text(), alone.data_versions()
    (tmp_path / "run.toml").write_text(RUN.format(consortium=solo.consortium, rounds=40))
    program = started(tmp_path)
    try:
        until(tmp_path, lambda: len(list(tmp_path.glob("runs/*/checkpoints/*"))) > 0, site, owner)
        os.kill(program.pid, signal.SIGKILL)
        program.wait()
        assert state_of(tmp_path)["done"] is False
        program = started(tmp_path)
        until(tmp_path, lambda: state_of(tmp_path).get("done"), site, owner)
        first = state_of(tmp_path)
        assert first["versions"] == before
        until(tmp_path, lambda: "no institution has new data" in (tmp_path / "said").read_text(), site, owner)
        assert json.loads((tmp_path / "out.json").read_text())["run"] == first["run"]
        assert state_of(tmp_path) == first

        data.write_text(old + "canary7391-30,film-1,5,2000\ncanary7391-30,film-2,5,2001\n")
        site.stop()
        site.start()
        site.wait()
        until(tmp_path, lambda: state_of(tmp_path)["versions"] != before, site, owner)
        until(tmp_path, lambda: state_of(tmp_path).get("done"), site, owner)
        second = state_of(tmp_path)
        program.send_signal(signal.SIGINT)
        assert program.wait(20) == 130
    finally:
        program.kill()
        program.wait()
        data.write_text(old)
        site.stop()
        site.start()
        site.wait()
    runs = [tmp_path / "runs" / str(state["run"]) for state in (first, second)]
    plans = [PlanText.parse((run / "plan.toml").read_text()) for run in runs]
    model = hashlib.sha256((runs[0] / "model.safetensors").read_bytes()).hexdigest()
    assert [plan.start for plan in plans] == ["", model]
    assert [len((run / "rounds.jsonl").read_text().splitlines()) for run in runs] == [40, 40]
    assert alone.data_versions() == before  # by content: the same rows are the same version again
