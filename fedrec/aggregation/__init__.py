"""The centre: merging the sites' contributions, and when they are asked for.

In a plan an aggregator is a flat table: `name = "adam"`, its settings, and for one that wraps another
`inner = "weighted-mean"` with that one's settings as `inner_by` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fedrec.aggregation.aggregators import Aggregator, GradientMean, GradientSum, Mean, Sum, WeightedMean
from fedrec.aggregation.robust import CoordinateMedian, GeometricMedian, Krum, MultiKrum, NormBound, TrimmedMean
from fedrec.aggregation.schedules import Buffered, Periodic, Quorum, Sampled, Schedule, Stop, Synchronous
from fedrec.aggregation.server import Adagrad, Adam, Momentum, Yogi
from fedrec.aggregation.update import SiteUpdate
from fedrec.errors import WrongInput
from fedrec.models.base import Model, build

__all__ = [
    "NAMES",
    "Adagrad",
    "Adam",
    "Aggregator",
    "Buffered",
    "CoordinateMedian",
    "GeometricMedian",
    "GradientMean",
    "GradientSum",
    "Krum",
    "Mean",
    "Momentum",
    "MultiKrum",
    "NormBound",
    "Periodic",
    "Quorum",
    "Sampled",
    "Schedule",
    "SiteUpdate",
    "Stop",
    "Sum",
    "Synchronous",
    "TrimmedMean",
    "WeightedMean",
    "Yogi",
    "create",
    "default_for",
    "schedule_of",
    "settings_of",
    "stop_of",
]

_CLASSES: dict[str, type[Any]] = {
    "sum": Sum,
    "mean": Mean,
    "weighted-mean": WeightedMean,
    "gradient-mean": GradientMean,
    "gradient-sum": GradientSum,
    "momentum": Momentum,
    "adagrad": Adagrad,
    "adam": Adam,
    "yogi": Yogi,
    "median": CoordinateMedian,
    "trimmed-mean": TrimmedMean,
    "norm-bound": NormBound,
    "geometric-median": GeometricMedian,
    "krum": Krum,
    "multi-krum": MultiKrum,
}
_SCHEDULES: dict[str, type[Any]] = {
    "synchronous": Synchronous,
    "sampled": Sampled,
    "periodic": Periodic,
    "quorum": Quorum,
    "buffered": Buffered,
}
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
    wraps = any(field.name == "inner" for field in fields(cls))
    values: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    for key, value in settings.items():
        if wraps and (key == "inner" or key.startswith(_INNER)):
            inner["name" if key == "inner" else key[len(_INNER) :]] = value
        elif key != "name":
            values[key] = value
    if inner:
        values["inner"] = create({"name": "weighted-mean", **inner})
    made: Aggregator = build(cls, values, name)
    return made


def schedule_of(settings: Mapping[str, Any]) -> Schedule:
    """A schedule from its table, as `create`.

    Raises:
        WrongInput: as `create`.
    """
    name = settings.get("name")
    if name not in _SCHEDULES:
        raise WrongInput(f"unknown schedule {name!r}; one of {', '.join(_SCHEDULES)}")
    made: Schedule = build(_SCHEDULES[name], {key: value for key, value in settings.items() if key != "name"}, name)
    return made


def stop_of(settings: Mapping[str, Any]) -> Stop:
    """The stop rules of a plan's table.

    Raises:
        WrongInput: as `create`.
    """
    made: Stop = build(Stop, settings, "stop")
    return made


def settings_of(made: Aggregator | Schedule) -> dict[str, Any]:
    """The literal, flat settings, for the plan's text; `create` or `schedule_of` reads them.

    Raises:
        WrongInput: none of them, such as a bare name.
    """
    names = {cls: name for name, cls in (_CLASSES | _SCHEDULES).items()}
    if type(made) not in names:
        raise WrongInput(f"{made!r} is no aggregator and no schedule; give one or its table")
    found: dict[str, Any] = {"name": names[type(made)]}
    for key in (field.name for field in fields(made)):  # type: ignore[arg-type]
        value = getattr(made, key)
        if key != "inner":
            found[key] = list(value) if isinstance(value, tuple) else value
            continue
        for inner_key, inner_value in settings_of(value).items():
            found["inner" if inner_key == "name" else _INNER + inner_key] = inner_value
    return found


def default_for(model: Model) -> Aggregator:
    """What fits the model when the plan does not say: Sum for statistics, Adam for gradients."""
    return create({"name": model.aggregator_default})
