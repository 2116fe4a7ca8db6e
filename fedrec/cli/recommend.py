"""`fedrec recommend`: at the institution, from its private store."""

from __future__ import annotations

import csv
from pathlib import Path

import click

from fedrec.cli.output import emit, json_option
from fedrec.cli.site import folder_argument


@click.command()
@folder_argument
@click.option("--user", required=True, metavar="ID", help="The user's id as in the institution's data.")
@click.option("-k", "length", type=int, default=10, show_default=True, help="How many items, 1 to 100.")
@json_option
def recommend(folder: Path, user: str, length: int, target: str | None) -> None:
    """Print the served model's best items for a user of DIR; users that it does not know get what is popular."""
    from fedrec.config import ConsortiumConfig, SiteConfig
    from fedrec.core.ids import clean_id
    from fedrec.institution.local import local_act
    from fedrec.institution.published import Published

    consortium = ConsortiumConfig.load(SiteConfig.load(folder / "site.toml").consortium_path)
    published = Published(folder / "state")
    with local_act(folder, "recommend", published.current()["model"]) as facts:  # the log has counts, and no id
        items, known = published.recommend(clean_id(user) or user, length, consortium.item_ids())
        facts.update(users=1, items=len(items), known=known)
    with consortium.catalogue_path.open(encoding="utf-8-sig", newline="") as file:
        titles = {row["item"]: row.get("title") or row["item"] for row in csv.DictReader(file)}
    rows = [{"rank": rank, "item": item, "title": titles.get(item, item)} for rank, item in enumerate(items, 1)]
    head = "for this user" if known else "this user is not known here, so these are popular"
    emit(
        {"known": known, "items": rows},
        target,
        text="\n".join([head, *(f"{row['rank']:3d}  {row['title']}" for row in rows)]),
    )
