"""The site's side of the jail: starts the warm parent, hands jobs to it, waits, kills.

The warm parent (jail_child.py) is a process without rows, network, files or the site's environment. It forks
one child per job; the child gets its input as open file descriptors and ends with the job. What each level
adds stands in walls.py.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.errors import Refused, WrongInput
from fedrec.institution import footprint, walls

# The only variables that a plan's process inherits: they choose linear-algebra kernels, so bits depend on them.
MATH_VARIABLES = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "MKL_CBWR",
    "NPY_DISABLE_CPU_FEATURES",
    "ATEN_CPU_CAPABILITY",
)
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "1"}
START = "import sys; sys.path.insert(0, {package!r}); from fedrec.institution import jail_child; jail_child.main()"
MAX_REPORT = 1 << 20
LOOK_S = 0.05  # how often the memory of a job's processes is added up
_CREDENTIALS = struct.Struct("3i")  # what Linux says of a writer: process, user, group
# The exceptions that a refusal may name; the name of a class made by own code could hold data.
_NAMED = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)}
_NAMED |= {"Killed", "WrongInput", "DataError", "Refused", "LinAlgError"}


@dataclass(frozen=True, slots=True)
class JailLimits:
    """Limits of one job: wall and CPU seconds, bytes of memory beyond the warm parent's, bytes of one file.

    Args:
        log: bytes of what the job prints that are kept, also while it runs.
        tell_errors: whether a refusal may name an exception's class and line.
    """

    seconds: float
    memory: int
    file: int
    tell_errors: bool = True
    log: int = 10**6


@dataclass(frozen=True, slots=True)
class Report:
    """What a job's child said when it ended; which process of which user said so is the kernel's word."""

    body: dict[str, Any]
    seconds: float
    pid: int
    uid: int


@dataclass(frozen=True, slots=True)
class _Child:
    """One job's first process; a handle means it whatever its number is here, and never another process."""

    pid: int
    handle: int | None

    @classmethod
    def made(cls, said: int, handles: list[int]) -> _Child:
        """The process that the warm parent calls `said`: inside bubblewrap it has another number than here."""
        if not handles:
            return cls(said, None)
        facts = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{handles[0]}").read_text().splitlines())
        return cls(int(facts["Pid"]), handles[0])

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.handle is not None:
                signal.pidfd_send_signal(self.handle, signal.SIGKILL)
            elif sys.platform != "linux":
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        if self.handle is not None:
            os.close(self.handle)


class Jail:
    """The warm parent and its jobs; start it before the first thread of the site.

    Args:
        level: 3 = the warm parent inside bubblewrap; 2 = a job's own network, mount, process and user namespaces;
            1 = rlimits and an empty environment only.

    Raises:
        WrongInput: level 3 where bubblewrap does not work.
    """

    def __init__(self, level: int) -> None:
        if level >= 3 and not walls.bubblewrap_works():
            raise WrongInput(walls.NO_BUBBLEWRAP)
        self.level = level
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket, self._lock = ours, threading.Lock()
        self._jobs: dict[str, _Child] = {}
        self._ending = threading.Lock()
        environment = {name: os.environ[name] for name in MATH_VARIABLES if name in os.environ} | ONE_THREAD
        start = START.format(package=str(Path(__file__).parents[2]))
        arguments = ["-c", start, str(theirs.fileno()), str(level)]
        self._parent = subprocess.Popen(
            walls.command(arguments) if level >= 3 else [sys.executable, "-I", "-B", *arguments],
            env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        theirs.close()

    @property
    def pid(self) -> int:
        """The process id of the warm parent, or of the bubblewrap around it."""
        return self._parent.pid

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Return once the warm parent has loaded its libraries.

        Raises:
            WrongInput: it could not start at this level on this machine.
        """
        self._socket.settimeout(seconds)
        try:
            answer = self._socket.recv(4096)
        except TimeoutError:
            answer = b"the jail did not start in time"
        self._socket.settimeout(None)
        if answer != b"ready":
            reason = answer.decode(errors="replace") or "the jail ended at its start"
            raise WrongInput(
                f"jail level {self.level} does not work here: {reason}; see limits.jail_level in site.toml"
            )

    def run(self, job: str, spec: Mapping[str, Any], files: Mapping[str, int], limits: JailLimits) -> Report:
        """Run one job and return its report; blocks the calling thread.

        Args:
            job: the job's key, by which `kill` finds it.
            spec: what to do, as JSON.
            files: open descriptors by the names that jail_child expects; they stay open here.

        Raises:
            Refused: `jail.time`, `jail.memory`, `jail.stopped` or `jail.error`.
        """
        ours, theirs = socket.socketpair()
        if sys.platform == "linux":
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        names = [*files, "report"]
        message = {
            "job": job,
            "spec": dict(spec),
            "names": names,
            "limits": [limits.seconds, limits.memory, limits.file],
        }
        started = time.monotonic()
        body = json.dumps(message).encode()
        try:
            with self._lock:  # a long spec travels in a file of its own: a packet holds 200 kB at most
                with tempfile.TemporaryFile() as long:
                    long.write(body)
                    long.flush()
                    socket.send_fds(self._socket, [b"job"], [long.fileno(), *files.values(), theirs.fileno()])
                said, handles, _, _ = socket.recv_fds(self._socket, 64, 1)
                child = _Child.made(int(said or b"0"), handles)
        except OSError:
            child = _Child(0, None)
        finally:
            theirs.close()
        if child.pid == 0:
            ours.close()
            raise Refused("jail.error", "the jail has ended", "Tell the data owner to restart the site")
        self._jobs[job] = child
        try:
            log = files.get("log")
            data, end, (pid, uid) = _read_all(ours, limits.seconds, lambda: self._is_over(child, limits, log))
        finally:
            ours.close()
            with self._ending:
                stopped = self._jobs.pop(job, None) is None
                child.kill()
                child.close()
        if stopped:
            raise Refused("jail.stopped", "the data owner stopped this job", "Ask the owner")
        if end == "memory":
            raise Refused(
                "jail.memory",
                f"the job's processes took more than {limits.memory / 10**6:.0f} MB",
                "Fork fewer, or none",
            )
        if end == "time":
            raise Refused(
                "jail.time", f"the job took longer than {limits.seconds:.0f} s", "Make the plan's rounds smaller"
            )
        return Report(_report(data, limits.tell_errors), time.monotonic() - started, pid or child.pid, uid)

    def _is_over(self, child: _Child, limits: JailLimits, log: int | None) -> bool:
        """Cut the job's log; whether a job that has forked takes more than it may, all its processes together."""
        if log is not None and os.fstat(log).st_size > limits.log:
            os.ftruncate(log, limits.log)
        if sys.platform != "linux":
            return False
        usual = 2 if self.level >= 2 else 1  # the namespace's first process, and the worker
        return footprint.taken(child.pid, usual) > limits.memory

    def kill(self, job: str) -> None:
        """End a running job at once; nothing happens when it has ended."""
        with self._ending:
            child = self._jobs.pop(job, None)
            if child is not None:
                child.kill()

    def close(self) -> None:
        """End the warm parent and with it every job."""
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._parent.pid, signal.SIGKILL)
        self._parent.wait()


def _read_all(line: socket.socket, seconds: float, is_over: Callable[[], bool]) -> tuple[bytes, str, tuple[int, int]]:
    """Everything until the child closes its end, what ended it before (time, memory), and who wrote: process and user.

    There is room for the kernel's word about the writer and for nothing else: a descriptor that own code sends along
    is never opened here.
    """
    deadline, data, writer, look = time.monotonic() + seconds, b"", (0, -1), time.monotonic() + LOOK_S
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        while len(data) <= MAX_REPORT:
            now = time.monotonic()
            if now >= deadline:
                return data, "time", writer
            if now >= look:  # by the clock: a job may send a byte now and then
                if is_over():
                    return data, "memory", writer
                took = time.monotonic() - now
                look = now + took + max(LOOK_S, 4 * took)  # many processes take long to add up
            if not selector.select(min(deadline, look) - now):
                continue
            part, facts, _, _ = line.recvmsg(65536, socket.CMSG_SPACE(_CREDENTIALS.size))
            if not part:
                return data, "", writer
            data += part
            if facts:
                pid, uid, _ = _CREDENTIALS.unpack(facts[0][2])
                writer = pid, uid
    return b"", "", writer


def _report(data: bytes, tell_errors: bool) -> dict[str, Any]:
    """The child's report; what own code may have written instead is treated as an error."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = {"error": "Killed"}
    if not isinstance(body, dict):
        body = {"error": "Killed"}
    if "error" not in body:
        return body
    if not tell_errors:
        raise Refused("jail.error", "the job ended with an exception", "Rehearse the plan, or ask for its log")
    name, line = body["error"], body.get("line")
    if not isinstance(name, str) or name not in _NAMED:
        name = "an exception of its own"
    where = f" in line {line} of the submitted code" if type(line) is int and 0 < line < 10_000 else ""
    if name == "MemoryError":
        raise Refused("jail.memory", f"the job ran out of memory{where}", "Use less memory, or ask the owner for more")
    raise Refused("jail.error", f"the job ended with {name}{where}", "Rehearse the plan in fedrec.simulate first")
