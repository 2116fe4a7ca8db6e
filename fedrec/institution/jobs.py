"""Tasks under permits: reserve, run in the jail, guard, release; found again by their key after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from fedrec.errors import Refused
from fedrec.exchange.budget import cost_of_task
from fedrec.exchange.plan import PlanText, check_start
from fedrec.institution import audit, one_job, task_files
from fedrec.institution.acts import reason_of
from fedrec.institution.ledger import RequestRow
from fedrec.institution.limits import check_limits
from fedrec.institution.permit import Task
from fedrec.institution.shared_key import key_under
from fedrec.institution.site import Site
from fedrec.institution.sums import check_members
from fedrec.institution.task_files import Runner, base_of, forget_round, ids_of, kept_noise, needed
from fedrec.institution.trouble import PASSING, check_room, refusal_of
from fedrec.models import from_plan

ANSWER_S = 0.6  # how long a call waits for a job that may be quick; PySyft's call must end within a second
PARALLEL = 2  # jobs at the same time
_log = logging.getLogger("fedrec.site")


class Jobs:
    """The jobs of one site; safe across threads."""

    def __init__(self, site: Site, jail: Runner) -> None:
        self._site, self._jail = site, jail
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="job")
        self._active: dict[str, Future[None]] = {}
        self._intents: dict[str, int] = {}  # by job: the number of the event that its outcome answers
        self._troubled: dict[str, Refused] = {}  # jobs that wait for the machine's trouble to end and to be sent again
        self._said: dict[str, str] = {}  # outcomes in the audit log of jobs that the ledger still has as running
        self._lock, self._files = threading.Lock(), threading.Lock()

    def start(self, key: str, fingerprint: str, raw: object) -> dict[str, Any]:
        """Answer a scientist's call within a second: done, running, or refused.

        Args:
            key: the scientist's verify key.
            fingerprint: of the plan that the call names.
            raw: the task.

        Raises:
            Refused: the task's form, the permit, or a missing model.
        """
        site = self._site
        task = Task.parse(raw)
        row = site.ledger.request_of(key, fingerprint)
        if row is None:
            raise Refused(
                "permit.missing", "this plan was not submitted by this account", "Submit it and wait for its approval"
            )
        job = task.key(row.id)
        if site.ledger.job(job) is None:
            intent = self._event(row, task, "intent")
            try:
                check_room(site.state, 2 * site.config.limits.megabytes)
                plan = PlanText.parse(row.plan)
                check_limits(plan, site.config)
                check_start(plan, task.kind, task.round, task.base)
                names = [member.name for member in site.consortium.member]
                check_members(plan, task.kind, task.members, site.config.name, names)
                if task.kind == "train" and row.signed_permit is not None:
                    key_under(site.state, plan, row.signed_permit)  # before the round is spent
                with self._files, self._lock:  # who reserves it, his intent is the one that the job's outcome answers
                    base_of(self._site, row, task)
                    known = site.ledger.reserve(job, row.id, task, site.now(), site.here, _cost(plan, row, task))
                    if known is None:
                        self._intents[job] = intent
            except Exception as error:
                code = error.code if isinstance(error, Refused) else f"error {type(error).__name__}"
                self._event(row, task, code, of=intent)
                raise
            if known is not None:  # another thread was faster; its intent has its own outcome
                self._event(row, task, "repeated", of=intent)
        return self._resume(job, row, task)

    def _event(
        self,
        row: RequestRow,
        task: Task,
        outcome: str,
        detail: Mapping[str, str | int | bool] = {},
        of: int | None = None,
    ) -> int:
        about: dict[str, str | int | bool] = {"protocol": task.protocol, "base": task.base}
        if task.members:
            about["members"] = " ".join(task.members)
        who, ids = (row.scientist, "scientist", task.kind, row.fingerprint), ids_of(row, task)
        return self._site.audit.event(*who, outcome=outcome, detail={**about, **detail}, of=of, **ids)

    def _resume(self, job: str, row: RequestRow, task: Task) -> dict[str, Any]:
        self._site.ledger.check_pause()
        with self._lock:
            known = self._site.ledger.job(job)
            if known is not None and known.status == "running" and job not in self._active:
                self._submit(job, row, task)
            running = self._active.get(job)
        if running is not None:
            try:
                running.result(timeout=ANSWER_S)
            except TimeoutError:
                return self._running(job)
        return self.answer(job)

    def answer(self, job: str) -> dict[str, Any]:
        """A job's answer now; looks the permit up again, so that a revoked one gives nothing.

        Raises:
            Refused: `job.missing`, or what the permit says now.
        """
        known = self._site.ledger.job(job)
        if known is None:
            raise Refused("job.missing", "there is no such job", "Start it with a call of the approved function")
        self.permit_of(known.request)
        if known.status == "running" and (trouble := self._troubled.get(job)) is not None:
            held = {"status": "held"} if trouble.code == "release.held" else {}
            return {**trouble.answer(), **held, "key": job}
        if known.status == "running":
            return self._running(job)
        return {**(known.answer or {}), "key": job}

    def _running(self, job: str) -> dict[str, Any]:
        """The answer before a job's end; `state` is queued while other jobs have the site's places."""
        active = self._active.get(job)
        return {"status": "running", "key": job, "state": "training" if active and active.running() else "queued"}

    async def wait(self, job: str, seconds: float) -> dict[str, Any]:
        """As `answer`, but wait up to `seconds` for the end; holds no thread."""
        with self._lock:
            running = self._active.get(job)
        if running is not None and seconds > 0:
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            running.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), seconds)
        return self.answer(job)

    def permit_of(self, request: str) -> Mapping[str, Any]:
        """The live permit of a request. Raises: Refused when there is none now, or the site is paused."""
        permit = self._live(request)
        self._site.ledger.check_pause()
        return permit

    def _live(self, request: str) -> Mapping[str, Any]:
        return self._site.ledger.live(request, self._site.now(), self._site.here)

    def stop(self, request: str) -> None:
        """End a request's running jobs, once the ledger says that it may not, and delete what has not left yet."""
        running = {job.key for job in self._site.ledger.running(request)}
        self._end(5.0, lambda job, future: job in running and future.running())
        self._site.blobs.drop_request(request)

    def stop_account(self, email: str) -> None:
        """As `stop`, for all requests of an account that has just been disabled."""
        for row in self._site.ledger.requests():
            if row.scientist == email:
                self.stop(row.id)

    def pause(self, seconds: float = 5.0) -> int:
        """End every running job, once the ledger says that the site is paused; `go_on` starts them again.

        Returns:
            How many jobs are still ending after `seconds`; 0 is the rule.
        """
        return self._end(seconds, lambda *_: True)

    def _end(self, seconds: float, which: Callable[[str, Future[None]], bool]) -> int:
        deadline = time.monotonic() + seconds
        while True:
            with self._lock:
                active = [job for job, future in self._active.items() if which(job, future)]
            if not active or time.monotonic() > deadline:
                return len(active)
            for job in active:  # again and again: one may just be on its way into the jail
                self._jail.kill(job)
            time.sleep(0.02)

    def go_on(self, request: str | None = None) -> int:
        """Start again what was running, of one request or of all; it was reserved once and is not reserved again."""
        with self._lock:
            jobs = [job for job in self._site.ledger.running(request) if job.key not in self._active]
            for job in jobs:
                row = self._site.ledger.request(job.request)
                if row is not None:
                    self._submit(job.key, row, job.task)
        return len(jobs)

    def recover(self) -> int:
        """After a restart: start again what was running; deterministic, reserved once, answered once, logged once."""
        for ended in self._site.ledger.requests():
            permit = ended.signed_permit
            if permit is not None and permit["consortium"] != self._site.consortium.hash:
                why = "the consortium's members, keys or catalogue have changed"
                ids = {"request": ended.id, "detail": reason_of(why)}
                with self._site.audit.act("site", "site", "revoke", ended.fingerprint, **ids):
                    self._site.ledger.decide(ended.id, "revoked", "site", self._site.now(), why)
        self.sweep()
        shutil.rmtree(self._site.state / "jobs", ignore_errors=True)
        running = {job.key for job in self._site.ledger.running()}
        for path in kept_noise(self._site.state, "").glob("*"):
            if path.name not in running:
                path.unlink()
        if running:
            for event in audit.read(self._site.audit.folder):
                if (job := event["detail"].get("job")) in running and event["outcome"] not in PASSING:
                    self._said[job] = _said(event["outcome"], event["detail"])
        return self.go_on()

    def sweep(self) -> None:
        """Delete from the data plane what no permit needs any more; at the start, at each task, and every hour."""
        with self._files:
            task_files.sweep(self._site)

    def close(self) -> None:
        """End every running job; each is found again at the next start."""
        for job in self._site.ledger.running():
            self._jail.kill(job.key)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, job: str, row: RequestRow, task: Task) -> None:
        """Give a job to the pool; the caller holds the lock."""
        self._troubled.pop(job, None)
        self._active[job] = self._pool.submit(self._run, job, row, task)

    # one job, in a thread of the pool

    def _run(self, job: str, row: RequestRow, task: Task) -> None:
        trouble = None
        try:
            self._to_its_end(job, row, task)
        except Refused as refusal:
            trouble = refusal
        finally:  # also when the outcome cannot be written: then the same task, sent again, runs again
            with self._lock:
                self._active.pop(job, None)
                if trouble is not None:
                    self._troubled[job] = trouble

    def _to_its_end(self, job: str, row: RequestRow, task: Task) -> None:
        """Do a job and write down how it ended, each once.

        Raises:
            Refused: trouble of the machine; the job has not ended.
        """
        site = self._site
        detail: dict[str, str | int | bool] = {"job": job}
        if job not in self._intents and job not in self._said:  # the site was started again
            self._intents[job] = self._event(row, task, "intent", {"again": True})
        try:
            answer = self._perform(job, row, task, detail)
            self._live(row.id)  # a pause keeps what is done inside: no answer and no byte leaves before its end
            status = "done"
        except Exception as error:
            if not isinstance(error, Refused):
                _log.exception("job %s", job)
            refusal = refusal_of(error)
            if "sha256" in detail:
                self._drop("out", str(detail["sha256"]), job, row, task)
            if refusal.code in PASSING:
                self._tell(job, row, task, refusal, detail)
                raise refusal from None
            answer, status = refusal.answer(), "refused"
        if not (status == "refused" and answer["code"] in ("jail.stopped", "permit.paused") and self._may_go_on(row)):
            outcome = "done" if status == "done" else answer["code"]
            if cost := site.ledger.spent(job=job):  # booked is spent, also where nothing left
                detail["cost"] = cost
            if self._said.get(job) != _said(outcome, detail):  # else a crash came between the log and the ledger
                self._event(row, task, outcome, detail, of=self._intents.get(job))
                self._said[job] = _said(outcome, detail)
                self._intents.pop(job, None)
            site.ledger.finish(job, status, answer, site.now())
            kept_noise(site.state, job).unlink(missing_ok=True)
            self._said.pop(job, None)
            if task.kind != "train" and status == "done":  # not before: a job that a crash repeats needs its model
                self._drop("in", task.base, job, row, task)

    def _tell(self, job: str, row: RequestRow, task: Task, trouble: Refused, detail: Mapping[str, Any]) -> None:
        """The outcome of a try that met trouble; the next one has an intent of its own.

        Where the log itself cannot be written the act stays open: of it the next try's outcome is the outcome.
        """
        if job in self._intents:
            with contextlib.suppress(Refused):
                self._event(row, task, trouble.code, detail, of=self._intents[job])
                del self._intents[job]

    def _drop(self, side: str, name: str, job: str, row: RequestRow, task: Task) -> None:
        with self._files:
            if name not in needed(self._site, row, task.run, job):
                self._site.blobs.drop(side, row.id, name)

    def _may_go_on(self, row: RequestRow) -> bool:
        """Whether a stopped job was stopped by the site's own end or a pause, so that it is repeated after it."""
        now = self._site.ledger.request(row.id)
        return now is not None and now.decision == "approved" and not self._site.ledger.disabled(row.key)

    def _perform(self, job: str, row: RequestRow, task: Task, detail: dict[str, Any]) -> dict[str, Any]:
        permit = self.permit_of(row.id)
        check_limits(PlanText.parse(row.plan), self._site.config)  # they may be newer than the job
        with self._files:
            forget_round(self._site, job, row, task)
        self.sweep()
        return one_job.perform(self._site, self._jail, job, row, task, permit, detail)


def _cost(plan: PlanText, row: RequestRow, task: Task) -> int:
    """What a task's release costs under the permit of now; one that ended is refused later."""
    if plan.protects.epsilon is None:
        return 0
    permit = row.signed_permit or {}
    return cost_of_task(plan, from_plan(plan.model), task.kind, task.round, permit.get("epsilon"))


def _said(outcome: str, detail: Mapping[str, Any]) -> str:
    """What an outcome in the log says, so that it is not said twice."""
    return f"{outcome} {detail.get('sha256', '')}"
