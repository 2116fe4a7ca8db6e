"""The site's ASGI application: the whole route table, and what each call goes through.

    call → gate → audit → PySyft → endpoint → permit → jail → guard → audit → answer

Stage 1 of the gate is this table: a route that is not here does not exist (PySyft's own /register,
/reset_password, /stream and /docs among them). Stage 2 is `Calls.api_call`.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from fedrec.errors import Refused
from fedrec.exchange import signing
from fedrec.exchange.plan import fingerprint
from fedrec.exchange.wire import sha256
from fedrec.institution.decisions import Decisions
from fedrec.institution.gate import MAX_CALL, PATHS, Gate, Nonces, too_large
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import Account
from fedrec.institution.pysyft import SyftServer
from fedrec.institution.review import summary
from fedrec.institution.site import Site
from fedrec.institution.walls import environment
from fedrec.institution.witness import MAX_BODY, Witness

_HEX64, _HEX32 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{32}")
_BYTES = "application/octet-stream"
COOKIE = "fedrec"
MAX_WAIT_S = 25.0
_log = logging.getLogger("fedrec.site")


class Calls:
    """The handlers of all routes."""

    def __init__(self, site: Site, server: SyftServer, jobs: Jobs) -> None:
        self._site, self._server, self._jobs = site, server, jobs
        self._gate = Gate(site.keys.uid, site.ledger.account_of, site.ledger.first_time, site.keys.cookie_secret)
        self._decisions = Decisions(site, jobs)
        self._nonces = Nonces(signing.WINDOW_S)
        self._witness = Witness(site)
        self._strangers, self._strangers_at = 0, 0.0

    # PySyft's four routes

    async def metadata(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse(self._server.metadata())

    async def login(self, request: Request) -> Response:
        try:
            given = json.loads(await _body(request, 4096))
            email, password = str(given["email"]), str(given["password"])
            self._gate.login_allowed(email)
        except Refused as refusal:
            return _refused(refusal, 429)
        except (ValueError, KeyError, TypeError):
            return _refused(Refused("gate.signature", "this is not a login", "Send email and password"), 400)
        data, key = await run_in_threadpool(self._server.login, email, password)
        account = None if key is None else self._site.ledger.account_of(key)
        if key is None or account is None:
            self._site.audit.event("anonymous", "none", "login", "site", outcome="gate.role")
            return Response(data if key is None else self._server.login("", "")[0], media_type=_BYTES)
        self._site.audit.event(account.email, account.role, "login", "site", outcome="done")
        response = Response(data, media_type=_BYTES)
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
            return _refused(Refused("gate.role", "the schema is for accounts that have logged in", "Log in first"), 403)
        data = await run_in_threadpool(self._server.schema, key, int(protocol), PATHS[account.role])
        return Response(data, media_type=_BYTES)

    async def api_call(self, request: Request) -> Response:
        try:
            body = await _body(request, MAX_CALL)
        except Refused as refusal:
            return _refused(refusal, 413)
        return Response(await run_in_threadpool(self._api_call, body), media_type=_BYTES)

    def _api_call(self, body: bytes) -> bytes:
        account: Account | None = None
        path = "unknown"

        def note(by: Account, asked: str) -> None:
            nonlocal account, path
            account, path = by, asked

        try:
            account, call = self._gate.admit(body, note)
            with self._gate.place(account.key):
                return self._server.seal(self._dispatch(account, path, self._server.open(body, call, account)))
        except Refused as refusal:
            self._note_refusal(account, path, refusal)
            return self._server.refusal(refusal)
        except Exception:
            _log.exception("a call of %s", path)
            return self._server.refusal(site_error())

    def _note_refusal(self, account: Account | None, path: str, refusal: Refused) -> None:
        """Log a refusal; those of strangers at most once a second, with their number: nobody fills the disk."""
        if account is not None:
            self._site.audit.event(account.email, account.role, "call", path, outcome=refusal.code)
            return
        self._strangers += 1
        if time.monotonic() - self._strangers_at >= 1.0:
            count, self._strangers, self._strangers_at = self._strangers, 0, time.monotonic()
            self._site.audit.event("anonymous", "none", "call", path, outcome=refusal.code, detail={"refused": count})

    def _dispatch(self, account: Account, path: str, signed: Any) -> Any:
        """What fedrec does around the five calls that matter; everything else goes straight to PySyft."""
        match path:
            case "code.request_code_execution":
                return self._submit(account, signed)
            case "request.apply" | "request.undo":
                return self._decide(account, path, signed)
            case "code.call":
                return self._call(account, signed)
            case "action.get":
                return self._get(account, signed)
            case "dataset.get_all" | "action.get_mock":
                act = "card" if path == "dataset.get_all" else "mock"
                with self._site.audit.act(account.email, account.role, act, self._site.store.version):
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

    # the site's own routes

    async def put_blob(self, request: Request) -> Response:
        name = request.path_params["sha256"]
        try:
            row = self._own_call(request, name)
            limit = int(self._site.config.limits.megabytes * 10**6)
            length = await self._site.blobs.receive(row, name, _parts(request), limit)
        except Refused as refusal:
            return self._refuse(request, refusal)
        return JSONResponse({"sha256": name, "bytes": length})

    async def get_blob(self, request: Request) -> Response:
        name = request.path_params["sha256"]
        try:
            row = self._own_call(request, signing.EMPTY, name)
            path = self._site.blobs.path("out", row, name)
            if not path.exists():
                raise Refused(
                    "update.gone", "there is no such update", "It is deleted after its round; train the round again"
                )
        except Refused as refusal:
            return self._refuse(request, refusal)
        account = request.state.account
        fetch = self._site.audit.act(account.email, account.role, "fetch", name, request=row)
        return _Guarded(path, media_type=_BYTES, live=lambda: self._jobs.permit_of(row), act=fetch)

    async def job(self, request: Request) -> Response:
        key = request.path_params["key"]
        try:
            row = self._own_call(request, signing.EMPTY)
            known = self._site.ledger.job(key)
            if known is None or known.request != row:
                raise Refused("job.missing", "there is no such job", "Start it with a call of the approved function")
            wait = request.query_params.get("wait", "0")
            seconds = min(float(wait), MAX_WAIT_S) if re.fullmatch(r"\d{1,4}(\.\d{1,3})?", wait) else 0.0
            return JSONResponse(await self._jobs.wait(key, seconds))
        except Refused as refusal:
            return self._refuse(request, refusal)

    async def requests(self, request: Request) -> Response:
        """The scientist's own requests, with what was decided about each."""
        try:
            key, _ = self._signed(request, signing.EMPTY)
        except Refused as refusal:
            return self._refuse(request, refusal)
        now, ledger = self._site.now(), self._site.ledger
        own = [row for row in ledger.requests() if row.key == key]
        return JSONResponse({"requests": [summary(row, ledger.used(row.id), now) for row in own]})

    async def checkpoints(self, request: Request) -> Response:
        """The other institutions' checkpoints to keep, for this site's own."""
        try:
            body = await _body(request, MAX_BODY)
            self._signed(request, sha256(body))
            answer = await run_in_threadpool(self._witness.exchange, request.state.account, body)
        except Refused as refusal:
            return self._refuse(request, refusal)
        return JSONResponse(answer)

    def _refuse(self, request: Request, refusal: Refused) -> Response:
        """The refusal as an answer, and in the log."""
        what = f"{request.method} {request.url.path.split('/')[3]}"
        self._note_refusal(getattr(request.state, "account", None), what, refusal)
        return _refused(refusal)

    async def environment(self, request: Request) -> Response:
        """Python and packages of the jail, so that a scientist can rehearse with the same."""
        try:
            self._signed(request, signing.EMPTY)
        except Refused as refusal:
            return self._refuse(request, refusal)
        return JSONResponse(environment())

    def _signed(self, request: Request, body: str) -> tuple[str, str]:
        """The scientist's key and the request id that an own-route call is signed for."""
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        key, row_id = signing.check(
            request.headers, request.method, target, self._site.keys.uid, body, self._nonces.fresh
        )
        account = self._site.ledger.account_of(key)
        if account is None or account.role != "scientist":
            raise Refused("gate.role", "this key has no scientist's account here", "Ask the data owner for one")
        request.state.account = account
        return key, row_id

    def _own_call(self, request: Request, body: str, *hex64: str) -> str:
        """The request whose live permit an own-route call names: signature, account, owner, permit are checked."""
        key, row_id = self._signed(request, body)
        row = self._site.ledger.request(row_id)
        if row is None or row.key != key or row.id != row_id:
            raise Refused("permit.missing", "this account has no such request here", "Submit the plan first")
        if not all(_HEX64.fullmatch(name) for name in (body, *hex64)):
            raise Refused("gate.digest", "a blob's name is its SHA-256 in hex", "Name it so")
        self._jobs.permit_of(row.id)
        return row.id


class _Guarded(FileResponse):
    """A file that stops in the middle when its permit ends: every chunk looks the permit up again."""

    chunk_size = 256 * 1024  # four seconds at 64 kB/s: a revoked permit stops an update within five

    def __init__(self, *args: Any, live: Any, act: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._live, self._act = live, act

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def checked(message: Any) -> None:
            if message["type"] == "http.response.body" and message.get("body"):
                self._live()
            await send(message)

        with self._act:
            await super().__call__(scope, receive, checked)


def build(site: Site, server: SyftServer, jobs: Jobs) -> Starlette:
    """The application of one site."""
    calls = Calls(site, server, jobs)
    return Starlette(
        routes=[
            Route("/api/v2/metadata", calls.metadata, methods=["GET"]),
            Route("/api/v2/login", calls.login, methods=["POST"]),
            Route("/api/v2/api", calls.schema, methods=["GET"]),
            Route("/api/v2/api_call", calls.api_call, methods=["POST"]),
            Route("/fedrec/v1/blobs/{sha256:str}", calls.put_blob, methods=["PUT"]),
            Route("/fedrec/v1/blobs/{sha256:str}", calls.get_blob, methods=["GET"]),
            Route("/fedrec/v1/jobs/{key:str}", calls.job, methods=["GET"]),
            Route("/fedrec/v1/checkpoints", calls.checkpoints, methods=["PUT"]),
            Route("/fedrec/v1/requests", calls.requests, methods=["GET"]),
            Route("/fedrec/v1/environment", calls.environment, methods=["GET"]),
        ]
    )


async def _parts(request: Request) -> AsyncIterator[bytes]:
    async for part in request.stream():
        yield part


async def _body(request: Request, limit: int) -> bytes:
    """The body, read no further than `limit`. Raises: Refused `gate.size`."""
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > limit:
            raise too_large(limit)
        parts.append(part)
    return b"".join(parts)


def site_error() -> Refused:
    """What the outside hears of an error of the site's own."""
    return Refused("site.error", "the site had an error of its own", "Ask the data owner to read the log")


def _refused(refusal: Refused, status: int = 403) -> JSONResponse:
    return JSONResponse(refusal.answer(), status_code=status)
