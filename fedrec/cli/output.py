"""What every command prints: one JSON object or a text on stdout, progress on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fedrec.errors import WrongInput

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """The option `--json FILE|-`, which reaches the command as `target`."""
    return click.option("--json", "target", metavar="FILE|-", help="Write one JSON object; - is stdout.")(command)


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
