"""What a plan with `[privacy] sum = "ckks"` needs: the form of its encrypted updates, their grid, their size."""

from __future__ import annotations

import numpy as np

from fedrec.errors import Refused
from fedrec.exchange.ckks import Grid, Layout, check_size
from fedrec.exchange.ckks_tag import MIN_MEMBERS
from fedrec.exchange.plan import PlanText


def layout_of(plan: PlanText, n_items: int) -> Layout:
    """dtype and shape of each array of an update."""
    return {name: (np.dtype(one.dtype), one.sized(n_items)) for name, one in plan.leaves.items()}


def grid_of(plan: PlanText, sites: int, factor: float = 1.0) -> Grid:
    """The grid for the sum of `sites` updates; their bound is the largest norm that the plan lets out.

    Args:
        factor: what an institution multiplies its update with, at most.

    Raises:
        Refused: `plan.privacy` where an array of numbers that are not whole has no norm; `ckks.sites`; `ckks.range`.
    """
    norms = [one.norm for one in plan.leaves.values() if np.dtype(one.dtype).kind == "f"]
    known = [norm for norm in norms if norm is not None]
    if len(known) < len(norms):
        reason = "encrypted numbers need a bound, and an array of the plan has no norm"
        raise Refused("plan.privacy", reason, "Give each array a norm, or take the secure sum")
    return Grid(sites, max([*known, 2.0**-100]) * factor)


def check_plan(plan: PlanText, n_items: int, sites: int, most: int) -> None:
    """Accept a plan whose updates can be encrypted and added; `most` bytes may leave a site in one update.

    Raises:
        Refused: `plan.privacy`, `ckks.bytes` with the size, and as `grid_of`.
    """
    if sites < MIN_MEMBERS:
        reason = f"of {sites} institutions' sum each reads what the other sent"
        raise Refused("plan.privacy", reason, "Ask a third institution, or use noise at each site")
    if plan.codec:
        raise Refused("plan.privacy", "encrypted numbers are not packed by a codec", "Leave the codec out")
    check_size(layout_of(plan, n_items), most)
    grid_of(plan, sites)
