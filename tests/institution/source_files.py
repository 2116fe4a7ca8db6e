"""Institution folders whose rows come from a file or a database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fedrec.config import SchemaConfig

SECRET = "canary-7731"
ROWS = [("u", "b", 3, 20), (" v", "a", 5, 10), ("v", "b", 1, 30)]
SCHEMA = """title = "T"
[columns]
user = "user"
item = "item"
rating = "rating"
time = "timestamp"
[rating]
min = 1
max = 5
"""
CATALOGUE = ("a", "b", "c", "d")


def schema(**changes) -> SchemaConfig:
    """The schema of rows of four columns, of which any number may be rejected; `changes` replace its tables."""
    full = {
        "title": "T",
        "columns": {"user": "user", "item": "item", "rating": "rating", "time": "timestamp"},
        "rating": {"min": 1.0, "max": 5.0},
        "max_rejected": 1.0,
    }
    return SchemaConfig.model_validate({**full, **changes})


def institution(root: Path, site: str = "", schema: str = SCHEMA) -> Path:
    folder = root / "one"
    (folder / "data").mkdir(parents=True)
    (root / "items.csv").write_text("item,genre\na,war\nb,love\n")
    (root / "consortium.toml").write_text('name="c"\ntitle="C"\n[[member]]\nname="one"\nfolder="one"\n')
    (folder / "site.toml").write_text(f'name="one"\ntitle="One"\nowner="o@one.example"\n{site}')
    (folder / "schema.toml").write_text(schema)
    return folder


def columns(rows=ROWS) -> dict[str, list]:
    return dict(zip(("user", "item", "rating", "timestamp"), map(list, zip(*rows, strict=True)), strict=True))


def database(path: Path, rows=ROWS) -> None:
    with sqlite3.connect(path) as line:
        line.execute("CREATE TABLE ratings (user, item, rating, timestamp, note)")
        line.executemany("INSERT INTO ratings VALUES (?, ?, ?, ?, 'x')", rows)
    line.close()


SQLITE = '[source]\nurl = "sqlite:///data/shop.db"\nquery = "SELECT {} FROM ratings"\n'
ALL = "user, item, rating, timestamp"
