"""Inside the jail: the warm parent, and the child that runs one task and ends.

Runs in its own interpreter (`python -I`), with no environment but the linear algebra's settings. The parent
loads the libraries, then forks per job: supervisor (new namespaces) → worker (empty root folder, no network,
unprivileged, limited). Nothing here holds rows before the worker opens its descriptors.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import mmap
import os
import resource
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_NOBODY = 65534
_MAX_FILES = 16
_AS_ROOT = os.geteuid() == 0  # an ordinary user becomes root of its own user space only, which is another thing
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """The warm parent: `argv` is the control socket's descriptor, the level, and an empty folder."""
    control = socket.socket(fileno=int(sys.argv[1]))
    level, root = int(sys.argv[2]), sys.argv[3]
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _warm()
    control.send(_trial(level, root))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps supervisors
    while True:
        message, files, _, _ = socket.recv_fds(control, 16, _MAX_FILES)
        if not message:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            control.close()
            _supervise(files, level, root)
        for descriptor in files:
            os.close(descriptor)
        control.send(str(pid).encode())


def _warm() -> None:
    """Load what jobs need, lazily loaded parts included, so that the worker needs no file at all."""
    import pyarrow  # noqa: F401
    import torch

    from fedrec.institution import perform, store  # noqa: F401
    from fedrec.models import create
    from fedrec.models.own import OwnModel  # noqa: F401

    torch.set_num_threads(1)
    weight = torch.nn.Parameter(torch.zeros(2))
    optimiser = torch.optim.Adam([weight])
    torch.log_softmax(weight, 0).sum().backward()
    optimiser.step()
    for name in ("popularity", "itemcf", "ease", "mf"):
        create(name, {})
    gc.collect()
    gc.freeze()


def _trial(level: int, root: str) -> bytes:
    """Enter the jail once in a child, so that a machine that cannot do the level says so at the start."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _namespaces(level)
            inner = os.fork()
            if inner == 0:
                _enter(level, root)
                os.write(write, b"ready")
                os._exit(0)
            os.waitpid(inner, 0)
        except OSError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.close(write)
    answer = os.read(read, 4096)
    os.close(read)
    os.waitpid(pid, 0)
    return answer or b"the trial child was killed"


def _supervise(files: list[int], level: int, root: str) -> NoReturn:
    """Fork the worker as first process of a new process namespace; when it dies, everything in it dies."""
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with os.fdopen(files[0], "rb") as request:
            request.seek(0)
            job = json.load(request)
        named = dict(zip(job["names"], files[1:], strict=True))
        _namespaces(level)
        worker = os.fork()
        if worker == 0:
            _work(job, named, level, root)
        os.close(named["report"])
        os.waitpid(worker, 0)
    finally:
        os._exit(0)


def _work(job: dict[str, Any], files: dict[str, int], level: int, root: str) -> NoReturn:
    """Enter the jail, run the task, write the report. Own code's exception leaves as class and line only."""
    report = files.pop("report")
    try:
        _silence({report, *files.values()})
        seconds, memory, size = job["limits"]
        _limit(seconds, memory, size)
        _enter(level, root)
        body = _perform(job["spec"], files)
    except MemoryError:
        body = {"error": "MemoryError", "line": None}
    except BaseException as error:
        body = {"error": type(error).__name__, "line": _line(error)}
    with contextlib.suppress(OSError):
        os.write(report, json.dumps(body).encode())
    os._exit(0)


def _line(error: BaseException) -> int | None:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<plan>"]
    return lines[-1] if lines else None


def _perform(spec: dict[str, Any], files: dict[str, int]) -> dict[str, Any]:
    """Read the inputs from their descriptors, do the task, write the outputs to theirs."""
    import pyarrow

    from fedrec.exchange.plan import PlanText
    from fedrec.exchange.wire import decode, encode
    from fedrec.institution import store
    from fedrec.institution.perform import perform

    rows = store.read_rows(pyarrow.py_buffer(mmap.mmap(files["rows"], 0, prot=mmap.PROT_READ)))
    shared = decode(_read(files["base"]))
    private = decode(_read(files["private"])) if "private" in files else {}
    done = perform(PlanText.parse(spec["plan"]), spec["kind"], spec["protocol"], rows, shared, private)
    if done.update is not None:
        _write(files["update"], encode(done.update))
    if done.state is not None:
        _write(files["state"], encode(done.state))
    return {"rows": done.rows, "users": done.users, "numbers": done.numbers, "uid": os.getuid()}


def _read(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _write(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(data)


def _silence(keep: set[int]) -> None:
    """Close every descriptor but the job's; standard streams go nowhere."""
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    for name in os.listdir("/dev/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor not in keep:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _limit(seconds: float, memory: int, size: int) -> None:
    mapped = 0
    if sys.platform == "linux":
        with open("/proc/self/statm") as statm:
            mapped = int(statm.read().split()[0]) * resource.getpagesize()
    for what, value in (
        (resource.RLIMIT_AS, mapped + memory),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (value, value))


def _prctl(option: int, *values: int) -> None:
    """Linux only; elsewhere the jail has level 1 and does without."""
    if sys.platform == "linux":
        _libc.prctl(option, *values)


def _call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _namespaces(level: int) -> None:
    """New network, mount, process, IPC and host-name spaces; an ordinary user needs a user space of his own first."""
    if level < 2 or sys.platform != "linux":
        return
    flags = _NEWNET | _NEWNS | _NEWPID | _NEWIPC | _NEWUTS
    if os.geteuid() == 0:
        _call(_libc.unshare(flags))
        return
    uid, gid = os.getuid(), os.getgid()
    _call(_libc.unshare(flags | _NEWUSER))
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _enter(level: int, root: str) -> None:
    """Empty root folder, no privileges, no new ones, no new processes beyond a few."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if level >= 2:
        _call(_libc.mount(None, b"/", None, _MS_REC_PRIVATE, None))
        _call(_libc.mount(b"none", root.encode(), b"tmpfs", 0x1 | 0x2 | 0x4 | 0x8, b"size=4k"))
        os.chroot(root)
        os.chdir("/")
        for capability in range(64):
            _prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if _AS_ROOT:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    elif level >= 2:
        _drop_capabilities()
    resource.setrlimit(resource.RLIMIT_NPROC, (16, 16))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # changing the uid clears it


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    _call(_libc.capset(header, data))
