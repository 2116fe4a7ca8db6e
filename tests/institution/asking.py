"""One HTTP call to a site's application in this process, without PySyft and without a port."""

from __future__ import annotations

import asyncio
from typing import Any

from nacl.signing import SigningKey

from fedrec.exchange import signing
from fedrec.exchange.wire import sha256
from fedrec.institution.site import Site


def ask(
    application: Any,
    method: str,
    target: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    address: str | None = None,
) -> tuple[int, bytes]:
    """Status and body of one answer.

    Args:
        target: path, with its query if any.
        address: the caller's; None is no address, as in the site's attacks on itself.
    """
    start, data = messages(application, method, target, headers, body, address)
    return int(start["status"]), data


def messages(
    application: Any,
    method: str,
    target: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    address: str | None = None,
    more: bool = False,
) -> tuple[dict[str, Any], bytes]:
    """The first message of an answer, with status and headers, and its body; `more` if the call's body goes on."""
    sent: list[dict[str, Any]] = []
    path, _, query = target.partition("?")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": more}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "server": None,
        "client": (address, 1) if address else None,
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
    }  # fmt: skip
    asyncio.run(application(scope, receive, send))
    return sent[0], b"".join(message.get("body", b"") for message in sent[1:])


def signed(
    application: Any, site: Site, key: SigningKey, method: str, target: str, body: bytes = b"", permit: str = ""
) -> tuple[int, bytes]:
    """One call of an own route, signed as it should be."""
    headers = signing.headers(key, method, target, site.keys.uid, body=sha256(body), permit=permit)
    return ask(application, method, target, headers, body)
