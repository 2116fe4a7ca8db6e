"""One job under a permit, from the rows to what leaves: the jail, the guard, the passport."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fedrec.config import Limits
from fedrec.errors import DataError, Refused
from fedrec.exchange.passport import sign
from fedrec.exchange.plan import PlanText
from fedrec.exchange.wire import encode
from fedrec.institution.apart import check_apart, note_release
from fedrec.institution.held import check_held
from fedrec.institution.incoming import check_model, checked_made
from fedrec.institution.jail import Report
from fedrec.institution.ledger import RequestRow
from fedrec.institution.noised import noised, noised_sums, once, sharing
from fedrec.institution.outgoing import Protect, numbers_of, numbers_sha256, update_of
from fedrec.institution.permit import Task, stricter
from fedrec.institution.published import Published
from fedrec.institution.shared_key import key_under
from fedrec.institution.site import Site
from fedrec.institution.store import Store
from fedrec.institution.sums import check_members, protection
from fedrec.institution.task_files import (
    Runner,
    base_of,
    cut_log,
    facts_of,
    keep_base,
    kept_noise,
    private_of,
    rest_of,
    run_in_jail,
    scale_of,
    state_path,
)
from fedrec.institution.told import check_cells
from fedrec.institution.trouble import check_room
from fedrec.institution.uncompared import told
from fedrec.models import from_plan

MAX_LOG = 10**6  # bytes that stay of what a job printed


def perform(
    site: Site,
    jail: Runner,
    job: str,
    row: RequestRow,
    task: Task,
    permit: Mapping[str, Any],
    detail: dict[str, Any],
) -> dict[str, Any]:
    """Run a job in the jail and give its answer.

    Args:
        permit: the live one.
        detail: gets what the log says of it.

    Raises:
        Refused: `jail.level`, the permit's data are gone, the machine's trouble, the jail, or the guard.
    """
    plan, limits = PlanText.parse(row.plan), stricter(permit, site.config.limits)
    if jail.level < limits.jail_level:
        reason = f"the permit asks for a jail of level {limits.jail_level}, this site has {jail.level} now"
        raise Refused("jail.level", reason, "Ask the owner to approve again")
    try:
        store = Store.open(site.state, permit["data_version"])
    except DataError:
        raise Refused(
            "permit.data", "the permit is for data that is not here any more", "Ask for a new permit"
        ) from None
    exact = task.kind == "train" and plan.protects.epsilon is None
    if exact:
        check_apart(site, store)
        check_cells(plan, site.config.limits, store, task.protocol)
    if task.kind == "train":
        check_held(site, plan, row, permit, store)
    folder = site.state / "jobs" / job
    shutil.rmtree(folder, ignore_errors=True)
    check_room(site.state, site.config.limits.megabytes)
    folder.mkdir(mode=0o700, parents=True)
    try:
        if task.kind == "publish":
            check_model(plan, store.n_items, base_of(site, row, task).read_bytes())
        try:
            report = run_in_jail(site, jail, job, row, task, limits, store, folder)
        except Refused:
            check_room(site.state, site.config.limits.megabytes)  # else a full disk would pass for the plan's error
            raise
        detail.update(jail_level=jail.level, pid=report.pid, uid=report.uid)
        detail.update(ms=int(1000 * report.seconds), data_version=store.version)
        if exact:
            note_release(site, store)
        if task.kind == "train":
            return _release(site, job, row, task, permit, plan, limits, store, folder, report, detail)
        numbers, said = numbers_of(plan, store, report.body, scale_of(site.folder, plan))
        if task.kind == "evaluate" and plan.protects.epsilon is not None:
            cost = _booked(site, job)
            data = json.dumps(noised_sums(numbers, cost)).encode()
            numbers = json.loads(once(kept_noise(site.state, job), data))
            detail.update(sha256=numbers_sha256(numbers))
            keep_base(site, row, task)
            return {"status": "done", "numbers": numbers, "cost": cost}
        if task.kind == "evaluate":
            detail.update(sha256=said)
            keep_base(site, row, task)
        if task.kind == "publish":
            made = checked_made(plan, folder / "state", store.n_users, store.n_items)
            shared = base_of(site, row, task)
            Published(site.state).install(row, task, shared, made, store, permit["id"], site.now())
            if plan.protects.epsilon is None:  # else it would tell, in the scientist's own events
                detail.update(serves="own" if made.own else "shared", compared=made.ndcg is not None)
            return {"status": "done", "numbers": numbers, **told(plan, scale_of(site.folder, plan) is not None)}
        return {"status": "done", "numbers": numbers}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        cut_log(site, job, MAX_LOG)


def _protection(site: Site, plan: PlanText, row: RequestRow, task: Task) -> Protect | None:
    """What the plan's secure sum makes of an update. Raises: Refused as `check_members`, `key_under`, `protection`."""
    pinned = {member.name: member.key for member in site.consortium.member}
    check_members(plan, task.kind, task.members, site.config.name, pinned)
    shared = key_under(site.state, plan, row.signed_permit or {})
    own = (site.config.name, site.keys.site, pinned, site.store.n_items, plan, row.plan)
    return protection(*own, task, shared.key if shared else None)


def _booked(site: Site, job: str) -> int:
    """What was booked for a release with noise. Raises: Refused `ledger.epsilon` when nothing was."""
    if cost := site.ledger.spent(job=job):
        return cost
    raise Refused("ledger.epsilon", "nothing was booked for this release", "Send it as a new task")


def _release(
    site: Site,
    job: str,
    row: RequestRow,
    task: Task,
    permit: Mapping[str, Any],
    plan: PlanText,
    limits: Limits,
    store: Store,
    folder: Path,
    report: Report,
    detail: dict[str, Any],
) -> dict[str, Any]:
    """Guard the update, sign its passport, move it to where it may be fetched, keep the private state."""
    found = (folder / "update", report.body, base_of(site, row, task), rest_of(private_of(site, row, task)))
    cost, noise = 0, None
    if plan.protects.epsilon is not None:
        cost, bounds = _booked(site, job), from_plan(plan.model).sensitivity(task.round)  # type: ignore[attr-defined]
        noise = partial(noised, bounds=bounds, cost=cost, members=sharing(plan, task.members))
    update = update_of(plan, limits, store, task.protocol, *found, noise, _protection(site, plan, row, task))
    if noise is not None:
        update = replace(update, data=once(kept_noise(site.state, job), update.data))
    if update.thin_items is not None:
        detail["thin_items"] = update.thin_items
    if (folder / "state").stat().st_size > site.config.limits.state_mb * 10**6:
        most = f"{site.config.limits.state_mb} MB"
        raise Refused("guard.bytes", f"the private state is larger than {most}", "Keep less in the private state")
    name, size = update.sha256, len(update.data)
    (folder / "update").write_bytes(update.data)
    counts = {"sha256": name, "bytes": size, "rows": update.rows, "users": update.users}
    facts = facts_of(site, row, task, permit) | counts | {"measures": update.measures, "cost": cost}
    state = state_path(site, row, task)
    state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if update.rest is not None:
        (folder / "rest").write_bytes(encode(update.rest))
        os.replace(folder / "rest", rest_of(state))
    os.replace(folder / "state", state)
    keep_base(site, row, task)
    detail.update(**counts, guard="passed", **{f"measure {key}": value for key, value in update.measures.items()})
    site.blobs.release(row.id, folder / "update", name)
    return {"status": "done", "passport": sign(facts, site.keys.site)}
