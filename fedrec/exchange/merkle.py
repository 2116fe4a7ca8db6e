"""Merkle trees over a list of leaves as in RFC 6962, section 2.1: roots, and proofs that one holds a leaf or another.

Pure functions over leaf hashes. `n` leaves make the tree of size n; a subtree is named by its first leaf and the one
after its last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Subtree = Callable[[int, int], bytes]


def leaf(data: bytes) -> bytes:
    """The hash of one leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """The tree's hash; that of no leaves is the hash of nothing."""
    return whole(leaves)(0, len(leaves)) if leaves else hashlib.sha256(b"").digest()


def whole(leaves: Sequence[bytes]) -> Subtree:
    """The hashes of all subtrees of a tree whose leaves are all here."""
    return Partial((), 0, leaves).subtree


def inclusion(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """The proof that the leaf at `index` is in the tree of this size; RFC 6962, 2.1.1."""

    def path(at: int, low: int, high: int) -> list[bytes]:
        if high - low == 1:
            return []
        middle = low + _split(high - low)
        if at < middle:
            return [*path(at, low, middle), subtree(middle, high)]
        return [*path(at, middle, high), subtree(low, middle)]

    return path(index, 0, size)


def consistency(old: int, new: int, subtree: Subtree) -> list[bytes]:
    """The proof that the tree of `new` leaves begins with that of `old`, 0 < old <= new; RFC 6962, 2.1.2."""

    def proof(low: int, end: int, high: int, known: bool) -> list[bytes]:
        if end == high:
            return [] if known else [subtree(low, high)]
        middle = low + _split(high - low)
        if end <= middle:
            return [*proof(low, end, middle, known), subtree(middle, high)]
        return [*proof(middle, end, high, False), subtree(low, middle)]

    return proof(0, old, new, True)


def includes(index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], tree: bytes) -> bool:
    """Whether the proof leads from the leaf to the root `tree`; RFC 9162, 2.1.3.2."""
    if not 0 <= index < size:
        return False
    at, last, now = index, size - 1, leaf_hash
    for part in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            now = _node(part, now)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            now = _node(now, part)
        at, last = at >> 1, last >> 1
    return last == 0 and now == tree


def extends(old: int, new: int, old_tree: bytes, new_tree: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the tree of `new` leaves begins with that of `old`; RFC 9162, 2.1.4.2."""
    if not 0 < old <= new or old == new:
        return old == new and old > 0 and old_tree == new_tree and not proof
    parts = [old_tree, *proof] if old & (old - 1) == 0 else list(proof)
    if not parts:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = parts[0]
    for part in parts[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = _node(part, first), _node(part, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = _node(second, part)
        at, last = at >> 1, last >> 1
    return last == 0 and first == old_tree and second == new_tree


@dataclass(frozen=True, slots=True)
class Partial:
    """A tree of which only the leaves from `known` on are here, and the complete subtrees before them.

    Args:
        peaks: the roots of the complete subtrees of the first `known` leaves, largest first.
    """

    peaks: Sequence[bytes]
    known: int
    leaves: Sequence[bytes]

    def subtree(self, low: int, high: int) -> bytes:
        """The hash of the leaves from `low` to before `high`."""
        if low >= self.known and high - low == 1:
            return self.leaves[low - self.known]
        start = 0
        for place in range(len(self.peaks)):  # the peaks' sizes are the ones of `known` in binary
            size = _bits(self.known)[place]
            if (start, start + size) == (low, high):
                return self.peaks[place]
            start += size
        middle = low + _split(high - low)
        return _node(self.subtree(low, middle), self.subtree(middle, high))


def _bits(number: int) -> list[int]:
    """The powers of two that add up to `number`, largest first."""
    return [1 << place for place in range(number.bit_length() - 1, -1, -1) if number >> place & 1]


def _split(size: int) -> int:
    """The largest power of two below `size`, which is at least 2."""
    return 1 << (size - 1).bit_length() - 1


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
