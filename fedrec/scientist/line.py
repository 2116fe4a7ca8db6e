"""One kept-open HTTP connection to one site, with a time limit, that counts its bytes at the socket."""

from __future__ import annotations

import http.client
import json
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedrec.errors import Refused, Unreachable
from fedrec.scientist.tls import CA_FILE, Counted, Secured, Wire, context

SECONDS = 60.0  # longest silence of a site that a call waits for


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, headers and whole body of an answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def refusal(self) -> Refused:
        """The refusal that an answer with a status from 400 carries."""
        try:
            return Refused.from_answer(json.loads(self.body))
        except (ValueError, AttributeError):
            return Refused(
                "site.lost", f"the answer has the status {self.status}", "Check the site and its proxy, then resume"
            )


class _Connection(http.client.HTTPConnection):
    """One TCP connection with Nagle off, counted in `wire`; TLS on it when `checks` is given."""

    wire: Wire
    checks: ssl.SSLContext | None = None

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind = Counted if self.checks is None else Secured
        self.sock = line = kind(fileno=plain.detach())
        line.wire = self.wire
        line.settimeout(self.timeout)
        if isinstance(line, Secured) and self.checks is not None:
            line.handshake(self.checks, self.host)


class Line:
    """A line to a site; one call at a time, reconnects by itself when the site closed an idle one.

    Args:
        name: the site, for errors.
        url: http://host:port, or https://host with 443 as the port if none is given.
        ca: of https: a file with the authority that signed the site's certificate; FEDREC_CA_FILE goes before it.
    """

    def __init__(self, name: str, url: str, ca: Path | None = None) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else None)
        except ValueError:
            port = None
        if port is None or parts.scheme not in ("http", "https") or parts.hostname is None:
            raise Unreachable(f"{name}: has no address of the form http(s)://host:port in consortium.toml")
        self.name, self._host, self._port = name, parts.hostname, port
        self._checks = context(ca) if parts.scheme == "https" else None
        self._connection: _Connection | None = None
        self._lock = threading.Lock()
        self._wire = Wire()

    @property
    def counted(self) -> tuple[int, int]:
        """Bytes sent to the site and received from it since the line was made."""
        return self._wire.sent, self._wire.received

    def call(
        self,
        method: str,
        target: str,
        body: bytes | Callable[[], Iterable[bytes]] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one call and read the whole answer.

        Args:
            target: path, with its query if any.

        Raises:
            Refused: `site.lost` when the site is down, silent for a minute, or breaks off in the middle;
                `site.tls` when its certificate is not good.
        """
        with self._lock:
            for last in (False, True):
                fresh = self._connection is None
                try:
                    return self._once(method, target, body, dict(headers or {}))
                except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
                    self.close()
                    if fresh or last:  # an idle line that the site had closed is opened again, once
                        raise self._lost(error) from None
                except (OSError, http.client.HTTPException) as error:
                    self.close()
                    raise self._lost(error) from None
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Hang up; the next call opens the line again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _once(self, method: str, target: str, body: Any, headers: dict[str, str]) -> Reply:
        sock = self._connection.sock if self._connection else None
        if sock is not None and select.select([sock], [], [], 0)[0]:  # closed, or an answer that nobody asked for
            self.close()
        if self._connection is None:
            self._connection = _Connection(self._host, self._port, timeout=SECONDS)
            self._connection.wire, self._connection.checks = self._wire, self._checks
        self._connection.request(method, target, body=body or None, headers=headers)
        answer = self._connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())

    def _lost(self, error: Exception) -> Refused:
        if isinstance(error, ssl.SSLCertVerificationError):
            said = (error.verify_message or "it cannot be checked").rstrip(".")
            reason = f"{self.name}: its certificate is refused: {said}"
            return Refused("site.tls", reason, f"Check its url and {CA_FILE}")
        if isinstance(error, ssl.SSLError):
            said = (error.reason or "no TLS").lower().replace("_", " ")
            reason = f"{self.name} does not speak TLS as it should ({said})"
            return Refused("site.tls", reason, "Check its url and its proxy")
        reason = type(error).__name__ if not isinstance(error, OSError) or not error.strerror else error.strerror
        return Refused("site.lost", f"{self.name} does not answer ({reason})", "Start the site again, then resume")
