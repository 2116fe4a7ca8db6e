"""The data plane of a running site: tensors go in and out only for the one who holds a live permit."""

from __future__ import annotations

import json
import secrets
import time

import pytest
from real_sites import approve_one, fresh, http_call, own_headers, own_route, run_task, submit_one, url_of
from starlette.responses import FileResponse
from starlette.testclient import TestClient

from fedrec.exchange import signing
from fedrec.exchange.wire import decode, sha256

pytestmark = pytest.mark.sites

BOTH = pytest.mark.parametrize("defence", [True, False])


def code_of(answer):
    """The refusal's code, or the status when it went well."""
    status, body = answer
    return status if status == 200 else json.loads(body)["code"]


def put(scientist, request, body=None, **changes):
    body = body or secrets.token_bytes(64)
    return own_route(scientist, "PUT", f"/fedrec/v1/blobs/{sha256(body)}", body, permit=request, **changes)


def trained(here):
    """An approved plan after one round: (approved, SHA-256 of the update that may be fetched)."""
    approved = approve_one(here.ada, here.owner, fresh(runs=3), here.n_items)
    return approved, run_task(here.ada, approved)["passport"]["sha256"]


@BOTH
def test_a_body_that_is_not_what_its_name_says_is_not_kept(defence, arena):
    here = arena(defence, "digest")
    approved = approve_one(here.ada, here.owner, fresh(), here.n_items)
    name = secrets.token_hex(32)
    answer = own_route(here.ada, "PUT", f"/fedrec/v1/blobs/{name}", b"another model", permit=approved.id)
    assert code_of(answer) == ("gate.digest" if defence else 200)
    kept = [path.name for path in (here.site.folder / "state" / "blobs" / "in" / approved.id).iterdir()]
    assert kept == [approved.base] if defence else name in kept


@BOTH
def test_nothing_goes_in_before_the_owner_has_approved(defence, arena):
    here = arena(defence, "permit")
    request = submit_one(here.ada, fresh())
    assert code_of(put(here.ada, request)) == ("permit.missing" if defence else 200)


@BOTH
def test_nothing_goes_in_or_out_after_a_revoke(defence, arena):
    here = arena(defence, "permit")
    approved, update = trained(here)
    assert code_of(own_route(here.ada, "GET", f"/fedrec/v1/blobs/{update}", permit=approved.id)) == 200
    here.owner.undo(approved.id, "no more")
    out = own_route(here.ada, "GET", f"/fedrec/v1/blobs/{update}", permit=approved.id)
    assert code_of(out) == ("permit.revoked" if defence else "update.gone")  # the file itself is deleted, whoever asks
    assert code_of(put(here.ada, approved.id)) == ("permit.revoked" if defence else 200)
    if defence:
        assert "no more" in json.loads(out[1])["reason"]
        assert not list((here.site.folder / "state" / "blobs").rglob(approved.id))


def test_a_part_of_an_update_is_not_given(strong):
    """Else somebody could take it in parts, each of which the log would call a whole fetch.

    The control is below.
    """
    approved, update = trained(strong)
    got = own_route(strong.ada, "GET", f"/fedrec/v1/blobs/{update}", permit=approved.id, Range="bytes=0-9")
    assert code_of(got) == "gate.range"


def test_control_the_framework_itself_gives_parts(tmp_path):
    (tmp_path / "update").write_bytes(bytes(100))
    got = TestClient(FileResponse(tmp_path / "update")).get("/", headers={"Range": "bytes=0-9"})
    assert (got.status_code, len(got.content)) == (206, 10)


@BOTH
def test_another_scientist_cannot_use_or_read_under_this_permit(defence, arena):
    here = arena(defence, "owner")
    approved, update = trained(here)
    got = own_route(here.bob, "GET", f"/fedrec/v1/blobs/{update}", permit=approved.id)
    assert code_of(got) == ("permit.missing" if defence else 200)
    if not defence:
        assert decode(got[1])["counts"].shape == (here.n_items,)
    assert code_of(put(here.bob, approved.id)) == ("permit.missing" if defence else 200)
    own = approve_one(here.bob, here.owner, fresh(), here.n_items)  # with a permit of his own he sees his own blobs
    assert code_of(own_route(here.bob, "GET", f"/fedrec/v1/blobs/{update}", permit=own.id)) == "update.gone"


@BOTH
def test_an_unsigned_call_of_the_own_routes_is_refused(defence, arena):
    here = arena(defence, "signature")
    approved, update = trained(here)
    for changes in (
        {"X-Fedrec-Signature": ""},
        {"X-Fedrec-Signature": "00" * 64},
        {"X-Fedrec-Nonce": secrets.token_hex(16)},
    ):
        got = own_route(here.ada, "GET", f"/fedrec/v1/blobs/{update}", permit=approved.id, **changes)
        assert code_of(got) == ("gate.signature" if defence else 200)
    bobs = here.bob.key.verify_key.encode().hex()
    got = own_route(here.ada, "GET", f"/fedrec/v1/blobs/{update}", permit=approved.id, **{"X-Fedrec-Key": bobs})
    assert code_of(got) == ("gate.signature" if defence else "permit.missing")


@BOTH
def test_an_overheard_call_of_the_own_routes_cannot_be_sent_again(defence, arena):
    here = arena(defence, "nonce")
    approved, update = trained(here)
    target = f"/fedrec/v1/blobs/{update}"
    headers = own_headers(here.ada, "GET", target, approved.id)
    assert code_of(http_call(here.url, "GET", target, headers=headers)) == 200
    assert code_of(http_call(here.url, "GET", target, headers=headers)) == ("gate.replay" if defence else 200)


@BOTH
def test_a_call_from_an_hour_ago_is_refused(defence, strong):
    approved, update = trained(strong)
    target, nonce = f"/fedrec/v1/blobs/{update}", secrets.token_hex(16)
    when = str(
        int(time.time()) - (3600 if defence else 60)
    )  # a minute off is fine: the same call shows that only time counts
    message = signing.message("GET", target, strong.ada.uid, signing.EMPTY, when, nonce, approved.id)
    headers = own_headers(strong.ada, "GET", target, approved.id) | {
        "X-Fedrec-Time": when,
        "X-Fedrec-Nonce": nonce,
        "X-Fedrec-Signature": strong.ada.key.sign(message).signature.hex(),
    }
    assert code_of(http_call(strong.url, "GET", target, headers=headers)) == ("gate.time" if defence else 200)


@BOTH
def test_a_call_signed_for_one_site_is_worthless_at_another(defence, arena, federation):
    here, elsewhere = arena(defence, "signature"), federation._sites["borealis"]
    approved, update = trained(here)
    target = f"/fedrec/v1/blobs/{update}"
    headers = signing.headers(here.ada.key, "GET", target, elsewhere.uid, permit=approved.id)
    assert code_of(http_call(here.url, "GET", target, headers=headers)) == ("gate.signature" if defence else 200)
    assert code_of(http_call(url_of(elsewhere), "GET", target, headers=headers)) == "gate.role"


@BOTH
def test_a_blob_above_the_sites_limit_is_refused_and_leaves_nothing(defence, arena):
    here = arena(False, "" if defence else "size")  # the small site: it takes one megabyte
    approved = approve_one(here.ada, here.owner, fresh(), here.n_items)
    assert code_of(put(here.ada, approved.id, secrets.token_bytes(1_000_001))) == ("gate.size" if defence else 200)
    kept = [path.name for path in (here.site.folder / "state" / "blobs" / "in" / approved.id).iterdir()]
    assert len(kept) == (1 if defence else 2)
    assert approved.base in kept
    assert code_of(put(here.ada, approved.id, secrets.token_bytes(1_000_000))) == 200


@pytest.mark.parametrize(
    "name", ["..%2F..%2Fledger.sqlite", "%2e%2e", "A" * 64, "0" * 63, "0" * 64 + "%0a", "site.key"]
)
def test_a_blobs_name_is_never_a_path(name, strong):
    """The control is below. For a name with a slash there is none: no route has such a name, so nothing reads it."""
    approved, _ = trained(strong)
    status, body = own_route(strong.ada, "GET", f"/fedrec/v1/blobs/{name}", permit=approved.id)
    assert status in (403, 404)
    assert b"SQLite" not in body
    assert status == 404 or json.loads(body)["code"] in ("gate.digest", "gate.signature")


@BOTH
def test_a_file_that_is_no_blob_is_not_given_by_its_name(defence, arena):
    here = arena(defence, "names")
    approved, update = trained(here)
    file = here.site.folder / "state" / "blobs" / "out" / approved.id / "site.key"
    file.write_text("a secret")
    answer = own_route(here.ada, "GET", "/fedrec/v1/blobs/site.key", permit=approved.id)
    file.unlink()  # else the site's log and its updates do not agree
    assert code_of(answer) == ("gate.digest" if defence else 200)
    assert (answer[1] == b"a secret") is not defence
    assert code_of(own_route(here.ada, "GET", f"/fedrec/v1/blobs/{update}", permit=approved.id)) == 200


@BOTH
def test_a_job_of_another_request_is_not_told(defence, arena):
    here = arena(defence, "owner")
    approved = approve_one(here.ada, here.owner, fresh(), here.n_items)
    target = f"/fedrec/v1/jobs/{run_task(here.ada, approved)['key']}?wait=0"
    own = approve_one(here.bob, here.owner, fresh(), here.n_items)
    assert code_of(own_route(here.ada, "GET", target, permit=approved.id)) == 200
    assert code_of(own_route(here.bob, "GET", target, permit=own.id)) == "job.missing"
    assert code_of(own_route(here.bob, "GET", target, permit=approved.id)) == ("permit.missing" if defence else 200)


@BOTH
def test_an_owner_has_no_business_on_the_scientists_routes(defence, arena):
    here = arena(defence, "role", "owner")
    approved, update = trained(here)
    for target in (f"/fedrec/v1/blobs/{update}", "/fedrec/v1/requests"):
        got = own_route(here.owner, "GET", target, permit=approved.id)
        assert code_of(got) == ("gate.role" if defence else 200)
