"""The article's example, repaired: ten institutions, ten features, one sigmoid unit, ten rounds of FedAvg.

Binary cross-entropy, Adam in five local epochs, generated rows. `python -m fedrec.examples.sigmoid_unit` prints
the loss and AUC on held-out rows after each round, and those of training on pooled rows. What had to be
repaired is listed in docs/article.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import fedrec
from fedrec.aggregation import WeightedMean
from fedrec.core.outcomes import Outcomes, measure
from fedrec.models import LocalEpochs, Logistic
from fedrec.scientist.runs import Run
from fedrec.simulation import SimulatedFederation, pooled

INSTITUTIONS, FEATURES, ROUNDS = 10, 10, 10
NAMES = [f"x{number}" for number in range(FEATURES)]
LOCAL = LocalEpochs(epochs=5, rate=0.02, optimiser="adam", batch=32, decay=0.0)
Held = tuple[NDArray[np.float64], NDArray[np.bool_]]


def generated(seed: int = 0, rows: int = 200) -> tuple[SimulatedFederation, Held]:
    """Ten institutions of `rows` people whose features differ in their means, and as many held-out rows.

    The outcome of a person is drawn with the probability of a true unit, which nobody is told.
    """
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.0, 1.0, FEATURES)
    frames, people, features, outcomes = {}, {}, [], []
    for number in range(INSTITUTIONS):
        x = rng.normal(rng.normal(0.0, 0.5, FEATURES), 1.0, (2 * rows, FEATURES))
        y = rng.random(2 * rows) < 1 / (1 + np.exp(-(x @ truth - 0.5)))
        ids = [f"p{person:04d}" for person in range(rows)]
        frames[f"i{number}"] = pd.DataFrame({"user": ids, "item": "outcome", "rating": y[:rows].astype(float)})
        people[f"i{number}"] = pd.DataFrame({"user": ids, **dict(zip(NAMES, x[:rows].T, strict=True))})
        features.append(x[rows:])
        outcomes.append(y[rows:])
    kinds = dict.fromkeys(NAMES, "number")
    federation = fedrec.simulate(frames, time=None, user_features=people, kinds=kinds)  # type: ignore[arg-type]
    return federation, (np.concatenate(features), np.concatenate(outcomes))


def plan(seed: int = 0) -> fedrec.Plan:
    """FedAvg: parameters after five local epochs, averaged by rows, ten times."""
    model = Logistic(tuple(f"user.{name}" for name in NAMES))
    return fedrec.Plan(model=model, local=LOCAL, aggregator=WeightedMean(), rounds=ROUNDS, seed=seed)


def judged(weights: NDArray[np.float32], held: Held) -> Outcomes:
    """How well the unit predicts the held-out outcomes."""
    features, outcomes = held
    logits = features @ weights[:-1].astype(np.float64) + float(weights[-1])
    return measure(1 / (1 + np.exp(-logits)), outcomes)


def rounds(federation: SimulatedFederation, held: Held) -> Iterator[dict[str, float | None]]:
    """Train; yield the means on held-out rows before the first round and after each."""
    run = Run.start(plan(), federation)
    yield judged(run.shared["weights"], held).means()
    for done in run.rounds():
        yield judged(done.after.shared["weights"], held).means()


def main() -> None:
    """Print the table."""
    federation, held = generated()
    table = pd.DataFrame(list(rounds(federation, held)))
    table.loc["pooled"] = list(rounds(pooled(federation), held))[-1]
    sys.stdout.write(table.rename_axis("round").round(4).to_string() + "\n")


if __name__ == "__main__":
    main()
