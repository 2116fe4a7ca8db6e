"""An event as a line of CEF or OCSF, the two forms that security tools read; docs/auditing.md has the table."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import fedrec
from fedrec.institution.evidence.find import Event

OCSF = "1.6.0"
_ACCOUNT = {"users.add": 1, "users.reset": 4, "users.disable": 5}  # Account Change: create, password reset, disable
_LIFE = {"start": 3, "stop": 4}  # Application Lifecycle
_API = {  # API Activity: create, read, update, delete; any other act is 99 and named
    1: ("submit", "train", "evaluate", "checkpoint", "witness"),
    2: ("card", "mock", "head", "read", "fetch", "export"),
    3: (
        "approve",
        "deny",
        "revoke",
        "release",
        "pause",
        "resume",
        "publish",
        "models.use",
        "models.rollback",
        "repair",
    ),
    4: ("data.delete", "redact"),
}
_SEVERITY = {"done": (1, 1), "intent": (1, 1), "torn-tail": (3, 5), "clash": (4, 8)}  # (OCSF, CEF); refusals (2, 4)
_REFUSED = (2, 4)
_LABELLED = ("object", "request", "permit", "run", "detail", "hash")  # cs1 to cs6


def ocsf(event: Event) -> str:
    """One OCSF event as a line of JSON without floats."""
    act, outcome, who = event["act"], event["outcome"], {"name": event["actor"]}
    body: dict[str, Any] = {"actor": {"user": who}}
    if act == "login":
        class_uid, activity = 3002, 1
        body |= {"user": who, "service": {"name": "fedrec"}}
    elif act in _ACCOUNT:
        class_uid, activity = 3001, _ACCOUNT[act]
        body["user"] = {"name": event["object"]}
    elif act in _LIFE:
        class_uid, activity = 6002, _LIFE[act]
        body["app"] = {"name": "fedrec", "vendor_name": "fedrec", "version": fedrec.__version__}
    else:
        class_uid, activity = 6003, next((number for number, acts in _API.items() if act in acts), 99)
        body |= {"api": {"operation": act}, "src_endpoint": {"name": "not recorded"}}
        body |= {"activity_name": act} if activity == 99 else {}
        body |= {"resources": [{"uid": event["object"]}]} if event["object"] else {}
    run = event["run"] or event["request"]
    metadata = {
        "version": OCSF, "product": {"name": "fedrec", "vendor_name": "fedrec", "version": fedrec.__version__},
        "uid": event["hash"], "sequence": event["seq"], "event_code": act, "original_time": event["at"],
        **({"correlation_uid": run} if run else {}),
    }  # fmt: skip
    more = ("role", "purpose", "object", "of", "request", "permit", "run", "round", "detail", "prev")
    body |= {
        "category_uid": class_uid // 1000, "class_uid": class_uid, "activity_id": activity,
        "type_uid": 100 * class_uid + activity, "time": _ms(event["at"]), "metadata": metadata,
        "severity_id": _SEVERITY.get(outcome, _REFUSED)[0], "status_code": outcome,
        "status_id": {"done": 1, "intent": 99}.get(outcome, 2), **({"status": "intent"} if outcome == "intent" else {}),
        "unmapped": {name: event[name] for name in more if event[name] not in ("", None, {})},
    }  # fmt: skip
    return json.dumps(body, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def cef(event: Event) -> str:
    """One line of CEF, version 0."""
    act, outcome = event["act"], event["outcome"]
    head = ("fedrec", "fedrec", fedrec.__version__, act, f"{act} {outcome}")
    fields: dict[str, Any] = {
        "rt": _ms(event["at"]), "externalId": event["seq"], "act": act, "outcome": outcome,
        "suser": event["actor"], "spriv": event["role"], "msg": event["purpose"],
    }  # fmt: skip
    fields |= {"duser": event["object"]} if act in _ACCOUNT else {}
    for number, name in enumerate(_LABELLED, 1):
        value = json.dumps(event[name], ensure_ascii=False, sort_keys=True) if name == "detail" else event[name]
        fields |= {f"cs{number}": value, f"cs{number}Label": name} if event[name] else {}
    for number, name in enumerate(("round", "of"), 1):
        fields |= {} if event[name] is None else {f"cn{number}": event[name], f"cn{number}Label": name}
    words = (f"{key}={_value(value)}" for key, value in fields.items() if value != "")
    severity = _SEVERITY.get(outcome, _REFUSED)[1]
    return "|".join(["CEF:0", *map(_header, head), str(severity), " ".join(words)])


def _header(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").splitlines())


def _value(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace("=", "\\=").replace("\r", "\\r").replace("\n", "\\n")
    return " ".join(text.splitlines())  # what else Unicode calls the end of a line


def _ms(at: str) -> int:
    moment = datetime.fromisoformat(at)
    return int(moment.replace(microsecond=0).timestamp()) * 1000 + moment.microsecond // 1000
