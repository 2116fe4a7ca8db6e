"""The served model bent towards the institution's own users, kept beside the others; at the institution's machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.errors import DataError, WrongInput
from fedrec.exchange.wire import encode
from fedrec.institution import work
from fedrec.institution.blending import blended
from fedrec.institution.local import local_act
from fedrec.institution.perform import LIST_LENGTH
from fedrec.institution.personal import NAMES, personal
from fedrec.institution.published import Published
from fedrec.institution.store import Store
from fedrec.models import Default, Model, from_plan


def personalise(folder: Path) -> dict[str, Any]:
    """Choose, on the institution's own validation rows, what serves its users best, and keep that as a model.

    Nothing is served anew by this: see `fedrec site models use`. Nothing is kept where the shared model is best.

    Returns:
        `verdict` (shared, personal or local), `gamma`, `ndcg`, `text`, and `number` of the model to use or None; of
        `private` the verdict is weighed, with `weight` in place of `gamma`.

    Raises:
        WrongInput: no model is served, or it is of a kind that cannot be personalised.
    """
    published = Published(folder / "state")
    facts, shared, lists = published.served()
    table = facts.get("table", {"name": "this model"})
    if table["name"] not in (*NAMES, "private") or "personal" in facts:  # own code is not even read here
        raise WrongInput(
            f"{table['name']} cannot be personalised; {', '.join(NAMES)} and private as they were published can"
        )
    with local_act(folder, "personalise", facts["model"]) as said:
        try:
            rows = Store.open(folder / "state", facts["data_version"]).rows()
        except DataError as error:
            raise WrongInput(f"the data that the model was trained on: {error}") from None
        model = from_plan(table)
        if table["name"] == "private":
            return _weighed(published, facts, model, rows, SharedParams(shared), lists["popular"], said)
        found = personal(model, rows, SharedParams(shared), facts["protocol"], facts["seed"])
        verdict = "local" if found.gamma is None else "personal" if found.gamma else "shared"
        number = None
        if verdict != "shared":
            best = work.top_items(model, rows, found.shared, PrivateParams({}), min(LIST_LENGTH, rows.n_items))
            how = {"personal": verdict if found.gamma is None else f"gamma {found.gamma:g}"}
            made = {"lists": best, "popular": np.asarray(lists["popular"])}
            number = published.add({**facts, **how, "items": rows.n_items}, encode(found.shared.tensors), encode(made))
        said.update(verdict=verdict, gamma=f"{found.gamma}", number=number or 0)
    return {"verdict": verdict, "gamma": found.gamma, "ndcg": found.ndcg, "text": found.text(), "number": number}


def _weighed(
    published: Published,
    facts: dict[str, Any],
    model: Model,
    rows: Interactions,
    shared: SharedParams,
    popular: Array,
    said: dict[str, Any],
) -> dict[str, Any]:
    """Beside a model with noise: the institution's own exact one, weighed on its validation rows.

    A model is kept whatever the weight, and the log does not say which it is: auditors elsewhere read it, and the
    weight was chosen by rows that no epsilon covers.
    """
    found = blended(model, Default(), rows, shared, "all")
    served = found.served(shared)
    best = work.top_items(model, rows, served, PrivateParams({}), min(LIST_LENGTH, rows.n_items))
    made, how = {"lists": best, "popular": np.asarray(popular)}, f"shared weighs {found.weight:g}"
    more = {**facts, "personal": how, "items": rows.n_items}
    number = published.add(more, encode(served.tensors), encode(made))
    said.update(verdict="weighed", number=number)
    ndcg = {f"{weight:g}": value for weight, value in found.ndcg.items()}
    return {"verdict": "weighed", "weight": found.weight, "ndcg": ndcg, "text": found.text(), "number": number}
