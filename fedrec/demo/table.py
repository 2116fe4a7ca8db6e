"""The demo's tables: each model federated, beside popularity, local-only and the centralised yardstick."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from fedrec.core.interactions import Interactions
from fedrec.demo.sites import Sites
from fedrec.institution.store import Store, read_features
from fedrec.scientist.runs import Run
from fedrec.scientist.worth import worth
from fedrec.simulation import SimulatedFederation, pooled

Row = dict[str, Any]
SCOPES = ("popularity", "local", "federated", "centralised")
FIGURES = {"p1": ("hr@10", "ndcg@10"), "p3": ("ndcg@10",)}
OUTCOMES = ("auc", "log-loss", "brier", "calibration")

# ML-100K, the default blend, all rows in one place: docs/models.md, tests/models/test_figures.py
ANCHOR = {"p1_hr@10": 0.190, "p1_ndcg@10": 0.111, "p3_ndcg@10": 0.270}


def comparison(sites: Sites, runs: Sequence[Run]) -> list[Row]:
    """Rows of contracts.md's `table` and `outcomes`. The demo may pool: it dealt the rows itself; no site ever does.

    Every row of a plan is over the institutions that ran it.
    """
    rows = {name: rows_at(site.folder) for name, site in sites.all.items()}
    found: dict[tuple[str, str, str], Row] = {}
    catalogue = sites.config.item_ids()
    evaluated = [run for run in runs if run.evaluations]
    first = next((run.plan for run in evaluated if not _judges(run)), None)
    for run in evaluated:
        members = run.log[0]["sites"]
        central = pooled(SimulatedFederation({name: rows[name] for name in members}, len(catalogue), catalogue))
        yardstick = central.train(run.plan.plain, protocol=run.protocol).evaluate()
        for row in (*_rows(run, popularity=_judges(run) or run.plan is first), *_central(yardstick)):
            key = (run.plan.name, row["scope"], row["institution"])
            names = {"model": key[0], "scope": key[1], "institution": key[2]}
            if "auc" in row:
                found[key] = {**names, **{metric: row[metric] for metric in (*OUTCOMES, "users")}}
                continue
            place = found.setdefault(key, {**names, **_empty()})
            place.update({f"{run.protocol}_{metric}": row[metric] for metric in FIGURES[run.protocol]})
    return list(found.values())


def rows_at(folder: Path) -> Interactions:
    """An institution's rows as its site took them in, with features."""
    store = Store.open(folder / "state")
    kept = (store.features("users"), store.features("items"))
    users, items = (None if table is None else read_features(table) for table in kept)
    return replace(store.rows(), users=users, items=items)


def _judges(run: Run) -> bool:
    """Whether its model predicts outcomes."""
    return hasattr(run.plan.built, "probability")


def _rows(run: Run, popularity: bool) -> Iterator[Mapping[Any, Any]]:
    """A run's own figures; popularity is the same for every model that ranks, so one carries it."""
    for row in run.evaluate().to_dict("records"):
        if row["scope"] != "popularity" or popularity:
            yield row


def _central(table: Any) -> Iterator[Mapping[Any, Any]]:
    row = table[(table["scope"] == "federated") & (table["institution"] == "all")].to_dict("records")[0]
    yield {**row, "scope": "centralised"}


def _empty() -> Row:
    return {f"{protocol}_{metric}": None for protocol, metrics in FIGURES.items() for metric in metrics}


def yardstick(table: Sequence[Row]) -> Row:
    """Whether the centralised blend gives ML-100K's known figures: {"model", "anchor", "found", "within_1_percent"}."""
    row = next(one for one in table if (one["model"], one["scope"]) == ("default", "centralised"))
    found = {name: row[name] for name in ANCHOR}
    near = all(abs(found[name] / ANCHOR[name] - 1) <= 0.01 for name in ANCHOR)
    return {"model": "default", "anchor": ANCHOR, "found": found, "within_1_percent": near}


def in_words(known: Row | None) -> str:
    """What the yardstick is worth; None is for data without known figures."""
    if known is None:
        return "the yardstick has nothing to be held against: known figures are for ML-100K only"
    each = ", ".join(f"{name} {known['found'][name]:.4f} ({known['anchor'][name]})" for name in known["anchor"])
    if known["within_1_percent"]:
        return f"the yardstick is right: the centralised blend is within 1 % of the known figures: {each}"
    return f"THE YARDSTICK IS WRONG: the centralised blend is off the known figures by over 1 %, trust no row: {each}"


def drawn(report: Mapping[str, Any]) -> list[Table]:
    """The report as tables for a terminal: quality, institutions, verdicts, cost of rounds, decisions."""
    ranked = [_quality(report)] if report["table"] else []
    ranked += [_institutions(report), _worth(report)] if report["worth"] else []  # of noised sums nobody can tell
    judged = [_outcomes(report)] if report["outcomes"] else []
    return [*ranked, *judged, _cost(report), _decisions(report)]


def _quality(report: Mapping[str, Any]) -> Table:
    table = Table(title="How well held-out items are found, all institutions (mean over users)", title_justify="left")
    for column in ("model", "scope", "P1 HR@10", "P1 NDCG@10", "P3 NDCG@10"):
        table.add_column(column, justify="right" if column[0] == "P" else "left")
    rows = [row for row in report["table"] if row["institution"] == "all"]
    for row in sorted(rows, key=lambda row: (row["scope"] != "popularity", row["model"], SCOPES.index(row["scope"]))):
        figures = ["" if row[key] is None else f"{row[key]:.4f}" for key in _empty()]
        name = "" if row["scope"] == "popularity" else row["model"]
        table.add_row(name, row["scope"], *figures, style="bold" if row["scope"] == "federated" else "")
    return table


def _institutions(report: Mapping[str, Any]) -> Table:
    """What an institution gains: its own model alone against the federated one, on its own users."""
    table = Table(
        title="What each institution gains, P1 NDCG@10 on its own users: alone -> federated", title_justify="left"
    )
    names = list(dict.fromkeys(row["model"] for row in report["table"]))
    for column in ("institution", *names):
        table.add_column(column, justify="left" if column == "institution" else "right")
    at = {(row["model"], row["scope"], row["institution"]): row["p1_ndcg@10"] for row in report["table"]}
    for site in report["institutions"]:
        pairs = [(at.get((name, "local", site)), at.get((name, "federated", site))) for name in names]
        table.add_row(site, *("denied" if None in pair else f"{pair[0]:.4f} -> {pair[1]:.4f}" for pair in pairs))
    return table


def _outcomes(report: Mapping[str, Any]) -> Table:
    """Probabilities of yes by institution; of popularity, which is each institution's share of yes for everybody."""
    table = Table(title="How well yes/no outcomes of held-out users are predicted", title_justify="left")
    texts = ("model", "scope", "institution")
    for column in (*texts, "AUC", "log-loss", "Brier", "calibration", "rows"):
        table.add_column(column, justify="left" if column in texts else "right")
    for row in sorted(report["outcomes"], key=lambda row: (row["model"], row["institution"] == "all")):
        figures = ["" if row[key] is None else f"{row[key]:.4f}" for key in OUTCOMES]
        scope = "share of yes" if row["scope"] == "popularity" else row["scope"]
        style = "bold" if row["scope"] == "federated" else ""
        table.add_row(row["model"], scope, row["institution"], *figures, str(row["users"]), style=style)
    return table


def gains(runs: Sequence[Run]) -> list[Row]:
    """`worth.worth` of every run that was evaluated under P1, with the model's name.

    With noise the sums of the other scopes do not leave, so nobody can tell there what federation is worth.
    """
    told = [run for run in runs if run.plan.spec.protects.epsilon is None]
    evaluated = [run for run in told if "p1" in run.evaluations and not _judges(run)]
    return [{"model": run.plan.name, **row} for run in evaluated for row in worth(run.evaluations["p1"])]


def _worth(report: Mapping[str, Any]) -> Table:
    """One sentence of verdict for each institution and model, on all its users."""
    table = Table(title="Is it worth it for us? P1 NDCG@10, federated against its own model", title_justify="left")
    for column in ("institution", "model", "verdict"):
        table.add_column(column)
    for row in sorted(report["worth"], key=lambda row: row["institution"] == "all"):
        if not row["group"]:
            table.add_row(row["institution"], row["model"], row["verdict"])
    return table


def _cost(report: Mapping[str, Any]) -> Table:
    cost = Table(title="What rounds cost, all sites together", title_justify="left")
    for column in ("run", "rounds", "sites", "MB up a round", "MB down a round", "seconds a round"):
        cost.add_column(column, justify="left" if column == "run" else "right")
    for run in dict.fromkeys(line["run"] for line in report["rounds"]):
        lines = [line for line in report["rounds"] if line["run"] == run]
        means = [sum(line[key] for line in lines) / len(lines) for key in ("bytes_up", "bytes_down", "seconds")]
        cost.add_row(
            run,
            str(len(lines)),
            str(len(lines[0]["sites"])),
            f"{means[0] / 1e6:.2f}",
            f"{means[1] / 1e6:.2f}",
            f"{means[2]:.2f}",
        )
    return cost


def _decisions(report: Mapping[str, Any]) -> Table:
    table = Table(title="Who decided what", title_justify="left")
    for column in ("site", "plan", "decision", "by", "at", "reason"):
        table.add_column(column)
    for row in report["approvals"]:
        table.add_row(*(row[key] for key in ("site", "plan", "decision", "by", "at", "reason")))
    return table
