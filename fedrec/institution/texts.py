"""The personal texts of an audit log, kept beside it so that they can be erased: `audit/texts/SHA-256`, one a file.

An event holds `~` and the file's name instead of an e-mail address, a purpose or a reason. The file is 32 random hex
digits, a newline and the text: its name commits the log to the text and, once the file is gone, tells nobody what it
was. The same text has one file, so a person stays one person in the log after the name is erased.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrec.errors import Refused
from fedrec.institution import verify as verifier

if TYPE_CHECKING:
    from fedrec.institution.audit import AuditLog

FREE = ("purpose", "reason")  # whatever stands there is kept beside the log; elsewhere what holds an @


class Texts:
    """The texts beside the log in a folder, for the one process that writes them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._turn = folder, threading.Lock()
        self._names: dict[str, str] = {}
        for path in sorted((folder / "texts").glob("*")):
            if (text := text_of(path)) is not None:
                self._names[text] = path.name

    def apart(self, body: dict[str, Any]) -> dict[str, Any]:
        """An event with its personal texts on disk beside the log, and their names in their places.

        Raises:
            Refused: `audit.write`.
        """
        try:
            for key in ("actor", "object", "purpose"):
                body[key] = self._named(key, body[key].encode("utf-8", "replace").decode())  # no lone surrogates
            body["detail"] = {key: self._named(key, value) for key, value in body["detail"].items()}
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # nothing is wrong with the log; what is, the site says
            raise Refused(
                "audit.write", f"a text of the audit log cannot be written ({error.strerror})", "Tell the data owner"
            ) from None
        return body

    def _named(self, key: str, value: Any) -> Any:
        personal = isinstance(value, str) and ((value and key in FREE) or "@" in value or value.startswith("~"))
        if not personal:
            return value
        with self._turn:
            if value not in self._names:
                self._names[value] = self._keep(f"{secrets.token_hex(16)}\n{value}".encode())
            return f"~{self._names[value]}"

    def _keep(self, data: bytes) -> str:
        if len(data) >= verifier.MAX_LINE:
            raise ValueError("the text is too long")
        name, folder = hashlib.sha256(data).hexdigest(), self._folder / "texts"
        folder.mkdir(mode=0o700, exist_ok=True)
        with (folder / name).open("xb") as file:
            try:
                os.fchmod(file.fileno(), 0o600)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                for place in (folder, self._folder):
                    _sync(place)
            except OSError:
                (folder / name).unlink()
                raise
        return name

    def named(self, text: str) -> str:
        """What stands in the log for a text that is kept; else the text."""
        return f"~{self._names[text]}" if text in self._names else text

    def holding(self, part: str) -> list[str]:
        """Names of the texts that hold a word, in whatever case."""
        with self._turn:
            return sorted(name for text, name in self._names.items() if part.casefold() in text.casefold())

    def has(self, name: str) -> bool:
        """Whether a text of this name is kept."""
        with self._turn:
            return name in self._names.values()

    def erase(self, name: str) -> None:
        """Take a text off the disk; a later one of the same words gets another name."""
        with self._turn:
            self._names = {text: other for text, other in self._names.items() if other != name}
            (self._folder / "texts" / name).unlink(missing_ok=True)
            _sync(self._folder / "texts")


class Told:
    """Lines of a log with the texts that are still beside it; a name whose text is gone or another stays."""

    def __init__(self, place: Path) -> None:
        self._folder = verifier.files(place)[0].parent
        self._known: dict[bytes, bytes] = {}

    def line(self, line: bytes) -> bytes:
        return verifier.NAMED.sub(self._text, line) if b'"~' in line else line

    def _text(self, match: re.Match[bytes]) -> bytes:
        if match[1] not in self._known:
            text = text_of(self._folder / "texts" / match[1].decode())
            self._known[match[1]] = match[0] if text is None else json.dumps(text).encode()
        return self._known[match[1]]


def redact(log: AuditLog, names: Iterable[str]) -> list[str]:
    """Erase texts, each an act of the log; returns the names that were there.

    Raises:
        Refused: `audit.write`; the text stays then.
    """
    found = [name for name in names if log.texts.has(name)]
    for name in found:
        with log.act("site", "operator", "redact", name):
            log.texts.erase(name)
    return found


def text_of(path: Path) -> str | None:
    """The text in a file; None when it is gone, or another one than the name stands for."""
    data = path.read_bytes() if path.is_file() and path.stat().st_size < verifier.MAX_LINE else b""
    return data.decode().partition("\n")[2] if hashlib.sha256(data).hexdigest() == path.name else None


def erased(name: str) -> bool:
    """Whether a text that was read is only the name of one that is gone."""
    return verifier.NAMED.fullmatch(f'"{name}"'.encode()) is not None


def free_texts(event: Mapping[str, Any]) -> list[str]:
    """Names of the free texts of an event as it stands in the log: its purpose and its detail's, no one's address."""
    values = [event["purpose"], *(value for key, value in event["detail"].items() if key in FREE)]
    return [str(value)[1:] for value in values if str(value).startswith("~")]


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def by_name(names: Iterable[str], folder: Path) -> dict[str, bytes]:
    """The files of those texts that are there."""
    places = {name: folder / "texts" / name for name in names}
    return {name: place.read_bytes() for name, place in places.items() if place.exists()}


def beside(folder: Path, texts: Mapping[str, str]) -> None:
    """Put texts that came over the network beside a copy of a log; one that is not what its name says is left out."""
    for name, text in texts.items():
        if hashlib.sha256(text.encode()).hexdigest() == name:
            (folder / "texts").mkdir(mode=0o700, exist_ok=True)
            (folder / "texts" / name).write_text(text, encoding="utf-8", newline="")
