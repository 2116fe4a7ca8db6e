"""The log against what the site has: ledger, PySyft's store, released updates, models. Reads only.

An act that the log does not have, or an event whose act is nowhere, is a finding. An intent without outcome
stands for either until the next start, which says what became of it; what it cannot say is one finding, and from then
on the act counts as not done.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedrec.errors import WrongInput
from fedrec.exchange.wire import sha256
from fedrec.institution.evidence.find import Event, events_of
from fedrec.institution.outgoing import numbers_sha256
from fedrec.institution.texts import erased

TASKS = ("train", "evaluate", "publish")
SEEN = frozenset({"fetch", "head", "view", "export", "recommend"})  # leave nothing that could be compared
ROOT = "root@fedrec.org"  # PySyft's own account, which nobody can log in to
NEVER = ("JobItem", "QueueItem", "Project")  # PySyft's own paths past a site's jobs: the gate lets nobody use them


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something that stands in one place only, or otherwise than in the log.

    Args:
        kind: "act without event", "event without act", "differs", or "unknown": nobody can say whether it was done.
        where: accounts, requests, decisions, permits, tasks, budget, pause, pysyft, updates, models or acts.
    """

    kind: str
    where: str
    what: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass
class _Logged:
    """What the log says of how things stand."""

    accounts: dict[str, tuple[str, bool]] = field(default_factory=dict)
    intents: dict[int, Event] = field(default_factory=dict)  # open ones, by number
    ended: set[tuple[Any, ...]] = field(default_factory=set)  # tasks whose answer a crash kept, and not their outcome
    carried: set[tuple[str, str]] = field(default_factory=set)  # (run, institution) with a checkpoint
    findings: list[Finding] = field(default_factory=list)
    unproved: list[str] = field(default_factory=list)
    submitted: set[tuple[str, str]] = field(default_factory=set)  # (scientist, plan)
    decision: dict[str, str] = field(default_factory=dict)  # by request
    reason: dict[str, str] = field(default_factory=dict)  # by request: SHA-256 of the last decision's
    permit: dict[str, str] = field(default_factory=dict)
    tasks: dict[tuple[Any, ...], set[tuple[str, str]]] = field(default_factory=dict)  # → (outcome, sha256)
    costs: dict[str, int] = field(default_factory=dict)  # by job that ended: what its noisy release was booked with
    begun: set[tuple[Any, ...]] = field(default_factory=set)
    paused: bool = False
    served: str = ""
    sums: set[tuple[str, str]] = field(default_factory=set)  # (request, SHA-256) of answers about sums

    def take(self, event: Event) -> None:
        act, outcome = event["act"], event["outcome"]
        if act == "start":  # says what became of what a crash left open
            for name, state in event["detail"].items():
                if name.startswith("open_") and (begun := self.intents.pop(int(name[5:]), None)):
                    self._close(begun, str(state))
        elif act == "witness":
            self._witness(event)
        elif outcome == "intent":
            self.intents[event["seq"]] = event
            if act in TASKS:
                self.begun.add(_task_key(event))
        else:
            self.intents.pop(event["of"], None)
            self._ended(event)

    def _close(self, begun: Event, state: str) -> None:
        """Take an act that a crash left open as the next start says."""
        if state == "done":
            self._ended({**begun, "outcome": "done"})
        elif state == "ended":
            self.ended.add(_task_key(begun))
        elif state == "unknown" and begun["act"] not in SEEN:
            self.findings.append(
                Finding("unknown", "acts", f"{begun['act']} of {begun['object']}, event {begun['seq']}")
            )

    def _witness(self, event: Event) -> None:
        """A checkpoint of another institution; a run's first has nothing to lead from."""
        name, run, facts = event["object"], event["run"], event["detail"]
        if event["outcome"] != "done" or (not facts["proved"] and (run, name) in self.carried):
            why = "does not fit what was kept" if event["outcome"] != "done" else "came without a good proof"
            said = f"{name} with {facts['size']} events {why} (event {event['seq']}); verify its log with this one"
            self.unproved.append(said)
        self.carried.add((run, name))

    def _ended(self, event: Event) -> None:
        act, outcome, thing, request = event["act"], event["outcome"], event["object"], event["request"]
        if act in (*TASKS, "mock.noise") and (cost := event["detail"].get("cost")):
            self.costs[str(event["detail"]["job"])] = int(str(cost))
        if act in TASKS:
            left = str(event["detail"].get("sha256", "")) if outcome == "done" else ""  # else nothing left the site
            self.tasks.setdefault(_task_key(event), set()).add((outcome, left))
        if act in ("deny", "revoke") and outcome in ("done", "site.error"):  # the site did, even if PySyft did not
            self.decision[request] = "denied" if act == "deny" else "revoked"
            self.reason[request] = str(event["detail"].get("reason", ""))
        if outcome != "done":
            return
        if act in ("decrypt", "unmask"):
            self.sums.add((request, str(event["detail"].get("sha256", ""))))
        elif act == "users.add":
            self.accounts[thing] = (str(event["detail"].get("role", "")), True)
        elif act == "users.disable":
            self.accounts[thing] = (self.accounts.get(thing, ("", True))[0], False)
        elif act == "submit":
            self.submitted.add((event["actor"], thing))
        elif act == "approve":
            self.decision[request], self.permit[request] = "approved", event["permit"]
            self.reason[request] = str(event["detail"].get("reason", ""))
        elif act in ("pause", "resume"):
            self.paused = act == "pause"
        elif act in ("publish", "models.use", "models.rollback"):
            self.served = str(event["detail"].get("base" if act == "publish" else "model", ""))

    def is_open(self, act: str, thing: str = "", request: str = "") -> bool:
        """Whether an act was begun and not ended, so that it may have happened or not."""
        return any(
            one["act"] == act and thing in ("", one["object"]) and request in ("", one["request"])
            for one in self.intents.values()
        )


def unproved(folder: Path) -> list[str]:
    """Checkpoints of other institutions that were not shown to continue the one before in the same run.

    No finding about this site: an honest driver that was started again brings such, and so does one who hides a fork.
    """
    log = _Logged()
    for event in events_of(folder):
        log.take(event)
    return log.unproved


def reconcile(folder: Path) -> list[Finding]:
    """Everything that stands in only one of log and site; empty when all is told.

    Raises:
        WrongInput: the folder has no log or no ledger.
    """
    log = _Logged()
    for event in events_of(folder):
        log.take(event)
    with closing(database(folder / "state" / "ledger.sqlite")) as db:
        found = [*_accounts(db, log), *_requests(db, log), *_tasks(db, log), *_budget(db, log)]
        found += [*_pause(db, log), *_pysyft(folder / "state", db)]
    found += [*_updates(folder / "state", log), *_models(folder / "state", log), *log.findings]
    return sorted(found)


def database(path: Path) -> sqlite3.Connection:
    """A SQLite file, opened so that nothing is written, not even beside it. Raises: WrongInput when there is none."""
    if not path.exists():
        raise WrongInput(f"{path}: not there; has the site ever run?")
    in_use = path.with_name(f"{path.name}-wal").exists()  # else SQLite would make such files, as whoever reads
    return sqlite3.connect(f"file:{path}?mode=ro" + ("" if in_use else "&immutable=1"), uri=True, timeout=10)


def _task_key(event: Event) -> tuple[Any, ...]:
    ids = [event[name] for name in ("request", "act", "run", "round")]
    return (*ids, event["detail"].get("protocol", ""), event["detail"].get("base", ""))


def _accounts(db: sqlite3.Connection, log: _Logged) -> Iterator[Finding]:
    kept = {row[0]: (row[1], bool(row[2])) for row in db.execute("SELECT email, role, enabled FROM accounts")}
    for name in [name for name in log.accounts if erased(name)]:  # whose it was is not known: any account like it
        like = [email for email in kept.keys() - log.accounts.keys() if kept[email] == log.accounts[name]]
        if like:
            del kept[like[0]], log.accounts[name]
    for email in sorted(kept.keys() | log.accounts.keys()):
        if log.is_open("users.add", email) or log.is_open("users.disable", email):
            continue
        yield from _compared("accounts", email, kept.get(email), log.accounts.get(email))


def _compared(where: str, what: str, act: object, event: object) -> Iterator[Finding]:
    if act == event:
        return
    if event is None:
        yield Finding("act without event", where, what)
    elif act is None:
        yield Finding("event without act", where, what)
    else:
        yield Finding("differs", where, f"{what}: {act} at the site, {event} in the log")


def _requests(db: sqlite3.Connection, log: _Logged) -> Iterator[Finding]:
    sql = "SELECT id, scientist, fingerprint, decision, permit, permit_state, reason FROM requests"
    rows = db.execute(sql).fetchall()
    kept = {(scientist, plan) for _, scientist, plan, *_ in rows}
    nameless = {plan for who, plan in log.submitted if erased(who)} & {plan for _, plan in kept}
    for scientist, plan in sorted(kept ^ log.submitted):
        if not (plan in nameless and (erased(scientist) or (scientist, plan) in kept)) and not log.is_open(
            "submit", plan
        ):
            one = (scientist, plan) in kept
            yield Finding(
                "act without event" if one else "event without act", "requests", f"{plan[:16]} of {scientist}"
            )
    for request, _, _, decision, permit, state, reason in rows:
        if any(log.is_open(act, request=request) for act in ("approve", "deny", "revoke")):
            continue
        yield from _compared(
            "decisions", request, None if decision == "waiting" else decision, log.decision.get(request)
        )
        if reason and sha256(reason.encode()) != log.reason.get(request):
            yield Finding("differs", "decisions", f"{request}: its reason is not the one of the log")
        if state == "live":
            yield from _compared("permits", request, json.loads(permit)["id"], log.permit.get(request))
    for request in sorted(log.decision.keys() - {row[0] for row in rows}):
        yield Finding("event without act", "decisions", request)


def _tasks(db: sqlite3.Connection, log: _Logged) -> Iterator[Finding]:
    kept: dict[tuple[Any, ...], set[tuple[str, str]]] = {}
    sql = "SELECT request, kind, run, round, protocol, base, status, answer FROM jobs"
    for *key, status, answer in db.execute(sql):
        if status == "running":
            if tuple(key) not in log.begun:
                yield Finding("act without event", "tasks", _named(key))
            kept.setdefault(tuple(key), set())
            continue
        kept.setdefault(tuple(key), set()).add(end := _outcome(status, json.loads(answer or "{}")))
        if tuple(key) in log.ended:  # the ledger's word is all there is
            log.tasks.setdefault(tuple(key), set()).add(end)
    for task, outcomes in kept.items():
        for one in sorted(outcomes - log.tasks.get(task, set())):
            yield Finding("act without event", "tasks", f"{_named(task)}: {one[0]} {one[1][:16]}".rstrip())
    for task, outcomes in log.tasks.items():
        for one in sorted(outcomes - kept.get(task, set())):
            if one[0] == "done":  # a refusal may come before anything was reserved
                yield Finding("event without act", "tasks", f"{_named(task)}: done {one[1][:16]}".rstrip())


def _budget(db: sqlite3.Connection, log: _Logged) -> Iterator[Finding]:
    """What noisy releases cost: who takes rows out of this table may ask for more than an epsilon allows."""
    task = "jobs.request, kind, run, round, protocol, base"
    sql = f"SELECT spent.job, cost, status, {task} FROM spent LEFT JOIN jobs ON key = spent.job"
    kept: dict[str, int] = {}
    for job, cost, status, *key in db.execute(sql):
        if status == "running" or tuple(key) in log.ended:  # its outcome is not written yet, or was not
            log.costs.pop(job, None)
        else:
            kept[job] = cost
    for job in sorted(kept.keys() | log.costs.keys()):
        yield from _compared("budget", f"job {job[:16]}", kept.get(job), log.costs.get(job))


def _outcome(status: str, answer: dict[str, Any]) -> tuple[str, str]:
    """What the log has to say of a task that ended: its outcome, and the SHA-256 of what left."""
    if status == "done":
        numbers = answer.get("numbers") or {}
        said = answer["passport"]["sha256"] if "passport" in answer else numbers_sha256(numbers) if numbers else ""
        return "done", said
    return str(answer.get("code", "")), ""


def _named(task: Iterable[Any]) -> str:
    request, kind, run, number, protocol, _ = task
    return f"{kind} {protocol} of {run} round {number} (request {request[:8]})"


def _pause(db: sqlite3.Connection, log: _Logged) -> Iterator[Finding]:
    paused = bool(db.execute("SELECT 1 FROM pause").fetchone())
    if paused != log.paused and not log.is_open("pause") and not log.is_open("resume"):
        yield Finding("act without event" if paused else "event without act", "pause", "the site's pause")


def _pysyft(state: Path, ledger: sqlite3.Connection) -> Iterator[Finding]:
    """PySyft's own database against the ledger, which has been compared with the log."""
    files = sorted((state / "syft").glob("*/db/*_json.db"))
    if not files:  # a site that never ran with PySyft
        return
    known = {row[0]: (row[1], row[2]) for row in ledger.execute("SELECT id, code, decision FROM requests")}
    emails = {row[0] for row in ledger.execute("SELECT email FROM accounts")} | {ROOT}
    with closing(database(files[0])) as db:
        for (text,) in db.execute('SELECT fields FROM "User"'):
            if (email := json.loads(text)["email"]) not in emails:
                yield Finding("act without event", "pysyft", f"account {email}")
        held = {}
        for (text,) in db.execute('SELECT fields FROM "Request"'):
            fields = json.loads(text)
            history = fields["history"]
            held[fields["id"]] = (fields["code_id"], bool(history and history[-1]["applied"]))
        for (code,) in db.execute('SELECT id FROM "UserCode"'):
            if code not in {one for one, _ in known.values()}:
                yield Finding("act without event", "pysyft", f"code {code}")
        for table in NEVER:
            if count := db.execute(f'SELECT COUNT(*) FROM "{table}"').fetchone()[0]:
                yield Finding("act without event", "pysyft", f"{count} entries in {table}")
    for request in sorted(known.keys() | held.keys()):
        if request not in known:
            yield Finding("act without event", "pysyft", f"request {request}")
        elif request not in held:
            yield Finding("event without act", "pysyft", f"request {request}")
        elif held[request][1] and known[request][1] not in ("approved", "revoked"):
            yield Finding(
                "differs", "pysyft", f"request {request} is approved there, {known[request][1]} in the ledger"
            )


def _updates(state: Path, log: _Logged) -> Iterator[Finding]:
    """Updates that lie ready to be fetched: each was released by a task of the log, and is what its name says."""
    released = {(task[0], sha) for task, ends in log.tasks.items() for outcome, sha in ends if outcome == "done"}
    released |= log.sums
    for path in sorted((state / "blobs" / "out").glob("*/*")):
        if (path.parent.name, path.name) not in released and not _running(log, path.parent.name):
            yield Finding("act without event", "updates", f"{path.name[:16]} (request {path.parent.name[:8]})")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != path.name:
                yield Finding("differs", "updates", f"{path.name[:16]} is not what its name says")


def _running(log: _Logged, request: str) -> bool:
    return any(log.is_open(kind, request=request) for kind in TASKS)


def _models(state: Path, log: _Logged) -> Iterator[Finding]:
    published = {task[5] for task, ends in log.tasks.items() if task[1] == "publish" and ("done", "") in ends}
    for path in sorted((state / "models").glob("[!.]*/model.json")):
        facts = json.loads(path.read_text())
        if facts["model"] not in published and not _running(log, facts["request"]):
            yield Finding("act without event", "models", f"{facts['model'][:16]} (run {facts['run']})")
    pointer = state / "models" / "current"
    if pointer.exists() and not any(log.is_open(act) for act in ("publish", "models.use", "models.rollback")):
        served = json.loads((state / "models" / pointer.read_text().split()[0] / "model.json").read_text())["model"]
        if served != log.served and not any((task[1], task[5]) == ("publish", served) for task in log.ended):
            yield Finding("differs", "models", f"{served[:16]} is served, the log says {log.served[:16] or 'none'}")
