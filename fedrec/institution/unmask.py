"""Ending a doubly masked sum at an institution: it signs whose sum it is to be, once, and then tells what comes off it.

Both under the permit, as an act of its own in the log; see fedrec/exchange/recovery.py for what is told and why.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from fedrec.errors import Refused
from fedrec.exchange.plan import PlanText
from fedrec.exchange.recovery import agreement, check_among, told
from fedrec.exchange.wire import canonical, sha256
from fedrec.institution.decrypt import answered, asked_of
from fedrec.institution.ledger import Account
from fedrec.institution.site import Site
from fedrec.institution.sums import context_of
from fedrec.institution.task_files import ids_of


def unmask(site: Site, by: Account, request: str, update: str, wish: str) -> str:
    """Sign the set of members that is to be summed, or tell this institution's shares of the masks that come off.

    Args:
        request: whose live permit the call names.
        update: SHA-256 of this site's own masked update: its task says plan, run, round and members.
        wish: SHA-256 of the JSON that was sent: {among} to be signed; {among, signatures, rows} to be told; {among: []}
            to hear what was signed.

    Returns:
        SHA-256 of the answer, a blob that may leave: {among, signature}, {told} or {among}. A site that has signed a
        set before answers with that one, whatever it is asked to sign.

    Raises:
        Refused: `update.gone`, `sum.void`, `sum.members`, `sum.unmask`.
    """
    row, job, path = asked_of(site, request, update, wish)
    task, plan, own = job.task, PlanText.parse(row.plan), site.config.name
    with site.audit.act(by.email, by.role, "unmask", update, **ids_of(row, task)) as facts:
        if not plan.protects.recover:
            reason = "this plan's sums are over all members of a round"
            raise Refused("sum.unmask", reason, 'Submit with Privacy("secure", recover=True)')
        asked = _read(path)
        pinned = {member.name: member.key for member in site.consortium.member if member.name in task.members}
        context, signatures = context_of(row.plan, task), asked.get("signatures")
        look = not asked["among"] and signatures is None
        if not look:
            check_among(asked["among"], pinned, own, signatures, context)
        among = site.ledger.agree(job.key, asked["among"], site.config.limits.members_apart)
        step = "look" if look else "sign" if signatures is None else "tell"
        facts.update(members=" ".join(task.members), among=" ".join(among), step=step)
        if look:
            said: dict[str, Any] = {"among": among}
        elif signatures is None:
            said = {"among": among, "signature": agreement(among, context, site.keys.site)}
        elif among != asked["among"] or list(asked["rows"]) != among:
            raise Refused("sum.unmask", "this institution has signed another set", "Resume the run")
        else:
            said = {"told": told(asked["rows"], site.keys.site, pinned, context)}
        data = canonical(said)
        facts.update(answered(site, request, path, data))
    return sha256(data)


def _read(path: Path) -> dict[str, Any]:
    try:
        asked = json.loads(path.read_bytes())
        among, more = asked["among"], set(asked) - {"among"}
        whole = type(among) is list and all(type(name) is str for name in among)
        if more and (more != {"signatures", "rows"} or {type(asked[name]) for name in more} != {dict}):
            raise ValueError
        if not whole or not all(type(text) is str for name in more for text in asked[name].values()):
            raise ValueError
        rows = {name: base64.b64decode(text, validate=True) for name, text in asked.get("rows", {}).items()}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused("sum.unmask", "this is no wish to end a sum", "Use fedrec's driver") from None
    return {**asked, "rows": {name: rows[name] for name in among if name in rows}} if more else asked
