"""`fedrec evaluate`: a model on any ratings file, in simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fedrec.cli.output import emit, json_option, progress, say
from fedrec.errors import WrongInput

METRICS = (
    *("rmse", "mae", "hr@10", "ndcg@10", "recall@20", "map@10", "mrr@10", "precision@10"),
    *("novelty@10", "popular@10", "coverage@10", "gini@10"),
)
SCOPES = ("popularity", "local", "federated", "centralised")


@click.command()
@click.option("--ratings", "file", required=True, type=click.Path(path_type=Path), help="CSV, TSV, .inter or Parquet.")
@click.option("--user-column", metavar="NAME|N", help="A name, or a position from 1; guessed when left out.")
@click.option("--item-column", metavar="NAME|N", help="As the user's.")
@click.option("--rating-column", metavar="NAME|N", help="As the user's.")
@click.option("--time-column", metavar="NAME|N", help="As the user's.")
@click.option("--sep", metavar="TEXT", help="Between cells; found when left out.")
@click.option("--no-header", is_flag=True, help="The first line is a row; columns are user, item, rating, time.")
@click.option("--model", "name", default="default", show_default=True, help="As in fedrec.models.NAMES.")
@click.option(
    "--item-features", type=click.Path(path_type=Path), metavar="FILE", help="About items, for hybrid: CSV or Parquet."
)
@click.option("--user-features", type=click.Path(path_type=Path), metavar="FILE", help="About users, as of items.")
@click.option("--institutions", type=click.IntRange(min=1), default=4, show_default=True, help="How many.")
@click.option(
    "--by", default="iid", show_default=True, metavar="iid|size|cluster|column:NAME", help="How users are dealt."
)
@click.option(
    "--protocol",
    type=click.Choice(["p1", "p2", "p3"]),
    default="p1",
    show_default=True,
    help="Held out: the last row (p1; p2 among 99 others), or the last fifth (p3).",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@json_option
def evaluate(
    file: Path,
    user_column: str | None,
    item_column: str | None,
    rating_column: str | None,
    time_column: str | None,
    sep: str | None,
    no_header: bool,
    name: str,
    item_features: Path | None,
    user_features: Path | None,
    institutions: int,
    by: str,
    protocol: str,
    seed: int,
    target: str | None,
) -> None:
    """Deal the users of a ratings file out to institutions, and compare each alone with all together.

    Everything happens in this process; no datasite is asked. Every row counts as a positive; mf-explicit predicts
    the ratings too, and is judged by their errors. The features' kinds are guessed from their columns, and said.
    """
    from fedrec.datasets.about import read_about
    from fedrec.datasets.ratings import Role, read_ratings
    from fedrec.demo.offline import compare, federation_of, fitting
    from fedrec.models import OUTCOMES, create

    create(name, {})
    if name in (*OUTCOMES, "features"):
        raise WrongInput(f"{name} ranks nothing: this command compares recommenders")
    if name != "hybrid" and (item_features or user_features):
        raise WrongInput(f"{name} reads no features: take --model hybrid")
    asked: list[tuple[Role, str | None]] = [
        ("user", user_column),
        ("item", item_column),
        ("rating", rating_column),
        ("timestamp", time_column),
    ]
    group = by.removeprefix("column:") if by.startswith("column:") else None
    named = {role: column for role, column in asked if column is not None}
    with progress() as display:
        task = display.add_task(f"reading {file.name}", total=None)
        ratings = read_ratings(file, named, sep=sep, header=False if no_header else None, group=group)
        display.print(f"{file.name}: {ratings.text()}", highlight=False, soft_wrap=True)
        items_are = read_about(item_features, "item") if item_features else None
        users_are = read_about(user_features, "user") if user_features else None
        for about, one in ((item_features, items_are), (user_features, users_are)):
            if about and one:
                display.print(f"{about.name}: {one.text()}", highlight=False, soft_wrap=True)
        federation = federation_of(ratings, institutions, by, seed, users_are=users_are, items_are=items_are)
        model = fitting(name, federation.n_items)
        if model != name:
            say(f"{federation.n_items} items are too many for the blend: {model} instead")
        display.update(task, description=f"training and evaluating {model}")
        found = compare(federation, name, protocol, seed)
    row: dict[str, Any] = {
        "model": model,
        "protocol": protocol,
        "institutions": institutions,
        "by": by,
        "seed": seed,
        "users": int(ratings.frame["user"].nunique()),
        "items": federation.n_items,
        "rows": len(ratings.frame),
        "columns": ratings.columns,
        "left_out": ratings.left_out,
        "duplicates": ratings.duplicates,
        **found,
    }
    emit(row, target, _drawn(row))


def _drawn(row: dict[str, Any]) -> str:
    lines = [
        f"{row['model']}, {row['protocol']}, {row['institutions']} institutions by {row['by']}: "
        f"{row['users']} users, {row['items']} items, mean over the {row['judged']} users with enough rows"
    ]
    shown = [metric for metric in METRICS if any(row[scope][metric] is not None for scope in SCOPES)]
    table = [["", *shown], *([scope, *(_figure(row[scope][metric]) for metric in shown)] for scope in SCOPES)]
    wide = [max(8, *(len(cells[place]) + 1 for cells in table)) for place in range(len(shown) + 1)]
    for first, *cells in table:
        lines.append(f"{first:12}" + "".join(f"{one:>{width}}" for one, width in zip(cells, wide[1:], strict=True)))
    lines += ["", "NDCG@10, 95 % interval: " + "; ".join(_around(scope, row["intervals"][scope]) for scope in SCOPES)]
    lines += ["", "Is it worth it for us? NDCG@10 on its own users", _HEAD]
    for one in row["worth"]:
        name = f"  {one['group']}" if one["group"] else one["institution"]
        figures = "".join(f"{_figure(one[key]):>12}" for key in ("popularity", "local", "federated"))
        if one["group"] == "" or one["institution"] == "all":
            lines.append(f"{name:14}{one['users']:>7}{figures}  {one['verdict']}")
    return "\n".join(lines)


_HEAD = f"{'':14}{'users':>7}{'popularity':>12}{'alone':>12}{'federated':>12}"


def _around(scope: str, interval: tuple[float, float] | None) -> str:
    return f"{scope} {_figure(None)}" if interval is None else f"{scope} {interval[0]:.4f} to {interval[1]:.4f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
