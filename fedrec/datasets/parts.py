"""Dealing the users of one rating file out to several institutions."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import linalg

from fedrec.core.ids import clean_id
from fedrec.core.interactions import Interactions
from fedrec.datasets.source import put
from fedrec.errors import WrongInput
from fedrec.institution.table import read_table

CINEMAS = ("aurora", "borealis", "cinema-lumen", "delphi")  # the members of domains/movies


def default_names(count: int) -> list[str]:
    """The cinemas of domains/movies when there are four, otherwise site-01, site-02, …"""
    return list(CINEMAS) if count == len(CINEMAS) else [f"site-{number:02d}" for number in range(1, count + 1)]


def deal(users: Sequence[str], count: int, by: str, seed: int) -> NDArray[np.int64]:
    """The institution (0 to count - 1) of each user.

    "iid" shuffles the users and deals them out evenly. "size" shuffles them and gives institution k (from 1)
    a share in proportion to 1/k: with four, 48 %, 24 %, 16 % and 12 %. The order of `users` does not matter.

    Raises:
        WrongInput: more institutions than users, or another `by`.
    """
    if by not in ("iid", "size"):
        raise WrongInput(f"--by {by}: must be iid, size or column:NAME")
    if not 1 <= count <= len(users):
        raise WrongInput(f"{len(users)} users cannot be dealt out to {count} institutions")
    order = np.argsort(np.asarray(users, dtype=object), kind="stable")
    shuffled = order[np.random.default_rng(seed).permutation(len(users))]
    if by == "iid":
        place = np.arange(len(users)) % count
    else:
        share = np.cumsum(1.0 / np.arange(1, count + 1))
        # one user each, so that none is empty; the others by share
        edges = np.arange(1, count + 1) + np.floor(share / share[-1] * (len(users) - count) + 0.5).astype(np.int64)
        place = np.searchsorted(edges, np.arange(len(users)), side="right")
    found = np.empty(len(users), dtype=np.int64)
    found[shuffled] = place
    return found


def deal_by_taste(rows: Interactions, count: int) -> NDArray[np.int64]:
    """The institution (0 to count - 1) of each user, so that tastes differ as much as one cut can make them.

    Users are ordered along the main axis of taste (the second left singular vector of the users-by-items
    matrix with rows of length 1; the first is popularity) and cut into `count` parts of equal size.

    Raises:
        WrongInput: more institutions than users.
    """
    if not 1 <= count <= rows.n_users:
        raise WrongInput(f"{rows.n_users} users cannot be dealt out to {count} institutions")
    x = rows.matrix().astype(np.float64)
    length = np.sqrt(np.maximum(np.diff(x.indptr), 1))
    x.data /= np.repeat(length, np.diff(x.indptr))
    place = np.zeros(rows.n_users, dtype=np.int64)
    if min(x.shape) > 2:
        start = np.ones(min(x.shape))
        axis = linalg.svds(x, k=2, v0=start, solver="arpack")[0][:, 0]  # ascending: the smaller of the two
        order = np.argsort(axis if axis[np.argmax(abs(axis))] > 0 else -axis, kind="stable")
    else:
        order = np.arange(rows.n_users)
    for number, members in enumerate(np.array_split(order, count)):
        place[members] = number
    return place


def split_by_user(
    file: Path, dest: Path, institutions: Sequence[str] | int, by: str = "iid", seed: int = 0
) -> dict[str, int]:
    """Write `dest`/<institution>/data/ratings.csv, 0600; a user's rows stay together and in their order.

    The users are in the first column. `by` is as in `deal`, or "column:NAME" for a column of the file or of a
    users.csv beside it. Where its values are the institutions' names, each user goes to his own; otherwise users with
    one value stay together, and each value, largest first, goes to the institution that has the fewest users so far.

    Returns:
        Rows by institution.

    Raises:
        WrongInput: an unreadable file, or a split that leaves an institution without users.
    """
    names = default_names(institutions) if isinstance(institutions, int) else list(institutions)
    if not names or len(set(names)) < len(names) or not all(re.fullmatch(r"[a-z0-9][a-z0-9-]*", n) for n in names):
        raise WrongInput("the institutions must be at least one, each named once, of a-z, 0-9 and '-'")
    frame = read_table(file)
    key = _first_column(frame)
    users = sorted(set(key))
    if by.startswith("column:"):
        values = _values(frame, key, file, by.removeprefix("column:"))
        own = [values.get(user, "") for user in users]
        named = set(own) == set(names)
        place = np.array([names.index(one) for one in own]) if named else deal_by_value(values, users, len(names))
    else:
        place = deal(users, len(names), by, seed)
    of_user = dict(zip(users, place.tolist(), strict=True))
    where = np.array([of_user[user] for user in key])
    rows = {}
    for number, name in enumerate(names):
        part = frame[where == number]
        _write(dest / name / "data" / "ratings.csv", part)
        rows[name] = len(part)
    return rows


def users_of(file: Path, ratings: Path) -> None:
    """Write users.csv beside an institution's ratings.csv, 0600: the lines of `file` about users who are in it."""
    frame, mine = read_table(file), set(_first_column(read_table(ratings)))
    _write(ratings.with_name("users.csv"), frame[_first_column(frame).isin(mine)])


def _write(path: Path, frame: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, frame.to_csv(index=False, lineterminator="\n").encode())
    path.chmod(0o600)


def _first_column(frame: pd.DataFrame) -> pd.Series[str]:
    """The users, two spellings of one id as one; rows without a usable id go together."""
    clean = functools.cache(clean_id)
    return pd.Series([clean(raw) or "" for raw in frame.iloc[:, 0]], index=frame.index)


def _values(frame: pd.DataFrame, key: pd.Series[str], file: Path, column: str) -> dict[str, str]:
    """The column's value for each user: the first that the table has."""
    beside = file.with_name("users.csv")
    if column not in frame.columns and beside.is_file():
        frame = read_table(beside)
        key = _first_column(frame)
    if column not in frame.columns:
        raise WrongInput(f"--by column:{column}: neither {file.name} nor a users.csv beside it has this column")
    return dict(zip(key[::-1], frame[column][::-1], strict=True))


def deal_by_value(values: Mapping[str, str], users: Sequence[str], count: int) -> NDArray[np.int64]:
    """The institution of each user: users with one value stay together; each value, largest first, goes to the
    institution that has the fewest users so far.

    Raises:
        WrongInput: fewer values than institutions.
    """
    groups: dict[str, list[int]] = {}
    for number, user in enumerate(users):
        groups.setdefault(values.get(user, ""), []).append(number)
    if len(groups) < count:
        raise WrongInput(f"the column has {len(groups)} values, too few for {count} institutions")
    sizes = [0] * count
    place = np.empty(len(users), dtype=np.int64)
    for _, members in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        least = sizes.index(min(sizes))
        place[members] = least
        sizes[least] += len(members)
    return place
