"""Shamir's secret sharing of 32-byte secrets: any `threshold` of the shares give the secret, fewer tell nothing.

Source: Shamir 1979, How to share a secret, CACM 22(11). The secret is the value at 0 of a polynomial of degree
threshold - 1 modulo a prime; share x is its value at x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

PRIME = 2**256 + 297  # the smallest prime above every secret
SECRET, SHARE, COEFFICIENT = 32, 33, 64  # bytes; 64 modulo PRIME are uniform but for 2^-255


def split(secret: bytes, shares: int, coefficients: bytes) -> list[bytes]:
    """The shares 1, 2, … of a secret of 32 bytes.

    Args:
        coefficients: secret random bytes, 64 for each share that is needed beyond one; never used for another secret.
    """
    assert len(secret) == SECRET
    assert len(coefficients) % COEFFICIENT == 0
    parts = range(0, len(coefficients), COEFFICIENT)
    polynomial = [int.from_bytes(secret, "big")]
    polynomial += [int.from_bytes(coefficients[at : at + COEFFICIENT], "big") % PRIME for at in parts]
    return [_at(polynomial, x).to_bytes(SHARE, "big") for x in range(1, shares + 1)]


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret of at least `threshold` shares by their numbers.

    Raises:
        ValueError: they are no shares of one secret of 32 bytes.
    """
    weights = _weights(tuple(shares))
    found = sum(int.from_bytes(share, "big") * weight for share, weight in zip(shares.values(), weights, strict=True))
    found %= PRIME
    if found.bit_length() > 8 * SECRET or any(len(share) != SHARE for share in shares.values()):
        raise ValueError("they are no shares of one secret")
    return found.to_bytes(SECRET, "big")


@lru_cache(maxsize=64)
def _weights(numbers: tuple[int, ...]) -> list[int]:
    """What each share counts in the value at 0 (Lagrange); the same for all secrets of these shares."""
    found = []
    for x in numbers:
        others = [other for other in numbers if other != x]
        top, bottom = math.prod(others), math.prod(other - x for other in others)
        found.append(top * pow(bottom, -1, PRIME) % PRIME)
    return found


def _at(polynomial: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * x + coefficient) % PRIME
    return value
