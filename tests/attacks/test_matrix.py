"""Who may do what at a running site: the table of roles × every way to do it × the state of the credentials.

Each case is one call signed by hand, PySyft's or the site's own, and expects the code of one certain refusal.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from nacl.signing import SigningKey
from real_sites import ADA_PASSWORD, call_bytes, http_call, send, text_of

from fedrec.errors import WrongInput
from fedrec.exchange import signing
from fedrec.institution.gate import PATHS, Gate
from fedrec.institution.serve import control
from fedrec.institution.site import Keys

pytestmark = pytest.mark.sites

# trust.md, section 5; the ways to each row stand below.
TABLE = """
cards          | ✓   | ✓ | ✓          | ✓ | ✓     | –
mock           | ✓   | ✓ | ✓          | ✓ | –     | –
private rows   | own | – | –          | – | –     | –
other objects  | –   | – | –          | – | –     | –
requests       | ✓   | ✓ | ✓          | – | –     | –
data set       | –   | – | –          | – | –     | –
run            | –   | – | ✓          | – | –     | –
decide         | ✓   | ✓ | –          | – | –     | –
pause          | ✓   | ✓ | –          | – | pause | –
resume         | ✓   | ✓ | –          | – | –     | –
output of jobs | –   | – | –          | – | –     | –
audit log      | ✓   | ✓ | own events | ✓ | –     | –
change the log | –   | – | –          | – | –     | –
users          | –   | – | –          | – | –     | –
code           | –   | – | –          | – | –     | –
"""  # data set, output of jobs and users are the owner's at his own machine: `fedrec site`, its files; no call does them
ROLES = ("owner", "reviewer", "scientist", "auditor", "operator", "anonymous")
CELLS = {
    (row, role): cell != "–"
    for row, *cells in ([part.strip() for part in line.split("|")] for line in TABLE.strip().splitlines())
    for role, cell in zip(ROLES, cells, strict=True)
}
PEOPLE = {"owner": "owner", "second-owner": "owner", **{role: role for role in ROLES[1:]}}
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
    Way("run", f"GET /fedrec/v1/blobs/{NAME}", "permit.missing"),
    Way("run", f"GET /fedrec/v1/jobs/{JOB}?wait=0", "permit.missing"),
    Way("run", "PUT /fedrec/v1/checkpoints", "audit.form"),
    Way("run", "GET /fedrec/v1/requests"),
    Way("run", "GET /fedrec/v1/environment"),
    Way("decide", "request.apply", "permit.missing", uid),
    Way("decide", "request.undo", "permit.missing", lambda known: {**uid(known), "reason": "no"}),
    Way("decide", "user.get_all"),
    Way("decide", "notifications.resolve_object"),
    Way("pause", "POST /fedrec/v1/pause"),
    Way("resume", "POST /fedrec/v1/resume", "permit.running"),
    Way("audit log", "GET /fedrec/v1/audit?after=100000000"),
    *denied("data set", "dataset.add", "dataset.delete", "settings.update", "api.update", "policy.add"),
    *denied("output of jobs", "log.get_stdout", "log.get_stderr", "job.get_all", "job.restart"),
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


@dataclass(frozen=True)
class People:
    """Accounts at one site: a person's key, and the key of one in the same role whose account is disabled."""

    url: str
    uid: str
    live: dict[str, SigningKey]
    disabled: dict[str, SigningKey]
    cookies: dict[str, str]
    known: dict[str, Any]
    elsewhere: str


def sign_in(url: str, email: str, password: str) -> tuple[SigningKey, str]:
    """A login without PySyft's client: the account's key and cookie."""
    import http.client

    import syft as sy

    line = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    line.request("POST", "/api/v2/login", json.dumps({"email": email, "password": password}))
    answer = line.getresponse()
    value = sy.deserialize(answer.read(), from_bytes=True)
    cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
    line.close()
    return value.signing_key.signing_key, cookie


def made(site: Any, email: str, role: str) -> tuple[SigningKey, str]:
    control(site.folder, {"op": "users.add", "email": email, "role": role, "password": ADA_PASSWORD})
    return sign_in(site.url, email, ADA_PASSWORD)


@pytest.fixture(scope="module")
def people(strong: Any, sites: Any) -> Iterator[People]:
    """One person of each role at aurora, live and disabled; nobody of them stays."""
    import syft as sy

    site, tag = strong.site, secrets.token_hex(4)
    live, disabled, cookies = {}, {}, {}
    for person, role in PEOPLE.items():
        if role == "anonymous":
            live[person] = disabled[person] = SigningKey.generate()
            continue
        live[person], cookies[person] = made(site, f"{person}-{tag}@x.example", role)
        email = f"gone-{person}-{tag}@x.example"
        disabled[person], cookies[f"gone {person}"] = made(site, email, role)
        control(site.folder, {"op": "users.disable", "email": email})
    (dataset,) = strong.ada.client.datasets
    known = {"asset": dataset.assets[0].action_id, "new": sy.UID()}
    yield People(site.url, strong.ada.uid, live, disabled, cookies, known, sites.all["borealis"].facts["uid"])
    for person, role in PEOPLE.items():
        if role != "anonymous":
            control(site.folder, {"op": "users.disable", "email": f"{person}-{tag}@x.example"})


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


# the login, and the cookie that it sets


@pytest.mark.parametrize("person", [person for person, role in PEOPLE.items() if role != "anonymous"])
@pytest.mark.parametrize(
    "state", ["live", "disabled", "expired", "another person's", "another site's", "changed", "none"]
)
def test_the_schema_is_for_a_live_login_and_cut_to_the_role(person, state, people, strong):
    import syft as sy

    key = (people.disabled if state == "disabled" else people.live)[person].verify_key.encode().hex()
    secret = Keys.load_or_make(strong.site.folder / "state").cookie_secret
    gone = f"{key}.{int(time.time()) - 1}"
    cookie = {
        "live": people.cookies[person],
        "disabled": people.cookies[f"gone {person}"],
        "expired": f"fedrec={gone}.{hmac_of(secret, gone)}",
        "another person's": people.cookies["owner" if person != "owner" else "auditor"],
        "another site's": f"fedrec={Gate('', lambda _: None, lambda _: True, b'x' * 32).cookie(key)}",
        "changed": people.cookies[person][:-1] + ("0" if people.cookies[person][-1] != "0" else "1"),
        "none": "",
    }[state]
    protocol = strong.ada.client.communication_protocol
    target = f"/api/v2/api?verify_key={key}&communication_protocol={protocol}"
    status, body = http_call(people.url, "GET", target, headers={"Cookie": cookie})
    if state == "live":
        assert status == 200
        items = sy.deserialize(body, from_bytes=True).endpoints
        paths = {item.service_path for name, item in items.items() if name != "fedrec.round"}
        assert paths <= PATHS[PEOPLE[person]]
        assert "dataset.get_all" in paths
        assert ("fedrec.round" in items) is (person == "scientist")
    else:
        assert (status, json.loads(body)["code"]) == (403, "gate.role")


def hmac_of(secret: bytes, text: str) -> str:
    import hmac

    return hmac.new(secret, text.encode(), "sha256").hexdigest()


def test_an_expired_cookie_is_refused_for_its_time_alone(people, strong):
    """The control of `expired` above: the same words with a later end are a good cookie."""
    key = people.live["owner"].verify_key.encode().hex()
    secret = Keys.load_or_make(strong.site.folder / "state").cookie_secret
    later = f"{key}.{int(time.time()) + 60}"
    protocol = strong.ada.client.communication_protocol
    target = f"/api/v2/api?verify_key={key}&communication_protocol={protocol}"
    cookie = {"Cookie": f"fedrec={later}.{hmac_of(secret, later)}"}
    assert http_call(people.url, "GET", target, headers=cookie)[0] == 200


@pytest.mark.parametrize("role", ROLES[:-1])
def test_a_login_is_for_the_right_password_of_a_live_account(role, strong):
    email, url = f"in-{role}-{secrets.token_hex(4)}@x.example", strong.url

    def login(password: str) -> str:
        import syft as sy

        body = json.dumps({"email": email, "password": password}).encode()
        return type(sy.deserialize(http_call(url, "POST", "/api/v2/login", body)[1], from_bytes=True)).__name__

    assert login(ADA_PASSWORD) == "SyftError"  # nobody yet
    made(strong.site, email, role)
    assert [login(ADA_PASSWORD), login("wrong-password")] == ["UserPrivateKey", "SyftError"]
    control(strong.site.folder, {"op": "users.disable", "email": email})
    assert login(ADA_PASSWORD) == "SyftError"


# approve one's own request, and what a change of role does


@pytest.mark.parametrize("role", ["owner", "reviewer"])
def test_who_sent_a_request_does_not_decide_on_it_in_any_later_role(role, strong):
    import syft as sy
    from real_sites import fresh, login, submit_one

    email = f"was-{role}-{secrets.token_hex(4)}@x.example"
    made(strong.site, email, "scientist")
    person = login(strong.site, email, ADA_PASSWORD)
    request = submit_one(person, fresh())
    call = lambda: text_of(send(strong.url, call_bytes(person.key, person.uid, "request.apply", uid=sy.UID(request))))  # noqa: E731
    assert call().startswith("gate.role: a scientist may not call this")
    made(strong.site, email, role)
    assert call().startswith("gate.self: ")
    made(strong.site, email, "auditor")
    assert call().startswith("gate.role: a auditor may not call this")
    control(strong.site.folder, {"op": "users.disable", "email": email})
    assert call().startswith("gate.role: this key has no account here")


def test_an_operators_card_has_no_schema(people, strong):
    import syft as sy

    def card(person: str) -> str:
        answer = send(people.url, call_bytes(people.live[person], people.uid, "dataset.get_all"))
        return str(next(iter(answer.value)).description.text)

    assert isinstance(people.known["asset"], sy.UID)
    whole, cut = card("auditor"), card("operator")
    assert "## Schema" in whole
    assert whole.startswith(cut)
    assert cut.startswith("# ")
    assert "## Schema" not in cut


# the control socket, for the person at the machine


@pytest.mark.parametrize("role", ["admin", "root", "guest", "DATA_OWNER", "", "Owner", "owner "])
def test_a_role_that_does_not_exist_is_not_given(role, strong):
    command = {"op": "users.add", "email": "eve@x.example", "role": role, "password": ADA_PASSWORD}
    with pytest.raises(WrongInput, match="role is one of owner, reviewer, scientist, auditor, operator"):
        control(strong.site.folder, command)
    assert "eve@x.example" not in {user["email"] for user in control(strong.site.folder, {"op": "users.list"})["users"]}


@pytest.mark.parametrize("role", ROLES[1:-1])
def test_the_owner_named_in_the_settings_stays_the_owner(role, strong):
    site = strong.site
    with pytest.raises(WrongInput, match="stays the owner"):
        control(site.folder, {"op": "users.add", "email": site.owner, "role": role, "password": ADA_PASSWORD})
    with pytest.raises(WrongInput, match="cannot be disabled"):
        control(site.folder, {"op": "users.disable", "email": site.owner})
    accounts = control(site.folder, {"op": "users.list"})["users"]
    assert {"email": site.owner, "role": "owner", "enabled": True} in accounts


@pytest.mark.parametrize("op", ["pause", "resume", "approve", "requests.approve", "audit", "users.delete", ""])
def test_the_control_socket_decides_nothing_without_a_name(op, strong):
    with pytest.raises(WrongInput, match="unknown command"):
        control(strong.site.folder, {"op": op, "reason": "x"})
