"""Decrypting a round's sum at an institution: one of its members, under the permit, as an act of its own in the log."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from fedrec.errors import Refused
from fedrec.exchange.ckks_plan import decrypted, layout_of
from fedrec.exchange.plan import PlanText
from fedrec.exchange.wire import decode, encode, sha256
from fedrec.institution.ledger import Account, JobRow, RequestRow
from fedrec.institution.shared_key import SharedKey
from fedrec.institution.site import Site
from fedrec.institution.sums import context_of
from fedrec.institution.task_files import ids_of, update_of

KEPT_S = 600.0  # how long an answer may be fetched


def decrypt_sum(site: Site, by: Account, request: str, update: str, total: str) -> str:
    """Decrypt a sum with an update of this site in it, which was sent as a blob, and put it where it may be fetched.

    Args:
        request: whose live permit the call names.
        update: SHA-256 of this site's own encrypted update: its task says plan, run, round and members.
        total: SHA-256 of what the centre made of all members' updates.

    Returns:
        SHA-256 of the decrypted sum, a blob that may leave.

    Raises:
        Refused: `update.gone`, `sum.void`, `ckks.key`, or as `ckks_plan.decrypted` for anything but the whole sum.
    """
    row, job, path = asked_of(site, request, update, total)
    task, plan, shared = job.task, PlanText.parse(row.plan), SharedKey.load(site.state)
    with site.audit.act(by.email, by.role, "decrypt", total, **ids_of(row, task)) as facts:
        if shared is None or plan.protects.sum != "ckks":
            raise Refused("ckks.key", "there is no key for this sum here", "Submit a plan with an encrypted sum")
        facts["members"] = " ".join(task.members)
        site.ledger.leaves(job.key)
        layout = layout_of(plan, site.store.n_items, len(task.members))
        context = context_of(row.plan, task)
        data = encode(decrypted(decode(path.read_bytes()), shared.key, layout, context, task.members))
        facts.update(answered(site, request, path, data))
    return sha256(data)


def asked_of(site: Site, request: str, update: str, sent: str) -> tuple[RequestRow, JobRow, Path]:
    """What a question about a masked or encrypted update is about: its request, its task, the blob that says it.

    Raises:
        Refused: `update.gone`.
    """
    row = site.ledger.request(request)
    job = next((job for job in site.ledger.jobs_of(request) if job.task.members and update_of(job) == update), None)
    path = site.blobs.path("in", request, sent)
    if row is None or job is None or not path.exists():
        raise Refused("update.gone", "there is no such update, or no such blob was sent", "Train the round again")
    return row, job, path


def answered(site: Site, request: str, question: Path, data: bytes) -> dict[str, int | str]:
    """Put an answer where it may be fetched, in place of the question; what the log says of it."""
    question.unlink(missing_ok=True)
    _drop_old(site, request)
    with tempfile.NamedTemporaryFile(dir=question.parent, prefix=".part-", delete=False) as file:
        file.write(data)
    site.blobs.release(request, Path(file.name), sha256(data))
    return {"bytes": len(data), "sha256": sha256(data)}


def _drop_old(site: Site, request: str) -> None:
    """Delete answers that were fetched long ago; what else lies there are updates of tasks."""
    updates = {update_of(job) for job in site.ledger.jobs_of(request)}
    for path in site.blobs.path("out", request, "").iterdir():
        if path.name not in updates and path.stat().st_mtime < time.time() - KEPT_S:
            path.unlink(missing_ok=True)
