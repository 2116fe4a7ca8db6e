"""Which sites train when, how long a round waits, and when a run ends: pure values, no clock of their own.

A round is one merge. The driver asks `choose` whom to send the model to, and `wait` how many answers it
needs; it keeps the clock, real or simulated, so that simulation and datasites follow the same rules.
"""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from fedrec.errors import WrongInput


@dataclass(frozen=True, slots=True)
class Wait:
    """How long a round waits.

    Args:
        least: fewer answers than this are no round.
        most: with so many the round ends at once.
        seconds: after so many, `least` are enough; None = wait for `most`.
    """

    least: int
    most: int
    seconds: float | None = None


class Schedule(Protocol):
    """Pure decisions of one round.

    Attributes:
        max_staleness: an answer to a model that is more rounds old is dropped; 0 takes none that is late.
        joins: a site whose owner approves the plan while it runs takes part from the next round on.
        by_hours: whether a round does without sites that are outside the hours of their permits.
    """

    by_hours: ClassVar[bool]

    @property
    def max_staleness(self) -> int: ...

    @property
    def joins(self) -> bool: ...

    def choose(self, number: int, sites: Sequence[str], away: Collection[str]) -> tuple[str, ...]:
        """The sites that get the model of round `number`, in the order of `sites`.

        Args:
            away: sites that still work on an older model.
        """
        ...

    def wait(self, chosen: int, away: int, seconds: Sequence[float]) -> Wait:
        """How long to wait in this round.

        Args:
            chosen: how many sites were sent the model.
            away: how many are at work in all, the chosen ones too.
            seconds: how long the sites took so far, every answer of the run.
        """
        ...


@dataclass(frozen=True, slots=True)
class Synchronous:
    """Every site in every round; the round waits for all."""

    max_staleness: ClassVar[int] = 0
    joins: ClassVar[bool] = False
    by_hours: ClassVar[bool] = False

    def choose(self, number: int, sites: Sequence[str], away: Collection[str]) -> tuple[str, ...]:
        return tuple(sites)

    def wait(self, chosen: int, away: int, seconds: Sequence[float]) -> Wait:
        return Wait(chosen, chosen)


@dataclass(frozen=True, slots=True)
class Sampled:
    """`k` sites a round, drawn by seed and round number; the round waits for all of them.

    Source: McMahan et al. 2017, algorithm 1.

    Args:
        k: how many; all where there are fewer.
        seed: the same seed draws the same sites, also after a resume.
    """

    k: int = 1
    seed: int = 0

    max_staleness: ClassVar[int] = 0
    joins: ClassVar[bool] = True
    by_hours: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _whole("sampled.k", self.k, 1)
        _whole("sampled.seed", self.seed, 0)

    def choose(self, number: int, sites: Sequence[str], away: Collection[str]) -> tuple[str, ...]:
        drawn = np.random.default_rng([self.seed, number]).permutation(len(sites))[: self.k]
        return tuple(sites[i] for i in sorted(drawn))

    def wait(self, chosen: int, away: int, seconds: Sequence[float]) -> Wait:
        return Wait(chosen, chosen)


@dataclass(frozen=True, slots=True)
class Periodic:
    """Every site once in `every` rounds, by turns: site number i in the rounds i, i + every, i + 2 every, …

    A site whose permit is for other hours of the day is left out of a round; one without any site waits.

    Args:
        every: in rounds; 1 is synchronous. At most the number of sites, else some rounds would have nobody.
    """

    every: int = 2

    max_staleness: ClassVar[int] = 0
    joins: ClassVar[bool] = False
    by_hours: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _whole("periodic.every", self.every, 1)

    def choose(self, number: int, sites: Sequence[str], away: Collection[str]) -> tuple[str, ...]:
        if self.every > len(sites):
            raise WrongInput(f"periodic.every must be at most the number of sites, {len(sites)}")
        return tuple(site for i, site in enumerate(sites) if (number - i) % self.every == 0)

    def wait(self, chosen: int, away: int, seconds: Sequence[float]) -> Wait:
        return Wait(chosen, chosen)


@dataclass(frozen=True, slots=True)
class Quorum:
    """Every idle site in every round; goes on with `least` of them once the deadline is over.

    The deadline is `patience` times the median time of an answer so far; the first round waits for all. A late
    answer counts with weight 1/sqrt(1 + rounds late), or is dropped above `max_staleness`.

    Args:
        least: sites that make a round.
        patience: deadline, in median answers.
        max_staleness: in rounds; 0 drops every late answer.
    """

    least: int = 1
    patience: float = 2.0
    max_staleness: int = 0

    joins: ClassVar[bool] = True
    by_hours: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _whole("quorum.least", self.least, 1)
        _whole("quorum.max_staleness", self.max_staleness, 0)
        if not (math.isfinite(self.patience) and self.patience >= 1):
            raise WrongInput(f"quorum.patience must be 1 or more and finite, not {self.patience!r}")

    def choose(self, number: int, sites: Sequence[str], away: Collection[str]) -> tuple[str, ...]:
        return tuple(site for site in sites if site not in away)

    def wait(self, chosen: int, away: int, seconds: Sequence[float]) -> Wait:
        deadline = self.patience * float(np.median(seconds)) if len(seconds) else None
        return Wait(self.least, max(chosen, min(self.least, away)), deadline)


@dataclass(frozen=True, slots=True)
class Buffered:
    """Asynchronous: sites start and answer whenever they can; as soon as `size` answers are there, they are merged.

    Each answer counts with weight 1/sqrt(1 + s), s the rounds that were merged since its site started. After a
    merge every idle site starts again on the new model.
    Source: Nguyen et al. 2022, Federated learning with buffered asynchronous aggregation (FedBuff), AISTATS.

    Args:
        size: the buffer, in answers.
        max_staleness: an answer that is more rounds late is dropped.
    """

    size: int = 2
    max_staleness: int = 20

    joins: ClassVar[bool] = True
    by_hours: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _whole("buffered.size", self.size, 1)
        _whole("buffered.max_staleness", self.max_staleness, 0)

    def choose(self, number: int, sites: Sequence[str], away: Collection[str]) -> tuple[str, ...]:
        return tuple(site for site in sites if site not in away)

    def wait(self, chosen: int, away: int, seconds: Sequence[float]) -> Wait:
        return Wait(min(self.size, away), min(self.size, away))


@dataclass(frozen=True, slots=True)
class Stop:
    """When a run ends before its last round; each rule is off at 0.

    Args:
        patience: rounds without a better model on validation rows (NDCG@10; of outcomes AUC; of ratings 1 - RMSE /
            width of the scale); the best one so far is the run's model.
        gain: how much better counts, as a share of the best so far.
        step: ends below this L2 norm of the model's change in a round.
    """

    patience: int = 0
    gain: float = 0.0
    step: float = 0.0

    def __post_init__(self) -> None:
        _whole("stop.patience", self.patience, 0)
        if not (0 <= self.gain < math.inf and 0 <= self.step < math.inf):
            raise WrongInput("stop.gain and stop.step must be 0 or more and finite")

    def best(self, rounds: Sequence[Mapping[str, Any]]) -> int | None:
        """The place in `rounds` that started from the best model; None where nothing was measured.

        Args:
            rounds: the run's lines so far, with `quality` (of the model that the round started from) and `norm`.
        """
        best: int | None = None
        for place, line in enumerate(rounds):
            quality = line.get("quality")
            if quality is not None and (best is None or quality > (1 + self.gain) * rounds[best]["quality"]):
                best = place
        return best

    def reached(self, rounds: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the run ends after these rounds."""
        if rounds and self.step and rounds[-1]["norm"] < self.step:
            return True
        best = self.best(rounds) if self.patience else None
        return best is not None and len(rounds) - 1 - best >= self.patience


def _whole(name: str, value: int, least: int) -> None:
    if value < least:
        raise WrongInput(f"{name} must be {least} or more, not {value}")
