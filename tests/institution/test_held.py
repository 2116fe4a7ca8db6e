"""The leak gate: an update that tells too much waits inside for a person."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from asking import signed
from click.testing import CliRunner
from nacl.signing import SigningKey
from small_site import OWNER, SCIENTIST, START, Idle, approved, ended, events, make_site, own, recipe, sent, task, train

from fedrec.cli import requests as commands
from fedrec.cli.main import cli
from fedrec.errors import Refused
from fedrec.exchange.plan import Tensor
from fedrec.exchange.wire import decode
from fedrec.institution import app, audit, held
from fedrec.institution.decisions import Decisions
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import Account
from fedrec.institution.left_open import states
from fedrec.institution.site import Site
from fedrec.models import from_plan
from fedrec.scientist import datasites

GATE = "own_code = true\nleak_gate = 70\n"
ANOTHER = Account("grace@lab.example", SigningKey(b"another".ljust(32, b".")).verify_key.encode().hex(), "owner", True)


def private(epsilon):
    table = {"name": "private", "most": 4}
    leaves = {name: Tensor.parse(text) for name, text in from_plan(table).leaves().items()}
    plan = replace(recipe(runs=1, evaluate=False, publish=False, rounds=2), name="private", model=table, leaves=leaves)
    return replace(plan, privacy={"sum": "plain", "epsilon": epsilon, "delta": 1e-5})


def left(site, row):
    """What lies where the scientist may fetch it."""
    return list(site.blobs.path("out", row.id, "0" * 64).parent.glob("*"))


def gram(site, row, answer):
    return decode(site.blobs.path("out", row.id, answer["passport"]["sha256"]).read_bytes())["gram"]


@pytest.fixture
def gated(tmp_path):
    site = make_site(tmp_path, GATE)
    yield site
    site.close()


@pytest.mark.parametrize("gate", [True, False])
def test_the_exact_pairs_leave_only_when_the_owner_says_so(gate, tmp_path, jail):
    site = make_site(tmp_path, GATE if gate else "own_code = true\n")
    jobs, row = Jobs(site, jail), approved(site, recipe())
    wanted = task(sent(site, row, START))
    answer = ended(site, jobs, row, wanted)
    if gate:
        assert (answer["status"], answer["code"], "passport" in answer) == ("held", "release.held", False)
        assert jobs.answer(answer["key"])["status"] == ended(site, jobs, row, wanted)["status"] == "held"
        assert left(site, row) == []
        assert Decisions(site, jobs).release(OWNER, row.id, "a word") == 1
        answer = asyncio.run(jobs.wait(answer["key"], 20))
        assert ended(site, jobs, row, task(wanted["base"], run="s"))["status"] == "done"  # decided once
    assert gram(site, row, answer)[np.triu_indices(8)].any()  # with the gate off it has left by itself: the control
    assert left(site, row)
    assert site.ledger.used(row.id) == {"train": 1 + gate}
    jobs.close()
    site.close()


def test_it_stays_held_over_a_restart_and_is_tried_once_whoever_asks(gated, jail, monkeypatch):
    tried = []
    monkeypatch.setattr(held, "told", lambda *given, told=held.told, **more: tried.append(1) or told(*given, **more))
    jobs, row = Jobs(gated, jail), approved(gated, recipe(runs=3))
    key = train(gated, jobs, row, START)["key"]
    jobs.close()
    again = Site.open(gated.folder)
    jobs = Jobs(again, jail)
    assert jobs.recover() == 1
    assert asyncio.run(jobs.wait(key, 20))["status"] == "held"
    assert train(again, jobs, row, START, run="other")["status"] == "held"
    assert len(tried) == 1
    Decisions(again, jobs).release(OWNER, row.id, "")
    assert asyncio.run(jobs.wait(key, 20))["status"] == "done"
    jobs.close()
    again.close()
    last = Site.open(gated.folder)
    jobs = Jobs(last, jail)
    assert train(last, jobs, row, START, run="last")["status"] == "done"
    assert len(tried) == 1
    jobs.close()
    last.close()


def test_a_plan_with_an_epsilon_passes_by_what_its_noise_allows_and_no_row_is_looked_at(gated, monkeypatch):
    monkeypatch.setattr(held, "told", lambda *_, **__: pytest.fail("a row was looked at"))
    for epsilon, right in ((1.0, 56), (4.0, 68), (8.0, 80)):  # sigma 3.731, 1.081, .600: Phi(.134), (.463), (.833)
        row = approved(gated, replace(private(epsilon), purpose=f"{epsilon}"))
        given = (gated, private(epsilon), row, row.signed_permit, gated.store)
        if right > 70:
            with pytest.raises(Refused, match=r"release\.held"):
                held.check_held(*given)
            assert f"right in {right} of 100" in held.waiting(gated.state, row)
        else:
            held.check_held(*given)
            assert held.waiting(gated.state, row) == ""
            assert json.loads(held._of(gated.state, row).read_text())["right"] == right


def test_a_larger_epsilon_in_a_new_permit_is_decided_anew(gated):
    row = approved(gated, private(12.0), epsilon=8.0)
    with pytest.raises(Refused, match=r"release\.held"):
        held.check_held(gated, private(12.0), row, row.signed_permit, gated.store)
    held.let_go(gated, row, OWNER.email)
    held.check_held(gated, private(12.0), row, row.signed_permit, gated.store)
    with pytest.raises(Refused, match=r"release\.held"):
        held.check_held(gated, private(12.0), row, {**row.signed_permit, "epsilon": 12.0}, gated.store)


@pytest.mark.parametrize("plan", [own(), recipe("mf"), replace(recipe(), model={"name": "echo"})])
def test_what_cannot_be_tried_or_has_an_empty_first_update_is_held(plan, gated, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as in the site's process
    row = approved(gated, recipe())
    with pytest.raises(Refused, match=r"release\.held"):
        held.check_held(gated, plan, row, row.signed_permit, gated.store)
    assert "could not be tried" in held.waiting(gated.state, row)


def test_so_are_rows_too_many_to_be_tried_and_nothing_is_when_the_gate_is_off_again(gated, monkeypatch):
    monkeypatch.setattr(held, "LOOKED_AT", 29)
    row = approved(gated, recipe())
    with pytest.raises(Refused, match=r"release\.held"):
        held.check_held(gated, recipe(), row, row.signed_permit, gated.store)
    off = replace(
        gated,
        config=gated.config.model_copy(update={"limits": gated.config.limits.model_copy(update={"leak_gate": None})}),
    )
    held.check_held(off, recipe(), row, row.signed_permit, gated.store)
    assert held.waiting(gated.state, row) == ""


def test_a_release_is_two_events_and_nobody_lets_his_own_go(gated, jail):
    jobs, row = Jobs(gated, jail), approved(gated, recipe())
    decide = Decisions(gated, jobs)
    with pytest.raises(Refused, match=r"release\.none"):
        decide.release(OWNER, row.id, "")
    train(gated, jobs, row, START)
    for by in (SCIENTIST, replace(ANOTHER, key=SCIENTIST.key)):
        with pytest.raises(Refused, match=r"gate\.self"):
            decide.release(by, row.id, "")
    assert held.waiting(gated.state, row)
    decide.release(OWNER, row.id, "it is fine")
    with pytest.raises(Refused, match=r"release\.none"):
        decide.release(OWNER, row.id, "")
    assert events(gated, "release") == ["intent", "release.none", "intent", "done", "intent", "release.none"]
    said = [event for event in audit.read(gated.audit.path) if event["act"] == "release"][3]
    assert (said["detail"]["right"], said["detail"]["again"], said["request"]) == (100, 1, row.id)
    jobs.close()


def test_a_revoked_request_gives_nothing_and_is_held_no_more(gated, jail):
    jobs, row = Jobs(gated, jail), approved(gated, recipe())
    key = train(gated, jobs, row, START)["key"]
    Decisions(gated, jobs).undo(OWNER, row.id, "it tells too much", lambda: True)
    with pytest.raises(Refused, match=r"permit\.revoked.*it tells too much"):
        jobs.answer(key)
    with pytest.raises(Refused, match=r"permit\.revoked"):
        Decisions(gated, jobs).release(OWNER, row.id, "")
    assert held.waiting(gated.state, gated.ledger.request(row.id)) == ""
    jobs.close()


@pytest.mark.parametrize(
    ("role", "may"), [("owner", True), ("reviewer", True), ("scientist", False), ("operator", False)]
)
def test_owner_and_reviewer_let_go_over_the_own_route_and_nobody_else(role, may, gated):
    jobs, row = Jobs(gated, Idle()), approved(gated, recipe())
    key = SigningKey(role.encode().ljust(32, b"."))
    gated.ledger.add_account(f"{role}@x.org", key.verify_key.encode().hex(), role, gated.now())
    with pytest.raises(Refused):
        held.check_held(gated, recipe(), row, row.signed_permit, gated.store)
    status, answer = signed(app.build(gated, None, jobs), gated, key, "POST", f"/fedrec/v1/releases/{row.id}", b"why")
    if may:
        assert (status, json.loads(answer)) == (200, {"released": row.id, "again": 0})
    else:
        assert (status, json.loads(answer)["code"]) == (403, "gate.role")
    assert held.gone(gated.state, row) == may
    jobs.close()


def test_a_crash_in_the_middle_of_a_release_is_told_by_what_was_decided(gated):
    row = approved(gated, recipe())
    with pytest.raises(Refused):
        held.check_held(gated, recipe(), row, row.signed_permit, gated.store)
    gated.audit.event("o@x.org", "owner", "release", row.fingerprint, outcome="intent", request=row.id)
    assert set(states(gated).values()) == {"not-done"}
    held.let_go(gated, row, OWNER.email)
    assert set(states(gated).values()) == {"done"}


def test_the_owner_sees_in_list_and_show_what_waits(tmp_path):
    gated = make_site(tmp_path, GATE)
    row = approved(gated, recipe())
    with pytest.raises(Refused):
        held.check_held(gated, recipe(), row, row.signed_permit, gated.store)
    gated.close()
    for words in (["list"], ["show", row.id]):
        words.insert(1, str(gated.folder))
        shown = CliRunner().invoke(cli, ["requests", *words])
        assert "HELD" in shown.output, shown.output
        assert "an attack on it is right in 100 of 100 tries; release lets it go" in shown.output


def test_the_command_lets_go_the_request_that_its_first_digits_name(tmp_path, monkeypatch):
    site = make_site(tmp_path, GATE)
    row, asked = approved(site, recipe()), []
    site.close()

    class Login:
        def release(self, request, reason):
            asked.append((request, reason))
            return {"released": request, "again": 1}

    monkeypatch.setattr(commands, "_login", lambda _: Login())
    words = ["requests", "release", str(site.folder), row.id[:8], "--reason", "fine"]
    assert CliRunner().invoke(cli, words).output == f"released ease ({row.id[:8]}), 1 jobs go on\n"
    assert asked == [(row.id, "fine")]


def test_the_driver_waits_and_says_so_and_gives_up_after_a_while(monkeypatch, caplog):
    monkeypatch.setattr(datasites, "HELD_POLL_S", 0.0)
    waits = {"status": "held", "code": "release.held", "reason": "r", "next_step": "n", "key": "k"}
    came = iter([waits, waits, {"status": "done"}])
    driver = object.__new__(datasites.Datasites)
    monkeypatch.setattr(driver, "_sites", {"a": None}, raising=False)
    monkeypatch.setattr(driver, "_job", lambda *_: next(came), raising=False)
    assert driver._held("a", "id", waits, None) == {"status": "done"}
    assert [record.getMessage() for record in caplog.records] == [
        "a holds its answer until its owner lets it go or refuses it"
    ]
    monkeypatch.setattr(datasites, "HELD_S", -1.0)
    came = iter([waits])
    with pytest.raises(Refused, match=r"release\.held"):
        driver._held("a", "id", waits, None)
