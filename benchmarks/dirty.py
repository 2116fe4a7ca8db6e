"""What dirty rows at one of four institutions cost, and what its intake rules win back: NDCG@10 on ML-100K.

python benchmarks/dirty.py [--json FILE] [--seeds N]: P1. The last two rows of each user are put aside first and stay
clean; the others of aurora are dirtied, and the default model is trained by aurora alone and by all
four. It is measured on aurora's own clean users and on those of the other three, with each row as it is and with rules:
  duplicates  40 % of the rows come again, up to 30 times, at random times    on_duplicate = "first"
  conflicts   40 % of the rows come again with ratings from 0 to 9            scale 1 to 5, on_duplicate = "first"
  bots        60 accounts with 400 rows each, all on the same 500 items       values.channel = ["web"]
  times       every row has the time of another row                           no time column
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedrec import models
from fedrec.core.interactions import Interactions
from fedrec.core.metrics import Sums
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.core.split import split
from fedrec.datasets import deal, get_ml100k
from fedrec.datasets.parts import CINEMAS
from fedrec.institution.index import index_frame
from fedrec.institution.work import evaluate
from fedrec.scientist.plan import Plan
from fedrec.simulation import SimulatedFederation

DIRTY = CINEMAS[0]
WHO = ("aurora alone", "aurora federated", "others federated")
RULES: dict[str, dict[str, Any]] = {
    "clean": {},
    "duplicates": {"on_duplicate": "first"},
    "conflicts": {"on_duplicate": "first", "scale": (1.0, 5.0)},
    "bots": {"values": {"channel": ["web"]}},
    "times": {"time": None},
}


def dirtied(frame: pd.DataFrame, how: str, n_items: int, seed: int) -> pd.DataFrame:
    """Aurora's train rows after the accident."""
    draw = np.random.default_rng(seed)
    again = frame.sample(frac=0.4, random_state=seed)
    first, last = frame["timestamp"].min(), frame["timestamp"].max()
    if how == "duplicates":
        again = again.loc[again.index.repeat(draw.integers(1, 31, len(again)))]
        again = again.assign(timestamp=draw.integers(first, last, len(again)))
    elif how == "conflicts":
        again = again.assign(rating=draw.integers(0, 10, len(again)), timestamp=draw.integers(first, last, len(again)))
    elif how == "bots":
        pushed = draw.permutation(n_items)[:500]
        rows = [(f"bot{n}", i) for n in range(60) for i in draw.permutation(pushed)[:400]]
        again = pd.DataFrame(rows, columns=["user", "item"]).assign(rating=5, channel="api")
        again["timestamp"] = draw.integers(first, last, len(again))
    elif how == "times":
        return frame.assign(timestamp=draw.permutation(frame["timestamp"].to_numpy()))
    return frame if how == "clean" else pd.concat([frame, again], ignore_index=True)


def as_it_is(frame: pd.DataFrame, n_items: int) -> Interactions:
    """Every row, oldest first, whatever it says."""
    ordered = frame.iloc[::-1].sort_values(["user", "timestamp"], kind="stable")
    user = pd.factorize(ordered["user"])[0].astype(np.int32)
    columns = [ordered[name].to_numpy(kind) for name, kind in (("item", np.int32), ("rating", np.float32))]
    return Interactions(user, *columns, ordered["timestamp"].to_numpy(np.int64), int(user[-1]) + 1, n_items)


def with_rules(frame: pd.DataFrame, n_items: int, rules: dict[str, Any]) -> Interactions:
    """What fedrec's intake keeps."""
    texts = frame.astype({"user": str, "item": str})
    return index_frame(texts, [str(n) for n in range(n_items)], **rules).rows


def trained(sites: dict[str, Interactions]) -> SharedParams:
    """The default model of all rows given."""
    federation = SimulatedFederation(sites, next(iter(sites.values())).n_items)
    return federation.train(Plan(model=models.Default(), train=("all",))).shared


def scored(shared: SharedParams, clean: dict[str, Interactions]) -> tuple[float, float]:
    """NDCG@10 of aurora's clean users, and of the others'."""
    sums = {
        name: Sums.from_dict(evaluate(models.Default(), rows, "p1", shared, PrivateParams({}), 0, None)["federated"])
        for name, rows in clean.items()
    }
    others = sum((one for name, one in sums.items() if name != DIRTY), start=Sums())
    return sums[DIRTY].ndcg / sums[DIRTY].users, others.ndcg / others.users


def scores(known: dict[str, Interactions], mine: Interactions, clean: dict[str, Interactions]) -> tuple[float, ...]:
    """As WHO: NDCG@10 with `mine` in place of aurora's rows."""
    return scored(trained({DIRTY: mine}), clean)[0], *scored(trained({**known, DIRTY: mine}), clean)


def main() -> None:
    """Print the table: means over seeds."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--json", metavar="FILE")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        get_ml100k(Path(folder))
        ratings = pd.read_csv(f"{folder}/ratings.csv", dtype={"user": str})
    ratings["item"] = pd.factorize(ratings["item"])[0]
    n_items, users = int(ratings["item"].max()) + 1, sorted(ratings["user"].unique())
    place = ratings["user"].map(dict(zip(users, deal(users, 4, "iid", 0), strict=True)))
    clean = {name: with_rules(ratings[place == k], n_items, {}) for k, name in enumerate(CINEMAS)}
    known = {name: split(rows, "p1", 0).train for name, rows in clean.items()}
    base = known[DIRTY]
    frame = pd.DataFrame({"user": base.user, "item": base.item, "rating": base.rating, "timestamp": base.time})
    frame = frame.iloc[::-1].assign(channel="web", user=frame["user"].astype(str))  # of a tie the earlier line is later
    rows = []
    print(f"{'':12}" + "".join(f"{who + ' as is':>20}{'with rules':>12}" for who in WHO))
    for how, rules in RULES.items():
        found = []
        for seed in range(asked.seeds):
            dirty = dirtied(frame, how, n_items, seed)
            taken = as_it_is(dirty, n_items), with_rules(dirty, n_items, rules)
            found.append([scores(known, mine, clean) for mine in taken])
        mean = np.mean(found, axis=0)
        rows.append({"what": how, "as_is": mean[0].tolist(), "rules": mean[1].tolist()})
        print(f"{how:12}" + "".join(f"{a:>20.4f}{b:>12.4f}" for a, b in mean.T), flush=True)
    if asked.json:
        Path(asked.json).write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
