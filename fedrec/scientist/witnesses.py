"""Carrying the checkpoints of the institutions' audit logs from one to another, as each keeps the others'."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedrec.exchange import signing
from fedrec.exchange.wire import sha256

if TYPE_CHECKING:
    from fedrec.scientist.syft_client import SyftSite

_log = logging.getLogger("fedrec")


@dataclass(frozen=True, slots=True)
class Carried:
    """The checkpoints that go to every site in one round, as they stood at its start, so that each proof fits."""

    run: str
    checkpoints: dict[str, dict[str, Any]]


def exchange(name: str, site: SyftSite, carried: Carried) -> dict[str, Any]:
    """Bring a site the other institutions' newest checkpoints; returns its own, with a proof, for them.

    Raises:
        Refused: the site takes none.
    """
    own = carried.checkpoints.get(name)
    others = [held for other, held in carried.checkpoints.items() if other != name]
    body = {"run": carried.run, "since": own["checkpoint"]["size"] if own else 0, "checkpoints": others}
    data, target = json.dumps(body).encode(), "/fedrec/v1/checkpoints"
    signed = signing.headers(site.key, "PUT", target, site.uid, body=sha256(data))
    reply = site.line.call("PUT", target, data, signed)
    if reply.status != 200:
        raise reply.refusal()
    answer = json.loads(reply.body)
    for other in answer["clashes"]:
        _log.warning("%s says that the audit log of %s is not the one it saw before", name, other)
    return {part: answer[part] for part in ("checkpoint", "from", "proof")}
