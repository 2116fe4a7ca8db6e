"""How good each model is on ML-100K: alone, federated, centralised, for 4 and 16 institutions in four splits.

python benchmarks/quality.py [--rows FILE] [--models …] [--institutions …] [--by …] [--page docs/quality.md]: every row
goes to FILE (JSON lines) as it ends; what is there already is not done again. The page is made from FILE.
iid and size deal users as `fedrec data split`; age cuts users in the order of their age; genre along the main axis of
the shares of genres that they rate. First settings are tried on validation rows only, at K = 4 iid, and printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedrec import models
from fedrec.core.metrics import Sums
from fedrec.datasets import deal, get_ml100k
from fedrec.datasets.parts import default_names
from fedrec.scientist.plan import Plan
from fedrec.scientist.worth import worth
from fedrec.simulation import SimulatedFederation, pooled, simulate

MODELS = ("popularity", "itemcf", "usercf", "ease", "sequential", "default", "mf", "ials", "bpr", "neumf")
PROTOCOLS = ("p1", "p2", "p3")
SPLITS = ("iid", "size", "age", "genre")
TRIED: dict[str, dict[str, list[Any]]] = {
    "ease": {"l2": [50.0, 100.0, 200.0, 400.0]},
    "itemcf": {"neighbours": [20, 50, 100]},
    "default": {"floor": [0.0, 0.2, 0.4], "recency": [3.0, 5.0, 10.0], "share": [0.5, 1.0, 2.0]},
}
ALL = {"default": (0.18, 0.10, 0.70, 0.435, 0.26), "ease": (0.153, 0.078, 0.64, 0.385, 0.202)}  # in every split
FLOOR = (0.140, 0.070, 0.63, 0.37, 0.19)  # of any model; P1 HR and NDCG, P2 HR and NDCG, P3 NDCG
EXACT = ("popularity", "itemcf", "usercf", "ease", "sequential", "default", "ials")
WORDS = (
    "`bpr`, `neumf`, item CF and user CF lie where their centralised anchors lie, below the floor; `ease` under p2 is",
    "within the noise of the 99 drawn items. Other models: `private` in [privacy.md](privacy.md), `hybrid` in",
    "[models.md](models.md), `logistic` in [worlds.md](worlds.md); `mf-explicit` RMSE: tests/models/test_figures.py.",
    "Where a validation row prefers another value than the default within its noise (8 %), the literature's stays.",
)
ROWS = Path("benchmarks/quality.jsonl")


def federation_of(frames: dict[str, pd.DataFrame], count: int, by: str) -> SimulatedFederation:
    """ML-100K dealt out to `count` institutions."""
    ratings = frames["ratings"]
    users = sorted(ratings["user"].unique())
    if by in ("iid", "size"):
        place = deal(users, count, by, 0)
    else:
        along = _ages(frames) if by == "age" else _genres(frames)
        place = np.empty(len(users), dtype=np.int64)
        for number, part in enumerate(np.array_split(np.argsort(along[users].to_numpy(), kind="stable"), count)):
            place[part] = number
    at = ratings["user"].map(dict(zip(users, place, strict=True)))
    names = default_names(count)
    return simulate({name: ratings[at == k] for k, name in enumerate(names)}, catalogue=list(frames["items"]["item"]))


def _ages(frames: dict[str, pd.DataFrame]) -> pd.Series[float]:
    return frames["users"].set_index("user")["age"].astype(float)


def _genres(frames: dict[str, pd.DataFrame]) -> pd.Series[float]:
    """Each user's place on the main axis of the genres' shares."""
    genres = frames["items"].set_index("item")["genres"].fillna("").str.get_dummies("|")
    shares = genres.loc[frames["ratings"]["item"]].groupby(frames["ratings"]["user"].to_numpy()).mean()
    centred = shares.to_numpy() - shares.to_numpy().mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    return pd.Series(centred @ (axis * np.sign(axis[np.argmax(abs(axis))])), index=shares.index)


def chosen(federation: SimulatedFederation) -> list[dict[str, Any]]:
    """Settings tried, with their validation NDCG@10: no test row is looked at."""
    found = []
    for name, grid in TRIED.items():
        plan = Plan(model=models.create(name, {}), train=("p1",), evaluate=True)
        table = federation.search(plan, grid).table
        found += [{"model": name, **row} for row in table.to_dict("records")]
    return found


def row_of(federation: SimulatedFederation, name: str, protocol: str) -> dict[str, Any]:
    """Means by scope, and what federation adds, with its interval."""
    began = time.monotonic()
    rows = "p3" if protocol == "p3" else "p1"
    run = federation.train(Plan(model=models.create(name, {}), train=(rows,), evaluate=True))
    run.evaluate(protocol)
    answers = run.evaluations[protocol]
    total = {s: sum((Sums.from_dict(a.numbers[s]) for a in answers), start=Sums()) for s in ("local", "federated")}
    each = [one for one in worth(answers) if one["group"] == ""]
    facts = {key: each[-1][key] for key in ("gain", "low", "high")}
    return {
        **{scope: {key: sums.means()[key] for key in ("hr@10", "ndcg@10")} for scope, sums in total.items()},
        **facts,
        "below_local": sum(one["high"] < 0 for one in each[:-1]),
        "sites": len(each) - 1,
        "seconds": round(time.monotonic() - began, 1),
    }


def targets(rows: list[dict[str, Any]], central: dict[tuple[str, str], Any]) -> list[str]:
    """What was asked of the figures, and whether they give it: the worst of all splits and numbers of institutions."""

    def worst(name: str) -> tuple[float, ...]:
        of = {p: [r["federated"] for r in rows if (r["model"], r["protocol"]) == (name, p)] for p in PROTOCOLS}
        low = {(p, m): min(one[m] for one in found) for p, found in of.items() for m in ("hr@10", "ndcg@10")}
        return (*(low[p, m] for p in ("p1", "p2") for m in ("hr@10", "ndcg@10")), low["p3", "ndcg@10"])

    def gain(name: str, count: int) -> float:
        (row,) = (
            r for r in rows if (r["model"], r["protocol"], r["institutions"], r["by"]) == (name, "p1", count, "iid")
        )
        return float(row["gain"] / row["local"]["ndcg@10"])

    def spell(figures: tuple[float, ...]) -> str:
        return "P1 {:.3f}/{:.3f}, P2 {:.3f}/{:.3f}, P3 {:.3f}".format(*figures)

    def reached(found: tuple[float, ...], asked: tuple[float, ...]) -> bool:
        return all(round(have, 3) >= want for have, want in zip(found, asked, strict=True))

    asks = [(f"{n}, every split: {spell(want)}", spell(worst(n)), reached(worst(n), want)) for n, want in ALL.items()]
    apart = max(
        abs(r["federated"]["ndcg@10"] - central[r["model"], r["protocol"]]["ndcg@10"])
        for r in rows
        if r["model"] in EXACT
    )
    asks.append(("statistic models: federated = centralised", f"largest difference {apart:.1e}", apart <= 1e-5))
    share = min(r["federated"]["ndcg@10"] / central["mf", r["protocol"]]["ndcg@10"] for r in rows if r["model"] == "mf")
    asks.append(("mf: at least .98 of centralised", f"{share:.3f}", share >= 0.98))
    for name in ("ease", "default"):
        for count, want in ((4, 0.2), (16, 0.4)):
            asks.append(
                (
                    f"{name}, K = {count} iid: {want:+.0%} P1 NDCG over its own",
                    f"{gain(name, count):+.0%}",
                    gain(name, count) >= want,
                )
            )
    below = [
        f"{r['model']} {r['protocol']} K={r['institutions']} {r['by']} {r['gain'] / r['local']['ndcg@10']:+.1%}"
        for r in rows
        if r["gain"] < 0 and r["protocol"] != "p3"
    ]
    asks.append(("no model below its own on P1 or P2", "; ".join(below) or "none", not below))
    short = [name for name in MODELS[1:] if not reached(worst(name), FLOOR)]
    asks.append((f"floor of any model: {spell(FLOOR)}", f"below: {', '.join(short) or 'none'}", not short))
    return [f"| {what} | {found} | {'yes' if met else '**no**'} |" for what, found, met in asks]


def page(rows: list[dict[str, Any]], tried: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    central = {(r["model"], r["protocol"]): r["federated"] for r in rows if r["institutions"] == 1}
    rows = sorted(rows, key=lambda r: (r["protocol"], MODELS.index(r["model"])))
    lines = [
        "# Quality on ML-100K",
        "",
        "Written by `python benchmarks/quality.py`: test rows, default settings. HR@10 / NDCG@10, mean over users.",
        "Gain is federated minus local NDCG@10 with the 95 % interval of the paired difference; `worse` counts",
        "institutions whose interval lies below 0, of which chance alone makes one in forty. Splits: the script.",
        "",
        "| model | protocol | K | split | local | federated | centralised | gain | worse |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [r for r in rows if r["institutions"] > 1]
    for r in rows:
        figures = [_pair(r["local"]), _pair(r["federated"]), _pair(central.get((r["model"], r["protocol"])))]
        share = f"{r['gain'] / r['local']['ndcg@10']:+.0%}" if r["local"]["ndcg@10"] else "-"
        gain = f"{share} ({r['low']:+.4f} to {r['high']:+.4f})"
        names = [r["model"], r["protocol"], str(r["institutions"]), r["by"]]
        lines.append("| " + " | ".join([*names, *figures, gain, f"{r['below_local']} of {r['sites']}"]) + " |")
    done = {(r["model"], r["protocol"], r["institutions"], r["by"]) for r in rows}
    left = [
        (m, p, k, by) for m in MODELS for p in PROTOCOLS for k in (4, 16) for by in SPLITS if (m, p, k, by) not in done
    ]
    if left:
        lines += ["", f"Not measured yet: {'; '.join(' '.join(map(str, one)) for one in left)}."]
    else:
        lines[5:5] = ["", "| asked | measured, the worst of all | met |", "|---|---|---|", *targets(rows, central)]
    lines += ["", *WORDS]
    lines += ["", "Settings tried on validation rows, K = 4 iid:", "", "| model | setting | NDCG@10 |", "|---|---|---|"]
    for one in tried:
        setting = ", ".join(f"{k} = {v}" for k, v in one.items() if k in TRIED[one["model"]])
        lines.append(f"| {one['model']} | {setting} | {one['ndcg@10']:.4f} |")
    return "\n".join(lines) + "\n"


def _pair(means: dict[str, float] | None) -> str:
    return "" if means is None else f"{means['hr@10']:.3f} / {means['ndcg@10']:.4f}"


def main() -> None:
    """Do the rows that are missing, print each, write the page."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=Path, default=ROWS)
    options.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    options.add_argument("--institutions", nargs="+", type=int, default=[4, 16])
    options.add_argument("--by", nargs="+", default=SPLITS, choices=SPLITS)
    options.add_argument("--protocols", nargs="+", default=PROTOCOLS, choices=PROTOCOLS)
    options.add_argument("--page", type=Path)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        get_ml100k(Path(folder))
        text = {"user": str, "item": str}
        frames = {name: pd.read_csv(f"{folder}/{name}.csv", dtype=text) for name in ("ratings", "users", "items")}
    lines = [json.loads(line) for line in asked.rows.read_text().splitlines()] if asked.rows.exists() else []

    def keep(line: dict[str, Any]) -> None:
        lines.append(line)
        with asked.rows.open("a") as file:
            file.write(json.dumps(line) + "\n")

    if not any("tried" in line for line in lines):
        keep({"tried": chosen(federation_of(frames, 4, "iid"))})
    done = {tuple(line["key"]) for line in lines if "key" in line}
    for protocol in asked.protocols:
        for name in asked.models:
            for count, by in [(1, "iid"), *((k, by) for k in asked.institutions for by in asked.by)]:
                key = (name, protocol, count, by)
                if key in done:
                    continue
                federation = federation_of(frames, 4 if count == 1 else count, by)
                found = row_of(pooled(federation) if count == 1 else federation, name, protocol)
                keep({"key": key, "model": name, "protocol": protocol, "institutions": count, "by": by, **found})
                print(*key, _pair(found["local"]), _pair(found["federated"]), f"{found['seconds']} s", flush=True)
    if asked.page:
        tried = next(line["tried"] for line in lines if "tried" in line)
        asked.page.write_text(page([line for line in lines if "key" in line], tried))


if __name__ == "__main__":
    main()
