"""What an owner reads about a request: computed from the plan and the ledger, the same in every place that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrec.exchange.plan import PlanText
from fedrec.institution.ledger import RequestRow


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


def details(row: RequestRow, used: Mapping[str, int], now: str, n_items: int) -> dict[str, Any]:
    """One request as `fedrec requests show` has it: plan, what leaves, what is asked, what was used."""
    plan = PlanText.parse(row.plan)
    leaves = [
        {"name": name, "dtype": tensor.dtype, "shape": list(tensor.sized(n_items)), "bytes": tensor.nbytes(n_items)}
        for name, tensor in plan.leaves.items()
    ]
    facts = {
        "train_tasks": plan.train_tasks,
        "rounds": plan.rounds,
        "rows": list(plan.train),
        "evaluate": plan.evaluate,
        "publish": plan.publish,
        "days": plan.days,
        "own_code": plan.own_code is not None,
        "used": dict(used),
    }
    return {**summary(row, used, now), "plan_text": row.plan, "leaves": leaves, "facts": facts, "diff": None}


def text_of(shown: Mapping[str, Any]) -> str:
    """`details` for a person who does not read Python; own code is shown as Python with line numbers."""
    plan, facts = PlanText.parse(shown["plan_text"]), shown["facts"]
    status = f"{shown['status']}: {shown['reason']}" if shown["reason"] else shown["status"]
    head = [
        f"request     {shown['id']}  ({status})",
        f"plan        {shown['plan']}  fingerprint {shown['fingerprint']}",
        f"scientist   {shown['scientist']}, submitted {shown['submitted_at']}",
        f"purpose     {plan.purpose}",
    ]
    learnt = [
        "  this plan adds no noise: there is no differential-privacy promise,",
        "  and sums over few users can tell something about them",
    ]
    parts = [head, ["What will leave", *_leaving(shown)], ["What could be learnt about one customer", *learnt]]
    parts.append(["What runs", *_running(plan)])
    if plan.own_code:
        lines = enumerate(plan.own_code.splitlines(), 1)
        parts.append(
            [f"The scientist's own code, class {plan.model['class']}", *(f"{n:4d}  {line}" for n, line in lines)]
        )
    if shown["permit"]:
        parts.append(_permitted(shown["permit"], facts["used"]))
    return "\n\n".join("\n".join(part) for part in parts)


def _leaving(shown: Mapping[str, Any]) -> list[str]:
    facts = shown["facts"]
    total = sum(leaf["bytes"] for leaf in shown["leaves"])
    lines = [
        f"  {leaf['name']}: {leaf['dtype']} {' x '.join(map(str, leaf['shape']))}, {leaf['bytes']:,} bytes"
        for leaf in shown["leaves"]
    ]
    lines.append(
        f"  {total:,} bytes a round, {facts['train_tasks']} rounds in all, on the rows {', '.join(facts['rows'])}"
    )
    lines.append("  with each update: how many rows and users stand behind it")
    if facts["evaluate"]:
        lines.append("  after the last round of a run: hit counts, as sums over users")
    return [*lines, "  not: rows, ids, user vectors, recommendations"]


def _running(plan: PlanText) -> list[str]:
    what = "the scientist's own code, below, in the jail" if plan.own_code else f"the recipe {plan.model['name']}"
    settings = [f"  {key} = {value!r}" for key, value in plan.model.items() if key not in ("name", "code", "class")]
    install = "the merged model is installed here (publish)" if plan.publish else "no model is installed here"
    return [
        f"  {what}, fedrec {plan.fedrec}",
        *settings,
        f"  the centre merges with {plan.aggregator['name']}",
        f"  {install}",
    ]


def _permitted(permit: Mapping[str, Any], used: Mapping[str, int]) -> list[str]:
    tasks = ", ".join(f"{count} {kind}" for kind, count in permit["tasks"].items())
    so_far = ", ".join(f"{count} {kind}" for kind, count in used.items()) or "nothing"
    return [
        f"Permit {permit['id']}",
        f"  by {permit['approver']} on {permit['approved_at']}: {tasks}",
        f"  until {permit['not_after']}, hours {permit['hours']} UTC; used so far: {so_far}",
    ]
