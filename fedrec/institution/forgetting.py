"""`fedrec forget`: a user leaves the store, private parameters, lists and every later round.

What was trained with the user and has left is not taken back.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fedrec.config import ConsortiumConfig, SiteConfig
from fedrec.core.ids import clean_id
from fedrec.core.interactions import Interactions
from fedrec.errors import WrongInput
from fedrec.exchange.wire import decode, encode
from fedrec.institution import store
from fedrec.institution.acts import acting
from fedrec.institution.blobs import Blobs
from fedrec.institution.forgotten import Forgotten, replaced
from fedrec.institution.ledger import Ledger
from fedrec.institution.local import LOCAL, own_log
from fedrec.institution.store import Store


def forget(folder: Path, user: str) -> dict[str, Any]:
    """Remove a user from everything that the institution in `folder` keeps, for good; again changes nothing more.

    Versions of the data that hold the user are replaced by ones without. Permits for these versions get `permit.data`
    from now on, their private parameters and updates that lie ready are deleted; published lists lose the user's row.

    Returns:
        The receipt: version (in use now), rows, versions (replaced), models (cut), requests (whose state was deleted),
        event (number in the audit log).

    Raises:
        WrongInput: the site runs, it is no id, or nobody would be left.
    """
    name = clean_id(user)
    if name is None:
        raise WrongInput("this is no user id")
    state, catalogue = folder / "state", ConsortiumConfig.load(SiteConfig.load(folder / "site.toml").consortium_path)
    items = catalogue.item_ids()
    with own_log(folder) as log:
        if log is None:
            raise WrongInput(f"{folder.name}: the site runs; end it with fedrec site stop, forget, and start it again")
        numbers: list[int] = []

        def write(*who: str, **event: Any) -> int:
            numbers.append(log.event(*who, **event))
            return numbers[-1]

        with acting(write, *LOCAL, "forget", "user") as facts:
            with_user = {version for version in store.versions(state) if name in Store.open(state, version).user_ids()}
            if any(Store.open(state, version).n_users == 1 for version in with_user):
                raise WrongInput("this is the only user; delete the folder instead")
            Forgotten(state).add(name)
            done = {"rows": 0, "versions": len(with_user), "models": 0, "requests": 0}
            current = Store.open(state).version
            for version in sorted(with_user, key=lambda one: one == current):  # the one in use last: it shows the end
                old = Store.open(state, version)
                place = old.user_ids().index(name)
                fresh, rows = _without(state, old, place, items, use=version == current)
                done["rows"] += rows if version == current else 0
                done["models"] += _cut_models(state, version, fresh, place, old.n_users)
                done["requests"] += _drop_requests(state, version)
                store.drop(state, version)
            shutil.rmtree(state / "jobs", ignore_errors=True)  # of a crash
            facts.update(done, version=Store.open(state).version)
            receipt = dict(facts)
    return {**receipt, "event": numbers[-1]}


def _without(state: Path, old: Store, place: int, items: tuple[str, ...], *, use: bool) -> tuple[str, int]:
    """(a version without one user, how many rows he had)."""
    rows, users = old.rows(), old.user_ids()
    keep = rows.user != place
    part = rows.take(keep)
    moved = (part.user - (part.user > place)).astype(np.int32)
    left = Interactions(moved, part.item, part.rating, part.time, rows.n_users - 1, rows.n_items)
    ids = [*users[:place], *users[place + 1 :]]
    features: dict[str, pa.Table] = {}
    for of in ("users", "items"):
        table = old.features(of)
        if table is not None:
            others = [row for row in range(len(users)) if row != place]
            features[of] = table.take(pa.array(others)) if of == "users" else table
    version = store.content_version(left, ids, items, features)
    touched = len(np.unique(left.item))
    counted = {"version": version, "rows_kept": len(left), "users": left.n_users, "items": touched}
    report = {**old.report(), **counted, "density": len(left) / (left.n_users * left.n_items)}
    store.save(state, version, left, ids, report, features, use=use)
    return version, int(len(rows) - len(left))


def _cut_models(state: Path, old: str, version: str, place: int, n_users: int) -> int:
    """Take the user's row out of the lists of models that were published with a version; how many there are."""
    found = 0
    for path in (state / "models").glob("*/model.json"):
        facts = json.loads(path.read_text())
        if facts["data_version"] != old:
            continue
        lists = decode((path.parent / "lists.safetensors").read_bytes())
        if len(lists["lists"]) == n_users:  # else a crash came after this
            lists["lists"] = np.delete(lists["lists"], place, axis=0)
            replaced(path.parent / "lists.safetensors", encode(lists))
        users = int((lists["lists"] >= 0).any(axis=1).sum())
        replaced(path, json.dumps({**facts, "data_version": version, "users": users}).encode())
        found += 1
    return found


def _drop_requests(state: Path, version: str) -> int:
    """Delete private parameters and waiting updates of requests whose permit is for a version; how many had any."""
    found, ledger, blobs = 0, Ledger(state / "ledger.sqlite"), Blobs(state / "blobs")
    try:
        for row in ledger.requests():
            if row.permit is not None and json.loads(row.permit)["data_version"] == version:
                private = state / "private" / row.id
                found += private.exists()
                shutil.rmtree(private, ignore_errors=True)
                blobs.drop_request(row.id)
    finally:
        ledger.close()
    return found
