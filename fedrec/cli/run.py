"""`fedrec run`: the scientist's rounds without a notebook."""

from __future__ import annotations

import re
from pathlib import Path

import click

from fedrec.cli.output import emit, json_option, say
from fedrec.errors import WrongInput

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command()
@click.argument(
    "file", metavar="RUN.toml", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--resume",
    "folder",
    metavar="RUNDIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Go on with a run from its last committed round.",
)
@click.option(
    "--every",
    "period",
    metavar="TIME",
    help="Look again after this time, such as 24h or 30m, and train anew when an institution has new data.",
)
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default="runs",
    show_default=True,
    help="Folder of all runs.",
)
@click.option("--wait", type=float, default=0.0, show_default=True, help="Seconds to wait for the owners' decisions.")
@json_option
def run(
    file: Path | None, folder: Path | None, period: str | None, runs: Path, wait: float, target: str | None
) -> None:
    """Submit RUN.toml's plan, do its rounds when the owners have approved it, evaluate and publish as it says.

    Logs in as FEDREC_USER with FEDREC_PASSWORD at every institution. With --every it never ends: each run is a JSON
    line of its own, and the wait for the owners is as long as TIME.
    """
    from fedrec.scientist import program

    if (file is None) == (folder is None) or (period is not None and file is None):
        raise WrongInput("give RUN.toml, or --resume RUNDIR")
    if period is not None:
        assert file is not None
        for facts in program.every(file, _seconds(period), runs, say):
            emit(facts, target, text="")
        return
    current = program.begin(file, runs, wait, say) if file is not None else program.again(folder or Path())
    facts, text = program.finish(current, say)
    emit(facts, target, text=text)


def _seconds(period: str) -> float:
    found = re.fullmatch(r"(\d{1,6})([smhd])", period)
    if not found or int(found[1]) == 0:
        raise WrongInput(f"--every {period}: give a number with s, m, h or d, such as 24h")
    return float(int(found[1]) * _UNITS[found[2]])
