"""A log as CSV, JSON lines, CEF or OCSF, for another program; an export of a site's own log is an event in it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

from fedrec.config import SiteConfig
from fedrec.exchange.wire import canonical
from fedrec.institution.audit import AuditLog
from fedrec.institution.evidence import siem
from fedrec.institution.evidence.find import Event
from fedrec.institution.head import alone
from fedrec.institution.serve import control
from fedrec.institution.site import Keys

COLUMNS = tuple("seq at actor role purpose act object outcome of request permit run round detail hash".split())
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet may take for a formula when a cell begins with it

Form = Literal["csv", "jsonl", "cef", "ocsf"]
_LINES = {"jsonl": lambda event: canonical(event).decode(), "cef": siem.cef, "ocsf": siem.ocsf}


def write(events: Iterable[Event], form: Form, file: TextIO) -> int:
    """Write the events and return their number.

    A CSV cell that a spreadsheet would compute gets a quote in front; JSON lines are the log's own, with their texts.
    """
    count = 0
    table = csv.writer(file, lineterminator="\n") if form == "csv" else None
    if table is not None:
        table.writerow(COLUMNS)
    for event in events:
        if table is not None:
            table.writerow([cell(event.get(name)) for name in COLUMNS])
        else:
            file.write(_LINES[form](event) + "\n")
        count += 1
    return count


def cell(value: Any) -> str:
    """A value as a CSV cell that no spreadsheet computes."""
    text = "" if value is None else json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


@contextmanager
def announced(folder: Path, form: str) -> Iterator[None]:
    """Write the export of a site's own log into that log: by the site while it runs, else here, intent and outcome.

    Who may read the files can copy them past this; the event is what an honest export leaves.

    Raises:
        Refused: `audit.write`; nothing is exported then.
    """
    with own_log(folder) as log:
        if log is None:
            control(folder, {"op": "audit.export", "form": form})
            yield
            return
        with log.act("site", "operator", "export", "log", detail={"form": form}):
            yield


@contextmanager
def own_log(folder: Path) -> Iterator[AuditLog | None]:
    """The log of a site that does not run, to be added to; None while it runs, since it alone may write then."""
    with alone(folder / "state") as free:
        if not free:
            yield None
            return
        name = SiteConfig.load(folder / "site.toml").name
        log = AuditLog(folder / "state" / "audit", Keys.load_or_make(folder / "state").signer(name))
        try:
            yield log
        finally:
            log.close()
