"""The permit: the owner's signed yes, and the only code that decides whether a task may run under it."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import fedrec
from fedrec.config import Limits
from fedrec.errors import Refused
from fedrec.exchange.budget import evaluations_of
from fedrec.exchange.passport import signed_by
from fedrec.exchange.plan import PROTOCOLS, VALIDATION, PlanText

if TYPE_CHECKING:
    from fedrec.institution.ledger import RequestRow

KINDS = ("train", "evaluate", "publish")
RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEX = re.compile(r"[0-9a-f]+")
_HOURS = re.compile(r"[0-9]{1,2}-[0-9]{1,2}")
_TASK_KEYS = {"kind", "run", "round", "protocol", "base", "nonce"}
_LEAST, _MOST = ("megabytes", "minutes", "memory_mb"), ("min_users_per_row", "jail_level")  # which of two is stricter


@dataclass(frozen=True, slots=True)
class Task:
    """What a call asks a site to do: which step of which run, starting from which model.

    Args:
        members: the institutions whose masked updates are added, in the consortium's order; empty = no secure sum.
        round: counted from 0.
        protocol: which rows are trained on, or how the model is evaluated.
        base: SHA-256 of the encoded shared parameters.
        nonce: 32 hex digits; the same task with the same nonce is the same job.
    """

    kind: str
    run: str
    round: int
    protocol: str
    base: str
    nonce: str
    members: tuple[str, ...] = ()

    @classmethod
    def parse(cls, raw: object) -> Task:
        """Raises: Refused `task.form` with the field that is wrong."""
        if not isinstance(raw, Mapping) or set(raw) - {"members"} != _TASK_KEYS:
            raise _bad_task(f"a task has the keys {', '.join(sorted(_TASK_KEYS))}")
        if any(type(raw[key]) is not str for key in _TASK_KEYS - {"round"}):
            raise _bad_task("a task's fields are texts, but for the round")
        members = raw.get("members", ())
        if type(members) not in (list, tuple) or any(type(name) is not str for name in members):
            raise _bad_task("members are the names of institutions")
        task = cls(raw["kind"], raw["run"], raw["round"], raw["protocol"], raw["base"], raw["nonce"], tuple(members))
        if len(set(members)) < len(members) or (members and task.kind != "train"):
            raise _bad_task("members are those of a train task, each once")
        if task.kind not in KINDS:
            raise _bad_task(f"kind is one of {', '.join(KINDS)}")
        if not RUN.fullmatch(task.run):
            raise _bad_task("run is 1 to 64 letters, digits, dots, dashes")
        if type(task.round) is not int or not 0 <= task.round < 1_000_000:
            raise _bad_task("round is a whole number from 0")
        if task.protocol not in PROTOCOLS and (task.kind, task.protocol) != ("evaluate", VALIDATION):
            raise _bad_task(f"protocol is one of {', '.join(PROTOCOLS)}, or {VALIDATION} to evaluate")
        if (
            len(task.base) != 64
            or not _HEX.fullmatch(task.base)
            or len(task.nonce) != 32
            or not _HEX.fullmatch(task.nonce)
        ):
            raise _bad_task("base has 64 hex digits and nonce 32")
        return task

    def key(self, request: str) -> str:
        """The job's key: the same task of the same request is the same job; 32 hex digits."""
        parts = [request, self.kind, self.run, str(self.round), self.protocol, self.base, self.nonce, *self.members]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Here:
    """The site that a permit must be of, as it is today.

    Args:
        key: its own public key, hex.
        consortium: hash of its members, their keys and the catalogue.
        caps: the limits of its site.toml.
    """

    site: str
    key: str
    consortium: str
    caps: Limits


def make(
    plan: PlanText,
    *,
    request: str,
    fingerprint: str,
    scientist: str,
    scientist_key: str,
    site: str,
    data_version: str,
    consortium: str,
    approver: str,
    approver_key: str,
    now: datetime,
    limits: Mapping[str, Any],
    caps: Limits,
    ranges: Mapping[str, Sequence[float]] | None = None,
    shared_key: str = "",
    rehearsal: str = "",
) -> dict[str, Any]:
    """The facts of a permit, unsigned: what the plan asks, cut to the approver's limits and the site's caps.

    Args:
        limits: the approver's own, all optional: rounds (train tasks in all), until (ISO time), hours ("8-18", UTC),
            epsilon (lower than the plan's: more noise).
        caps: the site's; what bounds a job is written down, so that a looser site.toml does not loosen the permit.
        ranges: the site's for the settings of the plan's model: least and most.
        shared_key: the id of the key of encrypted sums that the site has; "" for other plans.
        rehearsal: what the plan's update told on the mock.

    Raises:
        Refused: `permit.limit` when a limit is not of its form.
    """
    days = min(plan.days, caps.days)
    until = now + timedelta(days=days)
    unknown = set(limits) - {"rounds", "until", "hours", "epsilon", "reason"}
    if unknown:
        raise _bad_limit(f"unknown limit {sorted(unknown)[0]}")
    train = min(plan.train_tasks, caps.train)
    if (rounds := limits.get("rounds")) is not None:
        if type(rounds) is not int or rounds < 1:
            raise _bad_limit("rounds is a whole number from 1")
        train = min(train, rounds)
    if (asked := limits.get("until")) is not None:
        until = min(until, _time(asked))
        if until <= now:
            raise _bad_limit("until lies in the past")
    epsilon = plan.protects.epsilon
    if (most := limits.get("epsilon")) is not None:
        if epsilon is None:
            raise _bad_limit("this plan has no differential privacy, so it cannot be limited by epsilon")
        if type(most) not in (int, float) or not 0 < most <= 100:
            raise _bad_limit("epsilon is a number above 0, to 100")
        epsilon = min(epsilon, float(most))
    hours = _common(caps.hours, caps.hours if limits.get("hours") is None else str(limits["hours"]))
    return {
        "v": 1,
        "id": secrets.token_hex(16),
        "site": site,
        "request": request,
        "fingerprint": fingerprint,
        "fedrec": fedrec.__version__,
        "scientist": scientist,
        "scientist_key": scientist_key,
        "purpose": plan.purpose,
        "use": plan.use,
        "limits": {name: getattr(caps, name) for name in (*_LEAST, *_MOST, "tell_errors")},
        "ranges": {name: list(span) for name, span in (ranges or {}).items()},
        "data_version": data_version,
        "consortium": consortium,
        "shared_key": shared_key,
        "tasks": {
            "train": train,
            "evaluate": min(evaluations_of(plan), caps.evaluate),
            "publish": plan.runs if plan.publish else 0,
        },
        "protocols": list(plan.train),
        "rounds": plan.rounds,
        "validate": plan.validate,
        "epsilon": epsilon,
        "delta": None if epsilon is None else plan.protects.delta,
        "not_before": stamp(now),
        "not_after": stamp(until),
        "hours": hours,
        "approver": approver,
        "approver_key": approver_key,
        "approved_at": stamp(now),
        "rehearsal": rehearsal,
    }


def stricter(permit: Mapping[str, Any], caps: Limits) -> Limits:
    """Today's limits of the site, or those of the day of the approval where they are stricter."""
    then, now = permit["limits"], caps.model_dump()
    cut = {name: min(then[name], now[name]) for name in _LEAST} | {name: max(then[name], now[name]) for name in _MOST}
    return caps.model_copy(update={**cut, "tell_errors": then["tell_errors"] and caps.tell_errors})


def check(row: RequestRow, now: str, here: Here) -> Mapping[str, Any]:
    """The permit of a request, if it is live now at this site.

    Args:
        now: RFC 3339 with Z.

    Raises:
        Refused: `permit.` missing, denied, revoked, signature, fingerprint, other, version, early, expired or hours.
    """
    permit, because = row.signed_permit, f": {row.reason}" if row.reason else ""
    if row.decision == "denied":
        raise Refused(
            "permit.denied", f"the data owner denied this plan{because}", "Talk to the owner or submit another plan"
        )
    if row.decision == "revoked":
        raise Refused("permit.revoked", f"the data owner revoked this permit{because}", "Talk to the owner")
    if row.decision != "approved" or permit is None:
        raise Refused("permit.missing", "this plan waits for the data owner's approval", "Wait, or ask the owner")
    if not signed_by(permit, here.key):
        raise Refused("permit.signature", "the permit is not signed by this site", "Ask the owner to approve again")
    if permit["fingerprint"] != row.fingerprint:
        raise Refused(
            "permit.fingerprint", "the permit is for another plan", "Submit this plan and wait for its approval"
        )
    bound = {"request": row.id, "scientist_key": row.key, "site": here.site, "consortium": here.consortium}
    for name, value in bound.items():
        if permit[name] != value:
            raise Refused("permit.other", f"the permit is for another {name}", "Ask the owner to approve again")
    if permit["fedrec"] != fedrec.__version__:
        raise Refused(
            "permit.version", f"the permit is for fedrec {permit['fedrec']}", "Ask the owner to approve again"
        )
    if now < permit["not_before"]:
        reason = f"the permit begins on {permit['not_before']}, and the site's clock says {now}"
        raise Refused("permit.early", reason, "Ask the data owner to look at the site's clock")
    longest = stamp(datetime.fromisoformat(permit["approved_at"]) + timedelta(days=here.caps.days))
    if now >= (end := min(permit["not_after"], longest)):
        raise Refused("permit.expired", f"the permit ended on {end}", "Ask the owner to approve again")
    for hours, whose in ((permit["hours"], "permit is for"), (here.caps.hours, "site takes tasks in")):
        first, last = _hours(hours)
        if not first <= int(now[11:13]) < last:
            raise Refused("permit.hours", f"the {whose} the hours {hours} UTC", "Try again in these hours")
    return permit


def reservable(
    permit: Mapping[str, Any],
    task: Task,
    used: Mapping[str, int],
    run: Sequence[tuple[str, int, str, str]],
    caps: Limits,
) -> None:
    """Refuse a task that the permit has no room for.

    Args:
        used: tasks of each kind reserved under the request so far.
        run: (kind, round, protocol, status) of the tasks of this run so far.
        caps: today's; they bind permits that were given before, too.

    Raises:
        Refused: `permit.rounds`, `permit.protocol`, `permit.kind` or `permit.evaluate`.
    """
    asked = permit["tasks"][task.kind]
    allowed = min(asked, {"train": caps.train, "evaluate": caps.evaluate}.get(task.kind, asked))
    if allowed == 0:
        raise Refused("permit.kind", f"the permit has no {task.kind}", "Submit a plan that asks for it")
    if used.get(task.kind, 0) >= allowed:
        raise Refused(
            "permit.rounds", f"all {allowed} {task.kind} tasks of the permit are used", "Ask for a new permit"
        )
    trained = {(number, protocol) for kind, number, protocol, status in run if kind == "train" and status == "done"}
    if task.kind == "train":
        if task.protocol not in permit["protocols"] or task.round >= permit["rounds"]:
            raise Refused("permit.protocol", "the permit is for other rows or fewer rounds a run", "Keep to the plan")
        return
    rows = {protocol for _, protocol in trained}
    if not rows & ({"p1", "p2"} if task.protocol in ("p1", "p2", VALIDATION) else {task.protocol}):
        raise Refused("permit.protocol", "this run has not trained on these rows at this site", "Train first")
    if task.round not in {number for number, _ in trained}:
        raise Refused("permit.evaluate", "this round has not been trained at this site", "Train it first")
    if task.protocol == VALIDATION:
        before = sum(protocol == VALIDATION for _, _, protocol, _ in run)
        if before >= (most := permit.get("validate", 0)):
            raise Refused("permit.evaluate", f"all {most} validations of this run are used", "Ask for more in a plan")
    elif (task.kind, task.round, task.protocol) in {(kind, number, protocol) for kind, number, protocol, _ in run}:
        raise Refused("permit.evaluate", f"{task.kind} is allowed once per round and protocol", "Use the first answer")


def stamp(when: datetime) -> str:
    """RFC 3339 in UTC with Z, whole seconds."""
    return when.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def _time(text: object) -> datetime:
    try:
        when = datetime.fromisoformat(str(text))
        return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise _bad_limit("until is an ISO time such as 2027-01-31T18:00:00Z") from None


def _hours(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not _HOURS.fullmatch(text) or not 0 <= int(first) < int(last) <= 24:
        raise _bad_limit("hours is FIRST-LAST with 0 <= FIRST < LAST <= 24, in UTC")
    return int(first), int(last)


def _common(site: str, asked: str) -> str:
    spans = [_hours(site), _hours(asked)]
    first, last = max(span[0] for span in spans), min(span[1] for span in spans)
    if first >= last:
        raise _bad_limit(f"the site takes tasks in the hours {site} UTC only")
    return f"{first}-{last}"


def _bad_task(reason: str) -> Refused:
    return Refused("task.form", reason, "Send a task as fedrec's driver writes it")


def _bad_limit(reason: str) -> Refused:
    return Refused("permit.limit", reason, "Approve again with a right limit")
