"""Secure sums at a site: masking its update for a member set, and refusing sets whose sums would tell a part.

Two sums of one statistic over sets that differ by one institution give that institution's part by subtraction. A round
may still be done again without a site that was lost: as long as nothing of the first try has left this site, the first
try is made void and can never leave.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fedrec.config.site import Limits
from fedrec.core.params import Array
from fedrec.errors import Refused
from fedrec.exchange.ckks_plan import encrypted, layout_of
from fedrec.exchange.plan import PlanText
from fedrec.exchange.recovery import locked
from fedrec.exchange.secure_sum import FEW, masked, to_ring
from fedrec.exchange.wire import canonical
from fedrec.models import GRADIENTS

if TYPE_CHECKING:
    from nacl.signing import SigningKey

    from fedrec.institution.outgoing import Protect
    from fedrec.institution.permit import Task

TABLE = """
CREATE TABLE IF NOT EXISTS sums (job TEXT PRIMARY KEY, context TEXT UNIQUE NOT NULL, statistic TEXT NOT NULL,
    members TEXT NOT NULL, state TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS sums_of_statistic ON sums (statistic);
CREATE TABLE IF NOT EXISTS agreed (job TEXT PRIMARY KEY, among TEXT NOT NULL);
"""


def check_members(plan: PlanText, kind: str, members: Sequence[str], own: str, consortium: Iterable[str]) -> None:
    """Refuse a task whose member set is not one of this plan.

    Args:
        consortium: all members' names, in their order.

    Raises:
        Refused: `sum.members`, `sum.few`.
    """
    if kind != "train":
        return
    if (plan.protects.sum == "plain") != (not members):
        raise Refused("sum.members", "a task names its members if its plan has a secure sum", "Use fedrec's driver")
    if not members:
        return
    known = [name for name in consortium if not plan.sites or name in plan.sites]
    if own not in members or [name for name in known if name in members] != list(members):
        reason = "the members are not institutions of this plan in the consortium's order, this one among them"
        raise Refused("sum.members", reason, "Use fedrec's driver")
    if len(members) < FEW and plan.protects.epsilon is None:
        reason = "for two institutions a sum protects nothing against each other"
        raise Refused("sum.few", reason, "Ask a third institution, or submit with epsilon")


def enter(db: sqlite3.Connection, job: str, task: Task, plan: str, data_version: str, caps: Limits) -> None:
    """Write down a masked update that is about to be made; the caller holds the transaction.

    Raises:
        Refused: `sum.used` when these masks were used before, `sum.members` when a sum that differs by too few
            institutions has begun to leave.
    """
    statistic = _statistic(PlanText.parse(plan), task, data_version)
    if db.execute("SELECT 1 FROM sums WHERE context=?", (context := _digest(context_of(plan, task)),)).fetchone():
        raise Refused("sum.used", "the masks of this round were used before", "Start a new run")
    _check_apart(db, statistic, task.members, caps.members_apart)
    db.execute("INSERT INTO sums VALUES (?,?,?,?,'held')", (job, context, statistic, json.dumps(task.members)))


def leave(db: sqlite3.Connection, job: str) -> None:
    """Let a masked update leave; the caller holds the transaction. Raises: Refused `sum.void`."""
    if db.execute("SELECT 1 FROM sums WHERE job=? AND state='void'", (job,)).fetchone():
        raise Refused("sum.void", "the round was done again with other institutions", "Use that answer")
    db.execute("UPDATE sums SET state='left' WHERE job=?", (job,))


def agree(db: sqlite3.Connection, job: str, among: Sequence[str], apart: int) -> list[str]:
    """The members whose sum a doubly masked update may be part of: the first that were named, whatever comes later.

    The caller holds the transaction.

    Args:
        among: those that are named now; none to be told what was agreed to, if anything.
        apart: institutions by which two sums of one statistic differ at least.

    Raises:
        Refused: `sum.void`, or `sum.members` as `enter`.
    """
    if found := db.execute("SELECT among FROM agreed WHERE job=?", (job,)).fetchone():
        return list(json.loads(found[0]))
    if not among:
        return []
    leave(db, job)
    ((statistic,),) = db.execute("SELECT statistic FROM sums WHERE job=?", (job,)).fetchall()
    _check_apart(db, statistic, among, apart, job)
    db.execute("INSERT INTO agreed VALUES (?,?)", (job, json.dumps(list(among))))
    return list(among)


def _check_apart(db: sqlite3.Connection, statistic: str, members: Sequence[str], apart: int, own: str = "") -> None:
    """Refuse a sum that differs too little from one that has begun to leave; one that has not can never leave then."""
    sql = (
        "SELECT sums.job, coalesce(among, members), state FROM sums LEFT JOIN agreed ON agreed.job = sums.job"
        " WHERE statistic=? AND sums.job<>?"
    )
    for other, names, state in db.execute(sql, (statistic, own)).fetchall():
        if not 0 < len(set(json.loads(names)) ^ set(members)) < apart or state == "void":
            continue
        if state == "left":
            reason = "a sum of the same statistic over nearly the same institutions has left; the difference would tell"
            raise Refused("sum.members", reason, "Finish it with the same institutions, or wait for new data")
        db.execute("UPDATE sums SET state='void' WHERE job=?", (other,))


def protection(
    name: str,
    key: SigningKey,
    pinned: Mapping[str, str],
    n_items: int,
    plan: PlanText,
    text: str,
    task: Task,
    shared: bytes | None = None,
) -> Protect | None:
    """What makes of this institution's update that which may leave; None where the plan has no secure sum.

    Args:
        name, key: the institution and its site's key.
        pinned: the members' public keys by name, hex.
        text: the plan's.
        shared: the institutions' key of encrypted sums.

    Raises:
        Refused: `ckks.key` where the plan needs that key and there is none.
    """
    if not task.members:
        return None
    secret = plan.protects.sum == "ckks"
    if secret and shared is None:
        reason = "this institution has no shared key for encrypted sums yet"
        raise Refused("ckks.key", reason, "Its owner takes it: fedrec site keys DIR --take FILE")

    def protect(tensors: Mapping[str, Array], rows: int, users: int) -> dict[str, Array]:
        ring = to_ring(plan, tensors, rows, users, len(task.members), n_items)
        if secret and shared is not None:
            layout = layout_of(plan, n_items, len(task.members))
            return encrypted(ring, shared, layout, context_of(text, task), name)
        mask = locked if plan.protects.recover else masked
        return mask(ring, name, key, {member: pinned[member] for member in task.members}, context_of(text, task))

    return protect


def context_of(plan: str, task: Task) -> bytes:
    """What a round's masks are for; the same at every member."""
    facts = {name: getattr(task, name) for name in ("kind", "run", "round", "protocol", "base", "nonce")}
    return canonical({**facts, "plan": _digest(plan.encode()), "members": list(task.members)})


def _statistic(plan: PlanText, task: Task, data_version: str) -> str:
    """What two sums are compared by: of one version of the data all statistics, own code too, and a model's gradients.

    What can do without a site, by its schedule or by recovering, needs other members in later rounds: then it is the
    gradients at one model.
    """
    name = str(plan.model["name"])
    if name not in GRADIENTS:
        return data_version
    return f"{data_version} {task.base if plan.schedule or plan.protects.recover else name}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
