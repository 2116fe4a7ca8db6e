"""The passport of an update: what it is, signed by the site that made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from fedrec.errors import Refused
from fedrec.exchange.wire import canonical

FIELDS = frozenset(
    [
        "site",
        "run",
        "round",
        "kind",
        "protocol",
        "base",
        "nonce",
        "request",
        "permit",
        "plan",
        "data_version",
        "sha256",
        "bytes",
        "rows",
        "users",
        "measures",
        "members",
        "shared_key",
        "cost",
        "fedrec",
        "rehearsal",
    ]
)


def sign(facts: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """`facts` with the site's signature over their canonical JSON; hex, key `signature`."""
    return {**facts, "signature": key.sign(canonical(facts)).signature.hex()}


def signed_by(signed: Mapping[str, Any], key: str) -> bool:
    """Whether `signed` carries a good signature of the Ed25519 public key `key` (hex)."""
    facts = {name: value for name, value in signed.items() if name != "signature"}
    try:
        VerifyKey(bytes.fromhex(key)).verify(canonical(facts), bytes.fromhex(str(signed["signature"])))
    except (BadSignatureError, ValueError, KeyError, TypeError):
        return False
    return True


def check(passport: Mapping[str, Any], *, key: str, **expected: Any) -> None:
    """Accept a passport that is whole, signed by `key` and says what is expected.

    Args:
        key: the site's public key as pinned in the consortium's file; hex.
        expected: fields with the only value each may have, such as run="…", round=3.

    Raises:
        Refused: `update.unsigned`, `update.passport`, or `update.<field>` for the first field that differs.
    """
    if set(passport) != FIELDS | {"signature"}:
        raise Refused("update.passport", "the passport lacks fields or has others", "Check the site's fedrec version")
    if not signed_by(passport, key):
        raise Refused("update.unsigned", "the update is not signed with the site's pinned key", "Check consortium.toml")
    for name, value in expected.items():
        if passport[name] != value:
            code = "update.stale" if name in ("round", "base", "run") else f"update.{name}"
            raise Refused(code, f"the update's {name} is not the one asked for", "The update is left out")
