"""Progress for people: a bar in the terminal or the notebook, tables that update in place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedrec.scientist.driver import Round

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def bar(title: str, rounds: int) -> Iterator[Callable[[Round, int], None]]:
    """A progress bar over a run's rounds on stderr; gives the function to call after each."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}")]
    with Progress(*columns, console=Console(stderr=True), transient=not in_notebook()) as shown:
        task = shown.add_task(title, total=rounds, note="")

        def advance(done: Round, total: int) -> None:  # noqa: ARG001
            up = sum(answer.bytes_up for answer in done.answers) / 1e6
            shown.update(task, completed=done.number + 1, note=f"{up:.1f} MB up, {done.seconds:.1f} s")

        yield advance


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    return "ipykernel" in sys.modules


def show_table(table: pd.DataFrame) -> None:
    """A table, in a notebook over the one before."""
    if in_notebook():
        from IPython.display import clear_output, display

        clear_output(wait=True)
        display(table)
        return
    Console(stderr=True).print(table.to_string(index=False))
