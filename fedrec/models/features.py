"""Features as numbers that models compute with: columns, centred and scaled the same way at every institution.

`FeatureSums` is the one statistic behind that: a plan of its own, run before the plan that trains. What comes
of it (which columns stay, their means and scales) stands in the trained model's settings, so that owners read it.
"""
# ruff: noqa: ARG002 (the protocol fixes the arguments)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrec.core.features import Features
from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.errors import WrongInput
from fedrec.models import vocabulary
from fedrec.models.base import positive

USER, ITEM, ANY = "user.", "item.", "=*"
FEWEST = 5  # users behind a text that leaves without having been named


class Prepared(Protocol):
    """The settings of a model with features.

    Attributes:
        columns: `user.age`, `user.job=student`, `item.genre=War`, `user.age?` (1 where unknown).
        centre, scale: of each column, as `FeatureSums.settings` gives them; empty = 0 and 1.
    """

    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def centre(self) -> tuple[float, ...]: ...
    @property
    def scale(self) -> tuple[float, ...]: ...


def check_columns(model: Any) -> None:
    """Check a model's `columns`, `centre` and `scale`.

    Raises:
        WrongInput: a column is named twice or is neither a user's nor an item's, or the three do not fit together.
    """
    names = [str(name) for name in model.columns]
    if len(set(names)) != len(names) or not all(name.startswith((USER, ITEM)) for name in names):
        raise WrongInput(f"{model.name}.columns: each once, such as 'user.age' or 'item.genre=War'")
    if not hasattr(model, "centre"):
        return
    if open_ones := [name for name in names if name.endswith(ANY)]:
        raise WrongInput(f"{model.name}.columns: {open_ones[0]} stands for texts that a plan of `features` finds first")
    for values in (model.centre, model.scale):
        good = all(type(value) in (int, float) and np.isfinite(value) for value in values)
        if len(values) not in (0, len(names)) or not good:
            raise WrongInput(f"{model.name}: centre and scale need one finite number for each column, or none at all")
    if not all(value > 0 for value in model.scale):
        raise WrongInput(f"{model.name}.scale must be above 0")


def inputs(model: Prepared, rows: Interactions, of: str) -> NDArray[np.float64]:
    """The prepared columns of users or items; 0, which is the mean, where unknown.

    Args:
        of: USER or ITEM.

    Returns:
        Shape (n_users or n_items, how many of the model's columns are `of` these).
    """
    chosen = mine(model.columns, of)
    raw = values(rows, [model.columns[place] for place in chosen], of)
    centre = np.array(model.centre or (0.0,) * len(model.columns))[chosen]
    scale = np.array(model.scale or (1.0,) * len(model.columns))[chosen]
    found: NDArray[np.float64] = np.nan_to_num((raw - centre) / scale, nan=0.0)
    return found


def mine(columns: Sequence[str], of: str) -> list[int]:
    """The places of the users' columns, or of the items'."""
    return [place for place, name in enumerate(columns) if name.startswith(of)]


def values(rows: Interactions, names: Sequence[str], of: str) -> NDArray[np.float64]:
    """Columns as they are, NaN where unknown; shape (n_users or n_items, columns)."""
    known = rows.users if of == USER else rows.items
    n = rows.n_users if of == USER else rows.n_items
    known = known or Features(n, {}, {})
    found = np.empty((n, len(names)))
    for place, name in enumerate(names):
        found[:, place] = known.column(name[len(of) :])
    return found


@dataclass(frozen=True, slots=True)
class FeatureSums:
    """For each column: how often it is unknown and known, the sum and the sum of squares; one round, additive.

    A user's column is summed over the users with train rows, an item's over the train rows. At each institution
    a column is left out (zeros leave) when its value is other than zero for fewer than `least` users but for some,
    or zero for fewer than `least` but for some, and a count of unknown ones below `least` is zero too.
    `item.genre=*` finds the texts of a feature too (models.vocabulary): each is a column under the same rule.

    Args:
        columns: as in `Prepared`.
        least: fewest users; 5 or more with `=*`.
        outcome: take the train rows of outcome models, which are split by user.
        texts: how many different texts each `=*` has room for; longer ones than 48 bytes are not found.
    """

    columns: tuple[str, ...] = ()
    least: int = 10
    outcome: bool = False
    texts: int = 100

    name: ClassVar[str] = "features"
    rounds_default: ClassVar[int] = 1
    aggregator_default: ClassVar[str] = "sum"
    by_user: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(self, "least", "texts")
        check_columns(self)
        if self._open and self.least < FEWEST:
            raise WrongInput(f"features.least: at least {FEWEST} with {self._open[0]}, whose texts leave as written")

    @property
    def _open(self) -> list[str]:
        return [name for name in self.columns if name.endswith(ANY)]

    def leaves(self) -> dict[str, str]:
        return {name: f"float64 {' x '.join(map(str, a.shape))}" for name, a in self.init(0, 0).tensors.items()}

    def init(self, n_items: int, seed: int) -> SharedParams:
        tables = {"texts": np.stack([vocabulary.empty(self.texts) for _ in self._open])} if self._open else {}
        return SharedParams({"sums": np.zeros((max(1, len(self.columns)), 4)), **tables})

    def fit_site(
        self, rows: Interactions, shared: SharedParams, private: PrivateParams
    ) -> tuple[SharedParams, PrivateParams]:
        x = rows.matrix()
        active = np.diff(x.indptr) > 0
        found = {name: np.zeros_like(array) for name, array in shared.tensors.items()}
        for place, name in enumerate(self.columns):
            of = USER if name.startswith(USER) else ITEM
            weight = active.astype(np.float64) if of == USER else np.asarray(x.sum(0), dtype=np.float64).ravel()
            if name.endswith(ANY):
                known, counts = self._texts(rows, name, x, weight)
                vocabulary.put(found["texts"][self._open.index(name)], counts)
                held = np.zeros(len(weight))
            else:
                held = values(rows, [name], of)[:, 0]
                known = ~np.isnan(held)
                groups = [known & (held != 0), known & (held == 0)]
                if any(0 < _users(x, group & (weight > 0), of) < self.least for group in groups):
                    continue
            unknown = ~known & (weight > 0)
            missing = float(weight[unknown].sum()) if _users(x, unknown, of) >= self.least else 0.0
            w, value = weight[known], held[known]
            found["sums"][place] = missing, w.sum(), w @ value, w @ value**2
        return SharedParams(found), private

    def _texts(self, rows: Interactions, name: str, x: Any, weight: Array) -> tuple[Array, dict[str, float]]:
        """Who has any text, and the summed weight of each text that enough users have and enough have not.

        Where too few users have any, nobody has.
        """
        of, features = (USER, rows.users) if name.startswith(USER) else (ITEM, rows.items)
        labels = features.labels.get(name[len(of) : -len(ANY)]) if features else None
        if labels is None or _users(x, labels.known & (weight > 0), of) < self.least:
            return np.zeros(len(weight), dtype=np.bool_), {}
        counts = {}
        for text, column in zip(labels.values, labels.has.tocsc().T, strict=True):
            has = np.asarray(column.todense()).ravel() > 0
            groups = [group & (weight > 0) for group in (has, labels.known & ~has)]
            behind = [_users(x, group, of) for group in groups]
            if behind[0] >= self.least and not 0 < behind[1] < self.least and vocabulary.fits(text):
                counts[text] = float(weight[has].sum())
        return labels.known, counts

    def finish(self, shared: SharedParams, merged: SharedParams) -> SharedParams:
        return merged

    def score(self, rows: Interactions, shared: SharedParams, private: PrivateParams) -> NDArray[Any]:
        return np.zeros((rows.n_users, rows.n_items))

    def settings(self, shared: SharedParams) -> dict[str, tuple[Any, ...]]:
        """`columns`, `centre` and `scale` for a model, from the merged sums.

        A column that does not vary is left out. Numbers are scaled by their deviation; texts and `?` columns, which
        are 0 or 1, are only centred. A feature with unknown values also gets its `?` column.

        Raises:
            WrongInput: a feature has more texts than `texts`.
        """
        columns, centre, scale = [], [], []
        for name, missing, known, total, squares in self._sums(shared):
            mean = total / known if known else 0.0
            deviation = max(squares / known - mean**2, 0.0) ** 0.5 if known else 0.0
            if deviation <= 1e-9 * max(1.0, abs(mean)):
                continue
            columns.append(name)
            centre.append(_short(mean))
            scale.append(1.0 if "=" in name or name.endswith("?") else _short(deviation))
            unknown = f"{name.partition('=')[0]}?"
            if missing and not name.endswith("?") and unknown not in (*columns, *self.columns):
                columns.append(unknown)
                centre.append(_short(missing / (missing + known)))
                scale.append(1.0)
        return {"columns": tuple(columns), "centre": tuple(centre), "scale": tuple(scale)}

    def _sums(self, shared: SharedParams) -> Iterator[tuple[str, float, float, float, float]]:
        """Column, unknown, known, sum and squares, with the texts that were found in place of `=*`."""
        for name, (missing, known, total, squares) in zip(self.columns, shared["sums"].tolist(), strict=False):
            if not name.endswith(ANY):
                yield name, missing, known, total, squares
                continue
            try:
                counts = vocabulary.take(shared["texts"][self._open.index(name)])
            except WrongInput as error:
                raise WrongInput(f"{name}: {error}") from None
            yield from ((name[:-1] + text, missing, known, n, n) for text, n in counts.items())


def _users(x: Any, group: Array, of: str) -> int:
    """How many users stand behind these users or items."""
    return int(np.count_nonzero(group)) if of == USER else int(np.count_nonzero(x @ group.astype(np.float64)))


def _short(value: float) -> float:
    """Six digits: enough to centre and scale by, and short to read."""
    return float(f"{value:.6g}")
