"""Why a published model was not compared with the institution's own: a word for the owner.

The scientist gets it too where the plan and what is public decide it. What the rows decide he is not told.
"""

from __future__ import annotations

from fedrec.exchange.plan import PlanText
from fedrec.models import RATINGS

PUBLIC = ("kind", "scale")
WORDS = {
    "kind": "a model of this kind recommends nothing",
    "scale": "the schema states no rating scale",
    "few": "too few users have a row to judge by",
    "time": "it would have taken more than its part of a job's time",
    "memory": "it would have taken more memory than a job has",
    "own": "the plan's code failed on it",
}
NAMES = tuple(WORDS)


class Uncompared(Exception):
    """The comparison ends without a verdict; `word` is one of NAMES."""

    def __init__(self, word: str) -> None:
        super().__init__(WORDS[word])
        self.word = word


def told(plan: PlanText, has_scale: bool) -> dict[str, str]:
    """What the answer of publish says of it beside `done`: nothing where the site compares, or where rows decide."""
    name = plan.model["name"]
    word = "kind" if name in ("features", "echo") else "scale" if name in RATINGS and not has_scale else ""
    return {"not_compared": WORDS[word]} if word else {}
