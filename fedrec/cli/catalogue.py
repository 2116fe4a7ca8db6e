"""`fedrec catalogue`: one catalogue for institutions that name their items differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fedrec.cli.output import emit, json_option
from fedrec.errors import WrongInput


@click.group()
def catalogue() -> None:
    """One catalogue for institutions that name their items differently."""


@catalogue.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--with", "other", metavar="NAME", help="Ask this member which items both have; the first member asks.")
@click.option(
    "--take",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take a file that the other institution wrote: a request, a response or a result.",
)
@click.option(
    "--items",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The institution's own items: CSV, TSV or Parquet, ids in the column that schema.toml names.",
)
@click.option("--key", metavar="COLUMN", help="What both know an item by: a column of --items, such as an EAN.")
@click.option(
    "--out",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where the file for the other institution is written; anybody may carry it.",
)
@click.option("--most", type=click.IntRange(min=1), help="Keys that a request may ask for (default: 10 times the own).")
@json_option
def align(
    folder: Path,
    other: str | None,
    take: Path | None,
    items: Path | None,
    key: str | None,
    out: Path,
    most: int | None,
    target: str | None,
) -> None:
    """Find the items that DIR and another institution both have, without showing each other the rest."""
    from fedrec.institution import align as aligning

    if take is None and (other is None or items is None or key is None):
        raise WrongInput("give --with NAME, --items FILE and --key COLUMN, or --take FILE")
    if take is not None:
        if other is not None:
            raise WrongInput("give --with NAME or --take FILE, not both")
        said = aligning.take(folder, take, items, key, out, most)
    else:
        assert other is not None and items is not None and key is not None  # noqa: PT018
        said = aligning.begin(folder, other, items, key, out)
    emit(said, target, text=_report(said))


def _report(said: dict[str, Any]) -> str:
    lines = [f"{said['step']}, with {said['with']}: {said['keys']} keys here"]
    lines += [f"asked for {said['asked']} keys"] if "asked" in said else []
    lines += [f"{said['with']} has {said['theirs']} keys"] if "theirs" in said else []
    lines += [f"in common: {said['common']}"] if "common" in said else []
    lines += [f"carry this to {said['with']}: {said['file']}"] if "file" in said else []
    lines += [f"the shared catalogue, for all members: {said['catalogue']}"] if "catalogue" in said else []
    lines += [f'set item_ids = "shared_items.csv" in site.toml: {said["mapping"]}'] if "mapping" in said else []
    return "\n".join(lines)
