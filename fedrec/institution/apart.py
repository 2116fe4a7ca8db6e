"""Versions of the data whose exact sums have left: the next one's, less these, tell the rows of the users that changed.

DIR/state/released/<version>.npy   per user a keyed hash of the id and one of the rows
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import Refused
from fedrec.institution.site import Site
from fedrec.institution.store import Store


def check_apart(site: Site, store: Store) -> None:
    """Refuse an exact release of a version in which few users changed since another one whose exact sums have left.

    Raises:
        Refused: `data.apart`.
    """
    least, own = site.config.limits.users_apart, _place(site, store.version)
    if least < 2 or own.exists():
        return
    now = _marks(site, store)
    for path in own.parent.glob("*.npy"):
        if 0 < changed(np.load(path), now) < least:
            reason = f"fewer than {least} users changed since a version of the data whose exact sums have left"
            raise Refused("data.apart", reason, "Wait for more new data, or submit with epsilon")


def note_release(site: Site, store: Store) -> None:
    """Remember the users of a version before its first exact sum leaves."""
    own = _place(site, store.version)
    if site.config.limits.users_apart < 2 or own.exists():
        return
    own.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = own.with_suffix(f".{os.getpid()}")
    with fresh.open("wb") as file:
        np.save(file, _marks(site, store))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(own)


def changed(before: NDArray[np.uint64], after: NDArray[np.uint64]) -> int:
    """How many users are in one of two versions only, or have other rows in them; of arrays as in the files."""
    one, other = ({tuple(mark) for mark in marks.tolist()} for marks in (before, after))
    return len({name for name, _ in one ^ other})


def _place(site: Site, version: str) -> Path:
    return site.state / "released" / f"{version}.npy"


def _marks(site: Site, store: Store) -> NDArray[np.uint64]:
    """Shape (users, 2): hashes of id and rows, keyed with the site's secret."""
    key = hashlib.sha256(b"fedrec users apart" + bytes(site.keys.site)).digest()
    rows = store.rows()
    order = np.argsort(rows.user, kind="stable")
    firsts = np.searchsorted(rows.user[order], np.arange(store.n_users + 1))
    columns = [column[order] for column in (rows.item, rows.rating, rows.time) if column is not None]
    found = np.empty((store.n_users, 2), np.uint64)
    for user, name in enumerate(store.user_ids()):
        part = slice(firsts[user], firsts[user + 1])
        data = b"".join(np.ascontiguousarray(column[part]).tobytes() for column in columns)
        for place, text in enumerate((name.encode(), data)):
            digest = hashlib.blake2b(text, key=key, digest_size=8, salt=bytes([place])).digest()
            found[user, place] = int.from_bytes(digest, "big")
    return found
