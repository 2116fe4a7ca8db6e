"""A site that ends, is killed and starts again; and what its processes hold while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import real_sites
from processes import descendants, files, listening, runs
from real_sites import (
    ADA_PASSWORD,
    approve_one,
    call_bytes,
    command,
    events,
    finished,
    fresh,
    one_line,
    own_route,
    run_task,
    send,
    text_of,
)

from fedrec.config import RunConfig
from fedrec.demo.sites import SCIENTIST, clean_environment
from fedrec.errors import Refused
from fedrec.examples.my_factors import MyFactors
from fedrec.institution import serve
from fedrec.institution.audit import verify
from fedrec.institution.jail import MATH_VARIABLES, ONE_THREAD
from fedrec.scientist.runfile import plan_of
from fedrec.scientist.runs import Run

pytestmark = pytest.mark.sites

ADA = {"FEDREC_USER": SCIENTIST, "FEDREC_PASSWORD": ADA_PASSWORD}
SLOW = """
class Slow:
    def init(self, n_items, seed):
        return {"v": np.zeros(n_items)}

    def fit_site(self, rows, shared, private):
        import time
        time.sleep(2.0)
        return {"v": np.full(rows.n_items, 1.0 * len(rows.user))}, {}

    def score(self, rows, shared, private):
        return np.zeros((rows.n_users, rows.n_items))
"""


def kept(site):
    """What a person at the site sees: accounts, requests and their permits, identity, data version."""
    facts = serve.status(site.folder)
    return {
        "users": serve.control(site.folder, {"op": "users.list"}),
        "requests": json.loads(command("requests", "list", site.folder, "--json", "-").stdout),
        "same": {key: facts[key] for key in ("site", "uid", "url", "data_version", "jail_level")},
    }


def down(site, kill):
    """End the site's process, and see that everything that belonged to it is gone."""
    family = [int(site.facts["pid"]), *descendants(int(site.facts["pid"]))]
    assert len(family) > 1  # the jail's warm parent
    site.stop(kill=kill)
    deadline = time.monotonic() + 5
    while any(map(runs, family)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def up(site):
    site.start()
    site.wait()


def test_accounts_requests_permits_state_and_logins_outlive_a_restart(solo, site, alone, its_owner, tmp_path):
    plan = fresh(code=MyFactors, rounds=4, name="mine", settings={"factors": 4}, evaluate=True)
    real_sites.approved(alone, its_owner, plan)
    waiting = real_sites.submit_one(alone._sites["solo"], fresh())
    run = Run.start(plan, alone, folder=tmp_path)
    rounds = run.rounds()
    next(rounds), next(rounds)
    rounds.close()
    before, ada = kept(site), alone._sites["solo"]
    overheard = call_bytes(ada.key, ada.uid, "dataset.get_all")
    assert text_of(send(site.url, overheard)) == "DictTuple"

    down(site, kill=False)
    up(site)

    assert kept(site) == before
    assert waiting in {row["id"] for row in before["requests"]["requests"] if row["status"] == "waiting"}
    # the same login goes on, with the private user vectors of round 1: anything else gives other bits
    run.finish()
    same = real_sites.simulated(solo).train(plan)
    assert [line["model"] for line in run.log] == [line["model"] for line in same.log]
    assert run.evaluate().to_dict() == same.evaluate().to_dict()
    ada.client.refresh()  # its cookie still opens the schema
    assert text_of(send(site.url, overheard)).startswith("gate.replay: this call was made before")
    assert [event["act"] for event in events(site, actor="site") if event["act"] in ("start", "stop")][-3:] == [
        "start",
        "stop",
        "start",
    ]


@pytest.fixture(scope="module")
def killed(solo, site, alone, its_owner, tmp_path_factory):
    """SIGKILL while a job runs and `fedrec run` is between its rounds; then a start, and what came of it."""
    folder, ada = tmp_path_factory.mktemp("killed"), alone._sites["solo"]
    (folder / "run.toml").write_text(
        f'consortium = "{solo.consortium}"\nname = "factors"\npurpose = "killed"\nrounds = 64\nprotocol = "p1"\nseed = 3\n[model]\nname = "mf"\nfactors = 4\n'
    )
    plan = plan_of(RunConfig.load(folder / "run.toml"))
    real_sites.approved(alone, its_owner, plan)
    slow = approve_one(ada, its_owner["solo"], fresh(code=SLOW, name="slow", rounds=1), alone.n_items)
    run = subprocess.Popen(
        [sys.executable, "-m", "fedrec", "run", str(folder / "run.toml"), "--runs", str(folder / "runs"), "--json", "-"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment(**ADA),
    )  # fmt: skip
    while not (logs := list(folder.glob("runs/*/rounds.jsonl"))) or len(logs[0].read_text().splitlines()) < 3:
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    before, task = kept(site), slow.task()
    answer = ada.call(slow.function, task)

    down(site, kill=True)

    out, said = run.communicate(timeout=60)
    ended = subprocess.CompletedProcess([], run.returncode, out, said)
    owner = {"FEDREC_USER": site.owner, "FEDREC_PASSWORD": site.owner_password}
    with ThreadPoolExecutor() as pool:
        tried = [
            pool.submit(command, "run", folder / "run.toml", "--runs", folder / "more", **ADA),
            pool.submit(command, "requests", "approve", site.folder, slow.id, **owner),
            pool.submit(command, "site", "status", site.folder, "--json", "-"),
        ]
        with pytest.raises(Refused) as refusal:
            alone.submit(fresh())
    up(site)
    while_down = dict(zip(("run", "approve", "status"), (one.result() for one in tried), strict=True))
    return SimpleNamespace(
        folder=logs[0].parent, plan=plan, slow=slow, answer=answer, task=task, before=before, ended=ended, down=while_down,
        said=str(refusal.value),
    )  # fmt: skip


def test_a_run_whose_site_dies_stops_at_its_last_committed_round_and_says_how_to_resume(killed):
    text = one_line(killed.ended, 3)
    committed = len((killed.folder / "rounds.jsonl").read_text().splitlines())
    assert text.startswith("site.lost: solo does not answer (")
    assert f"(round {committed} of 64; {committed} rounds are committed)" in text
    assert text.endswith(f"Start the site again, then resume. Resume with fedrec run --resume {killed.folder}")


def test_commands_that_need_a_site_that_is_down_say_so(killed, site):
    text = one_line(killed.down["run"], 2)
    assert text.startswith(
        "solo does not answer (Connection refused); start it with fedrec site serve, or mend its url in "
    )
    assert (
        one_line(killed.down["approve"], 2)
        == f"solo: the site does not run; start it with fedrec site serve {site.folder}"
    )
    status = json.loads(killed.down["status"].stdout)
    assert (status["running"], status["pid"], status["site"]) == (False, None, "solo")
    assert killed.said.startswith("site.lost: solo does not answer (")


def test_a_run_goes_on_after_the_kill_to_the_model_of_an_uninterrupted_one(killed, solo):
    done = command("run", "--resume", killed.folder, "--json", "-", **ADA)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rounds"] == 64
    assert 3 <= report["resumed_from"] < 64
    same = real_sites.simulated(solo).train(killed.plan)
    lines = [json.loads(line) for line in (killed.folder / "rounds.jsonl").read_text().splitlines()]
    assert [line["model"] for line in lines] == [line["model"] for line in same.log]
    assert report["model_sha256"] == same.model_sha256


def test_a_job_that_ran_when_the_site_was_killed_ends_once_after_the_restart(killed, site, alone):
    ada, slow = alone._sites["solo"], killed.slow
    assert killed.answer["status"] == "running"
    ended = finished(ada, slow.id, killed.answer)
    assert ended["status"] == "done"
    assert ended == run_task(ada, slow, **killed.task)  # the call whose answer was lost, sent again
    told = events(site, act="train", request=slow.id)  # the start names the first intent; the job began again
    assert [(event["outcome"], event["detail"].get("again", False)) for event in told] == [
        ("intent", False),
        ("intent", True),
        ("done", False),
    ]
    assert "again" in events(site, act="start")[-1]["detail"].values()
    assert own_route(ada, "GET", f"/fedrec/v1/blobs/{ended['passport']['sha256']}", permit=slow.id)[0] == 200
    assert run_task(ada, slow, run="more")["code"] == "permit.rounds"  # it was counted once


def test_nothing_that_was_acknowledged_is_lost_by_the_kill(killed, site):
    after = kept(site)
    assert after["users"] == killed.before["users"]
    assert after["same"] == killed.before["same"]
    permits = {row["id"]: row["permit"] for row in after["requests"]["requests"]}
    assert {row["id"]: row["permit"] for row in killed.before["requests"]["requests"]} == permits
    assert verify(site.folder).verdict == "ok"


def test_a_site_listens_on_its_one_port_only(site):
    pids = [int(site.facts["pid"]), *descendants(int(site.facts["pid"]))]
    assert listening(pids) == {("tcp", "0100007F", int(site.url.rpartition(":")[2]))}  # 127.0.0.1


def test_open_files_of_a_site_lie_in_its_folder_and_the_jail_holds_none(site):
    pid, libraries = int(site.facts["pid"]), sysconfig.get_path("purelib")
    outside = [link for link in files(pid) if not Path(link).is_relative_to(site.folder)]
    assert [link for link in outside if not link.startswith(libraries)] == []
    lines = {child: Path(f"/proc/{child}/cmdline").read_text() for child in descendants(pid)}
    warm = [child for child, line in lines.items() if "jail_child" in line and "bwrap" not in line.split("\0")[0]]
    assert len(warm) == 1  # no job runs
    assert files(warm[0]) <= {str(site.folder / "state" / "serve.log")}  # its stderr
    names = {part.split("=")[0] for part in Path(f"/proc/{warm[0]}/environ").read_text().split("\0") if part}
    assert names <= {*ONE_THREAD, *MATH_VARIABLES, "PWD"}  # bubblewrap sets the last, to "/"


def test_no_password_stands_in_any_file_of_a_site(solo, site):
    words = [site.owner_password.encode(), ADA_PASSWORD.encode(), b"SERVER_PRIVATE_KEY", b"DEFAULT_ROOT_PASSWORD"]
    assert real_sites.files_with(solo.work, words) == []
    planted = site.folder / "state" / "log" / "planted"
    planted.write_bytes(words[0])  # the search would have found one
    assert real_sites.files_with(solo.work, words) == [planted]
    planted.unlink()


def test_only_its_own_user_can_read_a_sites_files(site):
    state = site.folder / "state"
    assert state.stat().st_mode & 0o077 == 0
    assert [path for path in state.rglob("*") if path.lstat().st_mode & 0o077] == []
