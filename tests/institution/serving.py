"""A site that serves a model, published without a jail."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import numpy as np
from small_site import approved, recipe

from fedrec.core.params import PrivateParams
from fedrec.exchange.wire import digest, encode
from fedrec.institution.incoming import Made, checked_made
from fedrec.institution.perform import perform
from fedrec.institution.permit import Task
from fedrec.institution.published import Published
from fedrec.institution.site import Site
from fedrec.institution.store import Store
from fedrec.models import from_plan

COUNTS = {"counts": np.arange(1, 9, dtype=np.float32)}  # film-7 is the best


def trained(site: Site, table: dict[str, Any]) -> dict[str, Any]:
    """What this site alone makes of a statistic model."""
    model, rows = from_plan(table), site.store.rows()
    start = model.init(rows.n_items, 0)
    return dict(model.finish(start, model.fit_site(rows, start, PrivateParams({}))[0]).tensors)


def serve(
    site: Site,
    which: str = "popularity",
    shared: Any = None,
    plan: Any = None,
    protocol: str = "p1",
    keeps: bool = False,
) -> str:
    """Publish a model, which becomes the served one, or with `keeps` perhaps the site's own; its SHA-256."""
    plan = replace(plan or recipe(which), purpose=secrets.token_hex(8))  # the same plan is one request
    row = approved(site, plan)
    made = trained(site, dict(plan.model)) if shared is None else shared
    store, name = Store.open(site.state), digest(made)
    task = Task("publish", secrets.token_hex(8), 0, protocol, name, secrets.token_hex(16))
    files = [site.state / name for name in ("shared", "lists")]
    state = perform(plan, "publish", protocol, store.rows(), made, {}).state
    for path, tensors in zip(files, (made, state), strict=True):
        path.write_bytes(encode(tensors))
    lists = checked_made(plan, files[1], store.n_users, store.n_items)
    Published(site.state).install(
        row, task, files[0], lists if keeps else Made(lists.lists), store, "p" * 16, site.now()
    )
    return name
