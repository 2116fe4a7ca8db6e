"""The parts of what an owner reads about a request, in order: text and page are both made of this list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrec.exchange.plan import PlanText
from fedrec.institution.diff import text_of_diff
from fedrec.institution.facts import AMBER, GREEN, RED, WORDS
from fedrec.models.features import ANY


@dataclass(frozen=True, slots=True)
class Part:
    """One part.

    Args:
        title: empty for the first.
        kind: facts, diff or code where the page has colours or columns for the lines; else empty.
    """

    title: str
    lines: Sequence[str]
    kind: str = ""


def parts_of(shown: Mapping[str, Any]) -> list[Part]:
    """`review.details` for a person who does not read Python; own code is shown as Python with line numbers."""
    plan, facts = PlanText.parse(shown["plan_text"]), shown["facts"]
    status = f"{shown['status']}: {shown['reason']}" if shown["reason"] else shown["status"]
    head = [
        f"request     {shown['id']}  ({status})",
        f"plan        {shown['plan']}  fingerprint {shown['fingerprint']}",
        f"scientist   {shown['scientist']}, submitted {shown['submitted_at']}",
        f"purpose     {plan.purpose}",
    ]
    if shown.get("held"):
        head.append(f"HELD        {shown['held']}")
    seen = [*SEEN[plan.protects.sum], *(RECOVER if plan.protects.recover else ())]
    learnt = [*seen, *(f"  {line}" for line in facts["learnt"])]
    parts = [
        Part("", head),
        Part("What will leave", _leaving(shown)),
        Part("What could be learnt about one customer", learnt),
        Part("What runs", _running(plan)),
        Part("Asked, and what this site allows", _asked(shown["limits"])),
        Part("What to look at", _looked(facts), "facts"),
        Part("Against the last approved plan of the family", _changed(shown["diff"]), "diff"),
    ]
    if plan.own_code:
        flagged = {fact["line"]: "!" for fact in facts["code"] if fact["level"] != GREEN}
        lines = [f"{flagged.get(n, ' ')}{n:4d}  {line}" for n, line in enumerate(plan.own_code.splitlines(), 1)]
        parts.append(Part(f"The scientist's own code, class {plan.model['class']} (! = see above)", lines, "code"))
    if shown["permit"]:
        parts.append(Part(f"Permit {shown['permit']['id']}", _permitted(shown["permit"], facts["used"])))
    return parts


SEEN = {
    "plain": ["  the centre sees this institution's update as it is"],
    "secure": [
        "  secure sum: the update leaves masked, and the centre sees only the sum over the members of each round,",
        "  at least three; only all other members together could take their own parts off that sum",
    ],
    "ckks": ["  the update leaves encrypted; the centre adds ciphertexts, and an institution decrypts the sum"],
}
RECOVER = (
    "  if institutions are lost, more than two thirds of the members sign who is left, and the sum is over those; as",
    "  many of them, together with the centre, could open the others' updates",
)
HITS = "hit counts, as sums over users"
COUNTED = "counts of yes and no in 100 bins of the predicted probability, and two sums over rows"
MEASURES = {
    "data-quality": "the score of this site's data",
    "model-quality": "how good the model trained here is on validation rows (NDCG@10, AUC, or 1 - RMSE / scale)",
    "global-quality": "how good the model that came is on validation rows (NDCG@10, AUC, or 1 - RMSE / scale)",
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
    if facts["noise"]:
        lines.append("  with noise on every number; how many rows and users stand behind an update does not leave")
    elif PlanText.parse(shown["plan_text"]).protects.sum != "plain":
        lines.append("  how many rows and users stand behind an update does not leave, but in the sum")
    else:
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
        *_found(plan.model),
        *(f"  local {key} = {value!r}" for key, value in plan.local.items()),
        f"  the centre merges with {plan.aggregator['name']}",
        *(f"  the centre tries {key} = {value!r} on what was merged" for key, value in plan.search.items()),
        *([f"  starts from the model {plan.start}"] if plan.start else []),
        *([f"  with the institutions {', '.join(plan.sites)}"] if plan.sites else []),
        f"  {install}",
    ]


def _found(model: Mapping[str, Any]) -> list[str]:
    """Of a plan that finds the texts of features: that they leave."""
    names = [name.removesuffix(ANY) for name in model.get("columns", ()) if name.endswith(ANY)]
    if not names:
        return []
    least = model.get("least", 10)
    return [f"  the texts of {', '.join(names)} leave as they are written, those that at least {least} users have"]


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
    epsilon = permit.get("epsilon")
    return [
        *([f"  epsilon {epsilon:g} in all its releases, delta {permit['delta']:g}"] if epsilon else []),
        f"  by {permit['approver']} on {permit['approved_at']}: {tasks}",
        f"  until {permit['not_after']}, hours {permit['hours']} UTC; used so far: {so_far}",
    ]
