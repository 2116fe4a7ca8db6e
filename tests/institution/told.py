"""A small site's whole story, in its log and beside it: accounts, a plan, its permit, three rounds, an evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nacl.signing import SigningKey
from small_site import OWNER, SCIENTIST, Idle, ended, make_site, recipe, sent, submitted, task

from fedrec.exchange.plan import PlanText, fingerprint
from fedrec.exchange.wire import canonical
from fedrec.institution import policy, verify
from fedrec.institution.decisions import Decisions
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import RequestRow
from fedrec.institution.site import Site
from fedrec.institution.task_files import Runner
from fedrec.models import from_plan

RUN = "mf-p1-1"


def tell(root: Path, jail: Runner) -> Path:
    """Tell the story at a new site below `root`, as `fedrec site serve` writes it, and give the site's folder."""
    return tell_all(root, jail, ["a"])[0]


def tell_all(root: Path, jail: Runner, names: Sequence[str]) -> list[Path]:
    """The story at several sites, round by round: none begins one before all have ended the one before."""
    sites = [begun(root / name, name) for name in names]
    rows = [submit(site) for site in sites]
    for site, row in zip(sites, rows, strict=True):
        Decisions(site, Jobs(site, Idle())).approve(OWNER, row.id, {}, lambda: True)
    jobs = [Jobs(site, jail) for site in sites]
    for kind, number, base in (
        ("train", 0, 0),
        ("train", 1, 1),
        ("train", 2, 2),
        ("evaluate", 2, 3),
        ("publish", 2, 3),
    ):
        for site, running, row in zip(sites, jobs, rows, strict=True):
            one(site, running, row, kind, number, base)
    for site, running in zip(sites, jobs, strict=True):
        running.close()
        site.audit.event("site", "site", "stop", site.config.name, outcome="done")
        site.audit.checkpoint()
        site.close()
    return [site.folder for site in sites]


def begun(root: Path, name: str) -> Site:
    """A site with two accounts, as after its first start."""
    site = make_site(root, name=name)
    now = {"data_version": site.store.version, **policy.keep(site)}
    site.audit.start(name, {}, now)
    for account in (OWNER, SCIENTIST):
        with site.audit.act("site", "site", "users.add", account.email, detail={"role": account.role}):
            site.ledger.add_account(account.email, account.key, account.role, site.now())
    return site


def submit(site: Site, **asks: Any) -> RequestRow:
    """A request of a plan with three rounds, with its two events."""
    plan = recipe("mf", {"factors": 4}, rounds=3, runs=1, **asks)
    with site.audit.act(SCIENTIST.email, "scientist", "submit", fingerprint(plan.text())) as facts:
        row = submitted(site, plan)
        facts["request"] = row.id
    return row


def one(site: Site, jobs: Jobs, row: RequestRow, kind: str, number: int, base: int) -> None:
    """One task, and the fetch of its update; the models that tasks start from differ, the first is the plan's own."""
    plan = PlanText.parse(row.plan)
    start = from_plan(plan.model).init(site.store.n_items, plan.seed).tensors
    name = sent(site, row, bases(start, base))
    answer = ended(site, jobs, row, task(name, kind, run=RUN, number=number, nonce=f"{base:032d}"))
    assert answer["status"] == "done", answer
    if kind == "train":
        fetched(site, row, answer["passport"]["sha256"])


def fetched(site: Site, row: RequestRow, name: str) -> None:
    """What the site's own route writes when an update is fetched."""
    with site.audit.act(SCIENTIST.email, "scientist", "fetch", name, request=row.id):
        pass


def bases(start: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The model that a round starts from; any will do for a site."""
    return {name: (array + np.float32(0.01) * number).astype(array.dtype) for name, array in start.items()}


def forged(folder: Path, change: Any, keep: Any = lambda event: True) -> None:
    """Write a site's log again with other events and its own key, so that it verifies: what only facts can find.

    Args:
        change: event → event, before it is numbered; keep: which events stay.
    """
    key = SigningKey(bytes.fromhex((folder / "state" / "keys" / "site.key").read_text().strip()))
    (path,) = (folder / "state" / "audit").glob("*.jsonl")
    events = [change(event) for event in map(json.loads, path.read_bytes().splitlines()) if keep(event)]
    moved = {event["seq"]: number for number, event in enumerate(events)}
    state, lines = verify.Checker(), []
    for event in events:
        event |= {"seq": state.seq, "prev": state.prev, "of": moved.get(event["of"])}
        if event["act"] == "checkpoint":
            facts = {name: event["detail"][name] for name in verify.SIGNED} | {
                "size": state.seq,
                "root": state.root(),
                "time": event["at"],
            }
            event["object"] = facts["root"]
            event["detail"] = {**facts, "signature": key.sign(canonical(facts)).signature.hex()}
        body = {name: value for name, value in event.items() if name != "hash"}
        line = canonical({**body, "hash": hashlib.sha256(canonical(body)).hexdigest()}) + b"\n"
        assert state.feed(line) == "", line
        lines.append(line)
    path.write_bytes(b"".join(lines))
