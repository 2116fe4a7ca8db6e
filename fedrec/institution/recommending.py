"""Recommendations for an institution's own users: served lists, new users folded in, filters and reasons.

Nothing here leaves the institution. A scientist's own code is never run here: such a model serves its lists only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedrec.config import ConsortiumConfig, SchemaConfig, SiteConfig
from fedrec.core.features import Features, from_values
from fedrec.core.ids import clean_id
from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, SharedParams
from fedrec.core.threads import one_thread
from fedrec.errors import DataError, WrongInput
from fedrec.institution.features import read
from fedrec.institution.local import local_act
from fedrec.institution.published import Published
from fedrec.institution.store import Store, read_features
from fedrec.institution.where import ItemFacts
from fedrec.models import from_plan
from fedrec.models.base import Model
from fedrec.models.fold import fold_in

REASONS = 2  # of the user's own items for each recommended one
LOOKED_AT = 200  # of the user's items, the latest, when reasons are looked for


@dataclass(frozen=True, slots=True)
class Recommended:
    """What one user gets.

    Args:
        items: ids, best first.
        titles: as the catalogue has them, of these items and of those in the reasons, by id.
        how: "list" as made when the model was published, "folded" in from the user's rows now, or "popular".
        reasons: by item, the user's own items that by themselves speak most for it; empty when not asked for.
        model: "shared" by all institutions, "personal" (bent towards this one's users), or this one's "own".
    """

    items: list[str]
    titles: dict[str, str]
    how: Literal["list", "folded", "popular"]
    reasons: list[list[str]]
    model: Literal["shared", "personal", "own"] = "shared"

    @property
    def known(self) -> bool:
        """Whether these are for this user rather than for anybody."""
        return self.how != "popular"


def recommend(
    folder: Path | str,
    user: str | None = None,
    items: Sequence[str] = (),
    *,
    about: Sequence[str] = (),
    k: int = 10,
    where: Sequence[str] = (),
    explain: bool = False,
) -> Recommended:
    """The best items for a user of the institution in `folder`, or for somebody who touched `items`.

    The institution's log gets counts and no id.

    Args:
        items: ids, oldest first; with no `user`.
        about: what is known of somebody with no `user`, such as "town=Bern" or "age=31": user features of schema.toml.
        k: 1 to 100.
        where: filters, such as "genre=Drama" or "year>=1990"; all must hold.
        explain: look for reasons.

    Raises:
        WrongInput: no model is published, or an argument is wrong.
    """
    if (user is None) == (not items and not about):
        raise WrongInput("name a user, or items, or what is known about somebody")
    folder = Path(folder)
    with local_act(folder, "recommend", Published(folder / "state").current()["model"]) as facts:
        served = Recommender(folder)
        found = served.for_user(user, k, where, explain) if user else served.for_items(items, k, where, explain, about)
        facts.update(users=1, items=len(found.items), known=found.known)
    return found


class Recommender:
    """The served model of an institution, in memory: a call reads nothing from the disk but the user's rows."""

    def __init__(self, folder: Path) -> None:
        consortium = ConsortiumConfig.load(SiteConfig.load(folder / "site.toml").consortium_path)
        self.items, state = consortium.item_ids(), folder / "state"
        self.facts, shared, lists = Published(state).served()
        self._shared, self._lists, self._popular = SharedParams(shared), lists["lists"], lists["popular"]
        self.store = Store.open(state)
        if self.store.n_items != len(self.items) or self._popular.max(initial=0) >= len(self.items):
            raise WrongInput("the catalogue has changed since the data were taken in or the model was published")
        table = self.facts.get("table") or {"name": "own"}  # an older fedrec did not keep it
        self._model: Model | None = None if table["name"] == "own" else from_plan(table)
        self._rows, self.users = self._with_features(self.store.rows()), self.store.user_ids()
        self._kinds = SchemaConfig.load(folder / "schema.toml").features.user
        self._place = {user: place for place, user in enumerate(self.users)}
        self._listed = self._place_in_lists(state)
        self._known = ItemFacts(consortium.catalogue_path, self.store)
        self._free: dict[tuple[str, ...], NDArray[np.bool_]] = {}  # of the last filters
        self._at = {item: place for place, item in enumerate(self.items)}
        how = self.facts.get("personal")
        self._which: Literal["shared", "personal", "own"] = "own" if how == "local" else "personal" if how else "shared"
        counts = shared.get("counts")
        if counts is not None and counts.shape == (len(self.items),):
            self._popular = np.argsort(-counts, kind="stable")

    def for_user(self, user: str, k: int, where: Sequence[str] = (), explain: bool = False) -> Recommended:
        """The best `k` items that the user has not touched; who has no rows here gets what is popular.

        A user gets the list made when the model was published, unless the data have changed since: then the user's
        rows of today are folded in, which is also how users are served who came later.

        Raises:
            WrongInput: `k` or a filter is wrong.
        """
        name = clean_id(user) or user
        place = self._place.get(name)
        mine = None if place is None else self._rows_of(place)
        fresh = self._model is None or self.facts["data_version"] == self.store.version
        listed = self._lists[self._listed[name]] if fresh and name in self._listed else None
        return self._answer(mine, listed, k, where, explain)

    def for_items(
        self,
        items: Sequence[str],
        k: int,
        where: Sequence[str] = (),
        explain: bool = False,
        about: Sequence[str] = (),
    ) -> Recommended:
        """The best `k` items for somebody who touched `items`, oldest first; ids not in the catalogue are left out.

        Args:
            about: user features, such as "town=Bern"; models that read none do without.

        Raises:
            WrongInput: as `for_user`; schema.toml keeps no such feature of users, or allows no such value.
        """
        known = self._told(about)
        asked = dict.fromkeys(place for item in items if (place := self._at.get(clean_id(item) or "")) is not None)
        item = np.array(list(asked), dtype=np.int32)
        most = self._rows.rating.max()  # for models of ratings: liked as much as can be
        time = None if self._rows.time is None else np.arange(len(item), dtype=np.int64)
        mine = Interactions(
            np.zeros_like(item), item, np.full(len(item), most), time, 1, len(self.items), known, self._rows.items
        )
        return self._answer(mine if len(item) or known is not None else None, None, k, where, explain)

    def _told(self, about: Sequence[str]) -> Features | None:
        """What is said about one user; None for a model that does not read it."""
        values = {}
        for one in about:
            name, _, text = one.partition("=")
            if name not in self._kinds:
                raise WrongInput(f"{name}: schema.toml keeps no such feature of users")
            if (value := read(text, self._kinds[name])) is None:
                raise WrongInput(f"{name}: schema.toml does not allow this value")
            values[name] = [value]
        return from_values(values, 1) if values and hasattr(self._model, "columns") else None

    def _with_features(self, rows: Interactions) -> Interactions:
        """The rows with what is known about users and items, where the served model reads it."""
        if not hasattr(self._model, "columns"):
            return rows
        users, items = (
            None if table is None else read_features(table)
            for table in (self.store.features("users"), self.store.features("items"))
        )
        return replace(rows, users=users, items=items)

    def _answer(
        self, mine: Interactions | None, listed: Array | None, k: int, where: Sequence[str], explain: bool
    ) -> Recommended:
        most = min(100, len(self.items))
        if not 1 <= k <= most:
            raise WrongInput(f"k is a whole number from 1 to {most}")
        if tuple(where) not in self._free:
            self._free = {tuple(where): self._known.allowed(where)}
        free = self._free[tuple(where)].copy()
        how: Literal["list", "folded", "popular"] = "popular"
        best: list[int] = []
        if mine is not None:
            free[mine.item] = False
        if listed is not None:
            how, best = "list", [int(item) for item in listed if item >= 0 and free[item]]
        if len(best) < k and mine is not None and self._model is not None:
            how = how if listed is not None else "folded"
            there = set(best)
            best += [item for item in self._folded(mine, free, k) if item not in there]
        if how == "popular":
            best = self._popular[free[self._popular]].tolist()
        best = best[:k]
        reasons = self._reasons(mine, best) if explain and mine is not None and how != "popular" else []
        items = [self.items[i] for i in best]
        titles = {
            item: self._known.titles[self._at[item]] for item in [*items, *(one for why in reasons for one in why)]
        }
        return Recommended(items, titles, how, reasons, self._which)

    def _folded(self, mine: Interactions, free: NDArray[np.bool_], k: int) -> list[int]:
        """The best free items by the user's rows, equal scores by item index; at least `k` when there are so many."""
        scores = np.array(self._score(mine)[0], dtype=np.float64)
        scores[np.isnan(scores) | ~free] = -np.inf
        order = np.argsort(-scores, kind="stable")[: k + len(self._lists[0])]
        return [int(item) for item in order if scores[item] > -np.inf]

    def _reasons(self, mine: Interactions, best: Sequence[int]) -> list[list[str]]:
        """For each item, the user's items whose score for it alone, as the only item touched, is highest and above 0.

        For item-based models that score is the similarity of the two items.
        """
        if self._model is None or self._model.name == "popularity":  # which says the same to everybody
            return [[] for _ in best]
        last = list(dict.fromkeys(mine.item[::-1].tolist()))[:LOOKED_AT]
        rows = mine.take(np.sort([int(np.flatnonzero(mine.item == item)[-1]) for item in last]))
        each = np.arange(len(rows), dtype=np.int32)
        alone = Interactions(each, rows.item, rows.rating, rows.time, len(rows), rows.n_items, None, rows.items)
        alike = self._score(alone)[:, list(best)]
        order = np.argsort(-alike, axis=0, kind="stable")[:REASONS]
        return [
            [self.items[int(rows.item[row])] for row in order[:, place] if alike[row, place] > 0]
            for place in range(len(best))
        ]

    def _score(self, rows: Interactions) -> NDArray[Any]:
        """Scores of users whom no round has seen. Raises: WrongInput when the model's arrays do not fit together."""
        assert self._model is not None
        try:
            with one_thread(), np.errstate(all="ignore"):
                found = self._model.score(rows, self._shared, fold_in(self._model, rows, self._shared))
        except (KeyError, ValueError, IndexError, TypeError, RuntimeError, np.linalg.LinAlgError) as error:
            raise WrongInput(f"the served model cannot score ({type(error).__name__}); serve another one") from None
        if found.shape != (rows.n_users, len(self.items)):
            raise WrongInput("the served model is for another catalogue; serve another one")
        return found

    def _rows_of(self, place: int) -> Interactions:
        low, high = np.searchsorted(self._rows.user, [place, place + 1])
        rows = self._rows.take(slice(int(low), int(high)))  # type: ignore[arg-type]
        known = rows.users and rows.users.take(np.array([place]))
        return Interactions(
            np.zeros_like(rows.user), rows.item, rows.rating, rows.time, 1, rows.n_items, known, rows.items
        )

    def _place_in_lists(self, state: Path) -> dict[str, int]:
        """The row of the lists by user id."""
        version = self.facts["data_version"]
        if version == self.store.version:
            return self._place
        try:
            return {user: place for place, user in enumerate(Store.open(state, version).user_ids())}
        except DataError:  # deleted by hand
            return {}
