"""The scientist's centre left a site's update out: the owner finds it in the log; who may say so, and of what."""

from __future__ import annotations

import json
import logging

import pytest
from asking import signed
from nacl.signing import SigningKey
from small_site import KEY, START, approved, ended, events, recipe, sent, task

from fedrec.institution import app, audit

BOB = SigningKey(b"bob".ljust(32, b"."))
SAID = {"run": "run", "round": 0, "code": "update.norm"}


@pytest.fixture
def trained(site, jobs):
    """A site that has trained one round; say(key, changes) tells it what became of its update."""
    site.ledger.add_account("ada@x.org", KEY.verify_key.encode().hex(), "scientist", site.now())
    site.ledger.add_account("bob@x.org", BOB.verify_key.encode().hex(), "scientist", site.now())
    row = approved(site, recipe("popularity"))
    raw = task(sent(site, row, START))
    assert ended(site, jobs, row, raw)["status"] == "done"
    application = app.build(site, None, jobs)

    def say(key, **changes):
        body = json.dumps({"plan": row.fingerprint, **SAID, "run": raw["run"], **changes}).encode()
        status, answer = signed(application, site, key, "PUT", "/fedrec/v1/refusals", body)
        return status, json.loads(answer)

    return site, say, raw["run"]


def test_a_refused_update_is_an_act_in_the_log_and_a_warning_to_the_owner(trained, caplog):
    site, say, run = trained
    with caplog.at_level(logging.WARNING, logger="fedrec.site"):
        assert say(KEY) == (200, {"noted": True})
    assert events(site, "left-out") == ["intent", "done"]
    noted = [event for event in audit.read(site.audit.path) if event["act"] == "left-out"][-1]
    assert (noted["actor"], noted["run"], noted["round"]) == ("ada@x.org", run, 0)
    assert noted["detail"] == {"code": "update.norm"}
    assert f"left out the update of round 0 of {run}: update.norm" in caplog.text


@pytest.mark.parametrize(
    ("who", "changes", "code"),
    [
        (BOB, {}, "job.missing"),
        (KEY, {"round": 1}, "job.missing"),
        (KEY, {"run": "another"}, "job.missing"),
        (KEY, {"plan": "0" * 64}, "job.missing"),
        (KEY, {"code": "he said: 5 stars"}, "task.form"),
        (KEY, {"code": None}, "task.form"),
        (KEY, {"round": True}, "task.form"),
        (KEY, {"run": ["run"]}, "task.form"),
        (KEY, {"plan": {}}, "task.form"),
    ],
)
def test_of_nothing_else_and_in_no_other_words(trained, who, changes, code):
    site, say, _ = trained
    status, answer = say(who, **changes)
    assert (status, answer["code"]) == (403, code)
    assert events(site, "left-out") == []
