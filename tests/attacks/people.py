"""Accounts of every role at a running site, as bare keys and cookies: no PySyft client logs in."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from nacl.signing import SigningKey
from real_sites import ADA_PASSWORD

from fedrec.institution.serve import control

ROLES = ("owner", "reviewer", "scientist", "auditor", "operator", "anonymous")
PEOPLE = {"owner": "owner", "second-owner": "owner", **{role: role for role in ROLES[1:]}}


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
