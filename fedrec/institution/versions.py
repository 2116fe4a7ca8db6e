"""Which versions of the data an institution still needs. The others are deleted when its site starts."""

from __future__ import annotations

import json

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
    """Delete what is not needed, with each version's intent and outcome in the audit log; returns what was deleted."""
    gone = sorted(store.versions(site.state) - needed(site))
    for version in gone:
        with site.audit.act("site", "site", "data.delete", version):
            store.drop(site.state, version)
    return gone
