"""One ratings file dealt out to K institutions: each alone, all together, and all rows in one place."""

from __future__ import annotations

from typing import Any

from fedrec.core.metrics import Sums
from fedrec.datasets import Ratings, deal, deal_by_taste
from fedrec.datasets.parts import deal_by_value, default_names
from fedrec.errors import WrongInput
from fedrec.institution.index import index_frame
from fedrec.models import create
from fedrec.models.base import MOST_DENSE
from fedrec.scientist.plan import Plan
from fedrec.scientist.runs import Run
from fedrec.scientist.worth import worth
from fedrec.simulation import SimulatedFederation, pooled, simulate

Row = dict[str, Any]


def fitting(name: str, n_items: int) -> str:
    """The model that is meant by `default`: the blend, or above MOST_DENSE items implicit ALS."""
    return "ials" if name == "default" and n_items > MOST_DENSE else name


def federation_of(ratings: Ratings, institutions: int, by: str, seed: int) -> SimulatedFederation:
    """The users of a file dealt out to institutions.

    Args:
        by: iid, size, cluster (users by their main axis of taste) or column:NAME (of the file or a users.csv
            beside it; the ratings were read with it as their group).

    Raises:
        WrongInput: too few users, or another `by`.
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
    return simulate(parts, catalogue=catalogue, rating=rating, time=time)


def compare(federation: SimulatedFederation, name: str, protocol: str, seed: int) -> Row:
    """How well a model finds held-out items: popularity, local, federated, centralised; the last two are equal
    for statistic models.

    Returns:
        Means over users by scope, as contracts.md's `evaluate`, and by institution; 95 % intervals of NDCG@10 by
        scope; and for each institution whether it is worth it.
    """
    model = create(fitting(name, federation.n_items), {})
    plan = Plan(model=model, train=(protocol,), evaluate=True, seed=seed)
    run = federation.train(plan)
    whole = pooled(federation).train(plan)
    central, found = _sums(whole, protocol), _sums(run, protocol)
    return {
        "popularity": _all(found["popularity"]),
        "local": _all(found["local"]),
        "federated": _all(found["federated"]),
        "centralised": _all(central["federated"]),
        "local_by_institution": {site: sums.means() for site, sums in found["local"].items()},
        "federated_by_institution": {site: sums.means() for site, sums in found["federated"].items()},
        "intervals": {scope: sum(by.values(), start=Sums()).interval() for scope, by in found.items()}
        | {"centralised": central["federated"]["all"].interval()},
        "worth": worth(run.evaluations[protocol], whole.evaluations[protocol]),
    }


def _sums(run: Run, protocol: str) -> dict[str, dict[str, Sums]]:
    """Sums by scope and institution."""
    run.evaluate()
    answers = run.evaluations[protocol]
    scopes = [scope for scope in answers[0].numbers if ":" not in scope]
    return {scope: {a.site: Sums.from_dict(a.numbers[scope]) for a in answers} for scope in scopes}


def _all(sums: dict[str, Sums]) -> dict[str, float | None]:
    return sum(sums.values(), start=Sums()).means()
