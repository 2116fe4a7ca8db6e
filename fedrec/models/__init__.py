"""One file per model. Names here are loaded when first used, so that statistic models never load torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from fedrec.errors import WrongInput
from fedrec.models.base import Model, build

if TYPE_CHECKING:
    from fedrec.models.bpr import BPR
    from fedrec.models.default import Default
    from fedrec.models.ease import Ease
    from fedrec.models.echo import Echo
    from fedrec.models.features import FeatureSums
    from fedrec.models.hybrid import Hybrid
    from fedrec.models.ials import IALS
    from fedrec.models.itemcf import ItemCF
    from fedrec.models.local import LocalEpochs
    from fedrec.models.logistic import Logistic
    from fedrec.models.mf import MF
    from fedrec.models.mf_explicit import MFExplicit
    from fedrec.models.neumf import NeuMF
    from fedrec.models.own import OwnModel
    from fedrec.models.popularity import Popularity
    from fedrec.models.private import Private
    from fedrec.models.sequential import Sequential
    from fedrec.models.usercf import UserCF

__all__ = [
    "BPR",
    "GRADIENTS",
    "IALS",
    "MF",
    "NAMES",
    "OUTCOMES",
    "Default",
    "Ease",
    "Echo",
    "FeatureSums",
    "Hybrid",
    "ItemCF",
    "LocalEpochs",
    "Logistic",
    "MFExplicit",
    "Model",
    "NeuMF",
    "OwnModel",
    "Popularity",
    "Private",
    "Sequential",
    "UserCF",
    "create",
    "from_plan",
    "table_of",
]

_CLASSES = {
    "popularity": "Popularity",
    "itemcf": "ItemCF",
    "usercf": "UserCF",
    "ease": "Ease",
    "sequential": "Sequential",
    "default": "Default",
    "private": "Private",
    "ials": "IALS",
    "mf": "MF",
    "bpr": "BPR",
    "mf-explicit": "MFExplicit",
    "neumf": "NeuMF",
    "features": "FeatureSums",
    "hybrid": "Hybrid",
    "logistic": "Logistic",
    "echo": "Echo",
}
_FILES = {cls: name.replace("-", "_") for name, cls in _CLASSES.items()} | {"OwnModel": "own", "LocalEpochs": "local"}
NAMES = tuple(_CLASSES)
OUTCOMES = ("logistic",)  # judged by core.outcomes, not by ranks
GRADIENTS = ("mf", "bpr", "neumf", "hybrid", "logistic")  # what these release; the others release statistics
RATINGS = ("mf-explicit",)  # judged by the errors of predicted ratings too


def __getattr__(name: str) -> Any:
    if name in _FILES:
        return getattr(importlib.import_module(f"fedrec.models.{_FILES[name]}"), name)
    raise AttributeError(f"module 'fedrec.models' has no attribute {name!r}")


def create(name: str, settings: Mapping[str, Any]) -> Model:
    """A model from its name and literal settings, as a plan states them.

    `own` is the scientist's own code: settings `class` and `code`, the rest goes to the class.

    Raises:
        WrongInput: no such model or setting, or a value outside its range; lists what is allowed.
    """
    if name == "own":
        return cast(Model, __getattr__("OwnModel").from_settings(settings))
    if name not in _CLASSES:
        raise WrongInput(f"unknown model {name!r}; one of {', '.join(NAMES)}, own")
    return cast(Model, build(__getattr__(_CLASSES[name]), settings))


def from_plan(table: Mapping[str, Any]) -> Model:
    """The model of a plan's [model] table: `name`, and the settings beside it.

    Raises:
        WrongInput: as `create`.
    """
    return create(str(table.get("name")), {key: value for key, value in table.items() if key != "name"})


def table_of(model: Model) -> dict[str, Any]:
    """The [model] table that `from_plan` reads: name, and every setting as a literal."""
    if model.name == "own":
        text, settings = getattr(model, "text"), getattr(model, "settings")  # noqa: B009
        return {"name": "own", "class": getattr(model, "class_name"), **settings, "code": text}  # noqa: B009
    return {"name": model.name, **{field.name: getattr(model, field.name) for field in fields(model)}}  # type: ignore[arg-type]
