"""The institutions of a real run keep one another's checkpoints, and a log cut or rewritten afterwards clashes."""

from __future__ import annotations

import json
import shutil

import pytest
from real_sites import approved, events, fresh, http_call, url_of

import fedrec
from fedrec.config import ConsortiumConfig
from fedrec.exchange import signing
from fedrec.exchange.wire import sha256
from fedrec.institution.audit import verify

pytestmark = pytest.mark.sites
ROUTE = "/fedrec/v1/checkpoints"


@pytest.fixture(scope="module")
def run(federation, owners):
    plan = fresh(fedrec.models.MF(factors=4), rounds=3)
    approved(federation, owners, plan)
    return federation.train(plan, on_round=lambda *_: None)


def test_each_site_holds_the_others_newest_checkpoints_and_all_logs_verify_with_one_another(run, sites):
    pinned = ConsortiumConfig.load(sites.consortium).keys
    for name, site in sites.all.items():
        kept = events(site, act="witness", run=run.id)
        assert {event["object"] for event in kept} == set(sites.all) - {name}
        assert "done" in {event["outcome"] for event in kept} <= {"done", "late"}  # threads may change the order
        assert sum(event["detail"]["proved"] for event in kept) >= 2 * 3  # every one but a first, of three rounds
        others = [other.folder for other in sites.all.values() if other is not site]
        found = verify(site.folder, witnesses=others, pinned=pinned)
        assert found.verdict == "ok", found
        last = events(site, act="train", run=run.id)[-1]
        assert last["outcome"] == "done"
        assert last["seq"] < found.witnessed <= found.events  # the closing exchange covers the whole run


def test_cutting_the_run_out_of_a_log_is_seen_with_any_other_institution(run, sites, tmp_path):
    site, others = sites.all["aurora"], [other for name, other in sites.all.items() if name != "aurora"]
    shutil.copytree(site.folder / "state" / "audit", tmp_path / "audit")
    (file,) = (tmp_path / "audit").glob("*.jsonl")
    first = events(site, act="train", run=run.id)[0]["seq"]
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:first]))
    assert verify(tmp_path / "audit").verdict == "ok"  # control: alone it looks whole
    for other in others:
        assert verify(tmp_path / "audit", witnesses=[other.folder]).verdict == "witness-clash"


def test_only_a_scientist_s_signed_call_exchanges_checkpoints(run, federation, owners, sites):
    site = federation._sites["aurora"]
    data = json.dumps({"run": "r", "since": 0, "checkpoints": []}).encode()

    def call(key=site.key, uid=site.uid, body=data, **changes):
        headers = signing.headers(key, "PUT", ROUTE, uid, body=sha256(data)) | changes
        status, answer = http_call(url_of(site), "PUT", ROUTE, body, headers)
        return status, json.loads(answer).get("code", "")

    assert call() == (200, "")  # control
    assert call(uid=federation._sites["borealis"].uid) == (403, "gate.signature")
    assert call(body=data + b" ") == (403, "gate.signature")
    assert call(key=owners["aurora"].key) == (403, "gate.role")
    assert call(**{"X-Fedrec-Signature": ""}) == (403, "gate.signature")
    headers = signing.headers(site.key, "PUT", ROUTE, site.uid, body=sha256(data))
    assert http_call(url_of(site), "PUT", ROUTE, data, headers)[0] == 200
    assert http_call(url_of(site), "PUT", ROUTE, data, headers)[0] == 403  # the same call again
    assert http_call(url_of(site), "PUT", ROUTE, data, {})[0] == 403
