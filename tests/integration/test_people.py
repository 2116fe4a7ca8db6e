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
    found = list(auditor.events())
    assert found[: len(before)] == before
    for event, after in itertools.pairwise(found):
        body = {key: value for key, value in event.items() if key != "hash"}
        assert hashlib.sha256(canonical(body)).hexdigest() == event["hash"] == after["prev"]
    assert next(auditor.events(found[-2]["seq"])) == found[-1]
    assert {event["actor"] for event in bob.events()} == {real_sites.BOB}
    for call in (lambda: auditor.pause("x"), auditor.resume, lambda: auditor.approve("0" * 32)):
        with pytest.raises(Refused, match=r"gate\.role"):
            call()
