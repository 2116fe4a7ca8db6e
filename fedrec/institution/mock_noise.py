"""A mock that is used as the data are, if the owner wishes: three of their marginals, with noise that is booked.

DIR/state/mock/<version>.safetensors   what was drawn for a version of the data, once
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.config import RatingScale, SchemaConfig, SiteConfig
from fedrec.core.interactions import Interactions
from fedrec.core.params import Array
from fedrec.errors import WrongInput
from fedrec.exchange.accountant import cost_within
from fedrec.exchange.noise import Source
from fedrec.exchange.wire import decode, encode
from fedrec.institution.ledger import Ledger
from fedrec.institution.local import local_act
from fedrec.institution.mock import SIZES, steps_of
from fedrec.institution.noised import noised, once
from fedrec.institution.quality import moment
from fedrec.institution.store import Store

NOISED = """
The mock's popularity of items, its ratings and its rows by user are as uneven as the data's, with noise whose epsilon
is booked in this site's ledger; which item or user it is does not stand in it.
"""


def marginals(rows: Interactions, scale: RatingScale | None) -> dict[str, Array]:
    """How often items, ratings and numbers of rows occur; each user adds an L2 norm of 1 at most to each.

    Returns:
        `items` (n_items,): users' rows, each user's divided by the root of their number. `sizes` (14,): users by
        their number of rows. `ratings` (steps of the scale,): users' shares; without a scale there is none.
    """
    count = np.bincount(rows.user, minlength=rows.n_users)
    share = 1.0 / np.sqrt(np.maximum(count, 1))
    x = rows.matrix()
    touched = np.diff(x.indptr)
    found = {
        "items": np.bincount(x.indices, np.repeat(1.0 / np.sqrt(np.maximum(touched, 1)), touched), rows.n_items),
        "sizes": np.bincount(np.searchsorted(SIZES, count[count > 0], "right") - 1, minlength=len(SIZES)),
    }
    if scale is not None:
        step = np.rint((rows.rating.astype(np.float64) - scale.min) / scale.step).astype(np.int64)
        found["ratings"] = np.bincount(step, share[rows.user] ** 2, steps_of(scale))
    return {name: array.astype(np.float64) for name, array in found.items()}


def draw(folder: Path, epsilon: float, random: Source = os.urandom) -> dict[str, Any]:
    """Book the cost, draw the noise, keep what was drawn; the next start of the site shows such a mock.

    It is drawn once for a version of the data: the same noise serves from then on, and a second call changes nothing.
    After a crash between both what was booked is not booked again, since nobody saw what had been drawn.

    Args:
        epsilon: of the three marginals together, at the delta of the site's limits.

    Returns:
        `data_version`, `epsilon`, `cost` (0 where it had been drawn before).

    Raises:
        Refused: `ledger.epsilon` when the site's `epsilon_limit` would be passed.
        WrongInput: the site has no data yet.
    """
    config, schema = SiteConfig.load(folder / "site.toml"), SchemaConfig.load(folder / "schema.toml")
    store, state = Store.open(folder / "state"), folder / "state"
    path, job = place(state, store.version), f"mock-{store.version[:16]}"
    said = {"data_version": store.version, "epsilon": epsilon}
    if path.exists():
        return {**said, "cost": 0}
    if not (state / "ledger.sqlite").exists():
        raise WrongInput(f"{folder}: this site has not been served yet")
    cost, delta = cost_within(epsilon, config.limits.delta), config.limits.delta
    with local_act(folder, "mock.noise", store.version) as told:
        with closing(Ledger(state / "ledger.sqlite")) as ledger:
            now = moment(int(time.time()))
            cost = ledger.book(job, cost, {"epsilon": epsilon, "delta": delta}, config.limits, now)
        told.update(job=job, cost=cost)
        exact = marginals(store.rows(), schema.rating)
        once(path, encode(noised(exact, dict.fromkeys(exact, 1.0), cost, 1, random=random)))
    return {**said, "cost": cost}


def drawn(state: Path, version: str) -> dict[str, Array] | None:
    """The noised marginals of a version of the data; None where its owner had none made."""
    path = place(state, version)
    return decode(path.read_bytes()) if path.exists() else None


def place(state: Path, version: str) -> Path:
    """Where the marginals of a version of the data are kept."""
    return state / "mock" / f"{version}.safetensors"
