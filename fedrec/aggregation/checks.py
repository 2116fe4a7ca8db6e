"""What the centre checks before an update is merged: a site may be wrong, broken or lying."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from fedrec.aggregation.merge import norm
from fedrec.aggregation.update import SiteUpdate
from fedrec.core.params import SharedParams
from fedrec.errors import Refused
from fedrec.exchange.plan import Tensor

MOST_ROWS = 10**10  # no institution has more; 10^7 users are the largest that are thought of
_NEXT = "The update is left out"


def check_update(update: SiteUpdate, leaves: Mapping[str, Tensor], n_items: int) -> None:
    """Refuse an update that is not what the plan declares.

    Args:
        leaves: the plan's arrays by name.

    Raises:
        Refused: `update.shape`, `.dtype`, `.finite`, `.norm` or `.weight`, for the first thing that is wrong.
    """
    arrays = update.tensors.tensors
    if set(arrays) != set(leaves):
        raise Refused("update.shape", "the update has other arrays than the plan declares", _NEXT)
    for name, tensor in leaves.items():
        array = arrays[name]
        if array.shape != tensor.sized(n_items):
            raise Refused("update.shape", f"{name} has another shape than the plan declares", _NEXT)
        if str(array.dtype) != tensor.dtype:
            raise Refused("update.dtype", f"{name} is {array.dtype}", _NEXT)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Refused("update.finite", f"{name} holds a value that is not finite", _NEXT)
        if tensor.norm is not None and norm(SharedParams({name: array})) > tensor.norm * (1 + 1e-6):
            raise Refused("update.norm", f"{name} has a larger norm than the plan declares", _NEXT)
    if not (math.isfinite(update.weight) and 0 <= update.users <= update.weight <= MOST_ROWS):
        raise Refused("update.weight", "its numbers of rows and users cannot be true", _NEXT)
