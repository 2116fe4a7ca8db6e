"""`fedrec benchmark`: what things cost, measured here and now."""

from __future__ import annotations

import sys

import click

from fedrec.cli.output import emit, json_option, say


@click.group()
def benchmark() -> None:
    """Measure costs on this machine."""


@benchmark.command()
@click.option("--sites", type=click.IntRange(1, 50), default=4, show_default=True, help="How many institutions.")
@click.option(
    "--payload", type=click.FloatRange(0.001, 60), multiple=True, metavar="MB",
    help="Down to and up from each site; again for more. Default 0.1, 1 and 16.",
)  # fmt: skip
@click.option("--repeats", type=click.IntRange(3, 400), default=20, show_default=True, help="Rounds per payload.")
@click.option("--long", is_flag=True, help="Also 300 rounds at 0.1 MB, with the sites' memory.")
@json_option
def rounds(sites: int, payload: tuple[float, ...], repeats: int, long: bool, target: str | None) -> None:
    """Time rounds over real datasites that send back what they get, beside bare HTTP with the same bytes."""
    from rich.console import Console

    from fedrec.demo.benchmark import PAYLOADS_MB, Options, drawn, in_words
    from fedrec.demo.benchmark import rounds as measure

    report = measure(Options(sites, payload or PAYLOADS_MB, repeats, long), say)
    Console(stderr=target == "-", width=None if sys.stdout.isatty() else 120).print(drawn(report))
    emit(report, target, text=in_words(report))
