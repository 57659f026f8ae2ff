"""Whatever a record holds, it is read back as it was written; whatever bytes come, decoding ends in a reason."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import registry
from schemas.codec import HEADER_BYTES, MARKER, CodecError, SingleObjectCodec
from schemas.records import RECORDS, Record

CODEC = SingleObjectCodec()
REASONS = {"not_avro", "unknown_schema", "truncated", "trailing_bytes", "wrong_record"}
_PRIMITIVES = {
    "string": st.text(max_size=20),
    "bytes": st.binary(max_size=20),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    # not NaN, which equals nothing; it has a test of its own
    "float": st.floats(width=32, allow_nan=False),
    "double": st.floats(allow_nan=False),
}


def values(avro: Any) -> st.SearchStrategy[Any]:
    """Any value of an Avro type."""
    if isinstance(avro, list):
        return st.none() | values(avro[1])
    if isinstance(avro, str):
        return _PRIMITIVES[avro]
    if avro["type"] == "array":
        return st.lists(values(avro["items"]), max_size=3)
    if avro["type"] == "map":
        return st.dictionaries(st.text(max_size=5), values(avro["values"]), max_size=3)
    return st.fixed_dictionaries({field["name"]: values(field["type"]) for field in avro["fields"]})


def any_record(name: str) -> st.SearchStrategy[Record]:
    return values(registry.current(name).parsed).map(lambda fields: msgspec.convert(fields, RECORDS[name]))


def decoded(message: bytes, kind: type[Record]) -> Record | str:
    """The record, or the reason why it is none."""
    try:
        return CODEC.decode(message, kind)
    except CodecError as error:
        return error.reason


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_read_back_as_it_was_written(name: str) -> None:
    @settings(max_examples=30, deadline=None)
    @given(any_record(name))
    def holds(record: Record) -> None:
        assert CODEC.decode(CODEC.encode(record), type(record)) == record

    holds()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(sorted(RECORDS)), st.booleans())
def test_any_bytes_are_a_record_or_have_a_reason_why_not(garbage: bytes, name: str, looks_right: bool) -> None:
    message = MARKER + registry.current(name).fingerprint + garbage if looks_right else garbage
    read = decoded(message, RECORDS[name])
    if isinstance(read, str):
        assert read in REASONS
    else:
        # bytes may be written in more than one way; the record they stand for is one
        assert str(CODEC.decode(CODEC.encode(read), RECORDS[name])) == str(read)


@settings(max_examples=100, deadline=None)
@given(any_record("HardwareEvent"), st.data())
def test_one_changed_byte_never_raises_anything_else(record: Record, data: st.DataObject) -> None:
    message = bytearray(CODEC.encode(record))
    at = data.draw(st.integers(HEADER_BYTES, len(message) - 1))
    message[at] = data.draw(st.integers(0, 255))
    read = decoded(bytes(message), type(record))
    assert isinstance(read, Record) or read in REASONS
