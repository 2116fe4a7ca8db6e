"""fedrec: a cross-silo federated recommender on PySyft datasites.

`import fedrec` loads neither syft, torch, pandas nor pydantic; each name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fedrec import aggregation, models
    from fedrec.institution.recommending import recommend
    from fedrec.scientist.connect import connect
    from fedrec.scientist.plan import Plan
    from fedrec.simulation import simulate

__all__ = ["Plan", "__version__", "aggregation", "connect", "models", "recommend", "simulate"]

_HOME = {
    "connect": "fedrec.scientist.connect",
    "Plan": "fedrec.scientist.plan",
    "recommend": "fedrec.institution.recommending",
    "simulate": "fedrec.simulation",
}


def __getattr__(name: str) -> Any:
    if name in ("aggregation", "models"):
        return importlib.import_module(f"fedrec.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fedrec' has no attribute {name!r}")
