"""Is it worth it for us? Popularity, alone, federated and centralised, by institution, with one sentence each.

Made from the sums that sites release: no user's value is needed for a normal interval of the paired difference. In a
simulation, which has every user's value, the intervals are those of the bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrec.core.metrics import Sums, bootstrap
from fedrec.errors import WrongInput
from fedrec.scientist.federation import Answer

if TYPE_CHECKING:
    import pandas as pd

    from fedrec.institution.work import Inside
    from fedrec.scientist.runs import Run


def worth(
    answers: Sequence[Answer], central: Sequence[Answer] = (), inside: Mapping[str, Inside] | None = None
) -> list[dict[str, Any]]:
    """One row per institution and group of users, by NDCG@10; "all" is the mean over users, group "" is everybody.

    Args:
        answers: of an evaluation that has a local baseline.
        central: the answers of a run on all rows in one place, which only a simulation has; they say nothing by
            institution.
        inside: by institution, what a simulation knows of it.

    Returns:
        institution, group, users, popularity, local, federated, centralised (None without), `gain` = federated -
        local with its 95 % interval `low` and `high`, both None for fewer than two users, and `verdict`.

    Raises:
        WrongInput: the model predicts outcomes and ranks nothing, or under an epsilon no baseline has left the sites.
    """
    if any("log_loss" in sums for one in answers for sums in one.numbers.values()):
        raise WrongInput("worth compares rankings; of yes/no outcomes see run.evaluate()")
    if any("local" not in one.numbers for one in answers):
        raise WrongInput("under an epsilon no site tells its local baseline; see run.evaluate()")
    pooled = sum((Sums.from_dict(one.numbers["federated"]) for one in central), start=Sums())
    rows = []
    for group in dict.fromkeys("".join(scope.partition(":")[1:]) for one in answers for scope in one.numbers):
        have = [one for one in answers if "federated" + group in one.numbers]
        sums = {
            one.site: {
                scope: Sums.from_dict(one.numbers[scope + group]) for scope in ("popularity", "local", "federated")
            }
            for one in have
        }
        total = {
            scope: sum((of[scope] for of in sums.values()), start=Sums())
            for scope in ("popularity", "local", "federated")
        }
        for site, of in {**sums, "all": total}.items():
            gain = of["local"].gain(of["federated"])
            if gain is not None and inside is not None:
                among = [inside[one].ndcg for one in (sums if site == "all" else (site,))]
                gaps = [ndcg["federated" + group] - ndcg["local" + group] for ndcg in among]
                gain = (gain[0], *(bootstrap(np.concatenate(gaps), 0) or gain[1:]))
            row: dict[str, Any] = {
                "institution": site,
                "group": group.removeprefix(":"),
                "users": of["federated"].users,
            }
            row |= {scope: part.means()["ndcg@10"] for scope, part in of.items()}
            row["centralised"] = pooled.means()["ndcg@10"] if site == "all" and not group else None
            row |= dict(zip(("gain", "low", "high"), gain or (None, None, None), strict=True))
            rows.append({**row, "verdict": verdict(row)})
    return rows


def verdict(row: dict[str, Any]) -> str:
    """One sentence about a row of `worth`."""
    if row["gain"] is None:
        return "Too few users to tell."
    share = f" ({row['gain'] / row['local']:+.0%})" if row["local"] else ""
    facts = f"{row['gain']:+.4f} NDCG@10{share}, 95 % interval {row['low']:+.4f} to {row['high']:+.4f}"
    if row["high"] < 0:
        return f"No: the model of its own is better, {facts}."
    if row["low"] <= 0:
        return f"Cannot be told from chance with {row['users']} users: {facts}."
    if row["popularity"] >= row["federated"]:
        return f"No: it beats the model of its own, {facts}, but not plain popularity."
    return f"Yes: {facts}."


def of_run(run: Run, protocol: str, centralised: Run | None = None) -> pd.DataFrame:
    """The rows of `worth` for a run.

    Args:
        centralised: the same plan's run on all rows in one place, where a simulation has one.
    """
    import pandas as pd

    for one in (run, centralised):
        if one is not None:
            one.evaluate(protocol)
    central = centralised.evaluations[protocol] if centralised else ()
    inside = getattr(run.federation, "inside", {}).get((run.id, protocol))  # a simulation's
    return pd.DataFrame(worth(run.evaluations[protocol], central, inside))
