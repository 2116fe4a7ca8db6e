"""`fedrec audit`: read and verify a site's log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from fedrec.cli.output import emit, json_option
from fedrec.errors import WrongInput

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

    events = [event for path in _files(place) for event in read(path)]
    lines = [
        f"{e['seq']:5d}  {e['at'][:19]}Z  {e['actor']:24} {e['act']:14} {e['outcome']:18} {e['run']}" for e in events
    ]
    emit({"events": events}, target, text="\n".join(lines))


@audit.command()
@log_argument
@json_option
def verify(place: Path, target: str | None) -> None:
    """Check that no event was changed, moved or taken out; exit 0 ok, 3 tampered, 2 unreadable."""
    from fedrec.institution.audit import verify as check

    verdict = next(check(path) for path in _files(place))
    where = f" at event {verdict.first_bad}: {verdict.reason}" if verdict.reason else ""
    emit(verdict.as_dict(), target, text=f"{verdict.verdict}, {verdict.events} events{where}")
    sys.exit({"ok": 0, "incomplete-tail": 0, "unreadable": 2}.get(verdict.verdict, 3))


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        return iter([place])
    found = sorted((place / "state" / "audit").glob("*.jsonl")) or sorted(place.glob("*.jsonl"))
    if not found:
        raise WrongInput(f"{place}: holds no audit log")
    return iter(found)
