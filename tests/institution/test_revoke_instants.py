"""Revoke, pause and a disabled account at random instants of a job, of an update on its way out, and of a model on its way in.

`python benchmarks/revokes.py` does fifty of each; here are fewer.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from small_site import KEY, OWNER, SCIENTIST, VECTOR, approved, make_site, own, recipe, sent, task
from test_jail import processes_below

from fedrec.errors import Refused
from fedrec.exchange import signing
from fedrec.exchange.wire import sha256
from fedrec.institution import app, doors, serve
from fedrec.institution.commands import Commands
from fedrec.institution.decisions import Decisions
from fedrec.institution.jail import Jail
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import RequestRow
from fedrec.institution.site import Site

TIMES = 8
SIZE = 4_000_000
ON_ITS_WAY = (320 + 128) * 1024  # five seconds at 64 kB/s in buffers of the site; and what this reader has
HOWS = ("revoke", "pause", "disable")
CODES = {"revoke": "permit.revoked", "pause": "permit.paused", "disable": "permit.account"}
LIMITS = "own_code = true\nmegabytes = 8\nminutes = 0.2\nmemory_mb = 1024\n"
BUSY = "import time\nbegan = time.monotonic()\nwhile time.monotonic() < began + 0.4:\n    pass"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, jail: Jail) -> Iterator[tuple[Site, Jobs, int]]:
    with served(tmp_path_factory.mktemp("instants"), jail) as made:
        yield made


@contextlib.contextmanager
def served(folder: Path, jail: Jail) -> Iterator[tuple[Site, Jobs, int]]:
    """The site's own application behind a real socket; PySyft's routes are not called here."""
    site = make_site(folder, LIMITS)
    site.ledger.add_account(SCIENTIST.email, SCIENTIST.key, "scientist", site.now())
    jobs = Jobs(site, jail)
    with running_at(app.build(site, None, jobs)) as port:
        yield site, jobs, port
    jobs.close()
    site.close()


@contextlib.contextmanager
def running_at(application: Any, **more: Any) -> Iterator[int]:
    """The port at which an application is served as a site serves it."""
    listening = serve._bind("127.0.0.1", 0)
    # not uvloop: its policy would stay in this process
    server = uvicorn.Server(doors.config_of(application, False, loop="asyncio", log_level="critical", **more))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()
    listening.close()


def decide(how: str, site: Site, jobs: Jobs, row: RequestRow) -> None:
    decisions = Decisions(site, jobs)
    if how == "revoke":
        decisions.undo(OWNER, row.id, "no more", lambda: True)
    elif how == "pause":
        decisions.pause("operator", "operator", "stop")
    elif how == "disable":
        Commands(site, None, jobs, {})._do({"op": "users.disable", "email": SCIENTIST.email})


def undecide(how: str, site: Site, jobs: Jobs) -> None:
    if how == "pause":
        Decisions(site, jobs).resume("operator", "operator")
    elif how == "disable":
        site.ledger.add_account(SCIENTIST.email, SCIENTIST.key, "scientist", site.now())


def in_compute(place: tuple[Site, Jobs, int], jail: Jail, how: str, offset: float) -> float:
    """Seconds from the decision to the end of the job's last process; the update never comes out."""
    site, jobs, _ = place
    row = approved(site, own(BUSY, name=f"n{secrets.token_hex(4)}"))
    raw, found = task(sent(site, row, VECTOR)), {}
    caller = threading.Thread(target=lambda: found.update(started(jobs, row, raw)))
    caller.start()
    time.sleep(offset)
    decide(how, site, jobs, row)
    began, code = time.monotonic(), CODES[how]
    while processes_below(jail.pid):
        assert time.monotonic() - began < 5
        time.sleep(0.005)
    took = time.monotonic() - began
    caller.join()
    if "key" in found:
        with pytest.raises(Refused, match=code):
            jobs.answer(found["key"])
    else:
        assert found["code"] in (code, "task.base"), found
    if how != "pause":
        assert site.ledger.running(row.id) == []
        assert list((site.state / "blobs").rglob(f"{row.id}/*")) == []
    undecide(how, site, jobs)
    Decisions(site, jobs).undo(OWNER, row.id, "clean", lambda: True)
    return took


def started(jobs, row, raw):
    try:
        return jobs.start(row.key, row.fingerprint, raw)
    except Refused as refusal:
        return {"code": refusal.code}


def connected(port: int, method: str, target: str, permit: str, uid: str, body: str = signing.EMPTY, length: int = 0):
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    line.settimeout(10)
    line.connect(("127.0.0.1", port))
    headers = {"Host": "x", "Content-Length": str(length), "Connection": "close"}
    headers |= signing.headers(KEY, method, target, uid, body=body, permit=permit)
    text = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    line.sendall(f"{text}\r\n".encode())
    return line


def outwards(place: tuple[Site, Jobs, int], how: str, offset: int) -> tuple[int, int]:
    """Bytes of an update that came in all, and after the decision."""
    site, jobs, port = place
    row, body = approved(site, recipe(name=f"n{secrets.token_hex(4)}")), secrets.token_bytes(SIZE)
    (site.state / "update").write_bytes(body)
    name = sha256(body)
    site.blobs.release(row.id, site.state / "update", name)
    got = after = 0
    decided = False
    line = connected(port, "GET", f"/fedrec/v1/blobs/{name}", row.id, site.keys.uid)
    with line, contextlib.suppress(ConnectionError):
        while part := line.recv(16 * 1024):
            got += len(part)
            after += len(part) if decided else 0
            if not decided and got > offset:
                decide(how, site, jobs, row)
                decided = True
    undecide(how, site, jobs)
    return got, after


def inwards(place: tuple[Site, Jobs, int], how: str, offset: int) -> str:
    """What the sender of a model is told that was on its way in when its permit ended."""
    site, jobs, port = place
    row, body = approved(site, recipe(name=f"n{secrets.token_hex(4)}")), secrets.token_bytes(SIZE)
    name = sha256(body)
    with connected(port, "PUT", f"/fedrec/v1/blobs/{name}", row.id, site.keys.uid, name, SIZE) as line:
        line.sendall(body[:offset])
        time.sleep(0.02)
        decide(how, site, jobs, row)
        with contextlib.suppress(ConnectionError):
            line.sendall(body[offset:])
        said = b"".join(iter(lambda: line.recv(65536), b""))
    left = list((site.state / "blobs" / "in" / row.id).glob("*"))
    undecide(how, site, jobs)
    found = re.search(rb"\{.*\}", said)
    assert found, said
    answer = json.loads(found[0])
    assert ("sha256" in answer) == bool(left), (answer, left)
    return str(answer.get("code", "kept"))


@pytest.mark.parametrize("how", HOWS)
def test_a_job_ends_within_five_seconds_whenever_it_is_stopped(how, place, jail):
    draw = random.Random(1)
    assert max(in_compute(place, jail, how, draw.uniform(0, 0.7)) for _ in range(TIMES)) < 5


@pytest.mark.parametrize("how", [*HOWS, "nothing"])
def test_an_update_on_its_way_out_is_cut_off(how, place):
    """What the kernel already had is all that still comes; the control is an update that nobody stops."""
    draw = random.Random(2)
    for _ in range(TIMES):
        got, after = outwards(place, how, draw.randrange(SIZE // 2))
        if how == "nothing":
            assert got > SIZE
        else:
            assert after <= ON_ITS_WAY
            assert got < SIZE


@pytest.mark.parametrize("how", [*HOWS, "nothing"])
def test_a_model_on_its_way_in_is_not_kept(how, place):
    draw = random.Random(3)
    said = {inwards(place, how, draw.randrange(SIZE)) for _ in range(TIMES)}
    assert said == ({"kept"} if how == "nothing" else {CODES[how]})
