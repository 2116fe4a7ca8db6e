"""What became of the acts that a crash left without an outcome in the audit log: the next start says it of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedrec.errors import WrongInput
from fedrec.institution import store
from fedrec.institution.audit import read
from fedrec.institution.held import gone
from fedrec.institution.permit import KINDS
from fedrec.institution.published import Published
from fedrec.institution.site import Site


def states(site: Site) -> dict[int, str]:
    """By the intent's number: done, not-done, again (it is repeated now), ended (its outcome was kept), unanswered
    (nothing left), or unknown.

    Void permits must have been voided before.
    """
    return {int(intent["seq"]): _state(site, intent) for intent in site.audit.left_open()}


def _state(site: Site, intent: Mapping[str, Any]) -> str:
    row = site.ledger.request(intent["request"])
    match intent["act"]:
        case kind if kind in KINDS:
            jobs = [job for job in site.ledger.jobs_of(intent["request"], intent["run"]) if job.task.kind == kind]
            found = {job.status for job in jobs if job.task.round == intent["round"]}
            return "again" if "running" in found else "ended" if found else "not-done"
        case "approve":
            permit = None if row is None else row.signed_permit
            return _done(permit is not None and permit["id"] == intent["permit"])
        case "deny" | "revoke":
            return _done(row is not None and row.decision in ("denied", "revoked"))
        case "submit":
            asked = [one for one in site.ledger.requests() if one.fingerprint == intent["object"]]
            return _done(any(one.scientist == intent["actor"] for one in asked))
        case "users.add":
            known = {account.email: (account.role, account.enabled) for account in site.ledger.accounts()}
            return _done(known.get(intent["object"]) == (intent["detail"].get("role"), True))
        case "users.disable":
            return _done(any(one.email == intent["object"] and not one.enabled for one in site.ledger.accounts()))
        case "send":
            return _done(site.blobs.path("in", intent["request"], intent["object"]).exists())
        case "call" | "card" | "mock" | "read" | "login":  # the outcome is written before the answer leaves
            return "unanswered"
        case "data.delete":
            return _done(intent["object"] not in store.versions(site.state))
        case "release":
            return _done(row is not None and gone(site.state, row))
        case "pause" | "resume" as act:
            return _done(site.ledger.paused() == (act == "pause"))
        case "redact":
            return _done(not site.audit.texts.has(intent["object"]))
        case "models.use" | "models.rollback":
            return _done(_served(site) == intent["detail"].get("number"))
        case "config":
            return _done(_settings(site).items() <= intent["detail"].items())
        case "data.take":
            return _done(_taken(site, intent["seq"]))
    return "unknown"


def _served(site: Site) -> int | None:
    """The number of the model that is served."""
    try:
        return int(Published(site.state).current()["number"])
    except WrongInput:
        return None


def _settings(site: Site) -> dict[str, str]:
    """What the site's settings were when it last kept them."""
    path = site.state / "settings.json"
    kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {"": ""}
    return kept


def _taken(site: Site, number: int) -> bool:
    """Whether the intake that began with this event gave another version; the next one says what it found."""
    before, found = "", site.store.version
    for event in read(site.audit.folder, "data.take"):
        if event["outcome"] != "done":
            continue
        if event["seq"] > number:
            found = event["detail"]["before"]
            break
        before = event["detail"]["version"]
    return bool(found != before)


def _done(yes: bool) -> str:
    return "done" if yes else "not-done"
