"""A plan beside the one that was approved before it, line for line, and what changed in a few words."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedrec import models
from fedrec.errors import FedrecError
from fedrec.exchange.plan import PlanText
from fedrec.institution.facts import AMBER, RED, Fact
from fedrec.institution.ledger import RequestRow
from fedrec.institution.lookalikes import look_alikes

NEAR = 2  # unchanged lines shown around a change
_MARKS = {"equal": " ", "replace": "~", "delete": "-", "insert": "+"}


def approved_before(row: RequestRow, rows: Sequence[RequestRow]) -> RequestRow | None:
    """The plan of the family (same scientist, same name) that was approved last before this request came."""
    family = [
        one
        for one in rows
        if (one.key, one.name, one.decision) == (row.key, row.name, "approved")
        and one.id != row.id
        and (one.submitted_at, one.id) < (row.submitted_at, row.id)
    ]
    return max(family, key=lambda one: one.decided_at, default=None)


def two_columns(old: str, new: str) -> list[dict[str, Any]]:
    """Rows of a two-column diff.

    Returns:
        {"mark", "old", "new"} for each line: mark is "~" changed, "-" gone, "+" new, " " the same or
        "." lines left out; old and new are [number from 1, text] or None.
    """
    left, right = old.strip("\n").split("\n"), new.strip("\n").split("\n")
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    found: list[dict[str, Any]] = []
    for number, group in enumerate(matcher.get_grouped_opcodes(NEAR)):
        if number or group[0][1] or group[0][3]:
            found.append({"mark": ".", "old": None, "new": None})
        for kind, first, last, begin, end in group:
            for step in range(max(last - first, end - begin)):
                a = [first + step + 1, left[first + step]] if first + step < last else None
                b = [begin + step + 1, right[begin + step]] if begin + step < end else None
                mark = _MARKS[kind] if a and b else "-" if a else "+"
                found.append({"mark": mark, "old": a, "new": b})
    return found


def text_of_diff(rows: Sequence[Mapping[str, Any]], width: int = 58) -> list[str]:
    """The two columns as lines of text; long lines are wrapped, never cut."""
    lines = [f"    {'approved before':{width}}     {'asked now'}"]
    for row in rows:
        if row["mark"] == ".":
            lines.append("  ...")
            continue
        pairs = [_cell(row["old"], width), _cell(row["new"], width)]
        for step in range(max(map(len, pairs))):
            a, b = (cell[step] if step < len(cell) else "" for cell in pairs)
            lines.append(f"  {row['mark'] if not step else ' '} {a:{width}} | {b}".rstrip())
    return lines


def _cell(side: list[Any] | None, width: int) -> list[str]:
    if side is None:
        return [""]
    parts = textwrap.wrap(side[1], width - 5, drop_whitespace=False, replace_whitespace=False, break_on_hyphens=False)
    return [f"{side[0] if not step else '':>4} {part}" for step, part in enumerate(parts or [""])]


def plan_facts(plan: PlanText, before: PlanText | None) -> list[Fact]:
    """What to look at in the plan itself, outside its code: look-alikes, foreign arrays, and every changed term."""
    found = [Fact(0, RED, "look-alike", f"the purpose {reason}") for _, reason in look_alikes(plan.purpose)]
    for key, value in plan.model.items():
        if key != "code":
            found += [Fact(0, RED, "look-alike", f"{key}: {reason}") for _, reason in look_alikes(str(value))]
    if plan.own_code is None:
        found += _foreign(plan)
    if before is not None:
        found += [Fact(0, AMBER, "changed", text) for text in changes(before, plan)]
    return found


def changes(before: PlanText, plan: PlanText) -> Iterator[str]:
    """Every term of the plan that differs from the one approved before, in words."""
    for title, was, now in _terms(before, plan):
        for key in [*was, *(key for key in now if key not in was)]:
            name = f"{title}.{key}" if title else key
            if key not in now:
                yield f"{name} is gone; it was {was[key]!s}"
            elif key not in was:
                yield f"{name} is new: {now[key]!s}"
            elif (type(was[key]), was[key]) != (type(now[key]), now[key]):
                yield f"{name} was {was[key]!s}, is {now[key]!s}"
    if (old := before.own_code or "") != (new := plan.own_code or ""):
        lines = [line for line in difflib.ndiff(old.split("\n"), new.split("\n")) if line[0] in "+-"]
        yield f"the code differs in {len(lines)} lines"


def _terms(before: PlanText, plan: PlanText) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    yield "", _top(before), _top(plan)
    yield "leaves", dict(before.leaves), dict(plan.leaves)
    for title in ("aggregator", "local", "schedule", "stop", "search", "codec", "privacy"):
        yield title, dict(getattr(before, title)), dict(getattr(plan, title))
    yield "model", _settings(before), _settings(plan)


def _top(plan: PlanText) -> dict[str, Any]:
    names = "purpose use fedrec seed start train rounds runs evaluate validate publish days sites"
    return {name: getattr(plan, name) for name in names.split()}


def _settings(plan: PlanText) -> dict[str, Any]:
    return {key: value for key, value in plan.model.items() if key != "code"}


def _foreign(plan: PlanText) -> Iterator[Fact]:
    """Arrays that the recipe does not have."""
    try:
        own, local = models.from_plan(plan.model).leaves(), models.LocalEpochs.from_table(plan.local)
        own = local.leaves(own) if local else own
    except (FedrecError, TypeError, ValueError) as error:
        yield Fact(0, RED, "recipe", f"this fedrec cannot make the recipe: {error}")
        return
    for name, tensor in plan.leaves.items():
        if own.get(name) != str(replace(tensor, norm=None)):
            yield Fact(0, RED, "extra", f"the recipe {plan.model['name']} does not send {name}: {tensor}")
