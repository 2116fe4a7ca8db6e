"""What a model is: four functions on plain values.

A *statistic model* (rounds_default = 1) releases additive sums once; `finish` turns their total into
the model. A *gradient model* releases, round after round, the gradient of the mean loss over the
institution's own train rows; the centre averages by row count and takes a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.errors import WrongInput

MOST_DENSE = 15_000  # items of a model with a dense items-by-items array: 0.9 GB an update


class Model(Protocol):
    """A recommender; its settings are the fields of a frozen dataclass.

    Attributes:
        name: as in plans and on the command line.
        rounds_default: training rounds when the plan does not say.
        aggregator_default: the aggregator's name when the plan does not say.
        by_user: a user's scores depend on that user's rows only, so `score` may be given any block of
            users; private arrays with one row per user are then named `users`, `users_...`.

    A model of yes/no outcomes has `outcome = True` and `probability(rows, shared)` besides, see core.outcomes.
    A model whose scores are ratings has `rates = True`: it is judged by its errors too, see `metrics.errors`.
    A statistic model may also have `whole`: the arrays of its contribution that hold whole numbers only.
    A model that bounds what one user adds has `sensitivity(number)`: by array, the largest L2 norm of it in that round,
    or None; and perhaps `share(number)`, the part of the privacy budget (of 1 / sigma^2) that this round gets.
    A statistic model may also have `centre`: settings that only `finish` reads, so that one release serves all of them.
    """

    name: ClassVar[str]
    rounds_default: ClassVar[int]
    aggregator_default: ClassVar[str]
    by_user: ClassVar[bool]

    def leaves(self) -> dict[str, str]:
        """The arrays of a contribution, such as {"gram": "float32 items x items"}."""
        ...

    def init(self, n_items: int, seed: int) -> SharedParams:
        """The shared parameters before the first round."""
        ...

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        """One institution's part of a round: (contribution, private). `private` is empty in round 0."""
        ...

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        """The next shared parameters, from the aggregator's step."""
        ...

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        """Scores, higher is better, items already touched not masked; shape (n_users, n_items)."""
        ...


def build(cls: type[Any], settings: Mapping[str, Any], name: str = "") -> Any:
    """A frozen dataclass from literal settings, whose types must be those of the defaults.

    Lists stand for tuples and whole numbers for floats. A field without a literal default is taken as it is.

    Args:
        name: what the class is called in texts; by default its own `name`.

    Raises:
        WrongInput: an unknown setting, or one of another type.
    """
    name = name or cls.name
    known = {field.name: field.default for field in fields(cls)}
    if unknown := sorted(set(settings) - set(known)):
        allowed = ", ".join(known) if known else "it has none"
        raise WrongInput(f"{name} has no setting {', '.join(unknown)}; allowed: {allowed}")
    values = dict(settings)
    for key, value in settings.items():
        wanted: type[Any] = type(known[key])
        if known[key] is MISSING:
            continue
        if type(value) not in {float: (int, float), tuple: (list, tuple)}.get(wanted, (wanted,)):
            raise WrongInput(f"{name}.{key} must be a {'list' if wanted is tuple else wanted.__name__}, not {value!r}")
        values[key] = wanted(value)
    return cls(**values)


def positive(model: Any, *names: str, zero: bool = False) -> None:
    """Check that these settings are finite and above zero.

    Raises:
        WrongInput: one is not.
    """
    for key in names:
        value = getattr(model, key)
        if not (np.isfinite(value) and (value > 0 or (zero and value == 0))):
            least = "0 or more" if zero else "above 0"
            raise WrongInput(f"{model.name}.{key} must be {least} and finite, not {value!r}")


def dense(name: str, n_items: int) -> None:
    """Check that items x items numbers are not too many.

    Raises:
        WrongInput: they are; names what to take instead.
    """
    if n_items > MOST_DENSE:
        raise WrongInput(
            f"{name} holds items x items numbers: {n_items} items are above {MOST_DENSE}; "
            "take ials or mf instead (ials with block=8, whose updates are small)"
        )


def gram(rows: Interactions) -> NDArray[np.float32]:
    """How many users touched both items, X'X; shape (n_items, n_items).

    Whole numbers below 2**24 in float32: sums over institutions are exact in any order.
    """
    x = rows.matrix()
    found: NDArray[np.float32] = (x.T @ x).toarray()
    return found


def counts(rows: Interactions) -> Array:
    """How many users touched each item; float32, shape (n_items,)."""
    found: Array = np.bincount(rows.matrix().indices, minlength=rows.n_items).astype(np.float32)
    return found


def queried(query: sparse.csr_matrix, weights: NDArray[Any]) -> NDArray[Any]:
    """query @ weights; for a few users only the weights of the items that they ask with are read, to the same bits.

    Args:
        query: users by items.
        weights: items by items.
    """
    if query.nnz < len(weights):
        used, place = np.unique(query.indices, return_inverse=True)
        query = sparse.csr_matrix((query.data, place, query.indptr), shape=(query.shape[0], len(used)))
        weights = weights[used]
    found: NDArray[Any] = query @ weights.astype(query.dtype, copy=False)
    return found


def standard(scores: NDArray[Any]) -> NDArray[Any]:
    """Each row with mean 0 and spread 1; a row of equal values becomes 0."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    found: NDArray[Any] = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    return found
