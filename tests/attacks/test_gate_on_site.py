"""Who may call what at a running site: keys, roles, replay, sizes and the routes that PySyft leaves open."""

from __future__ import annotations

import json
import secrets

import pytest
from nacl.signing import SigningKey
from real_sites import (
    ADA_PASSWORD,
    approve_one,
    call_bytes,
    fresh,
    function_of,
    http_call,
    login,
    raw,
    run_task,
    send,
    submit_one,
    text_of,
)

from fedrec.demo.sites import SCIENTIST
from fedrec.errors import Refused
from fedrec.institution.serve import control

pytestmark = pytest.mark.sites

BOTH = pytest.mark.parametrize("defence", [True, False])
NOBODY = SigningKey(b"nobody".ljust(32, b"."))
ROUTES = [
    ("POST", "/api/v2/register"), ("POST", "/api/v2/reset_password"), ("POST", "/api/v2/forgot_password"),
    ("GET", "/api/v2/stream/any/%2F/"), ("GET", "/docs"), ("GET", "/redoc"), ("GET", "/openapi.json"),
    ("GET", "/api/v2/metadata_capnp"), ("GET", "/api/v2/"), ("GET", "/"),
]  # fmt: skip


def bare_uid(bare):
    return bare.root.id.no_dash


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_a_route_that_is_not_in_the_table_does_not_exist(method, route, strong):
    """The control is below."""
    status, body = http_call(strong.url, method, route, b"x" if method == "POST" else b"")
    assert (status, body) == (404, b"Not Found")


def test_without_fedrec_these_routes_are_open(bare):
    """The control of the test above."""
    found = {route: http_call(bare.url, "GET", route)[0] for method, route in ROUTES if method == "GET"}
    opened = {"/docs", "/redoc", "/openapi.json", "/api/v2/metadata_capnp", "/api/v2/"}
    assert {route for route, status in found.items() if status == 200} >= opened
    assert http_call(bare.url, "POST", "/api/v2/forgot_password", b"{}")[0] == 422  # it wants an e-mail: it is there
    assert http_call(bare.url, "POST", "/api/v2/reset_password", b"{}")[0] == 422


def test_an_owner_cannot_make_an_administrator(strong, bare):
    import syft as sy
    from syft.service.user.user import UserCreate
    from syft.service.user.user_roles import ServiceRole

    def attack(url, owner_key):
        new = UserCreate(
            name="eve", email="eve@x.example", password="eve-password", password_verify="eve-password",
            role=ServiceRole.ADMIN, created_by=owner_key,
        )  # fmt: skip
        return http_call(url, "POST", "/api/v2/register", sy.serialize(new, to_bytes=True))

    from syft.server.credentials import SyftSigningKey

    assert attack(strong.url, SyftSigningKey(signing_key=strong.owner.key)) == (404, b"Not Found")
    with pytest.raises(Refused, match=r"login\.password"):
        login(strong.site, "eve@x.example", "eve-password")
    owner = bare.login("owner@bare.example", ADA_PASSWORD)
    assert owner.user_role == ServiceRole.DATA_OWNER
    assert attack(bare.url, owner.credentials)[0] == 200
    assert bare.login("eve@x.example", "eve-password").user_role == ServiceRole.ADMIN  # the control: it works there


@BOTH
def test_a_call_of_nobody_is_not_taken(defence, strong, bare):
    url, uid = (strong.url, strong.ada.uid) if defence else (bare.url, bare_uid(bare))
    answers = [
        text_of(send(url, call_bytes(NOBODY, uid, path))) for path in ("dataset.get_all", "user.get_current_user")
    ]
    if defence:
        assert set(answers) == {
            "gate.role: this key has no account here, or it is disabled. Ask the data owner for one"
        }
    else:
        assert answers[0] == "DictTuple"  # the data sets


@BOTH
def test_the_schema_is_not_given_without_a_login(defence, strong, bare):
    url, client = (strong.url, strong.ada.client) if defence else (bare.url, bare.root)
    key = client.credentials.verify_key.verify_key
    target = f"/api/v2/api?verify_key={key.encode().hex()}&communication_protocol={client.communication_protocol}"
    status, body = http_call(url, "GET", target)
    if defence:
        assert status == 403
        assert json.loads(body)["code"] == "gate.role"
        forged = f"fedrec={key.encode().hex()}.9999999999.{secrets.token_hex(32)}"
        assert http_call(url, "GET", target, headers={"Cookie": forged})[0] == 403
        own = strong.bob.client.connection.headers["Cookie"]  # another account's real cookie
        assert http_call(url, "GET", target, headers={"Cookie": own})[0] == 403
    else:
        assert status == 200
        assert len(body) > 10**6


@BOTH
def test_a_call_sent_twice_is_executed_once(defence, arena):
    here = arena(defence, "replay")
    body = call_bytes(here.ada.key, here.ada.uid, "dataset.get_all")
    assert text_of(send(here.url, body)) == "DictTuple"
    again = text_of(send(here.url, body))
    assert again == (
        "gate.replay: this call was made before. Make a new call; a resent one is never executed"
        if defence
        else "DictTuple"
    )


@BOTH
def test_a_scientist_cannot_approve_his_own_request(defence, arena):
    """Here he is an owner as well: PySyft lets him, and so does the role table."""
    here, eve = arena(defence, "self"), f"eve-{secrets.token_hex(4)}@x.example"

    def role(name):  # as `fedrec site users add` does it
        control(here.site.folder, {"op": "users.add", "email": eve, "role": name, "password": "eve-password"})

    role("owner")
    role("scientist")
    as_scientist = login(here.site, eve, "eve-password")
    request = submit_one(as_scientist, fresh())
    import syft as sy

    assert text_of(raw(as_scientist, "request.apply", sy.UID(request))).startswith(
        "gate.role: a scientist may not call this"
    )
    role("owner")
    answer = text_of(raw(as_scientist, "request.apply", sy.UID(request)))
    if defence:
        assert answer == "gate.self: nobody approves a request of his own. Ask another owner or reviewer"
    else:
        assert here.outcome("approve") == "done"
    control(here.site.folder, {"op": "users.disable", "email": eve})
    assert text_of(raw(as_scientist, "dataset.get_all")).startswith("gate.role: this key has no account here")


def test_an_owner_of_one_site_is_nobody_at_another(owners, sites):
    """The control is below."""
    other, site = owners["borealis"], sites.all["aurora"]
    with pytest.raises(Refused, match=r"login\.password: aurora: e-mail or password is wrong"):
        login(site, sites.all["borealis"].owner, sites.all["borealis"].owner_password)
    answer = text_of(send(site.url, call_bytes(other.key, owners["aurora"].uid, "request.get_all")))
    assert answer.startswith("gate.role: this key has no account here")
    answer = text_of(send(site.url, call_bytes(other.key, other.uid, "request.get_all")))
    assert answer.startswith("gate.role: this key has no account here")
    # the owner's own key at his own site, with a call that names another site
    answer = text_of(send(site.url, call_bytes(owners["aurora"].key, other.uid, "request.get_all")))
    assert answer == "gate.site: the call is meant for another site. Send it there"


def test_control_at_a_site_that_knows_every_key_another_sites_owner_is_somebody(arena, owners):
    here, other = arena(False, "account"), owners["borealis"]
    assert text_of(send(here.url, call_bytes(other.key, here.ada.uid, "dataset.get_all"))) == "DictTuple"


@BOTH
def test_code_cannot_be_tried_on_the_mock_in_the_servers_process(defence, strong, bare, tmp_path):
    """PySyft's mock execution runs unapproved code in the server: the owner cannot grant it here, nor the scientist use it."""
    mark = tmp_path / "ran"
    if defence:
        import syft as sy

        said = text_of(raw(strong.owner, "user.update", uid=sy.UID(), mock_execution_permission=True))
        assert said.startswith("gate.role: a owner may not call this")
        plan = fresh()
        submit_one(strong.ada, plan)
        with pytest.raises(Refused, match=r"permit\.missing: this plan waits for the data owner's approval"):
            strong.ada.call(function_of(strong.ada, plan).func_name, {})
        return
    import linecache

    import syft as sy

    ada = bare.login(SCIENTIST, ADA_PASSWORD)
    next(user for user in bare.root.users if user.email == SCIENTIST).allow_mock_execution()
    source = f"def look(x):\n    open({str(mark)!r}, 'w').close()\n    return 1\n"
    linecache.cache["<look>"] = (len(source), None, source.splitlines(True), "<look>")
    namespace = {}
    exec(compile(source, "<look>", "exec"), namespace)
    ada.code.request_code_execution(
        sy.syft_function(input_policy=sy.MixedInputPolicy(client=ada, x=dict))(namespace["look"])
    )
    ada.refresh()
    ada.code.look(x={"a": 1})
    assert mark.exists()


@BOTH
def test_a_call_that_does_not_wait_is_not_taken(defence, strong, bare):
    if defence:
        body = call_bytes(strong.ada.key, strong.ada.uid, "dataset.get_all", blocking=False)
        assert text_of(send(strong.url, body)).startswith("gate.role: a scientist may not call this")
    else:  # PySyft queues a job of its own, before it asks who may do what
        body = call_bytes(NOBODY, bare_uid(bare), "dataset.get_all", blocking=False)
        assert text_of(send(bare.url, body)) == "Job"


def test_the_private_side_of_a_data_set_cannot_be_read_and_holds_no_rows(strong, arena):
    import syft as sy

    (dataset,) = strong.ada.client.datasets
    uid = dataset.assets[0].action_id
    for who in (strong.ada, strong.bob):
        assert text_of(raw(who, "action.get", uid)).startswith("gate.role: only results of approved calls can be read")
    four = raw(strong.owner, "action.get", uid).value.syft_action_data  # the handle: figures, and no row
    assert list(four.columns) == ["version", "rows", "users", "items"]
    assert len(four) == 1
    for other in (dataset.id, dataset.assets[0].id, sy.UID()):
        assert text_of(raw(strong.owner, "action.get", other)).startswith(
            "gate.role: an owner reads the data set's handle"
        )
    weak = arena(
        False, "role", "results"
    )  # with both walls away PySyft still refuses the scientist, and gives the owner this
    (dataset,) = weak.ada.client.datasets
    uid = sy.UID.from_string(dataset.assets[0].action_id.no_dash)
    assert text_of(raw(weak.ada, "action.get", uid)) == "Item not found."
    found = raw(weak.owner, "action.get", uid).value.syft_action_data
    assert list(found.columns) == ["version", "rows", "users", "items"]
    assert found.iloc[0].to_dict() | {"version": ""} == {"version": "", "rows": 300, "users": 30, "items": 40}


@BOTH
def test_passwords_cannot_be_tried_without_end(defence, arena):
    here, who = arena(defence, "rate"), f"{secrets.token_hex(4)}@x.example"
    tries = [
        http_call(here.url, "POST", "/api/v2/login", json.dumps({"email": who, "password": "x"}).encode())
        for _ in range(11)
    ]
    assert {status for status, _ in tries[:10]} == {200}
    assert (tries[10][0] == 429) is defence
    if defence:
        assert json.loads(tries[10][1])["code"] == "gate.rate"


@BOTH
def test_anothers_result_is_not_given(defence, arena):
    here = arena(defence, "results")
    approved = approve_one(here.ada, here.owner, fresh(), here.n_items)
    result = getattr(here.ada.client.code, approved.function)(task={})
    assert (
        text_of(raw(here.bob, "action.get", result.id)) == "Item not found."
    )  # PySyft's own wall, with and without ours
    assert dict(raw(here.ada, "action.get", result.id).value.syft_action_data)["code"] == "task.form"
    here.owner.undo(approved.id, "enough")
    answer = raw(here.ada, "action.get", result.id)
    if defence:
        assert text_of(answer) == "permit.revoked: the data owner revoked this permit: enough. Talk to the owner"
    else:  # the result that was there when the owner revoked is delivered
        assert dict(answer.value.syft_action_data)["code"] == "task.form"


@BOTH
def test_bob_has_an_account_and_is_still_refused_adas_request(defence, arena):
    import syft as sy

    here = arena(defence, "mine")
    approved = approve_one(here.ada, here.owner, fresh(), here.n_items)
    request = next(item for item in here.ada.client.requests if item.id.no_dash == approved.id)
    code = sy.UID(request.changes[0].linked_user_code.object_uid.no_dash)
    answer = raw(here.bob, "code.call", uid=code, task={})
    if defence:
        assert text_of(answer) == "permit.missing: this account has no such request here. Submit the plan first"
    else:  # past our wall stands one of PySyft's own; the same call of the one whose request it is goes through both
        assert text_of(answer) == "Item not found."
    own = getattr(here.ada.client.code, approved.function)(task={})
    assert dict(raw(here.ada, "action.get", own.id).value.syft_action_data)["code"] == "task.form"


@BOTH
def test_a_permit_for_one_round_gives_no_second(defence, arena):
    here = arena(defence, "rounds")
    approved = approve_one(here.ada, here.owner, fresh(runs=5), here.n_items, rounds=1)
    answers = [run_task(here.ada, approved) for _ in range(3)]
    assert [answer["status"] for answer in answers] == ["done", *["refused" if defence else "done"] * 2]
    if defence:
        assert answers[1]["code"] == "permit.rounds"
