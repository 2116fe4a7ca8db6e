"""One kept-open HTTP connection to one site, with a time limit, that counts its bytes at the socket."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fedrec.errors import Refused, Unreachable

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
            return Refused("site.lost", f"the answer has the status {self.status}", "Check the site and its proxy, then resume")


class _Counted(socket.socket):
    """A socket that counts what goes through it."""

    sent = 0
    received = 0

    def sendall(self, data: Any, flags: int = 0) -> None:
        super().sendall(data, flags)
        self.sent += memoryview(data).nbytes

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        count = super().recv_into(buffer, nbytes, flags)
        self.received += count
        return count


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = _Counted(fileno=plain.detach())
        self.sock.settimeout(self.timeout)


class Line:
    """A line to a site; one call at a time, reconnects by itself when the site closed an idle one.

    Args:
        name: the site, for errors.
        url: http://host:port.
    """

    def __init__(self, name: str, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None or parts.port is None:
            raise Unreachable(f"{name}: has no address of the form http://host:port in consortium.toml")
        self.name, self._host, self._port = name, parts.hostname, parts.port
        self._connection: _Connection | None = None
        self._lock = threading.Lock()
        self._old = [0, 0]

    @property
    def counted(self) -> tuple[int, int]:
        """Bytes sent to the site and received from it since the line was made."""
        sock = self._connection.sock if self._connection else None
        now = (sock.sent, sock.received) if isinstance(sock, _Counted) else (0, 0)
        return self._old[0] + now[0], self._old[1] + now[1]

    def call(
        self, method: str, target: str, body: bytes | Callable[[], Iterable[bytes]] = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one call and read the whole answer.

        Args:
            target: path, with its query if any.

        Raises:
            Refused: `site.lost` when the site is down, silent for a minute, or breaks off in the middle.
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
            self._old = list(self.counted)
            self._connection.close()
            self._connection = None

    def _once(self, method: str, target: str, body: Any, headers: dict[str, str]) -> Reply:
        if self._connection is None:
            self._connection = _Connection(self._host, self._port, timeout=SECONDS)
        self._connection.request(method, target, body=body or None, headers=headers)
        answer = self._connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())

    def _lost(self, error: Exception) -> Refused:
        reason = type(error).__name__ if not isinstance(error, OSError) or not error.strerror else error.strerror
        return Refused("site.lost", f"{self.name} does not answer ({reason})", "Start the site again, then resume")
