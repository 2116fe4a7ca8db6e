"""The site's own caps: no plan, permit or approval can exceed them."""

from __future__ import annotations

from math import prod
from typing import Any

import fedrec
from fedrec.config import SiteConfig
from fedrec.config.site import Limits
from fedrec.errors import Refused
from fedrec.exchange.accountant import epsilon_of
from fedrec.exchange.budget import cost_of_plan, why_not
from fedrec.exchange.plan import PlanText, Tensor
from fedrec.models import NAMES, from_plan

SMALLER: tuple[tuple[dict[str, Any], str], ...] = (  # but for ease, they grow with the catalogue, not with its square
    ({"name": "ease"}, "ease"),
    ({"name": "ials", "block": 8}, "ials with block=8"),
    ({"name": "mf"}, "mf"),
    ({"name": "mf", "factors": 16}, "mf with factors=16"),
)


def check_limits(plan: PlanText, config: SiteConfig, n_items: int | None = None) -> None:
    """Accept a plan that the institution's site.toml allows.

    Args:
        n_items: length of the catalogue; None leaves the size of the update to the guard.

    Raises:
        Refused: `plan.version`, `plan.model`, `plan.own_code`, `plan.purpose`, `plan.setting`, `plan.rounds`,
            `plan.publish`, `plan.privacy` or `plan.bytes`.
    """
    limits, name = config.limits, str(plan.model["name"])
    if plan.fedrec != fedrec.__version__:
        raise Refused(
            "plan.version", f"the plan is for fedrec {plan.fedrec}, this site runs {fedrec.__version__}", "Make it anew"
        )
    if name not in (*NAMES, "own"):
        raise Refused("plan.model", f"there is no model {name!r}", f"Use one of {', '.join(NAMES)}")
    if name == "own" and not limits.own_code:
        raise Refused(
            "plan.own_code", "this institution does not run a plan's own code", "Use a recipe, or talk to the owner"
        )
    if name == "echo" and not limits.allow_echo:
        raise Refused("plan.model", "echo sends a model back; this institution does not run it", "Use another model")
    if limits.models and name not in limits.models:
        raise Refused("plan.model", f"this institution does not run {name}", f"Use one of {', '.join(limits.models)}")
    if limits.purposes and plan.use not in limits.purposes:
        raise Refused(
            "plan.purpose",
            f"this institution does not allow the use {plan.use!r}",
            f"Submit with use= one of {', '.join(limits.purposes)}",
        )
    for setting, (least, most) in ranges_of(plan, limits).items():
        if not inside(value := plan.model.get(setting.partition(".")[2]), least, most):
            raise Refused(
                "plan.setting", f"{setting} is {value!r}, allowed is {least:g} to {most:g}", "Submit with another value"
            )
    if plan.train_tasks > limits.train:
        raise Refused(
            "plan.rounds", f"{plan.train_tasks} train tasks asked, {limits.train} allowed", "Ask for fewer rounds"
        )
    if plan.publish and not limits.publish:
        raise Refused("plan.publish", "this institution does not take published models", "Submit with publish=False")
    _check_epsilon(plan, limits)
    if n_items is not None:
        size = plan.travels(n_items)
        if size > limits.megabytes * 10**6:
            reason = f"an update has {size} bytes, {limits.megabytes:g} MB allowed"
            raise Refused("plan.bytes", reason, _smaller(plan, size, limits, n_items))


def _smaller(plan: PlanText, size: int, limits: Limits, n_items: int) -> str:
    """Which models would fit, if each number took as many bytes as in this plan."""
    each = size / sum(prod(tensor.sized(n_items)) for tensor in plan.leaves.values())
    fit = []
    for table, said in SMALLER:
        leaves = [Tensor.parse(text) for text in from_plan(table).leaves().values()]
        small = each * sum(prod(tensor.sized(n_items)) for tensor in leaves) <= limits.megabytes * 10**6
        if small and (not limits.models or table["name"] in limits.models):
            fit.append(said)
    word = "Ask for a smaller model"
    return f"{word}; with {n_items} items these fit: {', '.join(fit[:2])}" if fit else word


def _check_epsilon(plan: PlanText, limits: Limits) -> None:
    asked, most = plan.protects.epsilon, limits.epsilon_limit
    if asked is not None and (found := why_not(plan, from_plan(plan.model) if plan.own_code is None else None)):
        raise Refused("plan.privacy", found[0], found[1])
    if most is None:
        return
    if asked is None:  # without noise there is no epsilon, and so none within a limit
        reason = f"this institution limits epsilon to {most:g}, and the plan has none"
        raise Refused("plan.privacy", reason, "Submit with privacy=Privacy(epsilon=...)")
    if epsilon_of(cost_of_plan(plan), limits.delta) > most:
        reason = f"the plan asks for epsilon {asked:g}, this institution allows {most:g} at delta {limits.delta:g}"
        raise Refused("plan.privacy", reason, "Submit with a smaller epsilon")


def inside(value: object, least: float, most: float) -> bool:
    """Whether a setting is a number within its range; True and nan are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def ranges_of(plan: PlanText, limits: Limits) -> dict[str, tuple[float, float]]:
    """The site's ranges for settings of the plan's model, by their full name such as ease.l2."""
    own = f"{plan.model['name']}."
    return {setting: span for setting, span in limits.settings.items() if setting.startswith(own)}
