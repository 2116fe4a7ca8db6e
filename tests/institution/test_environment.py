"""The route that tells a scientist which Python and packages his plan meets; without PySyft."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import numpy
import pytest
from asking import ask
from small_site import KEY, OWNER, SCIENTIST

import fedrec
from fedrec.exchange import signing
from fedrec.institution import app

ROUTE = "/fedrec/v1/environment"


def get(application, headers):
    status, body = ask(application, "GET", ROUTE, headers)
    return status, json.loads(body)


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
    lines = Path(fedrec.__file__).parents[1].joinpath("requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith(("#", "-", " ")))
    assert len(pinned) > 200
    expected = {re.sub(r"[-_.]+", "-", name).lower(): version.split("+")[0] for name, version in pinned.items()}
    assert {name: told.get(name, "").split("+")[0] for name in expected} == expected
    assert all(re.fullmatch(r"[a-z0-9-]+", name) and re.fullmatch(r"[\w.!+-]+", told[name]) for name in told)


@pytest.mark.parametrize("who", ["nobody", "owner", "unsigned"])
def test_others_read_nothing(who, site, application):
    if who == "owner":
        site.ledger.add_account(OWNER.email, SCIENTIST.key, "owner", site.now())
    headers = {} if who == "unsigned" else signing.headers(KEY, "GET", ROUTE, site.keys.uid)
    status, told = get(application, headers)
    assert (status, told["code"]) == (403, "gate.signature" if who == "unsigned" else "gate.role")
