"""What epsilon costs on ML-100K: the model `private`, four institutions, Gaussian noise, three draws of it.

python benchmarks/privacy.py [--institutions 4] [--page docs/privacy.md]: prints a table and the settings tried on
validation rows; --page puts both between the two marks of the page. Noise is drawn by numpy here, for the figures only.
"""

from __future__ import annotations

import argparse
import csv
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from dp_accounting.pld import privacy_loss_distribution as pld

from fedrec.aggregation import Adam, Mean, SiteUpdate
from fedrec.core.interactions import Interactions
from fedrec.core.metrics import Scorer, Sums, measured
from fedrec.core.optim import Plain
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.core.split import Split, split
from fedrec.datasets import deal, get_ml100k
from fedrec.institution import work
from fedrec.institution.blending import blended, mixed
from fedrec.institution.index import index_frame
from fedrec.models import MF, Default, Popularity, Private
from fedrec.models.base import Model

SIGMA = {8.0: 0.6002, 4.0: 1.0812, 2.0: 1.9938, 1.0: 3.7306}  # noise of one release at DELTA; `main` checks them
DELTA = 1e-5
SEEDS = range(3)
TRIED: dict[str, list[Any]] = {
    "most": [600, 800],
    "above": [1.5, 2.0, 2.5],
    "first": [0.2, 0.3, 0.4],
    "half_life": [7.0, 10.0, 15.0],
    "exponent": [0.2, 0.3, 0.4],
    "recency": [3.0, 5.0],
    "blend": [0.1, 0.2, 0.3],
}
MARKS = "<!-- benchmarks/privacy.py writes from here -->", "<!-- to here -->"
NONE = PrivateParams({})


def sites_of(count: int) -> list[Interactions]:
    """ML-100K dealt out at random to `count` institutions."""
    with tempfile.TemporaryDirectory() as folder:
        get_ml100k(Path(folder))
        ratings = pd.read_csv(f"{folder}/ratings.csv", dtype={"user": str, "item": str})
        with open(f"{folder}/items.csv", encoding="utf-8", newline="") as file:
            catalogue = [row["item"] for row in csv.DictReader(file)]
    users = sorted(ratings["user"].unique())
    place = ratings["user"].map(dict(zip(users, deal(users, count, "iid", 0), strict=True)))
    return [index_frame(ratings[place == site].reset_index(drop=True), catalogue).rows for site in range(count)]


def trained(model: Private, rows: Sequence[Interactions], sigma: float, seed: int) -> SharedParams:
    """The model of one run.

    Args:
        rows: each institution's train rows.
        sigma: of the noise of all institutions together, in sensitivities, if one round had all of the budget.
    """
    random, shared = np.random.default_rng(seed), model.init(rows[0].n_items, 0)
    for number in range(model.rounds_default):
        parts = [model.fit_site(each, shared, NONE)[0].tensors for each in rows]
        sums = {name: np.sum([part[name] for part in parts], axis=0, dtype=np.float64) for name in parts[0]}
        for name, norm in (model.sensitivity(number) or {}).items():
            sums[name] += random.normal(0.0, sigma * norm / math.sqrt(model.share(number)), sums[name].shape)
        shared = model.finish(shared, SharedParams({n: a.astype(np.float32) for n, a in sums.items()}))
    return shared


def by_gradients(part: Split, sigma: float, seed: int) -> float:
    """Test NDCG@10 of softmax factors with clipped users' gradients; every round has an equal part of the budget."""
    model, merge, random = MF(clip=1.0), Adam(inner=Mean()), np.random.default_rng(seed)
    shared, private = model.init(part.train.n_items, 0), NONE
    state = merge.init(shared)
    for _ in range(model.rounds_default):
        update, private = model.fit_site(part.train, shared, private)
        noisy = update["items"] + random.normal(0.0, sigma * model.rounds_default**0.5, update["items"].shape)
        one = SiteUpdate("all", 0.0, SharedParams({"items": noisy.astype(np.float32)}))
        step, state = merge.apply(state, shared, [one])
        shared = model.finish(shared, step)
    return ndcg([work.scorer(model, part.train, shared, private)], [part])


def ndcg(scorers: Sequence[Scorer], parts: Sequence[Split], protocol: str = "p2") -> float:
    """NDCG@10 over the users of all institutions."""
    both = zip(scorers, parts, strict=True)
    return float(sum((Sums.of(measured(s, p, protocol, 0)) for s, p in both), start=Sums()).means()["ndcg@10"] or 0.0)


def of(model: Model, shared: SharedParams, parts: Sequence[Split]) -> list[Scorer]:
    """One shared model at every institution."""
    return [work.scorer(model, part.train, shared, NONE) for part in parts]


def exact(model: Model, sites: Sequence[Interactions], parts: Sequence[Split]) -> float:
    """NDCG@10 of a one-round model of all institutions without noise."""
    together = [model.fit_site(part.train, model.init(sites[0].n_items, 0), NONE)[0].tensors for part in parts]
    sums = {name: np.sum([one[name] for one in together], axis=0) for name in together[0]}
    return ndcg(of(model, model.finish(model.init(sites[0].n_items, 0), SharedParams(sums)), parts), parts)


def tried(sites: Sequence[Interactions]) -> list[dict[str, Any]]:
    """Settings with their NDCG@10 on validation rows, by epsilon, noise once: no test row is looked at."""
    parts = [split(rows, "validation", 0) for rows in sites]
    found = []
    for name, value in [("defaults", None), *((name, v) for name, values in TRIED.items() for v in values)]:
        model = Private()
        if name != "defaults":
            if getattr(model, name) == value:
                continue
            more = {"window": math.ceil(3 * value) + 1} if name == "half_life" else {}
            model = replace(model, **{name: value}, **more)
        row = {"setting": name if name == "defaults" else f"{name} = {value}"}
        for epsilon, sigma in SIGMA.items():
            runs = (trained(model, [p.train for p in parts], sigma, seed) for seed in SEEDS)
            row[f"{epsilon:g}"] = f"{np.mean([ndcg(of(model, shared, parts), parts) for shared in runs]):.4f}"
        found.append(row)
        print(*row.values(), flush=True)
    return found


def costs(sites: Sequence[Interactions]) -> list[dict[str, Any]]:
    """Test NDCG@10 by epsilon: noise once, noise at each institution, and blended with each one's own model."""
    parts, model, own = [split(rows, "p1", 0) for rows in sites], Private(), Default()
    rows = [part.train for part in parts]
    popular, best = exact(Popularity(), sites, parts), exact(own, sites, parts)
    alone = [work.train_alone(own, site, "p1", 1, Plain(), 0)[0] for site in sites]
    local = ndcg([work.scorer(own, p.train, a, NONE) for p, a in zip(parts, alone, strict=True)], parts)
    found = []
    for epsilon, sigma in [(math.inf, 0.0), *SIGMA.items()]:
        each: dict[str, list[float]] = {"noise once": [], "noise at each": [], "blended": []}
        weights: list[float] = []
        for seed in SEEDS:
            shared = trained(model, rows, sigma, seed)
            loud = trained(model, rows, sigma * math.sqrt(len(sites)), seed)
            blends = [blended(model, own, site, shared, "p1") for site in sites]
            ends = [
                mixed(work.scorer(own, p.train, b.own, NONE), s, b.weight)
                for p, b, s in zip(parts, blends, of(model, shared, parts), strict=True)
            ]
            each["noise once"].append(ndcg(of(model, shared, parts), parts))
            each["noise at each"].append(ndcg(of(model, loud, parts), parts))
            each["blended"].append(ndcg(ends, parts))
            weights += [blend.weight for blend in blends]
        row = {"epsilon": "none" if math.isinf(epsilon) else f"{epsilon:g}"}
        row |= {name: f"{np.mean(values):.3f}" for name, values in each.items()}
        row |= {"mean weight": f"{np.mean(weights):.2f}", "own alone": f"{local:.3f}", "popularity": f"{popular:.3f}"}
        found.append(row | {"default": f"{best:.3f}"})
        print(*found[-1].values(), flush=True)
    return found


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Rows as Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def main() -> None:
    """Measure, print, and write the page's part."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--institutions", type=int, nargs="+", default=[4, 16])
    options.add_argument("--page", type=Path)
    asked = options.parse_args()
    for epsilon, sigma in SIGMA.items():
        true = pld.from_gaussian_mechanism(sigma).get_epsilon_for_delta(DELTA)
        assert abs(true - epsilon) < 0.001, f"sigma {sigma} gives epsilon {true}"
    lines = []
    for count in asked.institutions:
        lines += [f"{count} institutions:", "", *table(costs(sites_of(count))), ""]
    part = split(sites_of(1)[0], "p1", 0)
    factors = {
        epsilon: np.mean([by_gradients(part, sigma, seed) for seed in SEEDS]) for epsilon, sigma in SIGMA.items()
    }
    said = ", ".join(f"{value:.3f} at epsilon {epsilon:g}" for epsilon, value in factors.items())
    without = by_gradients(part, 0.0, 0)
    lines += [f"`mf` with clip = 1, 25 rounds, noise once: {said}, {without:.3f} without noise.", ""]
    print(lines[-2], flush=True)
    lines += [f"Validation NDCG@10 by epsilon, noise once, mean of {len(SEEDS)} draws:", ""]
    lines += table(tried(sites_of(1)))
    if asked.page:
        before, _, rest = asked.page.read_text(encoding="utf-8").partition(MARKS[0])
        text = "\n".join([MARKS[0], "", *lines, "", MARKS[1]])
        asked.page.write_text(before + text + rest.partition(MARKS[1])[2], encoding="utf-8")


if __name__ == "__main__":
    main()
