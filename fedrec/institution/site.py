"""One institution's folder, opened: its settings, keys, store, ledger and log, as the running site uses them."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nacl.signing import SigningKey

from fedrec.config import ConsortiumConfig, SiteConfig
from fedrec.errors import WrongInput
from fedrec.institution.audit import AuditLog, Signer
from fedrec.institution.blobs import Blobs
from fedrec.institution.ledger import Ledger
from fedrec.institution.permit import Here, stamp
from fedrec.institution.store import Store


@dataclass(frozen=True, slots=True)
class Keys:
    """The site's secrets, each in a 0600 file: its own key, PySyft's server key, and the server's UID."""

    site: SigningKey
    syft: SigningKey
    uid: str

    @classmethod
    def load_or_make(cls, state: Path) -> Keys:
        """The keys below `state`/keys; made at the first call."""
        state.mkdir(mode=0o700, exist_ok=True)
        folder = state / "keys"
        folder.mkdir(mode=0o700, exist_ok=True)
        return cls(
            SigningKey(bytes.fromhex(_secret(folder / "site.key", 32))),
            SigningKey(bytes.fromhex(_secret(folder / "syft.key", 32))),
            _secret(folder / "uid", 16),
        )

    @property
    def public(self) -> str:
        """The public half of the site's own key, as consortium.toml pins it; 64 hex digits."""
        return str(self.site.verify_key.encode().hex())

    def signer(self, name: str) -> Signer:
        """Who signs the audit log of the site with this name."""
        return Signer(name, self.uid, self.site)

    @property
    def cookie_secret(self) -> bytes:
        """32 bytes for login cookies, the same after a restart."""
        return hashlib.sha256(b"fedrec cookie" + self.site.encode()).digest()


def _secret(path: Path, length: int) -> str:
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(length))
    text = path.read_text().strip()
    if len(text) != 2 * length or path.stat().st_mode & 0o077:
        raise WrongInput(f"{path.name}: not a key of {length} bytes in a file that only its owner can read")
    return text


@dataclass(frozen=True, slots=True)
class Site:
    """Everything that the parts of a running site share."""

    folder: Path
    config: SiteConfig
    consortium: ConsortiumConfig
    keys: Keys
    store: Store
    ledger: Ledger
    audit: AuditLog
    blobs: Blobs
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    @property
    def state(self) -> Path:
        """The folder of everything that the site writes."""
        return self.folder / "state"

    @property
    def here(self) -> Here:
        """What a permit must be of."""
        return Here(self.config.name, self.keys.public, self.consortium.hash, self.config.limits)

    @classmethod
    def open(cls, folder: Path, log: AuditLog | None = None) -> Site:
        """Open an institution's folder; the store must have been taken in.

        Args:
            log: its log, when that is open already.

        Raises:
            WrongInput: a file is missing or wrong, or the consortium pins another key for this site.
        """
        config = SiteConfig.load(folder / "site.toml")
        consortium = ConsortiumConfig.load(config.consortium_path)
        consortium.hash  # noqa: B018 (read once, and now: permits are compared with it at every call)
        state = folder / "state"
        keys = Keys.load_or_make(state)
        pinned = {member.name: member.key for member in consortium.member}
        if config.name not in pinned:
            raise WrongInput(f"{config.consortium_path.name}: has no member called {config.name}")
        if pinned[config.name] not in ("", keys.public):
            raise WrongInput(f"{config.consortium_path.name}: pins another key for {config.name}; see fedrec site keys")
        return cls(
            folder, config, consortium, keys, Store.open(state), Ledger(state / "ledger.sqlite"),
            log or AuditLog(state / "audit", keys.signer(config.name)), Blobs(state / "blobs"),
        )  # fmt: skip

    def now(self) -> str:
        """The site's clock; RFC 3339 with Z, whole seconds."""
        return stamp(self.clock())

    def close(self) -> None:
        """Close the files."""
        self.ledger.close()
        self.audit.close()
