"""The site's ASGI application: the whole route table, and the site's own routes.

Stage 1 of the gate is this table: a route that is not here does not exist (PySyft's own /register,
/reset_password, /stream and /docs among them). Stage 2 is, for PySyft's calls, calls.py; for the own routes,
`_signed`: the signature, the account, its role and its rate.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from anyio import Lock
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from fedrec.errors import Refused
from fedrec.exchange import signing
from fedrec.institution.applications import APPLICATION, MAX_ASKED, Applications
from fedrec.institution.calls import BYTES, SyftCalls, body_of, refused, trouble
from fedrec.institution.decisions import Decisions
from fedrec.institution.decrypt import decrypt_sum
from fedrec.institution.doors import Doors
from fedrec.institution.evidence.pack import pack
from fedrec.institution.gate import OPEN, OWN, Gate, Nonces
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import Account
from fedrec.institution.left_out import left_out
from fedrec.institution.noted import Noted
from fedrec.institution.permit import RUN, stricter
from fedrec.institution.pysyft import SyftServer
from fedrec.institution.review import summary
from fedrec.institution.site import Site
from fedrec.institution.streams import Act, Guarded, parts
from fedrec.institution.task_files import ids_of, update_of
from fedrec.institution.texts import by_name
from fedrec.institution.unmask import unmask
from fedrec.institution.verify import NAMED, lines
from fedrec.institution.walls import environment
from fedrec.institution.witness import MAX_BODY, Witness

_HEX64 = re.compile(r"[0-9a-f]{64}")
MAX_WAIT_S = 25.0
PAGE = 10**6  # bytes of events in one answer
_ASKED = {"sum": decrypt_sum, "unmask": unmask}  # what may be asked of an update: ?what=SHA-256 of what was sent


class Calls:
    """The handlers of the site's own routes."""

    def __init__(self, site: Site, jobs: Jobs, gate: Gate, decisions: Decisions, noted: Noted) -> None:
        self._site, self._jobs, self._gate = site, jobs, gate
        self._decisions, self._noted = decisions, noted
        self._nonces = Nonces(signing.WINDOW_S)
        self._witness, self._packing = Witness(site), Lock()
        self._applications = Applications(site.folder, noted)

    async def put_blob(self, request: Request) -> Response:
        name = request.path_params["sha256"]
        try:
            row = self._own_call(request, name)
            limit = int(stricter(self._jobs.permit_of(row), self._site.config.limits).megabytes * 10**6)
            live = parts(request, lambda: self._jobs.permit_of(row))
            by = request.state.account
            ids = await run_in_threadpool(self._about, row, name)
            async with Act(self._site.audit.act(by.email, by.role, "send", name, **ids)) as facts:
                facts["bytes"] = length = await self._site.blobs.receive(row, name, live, limit)
        except Refused as refusal:
            return self._refuse(request, refusal)
        return JSONResponse({"sha256": name, "bytes": length})

    async def get_blob(self, request: Request) -> Response:
        name = request.path_params["sha256"]
        try:
            asked = [(act, value) for key, value in request.query_params.items() if (act := _ASKED.get(key))][:1]
            row = self._own_call(request, signing.EMPTY, name, *(value for _, value in asked))
            if "range" in request.headers:
                raise Refused("gate.range", "a part of an update is not given", "Fetch it whole, without Range")
            for act, value in asked:
                name = await run_in_threadpool(act, self._site, request.state.account, row, name, value)
            by, ids = request.state.account, await run_in_threadpool(self._about, row, name, True)
            fetch = Act(self._site.audit.act(by.email, by.role, "fetch", name, **ids))
            path = self._site.blobs.path("out", row, name)
            return Guarded(path, lambda: self._jobs.permit_of(row), fetch, media_type=BYTES)
        except FileNotFoundError:
            next_step = "It is deleted after its round; train the round again"
            return self._refuse(request, Refused("update.gone", "there is no such update", next_step))
        except Refused as refusal:
            return self._refuse(request, refusal)

    def _about(self, request: str, name: str, leaves: bool = False) -> dict[str, Any]:
        """What the event of a blob carries: the ids of the newest task that named it; of a new model, its permit's.

        Args:
            leaves: the blob is about to leave, which the ledger notes of a masked update.

        Raises:
            Refused: `sum.void`.
        """
        row = self._site.ledger.request(request)
        assert row is not None  # requests are never deleted
        jobs = reversed(self._site.ledger.jobs_of(request))
        job = next((job for job in jobs if name in (update_of(job), job.task.base)), None)
        if leaves and job is not None and job.task.members and update_of(job) == name:
            self._site.ledger.leaves(job.key)
        return ids_of(row, job.task if job else None)

    async def job(self, request: Request) -> Response:
        key = request.path_params["key"]
        try:
            row = self._own_call(request, signing.EMPTY)
            known = self._site.ledger.job(key)
            if known is None or known.request != row:
                raise Refused("job.missing", "there is no such job", "Start it with a call of the approved function")
            wait = request.query_params.get("wait", "0")
            seconds = min(float(wait), MAX_WAIT_S) if re.fullmatch(r"\d{1,4}(\.\d{1,3})?", wait) else 0.0
            answer = await self._jobs.wait(key, seconds)
            return await self._answer(request, answer, row, str(answer.get("code") or "done"))
        except Refused as refusal:
            return self._refuse(request, refusal)

    async def requests(self, request: Request) -> Response:
        """The scientist's own requests, with what was decided about each."""
        try:
            key, _ = self._signed(request, signing.EMPTY)
            now, ledger = self._site.now(), self._site.ledger
            own = [row for row in ledger.requests() if row.key == key]
            found = [{**summary(row, ledger.used(row.id), now), "text": row.plan} for row in own]
            return await self._answer(request, {"requests": found, "data_version": self._site.store.version})
        except Refused as refusal:
            return self._refuse(request, refusal)

    async def checkpoints(self, request: Request) -> Response:
        """The other institutions' checkpoints to keep, for this site's own."""
        try:
            body = await body_of(request, MAX_BODY)
            self._signed(request, hashlib.sha256(body).hexdigest())
            answer = await run_in_threadpool(self._witness.exchange, request.state.account, body)
            return await self._answer(request, answer)
        except Refused as refusal:
            return self._refuse(request, refusal)

    async def refusals(self, request: Request) -> Response:
        """The centre left an update of this site out of a round, and says so to its owner."""
        try:
            body = await body_of(request, 1000)
            self._signed(request, hashlib.sha256(body).hexdigest())
            return JSONResponse(await run_in_threadpool(left_out, self._site, request.state.account, body))
        except Refused as refusal:
            return self._refuse(request, refusal)

    async def environment(self, request: Request) -> Response:
        """Python and packages of the jail, so that a scientist can rehearse with the same."""
        try:
            self._signed(request, signing.EMPTY)
            return await self._answer(request, environment())
        except Refused as refusal:
            return self._refuse(request, refusal)

    async def pause(self, request: Request) -> Response:
        """Stop everything at once; the body is the reason that scientists read."""
        decide = self._decisions.pause
        return await self._decided(
            request, lambda by, why: {"paused": True, "still_running": decide(by.email, by.role, why)}
        )

    async def resume(self, request: Request) -> Response:
        decide = self._decisions.resume
        return await self._decided(request, lambda by, _: {"paused": False, "again": decide(by.email, by.role)})

    async def release(self, request: Request) -> Response:
        """Let go what the leak gate holds of a request; the body is the reason."""
        decide, name = self._decisions.release, request.path_params["request"]
        return await self._decided(request, lambda by, why: {"released": name, "again": decide(by, name, why)})

    async def _decided(self, request: Request, decide: Callable[[Account, str], dict[str, Any]]) -> Response:
        try:
            reason = await body_of(request, 1000)
            self._signed(request, hashlib.sha256(reason).hexdigest())
            text = reason.decode("utf-8", "replace")
            return JSONResponse(await run_in_threadpool(decide, request.state.account, text))
        except Refused as refusal:
            return self._refuse(request, refusal)

    async def recommend(self, request: Request) -> Response:
        """The best items for a user of the institution, told to its own applications."""
        try:
            body = await body_of(request, MAX_ASKED)
            if self._applications.admits(request.headers):
                request.state.account = APPLICATION
            else:
                self._signed(request, hashlib.sha256(body).hexdigest())
            return JSONResponse(await run_in_threadpool(self._applications.answer, body))
        except Refused as refusal:
            return self._refuse(request, refusal)

    async def audit(self, request: Request) -> Response:
        """Events after number `after`, oldest first: a page of at most PAGE bytes, and where the next one begins."""
        try:
            self._signed(request, signing.EMPTY)
            after = request.query_params.get("after", "-1")
            first = int(after) + 1 if re.fullmatch(r"-1|\d{1,15}", after) else 0
            return JSONResponse(await run_in_threadpool(self._events, request.state.account, first))
        except Refused as refusal:
            return self._refuse(request, refusal)

    def _events(self, by: Account, first: int) -> dict[str, Any]:
        """One page of the log as it stands, and the texts beside it; a scientist's holds his own acts only.

        Reading is an act like any other.
        """
        events: list[Mapping[str, Any]] = []
        folder, texts = self._site.audit.folder, dict[str, str]()
        own = self._site.audit.texts.named(by.email)
        size, after = 0, None
        with self._site.audit.act(by.email, by.role, "read", "audit", detail={"first": first}) as facts:
            for line in lines(folder):
                event = json.loads(line)
                if event["seq"] < first or (by.role == "scientist" and event["actor"] != own):
                    continue
                size += len(line)
                if size > PAGE and events:
                    after = events[-1]["seq"]
                    break
                events.append(event)
                found = by_name((name.decode() for name in NAMED.findall(line)), folder)
                texts |= {name: data.decode() for name, data in found.items()}
            facts["events"] = len(events)
        return {"events": events, "texts": texts, "next": after}

    async def pack(self, request: Request) -> Response:
        """The evidence pack of a run; one at a time, since the whole log is read for it."""
        try:
            self._signed(request, signing.EMPTY)
            run, given = request.path_params["run"], request.query_params
            if not RUN.fullmatch(run):
                raise Refused("pack.run", "this is no run's name", "See fedrec audit log")
            async with self._packing:
                by, alone = request.state.account, given.get("alone") == "1"
                data = await run_in_threadpool(self._packed, by, run, given.get("request", ""), alone)
            return Response(data, media_type="application/zip")
        except Refused as refusal:
            return self._refuse(request, refusal)

    def _packed(self, by: Account, run: str, request: str, alone: bool) -> bytes:
        with self._site.audit.act(by.email, by.role, "export", "log", run=run, detail={"form": "pack"}) as facts:
            data = pack(self._site.folder, run, request, alone)
            facts.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        return data

    async def _answer(
        self, request: Request, answer: Mapping[str, Any], row: str = "", outcome: str = "done"
    ) -> Response:
        """An answer that changed nothing, once the log has it. Raises: Refused `audit.write`."""
        await run_in_threadpool(self._noted.done, request.state.account, _what(request), outcome, row)
        return JSONResponse(answer)

    def _refuse(self, request: Request, refusal: Refused) -> Response:
        """The refusal as an answer, and in the log."""
        return refused(self._noted.away(request, getattr(request.state, "account", None), _what(request), refusal))

    def _signed(self, request: Request, body: str) -> tuple[str, str]:
        """The caller's key and the request id that an own-route call is signed for; his role may call this route."""
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        key, row_id = signing.check(
            request.headers, request.method, target, self._site.keys.uid, body, self._nonces.fresh
        )
        account = self._site.ledger.account_of(key)
        if account is None:
            raise Refused("gate.role", "this key has no account here, or it is disabled", "Ask the data owner for one")
        request.state.account = account
        if account.role not in OWN.get(_what(request), ()):
            raise Refused("gate.role", f"a {account.role} may not call this", "Use what your role allows")
        self._gate.call_allowed(key)
        return key, row_id

    def _own_call(self, request: Request, body: str, *hex64: str) -> str:
        """The request whose live permit an own-route call names: signature, account, owner, permit are checked."""
        key, row_id = self._signed(request, body)
        row = self._site.ledger.request(row_id)
        if row is None or row.key != key or row.id != row_id:
            raise Refused("permit.missing", "this account has no such request here", "Submit the plan first")
        if not all(_HEX64.fullmatch(name) for name in (body, *hex64)):
            raise Refused("gate.digest", "a blob's name is its SHA-256 in hex", "Name it so")
        request.state.places.enter_context(self._gate.place(key, OPEN))  # until the answer has left
        self._jobs.permit_of(row.id)
        return row.id


def build(site: Site, server: SyftServer, jobs: Jobs) -> Starlette:
    """The application of one site."""
    gate = Gate(site.keys.uid, site.ledger.account_of, site.ledger.first_time, site.keys.cookie_secret)
    decisions, noted = Decisions(site, jobs), Noted(gate, site.audit)
    syft = SyftCalls(site, server, jobs, gate, decisions, noted)
    calls = Calls(site, jobs, gate, decisions, noted)

    async def unknown(request: Request, error: Any) -> Response:  # noqa: ARG001
        await run_in_threadpool(noted.stray, f"http.{error.status_code}")
        return PlainTextResponse(error.detail, error.status_code, error.headers)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        noted.flush()

    return Starlette(
        routes=[
            Route("/api/v2/metadata", syft.metadata, methods=["GET"]),
            Route("/api/v2/login", syft.login, methods=["POST"]),
            Route("/api/v2/api", syft.schema, methods=["GET"]),
            Route("/api/v2/api_call", syft.api_call, methods=["POST"]),
            Route("/fedrec/v1/blobs/{sha256:str}", calls.put_blob, methods=["PUT"]),
            Route("/fedrec/v1/blobs/{sha256:str}", calls.get_blob, methods=["GET"]),
            Route("/fedrec/v1/jobs/{key:str}", calls.job, methods=["GET"]),
            Route("/fedrec/v1/checkpoints", calls.checkpoints, methods=["PUT"]),
            Route("/fedrec/v1/refusals", calls.refusals, methods=["PUT"]),
            Route("/fedrec/v1/requests", calls.requests, methods=["GET"]),
            Route("/fedrec/v1/environment", calls.environment, methods=["GET"]),
            Route("/fedrec/v1/pause", calls.pause, methods=["POST"]),
            Route("/fedrec/v1/resume", calls.resume, methods=["POST"]),
            Route("/fedrec/v1/releases/{request:str}", calls.release, methods=["POST"]),
            Route("/fedrec/v1/recommend", calls.recommend, methods=["POST"]),
            Route("/fedrec/v1/audit", calls.audit, methods=["GET"]),
            Route("/fedrec/v1/packs/{run:str}", calls.pack, methods=["GET"]),
        ],
        middleware=[Middleware(Doors)],
        exception_handlers={
            **dict.fromkeys((Refused, OSError, sqlite3.OperationalError, Exception), trouble),
            HTTPException: unknown,
        },
        lifespan=lifespan,
    )


def _what(request: Request) -> str:
    """Method and resource, as the gate's table names an own route."""
    return f"{request.method} {request.url.path.split('/')[3]}"
