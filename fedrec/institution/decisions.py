"""The owner's decisions on requests, in the one order that a crash cannot hurt.

audit intent → permit `pending` → PySyft's own status → permit `live` → audit outcome; a permit that is still
pending after a crash is void (contracts.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from fedrec.errors import Refused
from fedrec.exchange.budget import cost_of_plan
from fedrec.exchange.passport import sign
from fedrec.exchange.plan import PlanText, fingerprint
from fedrec.institution.acts import reason_of
from fedrec.institution.held import let_go
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import Account, RequestRow
from fedrec.institution.limits import check_limits, ranges_of
from fedrec.institution.permit import make
from fedrec.institution.rehearsed import rehearsed
from fedrec.institution.shared_key import named
from fedrec.institution.site import Site
from fedrec.institution.spent import check_left
from fedrec.institution.told import check_cells

_SAYS = ("data_version", "not_before", "not_after", "hours")  # of a permit, in the event of its approval


class Decisions:
    """Submissions and decisions of one site.

    Args:
        jobs: told at once when a permit ends, so that running jobs end and nothing unreleased is left.
    """

    def __init__(self, site: Site, jobs: Jobs) -> None:
        self._site, self._jobs = site, jobs
        self._approving = threading.Lock()  # so that a live permit is the one whose approval was recorded

    def check_submission(self, account: Account, plan_text: str, plan: PlanText) -> None:
        """Raises: Refused for a plan above the site's limits, or one that this account sent before."""
        check_limits(plan, self._site.config, self._site.store.n_items)
        self._check_cells(plan)
        if self._site.ledger.request_of(account.key, fingerprint(plan_text)) is not None:
            raise Refused(
                "request.exists", "this very plan was submitted before", "Use that request, or change the plan"
            )

    def _check_cells(self, plan: PlanText) -> None:
        for protocol in plan.train:
            check_cells(plan, self._site.config.limits, self._site.store, protocol)

    def submitted(self, account: Account, plan_text: str, plan: PlanText, request: str, code: str) -> None:
        """Record a request that PySyft has taken."""
        self._site.ledger.add_request(
            RequestRow(
                id=request,
                code=code,
                fingerprint=fingerprint(plan_text),
                name=plan.name,
                scientist=account.email,
                key=account.key,
                plan=plan_text,
                submitted_at=self._site.now(),
                decision="waiting",
                reason="",
                decided_by="",
                decided_at="",
                permit=None,
                permit_state="none",
            )
        )

    def approve(self, by: Account, request: str, limits: Mapping[str, Any], apply: Callable[[], bool]) -> None:
        """Approve a request within the approver's limits.

        Args:
            limits: rounds, until, hours, epsilon, reason; all optional.
            apply: tells PySyft; False when PySyft says no.

        Raises:
            Refused: `permit.missing`, `gate.self`, `permit.limit`, a limit of the site, `ledger.epsilon` or
                `site.error`.
        """
        site, row = self._site, self._row(request)
        if by.email == row.scientist or by.key == row.key:
            raise Refused("gate.self", "nobody approves a request of his own", "Ask another owner or reviewer")
        plan = PlanText.parse(row.plan)
        check_limits(plan, site.config, site.store.n_items)
        self._check_cells(plan)
        facts = make(
            plan,
            request=row.id,
            fingerprint=row.fingerprint,
            scientist=row.scientist,
            scientist_key=row.key,
            site=site.config.name,
            data_version=site.store.version,
            consortium=site.consortium.hash,
            approver=by.email,
            approver_key=by.key,
            now=site.clock(),
            limits=limits,
            caps=site.config.limits,
            ranges=ranges_of(plan, site.config.limits),
            shared_key=named(site.state, plan),
            rehearsal=rehearsed(plan, site.folder, site.store.version),
        )
        if (cost := cost_of_plan(plan, facts["epsilon"]) - site.ledger.spent(row.id)) > 0:
            check_left(site.ledger.spent(), cost, site.config.limits)
        permit = sign(facts, site.keys.site)
        why = str(limits.get("reason") or "")
        says = {"scientist": row.scientist, **{key: permit[key] for key in _SAYS}, **permit["tasks"], **reason_of(why)}
        ids = {"request": row.id, "permit": permit["id"], "detail": says}
        with self._approving, site.audit.act(by.email, by.role, "approve", row.fingerprint, **ids):
            site.ledger.permit_pending(row.id, permit)
            if not apply():
                raise Refused("site.error", "PySyft did not take the approval", "Approve again")
            site.ledger.decide(row.id, "approved", by.email, site.now(), why)

    def undo(self, by: Account, request: str, reason: str, apply: Callable[[], bool]) -> None:
        """Deny a waiting request or revoke an approved one: acts at once, whatever PySyft answers.

        Raises:
            Refused: `permit.missing`, or `request.reason` when none is given.
        """
        site, row = self._site, self._row(request)
        if not reason.strip():
            raise Refused("request.reason", "a denial needs a reason", "Say why")
        act, decision = ("revoke", "revoked") if row.decision in ("approved", "revoked") else ("deny", "denied")
        with site.audit.act(by.email, by.role, act, row.fingerprint, request=row.id, detail=reason_of(reason)):
            site.ledger.decide(row.id, decision, by.email, site.now(), reason)
            self._jobs.stop(row.id)
            if not apply():
                raise Refused(
                    "site.error", "PySyft did not take the decision; the site did", "Nothing runs; tell the owner"
                )

    def release(self, by: Account, request: str, reason: str) -> int:
        """Let go what the leak gate holds; the jobs that waited for it go on. Returns how many.

        Raises:
            Refused: `permit.missing`, `gate.self`, what the permit says now, or `release.none` when nothing is held.
        """
        site, row = self._site, self._row(request)
        if by.email == row.scientist or by.key == row.key:
            raise Refused("gate.self", "nobody lets an update of his own plan go", "Ask another owner or reviewer")
        self._jobs.permit_of(row.id)
        ids = {"request": row.id, "detail": reason_of(reason)}
        with site.audit.act(by.email, by.role, "release", row.fingerprint, **ids) as facts:
            facts.update(let_go(site, row, by.email))
            facts["again"] = self._jobs.go_on(row.id)
            return int(facts["again"])

    def pause(self, by: str, role: str, reason: str) -> int:
        """Stop everything at once: no call, no job and no byte until `resume`; running jobs end within five seconds.

        Returns:
            How many jobs did not end in time; what they make cannot leave either.
        """
        site = self._site
        with site.audit.act(by, role, "pause", site.config.name, detail=reason_of(reason)) as facts:
            site.ledger.pause(reason, site.now())
            facts["still_running"] = self._jobs.pause()
            return int(facts["still_running"])

    def resume(self, by: str, role: str) -> int:
        """End the pause; jobs that it stopped begin again under what they reserved. Returns how many.

        Raises:
            Refused: `permit.running` when the site is not paused.
        """
        site = self._site
        with site.audit.act(by, role, "resume", site.config.name) as facts:
            if not site.ledger.resume():
                raise Refused("permit.running", "the site is not paused", "There is nothing to resume")
            facts["again"] = self._jobs.go_on()
            return int(facts["again"])

    def _row(self, request: str) -> RequestRow:
        row = self._site.ledger.request(request)
        if row is None:
            raise Refused("permit.missing", "there is no such request", "List the requests")
        return row
