"""fedrec data: get a rating file, and deal it out to institutions."""

from __future__ import annotations

from pathlib import Path

import click

from fedrec.cli.output import emit, json_option, progress

WORLDS = ("banks", "hospitals", "shops", "social")  # of fedrec.datasets, whose import takes pandas with it


@click.group()
def data() -> None:
    """Get a rating file, and deal it out to institutions."""


@data.command()
@click.argument("name", type=click.Choice(["ml-100k", "synthetic", *WORLDS]))
@click.argument("dest", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--from-file",
    type=click.Path(path_type=Path),
    help="ML-100K that you have: the recbole wheel, ml-100k.inter or u.data.",
)
@click.option("--users", type=click.IntRange(min=1), help="Synthetic: how many users.  [default: 600]")
@click.option("--items", type=click.IntRange(min=1), help="Synthetic: how many items.  [default: 400]")
@click.option("--seed", type=click.IntRange(min=0), help="Of what is generated.  [default: 7]")
@json_option
def get(
    name: str,
    dest: Path,
    from_file: Path | None,
    users: int | None,
    items: int | None,
    seed: int | None,
    target: str | None,
) -> None:
    """Write ratings.csv, users.csv and items.csv of NAME into the folder DEST."""
    from fedrec import datasets

    sizes = {key: value for key, value in (("users", users), ("items", items), ("seed", seed)) if value is not None}
    allowed = {"ml-100k": (), "synthetic": tuple(sizes)}.get(name, ("seed",))
    if wrong := [key for key in sizes if key not in allowed]:
        raise click.UsageError(f"--{wrong[0]} is for synthetic data")
    if name != "ml-100k" and from_file is not None:
        raise click.UsageError("--from-file is for ml-100k")
    with progress() as display:
        task = display.add_task(f"getting {name}", total=None)
        if name == "ml-100k":
            found = datasets.get_ml100k(dest, from_file, lambda text: display.update(task, description=text))
        elif name == "synthetic":
            found = datasets.synthetic(dest, **sizes)
        else:
            found = datasets.WORLDS[name](dest, sizes.get("seed", 7))
    text = f"{found.source}: {found.rows} rows of {found.users} users and {found.items} items in {dest}"
    emit({"name": name, "dest": str(dest), **found.as_dict()}, target, text)


@data.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(file_okay=False, path_type=Path))
@click.option("--institutions", required=True, metavar="K|NAMES", help="How many, or their names with commas.")
@click.option("--by", default="iid", show_default=True, metavar="iid|size|column:NAME", help="How users are dealt out.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@json_option
def split(file: Path, dest: Path, institutions: str, by: str, seed: int, target: str | None) -> None:
    """Deal the users of FILE out to institutions: DEST/<institution>/data/ratings.csv."""
    from fedrec.datasets import split_by_user

    named: int | list[str] = int(institutions) if institutions.isdecimal() else institutions.split(",")
    with progress() as display:
        display.add_task(f"dealing out {file.name}", total=None)
        rows = split_by_user(file, dest, named, by, seed)
    width = max(len(name) for name in rows)
    text = "\n".join(f"{name:<{width}}  {count} rows" for name, count in rows.items())
    emit({"by": by, "seed": seed, "institutions": list(rows), "rows": rows}, target, text)
