"""The institution's own applications ask over HTTP with a token; nobody else gets a recommendation."""

from __future__ import annotations

import json

import pytest
from asking import ask, signed
from click.testing import CliRunner
from nacl.signing import SigningKey
from serving import COUNTS, serve

from fedrec.cli.main import cli
from fedrec.exchange import signing
from fedrec.exchange.wire import sha256
from fedrec.institution import app, applications, audit
from fedrec.institution.applications import drop_token, new_token
from fedrec.institution.recommending import Recommender

WHERE = "/fedrec/v1/recommend"
ROLES = ("owner", "reviewer", "scientist", "auditor", "operator")
KEYS = {role: SigningKey(role.encode().ljust(32, b".")) for role in (*ROLES, "guest")}
ASKED = b'{"user": "canary-0", "k": 2}'


@pytest.fixture
def application(site, jobs):
    for role in ROLES:
        site.ledger.add_account(f"{role}@x.org", KEYS[role].verify_key.encode().hex(), role, site.now())
    serve(site, shared=COUNTS)
    return app.build(site, None, jobs)


def post(application, token, body=ASKED, **more):
    headers = {**({} if token is None else {"Authorization": f"Bearer {token}"}), **more.pop("headers", {})}
    status, answer = ask(application, "POST", WHERE, headers, body, **more)
    return status, json.loads(answer)


def test_an_application_with_the_token_gets_what_the_command_gives(application, site):
    token = new_token(site.state)
    found = Recommender(site.folder).for_user("canary-0", 2)
    rows = [{"item": item, "title": found.titles[item]} for item in found.items]
    assert post(application, token) == (200, {"known": True, "how": "list", "model": "shared", "items": rows})
    status, answer = post(application, token, b'{"items": ["film-7", "film-6"], "k": 1, "explain": true}')
    assert (status, answer["how"], answer["items"][0]["item"]) == (200, "folded", "film-5")
    assert answer["items"][0]["because"] == []  # popularity has no reasons
    assert post(application, token, b'{"user": "stranger", "k": 1}')[1]["known"] is False


def test_another_model_counts_at_once(application, site):
    token = new_token(site.state)
    assert post(application, token)[1]["items"][0]["item"] == "film-7"
    serve(site, shared={"counts": COUNTS["counts"][::-1].copy()})
    assert post(application, token)[1]["items"][0]["item"] == "film-5"


@pytest.mark.parametrize("who", [*ROLES, "guest"])
def test_no_account_gets_recommendations_whatever_it_shows(who, application, site):
    """A guest's key has no account. The control: the same call without the signature, and with the table open."""
    token = new_token(site.state)
    status, answer = signed(application, site, KEYS[who], "POST", WHERE, ASKED)
    assert (status, json.loads(answer)["code"]) == (403, "gate.role")
    headers = signing.headers(KEYS[who], "POST", WHERE, site.keys.uid, body=sha256(ASKED))
    assert post(application, token, headers=headers)[1]["code"] == "gate.role"
    assert post(application, token)[0] == 200


def test_control_the_gates_table_alone_keeps_a_signed_call_away(application, site, monkeypatch):
    monkeypatch.setattr(app, "OWN", {**app.OWN, "POST recommend": frozenset({"scientist"})})
    status, answer = signed(application, site, KEYS["scientist"], "POST", WHERE, ASKED)
    assert (status, json.loads(answer)["known"]) == (200, True)


def test_every_other_token_is_refused(application, site):
    assert post(application, "")[1]["code"] == "gate.token"  # there is none yet
    token = new_token(site.state)
    assert post(application, token)[0] == 200
    for other in (token[:-1], token + "0", token.swapcase() + "A", "", "é", site.keys.public):
        assert post(application, other)[1]["code"] == "gate.token"
    assert post(application, None)[1]["code"] == "gate.signature"
    assert post(application, None, headers={"Authorization": f"Basic {token}"})[1]["code"] == "gate.token"
    second = new_token(site.state)
    assert (post(application, token)[1]["code"], post(application, second)[0]) == ("gate.token", 200)
    drop_token(site.state)
    assert post(application, second)[1]["code"] == "gate.token"


def test_a_token_that_others_can_read_is_none(application, site):
    token = new_token(site.state)
    path = site.state / "keys" / "app.token"
    assert (path.stat().st_mode & 0o777, path.read_text()) == (0o600, token)
    path.chmod(0o644)
    assert post(application, token)[1]["code"] == "gate.token"


def test_who_tries_tokens_is_told_to_wait(application, site):
    new_token(site.state)
    codes = [post(application, f"{number:064x}", address="10.0.0.9")[1]["code"] for number in range(400)]
    assert (codes[0], codes[-1]) == ("gate.token", "gate.rate")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'"x"', b"{}", b'{"user": 7}', b'{"user": "a", "items": ["b"]}', b'{"user": "a", "k": 0}',
        b'{"user": "a", "k": true}', b'{"items": [1]}', b'{"items": "film-1"}', b'{"user": "a", "who": 1}',
        b'{"user": "a", "where": ["x"]}', b"[" * 60_000, json.dumps({"items": ["film-1"] * 1001}).encode(),
    ],
)  # fmt: skip
def test_a_question_of_another_form_is_refused(application, site, body):
    assert post(application, new_token(site.state), body)[1]["code"] == "recommend.form"


def test_a_long_question_is_not_read_to_its_end(application, site):
    token = new_token(site.state)
    assert post(application, token, b" " * (applications.MAX_ASKED + 1))[0] == 413


def test_the_log_has_counts_and_no_id(application, site):
    token = new_token(site.state)
    for _ in range(5):
        post(application, token)
    code = post(application, token, b'{"user": "canary-1", "k": 0}')[1]["code"]
    calls = [
        event for event in audit.read(site.audit.path) if event["actor"] == "application" and event["of"] is not None
    ]
    assert [(one["object"], one["outcome"]) for one in calls] == [("POST recommend", "done"), ("POST recommend", code)]
    assert calls[0]["detail"] == {"users": 1, "items": 2}  # the four of the same second are counted by the next event
    assert calls[0]["role"] == "application"
    told = "".join(map(str, audit.read(site.audit.path)))
    assert "canary" not in told
    assert token not in told
    assert "film" not in told


def test_the_command_makes_a_token_and_takes_it_back_and_the_log_says_so(site):
    made = CliRunner().invoke(cli, ["site", "token", str(site.folder)])
    path = site.state / "keys" / "app.token"
    assert (made.exit_code, made.output.strip()) == (0, path.read_text())
    assert CliRunner().invoke(cli, ["site", "token", str(site.folder), "--off"]).exit_code == 0
    assert not path.exists()
    acts = [(event["object"], event["outcome"]) for event in audit.read(site.folder, "token")]
    assert acts == [("new", "intent"), ("new", "done"), ("off", "intent"), ("off", "done")]
