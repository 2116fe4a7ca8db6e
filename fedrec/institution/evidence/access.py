"""Who could see what between two moments, and what each saw: computed from a site's log alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedrec.institution.evidence.find import Event, moment

# What a role may look at while its account is enabled; the gate's tables are compared with this by a test.
COULD = {
    "owner": ("cards", "mock", "every request", "the data set's handle", "what jobs print"),
    "reviewer": ("cards", "mock", "every request", "what jobs print"),
    "scientist": ("cards", "mock", "own requests", "answers and updates of own plans under a live permit"),
    "auditor": ("cards", "mock", "the audit log", "packs of runs"),
    "operator": ("cards",),
}
MACHINE = ("site", "operator")  # actors at the institution's own machine, where no account is asked
_ALWAYS = "9999"


@dataclass
class _Permit:
    facts: dict[str, Any]
    ended: str = _ALWAYS
    why: str = ""


@dataclass
class _Walk:
    """What a log has said so far."""

    since: str
    until: str
    roles: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    permits: dict[str, _Permit] = field(default_factory=dict)
    saw: dict[str, Counter[str]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    released: list[dict[str, Any]] = field(default_factory=list)

    def take(self, event: Event) -> None:
        act, outcome, at = event["act"], event["outcome"], event["at"]
        if act in ("users.add", "users.disable") and outcome == "done":
            self._account(event)
        elif act == "approve" and outcome == "done":
            self.permits[event["permit"]] = _Permit(
                {"request": event["request"], "plan": event["object"], "approver": event["actor"], **event["detail"]}
            )
        elif act in ("revoke", "deny") and outcome != "intent":
            for permit in self.permits.values():
                if permit.facts["request"] == event["request"] and permit.ended == _ALWAYS:
                    permit.ended, permit.why = at, f"{act} by {event['actor']}"
        if not self.since <= at < self.until:
            return
        if outcome != "intent" and act not in ("start", "stop", "checkpoint", "witness", "repair"):
            name = act if outcome == "done" else f"{act} refused ({outcome})"
            self.saw.setdefault(event["actor"], Counter())[name] += 1
        if act == "head" and outcome != "done":
            return
        if act == "head":
            self.rows.append({"at": at, "by": event["actor"], "version": event["object"], **event["detail"]})
        left = act == "fetch" and event["detail"].get("bytes")  # also a part of an update
        if left or (act in ("train", "evaluate", "fetch") and outcome == "done"):
            sent = event["object"] if act == "fetch" else event["detail"].get("sha256", "")
            ids = {key: event[key] for key in ("run", "round", "request", "permit")}
            self.released.append({"at": at, "to": event["actor"], "act": act, "sha256": sent, **ids,
                                  "bytes": event["detail"].get("bytes", 0)})  # fmt: skip

    def _account(self, event: Event) -> None:
        spans = self.roles.setdefault(event["object"], [])
        if spans and spans[-1]["until"] == _ALWAYS:
            spans[-1]["until"] = event["at"]
        if event["act"] == "users.add":
            spans.append({"role": str(event["detail"].get("role", "")), "since": event["at"], "until": _ALWAYS})


def access_of(events: Iterable[Event], since: str, until: str) -> dict[str, Any]:
    """Accounts with their roles, live permits, and what was seen and released, between two moments.

    Args:
        events: all of a site's log: an account made long before counts until it is disabled.
        since, until: as `find.moment` makes them.
    """
    walk = _Walk(since, until)
    for event in events:
        walk.take(event)
    accounts = []
    for who, spans in sorted(walk.roles.items()):
        live = [span for span in spans if span["since"] < until and span["until"] > since]
        if live:
            could = sorted({what for span in live for what in COULD.get(span["role"], ())})
            shown = [{**span, "until": None if span["until"] == _ALWAYS else span["until"]} for span in live]
            accounts.append({"who": who, "roles": shown, "could_see": could, "did": dict(walk.saw.pop(who, {}))})
    others = [
        {"who": who, "roles": [], "could_see": _machine(who), "did": dict(did)} for who, did in sorted(walk.saw.items())
    ]
    return {
        "from": since,
        "to": until,
        "accounts": accounts + others,
        "permits": [_shown(name, permit) for name, permit in walk.permits.items() if _live(permit, since, until)],
        "rows_looked_at": walk.rows,
        "released": walk.released,
    }


def _machine(who: str) -> list[str]:
    return ["whatever stands on the institution's machine"] if who in MACHINE else []


def _live(permit: _Permit, since: str, until: str) -> bool:
    first, last = moment(permit.facts["not_before"]), moment(permit.facts["not_after"])
    return first < until and min(last, permit.ended) > since


def _shown(name: str, permit: _Permit) -> dict[str, Any]:
    return {"permit": name, **permit.facts, "ended": None if permit.ended == _ALWAYS else permit.ended,
            "why": permit.why}  # fmt: skip


def text_of(found: Mapping[str, Any]) -> str:
    """The answer for a person."""
    lines = [f"from {found['from'][:19]}Z to {found['to'][:19]}Z", "", "Accounts"]
    for one in found["accounts"]:
        roles = [
            f"{span['role']} since {span['since'][:19]}Z" + (f" until {span['until'][:19]}Z" if span["until"] else "")
            for span in one["roles"]
        ]
        lines.append(f"  {one['who']}: {', '.join(roles) or 'no account'}")
        lines.append(f"    could see: {', '.join(one['could_see']) or 'nothing'}")
        lines.append(
            f"    did: {', '.join(f'{act} {count}' for act, count in sorted(one['did'].items())) or 'nothing'}"
        )
    lines += ["", "Permits that were live"]
    for permit in found["permits"]:
        end = f"ended {permit['ended'][:19]}Z ({permit['why']})" if permit["ended"] else "not ended early"
        lines.append(
            f"  {permit['permit']} for {permit['scientist']} by {permit['approver']}, plan "
            f"{permit['plan'][:12]}, {permit['not_before']} to {permit['not_after']}, {end}"
        )
    lines += ["", "Rows looked at"]
    lines += [f"  {one['at'][:19]}Z {one['by']}: {one['rows']} rows" for one in found["rows_looked_at"]]
    lines += ["", "What left"]
    for one in found["released"]:
        kind = {"train": "update ready for", "evaluate": "sums answered to", "fetch": "update fetched by"}[one["act"]]
        where = f"{one['run']} round {one['round']}" if one["run"] else f"request {one['request'][:8]}"
        lines.append(f"  {one['at'][:19]}Z {kind} {one['to']}: {one['sha256'][:16]}, {one['bytes']} bytes ({where})")
    return "\n".join(lines)
