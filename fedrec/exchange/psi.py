"""Which keys two institutions have in common, without showing each other the others.

ECDH on P-256: each side raises hashed keys to a secret of its own, and both orders give the same point. The one who
asks learns the common keys and the other's number of keys; the one who answers learns the asker's number. The answer
holds the points themselves (RAW), not a Bloom filter, so that nothing is found by chance. Both sides are taken to
follow the protocol: who puts guessed keys into its own list learns whether the other has them.

Source: Meadows 1986, IEEE S&P; De Cristofaro and Tsudik 2010, FC, section 3; openmined-psi 2.0.4.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Sequence
from typing import Any

from fedrec.core.ids import clean_id
from fedrec.errors import Refused


def clean_key(value: object) -> str | None:
    """A natural key, written one way: as an id (NFC, no outer blanks), inner blanks single, without case; or None."""
    text = clean_id(value)
    return None if text is None else unicodedata.normalize("NFC", " ".join(text.split()).casefold())


def shared_id(secret: bytes, key: str) -> str:
    """What a common item is called: 96 bits that tell nothing of the key to who has not `secret`."""
    return "s" + hmac.new(secret, key.encode(), hashlib.sha256).hexdigest()[:24]


def ask(keys: Sequence[str]) -> tuple[bytes, bytes]:
    """(own secret, the request)."""
    client = _psi().client.CreateWithNewKey(True)
    return client.GetPrivateKeyBytes(), client.CreateRequest(list(keys)).SerializeToString()


def asked(request: bytes) -> int:
    """How many keys a request asks for.

    Raises:
        Refused: `align.form`.
    """
    return len(_read("Request", request).encrypted_elements)


def answer(keys: Sequence[str], request: bytes) -> tuple[bytes, bytes]:
    """(own points, the asked ones raised to the same secret), under a secret that is used once and forgotten.

    Raises:
        Refused: `align.form`.
    """
    psi, said = _psi(), _read("Request", request)
    server = psi.server.CreateWithNewKey(True)
    if not said.reveal_intersection:
        raise _form()
    setup = server.CreateSetupMessage(1e-9, len(said.encrypted_elements), list(keys), psi.DataStructure.RAW)
    try:
        return setup.SerializeToString(), server.ProcessRequest(said).SerializeToString()
    except (RuntimeError, ValueError):  # no point of the curve
        raise _form() from None


def common(secret: bytes, keys: Sequence[str], setup: bytes, response: bytes) -> tuple[list[str], int]:
    """(the keys that both have, how many the other has).

    Args:
        secret, keys: as `ask` had and gave them, in its order.

    Raises:
        Refused: `align.form`; another data structure than the exact one is refused too.
    """
    theirs, said = _read("ServerSetup", setup), _read("Response", response)
    if theirs.WhichOneof("data_structure") != "raw" or len(said.encrypted_elements) != len(keys):
        raise _form()
    try:
        found = _psi().client.CreateFromKey(secret, True).GetIntersection(theirs, said)
    except (RuntimeError, ValueError):
        raise _form() from None
    return [keys[place] for place in sorted(set(found))], len(theirs.raw.encrypted_elements)


def _psi() -> Any:
    import private_set_intersection.python as psi

    return psi


def _read(kind: str, data: bytes) -> Any:
    from google.protobuf.message import DecodeError

    message = getattr(_psi(), kind)()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise _form() from None
    return message


def _form() -> Refused:
    return Refused("align.form", "this is no file of fedrec catalogue align", "Ask the other institution for another")
