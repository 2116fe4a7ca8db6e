"""Bodies that flow through a site in parts: each part looks the permit up again, and the log counts what passed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from anyio import CancelScope
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send


class Act:
    """An act of the audit log around what waits: its events are written in a thread, also when the caller hangs up."""

    def __init__(self, act: AbstractContextManager[dict[str, Any]]) -> None:
        self._act = act

    async def __aenter__(self) -> dict[str, Any]:
        return await run_in_threadpool(self._act.__enter__)

    async def __aexit__(self, *error: Any) -> None:
        with CancelScope(shield=True):
            await run_in_threadpool(self._act.__exit__, *error)


class Guarded(FileResponse):
    """A file that stops in the middle when its permit ends: every chunk looks the permit up again.

    The act's outcome says how many bytes went out; it is `incomplete` when the caller hung up before the last.
    """

    chunk_size = 64 * 1024  # a second at 64 kB/s: a revoked permit stops an update within five

    def __init__(self, path: Path, live: Callable[[], object], act: Act, **options: Any) -> None:
        super().__init__(path, stat_result=path.stat(), **options)
        self._live, self._act = live, act

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent, size, gone = 0, int(self.headers["content-length"]), False

        async def listened() -> None:
            nonlocal gone
            while (await receive()).get("more_body"):
                pass  # a body that nobody asked for
            gone = (await receive())["type"] == "http.disconnect"

        async def checked(message: Message) -> None:
            nonlocal sent
            if gone:  # the server lets what is sent to nobody vanish without a word
                raise ClientDisconnect
            if message["type"] == "http.response.body" and message.get("body"):
                self._live()
                sent += len(message["body"])
            await send(message)

        listening = asyncio.ensure_future(listened())
        try:
            async with self._act as facts:
                try:
                    with contextlib.suppress(ClientDisconnect):
                        await super().__call__(scope, receive, checked)
                finally:
                    facts["bytes"] = sent
                    if sent < size:
                        facts["outcome"] = "incomplete"
        finally:
            listening.cancel()


async def parts(request: Request, live: Callable[[], object]) -> AsyncIterator[bytes]:
    """The body as it comes; the permit is looked up every second and once more before anything is kept."""
    asked = time.monotonic()
    async for part in request.stream():
        if time.monotonic() > asked + 1:
            asked = time.monotonic()
            live()
        yield part
    live()
