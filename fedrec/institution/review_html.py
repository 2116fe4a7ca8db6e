"""`review.details` as a page part for a notebook cell. Every text of the plan is escaped; nothing runs in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from fedrec.exchange.plan import PlanText
from fedrec.institution.facts import WORDS
from fedrec.institution.review_parts import Part, parts_of, place

_COLOURS = {"red": "#b00020", "amber": "#8a5a00", "green": "#1b6e2c"}
_DIFF = {"~": "#fff4d6", "-": "#fde3e3", "+": "#e2f4e4"}
_MONO = "font-family:monospace;white-space:pre-wrap;text-align:left;vertical-align:top;overflow-wrap:anywhere"


def html_of(shown: Mapping[str, Any]) -> str:
    """What `text_of` says, as HTML without scripts, styles from outside, links or pictures."""
    facts = shown["facts"]

    def body(part: Part) -> str:
        if part.kind == "facts":
            return _facts([*facts["plan"], *facts["code"]]) + _lines(part.lines[-1:])
        if part.kind == "diff" and shown["diff"] and shown["diff"]["rows"]:
            return _lines(part.lines[:1]) + _diff(shown["diff"])
        if part.kind == "code":
            return _code(PlanText.parse(shown["plan_text"]).own_code or "", facts["code"])
        return _lines(part.lines)

    return f"<div>{''.join(_title(part.title) + body(part) for part in parts_of(shown))}</div>"


def _title(text: str) -> str:
    return f"<h4>{escape(text)}</h4>" if text else ""


def _lines(lines: Iterable[str]) -> str:
    return f"<table>{''.join(_row([line], style=_MONO) for line in lines)}</table>"


def _row(cells: Iterable[object], tag: str = "td", style: str = "text-align:left") -> str:
    inside = "".join(f'<{tag} style="{style}">{escape(str(cell))}</{tag}>' for cell in cells)
    return f"<tr>{inside}</tr>"


def _facts(facts: list[Mapping[str, Any]]) -> str:
    if not facts:
        return "<p>nothing was found</p>"
    rows = []
    for level, colour in _COLOURS.items():
        for fact in (one for one in facts if one["level"] == level):
            cells = (level, WORDS[level], place(fact), fact["text"])
            rows.append(_row(cells, style=f"text-align:left;color:{colour}"))
    return f"<table>{''.join(rows)}</table>"


def _diff(diff: Mapping[str, Any]) -> str:
    rows = [_row(("", "approved before", "", "asked now"), "th")]
    for row in diff["rows"]:
        old, new = (
            "..." if row["mark"] == "." else "{} {}".format(*(row[side] or ("", ""))) for side in ("old", "new")
        )
        style = f"{_MONO};background:{_DIFF.get(row['mark'], 'none')}"
        rows.append(_row((row["mark"], old, row["mark"], new), style=style))
    return f"<table>{''.join(rows)}</table>"


def _code(code: str, facts: list[Mapping[str, Any]]) -> str:
    # by line, and there amber before red, so that red is what stays
    levels = {fact["line"]: fact["level"] for fact in facts if fact["level"] != "green"}
    rows = []
    for number, line in enumerate(code.splitlines(), 1):
        level = levels.get(number, "")
        style = f"{_MONO};color:{_COLOURS[level]}" if level else _MONO
        rows.append(_row((number, level, line), style=style))
    return f"<table>{''.join(rows)}</table>"
