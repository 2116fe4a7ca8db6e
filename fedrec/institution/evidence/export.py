"""A log as CSV, JSON lines, CEF or OCSF, for another program."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TextIO

from fedrec.exchange.wire import canonical
from fedrec.institution.evidence import siem
from fedrec.institution.evidence.find import Event
from fedrec.institution.verify import lines

COLUMNS = tuple("seq at actor role purpose act object outcome of request permit run round detail hash".split())
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet may take for a formula when a cell begins with it

Form = Literal["csv", "jsonl", "cef", "ocsf"]
MARK = '{"export":"fedrec",'  # a line of an export is none of a log: names stand in it that the hash is not of
_LINES = {"jsonl": lambda event: MARK + canonical(event).decode()[1:], "cef": siem.cef, "ocsf": siem.ocsf}


def write(events: Iterable[Event], form: Form, file: TextIO) -> int:
    """Write the events and return their number.

    A CSV cell that a spreadsheet would compute gets a quote in front; JSON lines are the log's own with their texts
    and with `export` as their first key.
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


def not_a_log(place: Path) -> str:
    """What a file is that `verify` cannot judge: an export, or a later segment of a log; empty for anything else."""
    if not place.is_file():
        return ""
    first = next(lines(place), b"")
    if first.startswith(MARK.encode()):
        return "an export, not a log: it has no proof; take the site's folder or a pack"
    try:
        event = json.loads(first)
        segment = event["act"] == "checkpoint" and event["seq"] > 0 and "peaks" in event["detail"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return "a segment: a log that goes on from another file; give the folder with all of them" if segment else ""


def cell(value: Any) -> str:
    """A value as a CSV cell that no spreadsheet computes."""
    text = "" if value is None else json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text
