"""Events of a log that a person asks for, read one after the other in bounded memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedrec.errors import WrongInput
from fedrec.institution.texts import Told
from fedrec.institution.verify import lines

Event = dict[str, Any]
_TEXTS = tuple("at actor role purpose act object outcome request permit run hash".split())
LOOK_S = 0.3  # how often `follow` looks for new events


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events; an empty field wants any.

    Args:
        who: an actor's e-mail, or a role.
        act: such as train; users.* is every act that begins with users.
        request: PySyft's id, or its first digits.
        outcome: such as done or gate.role; "refused" is every refusal and error.
        since, until: as `moment` makes them; since <= at < until.
    """

    who: str = ""
    act: str = ""
    request: str = ""
    run: str = ""
    outcome: str = ""
    since: str = ""
    until: str = ""

    def __contains__(self, event: Any) -> bool:
        return (
            (not self.who or self.who in (event["actor"], event["role"]))
            and (not self.act or _named(event["act"], self.act))
            and (not self.request or self.request_of(event).startswith(self.request) or self._seen(event))
            and (not self.run or event["run"] == self.run)
            and (not self.outcome or _came_out(event["outcome"], self.outcome))
            and (not self.since or event["at"] >= self.since)
            and (not self.until or event["at"] < self.until)
        )

    @staticmethod
    def request_of(event: Mapping[str, Any]) -> str:
        """The request that an event is about; a submission names it once PySyft has taken it."""
        return str(event["request"] or event["detail"].get("request", ""))

    def _seen(self, event: Mapping[str, Any]) -> bool:
        """Whether a look at many requests (`acts.seen`) showed this one."""
        ids = str(event["detail"].get("ids", "")).split()
        return any(one.startswith(self.request[: len(one)]) for one in ids)

    @property
    def everything(self) -> bool:
        """Whether no field is set."""
        return self == Wanted()


def _named(act: str, wanted: str) -> bool:
    return act.startswith(wanted[:-1]) if wanted.endswith("*") else act == wanted


def _came_out(outcome: str, wanted: str) -> bool:
    return outcome == wanted or (wanted == "refused" and ("." in outcome or outcome.startswith("error ")))


def moment(text: str, *, end: bool = False) -> str:
    """A time as events carry it. Raises: WrongInput.

    Args:
        text: ISO time, in UTC when it names no zone; or a date.
        end: a date alone means the end of that day, not its beginning.
    """
    try:
        when = datetime.fromisoformat(text)
        when = when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
        when += timedelta(days=1 if end and len(text) == 10 else 0)
    except (ValueError, OverflowError):
        raise WrongInput(f"{text}: not an ISO time such as 2027-01-31T18:00:00Z or 2027-01-31") from None
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def files_of(place: Path) -> list[Path]:
    """The files of a log, oldest first: of a site's folder, of a folder of segments, or the one file.

    Raises:
        WrongInput: there is none.
    """
    if place.is_file():
        return [place]
    found = sorted((place / "state" / "audit").glob("*.jsonl")) or sorted(place.glob("*.jsonl"))
    if not found:
        raise WrongInput(f"{place}: holds no audit log")
    return found


def events_of(place: Path, wanted: Wanted | None = None) -> Iterator[Event]:
    """The wanted events, oldest first.

    Raises:
        WrongInput: a line is no event; `fedrec audit verify` says more.
    """
    told = Told(place)
    for path in files_of(place):
        with readable(path):
            for line in lines(path):
                event = event_of(told.line(line)) if line.endswith(b"\n") else None  # None: on its way to the disk
                if event is not None and (wanted is None or event in wanted):
                    yield event


def event_of(line: bytes) -> Event:
    """A line as an event that can be shown. Raises: what `readable` is for."""
    event: Event = json.loads(line)
    texts = all(isinstance(event[name], str) for name in _TEXTS)
    if not (texts and isinstance(event["seq"], int) and isinstance(event["detail"], dict)):
        raise ValueError("a value of the event is of another type")
    return event


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Reads of events below: what they raise on a line that is no event becomes WrongInput."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise WrongInput(f"{path}: holds a line that is no event; see fedrec audit verify") from None


def follow(
    place: Path, wanted: Wanted, more: Callable[[], bool] = lambda: True, look: float = LOOK_S
) -> Iterator[Event]:
    """The wanted events so far, and then each new one as it is written, over all rotations, until `more` says no.

    Raises:
        WrongInput: as `events_of`.
    """
    number, offset, told = 0, 0, Told(place)
    while True:
        files = files_of(place)
        with readable(path := files[min(number, len(files) - 1)]), path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # on its way to the disk
                offset += len(line)
                if (event := event_of(told.line(line))) in wanted:
                    yield event
        if number + 1 < len(files):  # a segment that has a follower is complete
            number, offset = number + 1, 0
        elif not more():
            return
        else:
            time.sleep(look)


def line_of(event: Event) -> str:
    """One event as a line of the table."""
    what = event["run"] or Wanted.request_of(event)[:8]
    what += "" if event["round"] is None else f" round {event['round']}"
    return (
        f"{event['seq']:6d}  {event['at'][:23]}Z  {event['actor']:24} {event['role']:9} {event['act']:14} "
        f"{event['object'][:20]:20}  {event['outcome']:18} {what}"
    ).rstrip()


HEAD = (
    f"{'number':>6}  {'when (UTC)':24}  {'who':24} {'role':9} {'act':14} {'on what':20}  {'outcome':18} run or request"
)
