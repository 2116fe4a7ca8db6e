"""TLS for a line to a site: the certificate is checked against an own CA if one is named, and so is the host's name."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.errors import Unreachable

CA_FILE = "FEDREC_CA_FILE"
_PIECE = 1 << 18  # bytes that are encrypted at once


def context(ca: Path | None = None) -> ssl.SSLContext:
    """What a site's certificate is checked with: FEDREC_CA_FILE, else `ca`, else the machine's own authorities.

    Raises:
        Unreachable: the file cannot be read or holds no certificate.
    """
    named = os.environ.get(CA_FILE)
    file = Path(named) if named else ca
    try:
        made = ssl.create_default_context(cafile=None if file is None else str(file))
    except (OSError, ssl.SSLError) as error:
        said = "cannot be read" if isinstance(error, FileNotFoundError | PermissionError) else "holds no certificate"
        raise Unreachable(f"{file}: the CA file {said}; see {CA_FILE} and consortium.toml") from None
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


@dataclass
class Wire:
    """Bytes so far, over all sockets of one line."""

    sent: int = 0
    received: int = 0


class Counted(socket.socket):
    """A socket that counts what goes through it, in `wire`."""

    wire: Wire

    def sendall(self, data: Any, flags: int = 0) -> None:
        super().sendall(data, flags)
        self.wire.sent += memoryview(data).nbytes

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        count = super().recv_into(buffer, nbytes, flags)
        self.wire.received += count
        return count


class Secured(Counted):
    """The same with TLS inside, so that the bytes that are counted are those on the wire, handshake and all."""

    def handshake(self, checks: ssl.SSLContext, host: str) -> None:
        """Agree on keys and check the other side. Raises: ssl.SSLCertVerificationError, OSError."""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._buffer = bytearray(1 << 16)
        self._tls = checks.wrap_bio(self._in, self._out, server_hostname=host)
        try:
            self._pump(self._tls.do_handshake)
        except ssl.SSLError:
            self._flush()  # tells the other side why
            raise

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ARG002
        view = memoryview(data).cast("B")
        try:
            while view.nbytes:
                view = view[self._pump(self._tls.write, view[:_PIECE]) :]
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            raise BrokenPipeError("the other side had hung up") from None

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:  # noqa: ARG002
        try:
            return int(self._pump(self._tls.read, nbytes or memoryview(buffer).nbytes, buffer))
        except ssl.SSLZeroReturnError:
            return 0  # the other side said that this was all
        except ssl.SSLEOFError:
            raise ConnectionResetError("the line broke off") from None  # somebody cut it: what came may not be all

    def _pump(self, act: Callable[..., Any], *given: Any) -> Any:
        while True:
            try:
                result = act(*given)
            except ssl.SSLWantReadError:
                self._flush()
                count = super().recv_into(self._buffer)
                if count:
                    self._in.write(memoryview(self._buffer)[:count])
                else:
                    self._in.write_eof()
                continue
            self._flush()
            return result

    def _flush(self) -> None:
        while self._out.pending:
            super().sendall(self._out.read())
