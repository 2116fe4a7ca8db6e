"""Pictures of runs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fedrec.errors import WrongInput
from fedrec.scientist.lines import chief

SIZE = (9, 3.2)  # inches
GREY, BLUE, ORANGE = "#b8bec8", "#2a6fbb", "#e08a2e"
COLOURS = {"popularity": GREY, "local": ORANGE, "federated": BLUE, "centralised": "#444444"}


class Picture(Figure):
    """A matplotlib figure that a notebook shows although pyplot never ran."""

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.savefig(data, format="png", dpi=110)
        return data.getvalue()


def rounds_figure(
    log: Sequence[Mapping[str, Any]], title: str, path: Path | None = None, measured: Any = None
) -> Picture:
    """Four panels: convergence, what each institution says or reaches, what each weighs, and bytes with seconds.

    Args:
        log: the run's lines.
        measured: `Run.evaluate`'s table, if there is one.
    """
    figure = Picture(figsize=(SIZE[0], 2 * SIZE[1]), layout="constrained")
    panels: Any = figure.subplots(2, 2)
    numbers = [line["round"] + 1 for line in log]
    _convergence(panels[0, 0], numbers, log)
    _institutions(panels[0, 1], log, measured)
    weights = panels[1, 0]
    below = [0.0] * len(log)
    for site in _sites(log):
        share = [line["weights"].get(site, 0.0) / (sum(line["weights"].values()) or 1.0) for line in log]
        weights.bar(numbers, share, 0.8, bottom=below, label=site)
        below = [low + part for low, part in zip(below, share, strict=True)]
    weights.set(xlabel="round", ylabel="share of the weight", title="weights", ylim=(0, 1.25))
    weights.legend(frameon=False, fontsize="small", ncols=4, loc="upper left")
    traffic = panels[1, 1]
    for shift, key, colour, label in (
        (-0.2, "bytes_up", BLUE, "institutions to centre"),
        (0.2, "bytes_down", GREY, "centre to institutions"),
    ):
        traffic.bar([n + shift for n in numbers], [line[key] / 1e6 for line in log], 0.4, color=colour, label=label)
    spent = sum(line["seconds"] for line in log)
    traffic.set(xlabel="round", ylabel="MB, all sites", title=f"bytes; {spent:.1f} s in all")
    traffic.margins(y=0.3)
    traffic.legend(frameon=False, loc="upper left", fontsize="small")
    for axes in (panels[0, 0], weights, traffic):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return _finished(figure, title, path)


def _convergence(axes: Any, numbers: Sequence[int], log: Sequence[Mapping[str, Any]]) -> None:
    axes.plot(numbers, [line["norm"] for line in log], marker="o", color=GREY)
    axes.set(xlabel="round", ylabel="norm of the step", title="convergence")
    if any("quality" in line for line in log):
        right = axes.twinx()
        right.plot(numbers, [line.get("quality", float("nan")) for line in log], marker="o", color=BLUE)
        right.set_ylabel("on validation rows", color=BLUE)


def _institutions(axes: Any, log: Sequence[Mapping[str, Any]], measured: Any) -> None:
    """Validation quality by institution and round where sites release it; else the evaluation, if there was one."""
    said = [line.get("measures", {}) for line in log]
    names = {name for one in said for measures in one.values() for name in measures}
    name = next((name for name in ("global-quality", "model-quality") if name in names), None)
    if name is not None:
        for site in _sites(log):
            values = [one.get(site, {}).get(name, float("nan")) for one in said]
            axes.plot([line["round"] + 1 for line in log], values, marker="o", label=site)
        axes.set(xlabel="round", ylabel="on validation rows", title=f"institutions: {name}")
        axes.legend(frameon=False, fontsize="small")
    elif measured is not None:
        ours = measured[measured["scope"] == "federated"]
        metric = chief(ours.columns)
        axes.bar(list(ours["institution"]), list(ours[metric]), color=BLUE)
        axes.set(ylabel=metric.upper(), title="institutions: evaluation")
    else:
        axes.set(title="institutions: not measured, see run.evaluate()", xticks=[], yticks=[])


def _sites(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Everybody who was merged, in the order of their first round."""
    return list(dict.fromkeys(site for line in log for site in line["sites"]))


def scores_figure(table: Any, metric: str = "ndcg@10", title: str = "", path: Path | None = None) -> Picture:
    """One bar per institution and scope, from `Run.evaluate`'s table; bars of all users together bear their value."""
    if metric not in table:
        raise WrongInput(f"{metric} is no plot: take rounds, worth or one of {', '.join(map(str, table.columns[2:]))}")
    figure = Picture(figsize=SIZE, layout="constrained")
    axes: Any = figure.subplots()
    wide = table.pivot_table(index="institution", columns="scope", values=metric, sort=False)
    scopes = [scope for scope in COLOURS if scope in wide.columns]
    width = 0.8 / max(1, len(scopes))
    for number, scope in enumerate(scopes):
        places = [i + width * (number - (len(scopes) - 1) / 2) for i in range(len(wide))]
        bars = axes.bar(places, wide[scope], width, label=scope, color=COLOURS[scope])
        if "all" in wide.index:
            bold = [f"{value:.3f}" if name == "all" else "" for name, value in wide[scope].items()]
            axes.bar_label(bars, bold, fontsize="small", padding=2)
    axes.set_xticks(range(len(wide)), ["all users" if name == "all" else name for name in wide.index])
    axes.set(ylabel=metric.upper())
    axes.margins(y=0.25)
    axes.legend(frameon=False, ncols=4, loc="upper left", fontsize="small")
    return _finished(figure, title, path)


def worth_figure(table: Any, title: str = "", path: Path | None = None) -> Picture:
    """What federation adds to each institution's NDCG@10, with 95 % intervals, from `Run.worth`'s table."""
    figure = Picture(figsize=SIZE, layout="constrained")
    axes: Any = figure.subplots()
    rows = table[(table["group"] == "") & table["gain"].notna()]
    sides = [rows["gain"] - rows["low"], rows["high"] - rows["gain"]]
    axes.errorbar(rows["gain"], range(len(rows)), xerr=sides, fmt="o", color=BLUE, capsize=3)
    axes.axvline(0, color=GREY)
    axes.set_yticks(range(len(rows)), ["all users" if name == "all" else name for name in rows["institution"]])
    axes.invert_yaxis()
    axes.set(xlabel="NDCG@10, federated minus its own model, 95 % interval")
    return _finished(figure, title, path)


def _finished(figure: Picture, title: str, path: Path | None) -> Picture:
    for axes in figure.axes:
        axes.spines["top"].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium", fontweight="bold")
    if path is not None:
        figure.savefig(path, dpi=110)
    return figure
