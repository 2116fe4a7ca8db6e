"""Erasing a person's texts from a site's log on request, at the institution's own machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from fedrec.errors import WrongInput
from fedrec.institution.evidence.find import Event, files_of
from fedrec.institution.evidence.reconcile import database
from fedrec.institution.local import own_log
from fedrec.institution.serve import control
from fedrec.institution.texts import Texts, free_texts
from fedrec.institution.texts import redact as erase
from fedrec.institution.verify import lines


def redact(folder: Path, actor: str = "", event: int | None = None) -> list[str]:
    """Erase every text that holds an address, or the free texts of one event; returns their names.

    The site does it while it runs. The same words in other events are gone too: a text is kept once.

    Raises:
        WrongInput: the address belongs to an account that is still enabled, or no such text is kept.
        Refused: `audit.write`; the text stays then.
    """
    place = files_of(folder)[0].parent
    if actor:
        with closing(database(folder / "state" / "ledger.sqlite")) as db:
            live = [row[0] for row in db.execute("SELECT email FROM accounts WHERE enabled=1")]
        if actor.casefold() in map(str.casefold, live):
            raise WrongInput(f"{actor} has an account; end it first with fedrec site users disable")
        names = Texts(place).holding(actor)
    else:
        names = next((free_texts(one) for one in _events(place) if one["seq"] == event), [])
    with own_log(folder) as log:
        found = control(folder, {"op": "audit.redact", "names": names})["erased"] if log is None else erase(log, names)
    if not found:
        raise WrongInput("the log keeps no such text")
    return list(found)


def _events(place: Path) -> Iterator[Event]:
    """The events as they stand in the log."""
    return (json.loads(line) for line in lines(place) if line.endswith(b"\n"))
