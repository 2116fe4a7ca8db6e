"""`fedrec demo`: the whole main job as a person starts it, and what is left of it when it is broken off."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.sites
DEMO = [sys.executable, "-m", "fedrec", "demo", "--synthetic"]
SITES = {"aurora", "borealis", "cinema-lumen", "delphi"}


def start(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    (tmp_path / "tmp").mkdir()
    return subprocess.Popen(
        [*DEMO, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        # as in a terminal: where tests run as a shell's background job, Ctrl-C starts ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def closed(url: str) -> bool:
    place = urlsplit(url)
    with socket.socket() as knock:
        return knock.connect_ex((place.hostname, place.port)) != 0


def until(process: subprocess.Popen[str], words: str) -> str:
    """What the demo says up to the line with these words."""
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(said)


def urls_and_pids(said: str) -> list[tuple[str, int]]:
    """The sites as the demo names them when they have started."""
    found = re.findall(r"(http://127\.0\.0\.1:\d+)\s+pid (\d+)", said)
    return [(url, int(pid)) for url, pid in found]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str, Path, list[bool]]:
    """One whole demo on generated data: its JSON, stderr, temporary folder, and whether each site answered in the pause."""
    folder = tmp_path_factory.mktemp("demo")
    process = start(folder, "--rounds", "3", "--json", "-", "--pause-after", "approvals")
    said = until(process, "paused after the approvals")
    answered = [not gone(pid) and not closed(url) for url, pid in urls_and_pids(said)]
    out, rest = process.communicate("\n", timeout=280)
    assert process.returncode == 0, said + rest
    return json.loads(out), said + rest, folder / "tmp", answered


def test_stdout_is_exactly_one_json_object_with_the_contract_s_keys(told):
    report, _, _, _ = told
    assert {"institutions", "sites", "data", "approvals", "rounds", "table", "models", "epsilon"} <= set(report)
    assert {"audit", "seconds", "seed", "versions"} <= set(report)
    assert report["epsilon"] is None
    assert set(report["institutions"]) == SITES


def test_each_site_was_a_process_and_an_identity_of_its_own(told):
    report, _, _, _ = told
    assert {site["institution"] for site in report["sites"]} == SITES
    for key in ("pid", "uid", "url"):
        assert len({site[key] for site in report["sites"]}) == 4


def test_one_owner_denied_one_plan_with_a_reason_and_all_else_was_approved(told):
    report, said, _, _ = told
    decisions = {(row["site"], row["plan"]): row for row in report["approvals"]}
    assert len(decisions) == 12
    assert decisions["delphi", "itemcf"]["decision"] == "denied"
    assert decisions["delphi", "itemcf"]["reason"]
    assert {row["decision"] for key, row in decisions.items() if key != ("delphi", "itemcf")} == {"approved"}
    assert all(row["by"] == f"owner@{row['site']}.example" and row["at"].endswith("Z") for row in decisions.values())
    assert "permit.denied" in said


def test_the_denied_plan_ran_at_the_other_three_sites(told):
    report, _, _, _ = told
    itemcf = [line for line in report["rounds"] if line["run"].startswith("itemcf")]
    assert [sorted(line["sites"]) for line in itemcf] == [["aurora", "borealis", "cinema-lumen"]] * 2


def test_federated_equals_centralised_to_the_last_printed_digit(told):
    report, _, _, _ = told
    rows = {(row["model"], row["scope"]): row for row in report["table"] if row["institution"] == "all"}
    for model in ("ease", "itemcf", "my_factors"):
        for figure in ("p1_hr@10", "p1_ndcg@10", "p3_ndcg@10"):
            assert rows[model, "federated"][figure] == pytest.approx(rows[model, "centralised"][figure], abs=1e-6)


def test_federating_helps_over_training_alone(told):
    report, _, _, _ = told
    rows = {(row["model"], row["scope"]): row for row in report["table"] if row["institution"] == "all"}
    assert rows["ease", "federated"]["p1_ndcg@10"] > rows["ease", "local"]["p1_ndcg@10"]
    assert rows["ease", "federated"]["p1_ndcg@10"] > rows["ease", "popularity"]["p1_ndcg@10"]


def test_every_byte_and_second_of_every_round_is_counted(told):
    report, _, _, _ = told
    assert len([line for line in report["rounds"] if line["run"].startswith("my_factors-p1")]) == 3
    for line in report["rounds"]:
        assert line["bytes_up"] > 10_000
        assert line["bytes_down"] > 1_000
        assert line["seconds"] > 0


def test_the_four_audit_logs_verify(told):
    report, _, _, _ = told
    assert {row["site"]: row["verdict"] for row in report["audit"]} == dict.fromkeys(SITES, "ok")
    assert [row["gaps"] for row in report["audit"]] == [[]] * 4  # each log against what its site has
    assert all(0.5 * row["events"] < row["witnessed"] < row["events"] for row in report["audit"])  # by the other three


def test_nothing_is_left_running_and_no_file_is_left(told):
    report, _, temporary, _ = told
    assert all(gone(site["pid"]) and closed(site["url"]) for site in report["sites"])
    assert [path.name for path in temporary.iterdir() if path.name.startswith("fedrec")] == []


def test_the_owner_reads_own_code_as_python_with_line_numbers(told):
    _, said, _, _ = told
    assert "   1  class MyFactors:" in said
    assert "\\n    def fit_site" not in said


def test_the_four_sites_answer_while_the_demo_waits_after_the_approvals(told):
    _, _, _, answered = told
    assert answered == [True] * 4


def test_ctrl_c_in_the_middle_ends_everything(tmp_path):
    process = start(tmp_path)
    said = until(process, "the scientist sees mocks only")
    sites = urls_and_pids(said)
    assert [gone(pid) or closed(url) for url, pid in sites] == [False] * 4
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()
    assert all(gone(pid) and closed(url) for url, pid in sites)
    assert list((tmp_path / "tmp").iterdir()) == []
