"""The users whom an institution has forgotten: DIR/state/forgotten, a salt and then an HMAC-SHA-256 of each id.

Who holds that file and guesses an id can check the guess: it keeps the institution's own promise that no later intake
takes the user in, and hides nothing from the institution.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path


class Forgotten:
    """The users whom an institution has forgotten, as salted hashes."""

    def __init__(self, state: Path) -> None:
        self._file = state / "forgotten"
        lines = self._file.read_text(encoding="ascii").split() if self._file.exists() else []
        self._salt, self._known = (lines or [secrets.token_hex(32)])[0], set(lines[1:])

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, user: object) -> bool:
        return bool(self._known) and self._hash(str(user)) in self._known

    def add(self, user: str) -> None:
        """Remember a cleaned id; on the disk when this returns."""
        self._known.add(self._hash(user))
        replaced(self._file, "\n".join([self._salt, *sorted(self._known), ""]).encode())

    def _hash(self, user: str) -> str:
        return hmac.digest(bytes.fromhex(self._salt), user.encode(), "sha256").hex()


def replaced(path: Path, data: bytes) -> None:
    """The file, 0600, with these bytes or those of before; on the disk when this returns."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
