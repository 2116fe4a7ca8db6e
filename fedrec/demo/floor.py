"""The floor of a round's cost: the same bytes down and up over bare HTTP, with nothing in between.

Run as a module it is one server: it prints its port and sends every body back until its stdin ends.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self


class Floor:
    """As many local servers as there are sites, each a process of its own, with one kept-open connection each."""

    module: ClassVar[str] = __spec__.name  # what a server runs

    def __init__(self, servers: int) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", self.module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(servers)
        ]
        self._lines: list[Any] = []
        self._pool = ThreadPoolExecutor(servers)

    def __enter__(self) -> Self:
        for process in self._processes:
            assert process.stdout is not None
            self._lines.append(self.line(int(process.stdout.readline())))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        for line in self._lines:
            line.close()
        for process in self._processes:
            process.kill()
            process.communicate()

    def round(self, payload: bytes) -> float:
        """Send the payload to every server and read it back, side by side; seconds."""
        began = time.monotonic()
        for back in self._pool.map(lambda line: self.echo(line, payload), self._lines):
            assert len(back) == len(payload)
        return time.monotonic() - began

    def line(self, port: int) -> Any:
        """A connection to a server, with `close`."""
        return http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def echo(self, line: Any, payload: bytes) -> bytes:
        """Send the payload and read it back."""
        line.request("POST", "/", body=payload)
        back: bytes = line.getresponse().read()
        return back


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: a line per call would be measured too."""


def main() -> None:
    """One server, until stdin ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
