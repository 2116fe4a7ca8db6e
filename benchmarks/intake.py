"""What taking data in costs: seconds and memory for CSV, Parquet and SQLite of 100,000 and 5 million rows.

python benchmarks/intake.py [--json FILE] [--rows N …]: each case is a process of its own, so that its peak memory
is its own. Rows are drawn at random: 1 user for 100 rows, 20,000 items, ratings 1 to 5, timestamps over a year.
"""

from __future__ import annotations

import argparse
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ITEMS = 20_000
COLUMNS = ("user", "item", "rating", "timestamp")
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
SOURCES = {
    "csv": "",
    "parquet": 'data = "data/ratings.parquet"\n',
    "sqlite": '[source]\nurl = "sqlite:///data/shop.db"\nquery = "SELECT user, item, rating, timestamp FROM ratings"\n',
}


def make(folder: Path, rows: int) -> None:
    """An institution with the same rows in three forms."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv, parquet

    draw = np.random.default_rng(rows)
    user = pa.array(draw.integers(0, max(rows // 100, 10), rows))
    item = pa.array((ITEMS * draw.random(rows) ** 2).astype(np.int64))
    when = pa.array(1_700_000_000 + draw.integers(0, 31_536_000, rows))
    table = pa.table([user, item, pa.array(draw.integers(1, 6, rows)), when], names=list(COLUMNS))
    (folder / "data").mkdir(parents=True)
    csv.write_csv(table, folder / "data" / "ratings.csv")
    parquet.write_table(table, folder / "data" / "ratings.parquet")
    with sqlite3.connect(folder / "data" / "shop.db") as line:
        line.execute("CREATE TABLE ratings (user, item, rating, timestamp)")
        columns = (table[name].to_pylist() for name in COLUMNS)
        line.executemany("INSERT INTO ratings VALUES (?, ?, ?, ?)", zip(*columns, strict=True))
    line.close()
    (folder.parent / "items.csv").write_text("item\n" + "".join(f"{n}\n" for n in range(ITEMS)))
    (folder.parent / "consortium.toml").write_text('name="c"\ntitle="C"\n[[member]]\nname="a"\nfolder="a"\n')
    (folder / "schema.toml").write_text(SCHEMA)


def take_in(folder: Path) -> dict[str, float]:
    """In this process: seconds of one intake, and the peak of memory above the imports."""
    from fedrec.institution.intake import take_in_folder

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    take_in_folder(folder)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": round(seconds, 2), "memory_mb": round((peak - before) / 1000)}


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, nargs="+", default=[100_000, 5_000_000])
    options.add_argument("--json", metavar="FILE")
    options.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.one is not None:
        print(json.dumps(take_in(asked.one)))
        return
    if asked.make is not None:
        make(asked.make, asked.rows[0])
        return
    found = []
    print(f"{'rows':>10} {'source':<8} {'seconds':>8} {'rows/s':>10} {'memory MB':>10}")
    for rows in asked.rows:
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / "a"
            # A process of its own: Linux counts a parent's memory in the peak of its children.
            subprocess.run([sys.executable, __file__, "--make", str(folder), "--rows", str(rows)], check=True)
            for source, lines in SOURCES.items():
                (folder / "site.toml").write_text(f'name="a"\ntitle="A"\nowner="o@a.example"\n{lines}')
                subprocess.run(["rm", "-rf", str(folder / "state")], check=True)
                command = [sys.executable, __file__, "--one", str(folder)]
                done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                found.append({"rows": rows, "source": source, **done})
                speed = f"{rows / done['seconds']:,.0f}"
                print(f"{rows:>10,} {source:<8} {done['seconds']:>8.2f} {speed:>10} {done['memory_mb']:>10,}")
    if asked.json:
        Path(asked.json).write_text(json.dumps({"rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
