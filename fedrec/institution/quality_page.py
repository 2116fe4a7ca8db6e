"""The report on an institution's data as one HTML file for its owner: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 2rem auto; max-width: 60rem;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; vertical-align: top; }
th { font-weight: 600; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; } figcaption { font-size: .9rem; color: #444; }
.score { font-size: 2.2rem; font-weight: 600; }
"""
_WORDS = {
    "complete": "cells that are not empty",
    "valid": "rows that were not rejected",
    "consistent": "rows that no other row contradicts",
    "supported": "kept rows of users with at least 5",
    "even": "kept rows that are not of outlier users",
}


def page(title: str, report: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        title: the institution's.
        report: of the intake, as `IntakeReport.as_dict` and the store hold it.
    """
    found = report["quality"]
    diversity, drift = found["diversity"], found["drift"]
    counts = [
        ("rows kept", f"{report['rows_kept']:,} of {report['rows_in']:,}"),
        ("users", f"{report['users']:,}"),
        ("items", f"{report['items']:,} of {report['items_in_catalogue']:,} in the catalogue"),
        ("density", f"{report['density']:.3%}"),
        ("from, to", f"{report['first_time']}, {report['last_time']}" if report["first_time"] else "no timestamps"),
        ("duplicates", f"{report['duplicates']:,}, of which {report['conflicts']:,} with another rating"),
        *((f"rejected: {reason.replace('_', ' ')}", f"{n:,}") for reason, n in report["rejected"].items() if n),
        *((f"left out: {reason.replace('_', ' ')}", f"{n:,}") for reason, n in report["filtered"].items() if n),
        *((f"empty cells: {name}", f"{share:.2%}") for name, share in found["missing"].items() if share),
        *(
            (f"feature {name}", f"known for {n['known']:,}; {n['not_allowed']:,} cells not allowed")
            for name, n in report["features"].items()
        ),
        ("outlier users", f"{found['outlier_users']:,} with {found['rows_of_outlier_users']:,} rows"),
    ]
    varied = [
        ("effective number of items", f"{diversity['effective_items']:.1f}"),
        *((f"effective number of {n}", f"{value:.1f}") for n, value in diversity["effective_categories"].items()),
        ("distance to the consortium's popularity", _share(diversity["distance_to_consortium"])),
    ]
    changed = [] if drift is None else [
        ("new rows", _share(drift["new_rows"])),
        ("rows that are gone", _share(drift["gone_rows"])),
        ("new users", _share(drift["new_users"])),
        ("popularity moved by", _share(drift["popularity"])),
    ]  # fmt: skip
    since = "This is the first version." if drift is None else f"Since version {html.escape(drift['since'])}."
    parts = _table([(f"{name}: {words}", f"{found['parts'][name]:.3f}") for name, words in _WORDS.items()])
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}: data</title>\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<style>{_STYLE}</style></head><body>\n"
        f"<h1>{html.escape(title)}</h1>\n<p>Data version {html.escape(report['version'])}. This page stays inside the "
        f"institution.</p>\n<h2>Quality</h2>\n<p><span class=score>{found['score']:.3f}</span> of 1, the geometric "
        f"mean of</p>\n{parts}\n<h2>What was read</h2>\n{_table(counts)}\n<h2>Diversity</h2>\n{_table(varied)}\n"
        f"<h2>Change</h2>\n<p>{since}</p>\n{_table(changed)}\n"
        f"<h2>Plots</h2>\n<div class=plots>{''.join(_plots(report))}</div>\n</body></html>\n"
    )


def _share(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th scope=row>{html.escape(a)}</th><td class=n>{html.escape(b)}</td></tr>\n" for a, b in rows)
    return f"<table>{cells}</table>" if rows else ""


def _plots(report: Mapping[str, Any]) -> list[str]:
    found = report["quality"]
    ratings, months = found["ratings"], found["months"]
    drawn = [
        _bars("Users by number of rows", *_powers(found["rows_per_user"]["powers_of_two"]), "rows of a user", "users"),
        _bars("Items by number of rows", *_powers(found["rows_per_item"]["powers_of_two"]), "rows of an item", "items"),
        _bars("Rows by rating", [f"{value:g}" for value in ratings["from"]], ratings["rows"], "rating", "rows"),
    ]
    if months is not None:
        drawn.append(_bars("Rows by time", months["from"], months["rows"], "month or year, UTC", "rows"))
    return drawn


def _powers(counts: Sequence[int]) -> tuple[list[str], Sequence[int]]:
    return ["1" if not n else f"{2**n}–{2 ** (n + 1) - 1}" for n in range(len(counts))], counts


def _bars(title: str, labels: Sequence[str], heights: Sequence[int], across: str, up: str) -> str:
    """One bar chart as a figure with inline SVG; its numbers also as the picture's text alternative."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes: Any = figure.subplots()
        axes.bar(range(len(labels)), list(heights), color="#2b6cb0")
        step = max(1, -(-len(labels) // 12))
        axes.set_xticks(range(0, len(labels), step), list(labels)[::step], rotation=45 if len(labels) > 6 else 0,
                        ha="right" if len(labels) > 6 else "center")  # fmt: skip
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.spines[["top", "right"]].set_visible(False)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    picture = re.sub(r"^.*?(?=<svg)", "", drawn.getvalue(), flags=re.DOTALL)
    said = html.escape("; ".join(f"{a}: {b}" for a, b in zip(labels, heights, strict=True)))
    picture = picture.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}. {said}" ', 1)
    return f"<figure>{picture}<figcaption>{html.escape(title)}</figcaption></figure>\n"
