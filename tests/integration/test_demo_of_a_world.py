"""`fedrec demo --consortium domains/shops`: the features' sums, then the hybrid, on the retailers' own sites."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.sites
SHOPS = Path(__file__).parents[2] / "domains" / "shops"
PLANS = ("features_of_hybrid", "hybrid")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    """The demo's JSON and what it said."""
    own = {"TMPDIR": str(tmp_path_factory.mktemp("tmp"))}
    options = ["--consortium", str(SHOPS), "--rounds", "2", "--json", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "fedrec", "demo", *options],
        capture_output=True, text=True, env={**os.environ, **own}, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(Path(own["TMPDIR"]).glob("fedrec*")) == []
    return json.loads(done.stdout), done.stderr


def test_both_owners_read_and_approved_both_plans(told):
    report, said = told
    decisions = {(row["site"], row["plan"]): row["decision"] for row in report["approvals"]}
    assert {site for site, _ in decisions} == {"harbour", "meridian"} == set(report["institutions"])
    assert {decisions[site, plan] for site, plan in decisions if plan == "hybrid"} == {"approved"}
    assert {decisions[site, plan] for site, plan in decisions if plan == PLANS[0]} == {"used"}  # its one round is done
    assert all(f"what the owner of harbour reads about the plan {plan}:" in said for plan in PLANS)


def test_the_sums_of_features_come_first_and_the_hybrid_reads_what_came_of_them(told):
    report, said = told
    runs = [line["run"].rpartition("-")[0] for line in report["rounds"]]
    assert runs == ["features_of_hybrid-p1", *["hybrid-p1"] * 2, *["hybrid-p3"] * 2, *["hybrid-all"] * 2]
    asked, trained = said.split("what the owner of harbour reads about the plan hybrid:")
    assert "the texts of user.age_band, user.region, item.category" in " ".join(asked.split())
    assert "user.age_band=18-29" not in asked
    assert "user.age_band=18-29" in trained
    assert "centre =" in trained
    assert "centre =" not in asked


def test_each_retailer_reads_its_figures_and_a_verdict(told):
    report, said = told
    rows = {(row["scope"], row["institution"]): row for row in report["table"]}
    for institution in (*report["institutions"], "all"):
        assert {f"p1_ndcg@10 {scope}" for scope in ("popularity", "local", "federated")} == {
            f"p1_ndcg@10 {scope}" for scope, one in rows if one == institution and scope != "centralised"
        }
    assert rows["federated", "all"]["p3_ndcg@10"] > 1.5 * rows["popularity", "all"]["p3_ndcg@10"]
    assert report["outcomes"] == []
    assert [row["institution"] for row in report["worth"] if not row["group"]] == ["harbour", "meridian", "all"]
    assert "Is it worth it for us?" in said


def test_the_hybrid_is_served_to_all_customers_and_the_logs_verify(told):
    report, _ = told
    assert [(row["model"], row["users"]) for row in report["published"]] == [(report["models"]["hybrid"], 350)] * 2
    assert [(row["verdict"], row["gaps"]) for row in report["audit"]] == [("ok", [])] * 2
