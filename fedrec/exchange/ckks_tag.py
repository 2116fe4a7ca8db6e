"""How an institution knows that it decrypts the sum of all members' ciphertexts, without seeing one of them.

Who could have anything decrypted would need no key: one institution's ciphertext gives its update, and a sum that was
moved a little gives the key away. So each institution states its ciphertext's tag: eight linear hashes modulo Q, whose
coefficients come from the shared key and from what the statement is about, so that the centre does not know them. The
tags of all members add up to the tag of their sum, and of nothing else, up to a chance of 2^-128. The tag itself
travels encrypted: two of them known would let the centre mix their ciphertexts.

Source: Carter and Wegman 1979 (universal hashing); Agrawal and Boneh 2009, ACNS (homomorphic MACs).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.signing import SigningKey

from fedrec.core.params import Array
from fedrec.errors import Refused
from fedrec.exchange.ckks import DEGREE, WIDTH, Layout, Q, key_id, unpack
from fedrec.exchange.passport import sign, signed_by
from fedrec.exchange.wire import canonical, sha256

HASHES = 8  # of 16 bits each: a chance of 2^-128
LIMB = 18  # bits; 2^16 · 2^18 · 8192 numbers stays whole in float64
MIN_MEMBERS = 3  # of two, the sum tells each what the other sent
ABOUT = ("run", "round", "protocol", "plan", "members")
FIELDS = frozenset([*ABOUT, "kind", "key", "site", "sha256", "tag", "signature"])
KIND = "fedrec-ckks-v1"
Tag = tuple[int, ...]


def about(run: str, number: int, protocol: str, plan: str, members: Sequence[str]) -> dict[str, Any]:
    """What all statements of one sum say alike.

    Args:
        plan: its fingerprint.
        members: the institutions whose updates are added, as the permit names them.

    Raises:
        Refused: `ckks.members` for fewer than three, or one twice.
    """
    if len(set(members)) != len(members) or len(members) < MIN_MEMBERS:
        reason = f"a sum of {len(set(members))} institutions would show one what another sent"
        raise Refused("ckks.members", reason, f"Name at least {MIN_MEMBERS}, each once, or use noise at each site")
    return {"run": run, "round": number, "protocol": protocol, "plan": plan, "members": sorted(members)}


def state(
    data: bytes, layout: Layout, key: bytes, facts: Mapping[str, Any], site: str, signer: SigningKey
) -> dict[str, Any]:
    """An institution's signed statement about its encrypted update, for whoever will decrypt the sum.

    Args:
        data: from `ckks.encrypt`.
        facts: from `about`.
        site: the institution's name; `signer` its site's own key.
    """
    if site not in facts["members"]:
        raise Refused("ckks.members", "this institution is not among those whose updates are added", "Leave it out")
    said = {**facts, "kind": KIND, "key": key_id(key), "site": site, "sha256": sha256(data)}
    found = b"".join(one.to_bytes(WIDTH, "big") for one in tag(unpack(data, layout), key, facts))
    nonce = os.urandom(12)
    sealed = nonce + ChaCha20Poly1305(_derived(key, b"seal", {})).encrypt(nonce, found, canonical(said))
    return sign({**said, "tag": sealed.hex()}, signer)


def check_sum(
    data: bytes,
    layout: Layout,
    key: bytes,
    facts: Mapping[str, Any],
    statements: Sequence[Mapping[str, Any]],
    pinned: Mapping[str, str],
) -> None:
    """Accept `data` only if it is the sum of the ciphertexts that all members stated, each once.

    Args:
        pinned: each institution's public key, by name.

    Raises:
        Refused: `ckks.members`, `ckks.unsigned`, `ckks.key`, `ckks.form`, or `ckks.sum` for anything else than the sum.
    """
    if sorted(str(said.get("site")) for said in statements) != facts["members"]:
        raise Refused("ckks.members", "the statements are not one of each member", "Bring those of this round")
    total = [0] * HASHES
    for said in statements:
        opened = _opened(said, key, facts, pinned.get(said["site"], ""))
        total = [(a + b) % Q for a, b in zip(total, opened, strict=True)]
    if tuple(total) != tag(unpack(data, layout), key, facts):
        raise Refused("ckks.sum", "this is not the sum of what the members stated", "Add all members' updates, once")


def tag(ciphers: Mapping[str, Array], key: bytes, facts: Mapping[str, Any]) -> Tag:
    """The linear hashes of ciphertexts: tag(a) + tag(b) = tag(a + b) modulo Q."""
    limbs, count = np.zeros((HASHES, 3), np.int64), 2 * DEGREE
    stream = Cipher(algorithms.ChaCha20(_derived(key, b"hash", facts), bytes(16)), None).encryptor()
    for name in sorted(ciphers):
        for cipher in ciphers[name].reshape(-1, count).astype(np.uint64):
            factors = np.frombuffer(stream.update(bytes(HASHES * count * 2)), "<u2").reshape(HASHES, count)
            parts = np.stack([(cipher >> np.uint64(LIMB * i)) & np.uint64(2**LIMB - 1) for i in range(3)], axis=1)
            limbs = (limbs + (factors.astype(np.float64) @ parts.astype(np.float64)).astype(np.int64)) % Q
    return tuple(sum(int(part) << (LIMB * i) for i, part in enumerate(row)) % Q for row in limbs)


def _opened(said: Mapping[str, Any], key: bytes, facts: Mapping[str, Any], pinned: str) -> Tag:
    if set(said) != FIELDS or said["kind"] != KIND or not signed_by(said, pinned):
        raise Refused("ckks.unsigned", "a statement is not signed with the institution's pinned key", "Bring another")
    if any(said[name] != facts[name] for name in ABOUT):
        raise Refused("ckks.members", "a statement is about another sum", "Bring those of this round")
    if said["key"] != key_id(key):
        raise Refused("ckks.key", "an update was encrypted with another key", "Compare what fedrec site keys prints")
    rest = {name: value for name, value in said.items() if name not in ("tag", "signature")}
    try:
        sealed = bytes.fromhex(str(said["tag"]))
        text = ChaCha20Poly1305(_derived(key, b"seal", {})).decrypt(sealed[:12], sealed[12:], canonical(rest))
    except (InvalidTag, ValueError):
        raise Refused("ckks.unsigned", "a statement's tag was not made with the shared key", "Bring another") from None
    return tuple(int.from_bytes(text[at : at + WIDTH], "big") for at in range(0, WIDTH * HASHES, WIDTH))


def _derived(key: bytes, use: bytes, facts: Mapping[str, Any]) -> bytes:
    """32 bytes for one use and one sum."""
    info = b"fedrec-ckks " + use + b"\n" + canonical({name: facts[name] for name in facts})
    return HKDF(SHA256(), 32, salt=None, info=info).derive(key)
