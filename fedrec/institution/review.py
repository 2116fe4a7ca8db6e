"""What an owner reads about a request: computed from the plan and the ledger, the same in every place that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from fedrec.config.site import Limits
from fedrec.exchange.accountant import epsilon_of
from fedrec.exchange.budget import cost_of_plan, evaluations_of, report
from fedrec.exchange.plan import PlanText
from fedrec.institution.diff import plan_facts, two_columns
from fedrec.institution.facts import facts_of
from fedrec.institution.ledger import RequestRow
from fedrec.institution.limits import inside, ranges_of
from fedrec.institution.review_html import html_of
from fedrec.institution.review_parts import COUNTED, HITS, ROUNDED, parts_of, place
from fedrec.models import OUTCOMES, from_plan

if TYPE_CHECKING:
    from fedrec.institution.told import Told

__all__ = ["against_caps", "details", "html_of", "place", "status_of", "summary", "text_of"]


def status_of(row: RequestRow, used: Mapping[str, int], now: str) -> str:
    """waiting, approved, denied, revoked, expired or used.

    Args:
        used: tasks of each kind that the request has reserved.
        now: RFC 3339 with Z.
    """
    permit = row.signed_permit
    if row.decision != "approved":
        return row.decision
    if permit is None or now >= permit["not_after"]:
        return "expired"
    return "used" if all(used.get(kind, 0) >= count for kind, count in permit["tasks"].items()) else "approved"


def summary(row: RequestRow, used: Mapping[str, int], now: str) -> dict[str, Any]:
    """One request as `fedrec requests list` and the scientist's own list show it."""
    permit = row.signed_permit
    return {
        "id": row.id,
        "plan": row.name,
        "scientist": row.scientist,
        "status": status_of(row, used, now),
        "fingerprint": row.fingerprint,
        "permit": permit,
        "submitted_at": row.submitted_at,
        "reason": row.reason,
        "decided_by": row.decided_by,
        "decided_at": row.decided_at,
    }


def details(
    row: RequestRow,
    used: Mapping[str, int],
    now: str,
    n_items: int,
    limits: Limits,
    before: RequestRow | None,
    institutions: int = 1,
    spent: int = 0,
    told: Told | None = None,
    rehearsal: str = "",
) -> dict[str, Any]:
    """One request as `fedrec requests show` has it: plan, what leaves, what is asked, what to look at, what changed.

    Args:
        limits: the site's own.
        before: what `diff.approved_before` found, None for the first plan of its family.
        institutions: members of the consortium.
        spent: what noisy releases have cost at this site so far.
        told: what the update tells, tried on the site's rows; None where it was not tried.
        rehearsal: the same on the mock, as the permit has it or will have it.
    """
    plan = PlanText.parse(row.plan)
    old = None if before is None else PlanText.parse(before.plan)
    leaves = [
        {
            "name": name,
            "dtype": tensor.dtype,
            "shape": list(tensor.sized(n_items)),
            "bytes": tensor.nbytes(n_items),
            "norm": tensor.norm,
        }
        for name, tensor in plan.leaves.items()
    ]
    permit = summary(row, used, now)["permit"]
    learnt = _learnt(plan, limits, len(plan.sites) or institutions, spent, permit, told)
    facts = {
        "train_tasks": plan.train_tasks,
        "bytes": plan.travels(n_items),
        "codec": ROUNDED.get(str(plan.codec.get("name")), ""),
        "rounds": plan.rounds,
        "rows": list(plan.train),
        "measures": list(plan.measures),
        "evaluate": plan.evaluate,
        "sums": COUNTED if plan.model["name"] in OUTCOMES else HITS,
        "validate": plan.validate,
        "publish": plan.publish,
        "days": plan.days,
        "own_code": plan.own_code is not None,
        "used": dict(used),
        "noise": plan.protects.epsilon is not None,
        "learnt": [*learnt, *wrap(rehearsal, 100)],
        "code": [fact.as_dict() for fact in (facts_of(plan.own_code) if plan.own_code else [])],
        "plan": [fact.as_dict() for fact in plan_facts(plan, old)],
    }
    diff = None
    if before is not None:
        diff = {"with": before.id, "decided_at": before.decided_at, "rows": two_columns(before.plan, row.plan)}
    shown = {"plan_text": row.plan, "leaves": leaves, "facts": facts, "diff": diff}
    return {**summary(row, used, now), **shown, "limits": against_caps(plan, limits, n_items)}


def _learnt(
    plan: PlanText,
    limits: Limits,
    institutions: int,
    spent: int,
    permit: Mapping[str, Any] | None,
    told: Told | None,
) -> list[str]:
    """What could be learnt about one customer, in plain words."""
    tried = [] if told is None else told.lines(summed=plan.protects.sum != "plain")
    if plan.protects.epsilon is None:
        lines = [
            "this plan adds no noise: there is no differential-privacy promise,",
            "and sums over few users can tell something about them",
        ]
        return lines + tried
    epsilon = permit.get("epsilon") if permit else None
    lines = report(plan, from_plan(plan.model), institutions, epsilon)
    after = epsilon_of(spent + cost_of_plan(plan, epsilon), limits.delta)
    most = "no limit of its own" if limits.epsilon_limit is None else f"epsilon {limits.epsilon_limit:g} in all"
    return [
        *lines,
        f"all plans together have spent epsilon {epsilon_of(spent, limits.delta):.3g} here; with all of this one it is",
        f"{after:.3g} at most (delta {limits.delta:g}); this site allows {most}",
        *tried,
    ]


def against_caps(plan: PlanText, limits: Limits, n_items: int) -> list[dict[str, Any]]:
    """What the plan asks against what the site allows; `verdict` is within, cut, above, or "" for the site's own."""
    size = plan.travels(n_items) / 10**6
    name, own = str(plan.model["name"]), plan.own_code is not None
    evaluations = evaluations_of(plan)

    def line(what: str, asked: object, cap: object, verdict: str) -> dict[str, Any]:
        return {"what": what, "asked": str(asked), "cap": str(cap), "verdict": verdict}

    def most(what: str, asked: float, cap: float, over: str) -> dict[str, Any]:
        return line(what, f"{asked:g}", f"{cap:g}", "within" if asked <= cap else over)

    def may(what: str, asked: bool, allowed: bool) -> dict[str, Any]:
        verdict = "within" if allowed or not asked else "above"
        return line(what, "yes" if asked else "no", "allowed" if allowed else "not allowed", verdict)

    use = limits.purposes and plan.use not in limits.purposes
    spans = []
    for key, (low, high) in ranges_of(plan, limits).items():
        value = plan.model.get(key.partition(".")[2], "-")
        spans.append(line(key, value, f"{low:g} to {high:g}", "within" if inside(value, low, high) else "above"))
    any_model = not limits.models or name in limits.models
    return [
        most("train tasks", plan.train_tasks, limits.train, "above"),
        most("evaluate tasks", evaluations, limits.evaluate, "cut"),
        most("days", plan.days, limits.days, "cut"),
        most("megabytes an update", size, limits.megabytes, "above"),
        line("model", name, ", ".join(limits.models) or "any", "within" if any_model else "above"),
        line("use", plan.use or "-", ", ".join(limits.purposes) or "any", "above" if use else "within"),
        *spans,
        may("own code", own, limits.own_code),
        may("publish", plan.publish, limits.publish),
        *_epsilon_line(plan, limits),
        line("users behind a row", "-", f"at least {limits.min_users_per_row}", ""),
        line("hours of the day, UTC", "-", limits.hours, ""),
        line("minutes a job", "-", f"{limits.minutes:g}", ""),
        line("memory of a job", "-", f"{limits.memory_mb} MB", ""),
        line("what a run keeps", "-", f"{limits.state_mb} MB", ""),
    ]


def _epsilon_line(plan: PlanText, limits: Limits) -> list[dict[str, Any]]:
    asked, most = plan.protects.epsilon, limits.epsilon_limit
    if asked is None and most is None:
        return []
    above = most is not None and (asked is None or epsilon_of(cost_of_plan(plan), limits.delta) > most)
    said = {"asked": "none" if asked is None else f"{asked:g}", "cap": "any" if most is None else f"{most:g}"}
    return [{"what": "epsilon", **said, "verdict": "above" if above else "within"}]


def text_of(shown: Mapping[str, Any]) -> str:
    """`details` as plain text."""
    return "\n\n".join("\n".join([part.title, *part.lines] if part.title else part.lines) for part in parts_of(shown))
