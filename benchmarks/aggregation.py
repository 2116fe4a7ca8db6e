"""What merging gives and costs, in simulation on ML-100K: how often to merge, what robust rules save, how fast.

python benchmarks/aggregation.py [often] [codec] [robust] [slow] [speed] [driver] [--real] [--movies DIR] [--json FILE]

Without names, all of them.
DIR holds ratings.csv and items.csv as `fedrec data get ml-100k DIR` writes them; without it they are fetched.
NDCG@10 is that of protocol p1, mean over all users; bytes are the arrays' own, up plus down.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import slow_site
from scipy.sparse.linalg import svds

import fedrec
from fedrec import models
from fedrec.aggregation import (
    Aggregator,
    Buffered,
    CoordinateMedian,
    GeometricMedian,
    Krum,
    Mean,
    MultiKrum,
    NormBound,
    Quorum,
    SiteUpdate,
    Sum,
    TrimmedMean,
    WeightedMean,
)  # fmt: skip
from fedrec.core.interactions import Interactions
from fedrec.core.metrics import Sums
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.datasets import get_ml100k
from fedrec.institution import work
from fedrec.institution.index import index_frame
from fedrec.models import LocalEpochs
from fedrec.scientist.federation import Answer, RoundTask
from fedrec.scientist.runs import Run
from fedrec.simulation import SimulatedFederation

MODEL = models.MF()
VECTORS = 1682 * 64 * 4  # bytes of a model
Row = dict[str, Any]


def ratings(folder: Path | None) -> Interactions:
    """ML-100K as one institution would take it in."""
    with tempfile.TemporaryDirectory() as fetched:
        if folder is None:
            get_ml100k(Path(fetched))
        source = folder or Path(fetched)
        with open(source / "items.csv", encoding="utf-8", newline="") as file:
            catalogue = [row["item"] for row in csv.DictReader(file)]
        frame = pd.read_csv(source / "ratings.csv", dtype={"user": str, "item": str})
    return index_frame(frame, catalogue).rows


def dealt(rows: Interactions, k: int, by: str) -> dict[str, Interactions]:
    """K institutions of equal numbers of users: at random, or along the taste that separates users most."""
    if by == "iid":
        order = np.random.default_rng(0).permutation(rows.n_users)
    else:
        matrix = rows.matrix()
        left, _, _ = svds(matrix.multiply(1 / np.sqrt(np.maximum(matrix.sum(1), 1))).tocsr(), k=2, random_state=0)
        order = np.argsort(left[:, 0])  # svds gives the largest last: this is the second
    found = {}
    for site, users in enumerate(np.array_split(order, k)):
        place = np.full(rows.n_users, -1, np.int32)
        place[np.sort(users)] = np.arange(len(users), dtype=np.int32)
        mine = rows.take(place[rows.user] >= 0)
        found[f"s{site}"] = Interactions(place[mine.user], mine.item, mine.rating, mine.time, len(users), rows.n_items)
    return found


def trained(
    federation: SimulatedFederation, plan: fedrec.Plan, at: Sequence[int]
) -> Iterator[tuple[int, float, float]]:
    """(rounds, simulated seconds, NDCG@10) after each of these numbers of rounds."""
    run, seconds = Run.start(plan, federation), 0.0
    for done in run.rounds():
        seconds += done.seconds
        if done.number + 1 in at:
            yield done.number + 1, seconds, ndcg(federation, run)


def ndcg(federation: SimulatedFederation, run: Run) -> float:
    """Of the model now, over all users of honest sites; `run.evaluate` would train every institution alone as well."""
    total = Sums()
    liars = federation.liars if isinstance(federation, Attacked) else ()
    for site in (name for name in federation.sites() if name not in liars):
        states = federation._private.get((site, run.id, run.plan.fingerprint), {})
        private = PrivateParams(states[max(states)] if states else {})
        sums = work.evaluate(run.plan.built, federation._rows[site], "p1", run.shared, private, run.plan.seed, None)
        total += Sums.from_dict(sums["federated"])
    return total.means()["ndcg@10"] or 0.0


def plan_of(rounds: int, local: LocalEpochs | None, **more: Any) -> fedrec.Plan:
    """MF on p1's train rows."""
    return fedrec.Plan(model=MODEL, local=local, rounds=rounds, train=("p1",), evaluate=True, **more)


def often(rows: Interactions) -> Iterator[Row]:
    """How often to merge: local epochs times rounds."""
    for k in (4, 16):
        for by in ("iid", "cluster"):
            federation = SimulatedFederation(dealt(rows, k, by), rows.n_items)
            for epochs, rounds in ((0, 25), (1, 20), (5, 10), (20, 5)):
                local = LocalEpochs(epochs) if epochs else None
                at = [n for n in (1, 2, 5, 10, 20, 25) if n <= rounds]
                for number, _, found in trained(federation, plan_of(rounds, local), at):
                    sent = f"E={epochs}" if epochs else "gradient"
                    moved = round(2 * k * number * VECTORS / 1e6, 1)
                    yield {"K": k, "split": by, "sent": sent, "rounds": number, "ndcg": round(found, 4), "MB": moved}


def codec(rows: Interactions) -> Iterator[Row]:
    """Updates in fewer bytes, four institutions: gradients over 25 rounds, and parameters after 5 epochs over 5."""
    federation = SimulatedFederation(dealt(rows, 4, "iid"), rows.n_items)
    for sent, rounds, local in (("gradient", 25, None), ("E=5", 5, LocalEpochs(5))):
        for name in ("float32", "float16", "int8"):
            plan = plan_of(rounds, local, codec=name)
            (found,) = (value for _, _, value in trained(federation, plan, [rounds]))
            up = round(4 * rounds * plan.spec.travels(rows.n_items) / 1e6, 2)
            down = round(4 * rounds * VECTORS / 1e6, 2)
            yield {"sent": sent, "rounds": rounds, "codec": name, "ndcg": round(found, 4), "MB up": up, "MB down": down}


class Attacked(SimulatedFederation):
    """A federation of which the first two sites lie, after their guards."""

    def __init__(self, rows: dict[str, Interactions], n_items: int, attack: str) -> None:
        liars = [f"s{n}" for n in range(2)]  # measured nowhere, also where nobody lies
        if attack == "label-flip":
            rows = rows | {site: _flipped(rows[site]) for site in liars}
        super().__init__(rows, n_items)
        self.attack, self.liars = attack, liars

    def run(self, task: RoundTask) -> Sequence[Answer]:
        answers = super().run(task)
        return answers if task.kind != "train" else [self._sent(answer, task) for answer in answers]

    def _sent(self, answer: Answer, task: RoundTask) -> Answer:
        factor = {"sign-flip": -10.0, "scaling": 100.0}.get(self.attack, 1.0)
        if answer.site not in self.liars or answer.update is None or self.attack == "none":
            return answer
        base, mine = task.shared["items"], answer.update.tensors["items"]
        lie = base + np.float32(factor) * (mine - base)
        if self.attack == "colluding":  # all the same direction, as long as an honest update is
            way = np.random.default_rng(7).normal(size=base.shape).astype(np.float32)
            lie = base + way * np.float32(3 * np.linalg.norm(mine - base) / np.linalg.norm(way))
        return replace(answer, update=replace(answer.update, tensors=SharedParams({"items": lie})))


def _flipped(rows: Interactions) -> Interactions:
    """Every item as its mirror in popularity: what is loved is said to be unknown."""
    rank = np.argsort(np.argsort(-np.bincount(rows.item, minlength=rows.n_items), kind="stable"))
    order = np.argsort(rank)
    return replace(rows, item=order[rows.n_items - 1 - rank[rows.item]].astype(rows.item.dtype))


def robust(rows: Interactions) -> Iterator[Row]:
    """Two of eight institutions lie; the users of the six others are measured."""
    rules: list[Aggregator] = [
        WeightedMean(), NormBound(), CoordinateMedian(), TrimmedMean(2), GeometricMedian(), MultiKrum(2), Krum(2),
    ]  # fmt: skip
    parts = dealt(rows, 8, "iid")
    for rule in rules:
        row: Row = {"rule": type(rule).__name__}
        for attack in ("none", "sign-flip", "scaling", "label-flip", "colluding"):
            federation = Attacked(parts, rows.n_items, attack)
            plan = plan_of(6, LocalEpochs(2), aggregator=rule)
            (found,) = (value for _, _, value in trained(federation, plan, [6]))
            row[attack] = round(found, 4)
        yield row


def slow(rows: Interactions) -> Iterator[Row]:
    """One of four sites is ten times slower, on a simulated clock: time to 95 % of what synchronous rounds reach."""
    parts = dealt(rows, 4, "iid")
    goal = 0.0
    schedules = (("synchronous", None, 10), ("quorum 3", Quorum(3, 2.0, 20), 40), ("buffered 3", Buffered(3), 40))
    for name, schedule, rounds in schedules:
        federation = SimulatedFederation(parts, rows.n_items, seconds={"s3": 10.0})
        plan = plan_of(rounds, LocalEpochs(5), schedule=schedule)
        found: list[tuple[int, float, float]] = []
        for one in trained(federation, plan, range(1, rounds + 1)):
            found.append(one)
            if goal and one[2] >= goal:
                break
        goal = goal or 0.95 * found[-1][2]
        reached = next(((number, seconds) for number, seconds, value in found if value >= goal), (None, None))
        yield {"schedule": name, "goal": round(goal, 4), "rounds": reached[0], "seconds": reached[1]}


class Made(Sequence[SiteUpdate]):
    """So many updates of 1,682 x 64, each made when it is looked at; `kept` of them different."""

    def __init__(self, count: int, kept: int) -> None:
        draw = np.random.default_rng(0)
        self._arrays = [draw.normal(size=(1682, 64)).astype(np.float32) for _ in range(kept)]
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, site: Any) -> SiteUpdate:
        if not 0 <= site < self._count:
            raise IndexError(site)
        tensors = SharedParams({"items": self._arrays[site % len(self._arrays)]})
        return SiteUpdate(f"{site:04d}", 1.0 + site, tensors, 1)


def speed(_: Interactions) -> Iterator[Row]:
    """1,000 institutions x 1,682 x 64 numbers: seconds, and memory beyond the updates themselves."""
    shared = SharedParams({"items": np.zeros((1682, 64), np.float32)})
    rules: list[Aggregator] = [
        Sum(), Mean(), WeightedMean(), NormBound(), CoordinateMedian(), TrimmedMean(100), GeometricMedian(),
        MultiKrum(100),
    ]  # fmt: skip
    for rule in rules:
        streams = isinstance(rule, Sum | Mean | WeightedMean | NormBound)
        updates = Made(1000, 16 if streams else 1000)
        began = time.perf_counter()
        rule.apply({}, shared, updates)
        seconds = time.perf_counter() - began
        peaks = []
        for count in (10, 1000) if streams else ():
            tracemalloc.start()
            rule.apply({}, shared, Made(count, 1))
            peaks.append(round(tracemalloc.get_traced_memory()[1] / 1e6, 1))
            tracemalloc.stop()
        memory = f"{peaks[0]} and {peaks[1]}" if peaks else "all updates"
        yield {"rule": type(rule).__name__, "seconds": round(seconds, 2), "MB with 10 and 1000 sites": memory}


class Instant:
    """Four sites that answer at once with the same gradient: what is left is the driver."""

    n_items = 1682

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self._gradient = SharedParams({"items": draw.normal(size=(1682, 64)).astype(np.float32)})
        self._sites: tuple[str, ...] = ()

    def sites(self) -> tuple[str, ...]:
        return ("a", "b", "c", "d")

    def ready(self, *_: object) -> tuple[str, ...]:
        return self.sites()

    def calls(self, *_: object) -> Instant:
        return self

    def clock(self) -> float:
        return time.perf_counter()

    def send(self, task: RoundTask) -> None:
        self._sites = task.sites

    def close(self) -> None: ...

    def receive(self, *_: object) -> Sequence[Answer]:
        return [Answer(site, SiteUpdate(site, 10.0, self._gradient, 5)) for site in self._sites]


def driver(_: Interactions) -> Iterator[Row]:
    """The driver's own time a round: four sites, 1,682 x 64 numbers, Adam, checkpoint and log with fsync."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run.start(plan_of(50, None), Instant(), folder=Path(folder))
        began, cpu = time.perf_counter(), time.process_time()
        rounds = sum(1 for _ in run.rounds())
        each = [1000 * (end - start) / rounds for end, start in
                ((time.perf_counter(), began), (time.process_time(), cpu))]  # fmt: skip
    yield {"ms a round": round(each[0], 1), "of it at work": round(each[1], 1)}


PARTS: dict[str, Callable[[Interactions], Iterator[Row]]] = {
    "often": often,
    "codec": codec,
    "robust": robust,
    "slow": slow,
    "speed": speed,
    "driver": driver,
}


def main() -> None:
    """Print the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"some of {', '.join(PARTS)}")
    options.add_argument("--movies", type=Path, metavar="DIR")
    options.add_argument("--real", action="store_true", help="slow on real sites, of which one is held back")
    options.add_argument("--json", type=Path, metavar="FILE")
    asked = options.parse_args()
    rows, found = ratings(asked.movies), {}
    if asked.real:
        PARTS["slow"] = lambda _: slow_site.real(asked.movies)
    for name in asked.parts or PARTS:
        print(f"\n{(PARTS[name].__doc__ or name).splitlines()[0]}", flush=True)
        found[name] = []
        for row in PARTS[name](rows):
            if not found[name]:
                print(" | ".join(row), flush=True)
            found[name].append(row)
            print(" | ".join(str(value) for value in row.values()), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
