"""A log as CSV, JSON lines, CEF or OCSF, for another program."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from typing import Any, Literal, TextIO

from fedrec.exchange.wire import canonical
from fedrec.institution.evidence import siem
from fedrec.institution.evidence.find import Event

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
