"""Logins, cookies, changes of role and the control socket: what an account is worth, and for how long."""

from __future__ import annotations

import json
import secrets
import time

import pytest
from people import PEOPLE, ROLES, made
from real_sites import ADA_PASSWORD, call_bytes, http_call, send, text_of

from fedrec.errors import WrongInput
from fedrec.institution.gate import PATHS, Gate
from fedrec.institution.serve import control
from fedrec.institution.site import Keys

pytestmark = pytest.mark.sites

# the login, and the cookie that it sets


@pytest.mark.parametrize("person", [person for person, role in PEOPLE.items() if role != "anonymous"])
@pytest.mark.parametrize(
    "state", ["live", "disabled", "expired", "another person's", "another site's", "changed", "none"]
)
def test_the_schema_is_for_a_live_login_and_cut_to_the_role(person, state, people, strong):
    """The controls are below; that of a disabled account is the live one."""
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


def schema_at(here, who, cookie):
    """Status and body of the schema's route for an account's key with any cookie."""
    key, protocol = who.key.verify_key.encode().hex(), who.client.communication_protocol
    target = f"/api/v2/api?verify_key={key}&communication_protocol={protocol}"
    return http_call(here.url, "GET", target, headers={"Cookie": cookie})


@pytest.mark.parametrize("state", ["expired", "another person's", "another site's", "none"])
def test_control_without_the_cookies_check_each_of_these_opens_the_schema(state, arena):
    here = arena(False, "cookie")
    key = here.ada.key.verify_key.encode().hex()
    gone = f"{key}.{int(time.time()) - 1}"
    cookie = {
        "expired": f"fedrec={gone}.{hmac_of(Keys.load_or_make(here.site.folder / 'state').cookie_secret, gone)}",
        "another person's": here.bob.client.connection.headers["Cookie"],
        "another site's": f"fedrec={Gate('', lambda _: None, lambda _: True, b'x' * 32).cookie(key)}",
        "none": "",
    }[state]
    assert schema_at(here, here.ada, cookie)[0] == 200


def test_control_without_the_tables_the_schema_is_not_cut_to_the_role(arena):
    import syft as sy

    here = arena(False, "role")
    status, body = schema_at(here, here.ada, here.ada.client.connection.headers["Cookie"])
    assert status == 200
    paths = {item.service_path for item in sy.deserialize(body, from_bytes=True).endpoints.values()}
    assert paths - PATHS["scientist"]


@pytest.mark.parametrize("role", ROLES[:-1])
def test_a_login_is_for_the_right_password_of_a_live_account(role, strong):
    """The control is the login in the middle; passwords are checked by PySyft, and no switch takes that away."""
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
@pytest.mark.parametrize("defence", [True, False])
def test_who_sent_a_request_does_not_decide_on_it_in_any_later_role(defence, role, arena):
    import syft as sy
    from real_sites import fresh, login, submit_one

    here, email = arena(defence, "self"), f"was-{role}-{secrets.token_hex(4)}@x.example"
    made(here.site, email, "scientist")
    person = login(here.site, email, ADA_PASSWORD)
    request = submit_one(person, fresh())
    call = lambda: text_of(send(here.url, call_bytes(person.key, person.uid, "request.apply", uid=sy.UID(request))))  # noqa: E731
    assert call().startswith("gate.role: a scientist may not call this")
    made(here.site, email, role)
    said = call()  # in the control it is past the site's walls; PySyft, where the account stays what it was, says no
    assert said.startswith("gate.self: " if defence else "site.error: PySyft did not take the approval"), said
    made(here.site, email, "auditor")
    assert call().startswith("gate.role: a auditor may not call this")
    control(here.site.folder, {"op": "users.disable", "email": email})
    assert call().startswith("gate.role: this key has no account here")


def test_an_operators_card_has_no_schema(people, strong):
    """The control is the auditor's card, the same text uncut."""
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
    """The control is every other test here: `made` sends the same command with each role that exists."""
    command = {"op": "users.add", "email": "eve@x.example", "role": role, "password": ADA_PASSWORD}
    with pytest.raises(WrongInput, match="role is one of owner, reviewer, scientist, auditor, operator"):
        control(strong.site.folder, command)
    assert "eve@x.example" not in {user["email"] for user in control(strong.site.folder, {"op": "users.list"})["users"]}


@pytest.mark.parametrize("role", ROLES[1:-1])
def test_the_owner_named_in_the_settings_stays_the_owner(role, strong):
    """The control is above: the same commands change and disable an account that the settings do not name."""
    site = strong.site
    with pytest.raises(WrongInput, match="stays the owner"):
        control(site.folder, {"op": "users.add", "email": site.owner, "role": role, "password": ADA_PASSWORD})
    with pytest.raises(WrongInput, match="cannot be disabled"):
        control(site.folder, {"op": "users.disable", "email": site.owner})
    accounts = control(site.folder, {"op": "users.list"})["users"]
    assert {"email": site.owner, "role": "owner", "enabled": True} in accounts


@pytest.mark.parametrize("op", ["pause", "resume", "approve", "requests.approve", "audit", "users.delete", ""])
def test_the_control_socket_decides_nothing_without_a_name(op, strong):
    """No switch could turn these on, they do not exist; the control is that the socket answers what does."""
    assert control(strong.site.folder, {"op": "status"})["pid"]
    with pytest.raises(WrongInput, match="unknown command"):
        control(strong.site.folder, {"op": op, "reason": "x"})
