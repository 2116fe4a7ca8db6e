"""PySyft's four routes: what a call of PySyft's clients goes through, and what fedrec does around it.

call → gate → audit → PySyft → endpoint → permit → jail → guard → audit → answer
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any
from urllib.parse import parse_qs

from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fedrec.errors import Refused
from fedrec.exchange.plan import fingerprint
from fedrec.institution.audit import AuditLog
from fedrec.institution.decisions import Decisions
from fedrec.institution.envelope import Call
from fedrec.institution.gate import PATHS, Gate, too_large
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import Account
from fedrec.institution.pysyft import SyftServer
from fedrec.institution.site import Site
from fedrec.institution.trouble import refusal_of

BYTES = "application/octet-stream"
COOKIE = "fedrec"
THREADS = 16  # PySyft calls that run at once, decisions not counted
_STATUS = {"gate.size": 413, "gate.rate": 429}
_log = logging.getLogger("fedrec.site")


class Turned:
    """Notes refusals in the log: of accounts each, of strangers one event a second, so nobody fills the disk."""

    def __init__(self, gate: Gate, audit: AuditLog) -> None:
        self._gate, self._audit = gate, audit
        self._strangers, self._strangers_at = 0, 0.0

    def away(self, request: Request, account: Account | None, what: str, refusal: Refused, size: int = 0) -> Refused:
        """Note a refusal; a stranger's counts against his address, and becomes `gate.rate` when there are too many.

        Args:
            size: bytes that the site read of the stranger's body.
        """
        if account is not None:
            self._note(account.email, account.role, what, refusal, {})
            return refusal
        try:
            self._gate.stranger(address_of(request), size)
        except Refused as rate:
            refusal = rate
        self._strangers += 1
        if time.monotonic() - self._strangers_at >= 1.0:
            count, self._strangers, self._strangers_at = self._strangers, 0, time.monotonic()
            self._note("anonymous", "none", what, refusal, {"refused": count})
        return refusal

    def _note(self, who: str, role: str, what: str, refusal: Refused, detail: dict[str, int]) -> None:
        try:
            self._audit.event(who, role, "call", what, outcome=refusal.code, detail=detail)
        except Refused as full:  # nothing was done, so the refusal may be said
            _log.error("a refusal could not be noted: %s", full)


class SyftCalls:
    """The handlers of PySyft's routes."""

    def __init__(
        self, site: Site, server: SyftServer, jobs: Jobs, gate: Gate, decisions: Decisions, turned: Turned
    ) -> None:
        self._site, self._server, self._jobs = site, server, jobs
        self._gate, self._decisions, self._turned = gate, decisions, turned
        self._threads = {True: CapacityLimiter(8), False: CapacityLimiter(THREADS)}

    async def metadata(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse(self._server.metadata())

    async def login(self, request: Request) -> Response:
        try:
            given = json.loads(await body_of(request, 4096))
            email, password = str(given["email"]), str(given["password"])
            self._gate.login_allowed(email, address_of(request))
        except Refused as refusal:
            return refused(refusal)
        except (ValueError, KeyError, TypeError):
            return refused(Refused("gate.signature", "this is not a login", "Send email and password"), 400)
        data, key = await run_in_threadpool(self._server.login, email, password)
        account = None if key is None else self._site.ledger.account_of(key)
        if key is None or account is None:
            self._site.audit.event("anonymous", "none", "login", "site", outcome="gate.role")
            return Response(data if key is None else self._server.login("", "")[0], media_type=BYTES)
        self._site.audit.event(account.email, account.role, "login", "site", outcome="done")
        response = Response(data, media_type=BYTES)
        response.set_cookie(COOKIE, self._gate.cookie(key), httponly=True, samesite="strict")
        return response

    async def schema(self, request: Request) -> Response:
        query = parse_qs(request.url.query)
        key, protocol = query.get("verify_key", [""])[0], query.get("communication_protocol", [""])[0]
        account = self._site.ledger.account_of(key)
        if (
            account is None
            or not protocol.isdigit()
            or not self._gate.cookie_is_of(request.cookies.get(COOKIE, ""), key)
        ):
            return refused(Refused("gate.role", "the schema is for accounts that have logged in", "Log in first"), 403)
        data = await run_in_threadpool(self._server.schema, key, int(protocol), PATHS[account.role])
        return Response(data, media_type=BYTES)

    async def api_call(self, request: Request) -> Response:
        account: Account | None = None
        path, size = "unknown", self._gate.largest(address_of(request))

        def note(by: Account, asked: str) -> None:
            nonlocal account, path
            account, path = by, asked

        try:
            body = await body_of(request, size)
        except Refused as refusal:
            return refused(await run_in_threadpool(self._turned.away, request, None, path, refusal, size))
        try:
            caller, call = await run_in_threadpool(self._gate.admit, body, note)
            with self._gate.place(caller.key):
                answer = await to_thread.run_sync(self._answer, body, call, caller, limiter=self._thread(caller))
            return Response(answer, media_type=BYTES)
        except Refused as refusal:
            said = await run_in_threadpool(self._turned.away, request, account, path, refusal, len(body))
            if account is None and said.code == "gate.rate":
                return refused(said)  # costs less than PySyft's form
            return Response(await run_in_threadpool(self._server.refusal, said), media_type=BYTES)

    def _thread(self, account: Account) -> CapacityLimiter:
        """Owners and reviewers have threads of their own: a decision never waits for scientists' calls."""
        return self._threads[account.role in ("owner", "reviewer")]

    def _answer(self, body: bytes, call: Call, account: Account) -> bytes:
        try:
            return self._server.seal(self._dispatch(account, call.path, self._server.open(body, call, account)))
        except Refused:
            raise
        except Exception as error:
            _log.exception("a call of %s", call.path)
            return self._server.refusal(refusal_of(error))

    def _dispatch(self, account: Account, path: str, signed: Any) -> Any:
        """What fedrec does around the calls that matter; everything else goes straight to PySyft."""
        match path:
            case "code.request_code_execution":
                return self._submit(account, signed)
            case "request.apply" | "request.undo":
                return self._decide(account, path, signed)
            case "code.call":
                return self._call(account, signed)
            case "action.get":
                return self._get(account, signed)
            case "dataset.get_all":
                with self._site.audit.act(account.email, account.role, "card", self._site.store.version):
                    card = self._server.run(signed)
                return self._server.without_schema(card) if account.role == "operator" else card
            case "action.get_mock":
                with self._site.audit.act(account.email, account.role, "mock", self._site.store.version):
                    return self._server.run(signed)
            case _:
                return self._server.run(signed)

    def _submit(self, account: Account, signed: Any) -> Any:
        plan_text, plan, _ = self._server.rebuild(signed)
        self._decisions.check_submission(account, plan_text, plan)
        with self._site.audit.act(account.email, account.role, "submit", fingerprint(plan_text)) as facts:
            result = self._server.run(signed)
            if self._server.is_error(result):
                return result
            taken = self._server.value(result)
            code = taken.changes[0].linked_user_code.object_uid.no_dash
            self._decisions.submitted(account, plan_text, plan, taken.id.no_dash, code)
            facts["request"] = taken.id.no_dash
        return result

    def _decide(self, account: Account, path: str, signed: Any) -> Any:
        given = {name: value for name, value in signed.message.kwargs.items() if name != "communication_protocol"}
        positional = list(signed.message.args)
        uid = given.pop("uid", None) or (positional.pop(0) if positional else None)
        results: list[Any] = []

        def apply() -> bool:
            results.append(self._server.run(signed))
            return not self._server.is_error(results[0])

        name = getattr(uid, "no_dash", "")
        if path == "request.apply":
            self._decisions.approve(account, name, given, apply)
        else:
            self._decisions.undo(account, name, str(given.get("reason") or (positional or [""])[0]), apply)
        return results[0]

    def _call(self, account: Account, signed: Any) -> Any:
        given = dict(signed.message.kwargs)
        uid = given.get("uid") or (signed.message.args or [None])[0]
        row = self._site.ledger.request(getattr(uid, "no_dash", ""))
        if row is None or row.key != account.key:
            raise Refused("permit.missing", "this account has no such request here", "Submit the plan first")
        self._jobs.permit_of(row.id)
        self._server.check_code(row.code, row.plan, row.name)
        result = self._server.run(signed)
        self._server.forget(given.get("task"), account.key)
        if not self._server.is_error(result):
            for older in self._site.ledger.add_result(self._server.value(result).id.no_dash, row.id):
                self._server.forget(older)
        return result

    def _get(self, account: Account, signed: Any) -> Any:
        uid = signed.message.kwargs.get("uid") or (signed.message.args or [None])[0]
        if account.role == "owner":  # four numbers about his data; updates and results are not his to fetch
            if getattr(uid, "no_dash", "") != self._server.handle:
                raise Refused(
                    "gate.role", "an owner reads the data set's handle only", "See fedrec requests and site head"
                )
            return self._server.run(signed)
        row = self._site.ledger.request_of_result(getattr(uid, "no_dash", ""))
        if row is None:
            raise Refused("gate.role", "only results of approved calls can be read", "Call the approved function")
        self._jobs.permit_of(row.id)
        return self._server.run(signed)


def address_of(request: Request) -> str:
    """Where a call came from; behind a proxy, what the proxy says."""
    return request.client.host if request.client else ""


async def body_of(request: Request, limit: int) -> bytes:
    """The body, read no further than `limit`. Raises: Refused `gate.size`."""
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > limit:
            raise too_large(limit)
        parts.append(part)
    return b"".join(parts)


def refused(refusal: Refused, status: int = 403) -> JSONResponse:
    """A refusal as JSON; 413 and 429 where HTTP has a word for it."""
    return JSONResponse(refusal.answer(), status_code=_STATUS.get(refusal.code, status))
