"""The story of `hospitals`, `banks` and `social`, over their own sites; that of `shops` runs as `fedrec demo`.

Here the story is told in this process, and an owner decides by a login of his own from here: a command for each owner
loads PySyft anew, which is most of the time that the demo takes. Gradient models get three rounds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import real_sites

from fedrec.demo import owners
from fedrec.demo.sites import Sites
from fedrec.demo.story import Options, Story

pytestmark = pytest.mark.sites
DOMAINS = Path(__file__).parents[2] / "domains"
TRAINED = ["features_of_logistic-p1", "itemcf-p1", "itemcf-p3", "itemcf-all", *["logistic-p1"] * 3]
WORLDS = {
    "hospitals": (("st-anna", "northfield", "elmgrove", "lakeside"), TRAINED),
    "banks": (("oakfield", "riverside", "nimbus"), TRAINED),
    "social": (("agora", "brightside", "commons"), ["usercf-p1", "usercf-p3", "usercf-all"]),
}


def decide_here(sites: Sites, requests: owners.Requests, denier: str, denied: str) -> None:
    assert (denier, denied) == ("", "")
    for name, ids in requests.items():
        owner = real_sites.login(sites.all[name], sites.all[name].owner, sites.all[name].owner_password)
        for request in ids.values():
            owner.approve(request)


@pytest.mark.parametrize("world", WORLDS)
def test_the_story_of_a_world_is_told_to_its_end(world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members, rounds = WORLDS[world]
    monkeypatch.setattr(owners, "decide", decide_here)
    said: list[str] = []
    report: dict[str, Any] = Story(Options(DOMAINS / world, rounds=3, keep=tmp_path / "kept"), said.append).tell()
    assert tuple(report["institutions"]) == members
    assert {row["decision"] for row in report["approvals"]} <= {"approved", "used"}
    assert [line["run"].rpartition("-")[0] for line in report["rounds"]] == rounds
    assert all(line["sites"] == list(members) for line in report["rounds"])
    assert "secure sum: the centre gets masked numbers" in "\n".join(said)

    ranked = {(row["scope"], row["institution"]): row for row in report["table"]}
    alone, together = ranked["local", "all"], ranked["federated", "all"]
    assert together["p1_ndcg@10"] > alone["p1_ndcg@10"] > ranked["popularity", "all"]["p1_ndcg@10"]
    assert together["p1_ndcg@10"] == pytest.approx(ranked["centralised", "all"]["p1_ndcg@10"], abs=1e-4)
    assert [row["institution"] for row in report["worth"] if not row["group"]] == [*members, "all"]

    judged = {(row["scope"], row["institution"]): row for row in report["outcomes"]}
    assert bool(judged) == (world != "social")
    if judged:
        assert {institution for _, institution in judged} == {*members, "all"}
        assert judged["federated", "all"]["auc"] > judged["popularity", "all"]["auc"] + 0.05

    assert [row["institution"] for row in report["published"]] == list(members)
    assert all(row["users"] > 0 for row in report["published"])
    assert [(row["verdict"], row["gaps"]) for row in report["audit"]] == [("ok", [])] * len(members)
