"""What people who are neither owner nor scientist do at a running site, by command and by login."""

from __future__ import annotations

import hashlib
import itertools
import json

import pytest
import real_sites
from real_sites import ADA_PASSWORD, approve_one, command, events, fresh, login, one_line, run_task

from fedrec.errors import Refused
from fedrec.exchange.wire import canonical
from fedrec.institution import audit
from fedrec.institution.serve import control, status

pytestmark = pytest.mark.sites

OPERATOR, AUDITOR = "ops@aurora.example", "audit@firm.example"


@pytest.fixture(scope="module")
def staffed(aurora):
    """Aurora with an operator and an auditor."""
    for email, role in ((OPERATOR, "operator"), (AUDITOR, "auditor")):
        control(aurora.folder, {"op": "users.add", "email": email, "role": role, "password": ADA_PASSWORD})
    return aurora


def test_an_operator_pauses_by_command_and_the_owner_resumes(staffed, federation, owners):
    ada = federation._sites["aurora"]
    approved = approve_one(ada, owners["aurora"], fresh(runs=2), federation.n_items)
    ops = {"FEDREC_USER": OPERATOR, "FEDREC_PASSWORD": ADA_PASSWORD}
    owner = {"FEDREC_USER": staffed.owner, "FEDREC_PASSWORD": staffed.owner_password}
    try:
        done = command("requests", "pause", staffed.folder, "--reason", "disk", "--json", "-", **ops)
        assert (done.returncode, json.loads(done.stdout)) == (0, {"paused": True, "still_running": 0})
        assert status(staffed.folder)["paused"]
        answer = run_task(ada, approved)
        assert (answer["code"], "disk" in answer["reason"]) == ("permit.paused", True)
        said = one_line(command("requests", "resume", staffed.folder, **ops), 3)
        assert said.startswith("gate.role: a operator may not call this")
    finally:
        done = command("requests", "resume", staffed.folder, "--json", "-", **owner)
    assert json.loads(done.stdout) == {"paused": False, "again": 0}
    assert run_task(ada, approved)["status"] == "done"
    by = [(event["actor"], event["act"]) for event in events(staffed) if event["act"] in ("pause", "resume")]
    assert by[-4:] == [(OPERATOR, "pause")] * 2 + [(staffed.owner, "resume")] * 2
    assert "FEDREC_USER" in one_line(command("requests", "pause", staffed.folder), 2)


def test_an_auditor_reads_the_whole_log_and_checks_its_chain_without_the_folder(staffed, bob):
    auditor, before = login(staffed, AUDITOR, ADA_PASSWORD), events(staffed)
    assert list(auditor.events())[: len(before)] == before
    found = [event for page in auditor.pages() for event in page["events"]]  # as they stand, names beside them
    for event, after in itertools.pairwise(found):
        body = {key: value for key, value in event.items() if key != "hash"}
        assert hashlib.sha256(canonical(body)).hexdigest() == event["hash"] == after["prev"]
    assert next(auditor.pages(found[-2]["seq"]))["events"][0] == found[-1]
    assert {event["actor"] for event in bob.events()} == {real_sites.BOB}
    for call in (lambda: auditor.pause("x"), auditor.resume, lambda: auditor.approve("0" * 32)):
        with pytest.raises(Refused, match=r"gate\.role"):
            call()


def test_an_auditor_takes_a_runs_pack_over_the_network_and_a_scientist_cannot(staffed, tmp_path):
    file = tmp_path / "p.zip"
    words = ["audit", "pack", staffed.url, "--run", "nothing", "--out", file]
    done = command(*words, FEDREC_USER=AUDITOR, FEDREC_PASSWORD=ADA_PASSWORD)
    assert (done.returncode, "pack.run" in done.stderr, file.exists()) == (3, True, False)
    done = command(*words, FEDREC_USER=real_sites.BOB, FEDREC_PASSWORD=real_sites.BOB_PASSWORD)
    assert (done.returncode, "gate.role" in done.stderr) == (3, True)


def test_an_auditor_copies_the_log_over_the_network_and_a_second_time_only_what_is_new(staffed, tmp_path):
    file, account = tmp_path / "log.jsonl", {"FEDREC_USER": AUDITOR, "FEDREC_PASSWORD": ADA_PASSWORD}

    def fetch():
        done = command("audit", "fetch", staffed.url, file, "--json", "-", **account)
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    code, first = fetch()
    assert (code, first["verdict"]) == (0, "ok"), first
    before = file.read_bytes()
    code, second = fetch()
    assert (code, second["verdict"], file.read_bytes().startswith(before)) == (0, "ok", True)
    assert second["events"] > first["events"]
    assert "".join(map(str, audit.read(staffed.folder))).startswith("".join(map(str, audit.read(file))))
    last = before.splitlines(keepends=True)[-1]
    file.write_bytes(before.removesuffix(last) + last.replace(b'"role":"auditor"', b'"role":"auditer"'))
    assert file.read_bytes() != before
    code, changed = fetch()  # as if the site's log were not the one that was copied before
    assert (code, changed["verdict"]) == (3, "tampered")
