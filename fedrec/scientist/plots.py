"""Pictures of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def rounds_figure(log: Sequence[Mapping[str, Any]], title: str, path: Path | None = None) -> Any:
    """Bytes up and down and seconds of each round; a matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    traffic, clock = figure.subplots(1, 2)
    numbers = [line["round"] for line in log]
    traffic.bar([n - 0.2 for n in numbers], [line["bytes_up"] / 1e6 for line in log], 0.4, label="up (institutions to centre)")
    traffic.bar([n + 0.2 for n in numbers], [line["bytes_down"] / 1e6 for line in log], 0.4, label="down")
    traffic.set(xlabel="round", ylabel="MB, all sites", title=title)
    traffic.legend()
    clock.plot(numbers, [line["seconds"] for line in log], marker="o")
    clock.set(xlabel="round", ylabel="seconds", ylim=(0, None))
    if path is not None:
        figure.savefig(path)
    return figure


def scores_figure(table: Any, metric: str = "ndcg@10", title: str = "", path: Path | None = None) -> Any:
    """One bar per institution and scope, from `Run.evaluate`'s table; a matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    wide = table.pivot_table(index="institution", columns="scope", values=metric, sort=False)
    for number, scope in enumerate(wide.columns):
        axes.bar([i + 0.25 * number for i in range(len(wide))], wide[scope], 0.25, label=scope)
    axes.set_xticks([i + 0.25 for i in range(len(wide))], wide.index)
    axes.set(ylabel=metric, title=title)
    axes.legend()
    if path is not None:
        figure.savefig(path)
    return figure
