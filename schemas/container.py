"""Undecoded Avro bodies of one writer schema as one object container block, for native decoders.

Bodies are concatenated behind a header that is written once per schema: nothing is decoded. `polars.read_avro` and
ClickHouse's `FORMAT Avro` read the result many times faster than records one by one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import fastavro

from schemas.registry import Schema

_SYNC_BYTES = 16


def _avro_long(number: int) -> bytes:
    """Avro's zig-zag variable-length long (specification, `Binary encoding`)."""
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number & ~0x7F:
        out.append((number & 0x7F) | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@cache
def header(schema: Schema, codec: str = "null") -> bytes:
    """What an object container file with records of `schema` begins with; its blocks hold them in Avro's `codec`."""
    head = io.BytesIO()
    # The canonical form, because Polars 2.1 refuses a header whose int fields have defaults ("OutOfSpec").
    # A fixed sync marker makes the same bodies the same bytes: a redone insert is byte-equal.
    fastavro.writer(head, schema.canonical, [], codec=codec, sync_marker=schema.fingerprint * 2)
    return head.getvalue()


def block(schema: Schema, count: int, data: bytes) -> tuple[bytes, ...]:
    """A block of `count` records, which `data` holds as the file's codec has them: pieces that belong one behind the
    other, not yet copied together.
    """
    return _avro_long(count), _avro_long(len(data)), data, header(schema)[-_SYNC_BYTES:]


def frame(schema: Schema, bodies: Sequence[bytes]) -> bytes:
    """One Avro object container file with one block that holds `bodies`, all written with `schema`."""
    return b"".join((header(schema), *block(schema, len(bodies), b"".join(bodies))))
