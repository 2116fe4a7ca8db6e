"""`fedrec audit`: the commands about one run, and about what the log says against what the site has."""

from __future__ import annotations

import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from fedrec.cli.output import emit, json_option, say
from fedrec.errors import WrongInput

site_argument = click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
STILL = "The ledger, PySyft's store, and packs, exports and backups made before still have them"


@click.command()
@site_argument
@json_option
def reconcile(folder: Path, target: str | None) -> None:
    """Compare DIR's log with its ledger, PySyft's store, released updates and models; exit 3 if one lacks the other.

    Also lists checkpoints of other institutions that came without a good proof: verify their logs with this one.
    """
    from fedrec.institution.evidence.reconcile import reconcile as compare
    from fedrec.institution.evidence.reconcile import unproved

    found = set(compare(folder))
    if found:  # a running site may have been between an act and its event
        time.sleep(1.0)
        found &= set(compare(folder))
    lines = [f"{one.kind}: {one.where}: {one.what}" for one in sorted(found)]
    lines, others = lines or ["every act has its event, every event its act"], unproved(folder)
    emit({"findings": [one.as_dict() for one in sorted(found)], "unproved": others}, target,
         text="\n".join([*lines, *(f"unproved: {one}" for one in others)]))  # fmt: skip
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
    from fedrec.institution.local import local_act

    can = os.access(folder / "state", os.W_OK)  # a copy that can only be read takes no event
    noted = local_act(folder, "replay", "run", run=run) if can else nullcontext(dict[str, Any]())
    jail = Jail(walls.level_here(SiteConfig.load(folder / "site.toml").limits.jail_level))
    try:
        jail.wait_ready()
        rows: list[dict[str, Any]] = []
        with noted as facts:
            for one in again(folder, run, jail, number):
                rows.append(one.as_dict())
                say(text_of(rows[-1]))
            differ = [row for row in rows if not row["same"]]
            facts.update(tasks=len(rows), differ=len(differ))
    finally:
        jail.close()
    emit(
        {"run": run, "tasks": rows}, target, text=f"{len(rows) - len(differ)} of {len(rows)} tasks gave the same again"
    )
    sys.exit(3 if differ else 0)


@click.command()
@site_argument
@click.option("--actor", default="", metavar="E-MAIL", help="Every text with this address; its account is disabled.")
@click.option("--event", "number", type=int, metavar="N", help="Purpose and reason of this event.")
@json_option
def redact(folder: Path, actor: str, number: int | None, target: str | None) -> None:
    """Erase personal texts from DIR's log for good; hashes, proofs and witnesses stay good, and the log says so."""
    from fedrec.institution.evidence.redaction import redact as erase

    if bool(actor) == (number is not None):
        raise WrongInput("give --actor or --event")
    names = erase(folder, actor, number)
    text = f"{len(names)} texts erased from the log: {', '.join(name[:16] for name in names)}\n{STILL}"
    emit({"erased": names}, target, text=text)


@click.command()
@click.argument("place", metavar="DIR|URL")
@click.option("--run", required=True, metavar="RUN", help="The run, as fedrec audit log shows it.")
@click.option("--request", default="", metavar="ID", help="Its request, where two have a run of this name.")
@click.option("--alone", is_flag=True, help="Leave the log out: the run's own events with their proofs only.")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="The ZIP; RUN-SITE.zip by default.")
@click.option("--ca", metavar="FILE", type=click.Path(exists=True, path_type=Path), help="The CA of URL's proxy.")
@json_option
def pack(
    place: str, run: str, request: str, alone: bool, out: Path | None, ca: Path | None, target: str | None
) -> None:
    """Put everything that a site holds about a run into a ZIP that can be checked without the site.

    DIR is the site's own folder; from the site at URL it comes over the network, for FEDREC_USER.
    """
    from fedrec.cli.requests import account, login
    from fedrec.exchange.wire import sha256
    from fedrec.institution.evidence.pack import pack as packed
    from fedrec.institution.local import local_act

    over_network = place.startswith(("http://", "https://"))
    name = urlsplit(place).hostname if over_network else Path(place).absolute().name
    file = out or Path(f"{run}-{name}.zip")
    if over_network:
        data = _written(file, login(place, place, *account(), ca).pack(run, request, alone))
    elif Path(place).is_dir():
        with local_act(Path(place), "export", "log", run=run, detail={"form": "pack"}) as noted:
            data = _written(file, packed(Path(place), run, request, alone))
            noted.update(bytes=len(data), sha256=sha256(data))
    else:
        raise WrongInput(f"{place}: neither a site's folder nor its URL")
    facts = {"file": str(file), "bytes": len(data), "sha256": sha256(data), "run": run}
    emit(facts, target, text=f"{file}: {len(data):,} bytes, SHA-256 {facts['sha256']}")


def _written(file: Path, data: bytes) -> bytes:
    try:
        file.write_bytes(data)
    except OSError as error:
        raise WrongInput(f"{file}: cannot be written ({error.strerror})") from None
    return data


@click.command()
@click.argument("packs", metavar="PACK...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path), help="Also draw it: .png, .svg or .pdf.")
@json_option
def timeline(packs: tuple[Path, ...], plot: Path | None, target: str | None) -> None:
    """Merge several institutions' packs of one run into one story; exit 3 if what they say cannot all be true."""
    from fedrec.institution.evidence.timeline import figure_of, merge, text_of

    story = merge(packs)
    if plot is not None:
        try:
            figure_of(story).savefig(plot)
        except (OSError, ValueError) as error:
            raise WrongInput(f"{plot}: cannot be drawn ({error})") from None
    emit(story, target, text=text_of(story))
    sys.exit(3 if story["clashes"] else 0)
