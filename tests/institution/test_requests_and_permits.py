"""Bad requests and permits, item by item: what each is answered, beside an honest one that runs.

An item stands here under its own name even where a longer test of it stands elsewhere.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from small_site import (
    LIMITS,
    OWNER,
    SCIENTIST,
    START,
    VECTOR,
    Idle,
    approved,
    make_site,
    own,
    recipe,
    sent,
    submitted,
    task,
    train,
)
from test_jail import processes_below, works

from fedrec.errors import Refused
from fedrec.exchange.plan import PlanText, fingerprint
from fedrec.institution.decisions import Decisions
from fedrec.institution.facts import AMBER, RED, facts_of
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import Account
from fedrec.institution.permit import Task

HONEST = own()


def flagged(code):
    return {fact.what for fact in facts_of(code) if fact.level in (RED, AMBER)}


def code_of(call, *given):
    with pytest.raises(Refused) as caught:
        call(*given)
    return caught.value.code


# the text

TEXTS = {
    "a carriage return": lambda text: text.replace("\n", "\r\n"),
    "one carriage return": lambda text: text.replace("pass\n", "pass\r\n"),
    "a bidi override": lambda text: text.replace("pass\n", "pass  # \u202e\n"),
    "a bidi override in a name": lambda text: text.replace('purpose = "P"', 'purpose = "P\u2066"'),
    "an unprintable space": lambda text: text.replace("pass\n", "pass\u00a0\n"),
    "a trailing space outside a text": lambda text: text.replace('purpose = "P"', 'purpose = "P" '),
    "privacy that says nothing": lambda text: text.replace("[model]", '[privacy]\nsum = "plain"\n\n[model]'),
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_text_with(what):
    text = HONEST.text()
    assert PlanText.parse(text) == HONEST  # the control
    changed = TEXTS[what](text)
    assert changed != text
    assert code_of(PlanText.parse, changed) == "request.form"


@pytest.mark.parametrize("what", ["pass ", "pass\n"])
def test_a_trailing_space_or_line_in_own_code_is_another_plan_that_nobody_approved(what, site, jobs):
    row, text = approved(site, HONEST), HONEST.text()
    other = text.replace("pass\n", f"{what}\n", 1)
    assert fingerprint(PlanText.parse(other).text()) == fingerprint(other) != row.fingerprint
    raw = task(sent(site, row, VECTOR))
    assert code_of(jobs.start, row.key, fingerprint(other), raw) == "permit.missing"
    assert jobs.start(row.key, row.fingerprint, raw)["status"] in ("done", "running")  # the control


# own code: what the owner is told, and what it gets in the jail

ATTEMPTS = {
    "eval": ('eval("open(\'/etc/passwd\')")', "dynamic", "jail.error"),
    "exec": ('exec("open(\'/etc/passwd\')")', "dynamic", "jail.error"),
    "__import__": ('__import__("socket").create_connection(("127.0.0.1", 22), 1)', "dynamic", "jail.error"),
    "ctypes": ('import ctypes\nassert ctypes.CDLL(None).open(b"/etc/passwd", 0) >= 0', "process", "jail.error"),
    "socket": ('import socket\nsocket.create_connection(("127.0.0.1", 22), 1)', "network", "jail.error"),
    "subprocess": ('import subprocess\nsubprocess.run(["id"])', "process", "jail.error"),
    "open": ('open("/etc/passwd")', "files", "jail.error"),
    "print": ("print(rows.user)", "print", ""),
    "a dunder walk": (
        "for kind in ().__class__.__base__.__subclasses__():\n    if kind.__name__ == '_wrap_close':\n"
        "        kind.__init__.__globals__['popen']('id').read()\n        break\nopen('/etc/passwd')",
        "dynamic", "jail.error",
    ),
    "a patched numpy": (
        "np.isfinite = lambda value: np.ones(np.shape(value), bool)\nreturn {'v': np.full(8, np.nan)}, {}",
        "patching", "guard.finite",
    ),
    "a thread left running": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()", "threads", "",
    ),
    "data in an exception": ("raise ValueError(str(rows.item))", "message", "jail.error"),
    "data in an exception's class": ("raise type('i' + '_'.join(map(str, rows.item)), (Exception,), {})", None, "jail.error"),
    "a look-alike name": ("cоunts = 1", "look-alike", ""),  # a Cyrillic o
    "a result with __reduce__": (
        "class R:\n    def __reduce__(self):\n        return print, ('canary',)\nreturn {'v': R()}, {}",
        None, "jail.error",
    ),
    "an object array": ("return {'v': np.array([rows] * 8, dtype=object)}, {}", None, "jail.error"),
    "a length that depends on the data": ("return {'v': np.ones(int(rows.item.sum()))}, {}", None, "guard.shape"),
    "an array more when the data say so": (
        "more = {'w': np.ones(8)} if rows.item[0] == 0 else {}\nreturn {'v': np.ones(8), **more}, {}", None, "guard.name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ATTEMPTS)
def test_own_code_with(what, site, jobs, jail):
    lines, fact, code = ATTEMPTS[what]
    plan = own(lines)
    assert fact is None or fact in flagged(plan.own_code), flagged(plan.own_code)
    answer = train(site, jobs, approved(site, plan), VECTOR)
    assert answer.get("code", "") == code, answer
    said = json.dumps(answer)
    assert not re.search("canary|0 1 2|0_1_2", said)
    works(site, jobs)
    ended = time.monotonic()
    while processes_below(jail.pid) and time.monotonic() - ended < 4:
        time.sleep(0.02)
    assert processes_below(jail.pid) == []


def test_control_honest_code_has_no_flag_and_runs(site, jobs):
    assert flagged(HONEST.own_code) == set()
    assert train(site, jobs, approved(site, HONEST), VECTOR)["status"] == "done"


@pytest.mark.parametrize("where", ["before", "after"])
def test_bytes_that_own_code_adds_to_its_output_do_not_leave(where, site, jobs):
    """It knows its output's descriptor; the site writes anew what it understood, or releases nothing."""
    spot = "0" if where == "before" else "500"
    code = (
        "import os, stat\nfor fd in range(3, 64):\n    try:\n        if not os.fstat(fd).st_size:\n"
        f"            os.pwrite(fd, rows.item[:9].tobytes(), {spot})\n    except OSError:\n        pass"
    )
    row = approved(site, own(code))
    answer = train(site, jobs, row, VECTOR)
    honest = train(site, jobs, approved(site, HONEST), VECTOR)["passport"]["bytes"]
    released = list(site.blobs.path("out", row.id, "x").parent.glob("*"))
    assert [path.stat().st_size for path in released] == ([honest] if answer["status"] == "done" else [])
    works(site, jobs)


# parameters

SETTINGS = 'settings = {"ease.l2" = [0.5, 1000.0]}\n'
VALUES = [
    (0.5, ""), (1000.0, ""), (1000, ""), (0.4999, "plan.setting"), (1000.0001, "plan.setting"), (-1, "plan.setting"),
    (0, "plan.setting"), ("10", "plan.setting"), (True, "plan.setting"), ([10.0], "plan.setting"),
    (10**400, "plan.setting"), (float("nan"), "request.form"), (float("inf"), "request.form"), (1e309, "request.form"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "code"), VALUES, ids=repr)
def test_a_parameter(value, code, tmp_path):
    site = make_site(tmp_path, LIMITS + SETTINGS)
    decisions, plan = Decisions(site, Jobs(site, Idle())), recipe(model={"l2": value})
    try:
        text = plan.text()
        decisions.check_submission(SCIENTIST, text, PlanText.parse(text))
        got = ""
    except Refused as refusal:
        got = refusal.code
    assert got == code
    site.close()


@pytest.mark.parametrize("written", ["1e309", "-1e309", "nan", "inf", "1_0.0", "0x1f", "true", '"10"', "-1", "0"])
def test_a_parameter_written_into_the_text_by_hand(written, tmp_path):
    site = make_site(tmp_path, LIMITS + SETTINGS)
    decisions, text = Decisions(site, Jobs(site, Idle())), recipe().text().replace("l2 = 200.0", f"l2 = {written}")

    def submit():
        decisions.check_submission(SCIENTIST, text, PlanText.parse(text))

    assert code_of(submit) in ("request.form", "plan.setting")
    site.close()


@pytest.mark.parametrize("rounds", [-1, 0, float("nan"), "10", True, 1e309, 1.0, 10**400])
def test_a_number_of_rounds_for_the_permit(rounds, site):
    row, decisions = submitted(site, recipe()), Decisions(site, Jobs(site, Idle()))
    if rounds == 10**400:  # a whole number from 1: cut to what was asked
        decisions.approve(OWNER, row.id, {"rounds": rounds}, lambda: True)
        assert site.ledger.request(row.id).signed_permit["tasks"]["train"] == 2
        return
    assert code_of(decisions.approve, OWNER, row.id, {"rounds": rounds}, lambda: True) == "permit.limit"


@pytest.mark.parametrize("number", [-1, float("nan"), "10", True, 1e309, 1.0, 10**400, 1_000_000])
def test_a_round_of_a_task(number):
    assert code_of(Task.parse, {**task("ab" * 32), "round": number}) == "task.form"


# permits


def test_a_permit_for_data_that_are_not_there(site, jobs):
    row = approved(site, recipe("popularity", runs=3))
    assert train(site, jobs, row)["status"] == "done"  # the control
    store = site.store.rows_path.parent
    shutil.move(store, store.with_name("elsewhere"))
    assert train(site, jobs, row)["code"] == "permit.data"
    shutil.move(store.with_name("elsewhere"), store)
    assert train(site, jobs, row)["status"] == "done"


@pytest.mark.parametrize("inside", [True, False])
def test_a_permit_outside_its_hours(inside, site, jobs):
    later = (datetime.now(UTC).hour + 6) % 24
    row = approved(site, recipe("popularity"), hours="0-24" if inside else f"{later}-{later + 1}")
    raw = task(sent(site, row, START))
    if inside:
        assert jobs.start(row.key, row.fingerprint, raw)["status"] in ("done", "running")
    else:
        assert code_of(jobs.start, row.key, row.fingerprint, raw) == "permit.hours"


def test_a_permit_of_another_plan_or_of_another_scientist(site, jobs):
    mine, other = approved(site, recipe("popularity")), submitted(site, recipe("popularity", name="other"))
    raw = task(sent(site, other, START))
    assert code_of(jobs.start, other.key, other.fingerprint, raw) == "permit.missing"
    assert code_of(jobs.start, "ff" * 32, mine.fingerprint, raw) == "permit.missing"
    site.ledger.permit_pending(other.id, mine.signed_permit)
    site.ledger.decide(other.id, "approved", OWNER.email, site.now(), "")
    assert code_of(jobs.start, other.key, other.fingerprint, raw) == "permit.fingerprint"


@pytest.mark.parametrize("copied", [True, False])
def test_a_signed_permit_in_the_row_of_another_scientist(copied, site, jobs):
    """Same plan, same site, a good signature, and another person; the control is a permit of his own."""
    plan, eve = recipe("popularity"), Account("eve@lab.example", "ee" * 32, "scientist", True)
    mine, hers = approved(site, plan), submitted(site, plan, eve)
    if copied:
        site.ledger.permit_pending(hers.id, mine.signed_permit)
        site.ledger.decide(hers.id, "approved", OWNER.email, site.now(), "")
    else:
        Decisions(site, jobs).approve(OWNER, hers.id, {}, lambda: True)
    raw = task(sent(site, hers, START))
    if copied:
        assert code_of(jobs.start, hers.key, hers.fingerprint, raw) == "permit.other"
    else:
        assert jobs.start(hers.key, hers.fingerprint, raw)["status"] in ("done", "running")


def test_the_same_permit_in_two_runs_at_once(site, jobs):
    """test_two_runs.py has the threads; here the last task of the permit goes to one run and not to both."""
    row = approved(site, recipe("popularity", rounds=3), rounds=3)
    starts = [np.full(8, number, np.float32) for number in range(3)]
    done = [
        train(site, jobs, row, {"counts": start}, run=run)["status"] for start, run in zip(starts, "aba", strict=True)
    ]
    assert done == ["done"] * 3
    assert code_of(lambda: train(site, jobs, row, run="b")) == "permit.rounds"
