"""A TCP proxy before a site that breaks its line on demand, and jobs that are held as a machine without time would."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes between callers and a site.

    Attributes:
        mode: "" passes; "reset" answers with RST; "hole" takes calls and says nothing; "half" gives half of an answer
            and then nothing, the connection stays open; "twice" gives every answer two times; "late" gives it after
            `delay` seconds. "far" takes a second each way; "narrow" passes 64 kB/s; "lossy" holds three pieces of ten
            for as long as a lost packet is waited for (to its caller, TCP shows loss as nothing else).
    """

    def __init__(self, url: str, delay: float) -> None:
        self.mode, self.delay, self.broken, self._draw = "", delay, 0, random.Random(0)
        parts = urlsplit(url)
        self._target = str(parts.hostname), int(parts.port or 0)
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._door.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._door.accept()
                site = socket.create_connection(self._target)
                threading.Thread(target=self._up, args=(caller, site), daemon=True).start()
                threading.Thread(target=self._down, args=(site, caller), daemon=True).start()

    def _up(self, caller: socket.socket, site: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := caller.recv(65536):
                self.broken += bool(self.mode)
                if self.mode == "reset":
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                if self.mode != "hole":
                    time.sleep(self._poor(len(data)))
                    site.sendall(data)
        for line in (site, caller):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR) if line is site else line.close()

    def _poor(self, size: int) -> float:
        """Seconds that a piece of so many bytes takes on a line that is poor and not broken."""
        lost = self.mode == "lossy" and self._draw.random() < 0.3
        return {"far": 1.0, "narrow": size / 64_000}.get(self.mode, self._draw.choice((0.2, 0.4, 0.8)) if lost else 0.0)

    def _down(self, site: socket.socket, caller: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := site.recv(65536):
                mode = self.mode
                time.sleep(self._poor(len(data)))
                if mode == "late":
                    time.sleep(self.delay)
                if mode == "twice":
                    data = 2 * (data + _more(site))
                caller.sendall(data[: len(data) // 2] if mode == "half" else data)
                if mode == "half":
                    time.sleep(self.delay)
            caller.close()


def _more(site: socket.socket) -> bytes:
    """The rest of an answer: what comes before a tenth of a second of silence."""
    found = b""
    site.settimeout(0.1)
    with contextlib.suppress(TimeoutError):
        while data := site.recv(65536):
            found += data
    site.settimeout(None)
    return found


def jobs_of(pid: int) -> list[int]:
    """The processes of a site's jobs: all below its jail's warm parent."""
    warm = pid
    while warm == pid or Path(f"/proc/{warm}/comm").read_text().startswith("bwrap"):  # at level 3, two of them
        warm = min(children(warm))  # the first that it started
    return below(warm)


def children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def below(pid: int) -> list[int]:
    return [one for child in children(pid) for one in (child, *below(child))]


@contextlib.contextmanager
def held(*pids: int) -> Iterator[threading.Event]:
    """Stop every job of these sites as it begins, until the end or until the event is set."""
    freed, stopped = threading.Event(), set[int]()

    def hold() -> None:
        while not freed.wait(0.005):
            for job in (job for pid in pids for job in jobs_of(pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(job, signal.SIGSTOP)
                    stopped.add(job)
        for job in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(job, signal.SIGCONT)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield freed
    finally:
        freed.set()
        thread.join()


def until(true: object, seconds: float = 60.0) -> None:
    """Wait until the function says so."""
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.01)
