"""What a site allowed at a moment: site.toml without where the data lies, kept by its SHA-256, which `start` logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedrec.config import Limits, SiteConfig
from fedrec.errors import Refused
from fedrec.exchange.wire import sha256
from fedrec.institution.site import Site

_FILES = {"settings": "site.toml", "schema": "schema.toml", "card": "DATASHEET.md"}
_NO_POLICY = {"source", "data", "user_data", "item_data", "consortium", "host", "port", "tls"}


def text_of(config: SiteConfig) -> str:
    """The policy as JSON with sorted keys. It never holds a password, a database's address or a path."""
    return json.dumps(config.model_dump(mode="json", exclude=_NO_POLICY), indent=1, sort_keys=True) + "\n"


def keep(site: Site) -> dict[str, str]:
    """Keep the policy of now; when a setting has changed since the last start, that is an act `config` in the log.

    Returns:
        SHA-256 of the policy, of site.toml, schema.toml and the data card, and of the consortium's members.
    """
    text = text_of(site.config)
    folder = site.state / "policies"
    folder.mkdir(mode=0o700, exist_ok=True)
    now = {"policy": sha256(text.encode()), "consortium": site.consortium.hash}
    now |= {name: sha256((site.folder / file).read_bytes()) for name, file in _FILES.items()}
    path, last = folder / f"{now['policy']}.json", site.state / "settings.json"
    known: dict[str, str] = json.loads(last.read_text()) if last.exists() else {}
    if known != now or not path.exists():
        changed = {f"before_{name}": known.get(name, "") for name in now if known.get(name) != now[name]}
        with site.audit.act("site", "site", "config", "site.toml", detail=now | changed):
            path.write_text(text, encoding="utf-8")
            last.write_text(json.dumps(now))
    return now


def kept(state: Path, name: str) -> str:
    """The policy with this SHA-256. Raises: Refused `replay.policy` when it is gone or was changed."""
    try:
        text = (state / "policies" / f"{name}.json").read_text(encoding="utf-8")
    except OSError:
        text = ""
    if sha256(text.encode()) != name:
        raise Refused("replay.policy", "the policy of that time is not kept", "Look for it in a backup of the site")
    return text


def limits_of(text: str) -> Limits:
    """The limits that a policy states."""
    given: dict[str, Any] = json.loads(text)["limits"]
    return Limits.model_validate(given)
