"""How fast fits are beside others' code, in one run: EASE beside bare numpy, iALS and BPR beside `implicit`.

python benchmarks/speed.py [--movies DIR] [--repeats N] [--wide] [--json FILE]

All rows of ML-100K at one institution, one thread each, the best of N. DIR holds ratings.csv and items.csv as
`fedrec data get ml-100k DIR` writes them; without it they are fetched. `implicit` is no dependency of fedrec:
`pip install --no-deps implicit==0.7.3`, in a virtual environment that may be thrown away; without it its rows say so.
--wide measures, in place of these, rounds of `ials` and `mf` with 100,000 items and 5,000 users who touched forty each.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from aggregation import ratings

from fedrec import models
from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.core.threads import one_thread
from fedrec.models.base import Model

Row = dict[str, Any]
NONE = PrivateParams({})
WIDE: list[tuple[str, Row]] = [("ials", {}), ("ials", {"block": 8}), ("ials", {"factors": 16}), ("mf", {})]


def best(repeats: int, *tasks: Callable[[], object]) -> list[float]:
    """The shortest of `repeats` calls of each, in seconds; in turns, so that a busy moment hits all of them."""
    found = [float("inf")] * len(tasks)
    for _ in range(repeats):
        for place, task in enumerate(tasks):
            began = time.perf_counter()
            task()
            found[place] = min(found[place], time.perf_counter() - began)
    return found


def bare_ease(rows: Interactions, l2: float) -> Array:
    """EASE as its paper prints it: dense matrices, one inverse, float64."""
    x = rows.matrix().toarray().astype(np.float64)
    left = x.T @ x
    left[np.diag_indices_from(left)] += l2
    inverse = np.linalg.inv(left)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def a_round(model: Model, rows: Interactions) -> Callable[[], SharedParams]:
    """One round of a model at one institution; of a gradient model without the server's step."""
    start = model.init(rows.n_items, 0)
    statistic = model.aggregator_default == "sum"

    def fit() -> SharedParams:
        made, _ = model.fit_site(rows, start, NONE)
        return model.finish(start, made) if statistic else made

    return fit


def theirs(name: str, rows: Interactions, **settings: Any) -> Callable[[], object] | None:
    """One iteration of a model of `implicit`; None where it is not installed."""
    try:
        module = importlib.import_module(f"implicit.cpu.{name[:3].lower()}")
    except ImportError:
        return None
    x = rows.matrix()

    def fit() -> object:
        model = getattr(module, name[3:])(iterations=1, num_threads=1, random_state=0, **settings)
        return model.fit(x, show_progress=False)

    return fit


def compare(rows: Interactions, repeats: int) -> list[Row]:
    """One row per pair: seconds of ours and of theirs, and ours over theirs; None where there is no `implicit`."""
    ease, ials, bpr = models.Ease(l2=200.0), models.IALS(), models.BPR()
    bare = a_round(ease, rows)().tensors["weights"]
    np.testing.assert_allclose(bare, bare_ease(rows, 200.0), atol=1e-5)  # else they would not do the same work
    als = ("ALSAlternatingLeastSquares", rows)
    pairs: list[tuple[str, Model, Callable[[], object] | None, int]] = [
        ("EASE fit / bare numpy", ease, lambda: bare_ease(rows, 200.0), 1),
        ("iALS sweep / implicit ALS, exact", ials, theirs(*als, factors=ials.factors, use_cg=False), 1),
        ("iALS sweep / implicit ALS, 3 steps of conjugate gradients", ials, theirs(*als, factors=ials.factors), 1),
        ("BPR round / implicit BPR epoch", bpr, theirs("BPRBayesianPersonalizedRanking", rows, factors=bpr.factors), 1),
    ]
    # a round is `steps` passes over the users' vectors and one over the items', each with `negatives` draws a row
    pairs.append(("the same, per drawn pair", bpr, pairs[-1][2], (bpr.steps + 1) * bpr.negatives))
    found = []
    for name, model, other, parts in pairs:
        times = best(repeats, a_round(model, rows), *([other] if other else []))
        row: Row = {"what": name, "ours_s": times[0] / parts, "theirs_s": times[1] if other else None}
        found.append({**row, "ratio": row["ours_s"] / times[1] if other else None})
    return found


def wide(name: str, settings: dict[str, Any]) -> Row:
    """One institution's part of a round and the centre's, of 100,000 items; in a process that does nothing else."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(5000, dtype=np.int32), 40)
    item = (100_000 * rng.random(len(user)) ** 3).astype(np.int32)  # a few are touched by many
    rows = Interactions(user, item, np.ones(len(user), np.float32), np.arange(len(user)), 5000, 100_000)
    model = models.create(name, settings)
    start, before = model.init(rows.n_items, 0), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with one_thread():
        began = time.perf_counter()
        made, _ = model.fit_site(rows, start, NONE)
        fitted = time.perf_counter()
        model.finish(start, made)
    ended, most = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = sum(array.nbytes for array in made.tensors.values())
    return {
        "what": f"{name} {settings or ''}", "fit_s": fitted - began, "finish_s": ended - fitted,
        "update_mb": size / 1e6, "memory_mb": (most - before) / 1e3,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--movies", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--wide", action="store_true")
    given = parser.parse_args()
    if given.wide:
        rows = []
        for task in WIDE:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                rows.append(fresh.submit(wide, *task).result())
            print("{what:20} fit {fit_s:6.1f} s  finish {finish_s:5.1f} s".format(**rows[-1]), end="  ")
            print("update {update_mb:6.1f} MB  memory {memory_mb:6.0f} MB".format(**rows[-1]), flush=True)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1))
        return
    with one_thread():
        rows = compare(ratings(given.movies), given.repeats)
    for row in rows:
        other = f"{row['theirs_s']:8.4f} s  ratio {row['ratio']:6.2f}" if row["ratio"] else "implicit is not installed"
        print(f"{row['what']:58} {row['ours_s']:8.4f} s  {other}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
