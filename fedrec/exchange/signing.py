"""Signatures of calls to the site's own routes; both halves. contracts.md, Routes and signatures."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from fedrec.errors import Refused

WINDOW_S = 600  # how far a call's clock may be off, and how long its nonce is remembered; seconds
EMPTY = hashlib.sha256(b"").hexdigest()


def message(method: str, target: str, uid: str, body: str, when: str, nonce: str, permit: str) -> bytes:
    """The bytes that are signed; `target` is PATH or PATH?QUERY, `body` the body's SHA-256."""
    return "\n".join(["fedrec-v1", method, target, uid, body, when, nonce, permit]).encode()


def headers(
    key: SigningKey, method: str, target: str, uid: str, *, body: str = EMPTY, permit: str = ""
) -> dict[str, str]:
    """The five headers of one call, signed with the caller's PySyft key."""
    when, nonce = str(int(time.time())), secrets.token_hex(16)
    signature = key.sign(message(method, target, uid, body, when, nonce, permit)).signature.hex()
    return {
        "X-Fedrec-Key": key.verify_key.encode().hex(),
        "X-Fedrec-Time": when,
        "X-Fedrec-Nonce": nonce,
        "X-Fedrec-Permit": permit,
        "X-Fedrec-Signature": signature,
    }


def check(
    given: Mapping[str, str], method: str, target: str, uid: str, body: str, fresh: Callable[[str, str], bool]
) -> tuple[str, str]:
    """The caller's key and the permit of a call that is signed, timely and new.

    Args:
        given: the call's headers, looked up without regard to case by the caller's mapping.
        body: SHA-256 of the body as it will be read; hex.
        fresh: remembers (key, nonce) and says whether it was new.

    Raises:
        Refused: `gate.signature`, `gate.time` or `gate.replay`.
    """
    key, when = given.get("x-fedrec-key", ""), given.get("x-fedrec-time", "")
    nonce, permit = given.get("x-fedrec-nonce", ""), given.get("x-fedrec-permit", "")
    try:
        signature = bytes.fromhex(given.get("x-fedrec-signature", ""))
        VerifyKey(bytes.fromhex(key)).verify(message(method, target, uid, body, when, nonce, permit), signature)
        seconds = int(when)
    except (BadSignatureError, ValueError, TypeError):
        raise Refused(
            "gate.signature", "the call is not signed by its key", "Sign it with the key of your login"
        ) from None
    if abs(time.time() - seconds) > WINDOW_S:
        raise Refused("gate.time", "the call's clock is more than ten minutes off", "Set the clock and send it again")
    if len(nonce) != 32 or not fresh(key, nonce):
        raise Refused("gate.replay", "this call was made before", "Make a new call; a resent one is never executed")
    return key, permit
