"""A federation as a plain loop over institutions."""

import numpy as np

from fedrec import aggregation
from fedrec.aggregation import SiteUpdate
from fedrec.core.interactions import Interactions
from fedrec.core.metrics import Sums
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.institution import work
from fedrec.models.base import Model

Trained = tuple[SharedParams, list[PrivateParams]]


def part(rows: Interactions, users: np.ndarray) -> Interactions:
    """The institution that has these users, renumbered in the order given."""
    place = np.full(rows.n_users, -1, dtype=np.int32)
    place[users] = np.arange(len(users), dtype=np.int32)
    mine = rows.take(np.flatnonzero(place[rows.user] >= 0))
    order = np.argsort(place[mine.user], kind="stable")
    mine = mine.take(order)
    return Interactions(place[mine.user], mine.item, mine.rating, mine.time, len(users), rows.n_items)


def deal(rows: Interactions, k: int, by: str = "iid") -> list[Interactions]:
    """K institutions: users dealt at random, or sorted by their mean item so that tastes differ."""
    if by == "iid":
        users = np.random.default_rng(0).permutation(rows.n_users)
        return [part(rows, np.sort(users[site::k])) for site in range(k)]
    touched = np.maximum(np.bincount(rows.user, minlength=rows.n_users), 1)
    mean = np.bincount(rows.user, rows.item, minlength=rows.n_users) / touched
    return [part(rows, np.sort(users)) for users in np.array_split(np.argsort(mean, kind="stable"), k)]


def federate(model: Model, sites: list[Interactions], protocol: str = "p1", rounds: int | None = None) -> Trained:
    """The shared parameters after the rounds, and what stays at each institution."""
    aggregator = aggregation.default_for(model)
    shared = model.init(sites[0].n_items, 0)
    state, private = aggregator.init(shared), [PrivateParams({}) for _ in sites]
    for _ in range(rounds or model.rounds_default):
        done = [work.train(model, rows, protocol, shared, own, 0) for rows, own in zip(sites, private, strict=True)]
        private = [trained.private for trained in done]
        updates = [SiteUpdate(str(site), t.rows, t.contribution) for site, t in enumerate(done)]
        step, state = aggregator.apply(state, shared, updates)
        shared = model.finish(shared, step)
    return shared, private


def measured(model: Model, sites: list[Interactions], protocol: str, trained: Trained) -> dict[str, float]:
    """Means over the users of all institutions."""
    total = Sums()
    for rows, private in zip(sites, trained[1], strict=True):
        total += Sums.from_dict(work.evaluate(model, rows, protocol, trained[0], private, 0, None)["federated"])
    return {name: value for name, value in total.means().items() if value is not None}
