"""The federation as the round loop sees it: simulated or real, nothing above knows which."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedrec.aggregation import SiteUpdate
from fedrec.core.params import Array, SharedParams
from fedrec.errors import Refused
from fedrec.exchange.wire import digest
from fedrec.scientist.plan import Plan


@dataclass(frozen=True, slots=True)
class RoundTask:
    """One task for several sites.

    Args:
        kind: train, evaluate or publish.
        number: the round, from 0; for evaluate and publish the last one trained.
        protocol: which rows are trained on, or how the model is evaluated.
        members: the institutions whose masked updates are added; empty = no secure sum.
    """

    plan: Plan
    kind: str
    run: str
    number: int
    protocol: str
    sites: tuple[str, ...]
    shared: SharedParams
    members: tuple[str, ...] = ()

    def message(self, base: str | None = None) -> dict[str, Any]:
        """The task as it is sent; the same task has the same nonce, so a resent one is the same job.

        Args:
            base: SHA-256 of the encoded model, when the caller knows it already.
        """
        base = base or digest(self.shared.tensors)
        parts = [self.run, self.kind, str(self.number), self.protocol, base, *self.members]
        nonce = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
        return {
            "kind": self.kind,
            "run": self.run,
            "round": self.number,
            "protocol": self.protocol,
            "base": base,
            "nonce": nonce,
            **({"members": list(self.members)} if self.members else {}),
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What one site answered.

    Args:
        update: the contribution; None but for train, and for a masked one.
        numbers: sums over users by scope; empty but for evaluate.
        bytes_up: from the institution to the centre, with headers; bytes_down the other way. 0 in simulation.
        receipt: the passport, or where the job ran.
    """

    site: str
    update: SiteUpdate | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    receipt: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SiteState:
    """What a site is doing in a round, for people who watch.

    Args:
        state: sending, queued, training, held (until the site's owner decides), uploading, done or refused.
        why: of refused: what the site said, or what the centre found wrong with its update.
    """

    site: str
    number: int
    state: str
    why: Refused | None = None


Watch = Callable[[SiteState], object]


def nobody(state: SiteState) -> None:
    """Watches nothing."""


class Federation(Protocol):
    """Sites that answer tasks."""

    @property
    def simulated(self) -> bool:
        """Whether all institutions are in this process, so that a run more costs nobody anything."""
        ...

    @property
    def n_items(self) -> int:
        """Length of the consortium's catalogue."""
        ...

    def sites(self) -> tuple[str, ...]:
        """The members, in the order in which updates are added."""
        ...

    def ready(self, plan: Plan, among: Sequence[str] = ()) -> tuple[str, ...]:
        """The members that may run this plan now; asks only those named in `among`, if any are."""
        ...

    def calls(self, watch: Watch) -> Calls:
        """A line of its own to the sites, for one run.

        Args:
            watch: told what each site is doing, in the thread that receives.
        """
        ...

    def run(self, task: RoundTask) -> Sequence[Answer]:
        """The answers of the task's sites, in their order.

        Raises:
            Refused: a site said no or was lost; names the site.
        """
        ...

    def end(self, run: str, sites: Sequence[str]) -> None:
        """A run's last round is committed: the sites exchange what they witness of one another."""
        ...


class Calls(Protocol):
    """Tasks that are under way: sent and received apart, so that no site need wait for another."""

    @property
    def n_items(self) -> int:
        """Length of the consortium's catalogue."""
        ...

    def clock(self) -> float:
        """Seconds since some moment; simulated ones in a simulation."""
        ...

    def send(self, task: RoundTask) -> None:
        """Start the task at its sites."""
        ...

    def fetch(self, task: RoundTask, answers: Sequence[Answer]) -> tuple[list[Answer], list[dict[str, Array]]]:
        """The masked updates of a task with members, or their sum, when every member has one; and the answers again.

        Raises:
            Refused: a site was lost, or what it says; nothing can be read then, and the round can be resumed.
        """
        ...

    def tell(self, site: str, task: RoundTask, refusal: Refused) -> None:
        """Tell a site's owner that the centre left its update out, and why."""
        ...

    def receive(self, until: float | None) -> Sequence[Answer | SiteRefused]:
        """What has come in; waits for at least one answer, or until the clock says `until`."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let the clock go on by so much."""
        ...

    def close(self) -> None:
        """The run goes on no further: nobody waits for the tasks that are still under way."""
        ...


class SiteRefused(Refused):
    """A site said no in the middle of a task; the run can go on from its last committed round."""

    def __init__(self, site: str, refusal: Refused) -> None:
        named = refusal.reason if refusal.reason.startswith(site) else f"{site}: {refusal.reason}"
        super().__init__(refusal.code, named, refusal.next_step)
        self.site = site
