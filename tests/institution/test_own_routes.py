"""Who pauses the site and who reads its log over the site's own routes, and how often; without PySyft."""

from __future__ import annotations

import json
import resource

import pytest
from asking import ask, messages, signed
from nacl.signing import SigningKey
from small_site import KEY, OWNER, START, approved, ended, events, recipe, sent, task

from fedrec.errors import Refused
from fedrec.exchange import signing
from fedrec.exchange.wire import canonical, encode, sha256
from fedrec.institution import app, audit, gate

ROLES = ("owner", "reviewer", "scientist", "auditor", "operator")
KEYS = {role: SigningKey(role.encode().ljust(32, b".")) for role in (*ROLES, "stranger")}
PAUSE, RESUME, AUDIT = "/fedrec/v1/pause", "/fedrec/v1/resume", "/fedrec/v1/audit"


@pytest.fixture
def application(site, jobs):
    for role in ROLES:
        site.ledger.add_account(f"{role}@x.org", KEYS[role].verify_key.encode().hex(), role, site.now())
    return app.build(site, None, jobs)


@pytest.fixture
def say(application, site):
    """say(who, method, target, body): the answer to a call signed by that role's account."""

    def call(who, method, target, body=b"", **more):
        status, answer = signed(application, site, KEYS[who], method, target, body, **more)
        return status, json.loads(answer)

    return call


def page(say, who, after=-1):
    status, answer = say(who, "GET", f"{AUDIT}?after={after}")
    assert status == 200, answer
    return answer


# the pause


@pytest.mark.parametrize("who", ["owner", "reviewer", "operator"])
def test_owner_reviewer_and_operator_pause_by_name_and_the_first_two_resume(who, say, site, jobs):
    row = approved(site, recipe("popularity"))
    assert say(who, "POST", PAUSE, b"storm") == (200, {"paused": True, "still_running": 0})
    assert say(who, "POST", PAUSE, b"still") == (200, {"paused": True, "still_running": 0})
    with pytest.raises(Refused, match=r"permit\.paused.*still"):
        jobs.start(row.key, row.fingerprint, task(sent(site, row, START)))
    assert (site.ledger.paused(), events(site, "pause")) == (True, ["intent", "done"] * 2)
    assert next(event["actor"] for event in audit.read(site.audit.path) if event["act"] == "pause") == f"{who}@x.org"
    status, answer = say(who, "POST", RESUME)
    if who == "operator":
        assert (status, answer["code"], site.ledger.paused()) == (403, "gate.role", True)
        assert say("owner", "POST", RESUME)[0] == 200
    else:
        assert (status, answer) == (200, {"paused": False, "again": 0})
    assert not site.ledger.paused()
    assert say("owner", "POST", RESUME)[1]["code"] == "permit.running"


@pytest.mark.parametrize("who", ["scientist", "auditor", "stranger"])
def test_nobody_else_pauses_or_resumes(who, say, site):
    assert say(who, "POST", PAUSE)[1]["code"] == "gate.role"
    assert not site.ledger.paused()
    site.ledger.pause("", site.now())
    assert say(who, "POST", RESUME)[1]["code"] == "gate.role"
    assert site.ledger.paused()


def test_the_reason_of_a_pause_is_signed_and_short(application, site):
    headers = signing.headers(KEYS["owner"], "POST", PAUSE, site.keys.uid, body=gate.hashlib.sha256(b"a").hexdigest())
    assert json.loads(ask(application, "POST", PAUSE, headers, b"b")[1])["code"] == "gate.signature"
    assert ask(application, "POST", PAUSE, headers, b"a" * 1001)[0] == 413
    assert not site.ledger.paused()
    assert ask(application, "POST", PAUSE, headers, b"a")[0] == 200


# the log


@pytest.mark.parametrize("who", ["owner", "reviewer", "auditor"])
def test_owner_reviewer_and_auditor_read_the_log_as_it_is_on_disk(who, say, site):
    approved(site, recipe("popularity"))
    before = [json.loads(line) for line in site.audit.path.read_bytes().splitlines()]
    answer = page(say, who)
    assert answer["events"][: len(before)] == before
    assert all((site.audit.folder / "texts" / name).read_text() == text for name, text in answer["texts"].items())
    assert answer["next"] is None
    *_, intent, outcome = audit.read(site.audit.path)  # reading is an act as well
    assert (intent["actor"], intent["act"], intent["outcome"]) == (f"{who}@x.org", "read", "intent")
    assert (outcome["outcome"], outcome["detail"]["events"]) == ("done", len(answer["events"]))


def test_a_scientist_reads_his_own_acts_and_no_others(say, site):
    site.audit.event("scientist@x.org", "scientist", "train", "f", outcome="done")
    site.audit.event("other@x.org", "scientist", "train", "f", outcome="done")
    site.audit.event(OWNER.email, "owner", "approve", "f", outcome="done")
    answer = page(say, "scientist")
    found = answer["events"]
    assert len({event["actor"] for event in found}) == 1
    assert [text.partition("\n")[2] for text in answer["texts"].values()] == ["scientist@x.org"]  # nobody else's
    assert [event["act"] for event in found] == ["train", "train", "read"]  # intent and outcome; the read goes on
    told = {text.partition("\n")[2] for text in page(say, "auditor")["texts"].values()}
    assert told >= {"other@x.org", OWNER.email}


@pytest.mark.parametrize("who", ["operator", "stranger"])
def test_nobody_else_reads_the_log(who, say, site):
    status, answer = say(who, "GET", AUDIT)
    assert (status, answer["code"], set(answer)) == (403, "gate.role", {"status", "code", "reason", "next_step"})
    assert not events(site, "read")


def test_a_long_log_comes_in_pages_that_hold_every_event_once(say, site, monkeypatch):
    monkeypatch.setattr(app, "PAGE", 3000)  # a limit; about eight events
    for number in range(50):
        site.audit.event("site", "site", "fill", str(number), outcome="done")
    found, after, pages = [], -1, 0
    while after is not None:
        answer = page(say, "auditor", after)
        assert 0 < len(b"".join(canonical(event) for event in answer["events"])) <= 3000
        found += answer["events"]
        after, pages = answer["next"], pages + 1
    assert [event["seq"] for event in found] == list(range(len(found)))
    assert [event["object"] for event in found if event["act"] == "fill"] == [str(number // 2) for number in range(100)]
    assert pages > 5
    monkeypatch.setattr(app, "PAGE", 1)  # an event larger than a page comes alone
    assert len(page(say, "auditor")["events"]) == 1


@pytest.mark.parametrize("after", ["x", "-2", "1.5", "", "9" * 16])
def test_a_wrong_number_of_an_event_reads_from_the_start(after, say):
    assert page(say, "owner", after)["events"][0]["seq"] == 0


def test_a_page_behind_the_end_is_empty(say):
    assert page(say, "owner", 10**14) == {"events": [], "texts": {}, "next": None}


def test_a_read_that_cannot_be_noted_reads_nothing(say, site):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (site.audit.path.stat().st_size, hard))  # as if the disk were full
    try:
        status, answer = say("owner", "GET", AUDIT)
        assert (status, answer["code"]) == (403, "audit.write")
        assert say("operator", "GET", AUDIT)[1]["code"] == "gate.role"  # a refusal is said, noted or not
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert page(say, "owner")["events"]


# who is refused, and how often


def test_a_refusal_of_an_account_names_it_in_the_log_and_a_strangers_does_not(say, site):
    say("operator", "GET", AUDIT)
    say("stranger", "GET", AUDIT)
    known, unknown = list(audit.read(site.audit.path))[-4:][1::2]
    assert (known["actor"], known["object"], known["outcome"]) == ("operator@x.org", "GET audit", "gate.role")
    assert (unknown["actor"], unknown["detail"]) == ("anonymous", {"refused": 1})


def test_a_route_that_the_table_of_roles_does_not_name_is_nobodys(say, monkeypatch):
    monkeypatch.setattr(app, "OWN", {})
    for role in ROLES:
        assert say(role, "GET", AUDIT)[1]["code"] == "gate.role"


def test_calls_of_one_account_are_limited(site, jobs, monkeypatch):
    monkeypatch.setattr(gate, "CALLS", (20.0, 0.001))  # limits: a slow machine never reaches the real ones
    for role in ("scientist", "owner"):
        site.ledger.add_account(f"{role}@x.org", KEYS[role].verify_key.encode().hex(), role, site.now())
    application, target = app.build(site, None, jobs), "/fedrec/v1/requests"
    said = [signed(application, site, KEYS["scientist"], "GET", target) for _ in range(22)]
    assert [status for status, _ in said] == [200] * 20 + [429] * 2
    assert json.loads(said[-1][1])["code"] == "gate.rate"
    assert signed(application, site, KEYS["owner"], "GET", AUDIT)[0] == 200


def test_strangers_of_one_address_are_told_to_wait_and_accounts_there_are_not(site, jobs, monkeypatch):
    monkeypatch.setattr(gate, "STRANGERS", (20.0, 0.001))
    site.ledger.add_account("owner@x.org", KEYS["owner"].verify_key.encode().hex(), "owner", site.now())
    application = app.build(site, None, jobs)
    answers = [ask(application, "GET", AUDIT, address="10.0.0.1") for _ in range(22)]
    assert [status for status, _ in answers] == [403] * 20 + [429] * 2
    assert json.loads(answers[-1][1])["code"] == "gate.rate"
    good = signing.headers(KEYS["owner"], "GET", AUDIT, site.keys.uid)
    assert ask(application, "GET", AUDIT, good, address="10.0.0.1")[0] == 200
    assert ask(application, "GET", AUDIT, address="10.0.0.2")[0] == 403
    assert len(events(site, "call")) <= 3  # and the log has not grown with them


# what a scientist's permit opens


@pytest.fixture
def permitted(site, application):
    """A request with a live permit of the scientist, whose key is small_site.KEY."""
    return approved(site, recipe("popularity"))


def test_a_round_goes_over_the_own_routes(site, application, permitted, jobs):
    def call(method, target, body=b"", permit=permitted.id):
        status, answer = signed(application, site, KEY, method, target, body, permit)
        return status, answer if answer[:1] != b"{" else json.loads(answer)

    model = encode(START)
    assert call("PUT", f"/fedrec/v1/blobs/{sha256(model)}", model) == (
        200,
        {"sha256": sha256(model), "bytes": len(model)},
    )
    answer = ended(site, jobs, permitted, task(sha256(model)))
    key, update = answer["key"], answer["passport"]["sha256"]
    for wait in ("?wait=25", "?wait=x", ""):
        assert call("GET", f"/fedrec/v1/jobs/{key}{wait}")[1]["status"] == "done"
    status, data = call("GET", f"/fedrec/v1/blobs/{update}")
    assert (status, sha256(data)) == (200, update)
    status, listed = call("GET", "/fedrec/v1/requests", permit="")
    assert [row["id"] for row in listed["requests"]] == [permitted.id]
    for method, target, permit, code in (
        ("GET", f"/fedrec/v1/blobs/{update}", "", "permit.missing"),
        ("GET", f"/fedrec/v1/blobs/{update}", permitted.code, "permit.missing"),  # PySyft's id is no permit
        ("GET", f"/fedrec/v1/blobs/{'0' * 64}", permitted.id, "update.gone"),
        ("GET", "/fedrec/v1/blobs/..%2Fx", permitted.id, "gate.digest"),
        ("GET", "/fedrec/v1/jobs/x", permitted.id, "job.missing"),
    ):
        assert call(method, target, permit=permit)[1]["code"] == code
    site.ledger.decide(permitted.id, "revoked", OWNER.email, site.now(), "no more")
    for method, target in (("GET", f"/fedrec/v1/blobs/{update}"), ("GET", f"/fedrec/v1/jobs/{key}")):
        assert call(method, target)[1]["code"] == "permit.revoked"


def test_a_body_that_is_not_what_its_name_says_is_not_kept(site, application, permitted):
    headers = signing.headers(
        KEY, "PUT", f"/fedrec/v1/blobs/{'a' * 64}", site.keys.uid, body="a" * 64, permit=permitted.id
    )
    status, answer = ask(application, "PUT", f"/fedrec/v1/blobs/{'a' * 64}", headers, b"something else")
    assert (status, list(site.blobs.path("in", permitted.id, "x").parent.glob("*"))) == (403, [])
    assert json.loads(answer)["code"] == "gate.digest"


@pytest.mark.parametrize(
    ("headers", "closed"),
    [
        ({"Content-Length": str(300 * 10**6)}, True),
        ({"Transfer-Encoding": "chunked"}, True),
        ({"Content-Length": "3000000"}, False),
        ({"Content-Length": "x"}, False),
        ({}, False),
    ],
)
def test_the_line_of_a_stranger_with_a_long_body_is_closed(headers, closed, application, site):
    start, _ = messages(application, "POST", PAUSE, headers, b"x" * 1001, more=True)
    assert ((b"connection", b"close") in start["headers"]) is closed
    known = headers | signing.headers(KEYS["owner"], "GET", AUDIT, site.keys.uid)
    start, _ = messages(application, "GET", AUDIT, known, more=True)  # an account's runs out
    assert start["status"] == 200
    assert (b"connection", b"close") not in start["headers"]
