"""What a caller may hold open at a site's socket before and while he says what he wants."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fedrec.errors import Refused

LINGER = 16 * 10**6  # bytes of a refused body that are let run out
HEAD_S = 10.0  # from the opening of a line, or a call's first byte, to the end of its headers
BODY_S = 30.0  # for the whole body of a caller who is not known yet; between two parts of one who is
LINES = 800  # open at once; a process has 1,024 files by default, and the store, the ledger and jobs need some


class HeadsInTime(HttpToolsProtocol):
    """uvicorn's HTTP, but a line on which no call has begun is closed: uvicorn itself waits for ever."""

    head_s = HEAD_S
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._done()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._done()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._done()
        self._late = self.loop.call_later(self.head_s, self.transport.close)

    def _done(self) -> None:
        if self._late is not None:
            self._late.cancel()


class Doors:
    """Around each call: its body comes in time, its places are given back, and its line is closed where needed.

    After an answer to a stranger whose body was not read to its end no more of it is read. A body that says it is
    shorter than LINGER runs out unread, so that who meant well reads the answer.
    """

    def __init__(self, app: ASGIApp, body_s: float = BODY_S) -> None:
        self._app, self._body_s = app, body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        said = dict(scope.get("headers", ()))
        length = said.get(b"content-length", b"")
        open_, slow = True, False
        more = b"transfer-encoding" in said or int(length if length.isdigit() else 0) > LINGER
        until = asyncio.get_running_loop().time() + self._body_s

        def known() -> bool:
            return "account" in scope.get("state", {})

        async def received() -> Message:
            nonlocal more, open_, slow
            if not open_:
                return await receive()
            try:
                async with asyncio.timeout(self._body_s) if known() else asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                slow = True
                reason = f"the body did not come within {self._body_s:g} s"
                raise Refused("gate.slow", reason, "Send it again on a better line") from None
            open_ = bool(message.get("more_body"))
            more = more and open_
            return message

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start" and (slow or (more and not known())):
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        with ExitStack() as places:
            scope.setdefault("state", {})["places"] = places
            await self._app(scope, received, answered)


def config_of(application: Any, behind_proxy: bool, **more: Any) -> uvicorn.Config:
    """How a site's application is served; `more` as uvicorn.Config takes it."""
    given = {
        "http": HeadsInTime,
        "log_level": "warning",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": behind_proxy,  # then the address of a caller is what the proxy says
        "forwarded_allow_ips": "*",
        "timeout_graceful_shutdown": 5,
        "limit_concurrency": LINES,
        **more,
    }
    return uvicorn.Config(application, **given)
