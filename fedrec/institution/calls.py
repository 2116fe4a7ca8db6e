"""PySyft's four routes: what a call of PySyft's clients goes through, and what fedrec does around it.

call → gate → audit → PySyft → endpoint → permit → jail → guard → audit → answer
"""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import parse_qs

from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fedrec.errors import Refused
from fedrec.exchange.plan import fingerprint
from fedrec.institution.acts import seen as seen_of
from fedrec.institution.decisions import Decisions
from fedrec.institution.envelope import Call
from fedrec.institution.gate import PATHS, Gate, too_large
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import Account
from fedrec.institution.noted import Noted, address_of
from fedrec.institution.pysyft import SyftServer
from fedrec.institution.site import Site
from fedrec.institution.trouble import refusal_of

BYTES = "application/octet-stream"
COOKIE = "fedrec"
THREADS = 16  # PySyft calls that run at once, decisions not counted
# Calls that change nothing: their intent and outcome are written together, before the answer leaves.
READS = frozenset(
    "user.get_current_user metadata.get_metadata user.get_all api.view request.get_all action.get "
    "action.has_storage_permission".split()
)
_STATUS = {"gate.size": 413, "gate.rate": 429, "gate.slow": 408}
_log = logging.getLogger("fedrec.site")


class SyftCalls:
    """The handlers of PySyft's routes."""

    def __init__(
        self, site: Site, server: SyftServer, jobs: Jobs, gate: Gate, decisions: Decisions, noted: Noted
    ) -> None:
        self._site, self._server, self._jobs = site, server, jobs
        self._gate, self._decisions, self._noted = gate, decisions, noted
        self._threads = {True: CapacityLimiter(8), False: CapacityLimiter(THREADS)}

    async def metadata(self, request: Request) -> Response:
        try:
            self._gate.asked(address_of(request))
        except Refused as refusal:
            return refused(await run_in_threadpool(self._noted.away, request, None, "GET metadata", refusal))
        await run_in_threadpool(self._noted.answered, "GET metadata")
        return JSONResponse(self._server.metadata())

    async def login(self, request: Request) -> Response:
        try:
            given = json.loads(await body_of(request, 4096))
            email, password = str(given["email"]), str(given["password"])
            self._gate.login_allowed(email, address_of(request))
        except Refused as refusal:
            return refused(await run_in_threadpool(self._noted.away, request, None, "login", refusal))
        except (ValueError, KeyError, TypeError):
            wrong = Refused("gate.signature", "this is not a login", "Send email and password")
            return refused(await run_in_threadpool(self._noted.away, request, None, "login", wrong), 400)
        data, key = await run_in_threadpool(self._login, email, password)
        response = Response(data, media_type=BYTES)
        if key is not None:
            response.set_cookie(COOKIE, self._gate.cookie(key), httponly=True, samesite="strict")
        return response

    def _login(self, email: str, password: str) -> tuple[bytes, str | None]:
        """The answer to a login, and the account's key when it is right; the log names accounts that there are."""
        known = email if email in {one.email for one in self._site.ledger.accounts()} else "site"
        note, outcome = self._site.audit.event, "site.error"
        who = ("anonymous", "none", "login", known)  # who it is, the password tells: the intent cannot name him yet
        number = note(*who, outcome="intent")
        try:
            data, key = self._server.login(email, password)
            account = None if key is None else self._site.ledger.account_of(key)
            outcome = "gate.role"
            if account is not None:
                who, outcome = (account.email, account.role, "login", "site"), "done"
        finally:
            note(*who, outcome=outcome, of=number)
        if account is not None:
            return data, key
        return data if key is None else self._server.login("", "")[0], None

    async def schema(self, request: Request) -> Response:
        query = parse_qs(request.url.query)
        key, protocol = query.get("verify_key", [""])[0], query.get("communication_protocol", [""])[0]
        account = self._site.ledger.account_of(key)
        if (
            account is None
            or not protocol.isdigit()
            or not self._gate.cookie_is_of(request.cookies.get(COOKIE, ""), key)
        ):
            refusal = Refused("gate.role", "the schema is for accounts that have logged in", "Log in first")
            return refused(await run_in_threadpool(self._noted.away, request, None, "GET api", refusal))
        data = await run_in_threadpool(self._server.schema, key, int(protocol), PATHS[account.role])
        await run_in_threadpool(self._noted.done, account, "GET api")
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
            return refused(await run_in_threadpool(self._noted.away, request, None, path, refusal, size))
        try:
            caller, call = await run_in_threadpool(self._gate.admit, body, note)
            with self._gate.place(caller.key):
                answer = await to_thread.run_sync(self._answer, body, call, caller, limiter=self._thread(caller))
            return Response(answer, media_type=BYTES)
        except Refused as refusal:
            said = await run_in_threadpool(self._noted.away, request, account, path, refusal, len(body))
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
        """What fedrec does around the calls that matter; each of the others is an act `call`."""
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
                card = self._run(account, "card", self._site.store.version, signed)
                return self._server.without_schema(card) if account.role == "operator" else card
            case "action.get_mock":
                return self._run(account, "mock", self._site.store.version, signed)
            case "request.get_all" if account.role in ("owner", "reviewer"):
                return self._view(account, signed)
            case _:
                return self._run(account, "call", path, signed)

    def _run(self, account: Account, act: str, thing: str, signed: Any, request: str = "") -> Any:
        """PySyft's result of a call, with the call's two events."""
        who = (account.email, account.role, act, thing)
        if act == "call" and thing in READS:
            result = self._server.run(signed)
            self._noted.done(account, thing, self._outcome(result), request)
            return result
        with self._site.audit.act(*who, request=request) as facts:
            result = self._server.run(signed)
            facts["outcome"] = self._outcome(result)
        return result

    def _outcome(self, result: Any) -> str:
        """done, or the code of what was refused: by PySyft, or in the answer to a task."""
        return "site.error" if self._server.is_error(result) else self._server.code_of(result) or "done"

    def _view(self, account: Account, signed: Any) -> Any:
        """Requests as an owner or a reviewer sees them: the log says which."""
        with self._site.audit.act(account.email, account.role, "view", "requests") as facts:
            result = self._server.run(signed)
            seen = () if self._server.is_error(result) else self._server.value(result)
            facts.update(seen_of([one.id.no_dash for one in seen if hasattr(one, "id")]))
            facts["outcome"] = self._outcome(result)
        return result

    def _submit(self, account: Account, signed: Any) -> Any:
        plan_text, plan, _ = self._server.rebuild(signed)
        self._decisions.check_submission(account, plan_text, plan)
        with self._site.audit.act(account.email, account.role, "submit", fingerprint(plan_text)) as facts:
            result = self._server.run(signed)
            facts["outcome"] = self._outcome(result)
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
        result = self._run(account, "call", "code.call", signed, row.id)
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
            return self._run(account, "call", "action.get", signed)
        row = self._site.ledger.request_of_result(getattr(uid, "no_dash", ""))
        if row is None:
            raise Refused("gate.role", "only results of approved calls can be read", "Call the approved function")
        self._jobs.permit_of(row.id)
        return self._run(account, "call", "action.get", signed, row.id)


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


async def trouble(request: Request, error: Exception) -> Response:
    """What goes wrong outside a handler's own rules leaves as a code too."""
    if not isinstance(error, Refused):
        _log.error("%s %s", request.method, request.url.path.split("/")[3:4], exc_info=error)
    return refused(refusal_of(error), 503)
