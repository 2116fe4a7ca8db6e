"""What every command prints: one JSON object or a text on stdout, progress on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fedrec.errors import WrongInput

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """The option `--json FILE|-`, which reaches the command as `target`; a file that cannot be is refused at once."""
    return click.option(
        "--json",
        "target",
        metavar="FILE|-",
        is_eager=True,
        callback=_writable,
        help="Write one JSON object; - is stdout.",
    )(command)


def _writable(_: click.Context, __: click.Parameter, target: str | None) -> str | None:
    if target is None or target == "-":
        return target
    folder = os.path.dirname(target) or "."
    makes = os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)
    if os.path.isdir(target) or not (os.access(target, os.W_OK) if os.path.exists(target) else makes):
        raise click.BadParameter(f"{target} cannot be written; name a file in a folder that exists")
    return target


def emit(row: Mapping[str, Any], target: str | None, text: str) -> None:
    """The result: JSON alone on stdout for "-"; otherwise the text, and the JSON into the file if one is named.

    Raises:
        WrongInput: the file cannot be written.
    """
    if target == "-":
        click.echo(_json(row))
        return
    if target is not None:
        try:
            Path(target).write_text(_json(row) + "\n", encoding="utf-8")
        except OSError as error:
            raise WrongInput(f"--json {target}: cannot be written ({error.strerror})") from None
    click.echo(text)


def emit_many(
    name: str, rows: Iterable[Mapping[str, Any]], target: str | None, head: str, line: Callable[[Any], str]
) -> None:
    """As `emit` for as many rows as there are, one after the other, in bounded memory.

    Args:
        head: the first line of the text; line: a row as a line of it.

    Raises:
        WrongInput: the file cannot be written.
    """
    if target is None:
        click.echo(head)
        for row in rows:
            click.echo(line(row))
        return
    try:
        with nullcontext(sys.stdout) if target == "-" else Path(target).open("w", encoding="utf-8") as file:
            file.write(f'{{"{name}": [')
            for number, row in enumerate(rows):
                file.write(",\n" if number else "\n")
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False))
            file.write("\n]}\n")
    except OSError as error:
        raise WrongInput(f"--json {target}: cannot be written ({error.strerror})") from None


def progress() -> Progress:
    """A progress display on stderr, gone when it ends; use it with `with`."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def say(text: str) -> None:
    """One line on stderr, which stays."""
    click.echo(text, err=True)


def _json(row: Mapping[str, Any]) -> str:
    """NaN and infinity are no JSON: a figure that is undefined has to be None already."""
    return json.dumps(row, indent=1, ensure_ascii=False, allow_nan=False)
