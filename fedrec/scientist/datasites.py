"""The federation on real datasites: control by PySyft calls, tensors by the sites' own routes."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrec.aggregation import SiteUpdate
from fedrec.config import ConsortiumConfig
from fedrec.config.secret import secret
from fedrec.core.params import SharedParams
from fedrec.errors import Refused, Unreachable, WrongInput
from fedrec.exchange import passport, signing
from fedrec.exchange.codec import unpack_update
from fedrec.exchange.request import function_name
from fedrec.exchange.wire import decode, encode, sha256
from fedrec.scientist.federation import Answer, RoundTask, SiteRefused
from fedrec.scientist.plan import Plan
from fedrec.scientist.requests import Requests
from fedrec.scientist.runs import OnRound, Run

if TYPE_CHECKING:
    import pandas as pd

    from fedrec.scientist.syft_client import SyftSite

POLL_S = 5  # how long one look at a job waits; the line to the site is taken meanwhile
_log = logging.getLogger("fedrec")


def connect(consortium: Path | str, user: str | None = None, password: str | None = None) -> Datasites:
    """Log in at every member of a consortium.

    Args:
        consortium: its TOML file, with each member's address and pinned key.
        user, password: by default FEDREC_USER and FEDREC_PASSWORD, or the 0600 file FEDREC_PASSWORD_FILE.

    Raises:
        WrongInput: the file is wrong, no account was named, or a site is down.
        Refused: a site knows no such account.
    """
    config = ConsortiumConfig.load(consortium)
    user, password = user or os.environ.get("FEDREC_USER"), password or secret("FEDREC_PASSWORD")
    if not user or not password:
        raise WrongInput("set FEDREC_USER and FEDREC_PASSWORD to your account at the institutions")
    from fedrec.scientist.syft_client import SyftSite, quiet

    def login(member: Any) -> SyftSite:
        try:
            return SyftSite(member.name, member.url, user, password, config.ca_path)
        except Refused as refusal:
            if refusal.code == "site.lost":
                raise Unreachable(
                    f"{refusal.reason}; start it with fedrec site serve, or mend its url in {consortium}"
                ) from None
            if refusal.code == "site.tls":
                raise Unreachable(f"{refusal.reason}. {refusal.next_step} in {consortium}") from None
            raise

    if bare := [member.name for member in config.member if not (member.url and member.key)]:
        raise WrongInput(f"{consortium}: url or key is missing for {', '.join(bare)}")
    with quiet(), ThreadPoolExecutor(len(config.member)) as pool:
        sites = list(pool.map(login, config.member))
    federation = Datasites(config, {member.name: site for member, site in zip(config.member, sites, strict=True)})
    federation.consortium = Path(consortium).absolute()
    return federation


@dataclass(frozen=True, slots=True)
class Carried:
    """The checkpoints that go to every site in one round, as they stood at its start, so that each proof fits."""

    run: str
    checkpoints: dict[str, dict[str, Any]]


class Datasites:
    """The members of a consortium, each behind a login."""

    def __init__(self, config: ConsortiumConfig, sites: dict[str, SyftSite]) -> None:
        self.config, self._sites = config, sites
        self.consortium = Path()  # the file; `connect` says which
        self._keys = {member.name: member.key for member in config.member}
        self.catalogue = config.item_ids()
        self._pool = ThreadPoolExecutor(max(1, len(sites)), thread_name_prefix="site")
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        self._checkpoints: dict[str, dict[str, Any]] = {}  # each site's newest, to carry to the others

    @property
    def n_items(self) -> int:
        return len(self.catalogue)

    def sites(self) -> tuple[str, ...]:
        return tuple(self._sites)

    def mocks(self) -> dict[str, pd.DataFrame]:
        """Each institution's mock: the schema's columns, made-up rows."""
        return {name: site.mock() for name, site in self._sites.items()}

    def environment(self) -> pd.DataFrame:
        """Python and the packages that a plan meets in each site's jail, with their versions; one row per site."""
        import pandas as pd

        def one(site: SyftSite) -> dict[str, str]:
            return dict(json.loads(site.own("GET", "/fedrec/v1/environment")))

        found = zip(self._sites, self._pool.map(one, self._sites.values()), strict=True)
        return pd.DataFrame([{"site": name, **versions} for name, versions in found])

    def submit(self, plan: Plan, reason: str = "") -> Requests:
        """Send the plan to every site as one PySyft code request each; a plan sent before keeps its requests.

        Raises:
            SiteRefused: a site does not take the plan, for example because it is above its limits.
        """
        text, name = plan.text, plan.spec.name

        def one(item: tuple[str, SyftSite]) -> str:
            try:
                return item[1].submit(text, name, reason or plan.purpose)
            except Refused as refusal:
                if refusal.code == "request.exists":
                    return str(self._own(item[0])[plan.fingerprint]["id"])
                raise SiteRefused(item[0], refusal) from None

        from fedrec.scientist.syft_client import quiet

        with quiet():
            ids = list(self._pool.map(one, self._sites.items()))
        return Requests(self, plan, dict(zip(self._sites, ids, strict=True)))

    def requests_of(self, plan: Plan) -> dict[str, dict[str, Any]]:
        """What each site says about the plan: id, status, reason; by site."""
        missing = {"id": "", "status": "not submitted", "reason": ""}
        found = zip(self._sites, self._pool.map(self._own, self._sites), strict=True)
        return {site: {key: own.get(plan.fingerprint, missing)[key] for key in missing} for site, own in found}

    def ready(self, plan: Plan) -> tuple[str, ...]:
        """The sites whose owners have approved the plan."""
        return tuple(site for site, facts in self.requests_of(plan).items() if facts["status"] == "approved")

    def train(
        self,
        plan: Plan,
        *,
        protocol: str | None = None,
        folder: Path | str | None = None,
        on_round: OnRound | None = None,
    ) -> Run:
        """Run the plan's rounds at the sites that approved it, with a progress bar, and return the finished run.

        Args:
            protocol: which rows are trained on; needed when the plan names several.
            folder: where runs are kept, so that they can be resumed; None keeps the run in memory.
        """
        run = Run.start(plan, self, protocol=protocol, folder=Path(folder) if folder else None)
        if on_round is not None:
            return run.finish(on_round)
        from fedrec.scientist.progress import bar

        with bar(run.id, plan.spec.rounds) as advance:
            return run.finish(advance)

    def calls(self) -> SiteCalls:
        return SiteCalls(self)

    def run(self, task: RoundTask) -> Sequence[Answer]:
        data = encode(task.shared.tensors)
        message = task.message(sha256(data))
        carried = self.carried(task.run)
        answers = list(self._pool.map(lambda site: self._one(site, task, message, data, carried), task.sites))
        last = repeat(self.carried(task.run))  # nothing may follow: the checkpoints after it are exchanged too
        spent = self._pool.map(self._exchanged, task.sites, last)
        return [
            replace(answer, bytes_up=answer.bytes_up + up, bytes_down=answer.bytes_down + down)
            for answer, (up, down) in zip(answers, spent, strict=True)
        ]

    def carried(self, run: str) -> Carried:
        """The checkpoints as they stand now."""
        return Carried(run, dict(self._checkpoints))

    def end(self, run: str, sites: Sequence[str]) -> None:
        """Exchange the last checkpoints; a site that does not take them is named in a warning, the run stands."""
        carried = self.carried(run)

        def one(name: str) -> None:
            try:
                self._exchanged(name, carried)
            except SiteRefused as refusal:
                _log.warning("the last checkpoints were not exchanged: %s", refusal)

        list(self._pool.map(one, sites))

    def ask(self, site: str, plan: Plan) -> dict[str, Any]:
        """Call the plan's function at one site without a task; shows what the site says to this account now.

        Raises:
            Refused: what the site says.
        """
        answer = self._sites[site].call(function_name(plan.text, plan.spec.name), {})
        if answer.get("status") == "refused":
            raise Refused.from_answer(answer)
        return answer

    def _one(
        self,
        name: str,
        task: RoundTask,
        message: dict[str, Any],
        data: bytes,
        carried: Carried,
        closed: threading.Event | None = None,
    ) -> Answer:
        """One site's answer; gives up between two looks at its job once `closed` is set."""
        site, plan = self._sites[name], task.plan
        before = site.line.counted
        try:
            known = self._known.get((name, plan.fingerprint)) or self._own(name)[plan.fingerprint]
            self._known[name, plan.fingerprint] = known
            for _ in range(3):  # another run of this plan may just have ended, and its models been deleted
                self._put(site, known["id"], message["base"], data)
                answer = site.call(function_name(plan.text, plan.spec.name), message)
                if answer.get("code") != "task.base":
                    break
            while answer.get("status") == "running":
                if closed is not None and closed.is_set():
                    raise Refused("update.late", "the run went on without this site", "The site may go on")
                answer = self._job(site, known["id"], answer["key"])
            if answer.get("status") != "done":
                raise Refused.from_answer(answer)
            update = self._update(name, site, known["id"], task, message, answer) if task.kind == "train" else None
            self._exchange(name, carried)
        except Refused as refusal:
            self._known.pop((name, plan.fingerprint), None)
            raise SiteRefused(name, refusal) from None
        except Exception as error:  # an answer that is none, whoever sent it
            site.line.close()
            reason = f"{name}: its answer cannot be read ({type(error).__name__})"
            raise SiteRefused(
                name, Refused("site.lost", reason, "Check the site and its proxy, then resume")
            ) from error
        sent, received = site.line.counted
        return Answer(
            name, update, answer.get("numbers", {}), received - before[1], sent - before[0], answer.get("passport", {})
        )

    def _exchanged(self, name: str, carried: Carried) -> tuple[int, int]:
        """Bytes (up, down) of an exchange of checkpoints apart from a task."""
        line = self._sites[name].line
        before = line.counted
        try:
            self._exchange(name, carried)
        except Refused as refusal:
            raise SiteRefused(name, refusal) from None
        return line.counted[1] - before[1], line.counted[0] - before[0]

    def _exchange(self, name: str, carried: Carried) -> None:
        """Bring a site the other institutions' newest checkpoints of its audit logs, and take its own for them."""
        site, own = self._sites[name], carried.checkpoints.get(name)
        others = [held for other, held in carried.checkpoints.items() if other != name]
        body = {"run": carried.run, "since": own["checkpoint"]["size"] if own else 0, "checkpoints": others}
        data, target = json.dumps(body).encode(), "/fedrec/v1/checkpoints"
        signed = signing.headers(site.key, "PUT", target, site.uid, body=sha256(data))
        reply = site.line.call("PUT", target, data, signed)
        if reply.status != 200:
            raise reply.refusal()
        answer = json.loads(reply.body)
        self._checkpoints[name] = {part: answer[part] for part in ("checkpoint", "from", "proof")}
        for other in answer["clashes"]:
            _log.warning("%s says that the audit log of %s is not the one it saw before", name, other)

    def _update(
        self, name: str, site: SyftSite, request: str, task: RoundTask, message: dict[str, Any], answer: dict[str, Any]
    ) -> SiteUpdate:
        """Fetch a site's update and distrust it: passport, SHA-256; the round loop looks at the arrays."""
        facts = answer["passport"]
        passport.check(
            facts, key=self._keys[name], site=name, request=request, plan=task.plan.fingerprint,
            **{key: message[key] for key in ("run", "round", "kind", "protocol", "base", "nonce")},
        )  # fmt: skip
        data = site.own("GET", f"/fedrec/v1/blobs/{facts['sha256']}", request=request)
        if sha256(data) != facts["sha256"]:
            raise Refused("update.sha256", "the update is not the one its passport names", "Resume the run")
        measures = {key: value / 10_000 for key, value in dict(facts["measures"]).items()}
        tensors, spec = decode(data), task.plan.spec
        if spec.packs is not None:
            tensors = unpack_update(spec.packs, tensors, task.shared.tensors if spec.local else None)
        return SiteUpdate(name, float(facts["rows"]), SharedParams(tensors), int(facts["users"]), measures)

    def _put(self, site: SyftSite, request: str, name: str, data: bytes) -> None:
        target = f"/fedrec/v1/blobs/{name}"
        reply = site.line.call(
            "PUT", target, data, signing.headers(site.key, "PUT", target, site.uid, body=name, permit=request)
        )
        if reply.status != 200:
            raise reply.refusal()

    def _job(self, site: SyftSite, request: str, key: str) -> dict[str, Any]:
        return dict(json.loads(site.own("GET", f"/fedrec/v1/jobs/{key}?wait={POLL_S}", request=request)))

    def _own(self, name: str) -> dict[str, dict[str, Any]]:
        """This account's requests at one site, by the plan's fingerprint."""
        found = json.loads(self._sites[name].own("GET", "/fedrec/v1/requests"))
        return {row["fingerprint"]: row for row in found["requests"]}


class SiteCalls:
    """Tasks under way at datasites, a thread each; answers to a run that ended are lost with it."""

    def __init__(self, federation: Datasites) -> None:
        self._federation, self._came = federation, queue.SimpleQueue[Answer | BaseException]()
        self._closed = threading.Event()

    @property
    def n_items(self) -> int:
        return self._federation.n_items

    def clock(self) -> float:
        return time.monotonic()

    def send(self, task: RoundTask) -> None:
        data = encode(task.shared.tensors)
        message = task.message(sha256(data))
        carried = self._federation.carried(task.run)
        for site in task.sites:  # threads of their own: a site that never answers holds up neither a run nor the end
            given = (site, task, message, data, carried)
            threading.Thread(target=self._one, args=given, name=f"{task.run} {site}", daemon=True).start()

    def receive(self, until: float | None) -> Sequence[Answer | SiteRefused]:
        try:
            answer = self._came.get(timeout=None if until is None else max(0.0, until - self.clock()))
        except queue.Empty:
            return []
        if isinstance(answer, BaseException) and not isinstance(answer, SiteRefused):
            raise answer
        return [answer]

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        self._closed.set()

    def _one(self, site: str, task: RoundTask, message: dict[str, Any], data: bytes, carried: Carried) -> None:
        try:
            self._came.put(self._federation._one(site, task, message, data, carried, self._closed))
        except BaseException as error:  # told in the thread that waits
            self._came.put(error)
