"""What a plan's [privacy] cannot go together with: refused when the plan is made, and at every site."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedrec.errors import Refused
from fedrec.exchange.recovery import FEWEST

if TYPE_CHECKING:
    from fedrec.exchange.plan import PlanText

SUMMED = ("sum", "mean", "weighted-mean", "gradient-mean", "gradient-sum")  # what can be made of the sum alone


def check_excluded(plan: PlanText) -> None:
    """Refuse what would run and protect nothing, or protect and not run.

    Raises:
        Refused: `plan.sum`, with the alternative.
    """
    if plan.protects.sum == "plain":
        if any(tensor.fixed for tensor in plan.leaves.values()):
            raise _no("fixed-point numbers are for a sum that nobody sees the parts of", 'privacy.sum = "secure"')
        return
    settings, model = plan.aggregator, str(plan.model["name"])
    inner = "inner_" if "inner" in settings else ""
    name = str(settings["inner" if inner else "name"])
    if name not in SUMMED:
        raise _no(f"{name} has to see each institution's update", "a mean, whose sites' guards bound the norms")
    if settings.get(f"{inner}sites"):
        raise _no("learning rates by institution are applied to single updates", "one rate for all")
    if name == "weighted-mean" and settings.get(f"{inner}by", "interactions") not in ("interactions", "users"):
        raise _no("a weight by quality is checked against the others", 'by = "interactions" or "users"')
    if plan.schedule.get("name") == "buffered":
        raise _no("asynchronous rounds merge updates one by one", "the schedule quorum")
    if plan.stop.get("patience"):
        raise _no("a stop by validation looks at each institution's figure", "a stop by the norm of the step")
    if plan.local.get("scaffold"):
        raise _no("SCAFFOLD's control variates are per site", "proximal local epochs")
    if plan.local and name in ("sum", "gradient-sum"):
        raise _no("parameters after local epochs are averaged, not added", "weighted-mean")
    if plan.codec:
        raise _no("a codec's scales differ from site to site", "fixed-point numbers of 16 or 8 bits: fixed={…}")
    if 0 < len(plan.sites) < 3 and plan.protects.epsilon is None:
        raise _no("for two institutions a sum protects nothing against each other", "a third one, or epsilon")
    if plan.protects.recover and 0 < len(plan.sites) < FEWEST:
        raise _no("of three institutions none can be missing", "a fourth one, or no recover")
    if bare := [name for name, tensor in plan.leaves.items() if tensor.fixed is None]:
        raise _no(f"{bare[0]} of {model} has no fixed-point form", "a plan made by fedrec.Plan")


def _no(reason: str, alternative: str) -> Refused:
    return Refused("plan.sum", reason, f"Use {alternative}")
