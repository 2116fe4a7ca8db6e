"""`fedrec recommend`: at the institution, from its private store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fedrec.cli.output import emit, json_option
from fedrec.cli.site import folder_argument

_HEADS = {
    "list": "for this user",
    "folded": "from what is known today, by the served model",
    "popular": "this user is not known here, so these are popular",
}


@click.command()
@folder_argument
@click.option("--user", metavar="ID", help="The user's id as in the institution's data.")
@click.option("--items", metavar="A,B,C", help="Instead of a user: items that somebody touched, oldest first.")
@click.option(
    "--about",
    multiple=True,
    metavar="NAME=VALUE",
    help="Of somebody new: a user feature of schema.toml; may be repeated, with --items or without.",
)
@click.option(
    "--all",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.parquet",
    help="Instead of a user: write user, rank, item for all users.",
)
@click.option("-k", "length", type=int, default=10, show_default=True, help="How many items, 1 to 100.")
@click.option(
    "--where",
    multiple=True,
    metavar="FILTER",
    help="Only items with name=value, name!=value, name>=number or name<=number in the catalogue or the item "
    "features; may be repeated, and all must hold.",
)
@click.option("--explain", is_flag=True, help="Say because of which of the user's items.")
@json_option
def recommend(
    folder: Path,
    user: str | None,
    items: str | None,
    about: tuple[str, ...],
    file: Path | None,
    length: int,
    where: tuple[str, ...],
    explain: bool,
    target: str | None,
) -> None:
    """Print the served model's best items for a user of DIR; users that it does not know get what is popular."""
    from fedrec.institution.batch import export
    from fedrec.institution.recommending import recommend as ask

    if [user, items or about or None, file].count(None) != 2:
        raise click.UsageError("name one of --user, --items (or --about) and --all")
    if file is not None:
        done = export(folder, file, length, where)
        emit(done, target, text=f"{file}: {done['rows']} rows for {done['users']} users")
        return
    touched = items.split(",") if items else ()
    found = ask(folder, user, touched, about=about, k=length, where=where, explain=explain)
    rows: list[dict[str, Any]] = [
        {"rank": rank, "item": item, "title": found.titles[item]} for rank, item in enumerate(found.items, 1)
    ]
    lines = [f"{row['rank']:3d}  {row['title']}" for row in rows]
    for place, because in enumerate(found.reasons):
        rows[place]["because"] = because
        if because:
            lines[place] += f"  (because of {', '.join(found.titles[item] for item in because)})"
    head = _HEADS[found.how] + ("" if found.model == "shared" else f", by the institution's {found.model} model")
    facts = {"known": found.known, "how": found.how, "model": found.model}
    emit({**facts, "items": rows}, target, text="\n".join([head, *lines]))
