"""What the scientist's centre says of an update of this site that it left out of a round: his word, for the owner."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from fedrec.errors import Refused
from fedrec.institution.ledger import Account
from fedrec.institution.site import Site

_CODE = re.compile(r"[a-z0-9]{1,20}\.[a-z0-9]{1,20}")
_log = logging.getLogger("fedrec.site")


def left_out(site: Site, by: Account, body: bytes) -> dict[str, bool]:
    """Note it in the audit log and warn the owner.

    Args:
        body: JSON {plan, run, round, code}: a round that this site trained for this account, and why it was left out.

    Raises:
        Refused: `task.form`, or `job.missing` for a round that was not trained.
    """
    try:
        said = json.loads(body)
        plan, run, number, code = said["plan"], said["run"], said["round"], said["code"]
        if not (type(plan) is type(run) is str and type(number) is int and _CODE.fullmatch(code)):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused("task.form", "this names no update that was left out", "Check fedrec's version") from None
    row = site.ledger.request_of(by.key, plan)
    jobs = site.ledger.jobs_of(row.id, run) if row else []
    if row is None or not any((job.task.kind, job.task.round) == ("train", number) for job in jobs):
        raise Refused("job.missing", "there is no such round of this account", "Name one that was trained here")
    ids: dict[str, Any] = {"request": row.id, "run": run, "round": number}
    site.audit.event(by.email, by.role, "left-out", plan, outcome="done", detail={"code": code}, **ids)
    _log.warning("the centre left out the update of round %d of %s: %s", number, run, code)
    return {"noted": True}
