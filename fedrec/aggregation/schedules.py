"""Which sites train when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedrec.errors import WrongInput


class Schedule(Protocol):
    """Names the sites of each round, in the order in which their updates are added."""

    def plan(self, sites: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """One tuple of site names per round."""
        ...


@dataclass(frozen=True, slots=True)
class Synchronous:
    """Every site in every round; the round waits for all.

    Args:
        rounds: how many.
    """

    rounds: int

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise WrongInput(f"rounds must be at least 1, not {self.rounds}")

    def plan(self, sites: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """All sites, `rounds` times."""
        for _ in range(self.rounds):
            yield tuple(sites)
