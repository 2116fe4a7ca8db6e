"""The article's example, repaired: ten institutions, ten features, one sigmoid unit, ten rounds of FedAvg.

Binary cross-entropy, Adam in five local epochs, generated rows. `python -m fedrec.examples.sigmoid_unit` prints the
loss and AUC on held-out rows after each round, and those of training on pooled rows; with `--real` the ten
institutions are ten datasites, whose model has to be the simulation's to the last bit.

Repaired: the generated rows fit the ten inputs, and the state lives on from round to round. Made definite: outcomes
that can be learnt, features that differ between institutions, and a measure on rows that nobody trains on.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import fedrec
from fedrec.aggregation import WeightedMean
from fedrec.core.outcomes import Outcomes, measure
from fedrec.demo.article import approved
from fedrec.models import LocalEpochs, Logistic
from fedrec.scientist.federation import Federation
from fedrec.scientist.runs import Run
from fedrec.simulation import SimulatedFederation, pooled

INSTITUTIONS, FEATURES, ROUNDS = 10, 10, 10
NAMES = [f"x{number}" for number in range(FEATURES)]
LOCAL = LocalEpochs(epochs=5, rate=0.02, optimiser="adam", batch=32, decay=0.0)
Held = tuple[NDArray[np.float64], NDArray[np.bool_]]


def generated(seed: int = 0, rows: int = 200, institutions: int = INSTITUTIONS) -> tuple[dict[str, pd.DataFrame], Held]:
    """`rows` people for each institution, whose features differ in their means, and as many held-out rows.

    The outcome of a person is drawn with the probability of a true unit, which nobody is told.
    """
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.0, 1.0, FEATURES)
    frames, features, outcomes = {}, [], []
    for number in range(institutions):
        x = rng.normal(rng.normal(0.0, 0.5, FEATURES), 1.0, (2 * rows, FEATURES))
        y = rng.random(2 * rows) < 1 / (1 + np.exp(-(x @ truth - 0.5)))
        ids = [f"p{person:04d}" for person in range(rows)]
        columns = {"user": ids, "item": "outcome", "rating": y[:rows].astype(float)}
        frames[f"i{number}"] = pd.DataFrame({**columns, **dict(zip(NAMES, x[:rows].T, strict=True))})
        features.append(x[rows:])
        outcomes.append(y[rows:])
    return frames, (np.concatenate(features), np.concatenate(outcomes))


def simulated(frames: Mapping[str, pd.DataFrame]) -> SimulatedFederation:
    """The institutions in this process."""
    kinds = dict.fromkeys(NAMES, "number")
    return fedrec.simulate(frames, time=None, user_features=frames, kinds=kinds)  # type: ignore[arg-type]


def plan(seed: int = 0) -> fedrec.Plan:
    """FedAvg: parameters after five local epochs, averaged by rows, ten times."""
    model = Logistic(tuple(f"user.{name}" for name in NAMES))
    return fedrec.Plan(model=model, local=LOCAL, aggregator=WeightedMean(), rounds=ROUNDS, seed=seed)


def judged(weights: NDArray[np.float32], held: Held) -> Outcomes:
    """How well the unit predicts the held-out outcomes."""
    features, outcomes = held
    logits = features @ weights[:-1].astype(np.float64) + float(weights[-1])
    return measure(1 / (1 + np.exp(-logits)), outcomes)


def rounds(run: Run, held: Held) -> Iterator[dict[str, float | None]]:
    """Train; yield the means on held-out rows before the first round and after each."""
    yield judged(run.shared["weights"], held).means()
    for done in run.rounds():
        yield judged(done.after.shared["weights"], held).means()


def table(federation: Federation, held: Held) -> tuple[pd.DataFrame, str]:
    """The means on held-out rows, one line a round from before the first, and the SHA-256 of the model."""
    run = Run.start(plan(), federation)
    return pd.DataFrame(list(rounds(run, held))).rename_axis("round"), run.model_sha256


def on_sites(frames: Mapping[str, pd.DataFrame], held: Held, say: Callable[[str], object]) -> tuple[pd.DataFrame, str]:
    """As `table`, on a datasite for each institution, which its owner lets take part; all have ended afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="fedrec-article-") as folder,
        approved(Path(folder) / "consortium", frames, plan(), say) as federation,
    ):
        return table(federation, held)


def main(real: bool) -> int:
    """Print the table; 1 when datasites make another model than the simulation."""
    frames, held = generated()
    federation = simulated(frames)
    found, model = table(federation, held)
    expected = model
    if real:
        found, model = on_sites(frames, held, lambda text: sys.stderr.write(text + "\n"))
    found.loc["pooled"] = table(pooled(federation), held)[0].iloc[-1]
    sys.stdout.write(found.round(4).to_string() + f"\nSHA-256 of the model {model}\n")
    if real:
        same = "the same" if model == expected else f"NOT the same, {expected}"
        sys.stdout.write(f"in simulation {same}\n")
    return int(model != expected)


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)  # as Ctrl-C: the sites end with this process
    try:
        sys.exit(main("--real" in sys.argv[1:]))
    except KeyboardInterrupt:
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # every site has ended; only the exit is left
            signal.signal(ending, signal.SIG_IGN)
        sys.stderr.write("stopped\n")
        sys.exit(130)
