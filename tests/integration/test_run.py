"""`fedrec run` as a scientist starts it: submit, wait for the owners, rounds, evaluation, publishing, resume."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from real_sites import ADA_PASSWORD

from fedrec.demo.sites import SCIENTIST, clean_environment

pytestmark = pytest.mark.sites
RUN = [sys.executable, "-m", "fedrec", "run"]


def write(tmp_path: Path, consortium: Path, **more: str) -> Path:
    lines = {
        "consortium": f'"{consortium}"',
        "name": '"factors"',
        "purpose": f'"test {secrets.token_hex(8)}"',
        "rounds": "4",
        "protocol": '"p1"',
        "evaluate": '["p1"]',
        **more,
    }
    text = "".join(f"{key} = {value}\n" for key, value in lines.items()) + '\n[model]\nname = "mf"\nfactors = 16\n'
    (tmp_path / "run.toml").write_text(text)
    return tmp_path / "run.toml"


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = clean_environment(FEDREC_USER=SCIENTIST, FEDREC_PASSWORD=ADA_PASSWORD)
    return subprocess.Popen(
        [*RUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def approve_when_it_arrives(owners, sites, purpose: str) -> threading.Thread:
    """Every owner approves the plan with this purpose as soon as it is there, as in a real consortium."""
    from fedrec.institution.ledger import Ledger

    def decide() -> None:
        for name, site in sites.all.items():
            deadline = time.monotonic() + 90
            while time.monotonic() < deadline:
                ledger = Ledger(site.folder / "state" / "ledger.sqlite")
                found = [row.id for row in ledger.requests() if purpose in row.plan]
                ledger.close()
                if found:
                    owners[name].approve(found[0])
                    break
                time.sleep(0.5)

    thread = threading.Thread(target=decide)
    thread.start()
    return thread


def test_a_run_is_submitted_approved_trained_evaluated_and_kept_in_a_folder(tmp_path, sites, owners):
    file = write(tmp_path, sites.consortium)
    purpose = file.read_text().split('purpose = "')[1].split('"')[0]
    process = start(str(file), "--runs", str(tmp_path / "runs"), "--wait", "90", "--json", "-")
    deciding = approve_when_it_arrives(owners, sites, purpose)
    out, said = process.communicate(timeout=200)
    deciding.join()
    assert process.returncode == 0, said
    report = json.loads(out)
    assert report["rounds"] == 4
    assert report["resumed_from"] is None
    scopes = {(row["scope"], row["institution"]): row for row in report["evaluations"]["p1"]}
    assert scopes["federated", "all"]["users"] == 943
    folder = tmp_path / "runs" / report["run"]
    names = {path.name for path in folder.iterdir()}
    assert {"run.toml", "plan.toml", "rounds.jsonl", "checkpoints", "model.safetensors", "card.md"} <= names
    assert [json.loads(line)["round"] for line in (folder / "rounds.jsonl").read_text().splitlines()] == [0, 1, 2, 3]


def test_a_driver_killed_between_rounds_goes_on_to_the_same_model(tmp_path, sites, owners, federation):
    file = write(tmp_path, sites.consortium, rounds="12", evaluate="[]")
    purpose = file.read_text().split('purpose = "')[1].split('"')[0]
    process = start(str(file), "--runs", str(tmp_path / "runs"), "--wait", "90")
    approve_when_it_arrives(owners, sites, purpose).join()
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        lines = list((tmp_path / "runs").glob("*/rounds.jsonl"))
        if lines and len(lines[0].read_text().splitlines()) >= 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (folder,) = (tmp_path / "runs").iterdir()
    out, said = start("--resume", str(folder), "--json", "-").communicate(timeout=200)
    assert out, said
    report = json.loads(out)
    assert 2 <= report["resumed_from"] < 12  # the third line may have been there before its checkpoint
    assert report["rounds"] == 12

    from fedrec.scientist.plan import Plan

    plan = Plan.from_text((folder / "plan.toml").read_text())
    assert report["model_sha256"] == simulated(sites, plan)


def simulated(sites, plan) -> str:
    from fedrec.institution.store import Store
    from fedrec.simulation import SimulatedFederation

    stores = {name: Store.open(site.folder / "state") for name, site in sites.all.items()}
    rows = {name: store.rows() for name, store in stores.items()}
    return SimulatedFederation(rows, next(iter(stores.values())).n_items).train(plan).model_sha256


def test_a_run_that_nobody_approves_ends_with_code_3_and_says_what_to_do(tmp_path, sites):
    process = start(str(write(tmp_path, sites.consortium)), "--runs", str(tmp_path / "runs"))
    _, said = process.communicate(timeout=100)
    assert process.returncode == 3
    assert said.splitlines()[-1].startswith("fedrec: permit.missing: not every owner has decided yet")
    assert os.listdir(tmp_path) == ["run.toml"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"evaluate": '["p3"]'}, "p3 needs a model trained on its own split"),
        ({"protocol": '"all"'}, "p1 needs a model trained on its own split"),
        ({"rounds": "0"}, "rounds"),
        ({"seeed": "1"}, "seeed"),
    ],
)
def test_wrong_settings_end_with_code_2_before_anything_is_sent(tmp_path, sites, change, says):
    process = start(str(write(tmp_path, sites.consortium, **change)))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert says in said
