"""Acts at the institution's own machine are in the site's log, whether the site runs or not; without PySyft."""

from __future__ import annotations

import fcntl
import threading

import pytest
from click.testing import CliRunner
from small_site import START, Idle, approved, ended, make_site, recipe, sent, submitted, task, train

from fedrec.cli.main import cli
from fedrec.errors import DataError, Refused, WrongInput
from fedrec.institution import local, policy
from fedrec.institution.audit import read, verify
from fedrec.institution.commands import Commands
from fedrec.institution.jobs import Jobs
from fedrec.institution.local import local_act, log_of, take_in


@pytest.fixture
def closed(tmp_path):
    """A site's folder that nobody serves."""
    site = make_site(tmp_path)
    site.close()
    return site.folder


def told(folder, act):
    return [(event["outcome"], event["object"], event["detail"]) for event in read(folder, act)]


def test_an_act_that_fails_has_its_outcome(closed):
    def refused():
        with local_act(closed, "view", "plan", "r" * 32) as facts:
            facts["seen"] = 1
            raise Refused("gate.role", "no", "no")

    with pytest.raises(Refused):
        refused()
    assert told(closed, "view") == [("intent", "plan", {}), ("gate.role", "plan", {"seen": 1})]


def test_a_view_by_command_names_the_request(tmp_path):
    site = make_site(tmp_path)
    row = submitted(site, recipe())
    site.close()
    shown = CliRunner().invoke(cli, ["requests", "show", str(site.folder), row.id])
    assert shown.exit_code == 0, shown.output
    intent, done = read(site.folder, "view")
    assert (intent["request"], intent["object"], done["outcome"]) == (row.id, row.fingerprint, "done")


def test_two_commands_take_turns_and_one_that_is_never_let_in_says_so(closed, monkeypatch):
    began, go_on = threading.Event(), threading.Event()

    def first():
        with local_act(closed, "recommend", "model"):
            began.set()
            go_on.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    began.wait(10)
    threading.Timer(0.3, go_on.set).start()
    with local_act(closed, "recommend", "model"):
        pass
    thread.join()
    assert [outcome for outcome, *_ in told(closed, "recommend")] == ["intent", "done"] * 2
    assert verify(closed).verdict == "ok"
    monkeypatch.setattr(local, "WAIT_S", 0.1)  # a limit
    with (closed / "state" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(WrongInput, match="does not run"), local_act(closed, "view", "x"):
            raise AssertionError("it was let in")


def test_a_running_site_writes_acts_of_the_machine_and_no_others(site):
    commands = Commands(site, None, Jobs(site, Idle()), {})
    begun = commands._do({"op": "act", "act": "view", "thing": "p", "outcome": "intent", "request": "r"})
    done = {"op": "act", "act": "view", "thing": "p", "outcome": "done", "of": begun["number"], "detail": {"n": 1}}
    commands._do(done)
    assert [(event["actor"], event["role"]) for event in read(site.folder, "view")] == [("site", "operator")] * 2
    for wrong in ({**done, "act": "approve"}, done, {**done, "detail": {"x": 1.5}}, {**done, "request": 7}):
        with pytest.raises(WrongInput):
            commands._do(wrong)
    assert verify(site.folder).verdict == "ok"
    assert len(list(read(site.folder, "view"))) == 2


def test_an_intake_is_an_act_also_when_the_data_are_wrong(closed):
    log = log_of(closed)
    version = take_in(closed, log.event).version
    (closed / "data" / "ratings.csv").write_text("user,item,rating,timestamp\n")
    with pytest.raises(DataError):
        take_in(closed, log.event)
    log.close()
    (_, _, first), (outcome, _, _) = told(closed, "data.take")[1::2]
    assert (first["version"], first["rows"], first["rejected"]) == (version, 30, 0)
    assert outcome == "error DataError"


def test_a_changed_setting_is_an_act_once(site):
    first = policy.keep(site)
    assert policy.keep(site) == first
    file = site.folder / "schema.toml"
    file.write_text(file.read_text() + "# more\n")
    now = policy.keep(site)
    changes = [detail for outcome, _, detail in told(site.folder, "config") if outcome == "done"]
    assert [detail["schema"] for detail in changes] == [first["schema"], now["schema"]]
    assert changes[1]["before_schema"] == first["schema"] != now["schema"]
    assert {name for name in changes[1] if name.startswith("before_")} == {"before_schema"}


def test_a_recommendation_is_counted_and_its_user_not_named(site, jobs):
    row = approved(site, recipe("popularity"))
    train(site, jobs, row)
    assert ended(site, jobs, row, task(sent(site, row, START), "publish"))["status"] == "done"
    said = CliRunner().invoke(cli, ["recommend", str(site.folder), "--user", "canary-1", "-k", "3"])
    assert said.exit_code == 0, said.output
    assert told(site.folder, "recommend")[1][2] == {"users": 1, "items": 3, "known": True}
    assert "canary" not in "".join(map(str, read(site.folder)))
