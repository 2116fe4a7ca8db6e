"""The demo's data owners: each decides through `fedrec requests`, in a process that holds only his password."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedrec.demo.sites import SiteProcess, Sites, fedrec, finish_all, start_fedrec

Requests = Mapping[str, Mapping[str, str]]  # ids by site and plan's name
REASON = "our members did not agree to item lists that other cinemas can read"


def listed(site: SiteProcess) -> list[dict[str, Any]]:
    """The requests at a site, as its owner lists them."""
    found = json.loads(fedrec(["requests", "list", str(site.folder), "--json", "-"]))
    return list(found["requests"])


def read(sites: Sites, requests: Requests) -> dict[str, str]:
    """Every owner reads every request at his site, which his log notes; the text of each by its id."""
    asked = [(name, request) for name, ids in requests.items() for request in ids.values()]
    shown = finish_all([start_fedrec(["requests", "show", str(sites.all[name].folder), one]) for name, one in asked])
    return {request: text for (_, request), text in zip(asked, shown, strict=True)}


def decide(sites: Sites, requests: Requests, denier: str = "", denied: str = "") -> None:
    """Every owner approves the requests; `denier` denies the one of the plan `denied`, if any. All side by side."""
    running = []
    for name, ids in requests.items():
        site, no = sites.all[name], [ids[denied]] if denied and name == denier else []
        secrets = {"FEDREC_USER": site.owner, "FEDREC_PASSWORD": site.owner_password}
        yes = [request for request in ids.values() if request not in no]
        running.append(start_fedrec(["requests", "approve", str(site.folder), *yes], **secrets))
        if no:
            running.append(start_fedrec(["requests", "deny", str(site.folder), *no, "--reason", REASON], **secrets))
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
