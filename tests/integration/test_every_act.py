"""Every act of the list has its two events, in the log of a real site (T19); what no event has, nothing did.

ACTS is the list. Each entry does something to one running site; the test of its name looks only at the events that
came meanwhile.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import real_sites
from click.testing import CliRunner
from real_sites import ADA_PASSWORD, CANARY, approve_one, fresh, http_call, own_route, put, raw, run_task

from fedrec.cli.main import cli
from fedrec.demo.sites import SCIENTIST
from fedrec.errors import Refused
from fedrec.exchange.wire import sha256
from fedrec.institution.audit import read, verify
from fedrec.institution.evidence.reconcile import reconcile
from fedrec.institution.serve import control

pytestmark = pytest.mark.sites

NEW = "new-person@x.example"
WRONG = "a-wrong-password-4711"
REASON = "the reason of a decision"
HEX = re.compile(r"[0-9a-f]{64}")


@dataclass
class Story:
    """One site, the people at it, and what came of each act."""

    site: Any
    alone: Any
    owner: Any
    seen: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def ada(self) -> Any:
        return self.alone._sites["solo"]

    def command(self, *words: object) -> str:
        done = CliRunner().invoke(cli, [*map(str, words)], env={"FEDREC_PASSWORD": ADA_PASSWORD})
        assert done.exit_code == 0, done.output
        return done.stdout

    def login(self, email: str, password: str) -> tuple[int, bytes]:
        person = json.dumps({"email": email, "password": password})
        return http_call(self.site.url, "POST", "/api/v2/login", person.encode())

    def own(self, method: str, target: str, body: bytes = b"", **more: Any) -> dict[str, Any]:
        status, answer = own_route(self.ada, method, f"/fedrec/v1/{target}", body, **more)
        assert status == 200, answer
        return dict(json.loads(answer)) if answer[:1] == b"{" else {}

    def restarted(self) -> None:
        """The owner changes a limit; a user gets recommendations while no site runs."""
        file = self.site.folder / "site.toml"
        self.site.stop()
        file.write_text(file.read_text() + f"# {secrets.token_hex(4)}\n")
        self.command("recommend", self.site.folder, "--user", f"{CANARY}-01")
        self.site.start()
        self.site.wait()

    def submitted(self) -> None:
        self.kept["denied"] = real_sites.submit_one(self.ada, fresh())

    def denied(self) -> None:
        self.owner.undo(self.kept["denied"], REASON)

    def approved(self) -> None:
        self.kept["plan"] = approve_one(
            self.ada, self.owner, fresh(runs=1, evaluate=True, publish=True), self.alone.n_items, reason=REASON
        )

    def trained(self) -> None:
        plan = self.kept["plan"]
        self.kept["passport"] = run_task(self.ada, plan)["passport"]

    def refused_task(self) -> None:
        plan = self.kept["plan"]
        put(self.ada, plan.id, plan.plan.built.init(self.alone.n_items, plan.plan.seed).tensors)
        assert run_task(self.ada, plan, run="another")["status"] == "refused"

    def fetched(self) -> None:
        own_route(self.ada, "GET", f"/fedrec/v1/blobs/{self.kept['passport']['sha256']}", permit=self.kept["plan"].id)

    def evaluated(self) -> None:
        self._after("evaluate")

    def published(self) -> None:
        self._after("publish")

    def _after(self, kind: str) -> None:
        plan = self.kept["plan"]
        base = put(self.ada, plan.id, plan.plan.built.init(self.alone.n_items, plan.plan.seed).tensors)
        assert run_task(self.ada, plan, kind=kind, base=base)["status"] == "done"

    def revoked(self) -> None:
        self.owner.undo(self.kept["plan"].id, REASON)

    def witnessed(self) -> None:
        body = json.dumps({"run": "r", "since": 0, "checkpoints": []}).encode()
        self.ada.own("PUT", "/fedrec/v1/checkpoints", body)

    def waited(self) -> None:
        answer = self.ada.call(self.kept["plan"].function, self.kept["plan"].task(nonce=self.kept["passport"]["nonce"]))
        self.own("GET", f"jobs/{answer['key']}", permit=self.kept["plan"].id)

    def turned_away(self) -> None:
        with pytest.raises(Refused, match=r"gate\.role"):
            self.ada.pause("x")

    def cleared(self) -> None:
        self.owner.pause(REASON)
        self.owner.resume()


Act = tuple[Callable[[Story], object], list[tuple[str, str, str, str]]]  # what is done → actor, act, object, outcome
OWNER = "owner@solo.example"
ACTS: dict[str, Act] = {
    "metadata": (lambda s: http_call(s.site.url, "GET", "/api/v2/metadata"), []),  # counted, see below
    "login": (lambda s: s.login(OWNER, s.site.owner_password), [(OWNER, "login", "site", "done")]),
    "login bad": (lambda s: s.login(OWNER, WRONG), [("anonymous", "login", OWNER, "gate.role")]),
    "login of nobody": (lambda s: s.login(WRONG, WRONG), [("anonymous", "login", "site", "gate.role")]),
    "account": (
        lambda s: s.command("site", "users", "add", s.site.folder, NEW, "--role", "reviewer"),
        [("site", "users.add", NEW, "done")],
    ),
    "role changed": (
        lambda s: control(s.site.folder, {"op": "users.add", "email": NEW, "role": "auditor", "password": ADA_PASSWORD}),
        [("site", "users.add", NEW, "done")],
    ),
    "password": (lambda s: s.command("site", "users", "reset", s.site.folder, NEW), [("site", "users.reset", NEW, "done")]),
    "account disabled": (
        lambda s: s.command("site", "users", "disable", s.site.folder, NEW),
        [("site", "users.disable", NEW, "done")],
    ),
    **{
        path: (lambda s, path=path: raw(s.ada, path), [(SCIENTIST, "call", path, "done")])
        for path in ("user.get_current_user", "metadata.get_metadata", "request.get_all")
    },
    "people": (lambda s: raw(s.owner, "user.get_all"), [(OWNER, "call", "user.get_all", "done")]),
    "PySyft says no": (
        lambda s: raw(s.ada, "action.has_storage_permission", "x"),
        [(SCIENTIST, "call", "action.has_storage_permission", "site.error")],
    ),
    "card": (lambda s: raw(s.ada, "dataset.get_all"), [(SCIENTIST, "card", "*", "done")]),
    "mock": (lambda s: s.ada.mock(), [(SCIENTIST, "mock", "*", "done")]),
    "rows": (lambda s: s.command("site", "head", s.site.folder), [("site", "head", "*", "done")]),
    "data": (lambda s: s.command("site", "check", s.site.folder), [("site", "data.take", "source", "done")]),
    "request": (Story.submitted, [(SCIENTIST, "submit", "*", "done")]),
    "view": (lambda s: raw(s.owner, "request.get_all"), [(OWNER, "view", "requests", "done")]),
    "view by command": (
        lambda s: s.command("requests", "show", s.site.folder, s.kept["denied"]),
        [("site", "view", "*", "done")],
    ),
    "list by command": (
        lambda s: s.command("requests", "list", s.site.folder),
        [("site", "view", "requests", "done")],
    ),
    "quality": (lambda s: s.command("site", "report", s.site.folder), [("site", "view", "report", "done")]),
    "denial": (Story.denied, [(OWNER, "deny", "*", "done")]),
    "permit": (Story.approved, [(SCIENTIST, "submit", "*", "done"), (OWNER, "approve", "*", "done")]),
    "round": (
        Story.trained,
        [(SCIENTIST, "train", "*", "done"), (SCIENTIST, "call", "code.call", "done")],
    ),
    "fetch": (Story.fetched, [(SCIENTIST, "fetch", "*", "done")]),
    "model sent and evaluated": (Story.evaluated, [(SCIENTIST, "send", "*", "done"), (SCIENTIST, "evaluate", "*", "done")]),
    "published": (Story.published, [(SCIENTIST, "publish", "*", "done")]),
    "task refused": (Story.refused_task, [(SCIENTIST, "train", "*", "permit.rounds"),
                                          (SCIENTIST, "call", "action.get", "permit.rounds")]),
    "job": (Story.waited, [(SCIENTIST, "call", "GET jobs", "done")]),
    "recommendation": (
        lambda s: s.command("recommend", s.site.folder, "--user", f"{CANARY}-01"),
        [("site", "recommend", "*", "done")],
    ),
    "token of the applications": (
        lambda s: s.command("site", "token", s.site.folder),
        [("site", "token", "new", "done")],
    ),
    "model chosen": (
        lambda s: s.command("site", "models", "use", s.site.folder, "1"),
        [("site", "models.use", "model", "done")],
    ),
    "own requests": (lambda s: s.own("GET", "requests"), [(SCIENTIST, "call", "GET requests", "done")]),
    "environment": (lambda s: s.own("GET", "environment"), [(SCIENTIST, "call", "GET environment", "done")]),
    "checkpoints": (Story.witnessed, [(SCIENTIST, "call", "PUT checkpoints", "done")]),
    "log read": (lambda s: s.own("GET", "audit?after=0"), [(SCIENTIST, "read", "audit", "done")]),
    "log exported": (
        lambda s: s.command("audit", "export", s.site.folder, "--out", s.site.folder.parent / "log.csv"),
        [("site", "export", "log", "done")],
    ),
    "pack": (
        lambda s: s.command("audit", "pack", s.site.folder, "--run", "run", "--request", s.kept["plan"].id,
                            "--out", s.site.folder.parent / "p.zip"),
        [("site", "export", "log", "done")],
    ),
    "pack over the network": (
        lambda s: s.owner.pack("run", s.kept["plan"].id),
        [(OWNER, "export", "log", "done")],
    ),
    "replay": (
        lambda s: s.command("audit", "replay", s.site.folder, "--run", "run", "--round", "0"),
        [("site", "replay", "run", "done")],
    ),
    "pause": (Story.cleared, [(OWNER, "pause", "solo", "done"), (OWNER, "resume", "solo", "done")]),
    "revocation": (Story.revoked, [(OWNER, "revoke", "*", "done")]),
    "own route refused": (Story.turned_away, [(SCIENTIST, "call", "POST pause", "gate.role")]),
    "call refused": (lambda s: raw(s.ada, "user.create"), [(SCIENTIST, "call", "user.create", "gate.role")]),
    "stop, settings and start": (
        Story.restarted,
        [
            ("site", "recommend", "*", "done"),
            ("site", "data.take", "source", "done"),
            ("site", "config", "site.toml", "done"),
        ],
    ),
}  # fmt: skip


def ended(site: Any, before: int) -> list[dict[str, Any]]:
    """The events from a number on, once no act is open: a file's last byte arrives before its outcome is written."""
    deadline = time.monotonic() + 10
    while True:
        events = list(read(site.folder))[before:]
        open_ = {event["seq"] for event in events if event["outcome"] == "intent"} - {event["of"] for event in events}
        if not open_ or time.monotonic() > deadline:
            return events
        time.sleep(0.05)


@pytest.fixture(scope="module")
def told(site, alone, its_owner):
    """The whole list, done once, in order."""
    story = Story(site, alone, its_owner["solo"])
    for name, (do, _) in ACTS.items():
        before = sum(1 for _ in read(site.folder))
        do(story)
        story.seen[name] = ended(site, before)
    return story


@pytest.mark.parametrize("name", ACTS)
def test_the_act_is_an_intent_and_an_outcome(name, told):
    seen = told.seen[name]
    for actor, act, thing, outcome in ACTS[name][1]:
        mine = [event for event in seen if (event["actor"], event["act"]) == (actor, act)]
        ends = [event for event in mine if event["outcome"] == outcome and thing in ("*", event["object"])]
        assert ends, (actor, act, outcome, [(event["act"], event["object"], event["outcome"]) for event in seen])
        for end in ends:
            (intent,) = [event for event in seen if event["seq"] == end["of"]]
            assert (intent["outcome"], intent["seq"] < end["seq"]) == ("intent", True)
            who = ("anonymous", OWNER) if name == "login" else (end["actor"], end["object"])  # before the password told
            assert (intent["actor"], intent["object"]) == who


def of(told: Story, name: str, act: str) -> dict[str, Any]:
    """The outcome of an act."""
    return next(event for event in told.seen[name] if event["act"] == act and event["outcome"] != "intent")


def test_what_the_events_say_beyond_that_something_was_done(told):
    plan = told.kept["plan"]
    approval, denial = of(told, "permit", "approve"), of(told, "denial", "deny")
    assert approval["object"] == sha256(plan.plan.text.encode())
    assert approval["detail"]["reason"] == denial["detail"]["reason"] == sha256(REASON.encode())
    assert of(told, "view by command", "view")["request"] == denial["request"] == told.kept["denied"]
    assert told.kept["denied"][:8] in of(told, "view", "view")["detail"]["ids"].split()
    round_ = of(told, "round", "train")
    assert (round_["request"], round_["permit"], round_["run"], round_["round"]) == (
        plan.id, approval["permit"], "run", 0,
    )  # fmt: skip
    for act in ("fetch", "pack", "replay"):
        assert of(told, act, "export" if act == "pack" else act)["run"] == "run"
    fetch, sent = of(told, "fetch", "fetch"), of(told, "model sent and evaluated", "send")
    assert [fetch[name] for name in ("purpose", "request", "permit", "run", "round")] == [
        round_[name] for name in ("purpose", "request", "permit", "run", "round")
    ]
    assert (fetch["detail"]["bytes"], sent["permit"]) == (round_["detail"]["bytes"], approval["permit"])
    detail = round_["detail"]
    assert (detail["sha256"], detail["guard"]) == (told.kept["passport"]["sha256"], "passed")
    assert {type(detail[name]) for name in ("ms", "bytes", "rows", "users")} == {int}
    assert HEX.fullmatch(round_["object"])
    assert detail["data_version"] == of(told, "data", "data.take")["detail"]["version"]
    assert of(told, "recommendation", "recommend")["detail"] == {"users": 1, "items": 10, "known": True}
    assert of(told, "call refused", "call")["request"] == ""
    stop, start = (
        next(one for one in told.seen["stop, settings and start"] if one["act"] == act) for act in ("stop", "start")
    )
    changed = of(told, "stop, settings and start", "config")["detail"]
    assert (stop["seq"] < start["seq"], changed["settings"]) == (True, start["detail"]["settings"])
    assert changed["before_settings"] != changed["settings"]
    assert "before_schema" not in changed


def test_strangers_are_counted_not_listed(told):
    for _ in range(30):
        assert http_call(told.site.url, "GET", "/api/v2/metadata")[0] == 200
        assert http_call(told.site.url, "GET", "/no/such/route")[0] == 404
    answered = [one for one in read(told.site.folder) if one["object"] == "GET metadata" and one["outcome"] == "done"]
    strange = [one for one in read(told.site.folder) if one["outcome"] == "http.404"]
    assert (bool(answered), bool(strange)) == (True, True)
    assert len(answered) + len(strange) < 30


def test_every_act_has_its_event_and_every_event_its_act_and_nothing_is_open(told):
    assert [str(one) for one in reconcile(told.site.folder)] == []
    assert verify(told.site.folder).verdict == "ok"
    events = list(read(told.site.folder))
    ended = {event["of"] for event in events}
    starts = {event["seq"] for event in events if event["outcome"] == "intent"}
    assert starts - ended == set()


def test_control_a_reason_that_was_changed_in_the_ledger_is_found(told, tmp_path):
    import shutil
    import sqlite3
    from contextlib import closing

    copy = tmp_path / "solo"
    shutil.copytree(told.site.folder, copy, ignore=shutil.ignore_patterns("*.sock", "lock", "blob"))
    with closing(sqlite3.connect(copy / "state" / "ledger.sqlite")) as db, db:
        db.execute("UPDATE requests SET reason='another' WHERE id=?", (told.kept["denied"],))
    assert [(one.kind, one.where) for one in reconcile(copy)] == [("differs", "decisions")]


def test_no_log_holds_an_id_a_rating_a_password_or_a_reason(told):
    """The canary is in every user's id; the control finds it in the data, and the reason in the ledger."""
    folder = told.site.folder
    secret = [word.encode() for word in (CANARY, ADA_PASSWORD, told.site.owner_password, WRONG, REASON, '"rating"')]
    logs = [
        *(path for path in (folder / "state" / "audit").rglob("*") if path.is_file()),
        folder / "state" / "log" / "site.jsonl",
    ]
    assert len(logs) >= 2
    assert {word for path in logs for word in secret if word in path.read_bytes()} == set()
    assert CANARY.encode() in (folder / "data" / "ratings.csv").read_bytes()
    assert any(REASON.encode() in path.read_bytes() for path in (folder / "state").glob("ledger.sqlite*"))
