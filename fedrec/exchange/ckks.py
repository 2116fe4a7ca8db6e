"""Sums of ciphertexts: institutions share a key, the centre adds what it cannot read, an institution decrypts the sum.

Numbers that are not whole go by CKKS, whole ones by BFV, both of TenSEAL (Microsoft SEAL) with 128-bit parameters and
only as many bits as additions need. Every institution holds the same secret and encrypts with it, so there is no public
key that somebody could swap, and the centre needs the modulus alone: it adds arrays of whole numbers.

CKKS is not safe by itself once somebody sees what was decrypted: the noise in it gives the key away (Li and Micciancio
2021, Eurocrypt). So numbers are rounded to a grid before, coarser than all noise can be, and to the grid again
after: what comes out depends on what went in, and on nothing else. What may be decrypted at all: ckks_tag.py.

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
SLOTS = {"ckks": DEGREE // 2, "bfv": DEGREE}  # numbers in one ciphertext
WIDTH = 7  # bytes of a number below Q
MAX_SITES = 50
NOISE = 24  # largest error of one coefficient: 21 of SEAL's noise, 1/2 of rounding, the rest floating point
Layout = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Grid:
    """How numbers are rounded so that their sum comes out as it went in.

    Args:
        sites: how many updates are added; 1 to 50.
        bound: the largest absolute number of one update that is not whole.
    """

    sites: int
    bound: float

    def __post_init__(self) -> None:
        if not 1 <= self.sites <= MAX_SITES:
            raise Refused("ckks.sites", f"{self.sites} institutions, at most {MAX_SITES} add up", "Ask fewer")
        if not (2.0**-100 <= self.bound <= 2.0**100):
            raise Refused("ckks.range", "the bound of the numbers is not positive or too large", "Give another bound")

    @property
    def scale(self) -> int:
        """What one step becomes in a ciphertext: the noise of all sites, in the worst case, stays below half of it."""
        return int(2 ** math.ceil(math.log2(2 * self.sites * DEGREE * NOISE)))

    @property
    def most(self) -> int:
        """Steps that one update may have: the sum's coefficients stay below a quarter of the modulus."""
        return int(2**52 // (self.sites * self.scale))

    @property
    def step(self) -> float:
        """The distance of two points of the grid; a power of two."""
        return float(2.0 ** math.ceil(math.log2(self.bound / self.most)))

    @property
    def error(self) -> float:
        """Largest absolute error of a number of the sum: half a step for each site; below sites³ · bound · 2^-33."""
        return self.sites * self.step / 2

    @property
    def whole(self) -> int:
        """The largest absolute whole number of one update; the sum is exact."""
        return PLAIN // 4 // self.sites


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


def size(layout: Layout) -> int:
    """Bytes of an encrypted update's arrays, without a header: 28 a number, 14 a whole one, in full ciphertexts."""
    return sum(count * 2 * DEGREE * WIDTH for count in _counts(layout).values())


def check_size(layout: Layout, most: int) -> None:
    """Refuse what is too large once encrypted; `most` in bytes. Raises: Refused `ckks.bytes`."""
    if (needed := size(layout)) > most:
        reason = f"encrypted, an update needs {needed / 1e6:.1f} MB, {most / 1e6:g} MB may leave"
        raise Refused("ckks.bytes", reason, "Take the secure sum, fewer items, or ask the owner for a larger limit")


def encrypt(tensors: Mapping[str, Array], key: bytes, grid: Grid) -> bytes:
    """An update that only who has the key can read; twice the same gives other bytes.

    Raises:
        Refused: `ckks.range` for a number that is not finite or above the grid's bound.
    """
    floats, wholes = _flat(tensors, "f"), _flat(tensors, "iu")
    if not (np.abs(floats) <= grid.bound).all():
        raise Refused("ckks.range", f"the update has a number above {grid.bound:g}", "Clip it, or give a larger bound")
    if not ((wholes <= grid.whole) & (wholes >= -grid.whole)).all():
        raise Refused("ckks.range", f"the update has a whole number above {grid.whole}", "Take the secure sum")
    parts = {
        "ckks": _encrypted("ckks", np.rint(floats.astype(np.float64) / grid.step), key, grid.scale),
        "bfv": _encrypted("bfv", wholes, key, 1),
    }
    return pack({name: part for name, part in parts.items() if len(part)})


def add(updates: Sequence[bytes], layout: Layout) -> bytes:
    """The encrypted sum; needs no key.

    Raises:
        Refused: `ckks.form` when one is not of this layout.
    """
    total = unpack(updates[0], layout)
    for update in updates[1:]:
        total = {name: (total[name] + part) % Q for name, part in unpack(update, layout).items()}
    return pack(total)


def decrypt(data: bytes, key: bytes, grid: Grid, layout: Layout) -> dict[str, Array]:
    """What was encrypted, or the sum of that; float64 and int64.

    Raises:
        Refused: `ckks.form`, or `ckks.garbage` when it was encrypted with another key, or is no sum of `grid.sites`.
    """
    ciphers = unpack(data, layout)
    most = {"ckks": grid.sites * (grid.most + 1), "bfv": PLAIN // 4}
    scales = {"ckks": grid.scale, "bfv": 1}
    flat: dict[str, Array] = {}
    for name, cipher in ciphers.items():
        found = _decrypted(name, cipher, key, scales[name])
        used = sum(math.prod(shape) for dtype, shape in layout.values() if _scheme(dtype) == name)
        if not (np.abs(found) <= most[name]).all() or found[used:].any():
            raise Refused("ckks.garbage", "this is no sum that the key opens", "Compare the institutions' keys")
        flat[name] = found[:used] * grid.step if name == "ckks" else found[:used]
    at, result = dict.fromkeys(flat, 0), dict[str, Array]()
    for title in sorted(layout):
        dtype, shape = layout[title]
        name, count = _scheme(dtype), math.prod(shape)
        result[title] = flat[name][at[name] : at[name] + count].reshape(shape)
        at[name] += count
    return result


def pack(ciphers: Mapping[str, Array]) -> bytes:
    """Ciphertexts, as `unpack` gives them, in as many bytes as their numbers need."""
    short = {name: np.ascontiguousarray(part, "<u8").view(np.uint8) for name, part in ciphers.items()}
    return encode({name: part.reshape(-1, 2, DEGREE, 8)[..., :WIDTH] for name, part in short.items()})


def unpack(data: bytes, layout: Layout) -> dict[str, Array]:
    """The ciphertexts as whole numbers below Q, by scheme; each of shape (ciphertexts, 2, 4096).

    Nothing of SEAL reads bytes from elsewhere: its own are made anew from these numbers.

    Raises:
        Refused: `ckks.form` when they are others than the layout gives.
    """
    bad = Refused("ckks.form", "the encrypted update has another form than the plan gives", "Leave it out")
    try:
        parts = decode(data)
    except Refused:
        raise bad from None
    counts = _counts(layout)
    shapes = {name: (count, 2, DEGREE, WIDTH) for name, count in counts.items()}
    if {name: part.shape for name, part in parts.items()} != shapes:
        raise bad
    if any(part.dtype != np.uint8 for part in parts.values()):
        raise bad
    wide = {name: np.zeros((count, 2, DEGREE, 8), np.uint8) for name, count in counts.items()}
    for name, part in parts.items():
        wide[name][..., :WIDTH] = part
    found: dict[str, Array] = {name: part.view("<u8")[..., 0] for name, part in wide.items()}
    if any((part >= Q).any() for part in found.values()):
        raise bad
    return found


def _scheme(dtype: np.dtype[Any]) -> str:
    return "ckks" if dtype.kind == "f" else "bfv"


def _counts(layout: Layout) -> dict[str, int]:
    """Ciphertexts of each scheme that is needed."""
    numbers = dict.fromkeys(SLOTS, 0)
    for dtype, shape in layout.values():
        numbers[_scheme(dtype)] += math.prod(shape)
    return {name: -(-count // SLOTS[name]) for name, count in numbers.items() if count}


def _flat(tensors: Mapping[str, Array], kinds: str) -> Array:
    parts = [tensors[name].ravel() for name in sorted(tensors) if tensors[name].dtype.kind in kinds]
    return np.concatenate(parts) if parts else np.zeros(0)


def _encrypted(scheme: str, numbers: Array, key: bytes, scale: int) -> Array:
    """Ciphertexts of whole numbers; shape (ciphertexts, 2, DEGREE)."""
    slots = SLOTS[scheme]
    context = _context(key, scheme) if len(numbers) else None
    rows = np.zeros((-(-len(numbers) // slots), slots), np.float64 if scheme == "ckks" else np.int64)
    rows.ravel()[: len(numbers)] = numbers
    found = [_numbers(_seal(scheme, context, row, scale)) for row in rows]
    return np.stack(found) if found else np.zeros((0, 2, DEGREE), np.uint64)


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
