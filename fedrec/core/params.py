"""Parameters of a model, in two types so that mypy keeps private ones out of messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class SharedParams:
    """Named arrays that travel between the sites and the centre: a model, a contribution or a step."""

    tensors: dict[str, Array]

    def __getitem__(self, name: str) -> Array:
        return self.tensors[name]


@dataclass(frozen=True, slots=True)
class PrivateParams:
    """Named arrays that never leave an institution, such as user vectors; empty before the first round."""

    tensors: dict[str, Array]

    def __getitem__(self, name: str) -> Array:
        return self.tensors[name]


def add(shared: SharedParams, step: SharedParams) -> SharedParams:
    """Shared parameters moved by one step; dtypes stay those of `shared`.

    Raises:
        KeyError: the step names other tensors than the model has.
    """
    if shared.tensors.keys() != step.tensors.keys():
        raise KeyError(f"step has {sorted(step.tensors)}, model has {sorted(shared.tensors)}")
    return SharedParams({name: (old + step[name]).astype(old.dtype) for name, old in shared.tensors.items()})


def moved(parameters: SharedParams, base: SharedParams, descends: bool) -> SharedParams:
    """Parameters theta_i of an institution as what an aggregator or optimiser takes.

    Args:
        base: the parameters theta that it started from.
        descends: True gives theta - theta_i, which stands for a gradient in what steps against gradients
            (Reddi et al. 2021); False gives theta_i - theta, so that theta + their mean is the mean of the theta_i.
    """
    sign = -1 if descends else 1
    found = {name: (sign * (a - base[name])).astype(a.dtype) for name, a in parameters.tensors.items()}
    return SharedParams(found)
