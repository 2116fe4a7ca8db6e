"""The article's example on real datasites: `python -m fedrec.examples.sigmoid_unit --real`.

Each institution is a `fedrec site serve` in a process and folder of its own. Its rows are those of the simulation, as
a CSV file that its site takes in; its owner reads and approves the plan in a process that holds only his password.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from fedrec.config import ConsortiumConfig
from fedrec.demo import owners
from fedrec.demo.sites import SCIENTIST, Sites, timed, write_consortium
from fedrec.institution.site import Keys
from fedrec.scientist.connect import connect
from fedrec.scientist.plan import Plan

if TYPE_CHECKING:
    from fedrec.scientist.datasites import Datasites

SITE = """name = "{name}"
title = "Institution {name}"
owner = "owner@{name}.example"
port = 0
"""
SCHEMA = """title = "A yes/no outcome, and what is known of each person"
[columns]
user = "user"
item = "item"
rating = "rating"
[rating]
min = 0
max = 1
[mock]
items = 1
rows = 50
[features.user]
"""


def prepared(work: Path, rows: Mapping[str, pd.DataFrame]) -> ConsortiumConfig:
    """Make one folder for each institution below `work`, and its keys.

    Args:
        work: a new folder.
        rows: by institution: user, item, rating, and a number for each feature in a column of its own.
    """
    work.mkdir(parents=True)
    items = sorted({item for frame in rows.values() for item in frame["item"]})
    pd.DataFrame({"item": items}).to_csv(work / "items.csv", index=False)
    text = 'name = "article"\ntitle = "The article\'s example"\ncatalogue = "items.csv"\n'
    for name, frame in rows.items():
        text += f'[[member]]\nname = "{name}"\nfolder = "{name}"\n'
        (work / name / "data").mkdir(parents=True)
        frame.to_csv(work / name / "data" / "ratings.csv", index=False)
        features = [column for column in frame if column not in ("user", "item", "rating")]
        numbers = "".join(f'{column} = {{ type = "number" }}\n' for column in features)
        for file, content in (
            ("site.toml", SITE.format(name=name)),
            ("schema.toml", SCHEMA + numbers),
            ("DATASHEET.md", f"# Generated rows of institution {name}\n"),
        ):
            (work / name / file).write_text(content)
    (work / "consortium.toml").write_text(text)
    keys = {name: Keys.load_or_make(work / name / "state").public for name in rows}
    return write_consortium(ConsortiumConfig.load(work / "consortium.toml"), work, keys=keys)


@contextmanager
def approved(
    work: Path, rows: Mapping[str, pd.DataFrame], plan: Plan, say: Callable[[str], object]
) -> Iterator[Datasites]:
    """Running sites whose owners have all approved the plan, as the scientist is logged in; ended with the block."""
    prepared(work, rows)
    passwords = {name: secrets.token_urlsafe(12) for name in (*rows, "scientist")}
    sites = Sites(work, passwords.__getitem__)
    began = time.monotonic()
    with sites:
        say(f"{len(rows)} datasites started, each took its own rows in ({time.monotonic() - began:.1f} s)")
        with timed("the scientist has an account at each, and submitted the plan", say):
            sites.add_user(SCIENTIST, "scientist", passwords["scientist"])
            federation = connect(sites.consortium, SCIENTIST, passwords["scientist"])
            waiting = federation.submit(plan)
        with timed(f"{len(rows)} owners read and approved it", say):
            requests = {name: {plan.spec.name: request} for name, request in waiting.ids.items()}
            owners.read(sites, requests)
            owners.decide(sites, requests)
            waiting.wait(120, show=lambda _: None)
        with timed("trained", say):
            yield federation
