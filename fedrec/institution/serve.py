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
from fedrec.errors import FedrecError, WrongInput
from fedrec.institution import endpoint, logs, policy, versions, walls
from fedrec.institution.gate import PATHS
from fedrec.institution.head import head_of
from fedrec.institution.intake import take_in_folder
from fedrec.institution.jail import ONE_THREAD, Jail
from fedrec.institution.jobs import Jobs
from fedrec.institution.left_open import states
from fedrec.institution.mock import make_mock
from fedrec.institution.published import Published
from fedrec.institution.site import Keys, Site
from fedrec.institution.texts import redact

SEND_BUFFER = 64 * 1024  # bytes of an answer that the kernel holds; Linux takes it twice
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
        take_in_folder(folder)
        site = Site.open(folder)
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

    from fedrec.institution import app, selfattack
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
    card = (
        f"{(site.folder / 'DATASHEET.md').read_text()}{SCHEMA}```toml\n"
        f"{(site.folder / 'schema.toml').read_text()}```\n\ndata version {site.store.version}\n"
    )
    handle = {
        "version": site.store.version,
        "rows": site.store.n_rows,
        "users": site.store.n_users,
        "items": site.store.n_items,
    }
    server.ensure_dataset(site.config.name, card, make_mock(schema), handle)
    jail.wait_ready()
    began = time.monotonic()
    attacks = selfattack.check(site, server, jail)
    took = int(1000 * (time.monotonic() - began))
    void = site.ledger.void_pending()
    versions.sweep(site)
    jobs = Jobs(site, jail)
    endpoint.serve(jobs.start)
    detail = {"void_permits": void, "self_attacks": attacks, "self_attack_ms": took}
    now = {"data_version": site.store.version, "policy": policy.keep(state, site.config)}
    site.audit.start(site.config.name, states(site), {**detail, **now})
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
    config = uvicorn.Config(
        app.build(site, server, jobs),
        log_level="warning",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=site.config.tls.behind_proxy,  # then the address of a caller is what the proxy says
        forwarded_allow_ips="*",
        timeout_graceful_shutdown=5,
    )
    try:
        asyncio.run(
            _serve(uvicorn.Server(config), listening, _Commands(site, server, facts), state, lambda: ready(facts))
        )
    finally:
        jobs.close()
        _log.info("stop")
        site.audit.event("site", "site", "stop", site.config.name, outcome="done")
        site.audit.checkpoint()


async def _serve(
    server: Any, listening: socket.socket, commands: _Commands, state: Path, ready: Callable[[], None]
) -> None:
    with _short_path(state) as short:
        path = f"{short}/control.sock"
        Path(path).unlink(missing_ok=True)
        control = await asyncio.start_unix_server(commands.answer, path)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    ready()
    try:
        await task
    finally:
        control.close()
        (state / "control.sock").unlink(missing_ok=True)


class _Commands:
    """The control socket's commands: one JSON line in, one out."""

    def __init__(self, site: Site, server: Any, facts: Mapping[str, Any]) -> None:
        self._site, self._server, self._facts = site, server, facts

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            command = json.loads(await reader.readline())
            result = await asyncio.get_running_loop().run_in_executor(None, self._do, command)
        except FedrecError as error:
            result = {"error": str(error)}
        except Exception as error:
            _log.exception("control")
            result = {"error": f"the site failed ({type(error).__name__}); see its log"}
        writer.write(json.dumps(result).encode())
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    def _do(self, command: Mapping[str, Any]) -> dict[str, Any]:
        site, ledger = self._site, self._site.ledger
        match command:
            case {"op": "status"}:
                return {**self._facts, "paused": ledger.paused()}
            case {"op": "head", "rows": int(count)}:
                return head_of(site.audit, site.folder, site.store, count)
            case {"op": "users.list"}:
                return {"users": [{"email": a.email, "role": a.role, "enabled": a.enabled} for a in ledger.accounts()]}
            case {"op": "users.add", "email": str(email), "role": str(role), "password": str(password)}:
                if role not in PATHS:
                    raise WrongInput(f"role is one of {', '.join(PATHS)}")
                if email == site.config.owner and role != "owner":
                    raise WrongInput("the owner named in site.toml stays the owner; name another one there first")
                _check_password(password)
                with site.audit.act("site", "site", "users.add", email, detail={"role": role}):
                    ledger.add_account(email, self._server.ensure_account(email, password, role), role, site.now())
                return {"email": email, "role": role}
            case {"op": "users.reset", "email": str(email), "password": str(password)}:
                if email not in {account.email for account in ledger.accounts()}:
                    raise WrongInput("there is no such account")
                _check_password(password)
                with site.audit.act("site", "site", "users.reset", email):
                    self._server.set_password(email, password)
                return {"email": email}
            case {"op": "users.disable", "email": str(email)}:
                if email == site.config.owner:
                    raise WrongInput("the owner named in site.toml cannot be disabled; name another one there first")
                with site.audit.act("site", "site", "users.disable", email):
                    if not ledger.disable_account(email):
                        raise WrongInput("there is no such account")
                return {"email": email, "enabled": False}
            case {"op": "audit.export", "form": str(form)}:
                with site.audit.act("site", "operator", "export", "log", detail={"form": form[:16]}):
                    return {"form": form}
            case {"op": "audit.redact", "names": [*names]}:
                return {"erased": redact(site.audit, names)}
            case {"op": "models.use", "version": str(version)}:
                return self._model("models.use", lambda models: models.use(version))
            case {"op": "models.rollback"}:
                return self._model("models.rollback", Published.rollback)
        raise WrongInput("unknown command")

    def _model(self, act: str, change: Callable[[Published], dict[str, Any]]) -> dict[str, Any]:
        """Change which model is served; the log says to which."""
        with self._site.audit.act("site", "site", act, "model") as facts:
            chosen = change(Published(self._site.state))
            facts.update(model=chosen["model"], number=chosen["number"], permit=chosen["permit"])
            return chosen


def _check_password(password: str) -> None:
    if len(password) < 8:
        raise WrongInput("a password has at least 8 characters")


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
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WrongInput("another process serves this folder") from None
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
