"""What tests do with running datasites: log in, submit, approve, and send calls as an attacker would.

Imports nothing of PySyft at module level: collecting tests stays fast.
"""

from __future__ import annotations

import csv
import http.client
import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import fedrec
from fedrec.core.params import Array
from fedrec.demo.sites import SCIENTIST
from fedrec.exchange import signing
from fedrec.exchange.request import function_name
from fedrec.exchange.wire import encode, sha256
from fedrec.institution import audit
from fedrec.scientist.plan import Plan

if TYPE_CHECKING:
    from fedrec.demo.sites import SiteProcess, Sites
    from fedrec.scientist.datasites import Datasites, Requests
    from fedrec.scientist.syft_client import SyftSite

ADA_PASSWORD = "ada-secret-5417"
BOB, BOB_PASSWORD = "bob@other.example", "bob-secret-9038"


def owner_password(name: str) -> str:
    return f"owner-secret-{name}"


def login(site: SiteProcess, email: str, password: str) -> SyftSite:
    from fedrec.scientist.syft_client import SyftSite, quiet

    with quiet():
        return SyftSite(site.name, site.url, email, password)


def add_scientists(sites: Sites) -> None:
    """Make scientists' accounts at every site over its control socket, as `fedrec site users add` does, but at once."""
    from fedrec.institution.serve import control

    for site in sites.all.values():
        for email, password in ((SCIENTIST, ADA_PASSWORD), (BOB, BOB_PASSWORD)):
            control(site.folder, {"op": "users.add", "email": email, "role": "scientist", "password": password})


# plans


def fresh(model: Any = None, **asks: Any) -> Plan:
    """A plan that no site has seen: its purpose, and so its fingerprint, is new. By default popularity on p1."""
    asks.setdefault("purpose", f"test {secrets.token_hex(8)}")
    asks.setdefault("train", ("p1",))
    if "code" in asks:
        return Plan(**asks)
    return Plan(model=model or fedrec.models.Popularity(), **asks)


def approved(federation: Datasites, owners: Mapping[str, SyftSite], plan: Plan, **limits: Any) -> Requests:
    """Submit a plan to every site and let every owner approve it."""
    requests = federation.submit(plan)
    for name, request in requests.ids.items():
        owners[name].approve(request, **limits)
    return requests


@dataclass(frozen=True)
class Approved:
    """One plan's request at one site, ready to be called."""

    plan: Plan
    id: str
    function: str
    base: str

    def task(self, **changes: Any) -> dict[str, Any]:
        """A train task with a nonce of its own."""
        return {
            "kind": "train", "run": "run", "round": 0, "protocol": "p1", "base": self.base, "nonce": secrets.token_hex(16),
        } | changes  # fmt: skip


def submit_one(scientist: SyftSite, plan: Plan) -> str:
    """Submit a plan to one site; the request's id."""
    from fedrec.scientist.syft_client import quiet

    with quiet():
        return scientist.submit(plan.text, plan.spec.name, plan.purpose)


def approve_one(scientist: SyftSite, owner: SyftSite, plan: Plan, n_items: int, **limits: Any) -> Approved:
    """Submit a plan to one site, approve it, and send the model that round 0 starts from."""
    request = submit_one(scientist, plan)
    owner.approve(request, **limits)
    base = put(scientist, request, plan.built.init(n_items, plan.seed).tensors)
    return Approved(plan, request, function_name(plan.text, plan.spec.name), base)


def put(scientist: SyftSite, request: str, tensors: Mapping[str, Array]) -> str:
    """Send a model over the site's own route; its SHA-256."""
    data = encode(tensors)
    name = sha256(data)
    status, answer = own_route(scientist, "PUT", f"/fedrec/v1/blobs/{name}", data, permit=request)
    assert status == 200, answer
    return name


def finished(scientist: SyftSite, request: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer once its job has ended."""
    while answer.get("status") == "running":
        answer = json.loads(own_route(scientist, "GET", f"/fedrec/v1/jobs/{answer['key']}?wait=25", permit=request)[1])
    return dict(answer)


def run_task(scientist: SyftSite, approved: Approved, **changes: Any) -> dict[str, Any]:
    """One task of an approved plan, waited for; a refusal is an answer too."""
    from fedrec.errors import Refused

    try:
        return finished(scientist, approved.id, scientist.call(approved.function, approved.task(**changes)))
    except Refused as refusal:
        return dict(refusal.answer())


# calls as bytes


def http_call(
    url: str,
    method: str,
    target: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    source: str = "127.0.0.1",
) -> tuple[int, bytes]:
    """One bare HTTP call from the loopback address `source`; stops sending when the site answers before the end."""
    parts = urlsplit(url)
    line = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60, source_address=(source, 0))
    line.putrequest(method, target)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        line.putheader(name, value)
    line.endheaders()
    try:
        for start in range(0, len(body), 65536):
            line.send(body[start : start + 65536])
    except (BrokenPipeError, ConnectionResetError):
        pass
    answer = line.getresponse()
    data = answer.read()
    line.close()
    return answer.status, data


def own_route(
    scientist: SyftSite, method: str, target: str, body: bytes = b"", *, permit: str = "", **changes: str
) -> tuple[int, bytes]:
    """A call of the site's own routes, signed as it should be; `changes` replaces headers afterwards."""
    return http_call(url_of(scientist), method, target, body, own_headers(scientist, method, target, permit) | changes)


def own_headers(scientist: SyftSite, method: str, target: str, permit: str) -> dict[str, str]:
    """The headers of a call of the site's own routes; a PUT is signed for the body that its name promises."""
    name = target.rpartition("/")[2] if method == "PUT" else signing.EMPTY
    return signing.headers(scientist.key, method, target, scientist.uid, body=name, permit=permit)


def url_of(site: SyftSite) -> str:
    return f"http://{site.line._host}:{site.line._port}"


def call_bytes(key: Any, uid: str, path: str, /, *args: Any, blocking: bool = True, **kwargs: Any) -> bytes:
    """A signed PySyft call as it goes over the wire.

    Args:
        key: nacl signing key of the caller.
        uid: the site's.
    """
    import syft as sy
    from syft.client.api import SyftAPICall
    from syft.server.credentials import SyftSigningKey

    call = SyftAPICall(server_uid=sy.UID.from_string(uid), path=path, args=list(args), kwargs=kwargs, blocking=blocking)
    return bytes(sy.serialize(call.sign(SyftSigningKey(signing_key=key)), to_bytes=True))


def send(url: str, body: bytes, source: str = "127.0.0.1") -> Any:
    """What a site answers to a PySyft call: a value, or PySyft's SyftError."""
    import syft as sy

    status, data = http_call(url, "POST", "/api/v2/api_call", body, source=source)
    assert status == 200, (status, data[:300])
    return sy.deserialize(data, from_bytes=True).message.data


def raw(site: SyftSite, path: str, /, *args: Any, **kwargs: Any) -> Any:
    """A PySyft call signed with an account's key, past PySyft's client and everything it checks."""
    return send(url_of(site), call_bytes(site.key, site.uid, path, *args, **kwargs))


def text_of(answer: Any) -> str:
    """The text of PySyft's error, or the class of the value that came."""
    value = getattr(answer, "value", None)
    return str(getattr(answer, "message", type(answer).__name__)) if value is None else type(value).__name__


def function_of(scientist: SyftSite, plan: Plan) -> Any:
    """The submission of a plan as PySyft's client makes it, to be sent or first tampered with."""
    import linecache

    import syft as sy
    from syft.service.policy.policy import CreatePolicyRuleConstant

    from fedrec.exchange import request as form

    source, name = form.write(plan.text, plan.spec.name), function_name(plan.text, plan.spec.name)
    file = f"<{name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    namespace: dict[str, Any] = {}
    exec(compile(source, file, "exec"), namespace)
    client = getattr(scientist, "client", scientist)
    policy = sy.MixedInputPolicy(
        client=client, site=CreatePolicyRuleConstant(val=client.api.services.fedrec.round), task=dict
    )
    return sy.syft_function(name=name, input_policy=policy)(namespace[name])


# what a site has written


def events(site: SiteProcess, **wanted: Any) -> list[dict[str, Any]]:
    """The events of a site's audit log whose fields have these values, oldest first."""
    log = audit.read(site.folder)
    return [event for event in log if all(event[name] == value for name, value in wanted.items())]


def frames(sites: Sites) -> dict[str, Any]:
    """Each institution's own rows; only the tests' yardstick may put them side by side."""
    import pandas as pd

    return {name: pd.read_csv(site.folder / "data" / "ratings.csv", dtype=str) for name, site in sites.all.items()}


def simulated(sites: Sites) -> Any:
    """The same consortium in one process."""
    return fedrec.simulate(frames(sites), catalogue=catalogue(sites))


def catalogue(sites: Sites) -> list[str]:
    with (sites.work / "items.csv").open(encoding="utf-8") as file:
        return [row["item"] for row in csv.DictReader(file)]


def files_with(folder: Path, needles: Iterable[bytes]) -> list[Path]:
    """The files below a folder that hold one of these byte strings."""
    needles = list(needles)
    return [
        path for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and any(needle in path.read_bytes() for needle in needles)
    ]  # fmt: skip


def answers(port: int) -> bool:
    """Whether something listens on the loopback port."""
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# a site of its own

CANARY = "canary7391"


def lone(root: Path, limits: str = "own_code = true\nmegabytes = 1\n", port: int = 0) -> Sites:
    """A consortium of one institution, `solo`, with 300 rows whose user ids are canaries; not started yet.

    Thirty users touch ten of forty films each; user u's are u, u+1, … modulo 40, oldest first.
    """
    from fedrec.demo.sites import Sites, prepare

    source, data = root / "source", root / "data"
    (source / "solo").mkdir(parents=True)
    data.mkdir()
    (source / "consortium.toml").write_text(
        'name = "lone"\ntitle = "One cinema"\ncatalogue = "items.csv"\n[[member]]\nname = "solo"\nfolder = "solo"\n'
    )
    (source / "solo" / "site.toml").write_text(
        f'name = "solo"\ntitle = "Solo"\nowner = "owner@solo.example"\nport = {port}\n[limits]\n{limits}'
    )
    (source / "solo" / "schema.toml").write_text(
        'title = "Films"\n[columns]\nuser = "user"\nitem = "item"\nrating = "rating"\ntime = "timestamp"\n'
        "[rating]\nmin = 1\nmax = 5\n"
    )
    (source / "solo" / "DATASHEET.md").write_text("# Solo\n")
    rows = [
        f"{CANARY}-{user:02d},film-{(user + step) % 40},{1 + step % 5},{1000 + step}\n"
        for user in range(30)
        for step in range(10)
    ]
    (data / "ratings.csv").write_text("user,item,rating,timestamp\n" + "".join(rows))
    (data / "items.csv").write_text("item,title\n" + "".join(f"film-{number},Film {number}\n" for number in range(40)))
    prepare(source, root / "lone", data)
    return Sites(root / "lone", owner_password)


# the command line, as a person calls it


def command(*arguments: object, **secrets: str) -> subprocess.CompletedProcess[str]:
    """One `fedrec` command in a process that holds only these secrets."""
    from fedrec.demo.sites import clean_environment

    return subprocess.run(
        [sys.executable, "-m", "fedrec", *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=clean_environment(**secrets),
        timeout=120,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on stderr of a command that ended with `code`; progress lines of `fedrec run` do not count."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("fedrec: ")]
    assert (done.returncode, len(lines)) == (code, 1), (done.returncode, done.stderr)
    assert done.stderr.endswith(lines[0] + "\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return lines[0].removeprefix("fedrec: ")
