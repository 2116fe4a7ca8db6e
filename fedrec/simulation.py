"""A whole federation in one process: no PySyft, no network, the same models to the last bit.

For README examples, tests, rehearsals and `fedrec evaluate`. Nothing is protected here: the caller holds all rows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedrec.aggregation import SiteUpdate
from fedrec.config.schema import Feature
from fedrec.core.features import Features, joined
from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, SharedParams
from fedrec.errors import DataError, Refused
from fedrec.exchange.budget import cost_of_task
from fedrec.exchange.codec import unpack_update
from fedrec.exchange.noise import Source
from fedrec.exchange.plan import check_start
from fedrec.exchange.secure_sum import to_ring
from fedrec.exchange.wire import decode, digest, encode
from fedrec.institution.features import collect
from fedrec.institution.guard import MEASURE, Guard, check_measures
from fedrec.institution.index import index_frame
from fedrec.institution.noised import noised, noised_sums, sharing
from fedrec.institution.outgoing import packed
from fedrec.institution.perform import perform
from fedrec.institution.store import read_features
from fedrec.institution.sums import check_members
from fedrec.institution.work import Inside
from fedrec.scientist.federation import Answer, RoundTask, SiteRefused, SiteState, Watch
from fedrec.scientist.plan import Plan
from fedrec.scientist.runs import Run
from fedrec.scientist.search import Search, search

if TYPE_CHECKING:
    import pandas as pd


FeatureKind = Literal["number", "text", "tags"]


class SimulatedFederation:
    """Institutions as values in memory; everything else is what datasites do.

    Args:
        rows: each institution's interactions, in the order in which updates are added.
        n_items: length of the shared catalogue.
        seconds: how long each site takes for a train task, on a simulated clock; 1 for those not named.
        quality: each site's data-quality score in [0, 1]; 1 for those not named.
        random: where the noise of a plan with epsilon comes from.
    """

    simulated = True

    def __init__(
        self,
        rows: Mapping[str, Interactions],
        n_items: int,
        catalogue: Sequence[str] = (),
        *,
        seconds: Mapping[str, float] | None = None,
        quality: Mapping[str, float] | None = None,
        random: Source = os.urandom,
    ) -> None:
        self.random = random
        self._rows, self._n_items, self.catalogue = dict(rows), n_items, tuple(catalogue)
        self.seconds, self.quality = dict(seconds or {}), dict(quality or {})
        self._private: dict[tuple[str, str, str], dict[int, dict[str, Array]]] = {}
        self.told: list[tuple[str, str, int, str]] = []  # updates that were left out: site, run, round, code
        self.inside: dict[tuple[str, str], dict[str, Inside]] = {}  # run, protocol: by site, what real ones keep
        known = [part.rating for part in self._rows.values() if len(part)]
        scale = min((part.min() for part in known), default=1.0), max((part.max() for part in known), default=1.0)
        self._scale = scale if scale[0] < scale[1] else None  # a site's is in its schema.toml
        self._rings: dict[str, dict[str, Array]] = {}  # what a secure sum adds
        self._rest: dict[tuple[str, str, str], dict[int, dict[str, Array]]] = {}  # by round: what its codec left over

    @property
    def n_items(self) -> int:
        return self._n_items

    def sites(self) -> tuple[str, ...]:
        return tuple(self._rows)

    def feature_columns(self) -> tuple[str, ...]:
        """Every column of features that any institution has, as `FeatureSums` takes them: it finds the texts."""
        parts = [(of, getattr(rows, f"{of}s")) for rows in self._rows.values() for of in ("user", "item")]
        names = [(of, [*known.numbers, *(f"{name}=*" for name in known.labels)]) for of, known in parts if known]
        return tuple(dict.fromkeys(f"{of}.{name}" for of, columns in names for name in columns))

    def ready(self, plan: Plan, among: Sequence[str] = ()) -> tuple[str, ...]:
        return tuple(site for site in among or self.sites() if site in (plan.sites or self.sites()))

    def calls(self, watch: Watch) -> SimulatedCalls:
        return SimulatedCalls(self, watch)

    def run(self, task: RoundTask) -> Sequence[Answer]:
        answers = []
        for site in task.sites:
            try:
                answers.append(self._one(site, task))
            except Refused as refusal:
                raise SiteRefused(site, refusal) from None
        return answers

    def end(self, run: str, sites: Sequence[str]) -> None:
        """Nothing: there are no audit logs here."""

    def train(
        self,
        plan: Plan,
        *,
        protocol: str | None = None,
        folder: Path | None = None,
        sites: Sequence[str] = (),
        **on: Any,
    ) -> Run:
        """As `Datasites.train`: run the plan's rounds and return the finished run; `on` as in `Run.finish`."""
        return Run.start(plan, self, protocol=protocol, folder=folder, sites=sites).finish(**on)

    def attach(self, name: str, folder: Path | str = "runs") -> Run:
        """As `Datasites.attach`; here nothing waits for an owner, so it is a run."""
        return Run.load(self, Path(folder) / name)

    def search(self, plan: Plan, grid: Mapping[str, Sequence[Any]], protocol: str | None = None) -> Search:
        """As `Datasites.search`."""
        return search(plan, grid, lambda plan: self.train(plan, protocol=protocol))

    def _one(self, site: str, task: RoundTask) -> Answer:
        """One institution's part: encoded and decoded as on the wire, guarded as at a site."""
        spec = task.plan.spec
        check_members(spec, task.kind, task.members, site, self.sites())
        check_start(spec, task.kind, task.number, digest(task.shared.tensors))
        key = (site, task.run, task.plan.fingerprint)
        shared = decode(encode(task.shared.tensors))
        states = self._private.setdefault(key, {})  # by round: a round that is asked for again starts where it started
        before = [number for number in states if number < task.number + (task.kind != "train")]
        private = states[max(before)] if before else {}
        mine, unserved = self._rows[site], 0.0  # seconds: nothing is served here, so nothing need be compared
        done = perform(spec, task.kind, task.protocol, mine, shared, private, self._scale, unserved)
        if done.state is not None and task.kind == "train":
            kept = {max(before): private} if before else {}
            self._private[key] = kept | {task.number: done.state}
        if task.kind == "evaluate":
            self.inside.setdefault((task.run, task.protocol), {})[site] = done.inside
        model = task.plan.built
        if cost := cost_of_task(spec, model, task.kind, task.number):
            if done.update is None:
                return Answer(site, numbers=noised_sums(done.numbers, cost, self.random), receipt={"cost": cost})
            bounds = model.sensitivity(task.number)  # type: ignore[attr-defined]
            update = noised(done.update, bounds, cost, sharing(spec, task.members), random=self.random)
            if task.members:
                self._rings[site] = to_ring(spec, update, 1, 1, len(task.members), self._n_items)
                return Answer(site, receipt={"cost": cost})
            return Answer(site, SiteUpdate(site, 1.0, SharedParams(update), 1), receipt={"cost": cost})
        if done.update is None:
            return Answer(site, numbers=done.numbers)
        guard, rests = Guard(spec.leaves, self._n_items, max_bytes=10**12), self._rest.get(key, {})
        last = max(before, default=-1)
        data, left = packed(spec, guard, done.update, shared, rests.get(last, {}))
        update = decode(data)
        if spec.packs is not None:
            update = unpack_update(spec.packs, update, shared if spec.local else None)
            self._rest[key] = {last: rests.get(last, {}), task.number: left or {}}
        if task.members:
            self._rings[site] = to_ring(spec, update, done.rows, done.users, len(task.members), self._n_items)
            return Answer(site)
        said = check_measures(done.measures, spec.measures, lambda: self.quality.get(site, 1.0))
        measures = {name: value / MEASURE for name, value in said.items()}
        return Answer(site, SiteUpdate(site, float(done.rows), SharedParams(update), done.users, measures))


class SimulatedCalls:
    """Tasks under way on a simulated clock, which jumps from one answer to the next: deterministic and fast."""

    def __init__(self, federation: SimulatedFederation, watch: Watch) -> None:
        self._federation, self._watch, self._now = federation, watch, 0.0
        self._under_way: list[tuple[float, str, RoundTask]] = []

    @property
    def n_items(self) -> int:
        return self._federation.n_items

    def clock(self) -> float:
        return self._now

    def send(self, task: RoundTask) -> None:
        for site in task.sites:
            self._under_way.append((self._now + self._federation.seconds.get(site, 1.0), site, task))
            self._watch(SiteState(site, task.number, "training"))

    def fetch(self, task: RoundTask, answers: Sequence[Answer]) -> tuple[list[Answer], list[dict[str, Array]]]:
        """Without the masks, which cancel in the sum: it is the same to the last bit."""
        rings = {site: self._federation._rings.pop(site, None) for site in task.members}
        return list(answers), [ring for answer in answers if (ring := rings[answer.site]) is not None]

    def tell(self, site: str, task: RoundTask, refusal: Refused) -> None:
        self._federation.told.append((site, task.run, task.number, refusal.code))

    def receive(self, until: float | None) -> Sequence[Answer | SiteRefused]:
        """What ends first, all of it that ends at the same moment."""
        ends = min(end for end, _, _ in self._under_way)
        if until is not None and ends > until:
            self._now = until
            return []
        self._now = ends
        ended = [(site, task) for end, site, task in self._under_way if end == ends]
        self._under_way = [one for one in self._under_way if one[0] != ends]
        answers: list[Answer | SiteRefused] = []
        for site, task in ended:
            try:
                answers += self._federation.run(replace(task, sites=(site,)))
            except SiteRefused as refusal:
                answers.append(refusal)
        return answers

    def sleep(self, seconds: float) -> None:
        self._now += seconds

    def close(self) -> None:
        self._under_way = []


def simulate(
    frames: Mapping[str, pd.DataFrame],
    *,
    user: str = "user",
    item: str = "item",
    rating: str | None = "rating",
    time: str | None = "timestamp",
    catalogue: Sequence[str] | None = None,
    user_features: Mapping[str, pd.DataFrame] | None = None,
    item_features: pd.DataFrame | None = None,
    kinds: Mapping[str, FeatureKind] | None = None,
) -> SimulatedFederation:
    """A federation of the institutions in `frames`, one DataFrame of interactions each.

    Args:
        user, item, rating, time: column names; rating and time may be None.
        catalogue: item ids in their order; by default every id in the frames, sorted.
        user_features: a table of users for each institution, with the column `user`.
        item_features: one table of items, with the column `item`.
        kinds: their columns: number, text or tags (texts with | between them); others are not read.

    Raises:
        DataError: a frame lacks a column.
    """
    for name, frame in frames.items():
        if missing := [column for column in (user, item, rating, time) if column is not None and column not in frame]:
            raise DataError(f"{name}: has no column {', '.join(missing)}")
    if catalogue is None:
        catalogue = sorted({str(value) for frame in frames.values() for value in frame[item]})
    known = None if item_features is None else _known(item_features, item, catalogue, kinds or {})
    rows = {}
    for name, frame in frames.items():
        texts = frame.astype({user: str, item: str})
        done = index_frame(texts, catalogue, user=user, item=item, rating=rating, time=time)
        users = None if user_features is None else _known(user_features[name], user, done.user_ids, kinds or {})
        rows[name] = replace(done.rows, users=users, items=known)
    return SimulatedFederation(rows, len(catalogue), catalogue)


def _known(frame: pd.DataFrame, key: str, names: Sequence[str], kinds: Mapping[str, FeatureKind]) -> Features:
    """Features as an institution's intake makes them."""
    wanted = {name: Feature(type=kind) for name, kind in kinds.items() if name in frame}
    table, _ = collect({str(name): frame[name] for name in frame}, key, names, wanted)
    return read_features(table)


def pooled(federation: SimulatedFederation) -> SimulatedFederation:
    """The same rows as if one institution held them all: the centralised yardstick."""
    parts = list(federation._rows.values())
    firsts = np.cumsum([0, *(part.n_users for part in parts)])
    timed, known = all(part.time is not None for part in parts), all(part.users is not None for part in parts)
    rows = Interactions(
        np.concatenate([part.user + np.int32(first) for part, first in zip(parts, firsts, strict=False)]).astype(
            np.int32
        ),
        np.concatenate([part.item for part in parts]),
        np.concatenate([part.rating for part in parts]),
        np.concatenate([part.time for part in parts if part.time is not None]) if timed else None,
        int(firsts[-1]),
        federation.n_items,
        joined([part.users for part in parts if part.users is not None]) if known else None,
        parts[0].items,
    )
    return SimulatedFederation({"all": rows}, federation.n_items, federation.catalogue)
