"""What the centre gets from one site in one round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fedrec.core.params import SharedParams


@dataclass(frozen=True, slots=True)
class SiteUpdate:
    """A site's contribution.

    Args:
        site: name in consortium.toml.
        weight: number of train rows behind it.
        tensors: the contribution itself: a statistic, a gradient, or parameters.
        users: number of users behind it.
        measures: numbers that the site released beside it, by name, such as "model-quality".
    """

    site: str
    weight: float
    tensors: SharedParams
    users: int = 0
    measures: Mapping[str, float] = field(default_factory=dict)


def discounted(update: SiteUpdate, rounds_late: int) -> SiteUpdate:
    """The update times 1 / sqrt(1 + rounds_late); one that is not late stays as it is.

    Source: Nguyen et al. 2022, Federated learning with buffered asynchronous aggregation, AISTATS, section 5.
    """
    if rounds_late == 0:
        return update
    factor = 1 / np.sqrt(1 + rounds_late)
    scaled = {name: (factor * array).astype(array.dtype) for name, array in update.tensors.tensors.items()}
    return replace(update, tensors=SharedParams(scaled))
