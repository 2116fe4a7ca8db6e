"""What an owner reads about a request: computed from the plan and the ledger, the same in every place that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrec.config.site import Limits
from fedrec.exchange.plan import PlanText
from fedrec.institution.diff import plan_facts, text_of_diff, two_columns
from fedrec.institution.facts import AMBER, GREEN, RED, WORDS, facts_of
from fedrec.institution.ledger import RequestRow
from fedrec.institution.limits import inside, ranges_of
from fedrec.institution.permit import evaluations_of
from fedrec.institution.review_html import html_of
from fedrec.models import OUTCOMES

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
    row: RequestRow, used: Mapping[str, int], now: str, n_items: int, limits: Limits, before: RequestRow | None
) -> dict[str, Any]:
    """One request as `fedrec requests show` has it: plan, what leaves, what is asked, what to look at, what changed.

    Args:
        limits: the site's own.
        before: what `diff.approved_before` found, None for the first plan of its family.
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
        "code": [fact.as_dict() for fact in (facts_of(plan.own_code) if plan.own_code else [])],
        "plan": [fact.as_dict() for fact in plan_facts(plan, old)],
    }
    diff = None
    if before is not None:
        diff = {"with": before.id, "decided_at": before.decided_at, "rows": two_columns(before.plan, row.plan)}
    shown = {"plan_text": row.plan, "leaves": leaves, "facts": facts, "diff": diff}
    return {**summary(row, used, now), **shown, "limits": against_caps(plan, limits, n_items)}


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
        line("users behind a row", "-", f"at least {limits.min_users_per_row}", ""),
        line("hours of the day, UTC", "-", limits.hours, ""),
        line("minutes a job", "-", f"{limits.minutes:g}", ""),
        line("memory of a job", "-", f"{limits.memory_mb} MB", ""),
    ]


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
    parts.append(["Asked, and what this site allows", *_asked(shown["limits"])])
    parts.append(["What to look at", *_looked(facts)])
    parts.append(["Against the last approved plan of the family", *_changed(shown["diff"])])
    if plan.own_code:
        flagged = {fact["line"]: "!" for fact in facts["code"] if fact["level"] != GREEN}
        lines = enumerate(plan.own_code.splitlines(), 1)
        title = f"The scientist's own code, class {plan.model['class']} (! = see above)"
        parts.append([title, *(f"{flagged.get(n, ' ')}{n:4d}  {line}" for n, line in lines)])
    if shown["permit"]:
        parts.append(_permitted(shown["permit"], facts["used"]))
    return "\n\n".join("\n".join(part) for part in parts)


HITS = "hit counts, as sums over users"
COUNTED = "counts of yes and no in 100 bins of the predicted probability, and two sums over rows"
MEASURES = {
    "data-quality": "the score of this site's data",
    "model-quality": "how well the model trained here finds validation rows (mean NDCG@10)",
    "global-quality": "how well the model that came finds validation rows (mean NDCG@10)",
}


ROUNDED = {
    "float16": "rounded to float16 before it leaves, 11 bits of each number",
    "int8": "rounded to whole numbers from -127 to 127 times one scale a row before it leaves",
}


def _leaving(shown: Mapping[str, Any]) -> list[str]:
    facts = shown["facts"]
    lines = [
        f"  {leaf['name']}: {leaf['dtype']} {' x '.join(map(str, leaf['shape']))}, {leaf['bytes']:,} bytes"
        + ("" if leaf["norm"] is None else f", L2 norm at most {leaf['norm']:g}")
        for leaf in shown["leaves"]
    ]
    lines.append(
        f"  {facts['bytes']:,} bytes a round, {facts['train_tasks']} rounds in all, "
        f"on the rows {', '.join(facts['rows'])}"
    )
    if facts["codec"]:
        lines.append(f"  {facts['codec']}; what rounding loses stays here until the next round")
    beside = "".join(f", {MEASURES[name]}" for name in facts["measures"])
    lines.append(f"  with each update: how many rows and users stand behind it{beside}")
    if facts["evaluate"]:
        lines.append(f"  after the last round of a run: {facts['sums']}")
    if facts["validate"]:
        lines.append(f"  and of {facts['validate']} models a run, on validation rows: {facts['sums']}")
    return [*lines, "  not: rows, ids, user vectors, recommendations"]


def _running(plan: PlanText) -> list[str]:
    what = "the scientist's own code, below, in the jail" if plan.own_code else f"the recipe {plan.model['name']}"
    settings = [f"  {key} = {value!r}" for key, value in plan.model.items() if key not in ("name", "code", "class")]
    install = "the merged model is installed here (publish)" if plan.publish else "no model is installed here"
    return [
        f"  {what}, fedrec {plan.fedrec}",
        *settings,
        *([f"  reads the features of {' and '.join(plan.features)} that columns names"] if plan.features else []),
        *(f"  local {key} = {value!r}" for key, value in plan.local.items()),
        f"  the centre merges with {plan.aggregator['name']}",
        *(f"  the centre tries {key} = {value!r} on what was merged" for key, value in plan.search.items()),
        *([f"  starts from the model {plan.start}"] if plan.start else []),
        *([f"  with the institutions {', '.join(plan.sites)}"] if plan.sites else []),
        f"  {install}",
    ]


def _asked(limits: Sequence[Mapping[str, str]]) -> list[str]:
    words = {"within": "", "cut": "  will be cut", "above": "  ABOVE THE LIMIT, refused", "": "  the site's own"}
    return [f"  {one['what']:20} {one['asked']:>10}   of {one['cap']}{words[one['verdict']]}" for one in limits]


def _looked(facts: Mapping[str, Any]) -> list[str]:
    found = [*facts["plan"], *facts["code"]]
    if not facts["own_code"]:
        end = "  the code is a recipe of the installed fedrec: there is no code of the scientist's to read"
    else:
        end = "  read from the text; it cannot say what numbers mean: rows could hide in an array that may leave"
    lines = [
        f"  {fact['level']:5}  {WORDS[fact['level']]:12} {place(fact):9} {fact['text']}"
        for level in (RED, AMBER, GREEN)
        for fact in found
        if fact["level"] == level
    ]
    return [*(lines or ["  nothing was found"]), end]


def place(fact: Mapping[str, Any]) -> str:
    """Where a fact stands: a line of the code, or the plan."""
    return f"line {fact['line']}" if fact["line"] else "the plan"


def _changed(diff: Mapping[str, Any] | None) -> list[str]:
    if diff is None:
        return ["  first plan of its family"]
    said = f"  request {diff['with'][:8]}, approved {diff['decided_at']}"
    return [said, *text_of_diff(diff["rows"])] if diff["rows"] else [said, "  the same text"]


def _permitted(permit: Mapping[str, Any], used: Mapping[str, int]) -> list[str]:
    tasks = ", ".join(f"{count} {kind}" for kind, count in permit["tasks"].items())
    so_far = ", ".join(f"{count} {kind}" for kind, count in used.items()) or "nothing"
    return [
        f"Permit {permit['id']}",
        f"  by {permit['approver']} on {permit['approved_at']}: {tasks}",
        f"  until {permit['not_after']}, hours {permit['hours']} UTC; used so far: {so_far}",
    ]
