"""`fedrec site`: an institution's datasite."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fedrec.cli.output import emit, json_option
from fedrec.cli.site_init import init
from fedrec.cli.site_keys import keys
from fedrec.errors import DataError, Refused, WrongInput

folder_argument = click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.group()
def site() -> None:
    """Host an institution's datasite."""


site.add_command(init)
site.add_command(keys)


@site.command()
@folder_argument
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What DIR/state/log/site.jsonl holds; stderr has warnings and errors only.",
)
@json_option
def serve(folder: Path, log_level: str, target: str | None) -> None:
    """Take in DIR's data and serve it as a datasite until Ctrl-C.

    The first start makes the owner's account; its password comes from FEDREC_OWNER_PASSWORD, or from the
    0600 file that FEDREC_OWNER_PASSWORD_FILE names.
    """
    from fedrec.config.secret import secret
    from fedrec.institution.serve import serve as run

    def ready(facts: Mapping[str, Any]) -> None:
        emit(
            dict(facts),
            target,
            text=f"{facts['site']} serves {facts['url']}, jail level {facts['jail_level']}; Ctrl-C ends it",
        )

    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C and SIGTERM are how a site ends
        run(folder, secret("FEDREC_OWNER_PASSWORD"), ready, log_level)


@site.command()
@folder_argument
@json_option
def status(folder: Path, target: str | None) -> None:
    """Say whether DIR's site runs, and where."""
    from fedrec.institution.serve import status as ask

    facts = ask(folder)
    where = f"serves {facts['url']}, jail level {facts['jail_level']}" if facts["running"] else "does not run"
    where += ", PAUSED" if facts.get("paused") else ""
    text = f"{facts['site']}: {where}, data version {facts['data_version'] or 'none'}"
    emit(facts, target, text=text)


@site.command()
@folder_argument
@json_option
def stop(folder: Path, target: str | None) -> None:
    """End DIR's site and wait until it has ended."""
    from fedrec.institution.serve import control

    facts = control(folder, {"op": "status"})
    pid = int(facts["pid"])
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while _alive(pid):
        if time.monotonic() > deadline:
            raise WrongInput(f"the site (process {pid}) did not end within 20 s")
        time.sleep(0.1)
    emit({"site": facts["site"], "pid": pid, "running": False}, target, text=f"{folder.name}: ended")


@site.command()
@folder_argument
@json_option
def check(folder: Path, target: str | None) -> None:
    """Look at all that DIR's site needs to start, and take in its data; says what to do, exit 0 or 2."""
    from fedrec.config import ConsortiumConfig, SiteConfig
    from fedrec.institution import doctor
    from fedrec.institution.local import take_in, writer
    from fedrec.institution.serve import status as ask

    checks = doctor.examine(folder, lambda place: ask(place)["pid"])
    facts: dict[str, Any] = {"site": folder.name}
    text = ""
    try:
        config = SiteConfig.load(folder / "site.toml")
        facts = {"site": config.name, "consortium": ConsortiumConfig.load(config.consortium_path).hash}
        with writer(folder) as write:
            report = take_in(folder, write)
        facts["data"], text = report.as_dict(), f"\n{report.text()}"
        checks.append(doctor.Finding("data", "ok", f"{report.rows_kept} of {report.rows_in} rows kept"))
    except DataError as error:
        checks.append(doctor.Finding("data", "fail", str(error), "correct the data or schema.toml"))
    except Refused as error:
        checks.append(doctor.Finding("audit log", "fail", str(error), "see fedrec audit verify"))
    except WrongInput:
        checks.append(doctor.Finding("data", "warn", "not read", "correct the settings first"))
    verdict = doctor.worst(checks)
    facts |= {"verdict": verdict, "checks": [finding.as_dict() for finding in checks]}
    emit(facts, target, text="\n".join(finding.text() for finding in checks) + text)
    if verdict == "fail":
        raise WrongInput(f"{folder}: {sum(one.state == 'fail' for one in checks)} of {len(checks)} checks failed")


@site.command()
@folder_argument
@click.option("--html", "page", metavar="FILE", help="Write the report as one page with plots.")
@json_option
def report(folder: Path, page: str | None, target: str | None) -> None:
    """Show the quality of the data that DIR's site took in last; see docs/data-quality.md."""
    from fedrec.config import SiteConfig
    from fedrec.institution.intake import report_text
    from fedrec.institution.local import local_act
    from fedrec.institution.store import Store

    store = Store.open(folder / "state")
    with local_act(folder, "view", "report", detail={"data_version": store.version}):
        facts = store.report()
    if page is not None:
        from fedrec.institution.quality_page import page as draw

        try:
            Path(page).write_text(draw(SiteConfig.load(folder / "site.toml").title, facts), encoding="utf-8")
        except OSError as error:
            raise WrongInput(f"--html {page}: cannot be written ({error.strerror})") from None
    emit(facts, target, text=report_text(facts))


@site.command()
@folder_argument
@click.option("-n", "count", type=int, default=5, show_default=True, help="How many rows, 1 to 1000.")
@json_option
def head(folder: Path, count: int, target: str | None) -> None:
    """Show the first rows of DIR's data with raw ids, at the institution itself; the audit log says so."""
    from fedrec.institution.head import head as show
    from fedrec.institution.serve import control

    facts = show(folder, count) or control(folder, {"op": "head", "rows": count})
    lines = [f"{row['user']}  {row['item']}  {row['rating']:g}  {row['time'] or ''}" for row in facts["rows"]]
    emit(facts, target, text="\n".join([f"data version {facts['version']}", *lines]))


@site.command()
@folder_argument
@click.option("--epsilon", type=click.FloatRange(0.01, 20), required=True, help="What the noise may cost, booked once.")
@json_option
def mock(folder: Path, epsilon: float, target: str | None) -> None:
    """Let DIR's mock be as uneven as its data: three marginals with noise, booked in the ledger like any release.

    Without this command a mock is made from the schema alone. It is shown from the next start of the site on.
    """
    from fedrec.institution.mock_noise import draw

    answer = draw(folder, epsilon)
    done = f"booked epsilon {epsilon:g}" if answer["cost"] else "was drawn before, and costs nothing again"
    emit(answer, target, text=f"{folder.name}: mock of data version {answer['data_version']}: {done}; start DIR again")


@site.group()
def users() -> None:
    """Accounts of a running site."""


@users.command("list")
@folder_argument
@json_option
def list_users(folder: Path, target: str | None) -> None:
    """List DIR's accounts with their roles."""
    from fedrec.institution.serve import control

    answer = control(folder, {"op": "users.list"})
    lines = [f"{user['email']}  {user['role']}{'' if user['enabled'] else '  (disabled)'}" for user in answer["users"]]
    emit(answer, target, text="\n".join(lines))


@users.command("add")
@folder_argument
@click.argument("email")
@click.option("--role", default="scientist", show_default=True, help="owner, reviewer, scientist, auditor or operator")
@json_option
def add_user(folder: Path, email: str, role: str, target: str | None) -> None:
    """Make an account for EMAIL; its password comes from FEDREC_PASSWORD(_FILE) or is asked for."""
    from fedrec.institution.serve import control

    password = _new_password()
    answer = control(folder, {"op": "users.add", "email": email, "role": role, "password": password})
    emit(answer, target, text=f"{email} is {role} at {folder.name}")


@users.command("reset")
@folder_argument
@click.argument("email")
@json_option
def reset_user(folder: Path, email: str, target: str | None) -> None:
    """Give EMAIL another password, from FEDREC_PASSWORD(_FILE) or asked for.

    Who has logged in before holds the account's key and can go on: to lock somebody out, disable the account.
    """
    from fedrec.institution.serve import control

    answer = control(folder, {"op": "users.reset", "email": email, "password": _new_password()})
    emit(answer, target, text=f"{email} has a new password at {folder.name}")


@users.command("disable")
@folder_argument
@click.argument("email")
@json_option
def disable_user(folder: Path, email: str, target: str | None) -> None:
    """Take every right from EMAIL's account."""
    from fedrec.institution.serve import control

    answer = control(folder, {"op": "users.disable", "email": email})
    emit(answer, target, text=f"{email} may do nothing at {folder.name}")


def _new_password() -> str:
    from fedrec.config.secret import secret

    given = secret("FEDREC_PASSWORD")
    return given or str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


@site.command()
@folder_argument
@click.option("--off", is_flag=True, help="Take the token back: no application is answered.")
@json_option
def token(folder: Path, off: bool, target: str | None) -> None:
    """Make a new token for the applications of DIR's institution, in place of the one before.

    With it they ask POST /fedrec/v1/recommend; see docs/recommending.md.
    """
    from fedrec.institution.applications import drop_token, new_token
    from fedrec.institution.local import local_act

    with local_act(folder, "token", "off" if off else "new"):
        made = None if off else new_token(folder / "state")
        if off:
            drop_token(folder / "state")
    emit({"token": made}, target, text=made or f"no application is answered at {folder.name}")


@site.group()
def models() -> None:
    """Models that were published to an institution."""


@models.command("list")
@folder_argument
@json_option
def list_models(folder: Path, target: str | None) -> None:
    """List the models that DIR keeps: which is served, for how many users, who published it."""
    from fedrec.institution.published import Published, said_of

    rows = Published(folder / "state").versions()
    lines = [
        f"{'*' if row['served'] else ' '} {row['number']:3d}  {row['name']:16}  {row['published_at'] or '-':20}"
        f"  {row['users']:6d} users  {row['scientist'] or '-'}  permit {row['permit'][:8] or '-'}"
        f"  model {row['model'][:8]}  {said_of(row)}".rstrip()
        for row in rows
    ]
    emit({"models": rows}, target, text="\n".join(lines) or "no model has been published to this institution yet")


@models.command("use")
@folder_argument
@click.argument("version", metavar="NUMBER")
@json_option
def use_model(folder: Path, version: str, target: str | None) -> None:
    """Serve the model with this NUMBER of DIR's list from now on."""
    from fedrec.institution.serve import control

    answer = control(folder, {"op": "models.use", "version": version})
    emit(answer, target, text=f"{folder.name} serves model {answer['number']}, {answer['name']}")


@models.command("personalise")
@folder_argument
@json_option
def personalise(folder: Path, target: str | None) -> None:
    """Bend the model that DIR serves towards DIR's own users, where its validation rows say that this helps.

    DIR's own model is served instead of the shared one where that loses by more than noise. `rollback` goes back.
    """
    from fedrec.institution.personalise import personalise as choose
    from fedrec.institution.serve import control

    control(folder, {"op": "status"})
    answer = choose(folder)
    if answer["number"] is not None:
        control(folder, {"op": "models.use", "version": str(answer["number"])})
    emit(answer, target, text=f"{folder.name}: {answer['text']}")


@models.command("rollback")
@folder_argument
@json_option
def roll_back(folder: Path, target: str | None) -> None:
    """Serve again what DIR served before."""
    from fedrec.institution.serve import control

    answer = control(folder, {"op": "models.rollback"})
    emit(answer, target, text=f"{folder.name} serves model {answer['number']}, {answer['name']}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
