"""Choosing a model's settings, and what each institution adds, by the sites' validation rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from fedrec import models
from fedrec.core.params import SharedParams
from fedrec.core.threads import one_thread
from fedrec.errors import WrongInput
from fedrec.scientist.driver import Round
from fedrec.scientist.lines import chief
from fedrec.scientist.plan import Plan
from fedrec.scientist.runs import Run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Search:
    """What a search found.

    Args:
        table: one row per combination of settings: what it gave on the validation rows, over all users.
        settings: the best ones, by NDCG@10, of outcomes AUC, of ratings RMSE; the first of equals.
        run: the run whose model was made with them: `run.evaluate()`, `run.publish()`.
        cost: plans that owners approved, train and validation tasks of each site, bytes and seconds, in all.
    """

    table: pd.DataFrame
    settings: dict[str, Any]
    run: Run
    cost: dict[str, float]


def search(plan: Plan, grid: Mapping[str, Sequence[Any]], trained: Callable[[Plan], Run]) -> Search:
    """Try every combination; a model says in `centre` which settings its merged statistic serves without a new one.

    Args:
        trained: submits a plan if need be, and runs it.

    Raises:
        WrongInput: nothing to try, or the model has no such setting.
    """
    tried = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    if not grid or not tried:
        raise WrongInput("search: name settings and their values, such as {'l2': [50, 200, 800]}")
    plans = [_with(plan, settings, validate=1) for settings in tried]  # also checks every setting
    if set(grid) <= set(getattr(plan.built, "centre", ())):
        run = trained(replace(plan, search={name: list(values) for name, values in grid.items()}, validate=len(tried)))
        last = _kept(run)
        with one_thread():
            made = [one.built.finish(last.before, last.step) for one in plans]
        runs, found = [run], [run.validate(model) for model in made]
        best = _best(found)
        run.now = replace(run.now, shared=made[best])
        run.write_model()
    else:
        runs = [trained(one) for one in plans]
        found = [one.validate() for one in runs]
        best = _best(found)
        run = runs[best]
    import pandas as pd

    scores = [table.set_index("institution").loc["all"] for table in found]
    shown = [name for name in (chief(found[0].columns), "ndcg@10", "hr@10", "users") if name in found[0].columns]
    rows = [{**settings, **score[list(dict.fromkeys(shown))]} for settings, score in zip(tried, scores, strict=True)]
    lines = [line for one in runs for line in one.log]
    cost: dict[str, float] = {"plans": len(runs), "train": len(lines), "validate": len(tried)}
    cost |= {key: sum(line[key] for line in lines) for key in ("bytes_up", "bytes_down", "seconds")}
    return Search(pd.DataFrame(rows), tried[best], run, cost)


def contributions(run: Run) -> pd.DataFrame:
    """What leaving out each institution changes for the users of the others, on their validation rows, by `chief`.

    Exact for statistics: the others' updates are summed again. Else, in simulation only, the run is made again without
    the institution.

    Raises:
        WrongInput: the plan asks for too few validations, or the run would have to be made again at real sites.
    """
    import pandas as pd

    seen = run.plan.spec.protects.sum == "plain"
    exact = seen and run.plan.built.aggregator_default == "sum" and run.plan.spec.rounds == 1
    if not exact and not run.federation.simulated:
        what = "only statistics that the centre has seen" if seen else "no part of a sum that nobody has seen"
        raise WrongInput(f"{what} can be taken out of a model again: rehearse this plan in fedrec.simulate")
    if exact and run.plan.validate <= len(run.sites):
        raise WrongInput(f"this needs validate={len(run.sites) + 1} in the plan, one more than institutions")
    whole, rows = run.validate(), []
    for site in run.sites:
        others = [one for one in run.sites if one != site]
        if exact:
            part = run.validate(_without(run, site))
        else:
            part = Run.start(run.plan, run.federation, protocol=run.protocol, sites=others).finish().validate()
        before, after = (_mean(table, others) for table in (whole, part))
        rows.append({"left out": site, "with": before, "without": after, "change": after - before})
    return pd.DataFrame(rows)


def _kept(run: Run) -> Round:
    if run.kept is None:
        raise WrongInput("the updates are not known any more: a run that was resumed after its last round has none")
    return run.kept


def _without(run: Run, site: str) -> SharedParams:
    """The model of a statistic that one institution did not release."""
    last, merges = _kept(run), run.plan.merges
    updates = [answer.update for answer in last.answers if answer.update and answer.site != site]
    with one_thread():
        step, _ = merges.apply(merges.init(last.before), last.before, updates)
        return run.plan.built.finish(last.before, step)


def _with(plan: Plan, settings: Mapping[str, Any], validate: int) -> Plan:
    if plan.model is None:
        return replace(plan, settings={**(plan.settings or {}), **settings}, validate=validate)
    return replace(plan, model=models.from_plan({**plan.spec.model, **settings}), validate=validate)


def _best(found: Sequence[pd.DataFrame]) -> int:
    name = chief(found[0].columns)
    scores = [float(table[table["institution"] == "all"][name].iloc[0]) for table in found]
    return scores.index(min(scores) if name == "rmse" else max(scores))


def _mean(table: pd.DataFrame, sites: Sequence[str]) -> float:
    """NDCG@10 over the users of these institutions; of outcomes the mean AUC, of ratings the RMSE (a row a user)."""
    rows, name = table[table["institution"].isin(sites)], chief(table.columns)
    power = 2 if name == "rmse" else 1
    return float(((rows[name] ** power * rows["users"]).sum() / rows["users"].sum()) ** (1 / power))
