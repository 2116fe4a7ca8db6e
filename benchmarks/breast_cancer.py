"""The breast-cancer table that scikit-learn brings, at 4 and 16 clinics: logistic regression alone, federated, pooled.

python benchmarks/breast_cancer.py [--seeds N] [--json FILE]: 569 real women (Wisconsin diagnostic, 1995), 30 measures
of a cell image each, malignant or benign. Dealt out at random, in shares like 1, 1/2, 1/3, 1/4, and by the radius of
the cells, so that one clinic sees small ones and another large ones. Two plans: `features`, then `logistic`. A fifth
of the women is held out. Beside them stands scikit-learn's LogisticRegression on the pooled train rows, with its
defaults. The table is easy: a clinic with 85 women to train on needs nobody, one with 21 does.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from fedrec import models
from fedrec.core.features import from_values
from fedrec.core.interactions import Interactions
from fedrec.core.outcomes import measure, split_users, yes
from fedrec.datasets import deal
from fedrec.models.features import USER, inputs
from fedrec.scientist.plan import Plan
from fedrec.simulation import SimulatedFederation, pooled

SPLITS = (("iid", 4), ("size", 4), ("radius", 4), ("iid", 16))
FIGURES = ("auc", "log-loss", "calibration")


def table() -> tuple[list[str], NDArray[np.float64], NDArray[np.bool_]]:
    """The measures' names, their values of shape (569, 30), and who has a malignant tumour."""
    found = load_breast_cancer()
    return [f"{name}".replace(" ", "_") for name in found.feature_names], found.data, found.target == 0


def clinics(by: str = "iid", count: int = 4, seed: int = 0) -> SimulatedFederation:
    """A federation with one row for each woman and one item, the diagnosis.

    Args:
        by: iid, size, or radius.
    """
    names, data, malignant = table()
    if by == "radius":
        place = np.argsort(np.argsort(data[:, 0])) * count // len(data)
    else:
        place = deal([f"{number:03d}" for number in range(len(data))], count, by, seed)
    rows = {}
    for number in range(count):
        mine = np.flatnonzero(place == number)
        known = from_values({name: data[mine, column].tolist() for column, name in enumerate(names)}, len(mine))
        rows[f"clinic-{number + 1:02d}"] = Interactions(
            np.arange(len(mine), dtype=np.int32),
            np.zeros(len(mine), dtype=np.int32),
            malignant[mine].astype(np.float32),
            None,
            len(mine),
            1,
            known,
        )
    return SimulatedFederation(rows, 1, ("diagnosis",))


def prepared(federation: SimulatedFederation, seed: int = 0) -> models.Logistic:
    """The model with the columns, means and deviations of the released sums."""
    sums = models.FeatureSums(tuple(f"user.{name}" for name in table()[0]), outcome=True)
    return models.Logistic(**sums.settings(federation.train(Plan(model=sums, train=("p1",), seed=seed)).shared))


def judged(federation: SimulatedFederation, model: models.Logistic, seed: int = 0) -> dict[str, dict[str, float]]:
    """Figures over the held-out women of all clinics, by scope; the seed says who is held out."""
    plan = Plan(model=model, train=("p1",), evaluate=True, seed=seed)
    found = {}
    for one in (federation, pooled(federation)):
        means = one.train(plan).evaluate()
        for row in means[means["institution"] == "all"].to_dict("records"):
            if one is federation or row["scope"] == "federated":
                scope = row["scope"] if one is federation else "pooled"
                found[scope] = {figure: row[figure] for figure in FIGURES}
    return found


def scikit(federation: SimulatedFederation, model: models.Logistic, seed: int = 0) -> dict[str, float]:
    """scikit-learn on the same pooled train rows and columns, judged on the same held-out women."""
    (rows,) = pooled(federation)._rows.values()
    part, x = split_users(rows, "p1", seed), inputs(model, rows, USER)
    fitted = LogisticRegression(max_iter=1000).fit(x[part.train.user], yes(part.train))
    means = measure(fitted.predict_proba(x[part.held.user])[:, 1], yes(part.held)).means()
    return {figure: float(means[figure] or 0) for figure in FIGURES}


def main() -> None:
    """Print the figures of each split: means over seeds, and how far federated was from pooled at most."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--json", metavar="FILE")
    asked = options.parse_args()
    report: list[dict[str, Any]] = []
    for by, count in SPLITS:
        found = []
        for seed in range(asked.seeds):
            federation = clinics(by, count, seed)
            model = prepared(federation, seed)
            found.append(judged(federation, model, seed) | {"scikit-learn": scikit(federation, model, seed)})
        for scope in found[0]:
            means = {figure: float(np.mean([one[scope][figure] for one in found])) for figure in FIGURES}
            report.append({"split": by, "clinics": count, "scope": scope, **means})
            print(f"{by:8}{count:<4}{scope:14}" + "".join(f"{means[figure]:>13.4f}" for figure in FIGURES), flush=True)
        apart = max(abs(one["federated"]["auc"] - one["pooled"]["auc"]) for one in found)
        print(f"{by:8}{count:<4}federated and pooled are {apart:.5f} apart in AUC at most")
    if asked.json:
        Path(asked.json).write_text(json.dumps({"rows": report}, indent=1) + "\n")


if __name__ == "__main__":
    main()
