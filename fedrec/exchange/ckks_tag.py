"""How an institution knows that it decrypts the sum of all members' ciphertexts, without seeing one of them.

Who could have anything decrypted would need no key: one institution's ciphertext gives its update, and a sum that was
moved a little gives the key away. So each ciphertext has a tag: eight linear hashes modulo Q, whose coefficients come
from the shared key and from the round, so that the centre does not know them. The tags of all members add up to the
tag of their sum, and of nothing else, up to a chance of 2^-128. Tags travel sealed: with some of them known, the centre
could mix ciphertexts so that the tag stays right.

Source: Carter and Wegman 1979 (universal hashing); Agrawal and Boneh 2009, ACNS (homomorphic MACs).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedrec.core.params import Array
from fedrec.errors import Refused
from fedrec.exchange.ckks import DEGREE, WIDTH, Q

HASHES = 8  # of 16 bits each: a chance of 2^-128
LIMB = 18  # bits; 2^16 · 2^18 · 8192 numbers stays whole in float64
SIZE = 12 + HASHES * WIDTH + 16  # bytes of a sealed tag: nonce, hashes, what shows that nobody changed it
Tag = tuple[int, ...]


def seal(ciphers: Mapping[str, Array], key: bytes, context: bytes, site: str) -> Array:
    """The sealed tag of a site's ciphertexts; SIZE bytes.

    Args:
        context: what the sum is: plan, run, round, rows, model, members; the same at all of them.
    """
    found = b"".join(one.to_bytes(WIDTH, "big") for one in tag(ciphers, key, context))
    nonce = os.urandom(12)
    sealed = ChaCha20Poly1305(_derived(key, b"seal", context)).encrypt(nonce, found, site.encode())
    return np.frombuffer(nonce + sealed, np.uint8)


def check_sum(ciphers: Mapping[str, Array], tags: Mapping[str, Array], key: bytes, context: bytes) -> None:
    """Accept ciphertexts only if they are the sum of those that the members sealed.

    Args:
        tags: each member's, by name.

    Raises:
        Refused: `ckks.tag` for one that its institution did not make with this key for this sum; `ckks.sum`.
    """
    total = [0] * HASHES
    for site, sealed in tags.items():
        data = sealed.tobytes()
        try:
            text = ChaCha20Poly1305(_derived(key, b"seal", context)).decrypt(data[:12], data[12:], site.encode())
        except InvalidTag:
            reason = f"the tag of {site} was not made for this sum with the shared key"
            raise Refused("ckks.tag", reason, "Compare what fedrec site keys prints at each institution") from None
        hashes = [int.from_bytes(text[at : at + WIDTH], "big") for at in range(0, WIDTH * HASHES, WIDTH)]
        total = [(a + b) % Q for a, b in zip(total, hashes, strict=True)]
    if tuple(total) != tag(ciphers, key, context):
        raise Refused("ckks.sum", "this is not the sum of all members' updates", "Add each member's update, once")


def tag(ciphers: Mapping[str, Array], key: bytes, context: bytes) -> Tag:
    """The linear hashes of ciphertexts: tag(a) + tag(b) = tag(a + b) modulo Q."""
    limbs, count = np.zeros((HASHES, 3), np.int64), 2 * DEGREE
    stream = Cipher(algorithms.ChaCha20(_derived(key, b"hash", context), bytes(16)), None).encryptor()
    for name in sorted(ciphers):
        for cipher in ciphers[name].reshape(-1, count).astype(np.uint64):
            factors = np.frombuffer(stream.update(bytes(HASHES * count * 2)), "<u2").reshape(HASHES, count)
            parts = np.stack([(cipher >> np.uint64(LIMB * i)) & np.uint64(2**LIMB - 1) for i in range(3)], axis=1)
            limbs = (limbs + (factors.astype(np.float64) @ parts.astype(np.float64)).astype(np.int64)) % Q
    return tuple(sum(int(part) << (LIMB * i) for i, part in enumerate(row)) % Q for row in limbs)


def _derived(key: bytes, use: bytes, context: bytes) -> bytes:
    """32 bytes for one use and one sum."""
    return HKDF(SHA256(), 32, salt=None, info=b"fedrec-ckks " + use + b"\n" + context).derive(key)
