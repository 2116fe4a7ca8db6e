"""The site's own key, made anew: the key until now signs that it ends and which comes next.

The log goes on: what was signed before stays verifiable with the old key, what comes after with the new one, and the
event between them is signed by the old. The old secret is then gone from the site. consortium.toml pins the keys, so
every member gets the new file from whom it got the first, never from the site's log alone; all permits end with it.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from fedrec.config import ConsortiumConfig, SiteConfig
from fedrec.errors import WrongInput
from fedrec.institution.audit import AuditLog
from fedrec.institution.local import alone
from fedrec.institution.site import Keys

NEXT = "put both into consortium.toml of every member (key, former); owners approve again what is to go on"


def renew(folder: Path) -> dict[str, Any]:
    """Change the key of the site in `folder`, which must not run; returns {key, former: all before, newest first}.

    Raises:
        WrongInput: the site runs, or the folder has no state.
        Refused: `audit.` tampered or write; then the key is as it was.
    """
    config = SiteConfig.load(folder / "site.toml")
    member = next((m for m in ConsortiumConfig.load(config.consortium_path).member if m.name == config.name), None)
    state, audit = folder / "state", folder / "state" / "audit"
    with alone(state) as free:
        if not free:
            raise WrongInput("the site runs with its key; stop it first: fedrec site stop")
        old, new = Keys.load_or_make(state), SigningKey.generate()
        path = state / "keys" / "site.key"
        _write(path.with_suffix(".new"), new.encode().hex())  # before the log names it: else the site would have none
        with closing(AuditLog(audit, old.signer(config.name))) as log:
            log.renew(public := str(new.verify_key.encode().hex()))
        path.with_suffix(".new").replace(path)
        _sync(path.parent)
        with closing(AuditLog(audit, Keys.load_or_make(state).signer(config.name))) as log:
            log.checkpoint()
    before = [old.public, *(member.former if member else ())]
    return {"key": public, "former": before}


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
