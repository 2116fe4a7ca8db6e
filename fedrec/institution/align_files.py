"""The files of an alignment that anybody may carry: sealed to the receiver's pinned key, signed by the maker.

Sealed, so that the carrier learns no more than their length; signed, so that he can swap nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import VerifyKey

from fedrec.config import ConsortiumConfig, SiteConfig
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.passport import sign, signed_by
from fedrec.exchange.wire import canonical
from fedrec.institution.site import Keys

KIND = "fedrec-align-v1"
STEPS = ("request", "response", "result")
FIELDS = frozenset(["kind", "step", "consortium", "maker", "to", "session", "before", "sealed", "signature"])


@dataclass(frozen=True, slots=True)
class Party:
    """One institution, and the others as it pins them; the first member comes first."""

    name: str
    members: Mapping[str, str]
    keys: Keys

    @classmethod
    def of(cls, folder: Path) -> Party:
        """The institution in `folder`.

        Raises:
            WrongInput: a member's key is not pinned, or this site's is another.
        """
        config = SiteConfig.load(folder / "site.toml")
        consortium = ConsortiumConfig.load(config.consortium_path)
        members, keys = {one.name: one.key for one in consortium.member}, Keys.load_or_make(folder / "state")
        if bare := [name for name, key in members.items() if not key]:
            raise WrongInput(f"{config.consortium_path.name}: pins no key for {', '.join(bare)}; see fedrec site keys")
        if members.get(config.name) != keys.public:
            raise WrongInput(f"{config.consortium_path.name}: pins another key for {config.name}; see fedrec site keys")
        return cls(config.name, members, keys)

    @property
    def first(self) -> str:
        return next(iter(self.members))

    @property
    def consortium(self) -> str:
        """SHA-256 of the members and keys in order; without the catalogue, which is made only now."""
        return hashlib.sha256(canonical({"members": [list(one) for one in self.members.items()]})).hexdigest()


@dataclass(frozen=True, slots=True)
class Opened:
    """A file whose maker, receiver and consortium are right."""

    step: str
    maker: str
    session: str
    before: str  # SHA-256 of the file that this one answers; empty for a request
    sha256: str
    body: dict[str, Any]


def seal(party: Party, step: str, to: str, session: str, before: str, body: Mapping[str, Any]) -> bytes:
    """A file for member `to`."""
    box = SealedBox(VerifyKey(bytes.fromhex(party.members[to])).to_curve25519_public_key())
    sealed = base64.b64encode(box.encrypt(canonical(body))).decode()
    facts = {"kind": KIND, "step": step, "consortium": party.consortium, "maker": party.name, "to": to}
    return canonical(sign({**facts, "session": session, "before": before, "sealed": sealed}, party.keys.site))


def unseal(party: Party, data: bytes) -> Opened:
    """What is in a file that was carried here.

    Raises:
        Refused: `align.form`, `align.maker` when the member that it names did not sign it, `align.other` when it is
            for another member or consortium.
    """
    try:
        said = json.loads(data)
        if type(said) is not dict or said.keys() != FIELDS or any(type(value) is not str for value in said.values()):
            raise ValueError
        if said["kind"] != KIND or said["step"] not in STEPS:
            raise ValueError
    except (ValueError, RecursionError):
        raise form() from None
    maker = said["maker"]
    if maker == party.name or not signed_by(said, party.members.get(maker, "")):
        reason = "the file is not signed by the member that it names"
        raise Refused("align.maker", reason, "Ask that institution for another, and say who brought this one")
    if said["to"] != party.name or said["consortium"] != party.consortium:
        raise Refused("align.other", "the file is for another member or consortium", "Take the one made for you")
    try:
        box = SealedBox(party.keys.site.to_curve25519_private_key())
        body = json.loads(box.decrypt(base64.b64decode(said["sealed"], validate=True)))
        if type(body) is not dict:
            raise ValueError
    except (CryptoError, ValueError, RecursionError):
        raise form() from None
    return Opened(said["step"], maker, said["session"], said["before"], hashlib.sha256(data).hexdigest(), body)


def form() -> Refused:
    """What is said of a file that is none."""
    return Refused("align.form", "this is no file of fedrec catalogue align", "Ask the other institution for another")
