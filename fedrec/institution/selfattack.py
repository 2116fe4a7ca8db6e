"""Attacks that a site makes on itself before its socket answers: if one gets through, it does not serve.

The attacks go through the site's own application, PySyft server, jobs and jail, but with accounts, ledger, log
and 30 made-up rows in a scratch folder, so that nothing of them stays. Each expects one certain refusal: any
other answer counts as got through.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import secrets
import socket
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nacl.signing import SigningKey

import fedrec
from fedrec.config.site import Limits
from fedrec.core.interactions import Interactions
from fedrec.errors import FedrecError, Refused, UnsafeSite
from fedrec.exchange.passport import sign
from fedrec.exchange.plan import PlanText, Tensor, fingerprint
from fedrec.exchange.wire import decode, encode
from fedrec.institution import app, gate
from fedrec.institution import store as stores
from fedrec.institution.audit import AuditLog
from fedrec.institution.blobs import Blobs
from fedrec.institution.jail import MATH_VARIABLES, ONE_THREAD, Jail, JailLimits
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import Ledger, RequestRow
from fedrec.institution.permit import Task, make, stamp
from fedrec.institution.site import Site

if TYPE_CHECKING:
    from fedrec.institution.pysyft import SyftServer

_log = logging.getLogger("fedrec.site")
_ITEMS = 8
_SECONDS = 20.0  # for the jail's attacks; a busy machine may take longer than the usual tenth of a second
# What may be in the jail's environment: handed in, or set there by the libraries themselves.
_VARIABLES = frozenset((*MATH_VARIABLES, *ONE_THREAD, "LC_CTYPE", "KMP_DUPLICATE_LIB_OK", "TORCHINDUCTOR_CACHE_DIR"))

# What own code tries in the jail: each block runs through when it gets what it wants. Level 1 promises the first only.
ESCAPES = {
    "jail-environment": "import os\nassert set(os.environ) & {variables}",
    "jail-file": 'open("/etc/passwd").read()',
    "jail-key": "open({key!r}).read()",
    "jail-network": 'import socket\nsocket.socket().connect(("127.0.0.1", {port}))',
    "jail-write": 'open({mark!r}, "w").close()',
    "jail-root": 'import os\nos.setuid(0)\nos.mkdir({mark!r} + ".d")\nos.rmdir({mark!r} + ".d")',
}
_CODE = """
class Escape:
    def init(self, n_items, seed):
        return {{"v": np.zeros(n_items)}}

    def fit_site(self, rows, shared, private):
        out = np.zeros(rows.n_items)
{tries}
        return {{"v": out}}, {{}}

    def score(self, rows, shared, private):
        return np.zeros((rows.n_users, rows.n_items))
"""


def check(site: Site, server: SyftServer, jail: Jail) -> int:
    """Attack the site that is about to serve, and return how many attacks were stopped.

    Raises:
        UnsafeSite: some got through; all are named.
    """
    with (
        tempfile.TemporaryDirectory(prefix="fedrec-attack-") as folder,
        _Scratch(site, server, jail, Path(folder)) as scratch,
    ):
        attacks = asyncio.run(scratch.over_http()) | scratch.on_permits() | scratch.on_jail()
    if through := [name for name, stopped in attacks.items() if not stopped]:
        raise UnsafeSite(f"{site.config.name}: does not serve, for its own attacks got through: {', '.join(through)}")
    return len(attacks)


class _Scratch:
    """The site with everything that an attack could leave behind in a scratch folder."""

    def __init__(self, site: Site, server: SyftServer, jail: Jail, folder: Path) -> None:
        self._real, self._server, self._jail, self._folder = site, server, jail, folder
        config = site.config.model_copy(update={"limits": Limits()})
        state = folder / "state"
        rows = _rows()
        version = stores.content_version(rows, list("012345"), list("abcdefgh"))
        stores.save(state, version, rows, list("012345"), {})
        self._site = dataclasses.replace(
            site, folder=folder, config=config, store=stores.Store.open(state), ledger=Ledger(state / "ledger.sqlite"),
            audit=AuditLog(state / "audit", site.keys.signer("self")), blobs=Blobs(state / "blobs"),
        )  # fmt: skip
        self._jobs = Jobs(self._site, jail)
        self._key = SigningKey.generate()
        self._public = self._key.verify_key.encode().hex()
        self._site.ledger.add_account("attack@self.example", self._public, "scientist", self._site.now())

    def __enter__(self) -> _Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self._jobs.close()
        self._site.close()

    # attacks over the application: name → stopped

    async def over_http(self) -> dict[str, bool]:
        """Calls as they would come from outside."""
        application = app.build(self._site, self._server, self._jobs)

        async def post(route: str, body: bytes) -> tuple[int, bytes]:
            return await _ask(application, route, body)

        async def refused(body: bytes, code: str) -> bool:
            return f"{code}: ".encode() in (await post("/api/v2/api_call", body))[1]

        text, other = _plan("one").text(), _plan("two").text()
        own = self._server.signed_call(self._key, "metadata.get_metadata")
        await post("/api/v2/api_call", own)
        hidden = "site=site, task=task)\n    open('ran', 'w').close() #"
        return {
            "guest-submit": await refused(self._server.signed_submission(SigningKey.generate(), text), "gate.role"),
            "replay": await refused(own, "gate.replay"),
            "oversized-call": (await post("/api/v2/api_call", b"\0" * (gate.MAX_CALL + 1)))[0] == 413,
            "admin-registration": (await post("/api/v2/register", b"{}"))[0] == 404,
            "hidden-code": await refused(
                self._server.signed_submission(self._key, other, input_kwargs=[hidden]), "request.form"
            ),
        }

    # attacks on permits

    def on_permits(self) -> dict[str, bool]:
        """Tasks that no permit allows, sent as the endpoint sends them."""
        site, forger = self._site, SigningKey.generate()
        used, base = self._request("used", site.keys.site), "0" * 64
        self._request("forged", forger)
        for name in ("used", "forged"):
            path = site.blobs.path("in", name, base)
            path.parent.mkdir()
            path.touch()
        first = Task.parse(_task(base))
        site.ledger.reserve(first.key(used.id), used.id, first, site.now(), site.here)
        site.ledger.finish(first.key(used.id), "done", {}, site.now())
        return {
            "over-limit": self._task_refused("used", base, "permit.rounds"),
            "unsigned-permit": self._task_refused("forged", base, "permit.signature"),
        }

    def _request(self, name: str, key: SigningKey) -> RequestRow:
        """An approved request for one round, with a permit signed by `key`."""
        site, plan = self._site, _plan(name)
        text = plan.text()
        now = datetime.now(UTC)
        row = RequestRow(
            id=name, code=f"code-{name}", fingerprint=fingerprint(text), name=name, scientist="attack@self.example",
            key=self._public, plan=text, submitted_at=stamp(now), decision="waiting", reason="", decided_by="",
            decided_at="", permit=None, permit_state="none",
        )  # fmt: skip
        facts = make(
            plan, request=name, fingerprint=row.fingerprint, scientist=row.scientist, scientist_key=row.key,
            site=site.config.name, data_version=site.store.version, consortium=site.consortium.hash,
            approver="a@self.example", approver_key="00" * 32, now=now - timedelta(minutes=1), limits={},
            caps=site.config.limits.model_copy(update={"train": 1, "evaluate": 0, "days": 1}),
        )  # fmt: skip
        site.ledger.add_request(row)
        site.ledger.permit_pending(name, sign(facts, key))
        site.ledger.decide(name, "approved", "a@self.example", site.now(), "")
        return row

    def _task_refused(self, name: str, base: str, code: str) -> bool:
        try:
            self._jobs.start(self._public, fingerprint(_plan(name).text()), _task(base))
        except Refused as refusal:
            return refusal.code == code
        return False

    # attacks from inside the jail

    def on_jail(self) -> dict[str, bool]:
        """One job of own code that tries to get out in every way that this level promises to stop."""
        mark = self._real.state / "escaped"
        with _listening() as port:
            facts = {
                "variables": set(os.environ) - _VARIABLES, "key": str(self._real.state / "keys" / "site.key"),
                "port": port, "mark": str(mark),
            }  # fmt: skip
            names = list(ESCAPES) if self._jail.level >= 2 else ["jail-environment"]
            try:
                got = self._escapes({name: ESCAPES[name].format(**facts) for name in names})
            except (FedrecError, KeyError, OSError):
                _log.exception("the jail did not run the site's attacks")
                return {"jail": False}  # it did not even answer, so nothing is known of it
        if mark.exists():
            mark.unlink()
            got["jail-write"] = True
        return {name: not through for name, through in got.items()}

    def _escapes(self, blocks: Mapping[str, str]) -> dict[str, bool]:
        tries = "".join(
            f"try:\n{textwrap.indent(block, '    ')}\n    out[{place}] = 1\n"
            f"except BaseException:\n    out[{place}] = -1\n"
            for place, block in enumerate(blocks.values())
        )
        code = _CODE.format(tries=textwrap.indent(tries, " " * 8))
        plan = dataclasses.replace(
            _plan("escape"), model={"name": "own", "class": "Escape", "code": code},
            aggregator={"name": "mean"}, leaves={"v": Tensor.parse("float32 items")},
        )  # fmt: skip
        with _files(self._folder / "job", self._site.store.rows_path) as files:
            spec = {"plan": plan.text(), "kind": "train", "protocol": "p1"}
            self._jail.run("self-attack", spec, {name: file.fileno() for name, file in files.items()}, _limits())
            files["update"].seek(0)
            said = decode(files["update"].read())["v"]
        return {name: float(said[place]) != -1 for place, name in enumerate(blocks)}


def _limits() -> JailLimits:
    return JailLimits(_SECONDS, 10**9, 10**7)


@contextmanager
def _files(folder: Path, rows: Path) -> Iterator[dict[str, Any]]:
    """The open files of one job."""
    folder.mkdir(exist_ok=True)
    (folder / "base").write_bytes(encode({"v": np.zeros(_ITEMS, np.float32)}))
    files: dict[str, Any] = {"rows": rows.open("rb"), "base": (folder / "base").open("rb")}
    files |= {name: (folder / name).open("w+b", buffering=0) for name in ("update", "state", "log")}
    try:
        yield files
    finally:
        for file in files.values():
            file.close()


@contextmanager
def _listening() -> Iterator[int]:
    """A port of this machine that takes connections, as the site's own will."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        yield int(door.getsockname()[1])


def _rows() -> Interactions:
    """Six users who touch five of eight items each."""
    user, step = np.divmod(np.arange(30), 5)
    return Interactions(
        user.astype(np.int32),
        ((user + step) % _ITEMS).astype(np.int32),
        np.ones(30, np.float32),
        step.astype(np.int64),
        6,
        _ITEMS,
    )


def _plan(name: str) -> PlanText:
    """A plan that any site takes, for one round."""
    return PlanText(
        name=name, purpose="self-attack", model={"name": "popularity"}, aggregator={"name": "sum"}, train=("p1",),
        leaves={"counts": Tensor.parse("float32 items")}, fedrec=fedrec.__version__,
    )  # fmt: skip


def _task(base: str) -> dict[str, Any]:
    return {"kind": "train", "run": "r", "round": 0, "protocol": "p1", "base": base, "nonce": secrets.token_hex(16)}


async def _ask(application: Callable[..., Any], route: str, body: bytes) -> tuple[int, bytes]:
    """One POST to an ASGI application in this process; status and body."""
    sent: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return parts.pop() if parts else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": route, "raw_path": route.encode(), "query_string": b"", "root_path": "",
        "headers": [], "client": None, "server": None,
    }  # fmt: skip
    await application(scope, receive, send)
    return int(sent[0]["status"]), b"".join(message.get("body", b"") for message in sent[1:])
