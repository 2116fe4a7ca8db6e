"""Sums of ciphertexts: institutions share a key, the centre adds what it cannot read, an institution decrypts the sum.

What is encrypted are the whole numbers of secure_sum.py: fixed-point numbers by CKKS where one of its slots has room
for them, counts and wider fixed-point numbers by BFV, which has twice the slots and room for more bits. Both are
TenSEAL's (Microsoft SEAL), with 128-bit parameters and only as many bits as additions need. Every institution holds
the same secret and encrypts with it, so there is no public key that somebody could swap, and the centre needs the
modulus alone: it adds arrays of whole numbers.

CKKS is not safe by itself once somebody sees what was decrypted: the noise in it gives the key away (Li and Micciancio
2021, Eurocrypt). So its numbers are whole, one apart being more than all noise can be, and are rounded again: what
comes out is the exact sum of what went in, and tells nothing of the noise. What may be decrypted at all: ckks_tag.py.

Source: Cheon, Kim, Kim, Song 2017, Asiacrypt (CKKS); Fan and Vercauteren 2012 (BFV); Albrecht et al. 2018,
Homomorphic Encryption Security Standard, table 1 (128-bit security at degree 4096, ternary secrets: 109 bits at most).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedrec.core.params import Array
from fedrec.errors import Refused
from fedrec.exchange.wire import decode, encode

DEGREE, BITS = 4096, (54, 54)  # of the ring; of the modulus, and of one that SEAL wants beside it
Q = 0x3FFFFFFFFD2001  # the modulus of every ciphertext: the first prime that SEAL chooses for BITS
PLAIN = 1099511480321  # 40 bits: BFV's numbers are modulo this
SLOTS = {"bfv": DEGREE, "ckks": DEGREE // 2}  # numbers in one ciphertext
WIDTH = 7  # bytes of a number below Q
MAX_SITES = 50
NOISE = 24  # largest error of one coefficient: 21 of SEAL's noise, 1/2 of rounding, the rest floating point


@dataclass(frozen=True, slots=True)
class Form:
    """One array of unsigned whole numbers that are added modulo 2^width.

    Args:
        whole: counts, which go by BFV whatever their width.
    """

    shape: tuple[int, ...]
    width: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """The arrays of an update by name, and how many updates are added, 1 to 50."""

    forms: Mapping[str, Form]
    sites: int

    def __post_init__(self) -> None:
        if not 1 <= self.sites <= MAX_SITES:
            raise Refused("ckks.sites", f"{self.sites} institutions, at most {MAX_SITES} add up", "Ask fewer")

    def scale(self, scheme: str) -> int:
        """What 1 is in a ciphertext; CKKS: the noise of all sites, in the worst case, stays below half of it."""
        return 1 if scheme == "bfv" else int(2 ** math.ceil(math.log2(2 * self.sites * DEGREE * NOISE)))

    def most(self, scheme: str) -> int:
        """The largest absolute number of one update; the sum stays below a quarter of the modulus."""
        return (PLAIN // 4 if scheme == "bfv" else 2**52 // self.scale(scheme)) // self.sites

    def scheme(self, form: Form) -> str:
        """bfv or ckks: split numbers go by BFV, in a third of the ciphertexts that CKKS would take."""
        return "bfv" if form.whole or not self._fits(form, "ckks") else "ckks"

    def _fits(self, form: Form, scheme: str) -> bool:
        return int(2 ** (form.width - 1)) // self.sites <= self.most(scheme)

    def limbs(self, form: Form) -> tuple[int, int]:
        """(parts that a number is split into, bits of each); one part keeps its sign, many have none."""
        scheme = self.scheme(form)
        if self._fits(form, scheme):
            return 1, form.width
        bits = self.most(scheme).bit_length() - 1
        return -(-form.width // bits), bits

    def counts(self) -> dict[str, int]:
        """Ciphertexts of each scheme that is needed."""
        numbers = dict.fromkeys(SLOTS, 0)
        for form in self.forms.values():
            numbers[self.scheme(form)] += self.limbs(form)[0] * math.prod(form.shape)
        return {scheme: -(-count // SLOTS[scheme]) for scheme, count in numbers.items() if count}

    @property
    def nbytes(self) -> int:
        """Bytes of an encrypted update's arrays: 28 for a number by CKKS, 14 for a part by BFV, in full ciphertexts."""
        return sum(count * 2 * DEGREE * WIDTH for count in self.counts().values())


def make_key() -> bytes:
    """A new secret, from the operating system's generator: contexts of CKKS and BFV with their secret keys."""
    import tenseal as ts

    kind = {"encryption_type": ts.ENCRYPTION_TYPE.SYMMETRIC, "coeff_mod_bit_sizes": list(BITS)}
    made = {
        "ckks": ts.context(ts.SCHEME_TYPE.CKKS, DEGREE, -1, **kind),
        "bfv": ts.context(ts.SCHEME_TYPE.BFV, DEGREE, PLAIN, **kind),
    }
    less = {"save_public_key": False, "save_galois_keys": False, "save_relin_keys": False}
    texts = {name: one.serialize(save_secret_key=True, **less) for name, one in made.items()}
    return encode({name: np.frombuffer(text, np.uint8) for name, text in texts.items()})


def key_id(key: bytes) -> str:
    """What the key is called everywhere: SHA-256; it tells nothing of the key. 64 hex digits."""
    return hashlib.sha256(b"fedrec-ckks-key-v1\n" + key).hexdigest()


def encrypt(ring: Mapping[str, Array], key: bytes, layout: Layout) -> dict[str, Array]:
    """Ciphertexts by scheme, numbers below Q, of shape (ciphertexts, 2, 4096); twice the same gives others.

    Args:
        ring: unsigned arrays, as `secure_sum.to_ring` gives them.

    Raises:
        Refused: `ckks.range` for a number that so many sites cannot add.
    """
    found = {}
    for scheme in layout.counts():
        parts = [np.zeros(0, np.int64)]
        for name, form in _of(layout, scheme):
            (count, bits), numbers = layout.limbs(form), ring[name].ravel()
            if count == 1:
                parts.append(numbers.view(f"int{form.width}").astype(np.int64))
            else:
                whole = numbers.astype(np.uint64)
                parts += [
                    ((whole >> np.uint64(bits * i)) & np.uint64(2**bits - 1)).astype(np.int64) for i in range(count)
                ]
        flat, most = np.concatenate(parts), layout.most(scheme)
        if not ((flat <= most) & (flat >= -most)).all():
            raise Refused("ckks.range", f"{layout.sites} sites cannot add numbers above {most}", "Take fewer bits")
        found[scheme] = _encrypted(scheme, flat, key, layout.scale(scheme))
    return found


def add(updates: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The sum of ciphertexts, as `unpack` gives them; needs no key."""
    total = dict(updates[0])
    for update in updates[1:]:
        total = {name: (total[name] + part) % Q for name, part in update.items()}
    return total


def decrypt(ciphers: Mapping[str, Array], key: bytes, layout: Layout) -> dict[str, Array]:
    """The ring that was encrypted, or the sum of the rings.

    Raises:
        Refused: `ckks.garbage` when the key is another, or this is no sum of `layout.sites`.
    """
    result: dict[str, Array] = {}
    for scheme, cipher in ciphers.items():
        numbers, at = _decrypted(scheme, cipher, key, layout.scale(scheme)), 0
        if not (np.abs(numbers) <= layout.sites * layout.most(scheme)).all():
            raise _garbage()
        whole = numbers.astype(np.int64).astype(np.uint64)
        for name, form in _of(layout, scheme):
            (count, bits), size = layout.limbs(form), math.prod(form.shape)
            total = np.zeros(size, np.uint64)
            for i in range(count):
                total += whole[at : at + size] << np.uint64(bits * i)
                at += size
            result[name] = total.astype(f"uint{form.width}").reshape(form.shape)
        if whole[at:].any():
            raise _garbage()
    return {name: result[name] for name in layout.forms}


def pack(ciphers: Mapping[str, Array]) -> dict[str, Array]:
    """Ciphertexts in as many bytes as their numbers need."""
    short = {name: np.ascontiguousarray(part, "<u8").view(np.uint8) for name, part in ciphers.items()}
    return {name: part.reshape(-1, 2, DEGREE, 8)[..., :WIDTH] for name, part in short.items()}


def unpack(parts: Mapping[str, Array], layout: Layout) -> dict[str, Array]:
    """The ciphertexts that `pack` packed.

    Nothing of SEAL reads bytes from elsewhere: its own are made anew from these numbers.

    Raises:
        Refused: `ckks.form` when they are others than the layout gives.
    """
    bad = Refused("ckks.form", "the encrypted update has another form than the plan gives", "Leave it out")
    counts, found = layout.counts(), dict[str, Array]()
    if {name: part.shape for name, part in parts.items()} != {
        name: (count, 2, DEGREE, WIDTH) for name, count in counts.items()
    }:
        raise bad
    for name, part in parts.items():
        if part.dtype != np.uint8:
            raise bad
        wide = np.zeros((counts[name], 2, DEGREE, 8), np.uint8)
        wide[..., :WIDTH] = part
        found[name] = wide.view("<u8")[..., 0]
        if (found[name] >= Q).any():
            raise bad
    return found


def _of(layout: Layout, scheme: str) -> list[tuple[str, Form]]:
    return [(name, form) for name, form in sorted(layout.forms.items()) if layout.scheme(form) == scheme]


def _garbage() -> Refused:
    return Refused("ckks.garbage", "this is no sum that the key opens", "Compare the institutions' keys")


def _encrypted(scheme: str, numbers: Array, key: bytes, scale: int) -> Array:
    """Ciphertexts of whole numbers; shape (ciphertexts, 2, DEGREE)."""
    slots = SLOTS[scheme]
    context = _context(key, scheme)
    rows = np.zeros((-(-len(numbers) // slots), slots), np.float64 if scheme == "ckks" else np.int64)
    rows.ravel()[: len(numbers)] = numbers
    return np.stack([_numbers(_seal(scheme, context, row, scale)) for row in rows])


def _decrypted(scheme: str, ciphers: Array, key: bytes, scale: int) -> Array:
    """All slots as whole numbers; float64 of CKKS, int64 of BFV."""
    import tenseal as ts

    context = _context(key, scheme)
    read = ts.ckks_vector_from if scheme == "ckks" else ts.bfv_vector_from
    model = _seal(scheme, context, np.zeros(SLOTS[scheme], np.int64), scale)
    found = [read(context, _with_numbers(model, cipher)).decrypt() for cipher in ciphers]
    numbers: Array = np.concatenate(found)
    return np.rint(numbers) if scheme == "ckks" else numbers.astype(np.int64)


def _context(key: bytes, scheme: str) -> Any:
    import tenseal as ts

    return ts.context_from(decode(key)[scheme].tobytes())


# TenSEAL writes a vector as protocol buffer: its length (4 bytes), SEAL's ciphertext (field 0x12), for CKKS its scale.
# SEAL's is a header of 16 bytes (magic, versions, compression, length), then, compressed, 97 bytes that say what it is,
# and 8 for each number.

_MAGIC, _ABOUT, _ZSTD = b"\x5e\xa1\x10", 97, 2


def _seal(scheme: str, context: Any, row: Array, scale: int) -> bytes:
    import tenseal as ts

    made = ts.ckks_vector(context, row, scale) if scheme == "ckks" else ts.bfv_vector(context, row.tolist())
    return bytes(made.serialize())


def _split(vector: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """(before SEAL's ciphertext, its header, its content, after it) of TenSEAL's bytes."""
    import pyarrow as pa

    at = vector.index(_MAGIC)
    header = vector[at : at + 16]
    end = at + int(struct.unpack("<Q", header[8:])[0])
    content = vector[at + 16 : end]
    if header[5] == _ZSTD:
        content = pa.input_stream(pa.BufferReader(content), compression="zstd").read()
    if len(content) != _ABOUT + 2 * DEGREE * 8 or vector[4:5] != b"\x12":
        raise RuntimeError("TenSEAL writes ciphertexts in another form than version 0.3.18")
    return vector[:at], header, content, vector[end:]


def _numbers(vector: bytes) -> Array:
    return np.frombuffer(_split(vector)[2], "<u8", offset=_ABOUT).reshape(2, DEGREE)


def _with_numbers(vector: bytes, numbers: Array) -> bytes:
    """TenSEAL's bytes of another ciphertext: those of `vector` with these numbers, not compressed."""
    before, header, content, after = _split(vector)
    content = content[:_ABOUT] + numbers.astype("<u8").tobytes()
    text = header[:5] + b"\x00" + header[6:8] + struct.pack("<Q", 16 + len(content)) + content
    return before[:5] + _varint(len(text)) + text + after


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])
