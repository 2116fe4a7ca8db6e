"""What a plan's update tells, tried on the institution's own rows before its owner decides."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedrec.config.site import Limits
from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams
from fedrec.core.split import split
from fedrec.errors import Refused
from fedrec.exchange.budget import cost_of_task
from fedrec.exchange.noise import Source
from fedrec.exchange.plan import PlanText
from fedrec.institution.leak import thin_cells
from fedrec.institution.noised import noised
from fedrec.institution.store import Store
from fedrec.models import GRADIENTS, from_plan

FEW = 5  # users, in the count of cells that few stand behind
CANARIES, DRAWS = 25, 2  # people, and updates with and without each: 100 tries
SECONDS = 2.0
LOOKED_AT = 10**6  # rows of an institution on which a plan is tried while somebody waits


@dataclass(frozen=True, slots=True)
class Told:
    """How much an update tells.

    Args:
        right: tries in which the attacker said rightly whether a person is in the update, of `tries`.
        shown: items that the attacker reads from it, of which `true` were touched, of `touched` in all; None where no
            array has a row for each item.
        thin: cells of X'X that fewer than `FEW` users stand behind, and all; None where no pairs are released exactly.
        empty: nobody who was tried adds anything to the first update, so it says nothing of the later ones.
    """

    right: int
    tries: int
    shown: int | None = None
    true: int = 0
    touched: int = 0
    thin: tuple[int, int] | None = None
    empty: bool = False

    def lines(self, *, summed: bool) -> list[str]:
        """In plain words.

        Args:
            summed: whether the centre sees sums over institutions only.
        """
        said = [
            "tried on your own rows with the first update: someone who knows the rows of all others and is asked",
            f"whether a person is among your users is right in {self.right} of {self.tries} tries;",
            f"{self.tries // 2} is guessing",
        ]
        if self.shown is not None:
            said += [
                f"of the {self.touched:,} items that your users touched, {self.true:,} can be read from it, among",
                f"{self.shown:,} that it seems to show",
            ]
        if summed:
            said += [
                "the centre sees it in the sum with the other institutions only: who knows their rows too reads as much"
            ]
        if self.thin is not None:
            few, every = self.thin
            said += [
                f"of the {every:,} numbers for an item or two, {few:,} stand for fewer than {FEW} users: someone",
                "who knows what all others have can tell from them whether a person is among them",
            ]
        return said


def told(
    plan: PlanText,
    rows: Interactions,
    *,
    seconds: float = SECONDS,
    people: int = CANARIES,
    draws: int = DRAWS,
    seed: int = 0,
    random: Source = os.urandom,
) -> Told | None:
    """Attack a plan's first update as `leak.membership` does, on the contributions themselves.

    The attacker has the model, every other row, and what a person has, and makes from them the updates with and without
    the person; which one left is told by the nearer one. Under an epsilon the update has its noise (that of the whole
    sum under a secure sum).

    Args:
        rows: all of the institution's.
        seconds: after which no more people are tried; one is always.
        draws: updates with and without each of the people.
        seed: chooses the people.
        random: of the noise; a cryptographic generator wherever rows are real.

    Returns:
        None for own code, which runs in the jail only, and for models that need features prepared first.
    """
    from fedrec.models.local import LocalEpochs  # torch, which a site's own process does without

    if plan.own_code is not None or plan.features:
        return None
    model, local, end = from_plan(plan.model), LocalEpochs.from_table(plan.local), time.monotonic() + seconds
    seen, nothing = split(rows, plan.train[0], plan.seed).train, PrivateParams({})
    start = model.init(rows.n_items, plan.seed)
    noisy = plan.protects.epsilon is not None
    cost = cost_of_task(plan, model, "train", 0) if noisy else 0

    def update(part: Interactions) -> Mapping[str, Array]:
        one = model.fit_site(part, start, nothing) if local is None else local.fit(model, part, start, nothing)
        return one[0].tensors

    def left(exact: Mapping[str, Array]) -> Mapping[str, Array]:
        return noised(exact, model.sensitivity(0), cost, random=random) if noisy else exact  # type: ignore[attr-defined]

    whole, right, tries, most = update(seen), 0, 0, 0.0
    users = np.unique(seen.user)
    for user in np.random.default_rng(seed).permutation(users)[:people]:
        without = update(_rows(seen, seen.user != user))
        adds = {name: whole[name].astype(np.float64) - without[name] for name in whole}
        size = sum(float((array**2).sum()) for array in adds.values())
        most = max(most, size)
        for inside, truth in ((True, whole), (False, without)):
            for _ in range(draws):
                seen_there = left(truth)
                far = sum(
                    float((adds[name] * (seen_there[name] - without[name].astype(np.float64))).sum()) for name in adds
                )
                right += (far > size / 2) == inside
                tries += 1
        if time.monotonic() > end:
            break
    shown, true, touched = _items(plan, left(whole), np.bincount(seen.item, minlength=rows.n_items) > 0)
    return Told(right, tries, shown, true, touched, cells(plan, seen), not most > 0)


def cells(plan: PlanText, seen: Interactions) -> tuple[int, int] | None:
    """Cells of X'X that fewer than `FEW` users stand behind, and all that any does; None without exact pairs."""
    return thin_cells(seen, FEW) if pairs(plan) and plan.protects.epsilon is None else None


def pairs(plan: PlanText) -> bool:
    """Whether numbers for pairs of items leave: by the arrays that are declared."""
    return plan.model["name"] == "private" or any(tensor.shape == ("items", "items") for tensor in plan.leaves.values())


def check_cells(plan: PlanText, limits: Limits, store: Store, protocol: str) -> None:
    """Refuse exact sums over pairs of items too many of which stand for a few users, where site.toml says so.

    Raises:
        Refused: `data.cells`.
    """
    if limits.thin_cells >= 1 or plan.protects.epsilon is not None:
        return
    alternative = "Submit the model private with privacy=Privacy(epsilon=...), or a model without pairs such as mf"
    if plan.own_code is not None:
        reason = "this institution looks at how many users stand behind each number; of own code nobody knows"
        raise Refused("data.cells", reason, alternative)
    if not pairs(plan):
        return
    few, every = thin_cells(split(store.rows(), protocol, plan.seed).train, FEW)
    if few > limits.thin_cells * every:
        most = f"{limits.thin_cells:.0%}"
        reason = f"more than {most} of the numbers for pairs of items stand for fewer than {FEW} users"
        raise Refused("data.cells", reason, alternative)


def _rows(rows: Interactions, chosen: NDArray[np.bool_]) -> Interactions:
    time_ = None if rows.time is None else rows.time[chosen]
    return replace(rows, user=rows.user[chosen], item=rows.item[chosen], rating=rows.rating[chosen], time=time_)


def _items(plan: PlanText, update: Mapping[str, Array], touched: NDArray[np.bool_]) -> tuple[int | None, int, int]:
    """Items that stand out in an update: a number above a half, or of a gradient the larger half of the rows."""
    by_item = [update[name] for name, tensor in plan.leaves.items() if tensor.shape[:1] == ("items",)]
    if not by_item:
        return None, 0, 0
    sizes = np.max([np.abs(array.reshape(len(array), -1)).max(axis=1) for array in by_item], axis=0)
    edge = np.median(sizes) if plan.model["name"] in GRADIENTS else 0.5
    shown = sizes > edge
    return int(shown.sum()), int((shown & touched).sum()), int(touched.sum())
