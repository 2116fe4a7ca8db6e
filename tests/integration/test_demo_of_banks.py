"""`fedrec demo --consortium domains/banks`: what to offer by item CF, and a yes or no by logistic regression."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.sites
BANKS = Path(__file__).parents[2] / "domains" / "banks"


def test_three_banks_train_both_models_that_their_consortium_names(tmp_path):
    options = ["--consortium", str(BANKS), "--rounds", "2", "--json", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "fedrec", "demo", *options],
        capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("fedrec*")) == []
    report = json.loads(done.stdout)
    banks = ["oakfield", "riverside", "nimbus"]
    assert report["institutions"] == banks
    runs = [line["run"].rpartition("-")[0] for line in report["rounds"]]
    assert runs[0] == "features_of_logistic-p1"
    assert sorted(runs[1:]) == ["itemcf-all", "itemcf-p1", "itemcf-p3", "logistic-p1", "logistic-p1"]
    offers = {row["scope"]: row["p1_ndcg@10"] for row in report["table"] if row["institution"] == "all"}
    risks = {row["scope"]: row["auc"] for row in report["outcomes"] if row["institution"] == "all"}
    for found in (offers, risks):
        assert found["popularity"] < found["local"] < found["federated"]
        assert found["federated"] == pytest.approx(found["centralised"], abs=1e-6)
    assert {row["institution"] for row in report["outcomes"]} == {*banks, "all"}
    assert [row["model"] for row in report["published"]] == [report["models"]["itemcf"]] * 3
    assert [(row["institution"], row["users"]) for row in report["published"]] == [
        ("oakfield", 260), ("riverside", 200), ("nimbus", 160)
    ]  # fmt: skip
    assert [(row["verdict"], row["gaps"]) for row in report["audit"]] == [("ok", [])] * 3
