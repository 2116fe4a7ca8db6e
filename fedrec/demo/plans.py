"""The plans that the demo's scientist proposes to a consortium, from the models that its [demo] table names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedrec import models
from fedrec.config import SchemaConfig
from fedrec.examples.my_factors import MyFactors
from fedrec.exchange.privacy import Privacy
from fedrec.scientist.plan import Plan

OWN = {"my_factors": MyFactors}
ROUNDS = {"my_factors": 25}
Settings = Mapping[str, Mapping[str, Any]]  # by model


def of_features(
    names: Sequence[str], schemas: Sequence[SchemaConfig], seed: int, privacy: Privacy | None = None
) -> dict[str, Plan]:
    """By model that reads features: the plan of the sums that say how they are centred and scaled."""
    columns = tuple(dict.fromkeys(column for schema in schemas for column in columns_of(schema)))
    found = {}
    for name in names:
        if name not in OWN and hasattr(models.create(name, {}), "columns"):
            sums = models.FeatureSums(columns, outcome=name in models.OUTCOMES)
            found[name] = Plan(model=sums, train=("p1",), name=f"features_of_{name}", seed=seed, privacy=privacy)
    return found


def of_models(
    names: Sequence[str], settings: Settings, rounds: int | None, seed: int, privacy: Privacy | None = None
) -> dict[str, Plan]:
    """One plan for each model, the first that recommends to be published.

    Args:
        settings: of models that read features.
        rounds: of gradient models; None takes each model's own.
        privacy: what stands between the updates and the centre; None = nothing.
    """
    plans: dict[str, Plan] = {}
    for name in names:
        what: dict[str, Any] = {"code": OWN[name]} if name in OWN else {"model": _model(name, settings)}
        many = name in OWN or what["model"].rounds_default > 1
        publish = name not in models.OUTCOMES and not any(plan.publish for plan in plans.values())
        rows = ("p1",) if name in models.OUTCOMES else ("p1", "p3", "all") if publish else ("p1", "p3")
        what |= {"rounds": (rounds or ROUNDS.get(name)) if many else None, "train": rows, "publish": publish}
        plans[name] = Plan(name=name.replace("-", "_"), evaluate=True, seed=seed, privacy=privacy, **what)
    return plans


def of_size(
    names: Sequence[str], settings: Settings, n_items: int, most: float, privacy: Privacy | None
) -> tuple[str, ...]:
    """The models whose updates have at most `most` MB; mf where there is none."""
    plans = of_models(names, settings, None, 0, privacy)
    return tuple(name for name, plan in plans.items() if plan.spec.travels(n_items) <= most * 10**6) or ("mf",)


def _model(name: str, settings: Settings) -> models.Model:
    return models.create(name, settings.get(name, {"l2": 200.0} if name == "ease" else {}))


def columns_of(schema: SchemaConfig) -> Iterator[str]:
    """The columns for every feature of a schema, as `FeatureSums` takes them: it finds texts and tags."""
    for of, features in (("user", schema.features.user), ("item", schema.features.item)):
        for name, feature in features.items():
            yield f"{of}.{name}" + ("" if feature.type == "number" else "=*")
