"""Calls in the audit log: every answer has its event before it leaves, every refusal has one too."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from starlette.requests import Request

from fedrec.errors import Refused
from fedrec.institution.audit import AuditLog
from fedrec.institution.gate import Gate
from fedrec.institution.ledger import Account

_log = logging.getLogger("fedrec.site")


@dataclass(slots=True)
class _Crowd:
    """Calls of strangers that no event counts yet, the newest of them, and when the last event was written."""

    count: int = 0
    items: int = 0  # that were recommended
    what: str = ""
    outcome: str = ""
    at: float = 0.0


class Noted:
    """Notes calls: of accounts each; of strangers, and of applications, one event a second that counts them.

    So nobody fills the disk.
    """

    def __init__(self, gate: Gate, audit: AuditLog) -> None:
        self._gate, self._audit = gate, audit
        self._refused, self._answered, self._given = _Crowd(), _Crowd(), _Crowd()
        self._lock = threading.Lock()

    def done(self, by: Account, what: str, outcome: str = "done", request: str = "", **detail: str | int) -> None:
        """Note a call that gives something and changes nothing, before its answer leaves.

        Raises:
            Refused: `audit.write`; the answer must not leave then.
        """
        self._audit.event(by.email, by.role, "call", what, outcome=outcome, request=request, detail=detail)

    def answered(self, what: str) -> None:
        """Note an answer that anybody may have. Raises: Refused `audit.write`."""
        self._count(self._answered, what, "done")

    def given(self, items: int) -> None:
        """Note that an application got so many items for one user: counts, and no id. Raises: Refused `audit.write`."""
        self._count(self._given, "POST recommend", "done", items)

    def away(self, request: Request, account: Account | None, what: str, refusal: Refused, size: int = 0) -> Refused:
        """Note a refusal; a stranger's counts against his address, and becomes `gate.rate` when there are too many.

        Args:
            size: bytes that the site read of the stranger's body.
        """
        try:
            if account is not None:
                self.done(account, what, refusal.code)
                return refusal
            try:
                self._gate.stranger(address_of(request), size)
            except Refused as rate:
                refusal = rate
            self._count(self._refused, what, refusal.code)
        except Refused as full:  # nothing was done, so the refusal may be said
            _log.error("a refusal could not be noted: %s", full)
        return refusal

    def stray(self, outcome: str) -> None:
        """Note a call of a route that does not exist."""
        try:
            self._count(self._refused, "unknown", outcome)
        except Refused as full:
            _log.error("a refusal could not be noted: %s", full)

    def flush(self) -> None:
        """Note the strangers that no event counts yet; when the site ends."""
        for crowd in (self._refused, self._answered, self._given):
            if crowd.count:
                self._write(crowd)

    def _count(self, crowd: _Crowd, what: str, outcome: str, items: int = 0) -> None:
        with self._lock:
            crowd.items += items
            crowd.count, crowd.what, crowd.outcome = crowd.count + 1, what, outcome
            if time.monotonic() - crowd.at >= 1.0:
                self._write(crowd)

    def _write(self, crowd: _Crowd) -> None:
        who, detail = ("anonymous", "none"), dict[str, str | int]()
        if crowd is self._given:
            who, detail = ("application", "application"), {"users": crowd.count, "items": crowd.items}
        else:
            detail = {"answered" if crowd is self._answered else "refused": crowd.count}
        self._audit.event(*who, "call", crowd.what, outcome=crowd.outcome, detail=detail)
        crowd.count, crowd.items, crowd.at = 0, 0, time.monotonic()


def address_of(request: Request) -> str:
    """Where a call came from; behind a proxy, what the proxy says."""
    return request.client.host if request.client else ""
