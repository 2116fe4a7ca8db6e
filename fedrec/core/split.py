"""Which rows a model is trained on, which are held out, and which may not be recommended.

Settled by reproducing the anchors of ML-100K (EASE with l2 = 200: P1 .154/.0785, P3 .203): a user's
query x_u holds the train rows only, while the last-but-one row, although nobody trains on it, counts
as history and is no candidate for the last one. Querying with it too gives P1 .156/.081; leaving it
among the candidates gives .150/.075.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from fedrec.core.interactions import Interactions
from fedrec.core.seeds import item_keys, mix, user_keys
from fedrec.errors import WrongInput

Protocol = Literal["p1", "p2", "p3", "validation", "all"]
LEAST_ROWS = 3  # a user with fewer has nothing left to query with: trained on, not evaluated


@dataclass(frozen=True, slots=True)
class Split:
    """One institution's rows under one protocol; users and items keep their indices in all three.

    Args:
        train: what models see, in training and as the query when they score.
        held: what they should find.
        seen: what the user is known to have touched, left out of the candidates; holds all of `train`.
    """

    train: Interactions
    held: Interactions
    seen: Interactions


def split(rows: Interactions, protocol: str, seed: int) -> Split:
    """The rows under a protocol.

    Goes by position, never by `time`. Without timestamps each user's rows are first put in a random
    order that depends on the seed and the user's items, so it is the same for every number of sites.

    Args:
        rows: one institution's interactions.
        protocol: p1, p2: last row held, last but one only seen; p3: the last fifth (rounded down) held;
            validation: the last but one held and the last unused, for choosing settings; all: nothing held.
        seed: used only without timestamps.

    Raises:
        WrongInput: the protocol has no such name.
    """
    name = known(protocol)
    count = np.bincount(rows.user, minlength=rows.n_users)[rows.user]
    back = _rows_after(rows, count, seed)
    if name == "all":
        held = np.zeros(len(rows), dtype=np.bool_)
        train = seen = ~held
    elif name == "p3":
        held = back < count // 5
        train = seen = ~held
    else:
        evaluated = count >= LEAST_ROWS
        train = ~evaluated | (back >= 2)
        held = evaluated & (back == (1 if name == "validation" else 0))
        seen = train if name == "validation" else ~held
    return Split(rows.take(train), rows.take(held), rows.take(seen))


def known(protocol: str) -> Protocol:
    """The protocol's name, checked.

    Raises:
        WrongInput: the protocol has no such name.
    """
    if protocol not in get_args(Protocol):
        raise WrongInput(f"unknown protocol {protocol!r}; one of {', '.join(get_args(Protocol))}")
    return cast(Protocol, protocol)


def _rows_after(rows: Interactions, count: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """How many of the same user's rows come later; 0 for the user's last."""
    first = np.searchsorted(rows.user, rows.user)
    place = np.arange(len(rows)) - first
    if rows.time is None:
        key = mix(item_keys(rows.n_items, seed)[rows.item] ^ user_keys(rows, seed)[rows.user])
        order = np.lexsort((key, rows.user))
        place[order] = place.copy()
    after: NDArray[np.int64] = count - 1 - place
    return after
