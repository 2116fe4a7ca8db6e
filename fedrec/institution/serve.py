"""Runs one site: one process, one folder, one port; and the control socket for the person who runs it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedrec.config import SchemaConfig
from fedrec.config.secret import PASSWORDS, wipe
from fedrec.errors import WrongInput
from fedrec.institution import endpoint, logs, policy, versions, walls
from fedrec.institution.commands import Commands
from fedrec.institution.jail import ONE_THREAD, Jail
from fedrec.institution.jobs import Jobs
from fedrec.institution.left_open import states
from fedrec.institution.local import log_of, take_in
from fedrec.institution.mock import make_mock
from fedrec.institution.mock_noise import NOISED, drawn
from fedrec.institution.site import Keys, Site

SEND_BUFFER = 64 * 1024  # bytes of an answer that the kernel holds; Linux takes it twice
PASSING_S = 1.0  # a command that writes into the log of a site that does not run holds its folder for less
_log = logging.getLogger("fedrec.site")


def serve(
    folder: Path, owner_password: str | None, ready: Callable[[Mapping[str, Any]], None], log_level: str = "info"
) -> None:
    """Serve an institution's folder until SIGTERM or SIGINT.

    Takes in new data first; starts the jail before any thread, binds the port before the slow part.

    Args:
        owner_password: needed at the first start only, when the owner's account is made.
        log_level: of state/log/site.jsonl: debug, info, warning or error.
        ready: told {"site", "url", "pid", "uid", "jail_level", "data_version"} when the site answers.

    Raises:
        WrongInput: settings, data, keys, port, jail, or another process serving the same folder.
        UnsafeSite: an attack of the site on itself got through.
    """
    os.environ.update(ONE_THREAD)  # before numpy computes anything
    wipe(*PASSWORDS)
    os.umask(0o077)
    try:
        (folder / "state").mkdir(mode=0o700, exist_ok=True)
        (folder / "state").chmod(0o700)
    except OSError as error:
        raise WrongInput(f"state: the site cannot write there ({error.strerror}); see fedrec site check") from None
    with _only_one(folder / "state" / "lock"), _said(folder / "state", log_level):
        log = log_of(folder)
        try:
            take_in(folder, log.event)
            site = Site.open(folder, log)
        except BaseException:
            log.close()
            raise
        if site.config.source is not None and site.config.source.url_env is not None:
            wipe(site.config.source.url_env)  # it may hold the database's password
        jail = Jail(walls.level_here(site.config.limits.jail_level))
        listening: socket.socket | None = None
        try:
            listening = _bind(site.config.host, site.config.port)
            _run(site, jail, listening, owner_password, ready)
        finally:
            jail.close()
            if listening is not None:
                listening.close()
            site.close()


def status(folder: Path) -> dict[str, Any]:
    """What a site says of itself; `running` is False when no process serves the folder."""
    known = _read_status(folder)
    try:
        answer = control(folder, {"op": "status"})
    except WrongInput:
        return {**known, "running": False, "url": "", "pid": None}
    return {**known, **answer, "running": True}


def control(folder: Path, command: Mapping[str, Any]) -> dict[str, Any]:
    """Send one command to the running site through its control socket, which only its own user can open.

    Raises:
        WrongInput: the site does not run, or it says no.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line, _short_path(folder / "state") as state:
            line.settimeout(30)
            line.connect(f"{state}/control.sock")
            line.sendall(json.dumps(command).encode() + b"\n")
            data = b"".join(iter(lambda: line.recv(65536), b""))
    except OSError:
        raise WrongInput(f"{folder.name}: the site does not run; start it with fedrec site serve {folder}") from None
    answer: dict[str, Any] = json.loads(data)
    if "error" in answer:
        raise WrongInput(answer["error"])
    return answer


def _run(
    site: Site,
    jail: Jail,
    listening: socket.socket,
    owner_password: str | None,
    ready: Callable[[Mapping[str, Any]], None],
) -> None:
    import uvicorn

    from fedrec.institution import app, doors, selfattack
    from fedrec.institution.pysyft import SCHEMA, SyftServer

    state = site.state
    known_owner = any(account.email == site.config.owner for account in site.ledger.accounts())
    if not known_owner and not owner_password:
        raise WrongInput("the first start makes the owner's account: set FEDREC_OWNER_PASSWORD")
    server = SyftServer(site.config.name, site.keys.uid, site.keys.syft.encode().hex(), state / "syft")
    if not known_owner:
        with site.audit.act("site", "site", "users.add", site.config.owner, detail={"role": "owner"}):
            key = server.ensure_account(site.config.owner, owner_password or "", "owner")
            site.ledger.add_account(site.config.owner, key, "owner", site.now())
    logs.take_over()
    server.ensure_endpoint()
    schema = SchemaConfig.load(site.folder / "schema.toml")
    noised = drawn(state, site.store.version)
    card = (
        f"{(site.folder / 'DATASHEET.md').read_text()}{SCHEMA}```toml\n"
        f"{(site.folder / 'schema.toml').read_text()}```\n\ndata version {site.store.version}\n"
        + ("" if noised is None else NOISED)
    )
    handle = {
        "version": site.store.version,
        "rows": site.store.n_rows,
        "users": site.store.n_users,
        "items": site.store.n_items,
    }
    server.ensure_dataset(site.config.name, card, make_mock(schema, noised), handle)
    jail.wait_ready()
    began = time.monotonic()
    attacks = selfattack.check(site, server, jail)
    took = int(1000 * (time.monotonic() - began))
    void = site.ledger.void_pending()
    versions.sweep(site)
    jobs = Jobs(site, jail)
    endpoint.serve(jobs.start)
    detail = {"void_permits": void, "self_attacks": attacks, "self_attack_ms": took}
    site.audit.start(
        site.config.name, states(site), {**detail, "data_version": site.store.version, **policy.keep(site)}
    )
    jobs.recover()
    facts = {
        "site": site.config.name,
        "url": _local_url(site.config.host, listening.getsockname()[1]),
        "pid": os.getpid(),
        "uid": site.keys.uid,
        "jail_level": jail.level,
        "data_version": site.store.version,
    }
    (state / "site.json").write_text(json.dumps(facts))
    _log.info("start", extra={"facts": facts})
    config = doors.config_of(app.build(site, server, jobs), site.config.tls.behind_proxy)
    try:
        asyncio.run(
            _serve(
                uvicorn.Server(config),
                listening,
                Commands(site, server, jobs, facts),
                state,
                lambda: ready(facts),
                jobs.sweep,
            )
        )
    finally:
        jobs.close()
        _log.info("stop")
        site.audit.event("site", "site", "stop", site.config.name, outcome="done")
        site.audit.checkpoint()


async def _serve(
    server: Any,
    listening: socket.socket,
    commands: Commands,
    state: Path,
    ready: Callable[[], None],
    sweep: Callable[[], None],
) -> None:
    with _short_path(state) as short:
        path = f"{short}/control.sock"
        Path(path).unlink(missing_ok=True)
        control = await asyncio.start_unix_server(commands.answer, path)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    ready()
    sweeping = asyncio.create_task(_every_hour(sweep))
    try:
        await task
    finally:
        sweeping.cancel()
        control.close()
        (state / "control.sock").unlink(missing_ok=True)


async def _every_hour(act: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(3600)
        try:
            await asyncio.to_thread(act)
        except Exception:
            _log.exception("hourly")


def _local_url(host: str, port: int) -> str:
    """Where commands on this machine reach the site; the consortium knows a proxied one by its proxy's address."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, so that asyncio turns Nagle off
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # what is in it leaves, whoever revokes
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise WrongInput(
            f"port {port} on {host} cannot be used ({os.strerror(error.errno or 0)}); choose another in site.toml"
        ) from None
    listening.set_inheritable(False)
    return listening


@contextlib.contextmanager
def _only_one(path: Path) -> Any:
    with path.open("w") as file:
        deadline = time.monotonic() + PASSING_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise WrongInput("another process serves this folder") from None
                time.sleep(0.05)
        yield


@contextlib.contextmanager
def _said(state: Path, level: str) -> Any:
    """The site's log; why a site did not start, or why it ended, stands in it too."""
    logs.start(state, level)
    try:
        yield
    except WrongInput as error:
        _log.error("did not start: %s", error)
        raise
    except Exception:
        _log.exception("the site ended with an exception")
        raise


@contextlib.contextmanager
def _short_path(folder: Path) -> Any:
    """A socket's path may have about 100 characters only, so it goes through an open descriptor of the folder."""
    if sys.platform != "linux":
        yield str(folder)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _read_status(folder: Path) -> dict[str, Any]:
    empty = {"site": folder.name, "url": "", "pid": None, "uid": "", "jail_level": None, "data_version": ""}
    try:
        return {
            **empty,
            **json.loads((folder / "state" / "site.json").read_text()),
            "uid": Keys.load_or_make(folder / "state").uid,
        }
    except (OSError, ValueError):
        return empty
