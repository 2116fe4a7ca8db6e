"""The centre: merging the sites' contributions, and when they are asked for.

In a plan an aggregator is a flat table: `name = "adam"`, its settings, and for one that wraps another
`inner = "weighted-mean"` with that one's settings as `inner_by` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fedrec.aggregation.aggregators import Adam, Aggregator, Mean, Sum, WeightedMean
from fedrec.aggregation.schedules import Schedule, Synchronous
from fedrec.aggregation.update import SiteUpdate
from fedrec.errors import WrongInput
from fedrec.models.base import Model

__all__ = [
    "NAMES",
    "Adam",
    "Aggregator",
    "Mean",
    "Schedule",
    "SiteUpdate",
    "Sum",
    "Synchronous",
    "WeightedMean",
    "create",
    "default_for",
    "settings_of",
]

_CLASSES: dict[str, type[Any]] = {"sum": Sum, "mean": Mean, "weighted-mean": WeightedMean, "adam": Adam}
NAMES = tuple(_CLASSES)
_INNER = "inner_"


def create(settings: Mapping[str, Any]) -> Aggregator:
    """An aggregator from the table that `settings_of` writes; what is left out has its default.

    Raises:
        WrongInput: no such aggregator or setting, or a value of another type; lists what is allowed.
    """
    name = settings.get("name")
    if name not in _CLASSES:
        raise WrongInput(f"unknown aggregator {name!r}; one of {', '.join(NAMES)}")
    cls = _CLASSES[name]
    known = {field.name: field for field in fields(cls)}
    values: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    for key, value in settings.items():
        if "inner" in known and (key == "inner" or key.startswith(_INNER)):
            inner["name" if key == "inner" else key[len(_INNER) :]] = value
        elif key != "name":
            values[key] = value
    if unknown := sorted(set(values) - set(known)):
        raise WrongInput(f"{name} has no setting {', '.join(unknown)}; allowed: {', '.join(known) or 'it has none'}")
    for key, value in values.items():
        wanted: type[Any] = type(known[key].default)
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise WrongInput(f"{name}.{key} must be a {wanted.__name__}, not {value!r}")
        values[key] = wanted(value)
    if inner:
        values["inner"] = create({"name": "weighted-mean", **inner})
    made: Aggregator = cls(**values)
    return made


def settings_of(aggregator: Aggregator) -> dict[str, Any]:
    """The literal, flat settings, for the plan's text; `create` reads them."""
    found: dict[str, Any] = {"name": next(name for name, cls in _CLASSES.items() if type(aggregator) is cls)}
    for key in (field.name for field in fields(aggregator)):  # type: ignore[arg-type]
        value = getattr(aggregator, key)
        if key != "inner":
            found[key] = value
            continue
        for inner_key, inner_value in settings_of(value).items():
            found["inner" if inner_key == "name" else _INNER + inner_key] = inner_value
    return found


def default_for(model: Model) -> Aggregator:
    """What fits the model when the plan does not say: Sum for statistics, Adam for gradients."""
    return create({"name": model.aggregator_default})
