"""Inside the jail: the warm parent, and the child that runs one task and ends.

Runs in its own interpreter (`python -I`), with no environment but the linear algebra's settings. The parent
loads the libraries, then forks per job: supervisor (new namespaces) → worker (empty root folder, no network,
unprivileged, limited). Nothing here holds rows before the worker opens its descriptors.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import mmap
import os
import resource
import signal
import socket
import sys
import traceback
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import pyarrow
import torch

from fedrec.core.interactions import Interactions
from fedrec.exchange.plan import PlanText, Tensor
from fedrec.exchange.wire import decode, encode
from fedrec.institution import store
from fedrec.institution.perform import perform
from fedrec.models import NAMES, from_plan

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_MADV_COLLAPSE, _HUGE = 25, 1 << 21
_NOBODY = 65534
_MAX_FILES = 16
_COMPARING = 4  # what part of a job's time a published model may be compared with the institution's own
_ROOT = b"/tmp"  # a folder that is everywhere: the job's own empty one is mounted over it, for the job alone
_AS_ROOT = os.geteuid() == 0  # of an ordinary user's own user space, a job is not even root
_libc = ctypes.CDLL(None, use_errno=True)

# What own code may import: in the jail there are no files, so a module is there before the job or not at all.
IMPORTS = (
    "bisect collections dataclasses functools heapq itertools math operator random statistics string time typing "
    "numpy.linalg numpy.random scipy.linalg scipy.sparse.linalg scipy.special scipy.stats scipy.optimize "
    "torch.nn.functional torch.optim torch.distributions torch.utils.data"
).split()
_OWN = """
class Warm:
    def init(self, n_items, seed):
        return {"items": torch.zeros(n_items, 2)}

    def fit_site(self, rows, shared, private):
        users = torch.nn.Embedding(rows.n_users, 2)
        items = torch.tensor(shared["items"], requires_grad=True)
        for optimiser in (torch.optim.Adam([*users.parameters()]), torch.optim.SGD([items], lr=0.1)):
            optimiser.zero_grad()
            loss = -torch.log_softmax(users.weight @ items.T, 1).sum() + torch.sigmoid(items).sum()
            loss.backward()
            optimiser.step()
        return {"items": items.grad}, {"users": users.weight}

    def score(self, rows, shared, private):
        return private["users"] @ shared["items"].T
"""


def main() -> NoReturn:
    """The warm parent: `argv` is the control socket's descriptor and the level."""
    control, level = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    os.environ.pop("PWD", None)  # bubblewrap sets it
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _warm()
    control.send(_trial(level))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps supervisors
    while True:
        message, files, _, _ = socket.recv_fds(control, 16, _MAX_FILES)
        if not message:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            control.close()
            _supervise(files, level)
        for descriptor in files:
            os.close(descriptor)
        handle = _handle(pid)
        socket.send_fds(control, [str(pid).encode()], handle)
        for descriptor in handle:
            os.close(descriptor)


def _handle(pid: int) -> list[int]:
    """A handle of a child, for the site may know it by another number; none where it has ended, or there are none."""
    if sys.platform != "linux":
        return []
    try:
        return [os.pidfd_open(pid)]
    except ProcessLookupError:
        return []


def _warm() -> None:
    """Rehearse every task once, so that lazily loaded parts are there: the worker can open no file at all."""
    torch.set_num_threads(1)
    user, item = np.repeat(np.arange(4, dtype=np.int32), 5), np.tile(np.arange(5, dtype=np.int32), 4)
    rows = Interactions(user, item, np.ones(20, np.float32), np.arange(20, dtype=np.int64), 4, 7)
    for name in IMPORTS:
        importlib.import_module(name)
    for model in [{"name": name} for name in NAMES] + [{"name": "own", "class": "Warm", "code": _OWN}]:
        plan = PlanText("warm", "warm", model, {"name": "sum"}, {"none": Tensor("float32", (1,))})
        shared = from_plan(plan.model).init(7, 0).tensors
        done = perform(plan, "train", "p1", rows, decode(encode(shared)), {})
        encode(done.update or {})
    gc.collect()
    gc.freeze()
    _huge_pages()


def _huge_pages() -> None:
    """Put what is loaded into pages of 2 MB: a fork then copies hundreds of entries instead of 60,000. Best effort."""
    if sys.platform != "linux":
        return
    with open("/proc/self/maps") as maps:
        regions = [line.split() for line in maps]
    for region in regions:
        if region[1] == "rw-p" and (len(region) == 5 or region[5] == "[heap]"):
            first, last = (int(edge, 16) for edge in region[0].split("-"))
            first, last = -(-first // _HUGE) * _HUGE, last // _HUGE * _HUGE
            if last > first:
                _libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_COLLAPSE)


def _trial(level: int) -> bytes:
    """Enter the jail once in a child, so that a machine that cannot do the level says so at the start."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _namespaces(level)
            inner = os.fork()
            if inner == 0:
                _enter(level)
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


def _supervise(files: list[int], level: int) -> NoReturn:
    """Fork the worker into a new process namespace; when its first process dies, everything in it dies."""
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with os.fdopen(files[0], "rb") as request:
            request.seek(0)
            job = json.load(request)
        named = dict(zip(job["names"], files[1:], strict=True))
        _namespaces(level)
        if level >= 2:
            _be_first(named["report"])
        worker = os.fork()
        if worker == 0:
            _work(job, named, level)
        os.close(named["report"])
        os.waitpid(worker, 0)
    finally:
        os._exit(0)


def _be_first(report: int) -> None:
    """Go on as the namespace's first process; the worker could untie itself from its parent and outlive a kill."""
    first = os.fork()
    if first:
        os.close(report)
        os.waitpid(first, 0)
        os._exit(0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _work(job: dict[str, Any], files: dict[str, int], level: int) -> NoReturn:
    """Enter the jail, run the task, write the report. Own code's exception leaves as class and line only.

    What it prints, and the whole traceback, go to the owner's log.
    """
    report = files.pop("report")
    try:
        _close_others(files.pop("log"), {report, *files.values()})
        seconds, memory, size = job["limits"]
        _limit(seconds, memory, size)
        _enter(level)
        body = _perform(job["spec"], files, seconds / _COMPARING)
    except BaseException as error:
        name = "MemoryError" if isinstance(error, MemoryError) else type(error).__name__
        body = {"error": name, "line": _line(error)}
        with contextlib.suppress(BaseException):
            traceback.print_exc()
            sys.stderr.flush()
    with contextlib.suppress(OSError):
        os.write(report, json.dumps(body).encode())
    os._exit(0)


def _line(error: BaseException) -> int | None:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<plan>"]
    return lines[-1] if lines else None


def _perform(spec: dict[str, Any], files: dict[str, int], seconds: float) -> dict[str, Any]:
    """Read the inputs from their descriptors, do the task, write the outputs to theirs."""
    rows = store.read_rows(_mapped(files["rows"]))
    users, items = (store.read_features(_mapped(files[of])) if of in files else None for of in ("users", "items"))
    rows = replace(rows, users=users, items=items)
    shared = decode(_read(files["base"]))
    private = decode(_read(files["private"])) if "private" in files else {}
    plan, scale = PlanText.parse(spec["plan"]), spec.get("scale")
    done = perform(plan, spec["kind"], spec["protocol"], rows, shared, private, scale, seconds)
    if done.update is not None:
        _write(files["update"], encode(done.update))
    if done.state is not None:
        _write(files["state"], encode(done.state))
    return {"rows": done.rows, "users": done.users, "numbers": done.numbers, "measures": done.measures}


def _mapped(descriptor: int) -> pyarrow.Buffer:
    return pyarrow.py_buffer(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))


def _read(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _write(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(data)


def _close_others(log: int, keep: set[int]) -> None:
    """Close every descriptor but the job's; what is printed goes to the owner's log."""
    null = os.open("/dev/null", os.O_RDONLY)
    for stream, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, stream)
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
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")  # when the machine runs out of memory, it ends a job and not the site
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
    for name, text in (("setgroups", "deny"), ("uid_map", f"{_NOBODY} {uid} 1"), ("gid_map", f"{_NOBODY} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _enter(level: int) -> None:
    """Empty root folder, no privileges, no new ones, no new processes beyond a few."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if level >= 2:
        _call(_libc.mount(None, b"/", None, _MS_REC_PRIVATE, None))
        _call(_libc.mount(b"none", _ROOT, b"tmpfs", 0x1 | 0x2 | 0x4 | 0x8, b"size=4k"))
        os.chroot(_ROOT)
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
