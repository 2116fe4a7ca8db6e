"""Reads one Cap'n Proto record of PySyft's wire format, in Python and within bounds.

Only what the gate needs of the format: a framed message whose root is PySyft's RecursiveSerde (names, byte
fields, one blob, a canonical name). Written here because the C++ reader that PySyft uses crashes the whole
process on some bytes, and the gate reads what strangers send. Source: capnproto.org, Encoding spec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

_STRUCT, _LIST, _FAR = 0, 1, 2
_BYTES, _POINTERS = 2, 6  # element sizes of a list
MAX_FIELDS = 64
MAX_SEGMENTS = 64


class BadRecord(ValueError):
    """The bytes are not such a record."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a record holds: fields by name for an object, `blob` for a plain value."""

    name: str
    fields: dict[str, bytes]
    blob: bytes


class _Found(NamedTuple):
    """A pointer with where its target starts: the pointer word, segment and word of the target."""

    pointer: int
    segment: int
    start: int


def read(data: bytes) -> Record:
    """The record in `data`.

    Raises:
        BadRecord: it is cut, points outside, names a field twice, or unfolds to more bytes than it has.
    """
    return _Reader(data).record()


class _Reader:
    def __init__(self, data: bytes) -> None:
        if len(data) < 8:
            raise BadRecord("too short")
        count = int.from_bytes(data[:4], "little") + 1
        start = (4 * (count + 1) + 7) // 8 * 8
        if count > MAX_SEGMENTS or start > len(data):
            raise BadRecord("segments")
        self._segments: list[bytes] = []
        for number in range(count):
            size = 8 * int.from_bytes(data[4 + 4 * number : 8 + 4 * number], "little")
            if start + size > len(data):
                raise BadRecord("a segment is cut")
            self._segments.append(data[start : start + size])
            start += size
        self._left = len(data)  # bytes that may still be taken out: pointers to one place do not multiply it

    def record(self) -> Record:
        root = self._follow(0, 0)
        if root is None or root.pointer & 3 != _STRUCT or root.pointer >> 48 < 4:
            raise BadRecord("the root is no record")
        first = root.start + (root.pointer >> 32 & 0xFFFF)  # pointers stand behind the data words
        names = [self._text(*place) for place in self._elements(root.segment, first)]
        fields = self._list(root.segment, first + 1)
        values = [self._parts(fields.segment, at) for at in self._range(fields)] if fields else []
        if len(set(names)) != len(names) or len(names) != len(values):
            raise BadRecord("fields")
        blob = self._parts(root.segment, first + 2)
        return Record(self._text(root.segment, first + 3), dict(zip(names, values, strict=True)), blob)

    def _word(self, segment: int, at: int) -> int:
        if not 0 <= segment < len(self._segments) or not 0 <= 8 * at <= len(self._segments[segment]) - 8:
            raise BadRecord("a pointer leads outside")
        return int.from_bytes(self._segments[segment][8 * at : 8 * at + 8], "little")

    def _follow(self, segment: int, at: int) -> _Found | None:
        """The target of the pointer at a word, through at most one far pointer; None for a null pointer."""
        pointer = self._word(segment, at)
        if pointer == 0:
            return None
        if pointer & 3 == _FAR:
            segment, at, double = pointer >> 32, pointer >> 3 & 0x1FFFFFFF, pointer >> 2 & 1
            pointer = self._word(segment, at)
            if double:  # a landing pad of two words: where it is, and what it is
                tag = self._word(segment, at + 1)
                return _Found(tag, pointer >> 32, pointer >> 3 & 0x1FFFFFFF)
        offset = (pointer & 0xFFFFFFFF) >> 2
        offset -= (offset & 0x20000000) << 1  # 30 bits, signed
        return _Found(pointer, segment, at + 1 + offset)

    def _list(self, segment: int, at: int) -> _Found | None:
        """A list of pointers, within its segment."""
        found = self._follow(segment, at)
        if found is None:
            return None
        count = found.pointer >> 35
        if found.pointer & 3 != _LIST or found.pointer >> 32 & 7 != _POINTERS or count > MAX_FIELDS:
            raise BadRecord("no list")
        return found

    @staticmethod
    def _range(found: _Found) -> range:
        return range(found.start, found.start + (found.pointer >> 35))

    def _elements(self, segment: int, at: int) -> list[tuple[int, int]]:
        found = self._list(segment, at)
        return [(found.segment, place) for place in self._range(found)] if found else []

    def _data(self, segment: int, at: int) -> bytes:
        found = self._follow(segment, at)
        if found is None:
            return b""
        length, first = found.pointer >> 35, 8 * found.start
        self._left -= length
        whole = self._segments[found.segment] if 0 <= found.segment < len(self._segments) else b""
        if found.pointer & 3 != _LIST or found.pointer >> 32 & 7 != _BYTES:
            raise BadRecord("no bytes")
        if first < 0 or first + length > len(whole) or self._left < 0:
            raise BadRecord("bytes lead outside")
        return whole[first : first + length]

    def _text(self, segment: int, at: int) -> str:
        data = self._data(segment, at)
        try:
            return data[:-1].decode("utf-8") if data else ""
        except UnicodeDecodeError:
            raise BadRecord("no text") from None

    def _parts(self, segment: int, at: int) -> bytes:
        """One value, which stands there as a list of parts."""
        return b"".join(self._data(*place) for place in self._elements(segment, at))
