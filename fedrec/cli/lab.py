"""`fedrec lab`: the four datasites and JupyterLab on the notebooks."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from fedrec.cli.output import say

_folder = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--folder", type=_folder, default=".lab", show_default=True, help="Where the lab lives, call after call.")
@click.option("--consortium", type=_folder, default="domains/movies", show_default=True, help="Its institutions.")
@click.option("--notebooks", type=_folder, default="notebooks", show_default=True, help="Copied into the lab.")
@click.option("--no-browser", is_flag=True, help="Print the address only.")
def lab(folder: Path, consortium: Path, notebooks: Path, no_browser: bool) -> None:
    """Start four datasites and JupyterLab on the first notebook; Ctrl-C ends everything."""
    from fedrec.demo.lab import Lab

    with Lab(folder, say).running(consortium, notebooks) as jupyter:
        say("you play aurora's owner and the scientist; the other owners approve by themselves. Ctrl-C ends everything")
        click.echo(jupyter.url)
        if not no_browser:
            webbrowser.open(jupyter.url)
        try:
            jupyter.wait()
        except KeyboardInterrupt:
            say("ending everything")
