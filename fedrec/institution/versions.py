"""Which versions of the data an institution still needs. The others are deleted when its site starts."""

from __future__ import annotations

import json
import shutil

from fedrec.institution import store
from fedrec.institution.site import Site


def needed(site: Site) -> set[str]:
    """The version in use, those that a live permit or a running job is bound to, and those of the models kept here."""
    ledger, now = site.ledger, site.now()
    working = {job.request for job in ledger.running()}
    found = {site.store.version}
    for row in ledger.requests():
        permit = row.signed_permit
        if permit is not None and (now < permit["not_after"] or row.id in working):
            found.add(permit["data_version"])
    for path in (site.state / "models").glob("*/model.json"):  # their lists are by the index of that version's users
        found.add(json.loads(path.read_text())["data_version"])
    return found


def sweep(site: Site) -> list[str]:
    """Delete what is not needed, with each version's intent and outcome in the audit log; returns what was deleted.

    The models that past rounds started from go with their data version, and the oldest beyond `replay_mb`.
    """
    gone = sorted(store.versions(site.state) - needed(site))
    for version in gone:
        with site.audit.act("site", "site", "data.delete", version):
            store.drop(site.state, version)
    kept, room = store.versions(site.state), site.config.limits.replay_mb * 10**6
    for bases in sorted((site.state / "bases").glob("*"), key=lambda path: -path.stat().st_mtime):
        row = site.ledger.request(bases.name)
        room -= sum(path.stat().st_size for path in bases.iterdir())
        if row is None or row.permit is None or json.loads(row.permit)["data_version"] not in kept or room < 0:
            shutil.rmtree(bases)
    return gone
