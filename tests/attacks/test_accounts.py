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
