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
from fedrec.errors import WrongInput

folder_argument = click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.group()
def site() -> None:
    """Host an institution's datasite."""


@site.command()
@folder_argument
@json_option
def serve(folder: Path, target: str | None) -> None:
    """Take in DIR's data and serve it as a datasite until Ctrl-C.

    The first start makes the owner's account; its password comes from FEDREC_OWNER_PASSWORD.
    """
    from fedrec.institution.serve import serve as run

    def ready(facts: Mapping[str, Any]) -> None:
        emit(
            dict(facts),
            target,
            text=f"{facts['site']} serves {facts['url']}, jail level {facts['jail_level']}; Ctrl-C ends it",
        )

    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C and SIGTERM are how a site ends
        run(folder, os.environ.get("FEDREC_OWNER_PASSWORD"), ready)


@site.command()
@folder_argument
@json_option
def status(folder: Path, target: str | None) -> None:
    """Say whether DIR's site runs, and where."""
    from fedrec.institution.serve import status as ask

    facts = ask(folder)
    where = f"serves {facts['url']}, jail level {facts['jail_level']}" if facts["running"] else "does not run"
    text = f"{facts['site']}: {where}, data version {facts['data_version'] or 'none'}"
    emit(facts, target, text=text)


@site.command()
@folder_argument
def stop(folder: Path) -> None:
    """End DIR's site and wait until it has ended."""
    from fedrec.institution.serve import control

    pid = int(control(folder, {"op": "status"})["pid"])
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while _alive(pid):
        if time.monotonic() > deadline:
            raise WrongInput(f"the site (process {pid}) did not end within 20 s")
        time.sleep(0.1)
    click.echo(f"{folder.name}: ended")


@site.command()
@folder_argument
@json_option
def check(folder: Path, target: str | None) -> None:
    """Read DIR's settings and data without serving, and print the consortium's hash and a data report."""
    from fedrec.config import ConsortiumConfig, SchemaConfig, SiteConfig
    from fedrec.institution.intake import take_in_folder
    from fedrec.institution.walls import level_here

    config = SiteConfig.load(folder / "site.toml")
    SchemaConfig.load(folder / "schema.toml")
    consortium = ConsortiumConfig.load(config.consortium_path)
    level = level_here(config.limits.jail_level)
    report = take_in_folder(folder)
    facts = {"site": config.name, "consortium": consortium.hash, "jail_level": level, "data": report.as_dict()}
    right = f"{config.name}: settings are right, jail level {level}"
    emit(facts, target, text=f"{right}\nconsortium {consortium.hash}\n{report.text()}")


@site.command()
@folder_argument
@json_option
def keys(folder: Path, target: str | None) -> None:
    """Print the public key of DIR's site, as consortium.toml pins it; makes the keys at the first call."""
    from fedrec.institution.site import Keys

    key = Keys.load_or_make(folder / "state").public
    emit({"key": key}, target, text=key)


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
    """Make an account for EMAIL; its password comes from FEDREC_PASSWORD or is asked for."""
    from fedrec.institution.serve import control

    password = os.environ.get("FEDREC_PASSWORD") or click.prompt(
        "Password", hide_input=True, confirmation_prompt=True, err=True
    )
    answer = control(folder, {"op": "users.add", "email": email, "role": role, "password": password})
    emit(answer, target, text=f"{email} is {role} at {folder.name}")


@users.command("disable")
@folder_argument
@click.argument("email")
@json_option
def disable_user(folder: Path, email: str, target: str | None) -> None:
    """Take every right from EMAIL's account."""
    from fedrec.institution.serve import control

    answer = control(folder, {"op": "users.disable", "email": email})
    emit(answer, target, text=f"{email} may do nothing at {folder.name}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
