"""The step between what a job made and what may leave: noise, outside the jail, once for each release."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.core.metrics import Sums
from fedrec.core.params import Array
from fedrec.exchange.accountant import sigma_of
from fedrec.exchange.noise import Source, add_noise, grid_for
from fedrec.exchange.plan import PlanText
from fedrec.exchange.secure_sum import FEW

COUNTED = ("users", "hr", "ndcg", "recall")  # of an evaluation, what is released: each at most 1 for one user


def noised(
    tensors: Mapping[str, Array],
    bounds: Mapping[str, float],
    cost: int,
    members: int = 1,
    grids: Mapping[str, float] | None = None,
    random: Source = os.urandom,
) -> dict[str, Array]:
    """An update's arrays with noise that costs no more than this, which they share equally.

    Args:
        bounds: the L2 sensitivity of each array, from `model.sensitivity`; 0 = it means nothing now and becomes zeros.
        cost: as the ledger has booked it, see accountant.py.
        members: of a secure sum; each adds an equal part of the noise.
        grids: steps on which the arrays must lie, powers of two; by default fine ones.
        random: a cryptographic generator.

    Raises:
        ValueError: other arrays than those with bounds, or what `add_noise` says.
    """
    if set(tensors) != set(bounds):
        raise ValueError("an array without a bound")
    live = sum(bound > 0 for bound in bounds.values())
    sigma = sigma_of(cost) * math.sqrt(live / members) if live else 0.0
    found = {}
    for name, bound in bounds.items():
        grid = (grids or {}).get(name) or (grid_for(sigma * bound) if bound > 0 else 1.0)
        values = tensors[name]
        found[name] = add_noise(values, bound, sigma, grid, random) if bound > 0 else np.zeros_like(values)
    return found


def sharing(plan: PlanText, members: Sequence[str]) -> int:
    """How many sites share one noise: a secure sum's members.

    Of two none, since each could take its own off; of an encrypted sum none, since one member has the key to each part.
    """
    return len(members) if plan.protects.sum == "secure" and len(members) >= FEW else 1


def noised_sums(numbers: Mapping[str, Mapping[str, float]], cost: int, random: Source = os.urandom) -> dict[str, Any]:
    """An evaluation's sums with noise: how many users, and three sums of the federated model; all others become 0.

    Of the other scopes a user could move everybody's values, and of groups there would be little left but noise.

    Args:
        numbers: what an evaluation made; each user adds at most 1 to each sum.
    """
    sums = numbers["federated"]
    exact = np.array([float(sums[name]) for name in COUNTED])
    bound, sigma = math.sqrt(len(COUNTED)), sigma_of(cost)
    users, *rest = add_noise(exact, bound, sigma, grid_for(bound * sigma), random).tolist()
    whole = max(0, round(users))
    shown = {name: min(max(value, 0.0), float(whole)) for name, value in zip(COUNTED[1:], rest, strict=True)}
    return {"federated": {**Sums().as_dict(), "users": whole, **shown}}


def once(path: Path, data: bytes) -> bytes:
    """What a job's first try drew: written to disk before anything leaves, so that a second try draws no noise anew.

    Two releases with other noise of one booking would cost twice.
    """
    if path.exists():
        return path.read_bytes()
    path.parent.mkdir(mode=0o700, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return data
