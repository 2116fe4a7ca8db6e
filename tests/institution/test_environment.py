"""The route that tells a scientist which Python and packages his plan meets; without PySyft."""

from __future__ import annotations

import asyncio
import json
import platform

import numpy
import pytest
from small_site import KEY, OWNER, SCIENTIST

import fedrec
from fedrec.exchange import signing
from fedrec.institution import app

ROUTE = "/fedrec/v1/environment"


def get(application, headers):
    """One GET in this process: status and JSON."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": ROUTE, "raw_path": ROUTE.encode(), "query_string": b"", "root_path": "", "client": None, "server": None,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    asyncio.run(application(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.fixture
def application(site, jobs):
    return app.build(site, None, jobs)


def test_a_scientist_reads_versions_and_nothing_else(site, application):
    site.ledger.add_account(SCIENTIST.email, SCIENTIST.key, "scientist", site.now())
    status, told = get(application, signing.headers(KEY, "GET", ROUTE, site.keys.uid))
    assert status == 200
    assert (told["python"], told["fedrec"], told["numpy"]) == (
        platform.python_version(), fedrec.__version__, numpy.__version__,
    )  # fmt: skip
    assert set(told) == {"python", "fedrec", "numpy", "scipy", "torch", "syft"}


@pytest.mark.parametrize("who", ["nobody", "owner", "unsigned"])
def test_others_read_nothing(who, site, application):
    if who == "owner":
        site.ledger.add_account(OWNER.email, SCIENTIST.key, "owner", site.now())
    headers = {} if who == "unsigned" else signing.headers(KEY, "GET", ROUTE, site.keys.uid)
    status, told = get(application, headers)
    assert (status, told["code"]) == (403, "gate.signature" if who == "unsigned" else "gate.role")
