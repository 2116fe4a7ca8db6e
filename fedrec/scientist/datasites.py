"""The federation on real datasites: control by PySyft calls, tensors by the sites' own routes."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrec.config import ConsortiumConfig
from fedrec.core.params import Array
from fedrec.errors import Refused, WrongInput
from fedrec.exchange import signing
from fedrec.exchange.request import function_name
from fedrec.exchange.wire import encode, sha256
from fedrec.scientist.federation import Answer, RoundTask, SiteRefused, Watch
from fedrec.scientist.fetch import asked_about, check_shared, fetched, fetched_ring, passport_of, shared_key_of
from fedrec.scientist.plan import Plan
from fedrec.scientist.requests import Requests
from fedrec.scientist.runs import Run
from fedrec.scientist.search import Search, search
from fedrec.scientist.site_calls import SiteCalls
from fedrec.scientist.witnesses import Carried, exchange

if TYPE_CHECKING:
    import pandas as pd

    from fedrec.scientist.syft_client import SyftSite

HELD_S, HELD_POLL_S = 3600.0, 15.0  # how long a run waits for an owner's decision, and looks for it how often
POLL_S = 5  # how long one look at a job waits; the line to the site is taken meanwhile
_log = logging.getLogger("fedrec")


class Datasites:
    """The members of a consortium, each behind a login."""

    simulated = False

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

    def data_versions(self) -> dict[str, str]:
        """The version of the data that each site trains on now."""
        return dict(zip(self._sites, self._pool.map(self._version, self._sites), strict=True))

    def submit(self, plan: Plan, reason: str = "") -> Requests:
        """Send the plan to every site as one PySyft code request each; a plan sent before keeps its requests.

        Raises:
            SiteRefused: a site does not take the plan, for example because it is above its limits.
        """
        text, name = plan.text, plan.spec.name
        asked = {site: self._sites[site] for site in self._asked(plan)}

        def one(item: tuple[str, SyftSite]) -> str:
            try:
                return item[1].submit(text, name, reason or plan.purpose)
            except Refused as refusal:
                if refusal.code == "request.exists":
                    return str(self._own(item[0])[plan.fingerprint]["id"])
                raise SiteRefused(item[0], refusal) from None

        from fedrec.scientist.syft_client import quiet

        with quiet():
            sent = [self._pool.submit(one, item) for item in asked.items()]
            wait(sent)  # all of them, also when one refuses: later, what PySyft prints would be seen
        return Requests(self, plan, dict(zip(asked, (answer.result() for answer in sent), strict=True)))

    def _asked(self, plan: Plan) -> tuple[str, ...]:
        """The sites that a plan is for, in their order.

        Raises:
            WrongInput: it names one that is no member.
        """
        if unknown := set(plan.sites) - set(self._sites):
            raise WrongInput(f"sites: {sorted(unknown)[0]} is none of {', '.join(self._sites)}")
        return tuple(site for site in self._sites if site in (plan.sites or self._sites))

    def requests_of(self, plan: Plan) -> dict[str, dict[str, Any]]:
        """What each site says about the plan: id, status, reason; by site."""
        missing = {"id": "", "status": "not submitted", "reason": ""}
        asked = self._asked(plan)
        found = zip(asked, self._pool.map(self._own, asked), strict=True)
        return {site: {key: own.get(plan.fingerprint, missing)[key] for key in missing} for site, own in found}

    def ready(self, plan: Plan, among: Sequence[str] = ()) -> tuple[str, ...]:
        """The sites whose owners have approved the plan.

        Raises:
            Refused: `ckks.differ` when their permits name different keys of encrypted sums.
        """
        asked = [site for site in self._asked(plan) if site in (among or self._sites)]
        found = zip(asked, self._pool.map(self._own, asked), strict=True)
        rows = {site: own.get(plan.fingerprint, {}) for site, own in found}
        keys = {site: shared_key_of(row) for site, row in rows.items() if row.get("status") == "approved"}
        if plan.spec.protects.sum == "ckks":
            check_shared(keys)
        return tuple(keys)

    def attach(self, name: str, folder: Path | str = "runs") -> Run | Requests:
        """Pick up where an earlier program or notebook left off, days later.

        Args:
            name: a run's id, or a plan's fingerprint (its first eight digits are enough).
            folder: the folder of all runs.

        Returns:
            The run as its folder has it: `resume()` goes on, and finds the round that is under way at the sites. For a
            plan the requests as the sites have them: `wait()`, then `federation.train(requests.plan)`.

        Raises:
            WrongInput: there is neither.
        """
        if (Path(folder) / name / "run.json").exists():
            return Run.load(self, Path(folder) / name)
        found = dict(zip(self._sites, self._pool.map(self._own, self._sites), strict=True))
        known = {fingerprint: row["text"] for own in found.values() for fingerprint, row in own.items()}
        wanted = [fingerprint for fingerprint in known if len(name) >= 8 and fingerprint.startswith(name)]
        if len(wanted) != 1:
            plans = ", ".join(fingerprint[:12] for fingerprint in known) or "none"
            raise WrongInput(f"{name}: no run in {folder}, and no plan of yours at the sites ({plans})")
        ids = {site: own[wanted[0]]["id"] for site, own in found.items() if wanted[0] in own}
        return Requests(self, Plan.from_text(known[wanted[0]]), ids)

    def search(
        self, plan: Plan, grid: Mapping[str, Sequence[Any]], *, protocol: str | None = None, wait: float = 3600.0
    ) -> Search:
        """Try every combination of a model's settings and choose by the sites' validation rows; see `Search`.

        Submits what it needs and waits for the owners.

        Args:
            grid: values by the setting's name, such as {"l2": [50, 200, 800]}.
            wait: seconds for the owners' decisions on each plan.
        """

        def trained(one: Plan) -> Run:
            self.submit(one).wait(wait, require="approved")
            return self.train(one, protocol=protocol)

        return search(plan, grid, trained)

    def train(
        self,
        plan: Plan,
        *,
        protocol: str | None = None,
        folder: Path | str | None = None,
        sites: Sequence[str] = (),
        **on: Any,
    ) -> Run:
        """Run the plan's rounds at the sites that approved it, with a progress bar, and return the finished run.

        Args:
            protocol: which rows are trained on; needed when the plan names several.
            folder: where runs are kept, so that they can be resumed and attached; None keeps the run in memory.
            sites: those of the approved ones that take part, by name; none is all.
            on: callbacks, as in `Run.finish`; with an on_round of your own no progress is drawn.
        """
        run = Run.start(plan, self, protocol=protocol, folder=Path(folder) if folder else None, sites=sites)
        if "on_round" in on:
            return run.finish(**on)
        from fedrec.scientist.progress import live

        with live(run.id, plan.spec.rounds, sites or self._asked(plan)) as board:
            board.taking_part(run.sites)
            return run.finish(**{"on_round": board.advance, "on_state": board.watch, **on})

    def calls(self, watch: Watch) -> SiteCalls:
        return SiteCalls(self, watch)

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
        say: Callable[[str], None] = lambda _: None,
        closed: threading.Event | None = None,
    ) -> Answer:
        """One site's answer; gives up between two looks at its job once `closed` is set."""
        site, plan = self._sites[name], task.plan
        before = site.line.counted
        try:
            known = self._known.get((name, plan.fingerprint)) or self._own(name)[plan.fingerprint]
            self._known[name, plan.fingerprint] = known
            for _ in range(3):  # another run of this plan may just have ended, and its models been deleted
                site.put(known["id"], message["base"], data)
                answer = site.call(function_name(plan.text, plan.spec.name), message)
                if answer.get("code") != "task.base":
                    break
            while answer.get("status") in ("running", "held"):
                if closed is not None and closed.is_set():
                    raise Refused("update.late", "the run went on without this site", "The site may go on")
                if answer["status"] == "held":
                    say("held")
                    answer = self._held(name, known["id"], answer, closed)
                    continue
                say(state := str(answer.get("state", "training")))
                answer = self._job(site, known["id"], answer["key"], 1 if state == "queued" else POLL_S)
            say("uploading")
            if answer.get("status") != "done":
                raise Refused.from_answer(answer)
            update = None
            if task.kind == "train":
                facts = passport_of(name, self._keys[name], known["id"], task, message, answer, shared_key_of(known))
                if not task.members:  # a masked update is fetched when every member has one
                    update = fetched(site, name, known["id"], task, facts)
            self._checkpoints[name] = exchange(name, site, carried)
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
        up, down = received - before[1], sent - before[0]
        if word := answer.get("not_compared"):
            _log.warning("%s serves the model without comparing it with its own: %.200r", name, word)
        receipt = answer.get("passport", {"cost": answer.get("cost", 0)})
        return Answer(name, update, answer.get("numbers", {}), up, down, receipt)

    def _exchanged(self, name: str, carried: Carried) -> tuple[int, int]:
        """Bytes (up, down) of an exchange of checkpoints apart from a task."""
        line = self._sites[name].line
        before = line.counted
        try:
            self._checkpoints[name] = exchange(name, self._sites[name], carried)
        except Refused as refusal:
            raise SiteRefused(name, refusal) from None
        return line.counted[1] - before[1], line.counted[0] - before[0]

    def fetch(self, answer: Answer) -> tuple[Answer, dict[str, Array]]:
        """One site's masked update, and its answer with the bytes that this took.

        Raises:
            SiteRefused: the site was lost, or what it says.
        """
        return fetched_ring(self._sites[answer.site], answer)

    def ask_about(self, answer: Answer, what: str, data: bytes) -> tuple[Answer, bytes]:
        """What one site says about its masked or encrypted update, see `asked_about`."""
        return asked_about(self._sites[answer.site], answer, what, data)

    def _held(self, name: str, request: str, answer: dict[str, Any], closed: threading.Event | None) -> dict[str, Any]:
        """What comes of an answer that waits for the site's owner. Raises: Refused when he takes too long."""
        _log.warning("%s holds its answer until its owner lets it go or refuses it", name)
        closed, until = closed or threading.Event(), time.monotonic() + HELD_S
        while answer.get("status") == "held" and not closed.wait(HELD_POLL_S):
            answer = self._job(self._sites[name], request, answer["key"], POLL_S)
            if answer.get("status") == "held" and time.monotonic() > until:
                raise Refused.from_answer(answer)
        return answer

    def _job(self, site: SyftSite, request: str, key: str, seconds: int) -> dict[str, Any]:
        return dict(json.loads(site.own("GET", f"/fedrec/v1/jobs/{key}?wait={seconds}", request=request)))

    def _tell(self, name: str, task: RoundTask, code: str) -> None:
        """Tell a site that its update was left out; what goes wrong with it is only logged, the run goes on."""
        site, target = self._sites[name], "/fedrec/v1/refusals"
        facts = {"plan": task.plan.fingerprint, "run": task.run, "round": task.number, "code": code}
        body = json.dumps(facts).encode()
        try:
            reply = site.line.call(
                "PUT", target, body, signing.headers(site.key, "PUT", target, site.uid, body=sha256(body))
            )
            if reply.status != 200:
                raise reply.refusal()
        except Refused as refusal:
            _log.warning("%s could not be told that its update was left out: %s", name, refusal)

    def _own(self, name: str) -> dict[str, dict[str, Any]]:
        """This account's requests at one site, by the plan's fingerprint."""
        found = json.loads(self._sites[name].own("GET", "/fedrec/v1/requests"))
        return {row["fingerprint"]: row for row in found["requests"]}

    def _version(self, name: str) -> str:
        return str(json.loads(self._sites[name].own("GET", "/fedrec/v1/requests"))["data_version"])
