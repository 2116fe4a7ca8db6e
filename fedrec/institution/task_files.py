"""What one task opens: the model it starts from, private parameters, log; and its way into the jail."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import fedrec
from fedrec.config import Limits, SchemaConfig
from fedrec.errors import Refused
from fedrec.exchange.plan import PlanText
from fedrec.institution.jail import JailLimits, Report
from fedrec.institution.ledger import JobRow, RequestRow
from fedrec.institution.perform import LIST_LENGTH
from fedrec.institution.permit import Task
from fedrec.institution.review import status_of
from fedrec.institution.site import Site
from fedrec.institution.store import Store
from fedrec.models import RATINGS

# how long a file may lie in the data plane, by its permit's status; docs/threat-model.md promises it. The hour is for a
# driver that crashed and asks for its last answer again.
HOURS = {"approved": 24, "used": 1}


class Runner(Protocol):
    """What jobs need of a jail."""

    level: int

    def run(self, job: str, spec: Mapping[str, Any], files: Mapping[str, int], limits: JailLimits) -> Report: ...

    def kill(self, job: str) -> None: ...


def run_in_jail(
    site: Site, jail: Runner, job: str, row: RequestRow, task: Task, limits: Limits, store: Store, folder: Path
) -> Report:
    """Open what the task may see, and run it within the limits.

    Raises:
        Refused: `task.base`, `task.round`, or what the jail says.
    """
    plan = PlanText.parse(row.plan)
    spec = {"plan": row.plan, "kind": task.kind, "protocol": task.protocol, "scale": scale_of(site.folder, plan)}
    before = private_of(site, row, task)
    lost = not before.exists() or (plan.packs is not None and not rest_of(before).exists())
    due = trained_before(site, row, task) if plan.schedule else task.round  # no schedule: every site in every round
    if task.kind == "train" and lost and due:
        raise Refused("task.round", "the round before was not trained at this site", "Start the run again from round 0")
    with ExitStack() as stack:
        files = {
            "rows": _open(stack, store.rows_path, os.O_RDONLY),
            "base": _open(stack, base_of(site, row, task), os.O_RDONLY),
            "update": _open(stack, folder / "update", os.O_RDWR | os.O_CREAT),
            "state": _open(stack, folder / "state", os.O_RDWR | os.O_CREAT),
        }
        files["log"] = _open(stack, log_of(site, job), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        files |= open_features(stack, plan, store)
        if before.exists():
            files["private"] = _open(stack, before, os.O_RDONLY)
        return jail.run(job, spec, files, bounds_of(limits, store.n_users))


def scale_of(folder: Path, plan: PlanText) -> tuple[float, float] | None:
    """The lowest and highest rating that the institution's schema allows, where the plan's model predicts ratings."""
    rating = SchemaConfig.load(folder / "schema.toml").rating if plan.model["name"] in RATINGS else None
    return None if rating is None else (rating.min, rating.max)


def bounds_of(limits: Limits, n_users: int) -> JailLimits:
    """The limits of one job; a file may be an update, a state or lists, and is looked at closer when it is written."""
    size = int(10**6 * max(limits.megabytes, limits.state_mb)) + 8 * LIST_LENGTH * n_users + 10**8
    return JailLimits(60 * limits.minutes, limits.memory_mb * 10**6, size, limits.tell_errors)


def open_features(stack: ExitStack, plan: PlanText, store: Store) -> dict[str, int]:
    """The files of the features that the plan names, of those that the store has."""
    paths = {of: store.features_path(of) for of in plan.features}
    return {of: _open(stack, path, os.O_RDONLY) for of, path in paths.items() if path.exists()}


def base_of(site: Site, row: RequestRow, task: Task) -> Path:
    """The model that a task starts from. Raises: Refused `task.base` when it has not been sent."""
    path = site.blobs.path("in", row.id, task.base)
    if not path.exists():
        raise Refused("task.base", "the model to start from has not been sent", "PUT it to /fedrec/v1/blobs first")
    return path


def needed(site: Site, row: RequestRow, run: str, key: str) -> set[str]:
    """SHA-256 of models and updates that other tasks of a request still need: two runs of a plan share them.

    Those are what running jobs start from, and what the last task of each other run started from and released,
    unless that was its evaluation.

    Args:
        run: the run that is served now.
        key: its job.
    """
    jobs = site.ledger.jobs_of(row.id)
    last = {job.task.run: job for job in jobs if job.task.run != run}
    open_ = [job for job in jobs if job.status == "running" and job.key != key]
    wanted = [*open_, *(job for job in last.values() if job.task.kind == "train")]
    return {name for job in wanted for name in (job.task.base, update_of(job)) if name}


def forget_round(site: Site, key: str, row: RequestRow, task: Task) -> None:
    """A new task of a run, the job `key`, ends the rounds before it: what no other run needs of them is deleted."""
    keep = needed(site, row, task.run, key)
    for job in site.ledger.jobs_of(row.id, task.run):
        if job.task.round < task.round or task.kind != "train":
            if (update := update_of(job)) and update not in keep:
                site.blobs.drop("out", row.id, update)
            if job.task.base not in keep | {task.base}:
                site.blobs.drop("in", row.id, job.task.base)
    drop_states(site, row, task)


def sweep(site: Site) -> None:
    """Delete from the data plane what nobody may fetch or start from any more, and what has lain there too long.

    All of a request without a permit goes, and the files of one that ended. What a running job starts from stays.
    """
    started = {(job.request, job.task.base) for job in site.ledger.running()}
    for request in site.blobs.requests():
        row = site.ledger.request(request)
        status = status_of(row, site.ledger.used(request), site.now()) if row else "denied"
        if status not in ("approved", "used", "expired"):
            site.blobs.drop_request(request)
        oldest = time.time() - 3600 * HOURS[status] if status in HOURS else math.inf
        for path in site.blobs.files(request):
            with contextlib.suppress(FileNotFoundError):  # a revocation deletes it at this moment
                if path.stat().st_mtime < oldest and (request, path.name) not in started:
                    path.unlink()


def update_of(job: JobRow) -> str:
    """SHA-256 of the update that a job released; empty when it released none."""
    return str((job.answer or {}).get("passport", {}).get("sha256", ""))


def keep_base(site: Site, row: RequestRow, task: Task) -> None:
    """Keep the model that a round started from, so that the round can be replayed; `versions.sweep` deletes it.

    A second name for the file that was sent: no copy is made.
    """
    kept = base_kept(site.state, row.id, task.base)
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        os.link(site.blobs.path("in", row.id, task.base), kept)


def base_kept(state: Path, request: str, base: str) -> Path:
    """Where the model of a past round lies, whether it exists or not."""
    return state / "bases" / request / base


def kept_noise(state: Path, job: str) -> Path:
    """Where the release of a job lies that has drawn its noise and has not ended; see `noised.once`."""
    return state / "noised" / job


def ids_of(row: RequestRow, task: Task | None) -> dict[str, Any]:
    """What every event about a task carries; None: of no task yet."""
    permit = row.signed_permit or {}
    where: dict[str, Any] = {} if task is None else {"run": task.run, "round": task.round}
    return {"purpose": str(permit.get("purpose", "")), "request": row.id, "permit": permit.get("id", ""), **where}


def facts_of(site: Site, row: RequestRow, task: Task, permit: Mapping[str, Any]) -> dict[str, Any]:
    """What an update's passport says about where it comes from."""
    return {
        "site": site.config.name,
        "run": task.run,
        "round": task.round,
        "kind": task.kind,
        "protocol": task.protocol,
        "base": task.base,
        "nonce": task.nonce,
        "request": row.id,
        "permit": permit["id"],
        "plan": row.fingerprint,
        "data_version": permit["data_version"],
        "fedrec": fedrec.__version__,
        "members": list(task.members),
        "shared_key": permit.get("shared_key", ""),
        "rehearsal": str(permit.get("rehearsal", "not measured: an older permit")),
    }


def state_path(site: Site, row: RequestRow, task: Task, number: int | None = None) -> Path:
    """Where the private parameters after a round lie; by request, so that two plans never share a run."""
    return site.state / "private" / row.id / task.run / f"{task.round if number is None else number}.safetensors"


def private_of(site: Site, row: RequestRow, task: Task) -> Path:
    """The private parameters that a task starts from: those of the round before, or of its own round after training.

    By a plan's schedule a site may leave rounds out: then it is the last round that it trained.
    """
    if task.kind != "train":
        return state_path(site, row, task)
    if not PlanText.parse(row.plan).schedule:
        return state_path(site, row, task, task.round - 1)
    return state_path(site, row, task, max(trained_before(site, row, task), default=task.round - 1))


def rest_of(state: Path) -> Path:
    """Where that lies which the plan's codec could not send in a round, beside the round's private parameters."""
    return state.with_suffix(".rest")


def trained_before(site: Site, row: RequestRow, task: Task) -> list[int]:
    """The earlier rounds of a run that this site has trained."""
    jobs = (job for job in site.ledger.jobs_of(row.id, task.run) if job.task.kind == "train" and job.status == "done")
    return [job.task.round for job in jobs if job.task.round < task.round]


def drop_states(site: Site, row: RequestRow, task: Task) -> None:
    """Delete the private parameters that lie before those which a task starts from."""
    start = private_of(site, row, task)
    for path in start.parent.glob("[0-9]*.*"):
        if int(path.stem) < int(start.stem):
            path.unlink(missing_ok=True)


def log_of(site: Site, job: str) -> Path:
    """Where the owner reads what a job printed or raised; empty ones are deleted."""
    (site.state / "log").mkdir(mode=0o700, exist_ok=True)
    return site.state / "log" / f"{job}.log"


def cut_log(site: Site, job: str, most: int) -> None:
    """Keep the first `most` bytes of what a job printed; an empty log goes."""
    log = log_of(site, job)
    if log.exists() and not log.stat().st_size:
        log.unlink()
    elif log.exists() and log.stat().st_size > most:
        os.truncate(log, most)


def _open(stack: ExitStack, path: Path, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    stack.callback(os.close, descriptor)
    return descriptor
