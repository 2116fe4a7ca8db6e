"""One ratings file dealt out to K institutions: each alone, all together, and all rows in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedrec.core.metrics import Sums, bootstrap, spread
from fedrec.datasets import Ratings, deal, deal_by_taste
from fedrec.datasets.about import About
from fedrec.datasets.parts import deal_by_value, default_names
from fedrec.errors import WrongInput
from fedrec.institution.index import index_frame
from fedrec.institution.work import Inside
from fedrec.models import RATINGS, FeatureSums, create
from fedrec.models.base import MOST_DENSE
from fedrec.scientist.plan import Plan
from fedrec.scientist.runs import Run
from fedrec.scientist.worth import worth
from fedrec.simulation import SimulatedFederation, pooled, simulate

Row = dict[str, Any]


def fitting(name: str, n_items: int) -> str:
    """The model that is meant by `default`: the blend, or above MOST_DENSE items implicit ALS."""
    return "ials" if name == "default" and n_items > MOST_DENSE else name


def federation_of(
    ratings: Ratings,
    institutions: int,
    by: str,
    seed: int,
    *,
    users_are: About | None = None,
    items_are: About | None = None,
) -> SimulatedFederation:
    """The users of a file dealt out to institutions.

    Args:
        by: iid, size, cluster (users by their main axis of taste) or column:NAME (of the file or a users.csv
            beside it; the ratings were read with it as their group).
        users_are, items_are: what is known about them; each institution gets that of its own users.

    Raises:
        WrongInput: too few users, another `by`, or one column of two kinds.
    """
    frame = ratings.frame
    rating, time = ("rating" if "rating" in frame else None), ("timestamp" if "timestamp" in frame else None)
    catalogue = sorted(frame["item"].unique())
    users = sorted(frame["user"].unique())
    if by == "cluster":
        rows = index_frame(frame, catalogue, rating=rating, time=time)
        users, place = rows.user_ids, deal_by_taste(rows.rows, institutions)
    elif by.startswith("column:"):
        first = frame.drop_duplicates("user")
        place = deal_by_value(dict(zip(first["user"], first["group"], strict=True)), users, institutions)
    elif by in ("iid", "size"):
        place = deal(users, institutions, by, seed)
    else:
        raise WrongInput(f"--by {by}: must be iid, size, cluster or column:NAME")
    of_user = frame["user"].map(dict(zip(users, place.tolist(), strict=True)))
    names = default_names(institutions)
    parts = {name: frame[of_user == number] for number, name in enumerate(names)}
    known = [one for one in (users_are, items_are) if one is not None]
    kinds = {name: kind for one in known for name, kind in one.kinds.items()}
    if twice := [name for one in known for name, kind in one.kinds.items() if kinds[name] != kind]:
        raise WrongInput(f"{twice[0]} is another thing of users than of items: rename one of the columns")
    return simulate(
        parts,
        catalogue=catalogue,
        rating=rating,
        time=time,
        user_features=None if users_are is None else dict.fromkeys(parts, users_are.frame),
        item_features=None if items_are is None else items_are.frame,
        kinds=kinds,
    )


def compare(federation: SimulatedFederation, name: str, protocol: str, seed: int) -> Row:
    """How well a model finds held-out items: popularity, local, federated, centralised; the last two are equal
    for statistic models.

    Returns:
        How many users are judged; means over them by scope, as contracts.md's `evaluate`, with coverage and Gini of
        all lists of ten together; means by institution; 95 % intervals of NDCG@10 by scope (bootstrap); and for each
        institution whether it is worth it.

    Raises:
        WrongInput: the model needs times or ratings that the file has not, or nobody has a row to hold out.
    """
    (first, *_) = federation._rows.values()
    if name == "sequential" and first.time is None:
        raise WrongInput("sequential needs to know when: name a column with --time-column, or take --model ease")
    if name in RATINGS and first.rating.min() == first.rating.max():
        raise WrongInput(
            f"{name} needs ratings that differ: name their column with --rating-column, or take --model mf"
        )
    model = create(fitting(name, federation.n_items), _prepared(federation, name, protocol, seed))
    plan = Plan(model=model, train=(protocol,), evaluate=True, seed=seed)
    together = pooled(federation)
    run, whole = federation.train(plan), together.train(plan)
    central, found = _sums(whole, protocol), _sums(run, protocol)
    if not sum(sums.users for sums in found["federated"].values()):
        raise WrongInput(f"{protocol}: no user has a row to hold out; it takes 3 rows of a user, and 5 under p3")
    inside, of_whole = federation.inside[run.id, protocol], together.inside[whole.id, protocol]
    return {
        "judged": sum(sums.users for sums in found["federated"].values()),
        **{scope: _all(found[scope]) | spread(_lists(inside, scope)) for scope in ("popularity", "local", "federated")},
        "centralised": _all(central["federated"]) | spread(_lists(of_whole, "federated")),
        "local_by_institution": {site: sums.means() for site, sums in found["local"].items()},
        "federated_by_institution": {site: sums.means() for site, sums in found["federated"].items()},
        "intervals": {scope: _around(inside, scope, seed) for scope in found}
        | {"centralised": _around(of_whole, "federated", seed)},
        "worth": worth(run.evaluations[protocol], whole.evaluations[protocol], inside),
    }


def _prepared(federation: SimulatedFederation, name: str, protocol: str, seed: int) -> dict[str, Any]:
    """What a model is made with: for ials in place of the blend, blocks; for a model with features every column
    that there is, prepared by sums over the train rows."""
    if fitting(name, federation.n_items) != name:
        return {"block": 8}  # whole vectors of 100,000 items are 0.9 GB an update
    columns = federation.feature_columns() if name == "hybrid" else ()
    if not columns:
        return {}
    sums = FeatureSums(columns)
    run = federation.train(Plan(model=sums, train=(protocol,), seed=seed))
    return dict(sums.settings(run.shared))


def _sums(run: Run, protocol: str) -> dict[str, dict[str, Sums]]:
    """Sums by scope and institution."""
    run.evaluate()
    answers = run.evaluations[protocol]
    scopes = [scope for scope in answers[0].numbers if ":" not in scope]
    return {scope: {a.site: Sums.from_dict(a.numbers[scope]) for a in answers} for scope in scopes}


def _lists(inside: Mapping[str, Inside], scope: str) -> Any:
    """In how many users' ten best each item stands."""
    return np.sum([one.listed[scope] for one in inside.values()], axis=0)


def _around(inside: Mapping[str, Inside], scope: str, seed: int) -> tuple[float, float] | None:
    return bootstrap(np.concatenate([one.ndcg[scope] for one in inside.values()]), seed)


def _all(sums: dict[str, Sums]) -> dict[str, float | None]:
    return sum(sums.values(), start=Sums()).means()
