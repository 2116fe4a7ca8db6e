"""`review.details` as a page part for a notebook cell. Every text of the plan is escaped; nothing runs in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from fedrec.exchange.plan import PlanText
from fedrec.institution.facts import WORDS

_COLOURS = {"red": "#b00020", "amber": "#8a5a00", "green": "#1b6e2c"}
_DIFF = {"~": "#fff4d6", "-": "#fde3e3", "+": "#e2f4e4"}
_VERDICTS = {"within": "within", "cut": "will be cut", "above": "ABOVE THE LIMIT, refused", "": "the site's own"}
_MONO = "font-family:monospace;white-space:pre-wrap;text-align:left;vertical-align:top;overflow-wrap:anywhere"


def html_of(shown: Mapping[str, Any]) -> str:
    """What `text_of` says, as HTML without scripts, styles from outside, links or pictures."""
    plan, facts = PlanText.parse(shown["plan_text"]), shown["facts"]
    status = f"{shown['status']}: {shown['reason']}" if shown["reason"] else shown["status"]
    head = [
        ("request", f"{shown['id']} ({status})"),
        ("plan", f"{shown['plan']}, fingerprint {shown['fingerprint']}"),
        ("scientist", f"{shown['scientist']}, submitted {shown['submitted_at']}"),
        ("purpose", plan.purpose),
    ]
    leaves = [
        (leaf["name"], leaf["dtype"], " x ".join(map(str, leaf["shape"])), f"{leaf['bytes']:,}", leaf["norm"] or "any")
        for leaf in shown["leaves"]
    ]
    rounds = f"{facts['train_tasks']} train tasks in all, on the rows {', '.join(facts['rows'])}"
    sums = f"; {facts['sums']}" if facts["evaluate"] else ""
    if facts["validate"]:
        sums += f"; of {facts['validate']} models a run, on validation rows, {facts['sums']}"
    sums += "".join(f"; beside each update the number {name}" for name in facts["measures"])
    sums += f"; {facts['codec']}, {facts['bytes']:,} bytes" if facts["codec"] else ""
    parts = [
        _table(head),
        _title("What will leave"),
        _table(leaves, ("array", "dtype", "shape", "bytes a round", "L2 norm at most")),
        f"<p>{escape(rounds + sums)}. Not: rows, ids, user vectors, recommendations.</p>",
        _title("Asked, and what this site allows"),
        _table(
            [(one["what"], one["asked"], one["cap"], _VERDICTS[one["verdict"]]) for one in shown["limits"]],
            ("", "asked", "allowed", ""),
        ),
        _title("What to look at"),
        _facts([*facts["plan"], *facts["code"]]),
        _title("Against the last approved plan of the family"),
        _diff(shown["diff"]),
    ]
    if plan.own_code:
        parts += [_title(f"The scientist's own code, class {plan.model['class']}"), _code(plan.own_code, facts["code"])]
    return f"<div>{''.join(parts)}</div>"


def _title(text: str) -> str:
    return f"<h4>{escape(text)}</h4>"


def _row(cells: Iterable[object], tag: str = "td", style: str = "text-align:left") -> str:
    inside = "".join(f'<{tag} style="{style}">{escape(str(cell))}</{tag}>' for cell in cells)
    return f"<tr>{inside}</tr>"


def _table(rows: Iterable[Iterable[object]], head: Iterable[str] = ()) -> str:
    top = _row(head, "th") if head else ""
    return f"<table>{top}{''.join(_row(row) for row in rows)}</table>"


def _facts(facts: list[Mapping[str, Any]]) -> str:
    if not facts:
        return "<p>nothing was found</p>"
    rows = []
    for level, colour in _COLOURS.items():
        for fact in (one for one in facts if one["level"] == level):
            where = f"line {fact['line']}" if fact["line"] else "the plan"
            rows.append(
                _row((f"{level}: {WORDS[level]}", where, fact["text"]), style=f"text-align:left;color:{colour}")
            )
    return f"<table>{''.join(rows)}</table>"


def _diff(diff: Mapping[str, Any] | None) -> str:
    if diff is None:
        return "<p>first plan of its family</p>"
    rows = [_row(("", f"approved {diff['decided_at']}", "", "asked now"), "th")]
    for row in diff["rows"]:
        old, new = (
            "..." if row["mark"] == "." else "{} {}".format(*(row[side] or ("", ""))) for side in ("old", "new")
        )
        style = f"{_MONO};background:{_DIFF.get(row['mark'], 'none')}"
        rows.append(_row((row["mark"], old, row["mark"], new), style=style))
    return f"<table>{''.join(rows)}</table>" if diff["rows"] else "<p>the same text</p>"


def _code(code: str, facts: list[Mapping[str, Any]]) -> str:
    # by line, and there amber before red, so that red is what stays
    levels = {fact["line"]: fact["level"] for fact in facts if fact["level"] != "green"}
    rows = []
    for number, line in enumerate(code.splitlines(), 1):
        level = levels.get(number, "")
        style = f"{_MONO};color:{_COLOURS[level]}" if level else _MONO
        rows.append(_row((number, level, line), style=style))
    return f"<table>{''.join(rows)}</table>"
