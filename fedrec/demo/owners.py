"""The demo's data owners: each decides through `fedrec requests`, in a process that holds only his password."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedrec.demo.sites import SiteProcess, Sites, fedrec, finish_all, start_fedrec

REASON = "our members did not agree to item lists that other cinemas can read"


def listed(site: SiteProcess) -> list[dict[str, Any]]:
    """The requests at a site, as its owner lists them."""
    found = json.loads(fedrec(["requests", "list", str(site.folder), "--json", "-"]))
    return list(found["requests"])


def read(sites: Sites, requests: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Every owner reads every request at his site, which his log notes; the text of each by its id.

    Args:
        requests: ids by site.
    """
    asked = [(name, request) for name, ids in requests.items() for request in ids]
    shown = finish_all([start_fedrec(["requests", "show", str(sites.all[name].folder), one]) for name, one in asked])
    return {request: text for (_, request), text in zip(asked, shown, strict=True)}


def decide(sites: Sites, denier: str, denied: str, plans: Sequence[str]) -> None:
    """Every owner approves the plans; `denier` denies the one whose fingerprint is `denied`, if any. All side by side.

    Args:
        plans: fingerprints to decide on.
    """
    running = []
    for site in sites.all.values():
        ids = {row["fingerprint"]: row["id"] for row in listed(site)}
        secrets = {"FEDREC_USER": site.owner, "FEDREC_PASSWORD": site.owner_password}
        yes = [ids[plan] for plan in plans if (site.name, plan) != (denier, denied)]
        running.append(start_fedrec(["requests", "approve", str(site.folder), *yes], **secrets))
        if denied and site.name == denier:
            running.append(
                start_fedrec(["requests", "deny", str(site.folder), ids[denied], "--reason", REASON], **secrets)
            )
    finish_all(running)


def approvals(sites: Sites) -> list[dict[str, Any]]:
    """Who decided what and when, at all sites."""
    return [
        {
            "site": site.name,
            "request": row["id"],
            "plan": row["plan"],
            "decision": row["status"],
            "by": row["decided_by"],
            "at": row["decided_at"],
            "reason": row["reason"],
        }
        for site in sites.all.values()
        for row in listed(site)
    ]
