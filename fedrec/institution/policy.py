"""What a site allowed at a moment: site.toml without where the data lies, kept by its SHA-256, which `start` logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedrec.config import Limits, SiteConfig
from fedrec.errors import Refused
from fedrec.exchange.wire import sha256

_NO_POLICY = {"source", "data", "user_data", "item_data", "consortium", "host", "port", "tls"}


def text_of(config: SiteConfig) -> str:
    """The policy as JSON with sorted keys. It never holds a password, a database's address or a path."""
    return json.dumps(config.model_dump(mode="json", exclude=_NO_POLICY), indent=1, sort_keys=True) + "\n"


def keep(state: Path, config: SiteConfig) -> str:
    """Keep the policy of now and return its SHA-256."""
    text = text_of(config)
    name = sha256(text.encode())
    path = state / "policies" / f"{name}.json"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        path.write_text(text, encoding="utf-8")
    return name


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
