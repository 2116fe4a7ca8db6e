"""Our reader of PySyft's wire format says what Cap'n Proto's own says, and survives every byte string."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from syft_calls import SCHEMA

from fedrec.institution.records import BadRecord, read


def written(name, fields, blob=()):
    """A record as PySyft writes it, by Cap'n Proto itself."""
    message = SCHEMA.new_message()
    message.canonicalName = name
    message.init("fieldsName", len(fields))
    message.init("fieldsData", len(fields))
    for number, (field, value) in enumerate(fields.items()):
        message.fieldsName[number] = field
        message.fieldsData.init(number, 1)[0] = value
    for number, part in enumerate((blob and message.init("nonrecursiveBlob", len(blob))) or []):
        assert part == b""
        message.nonrecursiveBlob[number] = blob[number]
    return message.to_bytes()


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(NAMES, st.dictionaries(NAMES, st.binary(max_size=40), max_size=12), st.lists(st.binary(max_size=40), max_size=3))
def test_it_reads_what_capn_proto_wrote(name, fields, blob):
    record = read(written(name, fields, blob))
    assert (record.name, record.fields, record.blob) == (name, fields, b"".join(blob))


@pytest.mark.parametrize("size", [0, 8_000, 9_000, 70_000, 1_500_000])
def test_values_larger_than_a_segment_are_found_through_far_pointers(size):
    fields = {"first": b"a" * size, "second": b"b" * 9_000, "third": b"c"}
    assert read(written("Large", fields)).fields == fields


@given(st.binary(max_size=300))
def test_garbage_is_refused_and_nothing_else(data):
    try:
        read(data)
    except BadRecord:
        return
    assert len(data) >= 48  # a whole empty record


def test_changed_bytes_are_refused_or_read_within_their_length():
    """The C++ reader crashes the process on some of these; 40,000 of them here."""
    whole, draw = written("SignedSyftAPICall", {"credentials": b"k" * 60, "signature": b"s" * 64}), random.Random(5)
    for _ in range(40_000):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 8))):
            data[draw.randrange(len(data))] = draw.choice((0, 1, 255, draw.randrange(256)))
        try:
            record = read(bytes(data))
        except BadRecord:
            continue
        assert sum(map(len, record.fields.values())) + len(record.blob) <= len(data)


def test_many_pointers_to_one_place_do_not_multiply_it():
    """A list of 60 parts that all lead to the same 6,000 bytes would be 360,000."""
    message = SCHEMA.new_message()
    parts = message.init("nonrecursiveBlob", 60)
    parts[0] = b"x" * 6_000
    data = bytearray(message.to_bytes())
    assert read(bytes(data)).blob == b"x" * 6_000
    first = next(at for at in range(8, len(data), 8) if int.from_bytes(data[at : at + 8], "little") >> 35 == 6_000)
    pointer = int.from_bytes(data[first : first + 8], "little")
    for number in range(1, 60):
        data[first + 8 * number : first + 8 * number + 8] = (pointer - (number << 2)).to_bytes(8, "little")
    with pytest.raises(BadRecord):
        read(bytes(data))
