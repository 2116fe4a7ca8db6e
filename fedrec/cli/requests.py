"""`fedrec requests`: the data owner reads and decides."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedrec.cli.output import emit, json_option
from fedrec.cli.site import folder_argument
from fedrec.errors import WrongInput

if TYPE_CHECKING:
    from fedrec.institution.told import Told

id_argument = click.argument("request", metavar="ID")
ids_argument = click.argument("requests", metavar="ID...", nargs=-1, required=True)


@click.group()
def requests() -> None:
    """Read and decide on the plans that were submitted to a site."""


@requests.command("list")
@folder_argument
@json_option
def list_requests(folder: Path, target: str | None) -> None:
    """List all requests at DIR's site, oldest first."""
    from fedrec.institution.acts import seen
    from fedrec.institution.held import waiting
    from fedrec.institution.local import local_act
    from fedrec.institution.review import summary

    found = _rows(folder)
    with local_act(folder, "view", "requests", detail=seen([row.id for row, _ in found])):
        rows = [{**summary(row, used, _now()), "held": waiting(folder / "state", row)} for row, used in found]
    lines = [
        f"{row['id'][:8]}  {row['status']:9}  {row['plan']:16}  {row['scientist']}  {row['submitted_at']}"
        + (f"  HELD: {row['held']}" if row["held"] else "")
        for row in rows
    ]
    emit({"requests": rows}, target, text="\n".join(lines) or "no requests")


@requests.command()
@folder_argument
@id_argument
@json_option
def show(folder: Path, request: str, target: str | None) -> None:
    """Show one request: what will leave, what is asked, what to look at, what changed, the scientist's own code."""
    from fedrec.config import ConsortiumConfig, SiteConfig
    from fedrec.institution.diff import approved_before
    from fedrec.institution.held import waiting
    from fedrec.institution.local import local_act
    from fedrec.institution.review import details, text_of

    row, used = _find(folder, request)
    config = SiteConfig.load(folder / "site.toml")
    consortium = ConsortiumConfig.load(config.consortium_path)
    before = approved_before(row, [one for one, _ in _rows(folder)])
    with local_act(folder, "view", row.fingerprint, row.id):
        items, members = len(consortium.item_ids()), len(consortium.member)
        about = (members, _spent(folder), _told(folder, row.plan), _rehearsed(folder, row))
        shown = details(row, used, _now(), items, config.limits, before, *about)
        shown["held"] = waiting(folder / "state", row)
    emit(shown, target, text=text_of(shown))


@requests.command()
@folder_argument
@ids_argument
@click.option("--rounds", type=int, help="Training rounds in all; at most what the plan asks.")
@click.option("--until", help="Last moment, an ISO time.")
@click.option("--hours", help="Hours of the day in UTC, such as 8-18.")
@click.option("--epsilon", type=float, help="Privacy budget; only for plans with differential privacy.")
@click.option("--reason", help="A word to the scientist and the log.")
@json_option
def approve(folder: Path, requests: tuple[str, ...], target: str | None, **limits: Any) -> None:
    """Approve requests within limits: logs in as FEDREC_USER and sends what PySyft's request.approve() sends."""
    rows = [_find(folder, request)[0] for request in requests]
    site = _login(folder)
    for row in rows:
        site.approve(row.id, **{name: value for name, value in limits.items() if value is not None})
    text = "\n".join(f"approved {row.name} ({row.id[:8]})" for row in rows)
    emit({"ids": [row.id for row in rows], "decision": "approved"}, target, text=text)


@requests.command()
@folder_argument
@id_argument
@click.option("--reason", required=True, help="Why; the scientist reads it.")
@json_option
def deny(folder: Path, request: str, reason: str, target: str | None) -> None:
    """Deny a waiting request."""
    row, _ = _find(folder, request)
    if row.decision == "approved":
        raise WrongInput("this request is approved already; use fedrec requests revoke")
    _login(folder).undo(row.id, reason)
    emit({"id": row.id, "decision": "denied"}, target, text=f"denied {row.name} ({row.id[:8]})")


@requests.command()
@folder_argument
@id_argument
@click.option("--reason", required=True, help="Why; the scientist reads it.")
@json_option
def revoke(folder: Path, request: str, reason: str, target: str | None) -> None:
    """Revoke an approved request: running jobs end, what has not left is deleted."""
    row, _ = _find(folder, request)
    if row.decision != "approved":
        raise WrongInput(f"this request is {row.decision}; only an approved one can be revoked")
    _login(folder).undo(row.id, reason)
    emit({"id": row.id, "decision": "revoked"}, target, text=f"revoked {row.name} ({row.id[:8]})")


@requests.command()
@folder_argument
@id_argument
@click.option("--reason", default="", help="Why; for the log.")
@json_option
def release(folder: Path, request: str, target: str | None, reason: str) -> None:
    """Let go an update that the leak gate holds, as FEDREC_USER; revoke refuses it."""
    row, _ = _find(folder, request)
    answer = _login(folder).release(row.id, reason)
    emit(answer, target, text=f"released {row.name} ({row.id[:8]}), {answer['again']} jobs go on")


@requests.command()
@folder_argument
@click.option("--reason", default="", help="Why; the scientists read it.")
@json_option
def pause(folder: Path, reason: str, target: str | None) -> None:
    """Pause DIR's site, as FEDREC_USER: at once nothing runs and nothing leaves; jobs go on after resume."""
    answer = _login(folder).pause(reason)
    late = f"; {answer['still_running']} jobs are still ending" if answer["still_running"] else ""
    emit(answer, target, text=f"{folder.name}: paused{late}")


@requests.command()
@folder_argument
@json_option
def resume(folder: Path, target: str | None) -> None:
    """End the pause of DIR's site, as FEDREC_USER: jobs that it stopped begin again, without being counted twice."""
    answer = _login(folder).resume()
    emit(answer, target, text=f"{folder.name}: goes on, {answer['again']} jobs begin again")


def _rows(folder: Path) -> list[tuple[Any, dict[str, int]]]:
    from fedrec.institution.ledger import Ledger

    path = folder / "state" / "ledger.sqlite"
    if not path.exists():
        raise WrongInput(f"{folder}: this site has not been served yet")
    ledger = Ledger(path)
    try:
        return [(row, ledger.used(row.id)) for row in ledger.requests()]
    finally:
        ledger.close()


def _told(folder: Path, text: str) -> Told | None:
    """What a plan's update tells about this institution's users; None of very many rows."""
    from fedrec.exchange.plan import PlanText
    from fedrec.institution.store import Store
    from fedrec.institution.told import LOOKED_AT, told

    plan, store = PlanText.parse(text), Store.open(folder / "state")
    return None if store.n_rows > LOOKED_AT else told(plan, store.rows())


def _rehearsed(folder: Path, row: Any) -> str:
    """What the plan's update tells on the mock: as the permit says, or as it will say."""
    from fedrec.exchange.plan import PlanText
    from fedrec.institution.rehearsed import rehearsed
    from fedrec.institution.store import Store

    permit = row.signed_permit or {}
    return str(
        permit.get("rehearsal") or rehearsed(PlanText.parse(row.plan), folder, Store.open(folder / "state").version)
    )


def _spent(folder: Path) -> int:
    """What all noisy releases of the site have cost."""
    from contextlib import closing

    from fedrec.institution.ledger import Ledger

    with closing(Ledger(folder / "state" / "ledger.sqlite")) as ledger:
        return ledger.spent()


def _find(folder: Path, prefix: str) -> tuple[Any, dict[str, int]]:
    found = [pair for pair in _rows(folder) if pair[0].id.startswith(prefix)]
    if len(prefix) < 6 or len(found) != 1:
        raise WrongInput(f"{prefix}: give a request's id, or six or more of its first digits that only one has")
    return found[0]


def _login(folder: Path) -> Any:
    from fedrec.institution.serve import status

    user, password = account()
    facts = status(folder)
    if not facts["running"]:
        raise WrongInput(f"{folder.name}: the site does not run; start it with fedrec site serve {folder}")
    return login(facts["site"], facts["url"], user, password)


def account() -> tuple[str, str]:
    """The e-mail and the password that the environment gives. Raises: WrongInput when one is missing."""
    from fedrec.config.secret import secret

    user, password = os.environ.get("FEDREC_USER"), secret("FEDREC_PASSWORD")
    if not user or not password:
        raise WrongInput("set FEDREC_USER and FEDREC_PASSWORD to your account at the site")
    return user, password


def login(name: str, url: str, user: str, password: str, ca: Path | None = None) -> Any:
    """A login at a running site."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # PySyft loads 3 s faster without
    from fedrec.scientist.syft_client import SyftSite, quiet

    with quiet():
        return SyftSite(name, url, user, password, ca)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
