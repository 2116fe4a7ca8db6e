"""What this site keeps of the other institutions' checkpoints, so that none can later tell another history.

The driver of a run carries each institution's newest checkpoint to the others, once a round; each is signed, so the
driver can hold one back but not make one up. What is kept is an event of this site's own log, which its own next
checkpoint covers: that is the countersignature. A proof that a checkpoint continues the one before is not signed;
without a good one the checkpoint is kept as unproved, and `fedrec audit verify --witness` decides.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

from fedrec.errors import Refused
from fedrec.exchange import merkle
from fedrec.exchange.passport import signed_by
from fedrec.institution.audit import read
from fedrec.institution.ledger import Account
from fedrec.institution.permit import RUN
from fedrec.institution.site import Site
from fedrec.institution.verify import KIND, SIGNED

MAX_BODY = 10**6  # bytes of one exchange
MAX_PROOF = 64  # nodes
_TYPES = dict.fromkeys((*SIGNED, "signature"), str) | {"size": int}
_log = logging.getLogger("fedrec.site")


class Witness:
    """Takes the other members' checkpoints, and gives this site's own."""

    def __init__(self, site: Site) -> None:
        self._site, self._lock = site, threading.Lock()
        self._keys = {member.name: member.key for member in site.consortium.member if member.name != site.config.name}
        self._roots: dict[tuple[str, int], str] = {}
        self._newest: dict[str, dict[str, Any]] = {}
        for event in read(site.audit.folder, "witness"):
            self._keep(event["detail"], event["outcome"])

    def exchange(self, by: Account, body: bytes) -> dict[str, Any]:
        """Keep what is new, and answer {checkpoint, proof, from, clashes}.

        Args:
            body: JSON {run, since, checkpoints: [{checkpoint, from, proof}]}; `since` is the size of this site's
                checkpoint that the driver has already, 0 for none: the proof begins there.

        Raises:
            Refused: `audit.form`, or `audit.checkpoint` for one that no other member signed.
        """
        try:
            given = json.loads(body)
            run, since = given["run"], given["since"]
            carried = [(one["checkpoint"], one["from"], one["proof"]) for one in given["checkpoints"]]
            numbers = [since, *(start for _, start, _ in carried)]
            proofs = [[bytes.fromhex(part) for part in proof] for _, _, proof in carried]
            whole = all(type(number) is int for number in numbers) and all(len(proof) <= MAX_PROOF for proof in proofs)
            if not whole or not RUN.fullmatch(run) or len(carried) > len(self._keys):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Refused("audit.form", "this is not an exchange of checkpoints", "Check fedrec's version") from None
        known = [self._check(facts) for facts, _, _ in carried]
        with self._lock:
            clashes = [
                facts["name"]
                for (facts, start, _), proof, mine in zip(carried, proofs, known, strict=True)
                if mine and self._take(by, run, facts, start, proof) == "clash"
            ]
            own = self._site.audit.checkpoint()
        proof = self._site.audit.proof(since, own["size"]) if 0 < since <= own["size"] else None
        start = 0 if proof is None else since
        return {"checkpoint": own, "from": start, "proof": [part.hex() for part in proof or ()], "clashes": clashes}

    def _check(self, facts: object) -> bool:
        """Refuse what its member has not signed; False where this site's consortium.toml pins no key for the name."""
        if isinstance(facts, dict) and {name: type(value) for name, value in facts.items()} == _TYPES:
            key = self._keys.get(facts["name"])
            if not key:
                return False
            if (facts["key"], facts["kind"]) == (key, KIND) and signed_by(facts, key):
                return True
        reason = "a checkpoint is not signed with the pinned key of its institution"
        raise Refused("audit.checkpoint", reason, "Check consortium.toml")

    def _take(self, by: Account, run: str, facts: dict[str, Any], start: int, proof: list[bytes]) -> str:
        """Compare one with what was kept, and keep it when it is new; returns the event's outcome, "" for none."""
        name, size, root = facts["name"], facts["size"], facts["root"]
        newest = self._newest.get(name)
        if self._roots.get((name, size)) == root:
            return ""
        proved = False
        if (name, size) in self._roots:
            outcome = "clash"  # two histories, both signed by the site
        elif newest is not None and size < newest["size"]:
            # signed later, and shorter: the site's log went back; signed before: late, or back-dated
            outcome = "clash" if facts["time"] > newest["time"] else "late"
        else:
            outcome = "done"
            if newest is not None and start == newest["size"]:
                old, new = bytes.fromhex(newest["root"]), bytes.fromhex(root)
                proved = merkle.extends(start, size, old, new, proof)
        detail = {**facts, "proved": proved}
        self._site.audit.event(by.email, by.role, "witness", name, outcome=outcome, run=run, detail=detail)
        self._keep(detail, outcome)
        if outcome == "clash":
            _log.error("the audit log of %s is not the one that was seen here before, at %d events", name, size)
        return outcome

    def _keep(self, facts: dict[str, Any], outcome: str) -> None:
        self._roots.setdefault((facts["name"], facts["size"]), facts["root"])
        if outcome == "done":
            self._newest[facts["name"]] = facts
