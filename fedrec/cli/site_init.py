"""`fedrec site init`: an institution's folder from flags, or by asking."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import click

from fedrec.cli.output import emit, json_option, say
from fedrec.errors import WrongInput

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", help="The site's name: a-z, 0-9 and -; by default DIR's.")
@click.option("--title", help="The institution's name, for people.")
@click.option("--owner", help="E-mail address of the data owner, who decides on requests.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port on the loopback address; 0 = any free one, the default."
)
@click.option(
    "--data", type=_file, help="CSV, TSV or Parquet file with a row an interaction; it is copied to DIR/data."
)
@click.option("--schema", type=_file, help="A schema.toml to copy; without it one is guessed from the data.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="KEY=NAME",
    help="Which column is the user, item, rating or time; an empty NAME: none.",
)
@click.option(
    "--consortium", default="../consortium.toml", show_default=True, help="The consortium's file, relative to DIR."
)
@json_option
def init(
    folder: Path, name: str | None, title: str | None, owner: str | None, port: int | None, data: Path | None,
    schema: Path | None, columns: tuple[str, ...], consortium: str, target: str | None,
) -> None:  # fmt: skip
    """Make DIR an institution's folder: settings, schema, data card, mock, keys. Overwrites nothing.

    What no flag says is asked for when somebody sits at the terminal.
    """
    from fedrec.institution.scaffold import scaffold

    proposed = re.sub(r"[^a-z0-9]+", "-", folder.absolute().name.lower()).strip("-")[:63]
    asks = sys.stdin.isatty()
    if asks:
        name = name or click.prompt("Name of the site", default=proposed, err=True)
        title = title or click.prompt("Name of the institution", default=str(name).replace("-", " ").title(), err=True)
        owner = owner or click.prompt("E-mail of the data owner", err=True)
        port = port if port is not None else click.prompt("Port (0 = any free one)", default=0, type=int, err=True)
        if data is None and (
            path := click.prompt("Data file (empty: later)", default="", show_default=False, err=True)
        ):
            data = Path(path).expanduser()
    if not owner:
        raise WrongInput("--owner is missing: the e-mail address of the data owner")
    made = scaffold(
        folder, name=name or proposed, title=title or "", owner=owner, port=port or 0, data=data, schema=schema,
        columns=_columns(columns), consortium=consortium,
    )  # fmt: skip
    for line in made.said:
        say(f"guessed: {line}")
    place = json.dumps(folder.absolute().name)
    member = f'[[member]]\nname = "{name or proposed}"\nfolder = {place}\nurl = ""\nkey = "{made.key}"'
    facts = {"folder": str(folder), "files": list(made.files), "key": made.key, "guessed": list(made.said)}
    text = (
        f"{folder}: wrote {', '.join(made.files)}\nCorrect schema.toml and fill in DATASHEET.md; both are public."
        f" The consortium's file needs this member:\n\n{member}\n\nThen: fedrec site check {folder}"
    )
    emit(facts, target, text=text)


def _columns(given: tuple[str, ...]) -> dict[str, str]:
    from fedrec.institution.scaffold import ROLES

    found = {}
    for pair in given:
        key, equals, name = pair.partition("=")
        if key not in ROLES or not equals:
            raise WrongInput(f"--column {pair}: write user=NAME, item=NAME, rating=NAME or time=NAME")
        found[key] = name
    return found
