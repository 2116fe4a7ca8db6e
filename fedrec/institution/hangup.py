"""An answer to a stranger ends the line, so that the rest of what he sends is not read."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINGER = 16 * 10**6  # bytes of a refused body that are let run out


class HangUp:
    """Closes the line after an answer to a stranger whose body was not read to its end: no more of it is read.

    A body that says it is shorter than LINGER runs out unread, so that who meant well reads the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        said = dict(scope.get("headers", ()))
        length = said.get(b"content-length", b"")
        more = b"transfer-encoding" in said or int(length if length.isdigit() else 0) > LINGER

        async def received() -> Message:
            nonlocal more
            message = await receive()
            more = more and bool(message.get("more_body"))
            return message

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start" and more and "account" not in scope.get("state", {}):
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, received, answered)
