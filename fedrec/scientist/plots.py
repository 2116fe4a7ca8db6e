"""Pictures of runs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

SIZE = (9, 3.2)  # inches
GREY, BLUE, ORANGE = "#b8bec8", "#2a6fbb", "#e08a2e"
COLOURS = {"popularity": GREY, "local": ORANGE, "federated": BLUE, "centralised": "#444444"}


class Picture(Figure):
    """A matplotlib figure that a notebook shows although pyplot never ran."""

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.savefig(data, format="png", dpi=110)
        return data.getvalue()


def rounds_figure(log: Sequence[Mapping[str, Any]], title: str, path: Path | None = None) -> Picture:
    """Bytes up and down and seconds of each round."""
    figure = Picture(figsize=SIZE, layout="constrained")
    both: Any = figure.subplots(1, 2)
    traffic, clock = both
    numbers = [line["round"] + 1 for line in log]
    for shift, key, colour, label in (
        (-0.2, "bytes_up", BLUE, "institutions to centre"),
        (0.2, "bytes_down", GREY, "centre to institutions"),
    ):
        traffic.bar([n + shift for n in numbers], [line[key] / 1e6 for line in log], 0.4, color=colour, label=label)
    traffic.set(xlabel="round", ylabel="MB, all sites")
    traffic.margins(y=0.3)
    clock.plot(numbers, [line["seconds"] for line in log], marker="o", color=BLUE)
    clock.set(xlabel="round", ylabel="seconds")
    clock.set_ylim(0, 1.2 * max((line["seconds"] for line in log), default=1.0))
    for axes in (traffic, clock):
        axes.xaxis.get_major_locator().set_params(integer=True)
    traffic.legend(frameon=False, ncols=2, loc="upper left", fontsize="small")
    return _finished(figure, title, path)


def scores_figure(table: Any, metric: str = "ndcg@10", title: str = "", path: Path | None = None) -> Picture:
    """One bar per institution and scope, from `Run.evaluate`'s table; bars of all users together bear their value."""
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


def _finished(figure: Picture, title: str, path: Path | None) -> Picture:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium", fontweight="bold")
    if path is not None:
        figure.savefig(path, dpi=110)
    return figure
