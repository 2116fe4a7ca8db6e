"""`fedrec demo`: the whole story on real datasites."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from fedrec.cli.output import emit, json_option, say


@click.command()
@click.option(
    "--consortium",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="domains/movies",
    show_default=True,
    help="Folder with consortium.toml and the institutions.",
)
@click.option(
    "--synthetic", is_flag=True, help="Generated data instead of ML-100K; needs no network. The worlds have no other."
)
@click.option("--from-file", type=click.Path(exists=True, path_type=Path), help="A copy of ML-100K that you have.")
@click.option("--rounds", type=click.IntRange(1, 200), help="Rounds of gradient models.  [default: each model's own]")
@click.option(
    "--keep", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Keep the sites' folders in DIR."
)
@click.option("--pause-after", type=click.Choice(["approvals"]), help="Wait there for Enter (or the end of stdin).")
@click.option(
    "--seed", type=click.IntRange(0, 2**31), default=0, show_default=True, help="Of the split and the models."
)
@click.option("--secure-sum", is_flag=True, help="The centre sees sums only.  [default, with three members or more]")
@click.option("--plain", is_flag=True, help="The centre sees each institution's update; shows what that tells it.")
@click.option("--encrypt", type=click.Choice(["ckks"]), help="The centre sees ciphertexts, and sums only decrypted.")
@json_option
def demo(
    consortium: Path,
    synthetic: bool,
    from_file: Path | None,
    rounds: int | None,
    keep: Path | None,
    pause_after: str | None,
    seed: int,
    secure_sum: bool,
    plain: bool,
    encrypt: str | None,
    target: str | None,
) -> None:
    """Train recommenders over real datasites, from data to a table, and shut everything down."""
    if secure_sum + plain + bool(encrypt) > 1:
        raise click.UsageError("--secure-sum, --encrypt and --plain exclude each other")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from fedrec.demo.story import Options, Story
    from fedrec.demo.table import drawn
    from fedrec.exchange.privacy import Privacy
    from fedrec.scientist.driver import Round

    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with shown if console.is_terminal else nullcontext():  # elsewhere it would end with an empty line
        bars: dict[str, int] = {}

        def advance(name: str, done: Round, total: int) -> None:
            if name not in bars:
                bars[name] = shown.add_task(name, total=total)
            shown.update(bars[name], completed=done.number + 1)  # type: ignore[arg-type]

        def pause() -> None:
            say("paused after the approvals; Enter goes on")
            sys.stdin.readline()

        asked = (consortium, from_file, synthetic, rounds, keep, seed, pause if pause_after else None, advance)
        options = Options(*asked, privacy=None if plain else Privacy(encrypt or "secure"))
        report = Story(options, lambda text: console.print(text, markup=False, highlight=False)).tell()
    screen = Console(stderr=target == "-", width=None if sys.stdout.isatty() else 120)
    for table in drawn(report):
        screen.print(table)
    emit(report, target, text=f"all done in {report['seconds']:.0f} s; nothing is left running")
    if bad := faults(report):
        say(f"the audit log does not stand at {', '.join(bad)}; see fedrec audit verify and reconcile")
        sys.exit(3)


def faults(report: Mapping[str, Any]) -> list[str]:
    """The sites whose audit log does not verify, or differs from what the site has."""
    return [one["site"] for one in report["audit"] if one["verdict"] != "ok" or one["gaps"]]
