"""`fedrec audit`: read and verify a site's log."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fedrec.cli.output import emit, json_option

log_argument = click.argument("place", metavar="DIR|FILE", type=click.Path(exists=True, path_type=Path))


@click.group()
def audit() -> None:
    """Read and verify a site's audit log, with or without the site."""


@audit.command()
@log_argument
@json_option
def log(place: Path, target: str | None) -> None:
    """Print every event of the log below DIR, or in FILE."""
    from fedrec.institution.audit import read

    events = list(read(place))
    lines = [
        f"{e['seq']:5d}  {e['at'][:19]}Z  {e['actor']:24} {e['act']:14} {e['outcome']:18} {e['run']}" for e in events
    ]
    emit({"events": events}, target, text="\n".join(lines))


@audit.command()
@log_argument
@click.option("--witness", "witnesses", multiple=True, metavar="OTHER", type=click.Path(exists=True, path_type=Path),
              help="The log of another institution, or another copy of this one; repeatable.")  # fmt: skip
@click.option("--key", default="", metavar="HEX", help="The site's public key, as fedrec site keys prints it.")
@click.option("--consortium", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The consortium's TOML, which pins the keys.")  # fmt: skip
@json_option
def verify(place: Path, witnesses: tuple[Path, ...], key: str, consortium: Path | None, target: str | None) -> None:
    """Check that no event was changed, moved or taken out; exit 0 ok, 3 tampered or a clash, 2 unreadable."""
    from fedrec.config import ConsortiumConfig
    from fedrec.institution.audit import verify as check

    pinned = None if consortium is None else {m.name: m.key for m in ConsortiumConfig.load(consortium).member}
    verdict = check(place, key, witnesses, pinned)
    emit(verdict.as_dict(), target, text=verdict.sentence())
    sys.exit({"ok": 0, "incomplete-tail": 0, "unreadable": 2}.get(verdict.verdict, 3))
