"""The table [privacy] of a plan: what stands between an institution's update and the centre."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SUMS = ("plain", "secure", "ckks")


@dataclass(frozen=True, slots=True)
class Privacy:
    """How a plan's updates are protected; the defaults protect nothing.

    Args:
        sum: what the centre sees: "plain" every institution's update, "secure" only their sum (pairwise masks),
            "ckks" only ciphertexts, which it adds and an institution decrypts.
        epsilon: of user-level differential privacy, for a person with all rows at one institution, over everything
            that the plan releases there; None = no noise and no promise.
        delta: the chance that epsilon does not hold; only with epsilon.
        recover: a secure sum ends without the institutions that are lost, instead of being done again without them
            (double masks, see recovery.py); for four institutions or more, without epsilon.
    """

    sum: str = "plain"
    epsilon: float | None = None
    delta: float = 1e-5
    recover: bool = False

    def __post_init__(self) -> None:
        if self.sum not in SUMS:
            raise ValueError(f"privacy.sum: one of {', '.join(SUMS)}")
        if self.epsilon is not None and not (type(self.epsilon) in (int, float) and 0 < self.epsilon <= 100):
            raise ValueError("privacy.epsilon: a number above 0, to 100")
        if type(self.delta) is not float or not (math.isfinite(self.delta) and 0 < self.delta < 0.01):
            raise ValueError("privacy.delta: a number above 0 and below 0.01")
        if type(self.recover) is not bool or (self.recover and (self.sum != "secure" or self.epsilon is not None)):
            raise ValueError(
                'privacy.recover: true only with sum = "secure" and no epsilon, whose noise all members share'
            )

    def table(self) -> dict[str, Any]:
        """The table as a plan has it; empty when nothing is protected."""
        found = {key: value for key, value in asdict(self).items() if value is not None}
        if self.epsilon is None:
            del found["delta"]
        if not self.recover:
            del found["recover"]
        return {} if found == {"sum": "plain"} else found

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Privacy:
        """Raises: ValueError or TypeError for what `table` does not write."""
        found = cls(**table)
        if found.table() != dict(table):
            raise ValueError("privacy: keys that say nothing")
        return found
