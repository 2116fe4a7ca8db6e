"""Progress for people: a bar in the terminal or the notebook, tables that update in place."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedrec.scientist.driver import Round

if TYPE_CHECKING:
    import pandas as pd

Advance = Callable[[Round, int], None]


@contextmanager
def bar(title: str, rounds: int) -> Iterator[Advance]:
    """A progress bar over a run's rounds, on stderr or in the notebook; gives the function to call after each."""
    if in_notebook():
        yield _notebook_bar(title, rounds)
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(title, total=rounds, note="")

        def advance(done: Round, total: int) -> None:  # noqa: ARG001
            shown.update(task, completed=done.number + 1, note=_note(done))

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


def _notebook_bar(title: str, rounds: int) -> Advance:
    """Plain HTML that is replaced after each round: it needs no widget and is still there in a saved notebook."""
    from IPython.display import HTML, display

    began = time.monotonic()

    def drawn(done: int, note: str) -> HTML:
        return HTML(
            f'<progress value="{done}" max="{rounds}" style="width: 16em; vertical-align: middle"></progress> '
            f"{escape(title)}: {done} of {rounds} rounds{escape(note)}"
        )

    handle = display(drawn(0, ""), display_id=True)

    def advance(done: Round, total: int) -> None:  # noqa: ARG001
        handle.update(drawn(done.number + 1, f" in {time.monotonic() - began:.1f} s, the last: {_note(done)}"))

    return advance


def _note(done: Round) -> str:
    up = sum(answer.bytes_up for answer in done.answers) / 1e6
    said = [f"{up:.1f} MB up, {done.seconds:.1f} s"]
    said += [f"{site} {late} rounds late" for site, late in done.late.items()]
    said += [f"{site} left out: {code}" for site, code in done.left_out.items()]
    return "; ".join(said)
