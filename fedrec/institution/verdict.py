"""What the verification of a log or a pack has found, as a sentence, as JSON, and as an exit code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fedrec.institution.verify import GOOD


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found; see verify.py."""

    verdict: str
    events: int
    first_bad: int | None = None
    reason: str = ""
    site: str = ""
    key: str = ""
    keys: list[str] = field(default_factory=list)
    pinned: bool = False
    signed: int = 0
    open: list[int] = field(default_factory=list)
    witnessed: int = 0
    witnesses: list[dict[str, Any]] = field(default_factory=list)
    absent: int = 0

    def sentence(self) -> str:
        """The verdict on one line."""
        if self.verdict not in GOOD:
            where = "" if self.first_bad is None else f" at event {self.first_bad}"
            return f"{self.verdict}{where}: {self.reason}"
        torn = "" if self.verdict == "ok" else f"{self.verdict} ({self.reason}), "
        held = f", a witness holds {self.witnessed}" if self.witnessed else ""
        held += f"; {self.absent} texts erased or not here" if self.absent else ""
        more = [f"{len(self.open)} acts without outcome, the first at event {self.open[0]}"] if self.open else []
        more += [f"{one['witness']} holds nothing of it" for one in self.witnesses if not one["held"]]
        more += [f"{one['witness']}'s own log is {one['verdict']}" for one in self.witnesses if one["verdict"] != "ok"]
        more += [
            f"{one['unreadable']} lines of {one['witness']} about it are not signed by its key"
            for one in self.witnesses
            if one["unreadable"]
        ]
        more += [self.reason] if self.verdict == "ok" and self.reason else []
        more += [] if self.pinned else [f"key not pinned: compare {self.key}"]
        held += f"; signed by {len(self.keys)} keys, each named by the one before" if len(self.keys) > 1 else ""
        said = f"{torn or 'ok, '}{self.events} events of {self.site} (its last signature covers {self.signed}{held})"
        return "; ".join([said, *more])

    @property
    def code(self) -> int:
        """The exit code of who verified: also 2 when a witness holds nothing of the log, or is itself not whole."""
        weak = any(not one["held"] or one["verdict"] not in GOOD for one in self.witnesses)
        return 2 * weak if self.verdict in GOOD else 2 if self.verdict == "unreadable" else 3

    def as_dict(self) -> dict[str, Any]:
        """The verdict as contracts.md states it."""
        return {name: getattr(self, name) for name in self.__slots__}
