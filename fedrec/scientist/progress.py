"""Progress for people: a board in the terminal or the notebook, tables that update in place."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape as escaped
from rich.progress_bar import ProgressBar
from rich.table import Table

from fedrec.scientist.driver import Round
from fedrec.scientist.federation import SiteState

if TYPE_CHECKING:
    import pandas as pd
    from ipywidgets import VBox

WAITING = "waiting for approval"
TICK_S = 0.5  # between two drawings in a notebook


class Board:
    """What a run and each of its sites are doing, as lines of text; it draws nothing itself."""

    def __init__(self, title: str, rounds: int, sites: Sequence[str] = ()) -> None:
        self._title, self.rounds, self.done, self._note = title, rounds, 0, ""
        self._began = time.monotonic()
        self._now = dict.fromkeys(sites, WAITING)
        self._since: dict[str, float] = {}
        self._last: dict[str, float] = {}  # seconds of a site's training, from which its share is reckoned

    def taking_part(self, sites: Sequence[str]) -> None:
        """These sites have approved."""
        self._now |= {site: "approved" for site in sites if self._now.get(site) == WAITING}

    def watch(self, state: SiteState) -> None:
        """A site begins to do something else."""
        now = time.monotonic()
        if self._now.get(state.site) == "training" and state.state in ("uploading", "done"):
            self._last[state.site] = now - self._since[state.site]
        why = "" if state.why is None else f": {state.why.code}, {state.why.reason}"
        if self._now.get(state.site) != state.state:
            self._now[state.site], self._since[state.site] = state.state + why, now

    def advance(self, done: Round, total: int) -> None:
        """A round is committed."""
        self.done, self.rounds, self._note = done.number + 1, total, _note(done)

    @property
    def head(self) -> str:
        """The run: how far, how long, and what the last round was."""
        last = f", the last: {self._note}" if self._note else ""
        spent = time.monotonic() - self._began
        return f"{self._title}: {self.done} of {self.rounds} rounds in {spent:.1f} s{last}"

    def sites(self) -> Iterator[tuple[str, str]]:
        """Each site and its state; the share of training that is done is reckoned from the site's last round."""
        for site, state in list(self._now.items()):
            known = state == "training" and self._last.get(site)
            yield site, f"training, about {self.percent(site)} %" if known else state

    def percent(self, site: str) -> int:
        """How much of its part of the round a site has done, 0 to 100."""
        state, usual = self._now.get(site), self._last.get(site)
        if state == "training" and usual:
            return min(99, int(100 * (time.monotonic() - self._since[site]) / usual))
        return 100 if state in ("uploading", "done") else 0

    def __rich__(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for site, state in self.sites():
            table.add_row("", escaped(site), escaped(state))
        return Group(ProgressBar(total=self.rounds, completed=self.done, width=40), escaped(self.head), table)

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{escape(site)}</td><td>{escape(state)}</td></tr>" for site, state in self.sites())
        return (
            f'<progress value="{self.done}" max="{self.rounds}" style="width: 16em"></progress> '
            f"{escape(self.head)}<table>{rows}</table>"
        )


@contextmanager
def live(title: str, rounds: int, sites: Sequence[str] = ()) -> Iterator[Board]:
    """A board that is drawn anew whenever something changes, on stderr or in the notebook.

    Args:
        sites: all that the plan asked, also those whose owners have not approved it yet.
    """
    board = Board(title, rounds, sites)
    if in_notebook():
        with _in_notebook(board):
            yield board
        return
    with Live(board, console=Console(stderr=True), transient=True):
        yield board


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


@contextmanager
def _in_notebook(board: Board) -> Iterator[Board]:
    """Widgets while it runs; then plain HTML in their place, which a saved notebook still shows without a kernel."""
    from IPython.display import display

    widgets, draw = widgets_of(board)
    handle, ended = display(widgets, display_id=True), threading.Event()

    def keep_drawing() -> None:
        while not ended.wait(TICK_S):
            draw()

    thread = threading.Thread(target=keep_drawing, daemon=True)
    thread.start()
    try:
        yield board
    finally:
        ended.set()
        thread.join()
        handle.update(board)
        widgets.close()


def widgets_of(board: Board) -> tuple[VBox, Callable[[], None]]:
    """A bar for the rounds, below it a row for each site: name, bar, state; and what brings them up to date."""
    from ipywidgets import GridBox, IntProgress, Label, Layout, VBox

    bar, head = IntProgress(max=board.rounds), Label()
    rows: dict[str, tuple[IntProgress, Label]] = {}
    table = GridBox(layout=Layout(grid_template_columns="10em 14em 1fr"))

    def draw() -> None:
        bar.max, bar.value, head.value = board.rounds, board.done, board.head
        for site, state in board.sites():
            if site not in rows:  # sites may join a run
                rows[site] = IntProgress(max=100, layout=Layout(width="95%")), Label()
                table.children = (*table.children, Label(site), *rows[site])
            share, said = rows[site]
            share.value, share.bar_style = board.percent(site), "danger" if state.startswith("refused") else ""
            said.value = state

    draw()
    return VBox([bar, head, table]), draw


def _note(done: Round) -> str:
    up = sum(answer.bytes_up for answer in done.answers) / 1e6
    said = [f"{up:.1f} MB up, {done.seconds:.1f} s"]
    said += [f"{site} {late} rounds late" for site, late in done.late.items()]
    said += [f"{site} left out: {code}" for site, code in done.left_out.items()]
    return "; ".join(said)
