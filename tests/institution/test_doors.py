"""Strangers who hold lines and bodies open, and an account that opens too much at once; without PySyft."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from asking import signed
from nacl.signing import SigningKey
from small_site import KEY, SCIENTIST, VECTOR, approved, own, sent, task
from starlette.testclient import TestClient
from test_revoke_instants import running_at

from fedrec.exchange import signing
from fedrec.exchange.wire import sha256
from fedrec.institution import app
from fedrec.institution.doors import Doors, HeadsInTime
from fedrec.institution.gate import OPEN

LINES = 300
REQUESTS = "/fedrec/v1/requests"


class Soon(HeadsInTime):
    head_s = 1.0


@pytest.fixture
def application(site, jobs):
    site.ledger.add_account(SCIENTIST.email, SCIENTIST.key, "scientist", site.now())
    return app.build(site, None, jobs)


@pytest.mark.parametrize("defence", [True, False])
@pytest.mark.parametrize("said", [b"", b"GET /api/v2/metadata HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a head"])
def test_three_hundred_lines_on_which_no_call_begins_are_closed(defence, said, application, site):
    """Meanwhile a scientist is answered. The control is uvicorn as it comes: it keeps every line."""
    with running_at(application, http=Soon if defence else "httptools") as port:
        lines = [socket.create_connection(("127.0.0.1", port)) for _ in range(LINES)]
        for line in lines:
            line.sendall(said)
        head = signing.headers(KEY, "GET", REQUESTS, site.keys.uid)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as mine:
            text = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "x", **head}.items())
            mine.sendall(f"GET {REQUESTS} HTTP/1.1\r\n{text}\r\n".encode())
            assert b" 200 " in mine.recv(4096)
        time.sleep(2.0)
        ended = 0
        for line in lines:
            line.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                ended += line.recv(1) == b""
            line.close()
    assert ended == (LINES if defence else 0)


def slowly(application, method, target, headers, parts, pause):
    """Status, code and `connection` of the answer to a body whose parts come one by one; None = no more comes."""
    answer = []

    async def receive():
        await asyncio.sleep(pause)
        part = parts.pop(0)
        if part is None:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        answer.append(message)

    path, _, query = target.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "server": None,
        "client": None, "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    asyncio.run(application(scope, receive, send))
    said = json.loads(b"".join(message.get("body", b"") for message in answer[1:]))
    return answer[0]["status"], said.get("code", ""), dict(answer[0]["headers"]).get(b"connection", b"")


def test_a_body_that_does_not_come_in_time_is_refused_and_its_line_closed(application):
    for method, target in (("POST", "/fedrec/v1/pause"), ("PUT", "/fedrec/v1/checkpoints"), ("POST", "/api/v2/login")):
        quick = Doors(application, 0.5)
        assert slowly(quick, method, target, {}, [b"{", None], 0.0) == (408, "gate.slow", b"close"), target
        assert slowly(quick, method, target, {}, [b"{"] * 9, 0.1) == (408, "gate.slow", b"close"), target
        status, code, line = slowly(quick, method, target, {}, [b"{", b"}"], 0.0)  # the control: the same, in time
        assert (status in (400, 403), code, line) == (True, "gate.signature", b"")


@pytest.mark.parametrize("stalls", [True, False])
def test_a_model_may_take_its_time_as_long_as_its_parts_come(stalls, application, site):
    row, body = approved(site, own()), [b"12345678"] * 6
    name = sha256(b"".join(body))
    target = f"/fedrec/v1/blobs/{name}"
    headers = signing.headers(KEY, "PUT", target, site.keys.uid, body=name, permit=row.id)
    parts = [body[0], None] if stalls else body
    status, code, _ = slowly(Doors(application, 0.5), "PUT", target, headers, parts, 0.2)
    assert (status, code) == ((408, "gate.slow") if stalls else (200, ""))


@pytest.mark.parametrize("calls", [OPEN, OPEN + 2])
def test_an_account_has_eight_blobs_and_waits_open_at_once(calls, application, site, jobs):
    """Each fetch is an open act of the log, which holds a bounded number. The control: eight are all answered."""
    row, other = approved(site, own("import time\ntime.sleep(2)")), SigningKey(b"other".ljust(32, b"."))
    site.ledger.add_account("other@x.org", other.verify_key.encode().hex(), "scientist", site.now())
    key = jobs.start(row.key, row.fingerprint, task(sent(site, row, VECTOR)))["key"]
    target = f"/fedrec/v1/jobs/{key}?wait=10"

    def wait(_):
        headers = signing.headers(KEY, "GET", target, site.keys.uid, permit=row.id)
        return client.get(target, headers=headers).json()

    with TestClient(application) as client, ThreadPoolExecutor(calls) as threads:
        answers = list(threads.map(wait, range(calls)))
        codes = sorted(answer.get("code", "done") for answer in answers)
        assert codes == ["done"] * OPEN + ["gate.rate"] * (calls - OPEN)
        assert wait(0)["status"] == "done"  # the places were given back
    assert signed(application, site, other, "GET", REQUESTS)[0] == 200
