"""`fedrec audit`: the commands about one run, and about what the log says against what the site has."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from fedrec.cli.output import emit, json_option, say

site_argument = click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.command()
@site_argument
@json_option
def reconcile(folder: Path, target: str | None) -> None:
    """Compare DIR's log with its ledger, PySyft's store, released updates and models; exit 3 if one lacks the other."""
    from fedrec.institution.evidence.reconcile import reconcile as compare

    found = set(compare(folder))
    if found:  # a running site may have been between an act and its event
        time.sleep(1.0)
        found &= set(compare(folder))
    lines = [f"{one.kind}: {one.where}: {one.what}" for one in sorted(found)]
    emit({"findings": [one.as_dict() for one in sorted(found)]}, target,
         text="\n".join(lines) or "every act has its event, every event its act")  # fmt: skip
    sys.exit(3 if found else 0)


@click.command()
@site_argument
@click.option("--run", required=True, metavar="RUN", help="The run, as fedrec audit log shows it.")
@click.option("--round", "number", type=int, help="Compare this round only; the ones before it are still done.")
@json_option
def replay(folder: Path, run: str, number: int | None, target: str | None) -> None:
    """Do a run's rounds at DIR's site again and compare what leaves with the log; exit 3 if it differs."""
    from fedrec.config import SiteConfig
    from fedrec.institution import walls
    from fedrec.institution.evidence.replay import replay as again
    from fedrec.institution.evidence.replay import text_of
    from fedrec.institution.jail import Jail

    jail = Jail(walls.level_here(SiteConfig.load(folder / "site.toml").limits.jail_level))
    try:
        jail.wait_ready()
        rows = []
        for one in again(folder, run, jail, number):
            rows.append(one.as_dict())
            say(text_of(rows[-1]))
    finally:
        jail.close()
    differ = [row for row in rows if not row["same"]]
    emit(
        {"run": run, "tasks": rows}, target, text=f"{len(rows) - len(differ)} of {len(rows)} tasks gave the same again"
    )
    sys.exit(3 if differ else 0)
