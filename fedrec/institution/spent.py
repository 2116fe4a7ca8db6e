"""What noisy releases have cost at this site, over all scientists and plans: a table of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedrec.config import Limits
from fedrec.errors import Refused
from fedrec.exchange.accountant import cost_within, epsilon_of

TABLE = """
CREATE TABLE IF NOT EXISTS spent (job TEXT PRIMARY KEY, request TEXT NOT NULL, cost INTEGER NOT NULL, at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS spent_of_request ON spent (request);
"""
Rows = Callable[..., list[tuple[Any, ...]]]  # runs SQL with values


def spend(rows: Rows, job: str, request: str, cost: int, permit: Mapping[str, Any], caps: Limits, now: str) -> None:
    """Book a release before it is made, in the caller's transaction; what is booked is never given back.

    Args:
        cost: of this release, see exchange/accountant.py; 0 for a task that releases nothing, or without epsilon.

    Raises:
        Refused: `ledger.epsilon` when the permit's epsilon or the site's would be passed.
    """
    epsilon = permit.get("epsilon")
    if epsilon is None or not cost:
        return
    used = spent(rows, request)
    if used + cost > cost_within(epsilon, permit["delta"]):
        raise _over(used, cost, epsilon, permit["delta"], "permit")
    if caps.epsilon_limit is not None:
        check_left(spent(rows), cost, caps)
    rows("INSERT INTO spent VALUES (?,?,?,?)", job, request, cost, now)


def spent(rows: Rows, request: str | None = None, job: str | None = None) -> int:
    """The cost of everything booked, of one request, one job, or all."""
    sql = "SELECT coalesce(sum(cost), 0) FROM spent WHERE request = coalesce(?, request) AND job = coalesce(?, job)"
    return int(rows(sql, request, job)[0][0])


def check_left(used: int, cost: int, caps: Limits) -> None:
    """Raises: Refused `ledger.epsilon` when a cost beside what is spent would pass the site's limit."""
    if caps.epsilon_limit is not None and epsilon_of(used + cost, caps.delta) > caps.epsilon_limit:
        raise _over(used, cost, caps.epsilon_limit, caps.delta, "institution")


def _over(used: int, cost: int, limit: float, delta: float, whose: str) -> Refused:
    before, after = epsilon_of(used, delta), epsilon_of(used + cost, delta)
    reason = f"the {whose} allows epsilon {limit:g}; {before:.2f} is spent and this would make it {after:.2f}"
    return Refused("ledger.epsilon", reason, "Ask for less, or talk to the data owner")
