"""The site's own log: state/log/site.jsonl, one JSON object a line; short warnings on stderr, otherwise silence.

It holds what went wrong inside, real exceptions included, for the data owner. Who did what stands in the audit log.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
FILE = "log/site.jsonl"
MAX_BYTES, KEPT = 2_000_000, 5  # bytes of one file, and how many older ones are kept
LONGEST = 500  # characters of one message
_NAMES = ("fedrec", "uvicorn", "asyncio")
_MASKS = (
    (re.compile(r"://[^/\s@]*@"), "://***@"),  # a URL's user and password
    (re.compile(r"(?i)\b(password|passwd|pwd|secret|token)(\s*[=:]\s*)[^\s,;&]+"), r"\1\2***"),
    (re.compile(r"[^\s@<>\"'(]+@[^\s@<>\"'),]+\.[^\s@<>\"'),]+"), "<e-mail>"),
)


def start(state: Path, level: str = "info") -> None:
    """Write this process's log below `state`; calling it again changes the place and the level."""
    (state / "log").mkdir(mode=0o700, parents=True, exist_ok=True)
    file = RotatingFileHandler(state / FILE, maxBytes=MAX_BYTES, backupCount=KEPT, encoding="utf-8", delay=True)
    file.setFormatter(JsonLines())
    screen = logging.StreamHandler()
    screen.setLevel(logging.WARNING)
    screen.setFormatter(_Short())
    for name in _NAMES:
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [file, screen], False
        own = name == "fedrec"
        logger.setLevel(level.upper() if own else max(logging.WARNING, logging.getLevelName(level.upper())))


def take_over() -> None:
    """Let PySyft and everything else write here too, errors only; after PySyft has set up its own."""
    root = logging.getLogger()
    root.handlers[:] = logging.getLogger("fedrec").handlers
    root.setLevel(logging.ERROR)


def masked(text: str) -> str:
    """The first line of a text, without e-mail addresses and without what looks like a password."""
    text = text.strip().partition("\n")[0]
    for pattern, instead in _MASKS:
        text = pattern.sub(instead, text)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


class JsonLines(logging.Formatter):
    """A record as one line of JSON: at, level, logger, event, facts if given, exceptions innermost first."""

    def format(self, record: logging.LogRecord) -> str:
        row: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": masked(record.getMessage()),
        }
        if facts := getattr(record, "facts", None):
            row["facts"] = {key: masked(value) if isinstance(value, str) else value for key, value in facts.items()}
        if record.exc_info and record.exc_info[1] is not None:
            row["exceptions"] = _chain(record.exc_info[1])
        return json.dumps(row, ensure_ascii=True, default=str)


class _Short(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        kind = f" ({type(record.exc_info[1]).__name__})" if record.exc_info and record.exc_info[1] else ""
        return f"{record.levelname.lower()}: {masked(record.getMessage())}{kind}; see state/{FILE}"


def _chain(error: BaseException | None) -> list[dict[str, Any]]:
    """An exception and what it came from: class, message, and the lines of code; never a local variable."""
    found: list[dict[str, Any]] = []
    while error is not None and len(found) < 5:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-20:]]
        found.append({"class": type(error).__name__, "message": masked(str(error)), "lines": lines})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found[::-1]
