"""The key of encrypted sums: one secret that the institutions share, and that neither centre nor carrier ever has.

The first member of consortium.toml makes it and writes a file for each other member: sealed to that member's pinned
key and signed with the maker's. Anybody may carry the files, a scientist too: he can lose them, but neither read nor
swap them, since an institution takes a key from the first member's signature alone.

Source of the sealing: Ed25519 keys converted to X25519, libsodium's sealed boxes.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey

from fedrec.config import ConsortiumConfig, SiteConfig
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.ckks import key_id, make_key
from fedrec.exchange.passport import sign, signed_by
from fedrec.exchange.plan import PlanText
from fedrec.exchange.wire import canonical
from fedrec.institution.local import local_act
from fedrec.institution.site import Keys

KIND = "fedrec-shared-key-v1"
FIELDS = frozenset(["kind", "consortium", "maker", "to", "number", "id", "sealed", "signature"])


@dataclass(frozen=True, slots=True)
class SharedKey:
    """The key and its number: 1, 2, … as it was rotated."""

    number: int
    key: bytes

    @property
    def id(self) -> str:
        """What all institutions must have alike; 64 hex digits that tell nothing of the key."""
        return key_id(self.key)

    @classmethod
    def load(cls, state: Path) -> SharedKey | None:
        """The institution's copy; None before it has one.

        Raises:
            WrongInput: the file is broken, or others can read it.
        """
        path = state / "keys" / "ckks.json"
        if not path.exists():
            return None
        try:
            if path.stat().st_mode & 0o077:
                raise ValueError
            said = json.loads(path.read_text())
            return cls(int(said["number"]), base64.b64decode(said["key"], validate=True))
        except (OSError, ValueError, KeyError, TypeError):
            raise WrongInput(f"{path.name}: not a shared key in a file that only its owner can read") from None

    def save(self, state: Path) -> None:
        """Keep it, in place of the one before, in a 0600 file."""
        path = state / "keys" / "ckks.json"
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"number": self.number, "key": base64.b64encode(self.key).decode()}, file)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)


def seal(shared: SharedKey, names: Mapping[str, str], to: str, consortium: str, signer: SigningKey) -> bytes:
    """The file for one member.

    Args:
        names: `maker` in the first place; each member's pinned key.
        consortium: the consortium's hash.
    """
    box = SealedBox(VerifyKey(bytes.fromhex(names[to])).to_curve25519_public_key())
    facts = {"kind": KIND, "consortium": consortium, "maker": next(iter(names)), "to": to, "number": shared.number}
    sealed = base64.b64encode(box.encrypt(shared.key)).decode()
    return canonical(sign({**facts, "id": shared.id, "sealed": sealed}, signer))


def unseal(data: bytes, names: Mapping[str, str], to: str, consortium: str, own: SigningKey) -> SharedKey:
    """The key in a file that was carried here.

    Raises:
        Refused: `key.form`, `key.maker` when the first member did not sign it, `key.other` when it is for another
            member or consortium.
    """
    maker = next(iter(names))
    try:
        said = json.loads(data)
        if type(said) is not dict or said.keys() != FIELDS or said["kind"] != KIND or type(said["number"]) is not int:
            raise ValueError
    except (ValueError, RecursionError):
        raise Refused("key.form", "this is no file of fedrec site keys --share", "Take the one made for you") from None
    if not signed_by(said, names[maker]):
        reason = f"the key is not signed by {maker}, the consortium's first member"
        raise Refused("key.maker", reason, f"Ask {maker} for another, and say who brought this one")
    if said["to"] != to or said["consortium"] != consortium:
        raise Refused("key.other", "the key is for another member or consortium", "Take the one made for you")
    try:
        key = SealedBox(own.to_curve25519_private_key()).decrypt(base64.b64decode(str(said["sealed"]), validate=True))
    except (CryptoError, ValueError):
        raise Refused("key.other", "the key was sealed to another key than this site's", "Ask for another") from None
    if key_id(key) != said["id"]:
        raise Refused("key.form", "the key is not the one that its file names", "Ask for another")
    return SharedKey(said["number"], key)


def share(folder: Path, target: Path, new: bool) -> dict[str, Any]:
    """Write the files for all other members into `target`; makes the key when there is none, or when `new`.

    Raises:
        WrongInput: this is not the first member, or a member's key is not pinned.
    """
    name, names, consortium, keys = _who(folder)
    if name != (maker := next(iter(names))):
        raise WrongInput(f"{name} is not the consortium's first member; {maker} makes the key and shares it")
    had = SharedKey.load(folder / "state")
    shared = had if had and not new else SharedKey(had.number + 1 if had else 1, make_key())
    others = [other for other in names if other != name]
    with local_act(folder, "key", "share", detail=_facts(shared) | {"members": len(others)}):
        if shared is not had:
            shared.save(folder / "state")
        target.mkdir(parents=True, exist_ok=True)
        for other in others:
            (target / f"{other}.key.json").write_bytes(seal(shared, names, other, consortium, keys.site))
    return {**_facts(shared), "for": others}


def take(folder: Path, file: Path) -> dict[str, Any]:
    """Keep the key in `file`, in place of an older one.

    Raises:
        Refused: as `unseal`; `key.old` when this site has a newer key, or another of the same number.
    """
    name, names, consortium, keys = _who(folder)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise WrongInput(f"{file}: cannot be read ({error.strerror})") from None
    with local_act(folder, "key", "take") as said:
        shared, had = unseal(data, names, name, consortium, keys.site), SharedKey.load(folder / "state")
        if had and had.id != shared.id and had.number >= shared.number:
            raise Refused("key.old", f"this site has key {had.number}, and takes only newer ones", "Ask for the newest")
        said.update(_facts(shared))
        shared.save(folder / "state")
    return _facts(shared)


def named(state: Path, plan: PlanText) -> str:
    """The id of the shared key that a permit of `plan` names; "" without encrypted sums, or without a key yet."""
    shared = SharedKey.load(state) if plan.protects.sum == "ckks" else None
    return shared.id if shared else ""


def key_under(state: Path, plan: PlanText, permit: Mapping[str, Any]) -> SharedKey | None:
    """The shared key that a permit names; None where the plan's sums are not encrypted.

    Raises:
        Refused: `ckks.key` without a key; `ckks.other` when it is not the one of the approval.
    """
    if plan.protects.sum != "ckks":
        return None
    if (shared := SharedKey.load(state)) is None:
        raise Refused("ckks.key", "this institution has no shared key", "Its owner takes it: fedrec site keys --take")
    if permit.get("shared_key") != shared.id:
        reason = "the permit was given under another shared key, or before there was one"
        raise Refused("ckks.other", reason, "Ask the owner to approve again")
    return shared


def _facts(shared: SharedKey) -> dict[str, Any]:
    return {"id": shared.id, "number": shared.number}


def _who(folder: Path) -> tuple[str, dict[str, str], str, Keys]:
    """(own name, all members' pinned keys, the first member first, the consortium's hash, own keys)."""
    config = SiteConfig.load(folder / "site.toml")
    consortium = ConsortiumConfig.load(config.consortium_path)
    names, keys = {one.name: one.key for one in consortium.member}, Keys.load_or_make(folder / "state")
    if bare := [name for name, key in names.items() if not key]:
        raise WrongInput(f"{config.consortium_path.name}: pins no key for {', '.join(bare)}; see fedrec site keys")
    if names.get(config.name) != keys.public:
        raise WrongInput(f"{config.consortium_path.name}: pins another key for {config.name}; see fedrec site keys")
    return config.name, names, consortium.hash, keys
