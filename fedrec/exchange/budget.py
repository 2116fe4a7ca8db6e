"""How a plan's epsilon is spent: which release costs what, which plans can keep it, and what it says to a person."""

from __future__ import annotations

import math
from typing import Any

from fedrec.exchange.accountant import at_all, cost_within, epsilon_of, sigma_of
from fedrec.exchange.plan import PlanText

EVALUATED = 10  # percent of a plan's cost for all its evaluations, where it asks for any


def evaluations_of(plan: PlanText) -> int:
    """How many evaluate tasks a plan needs: two protocols may fit the rows of each run, and what it validates."""
    return len(plan.train) * plan.runs * ((2 if plan.evaluate else 0) + plan.validate)


def cost_of_plan(plan: PlanText, epsilon: float | None = None) -> int:
    """What everything that a plan releases at one site may cost together; 0 without epsilon.

    Args:
        epsilon: a permit's own, which may be lower than the plan's.
    """
    own = plan.protects.epsilon
    if own is None:
        return 0
    return cost_within(own if epsilon is None else min(own, epsilon), plan.protects.delta)


def cost_of_task(plan: PlanText, model: Any, kind: str, number: int, epsilon: float | None = None) -> int:
    """What one task's release costs: all of a plan's tasks together no more than `cost_of_plan`.

    Args:
        model: the plan's; its `share(number)`, if it has one, says what part of a run's cost a round gets.
        number: the round.
    """
    whole, evaluations = cost_of_plan(plan, epsilon), evaluations_of(plan)
    if not whole or kind not in ("train", "evaluate"):
        return 0
    measured = whole * EVALUATED // 100 if evaluations else 0
    if kind == "evaluate":
        return measured // max(1, evaluations)
    share = model.share(number) if hasattr(model, "share") else 1 / plan.rounds
    return max(0, math.floor((whole - measured) // (plan.runs * len(plan.train)) * share) - 1)  # floats round up


def why_not(plan: PlanText, model: Any) -> tuple[str, str] | None:
    """(what stands against a plan's epsilon, what to do instead); None where it can be kept, or none is asked for."""
    if plan.protects.epsilon is None:
        return None
    if plan.own_code is not None:
        return "own code could lie about what it bounds, so it cannot have an epsilon", "Use a recipe, or no epsilon"
    bounds = [model.sensitivity(number) if hasattr(model, "sensitivity") else None for number in range(plan.rounds)]
    if not all(one is not None and set(one) == set(plan.leaves) for one in bounds):
        other = "Use a model that does, such as popularity with clip=1.0, and the rounds it is made for"
        return f"{model.name} with these settings does not bound what one user adds in every round", other
    if plan.local:
        return "parameters after local epochs have no bound for one user", "Leave local out"
    if plan.measures:
        return f"{plan.measures[0]} would leave without noise", "Weigh all institutions equally, and set no patience"
    if plan.codec or any(tensor.norm is not None for tensor in plan.leaves.values()):
        return "noise decides how large and how fine the numbers are: no codec and no norms", "Leave them out"
    if evaluations_of(plan) and not model.by_user:
        return f"a score of {model.name} depends on all users, so no noise hides one", "Leave evaluate out"
    if min(cost_of_task(plan, model, kind, 0) for kind in _kinds(plan)) < 1:
        return "the epsilon is too small for so many releases", "Ask for fewer rounds or runs"
    return None


def report(plan: PlanText, model: Any, institutions: int = 1, epsilon: float | None = None) -> list[str]:
    """What a plan's epsilon says, in plain lines; for the scientist before he submits and for the owner who decides.

    Args:
        institutions: how many take part; 1 leaves out what a customer of all of them has to know.
        epsilon: the permit's, where it is lower.
    """
    cost, delta = cost_of_plan(plan, epsilon), plan.protects.delta
    if not cost:
        return ["this plan adds no noise: there is no differential-privacy promise"]
    kept = epsilon_of(cost, delta)
    lines = [
        f"epsilon {kept:.3g} with delta {delta:g}, for all that this plan releases here about one person's rows:",
        f"whoever sees it all can change his odds on whether they are in by a factor of {math.exp(kept):.3g} at most,",
        f"but for a chance of {delta:g}; below 1 little can be told about anyone, above 10 little is promised",
    ]
    if institutions > 1:
        everywhere = epsilon_of(at_all(cost, institutions, plan.protects.sum == "secure"), delta)
        lines.append(f"for a customer of all {institutions} institutions it is epsilon {everywhere:.3g}")
    for kind in _kinds(plan):
        costs = {cost_of_task(plan, model, kind, number, epsilon) for number in range(plan.rounds)}
        least, most = (sigma_of(one) for one in (max(costs), max(1, min(costs))))
        spread = f"{least:.3g}" if least == most else f"{least:.3g} to {most:.3g}"
        lines.append(f"each {kind} release has noise of {spread} times what one person can add")
    if plan.protects.sum == "secure":
        lines.append("the noise is that of the sum: it promises this to whoever sees the sum, and less to institutions")
        lines.append("that take their own noise off it")
    return lines


def _kinds(plan: PlanText) -> tuple[str, ...]:
    return ("train", "evaluate") if evaluations_of(plan) else ("train",)
