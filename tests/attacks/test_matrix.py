"""Who may do what at a running site: the table of roles × every way to do it × the state of the credentials.

Each case is one call signed by hand, PySyft's or the site's own, and expects the code of one certain refusal.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey
from people import PEOPLE, ROLES, People, made
from real_sites import call_bytes, http_call, send, text_of

from fedrec.exchange import signing
from fedrec.institution.gate import PATHS

pytestmark = pytest.mark.sites

# trust.md, section 5; the ways to each row stand below.
TABLE = """
cards          | ✓   | ✓ | ✓          | ✓ | ✓     | –
mock           | ✓   | ✓ | ✓          | ✓ | –     | –
private rows   | own | – | –          | – | –     | –
other objects  | –   | – | –          | – | –     | –
requests       | ✓   | ✓ | ✓          | – | –     | –
update         | –   | – | ✓          | – | –     | –
data set       | –   | – | –          | – | –     | –
run            | –   | – | ✓          | – | –     | –
decide         | ✓   | ✓ | –          | – | –     | –
pause          | ✓   | ✓ | –          | – | pause | –
resume         | ✓   | ✓ | –          | – | –     | –
output of jobs | –   | – | –          | – | –     | –
recommendations| –   | – | –          | – | –     | –
audit log      | ✓   | ✓ | own events | ✓ | –     | –
evidence pack  | ✓   | ✓ | –          | ✓ | –     | –
change the log | –   | – | –          | – | –     | –
users          | –   | – | –          | – | –     | –
code           | –   | – | –          | – | –     | –
"""  # data set, output of jobs and users are the owner's at his own machine: `fedrec site`, its files; no call does them;
# recommendations are for the institution's own applications, by a token that no account has
CELLS = {
    (row, role): cell != "–"
    for row, *cells in ([part.strip() for part in line.split("|")] for line in TABLE.strip().splitlines())
    for role, cell in zip(ROLES, cells, strict=True)
}
# trust.md's actions → rows above; what a person does at the institution's machine, or not at all, has no call:
# docs/threat-model.md names it.
ACTIONS = {
    "list dataset cards": {"cards"},
    "read mock, schema": {"mock"},
    "read private rows": {"private rows", "other objects"},
    "register, change, withdraw dataset; policy, epsilon limit": {"data set"},
    "submit request": {"run", "requests"},
    "cancel own run": set(),
    "execute under a live permit": {"run", "code"},
    "approve own request": {"decide"},
    "approve, deny, revoke, pause": {"decide", "pause", "resume"},
    "see one site's update in clear": {"update"},
    "job stdout, stderr, tracebacks": {"output of jobs"},
    "read this site's audit log": {"audit log"},
    "export evidence pack": {"evidence pack"},
    "change or delete audit events, stop logging": {"change the log"},
    "create users, grant roles": {"users"},
}
OURS = {"recommendations"}  # not in trust.md's table
# Actions that somebody may do in trust.md's table, though no call of his does it here.
ELSEWHERE = {
    "read private rows",
    "register, change, withdraw dataset; policy, epsilon limit",
    "cancel own run",
    "see one site's update in clear",
    "job stdout, stderr, tracebacks",
    "create users, grant roles",
}
NAME, JOB = "ab" * 32, "cd" * 32


@dataclass(frozen=True)
class Way:
    """One call that would do what a row says.

    Args:
        passes: the code that comes behind the gate; empty for PySyft's value or error, or 200.
        given: its keyword arguments, made from the data set's UIDs.
    """

    row: str
    call: str
    passes: str = ""
    given: Callable[[dict[str, Any]], dict[str, Any]] = lambda _: {}

    @property
    def own(self) -> bool:
        """Whether it is one of the site's own routes."""
        return " " in self.call


def uid(known: dict[str, Any]) -> dict[str, Any]:
    return {"uid": known["new"]}


def denied(row: str, *calls: str) -> list[Way]:
    return [Way(row, call) for call in calls]


WAYS = [
    Way("cards", "dataset.get_all"),
    Way("cards", "metadata.get_metadata"),
    Way("cards", "user.get_current_user"),
    Way("mock", "action.get_mock", given=lambda known: {"uid": known["asset"]}),
    Way("private rows", "action.get", given=lambda known: {"uid": known["asset"]}),
    Way("other objects", "action.get", given=uid),
    Way("requests", "request.get_all"),
    Way("run", "code.request_code_execution", "request.form", lambda _: {"code": "print(1)"}),
    Way("run", "code.call", "permit.missing", uid),
    Way("run", "action.set"),
    Way("run", "action.has_storage_permission"),
    Way("run", "api.view", given=lambda _: {"path": "fedrec.round"}),
    Way("run", f"PUT /fedrec/v1/blobs/{NAME}", "permit.missing"),
    Way("update", f"GET /fedrec/v1/blobs/{NAME}", "permit.missing"),
    Way("run", f"GET /fedrec/v1/jobs/{JOB}?wait=0", "permit.missing"),
    Way("run", "PUT /fedrec/v1/checkpoints", "audit.form"),
    Way("run", "PUT /fedrec/v1/refusals", "task.form"),
    Way("run", "GET /fedrec/v1/requests"),
    Way("run", "GET /fedrec/v1/environment"),
    Way("decide", "request.apply", "permit.missing", uid),
    Way("decide", "request.undo", "permit.missing", lambda known: {**uid(known), "reason": "no"}),
    Way("decide", f"POST /fedrec/v1/releases/{JOB}", "permit.missing"),
    Way("decide", "user.get_all"),
    Way("decide", "notifications.resolve_object"),
    Way("pause", "POST /fedrec/v1/pause"),
    Way("resume", "POST /fedrec/v1/resume", "permit.running"),
    Way("audit log", "GET /fedrec/v1/audit?after=100000000"),
    Way("evidence pack", "GET /fedrec/v1/packs/nothing?alone=1", "pack.run"),
    *denied("data set", "dataset.add", "dataset.delete", "settings.update", "api.update", "policy.add"),
    *denied("output of jobs", "log.get_stdout", "log.get_stderr", "job.get_all", "job.restart"),
    *denied("recommendations", "POST /fedrec/v1/recommend"),
    *denied("change the log", "output.create", "code.store_execution_output"),
    *denied("users", "user.create", "user.update", "user.delete", "user.view"),
    *denied("code", "code.submit", "api.call", "code_history.submit_version", "worker_pool.launch", "network.add_peer"),
]
STATES = ("live", "disabled", "other key", "another site's", "old", "none")


def expected(way: Way, person: str, state: str) -> str:
    """The code of the answer, from the table."""
    role = PEOPLE[person]
    nobody = role == "anonymous" or state == "disabled"
    may = CELLS[way.row, role] and not nobody
    if state in ("none", "other key") or (way.own and state == "another site's"):
        return "gate.signature"  # an own route's signature is over the site's UID too
    if way.own and state == "old":
        return "gate.time"
    if nobody:
        return "gate.role"
    if state == "another site's":
        return "gate.site"
    if state == "old" and way.call in PATHS[role]:
        return "gate.replay"
    return way.passes if may else "gate.role"


def syft_call(here: People, way: Way, person: str, state: str, source: str) -> str:
    """The code of the answer to a PySyft call; empty when PySyft answered."""
    import syft as sy
    from syft.client.api import SyftAPICall
    from syft.server.credentials import SyftSigningKey

    key = (here.disabled if state == "disabled" else here.live)[person]
    given = way.given(here.known)
    if state in ("none", "other key"):
        call = SyftAPICall(server_uid=sy.UID(here.uid), path=way.call, args=[], kwargs=given, blocking=True)
        if state == "other key":
            call = call.sign(SyftSigningKey(signing_key=SigningKey.generate()))
            call.credentials = SyftSigningKey(signing_key=key).verify_key
        body = sy.serialize(call, to_bytes=True)
    else:
        body = call_bytes(key, here.elsewhere if state == "another site's" else here.uid, way.call, **given)
    if state == "old":
        send(here.url, body, source)
    return code_in(text_of(send(here.url, body, source)))


def own_call(here: People, way: Way, person: str, state: str, source: str) -> str:
    """The code of the answer to a call of an own route; empty for 200."""
    method, _, target = way.call.partition(" ")
    key = (here.disabled if state == "disabled" else here.live)[person]
    site = here.elsewhere if state == "another site's" else here.uid
    digest = NAME if target.startswith("/fedrec/v1/blobs/") and method == "PUT" else signing.EMPTY
    headers = signing.headers(key, method, target, site, body=digest)
    if state == "none":
        headers = {}
    if state == "other key":
        headers["X-Fedrec-Signature"] = SigningKey.generate().sign(b"x").signature.hex()
    if state == "old":
        when, nonce = str(int(time.time()) - signing.WINDOW_S - 5), headers["X-Fedrec-Nonce"]
        text = signing.message(method, target, site, digest, when, nonce, "")
        headers |= {"X-Fedrec-Time": when, "X-Fedrec-Signature": key.sign(text).signature.hex()}
    status, body = http_call(here.url, method, target, headers=headers, source=source)
    return "" if status == 200 else str(json.loads(body)["code"])


def code_in(text: str) -> str:
    found = re.match(r"([a-z]+\.[a-z_]+): ", text)
    return found[1] if found else ""


CASES = [
    pytest.param(way, person, state, id=f"{person}-{way.row}-{way.call}-{state}")
    for way in WAYS
    for person in PEOPLE
    for state in (STATES if any(CELLS[way.row, role] for role in ROLES) else STATES[:2])
    if not (person == "anonymous" and state == "disabled")
]


@pytest.mark.parametrize(("way", "person", "state"), CASES)
def test_a_call_is_answered_as_the_table_says(way, person, state, people):
    source = f"127.0.1.{1 + list(PEOPLE).index(person)}"  # strangers are limited by their address
    code = (own_call if way.own else syft_call)(people, way, person, state, source)
    if way.row == "pause" and code == "":  # nobody else may find the site paused
        again = Way("resume", "POST /fedrec/v1/resume")
        assert own_call(people, again, "owner", "live", source) == ""
    assert code == expected(way, person, state)


def test_the_table_is_the_whole_table():
    """Each path and own route of the gate is a way here, so a new one fails until it has a row."""
    from fedrec.institution.gate import OWN

    assert {path for paths in PATHS.values() for path in paths} <= {way.call for way in WAYS}
    ways = {f"{way.call.split()[0]} {way.call.split('/')[3].split('?')[0]}" for way in WAYS if way.own}
    assert set(OWN) == ways
    assert len(CASES) > 1000
    assert set.union(OURS, *ACTIONS.values()) == {way.row for way in WAYS} == {row for row, _ in CELLS}
    page = (Path(__file__).parents[2] / "docs" / "threat-model.md").read_text(encoding="utf-8")
    body = page.partition("## Done without a call")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| ([^|]+?) \|", body, re.M)) - {"action", "---"} == ELSEWHERE
    assert {action for action, rows in ACTIONS.items() if not rows} <= ELSEWHERE


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
@pytest.mark.parametrize("person", PEOPLE)
def test_nobody_changes_the_log(method, person, people):
    headers = signing.headers(people.live[person], method, "/fedrec/v1/audit", people.uid)
    assert http_call(people.url, method, "/fedrec/v1/audit", headers=headers)[0] == 405


def test_without_the_tables_every_call_of_an_account_passes(arena):
    """The control: at a site whose tables are off, an operator's calls reach what lies behind them."""
    weak = arena(False, "role")
    (dataset,) = weak.ada.client.datasets
    key, _ = made(weak.site, "operator@x.example", "operator")
    import syft as sy

    known = {"asset": dataset.assets[0].action_id, "new": sy.UID()}
    here = People(weak.url, weak.ada.uid, {"operator": key}, {}, {}, known, "")
    codes = {
        way.call: (own_call if way.own else syft_call)(here, way, "operator", "live", "127.0.0.1")
        for way in WAYS
        if expected(way, "operator", "live") == "gate.role" and way.call != "action.get"
    }
    assert len(codes) > 30
    assert {call for call, code in codes.items() if code == "gate.role"} == set()
