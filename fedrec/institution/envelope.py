"""Reads the outer layers of a signed PySyft call without deserialising what it carries.

PySyft would build every object of a call before it looks at the signature (syft-0.9.5.md, M). Here only
byte fields of two Cap'n Proto records are read: the envelope (key, signature, signed bytes) and, once the
signature is good, the call's path, site and blocking flag. PySyft is not imported.
"""

from __future__ import annotations

from dataclasses import dataclass

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from fedrec.errors import Refused
from fedrec.institution.records import BadRecord, Record, read


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed call, still closed: who signed which bytes."""

    key: str
    signature: bytes
    message: bytes

    def check_signature(self) -> None:
        """Raises: Refused `gate.signature`."""
        try:
            VerifyKey(bytes.fromhex(self.key)).verify(self.message, self.signature)
        except (BadSignatureError, ValueError, TypeError):
            raise Refused("gate.signature", "the call is not signed by its key", "Log in and send it again") from None


@dataclass(frozen=True, slots=True)
class Call:
    """What the gate may know of a call before PySyft opens it."""

    path: str
    site: str
    blocking: bool


def open_envelope(body: bytes) -> Envelope:
    """The envelope of a body; nothing inside is interpreted.

    Raises:
        Refused: `gate.signature` when the body is not a signed PySyft call.
    """
    fields = _record(body, "SignedSyftAPICall")
    credentials = _record(_field(fields, "credentials"), "SyftVerifyKey")
    key = _blob(_field(credentials, "verify_key"), "nacl_verify_key")
    signature = _blob(_field(fields, "signature"), "bytes")
    message = _blob(_field(fields, "serialized_message"), "bytes")
    return Envelope(key.hex(), signature, message)


def read_call(message: bytes) -> Call:
    """Path, site and blocking flag of a call whose signature is good.

    Raises:
        Refused: `gate.signature` when the signed bytes are not a PySyft call.
    """
    fields = _record(message, "SyftAPICall")
    path = _blob(_field(fields, "path"), "str").decode("utf-8", "replace")  # no path of the table has the replacement
    uid = _blob(_field(_record(_field(fields, "server_uid"), "UID"), "value"), "bytes")
    blocking = _blob(_field(fields, "blocking"), "bool") == b"1"
    return Call(path, uid.hex(), blocking)


def _not_a_call() -> Refused:
    return Refused("gate.signature", "this is not a signed PySyft call", "Use PySyft 0.9.5 or fedrec")


def _open(data: bytes, name: str) -> Record:
    try:
        record = read(data)
    except BadRecord:
        raise _not_a_call() from None
    if record.name != name:
        raise _not_a_call()
    return record


def _record(data: bytes, name: str) -> dict[str, bytes]:
    return _open(data, name).fields


def _blob(data: bytes, name: str) -> bytes:
    return _open(data, name).blob


def _field(fields: dict[str, bytes], name: str) -> bytes:
    if name not in fields:
        raise _not_a_call()
    return fields[name]
