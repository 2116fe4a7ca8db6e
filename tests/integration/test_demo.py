"""`fedrec demo`: the whole main job as a person starts it, and what is left of it when it is broken off."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from processes import descendants, runs
from real_sites import command, http_call

from fedrec.demo.sites import SiteProcess
from fedrec.institution.evidence.find import Wanted, events_of

pytestmark = pytest.mark.sites
DEMO = [sys.executable, "-m", "fedrec", "demo"]
DOMAIN = Path(__file__).parents[2] / "domains" / "movies"
DECISIONS = {"approve", "deny"}
SITES = {"aurora", "borealis", "cinema-lumen", "delphi"}
NO_NETWORK = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}


def start(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    (tmp_path / "tmp").mkdir()
    own = {"TMPDIR": str(tmp_path / "tmp"), "FEDREC_CACHE": str(tmp_path / "cache"), **NO_NETWORK}
    return subprocess.Popen(
        [*DEMO, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **own},
    )


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def closed(url: str) -> bool:
    place = urlsplit(url)
    with socket.socket() as knock:
        return knock.connect_ex((place.hostname, place.port)) != 0


def uid_at(url: str) -> str:
    """Who answers at an address, as PySyft's metadata say."""
    status, body = http_call(url, "GET", "/api/v2/metadata")
    assert status == 200
    return json.loads(body)["id"]


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
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str, Path, list[str]]:
    """One whole demo without network: its JSON, stderr, folder, and the uid that each site answered in the pause."""
    folder = tmp_path_factory.mktemp("demo")
    options = ("--rounds", "3", "--json", "-", "--pause-after", "approvals", "--keep", str(folder / "kept"))
    process = start(folder, *options)
    said = until(process, "paused after the approvals")
    answered = [uid_at(url) for url, pid in urls_and_pids(said) if not gone(pid)]
    out, rest = process.communicate("\n", timeout=280)
    assert process.returncode == 0, said + rest
    return json.loads(out), said + rest, folder, answered


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
    assert len(decisions) == 16
    assert decisions["delphi", "mf"]["decision"] == "denied"
    assert decisions["delphi", "mf"]["reason"]
    assert {row["decision"] for key, row in decisions.items() if key != ("delphi", "mf")} == {"approved"}
    assert all(row["by"] == f"owner@{row['site']}.example" and row["at"].endswith("Z") for row in decisions.values())
    assert "permit.denied" in said


def test_the_denied_plan_ran_at_the_other_three_sites(told):
    report, _, _, _ = told
    denied = [line for line in report["rounds"] if line["run"].startswith("mf-")]
    assert [sorted(line["sites"]) for line in denied] == [["aurora", "borealis", "cinema-lumen"]] * (2 * 3)


def test_federated_equals_centralised_to_the_last_printed_digit(told):
    report, _, _, _ = told
    rows = {(row["model"], row["scope"]): row for row in report["table"] if row["institution"] == "all"}
    for model in ("default", "ease", "mf", "my_factors"):
        for figure in ("p1_hr@10", "p1_ndcg@10", "p3_ndcg@10"):
            assert rows[model, "federated"][figure] == pytest.approx(rows[model, "centralised"][figure], abs=1e-6)


def test_federating_helps_over_training_alone(told):
    report, _, _, _ = told
    rows = {(row["model"], row["scope"]): row for row in report["table"] if row["institution"] == "all"}
    assert rows["default", "federated"]["p1_ndcg@10"] > rows["default", "local"]["p1_ndcg@10"]
    assert rows["default", "federated"]["p1_ndcg@10"] > rows["default", "popularity"]["p1_ndcg@10"]


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
    report, _, folder, _ = told
    assert all(gone(site["pid"]) and closed(site["url"]) for site in report["sites"])
    left = {path.name for path in (folder / "tmp").rglob("*")}
    assert left <= {f"torchinductor_{getpass.getuser()}"}  # an empty folder that torch makes for itself
    assert {path.name for path in (folder / "kept").iterdir()} == {
        ".gitignore",
        "passwords.json",
        "source",
        "consortium",
    }


def test_the_owner_reads_own_code_as_python_with_line_numbers(told):
    _, said, _, _ = told
    assert "   1  class MyFactors:" in said
    assert "\\n    def fit_site" not in said


def test_the_four_sites_answer_while_the_demo_waits_after_the_approvals(told):
    report, _, _, answered = told
    assert answered == [site["uid"] for site in report["sites"]]


def test_without_network_the_demo_says_so_and_goes_on_with_generated_data(told):
    report, said, _, _ = told
    assert "ML-100K cannot be had (pip cannot fetch the recbole 1.2.1 wheel" in said
    assert "going on with generated data, as with --synthetic" in said
    assert report["data"]["source"].startswith("synthetic")
    assert report["yardstick"] is None  # nothing is known of generated data, and the demo says that too
    assert "known figures are for ML-100K only" in said


def test_every_owner_read_every_request_before_he_decided(told):
    report, said, folder, _ = told
    for site in SITES:
        seen = [(e["act"], e["request"]) for e in events_of(folder / "kept" / "consortium" / site, Wanted())]
        asked = {row["request"] for row in report["approvals"] if row["site"] == site}
        assert len(asked) == 4
        for request in asked:
            decided = next(place for place, (act, one) in enumerate(seen) if one == request and act in DECISIONS)
            assert ("view", request) in seen[:decided]
    assert "the 4 owners read 15 more requests in the same way" in said


def test_all_four_sites_serve_the_published_model_to_all_their_users(told):
    report, said, _, _ = told
    assert [(row["institution"], row["model"]) for row in report["published"]] == [
        (site, report["models"]["default"]) for site in report["institutions"]
    ]
    assert all(row["users"] > 50 for row in report["published"])
    assert sum(row["users"] for row in report["published"]) == said_users(said)


def said_users(said: str) -> int:
    return sum(int(count) for count in re.findall(r"lists for (\d+) users", said))


def test_a_kept_folder_is_no_part_of_a_repository_and_its_owners_can_go_on(told):
    _, said, folder, _ = told
    kept = folder / "kept"
    subprocess.run(["git", "init", "-q", kept.parent], check=True)
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=kept.parent, capture_output=True, text=True, check=True
    )
    assert "kept" not in status.stdout
    passwords = kept / "passwords.json"
    assert passwords.stat().st_mode & 0o777 == 0o600
    assert str(passwords) in said.replace("\n", "")
    site = SiteProcess("aurora", kept / "consortium" / "aurora", "owner@aurora.example", "")
    site.start()
    try:
        site.wait()
        known = {"FEDREC_USER": site.owner, "FEDREC_PASSWORD": json.loads(passwords.read_text())["aurora"]}
        wrong = command("requests", "pause", site.folder, **{**known, "FEDREC_PASSWORD": "not-it-7731"})
        right = command("requests", "pause", site.folder, **known)
    finally:
        site.stop()
    assert (wrong.returncode, right.returncode) == (3, 0), (wrong.stderr, right.stderr)


def test_a_second_demo_does_not_mix_its_accounts_into_a_kept_folder(told):
    _, _, folder, _ = told
    before = sorted(folder.rglob("*"))
    again = command("demo", "--synthetic", "--keep", folder / "kept")
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "is not empty; name a new folder, or delete this one" in again.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A consortium of aurora and delphi, which starts sooner."""
    members = [f'[[member]]\nname = "{name}"\nfolder = "{name}"\n' for name in ("aurora", "delphi")]
    for name in ("aurora", "delphi"):
        shutil.copytree(DOMAIN / name, tmp_path / "two" / name, ignore=shutil.ignore_patterns("data", "state"))
    (tmp_path / "two" / "consortium.toml").write_text("\n".join(['name = "two"', 'title = "Two cinemas"', *members]))
    return tmp_path / "two"


def ended(process: subprocess.Popen[str], below: list[int], tmp_path: Path) -> tuple[int, str]:
    """A demo's exit code and the rest of its stderr, when none of its processes and files is left."""
    _, rest = process.communicate(timeout=60)
    assert [pid for pid in below if runs(pid)] == []
    assert list((tmp_path / "tmp").iterdir()) == []
    return process.returncode, rest


def starting(process: subprocess.Popen[str]) -> None:
    """Returns as soon as there is a first site's process."""
    until(process, "data (")
    while not descendants(process.pid):
        assert process.poll() is None
        time.sleep(0.01)


def started(process: subprocess.Popen[str]) -> None:
    said = until(process, " pid ") + until(process, " pid ")
    assert [gone(pid) or closed(url) for url, pid in urls_and_pids(said)] == [False] * 2


@pytest.mark.parametrize(("ending", "when"), [(signal.SIGINT, started), (signal.SIGHUP, starting)])
def test_ctrl_c_and_a_lost_terminal_end_everything(two, tmp_path, ending, when):
    process = start(tmp_path, "--synthetic", "--consortium", str(two))
    when(process)
    below = descendants(process.pid)
    assert below
    process.send_signal(ending)
    time.sleep(0.3)
    process.send_signal(ending)  # while it stops
    code, rest = ended(process, below, tmp_path)
    assert (code, rest.splitlines()[-1]) == (130, "fedrec: stopped")


def test_a_site_that_dies_in_the_middle_ends_the_demo_with_one_line(two, tmp_path):
    process = start(tmp_path, "--synthetic", "--consortium", str(two), "--pause-after", "approvals")
    sites = urls_and_pids(until(process, "paused after the approvals"))
    below = descendants(process.pid)
    os.kill(sites[1][1], signal.SIGKILL)
    process.stdin.write("\n")
    process.stdin.flush()
    code, rest = ended(process, below, tmp_path)
    lines = [line for line in rest.splitlines() if line.startswith("fedrec: ")]
    assert (code, len(lines), "Traceback" in rest) == (3, 1, False), rest
    assert "delphi" in lines[0]
    assert all(closed(url) for url, _ in sites)


def test_a_site_that_does_not_start_ends_those_that_did(two, tmp_path):
    schema = two / "delphi" / "schema.toml"
    schema.write_text(schema.read_text().replace('user = "user"', 'user = "customer"'))
    process = start(tmp_path, "--synthetic", "--consortium", str(two))
    starting(process)
    code, rest = ended(process, descendants(process.pid), tmp_path)
    assert (code, rest.count("fedrec: ")) == (2, 1), rest
    assert re.search(r"fedrec: delphi: the site did not start: .*customer", rest)
