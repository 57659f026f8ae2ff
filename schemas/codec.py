"""Bytes on the wire: Avro single-object encoding, and what is wrong with bytes that are not.

A message is two marker bytes, the eight-byte fingerprint of the writer's schema, and the Avro body
(https://avro.apache.org/docs/1.12.0/specification/#single-object-encoding). No registry is needed: a build knows its
own schemas and the earlier ones (`registry.py`). A second wire format is a second `Codec`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from fastavro import schemaless_reader, schemaless_writer

from schemas import registry
from schemas.records import RECORDS, Record
from schemas.registry import Schema

MARKER = b"\xc3\x01"
HEADER_BYTES = len(MARKER) + 8

R = TypeVar("R", bound=Record)


class CodecError(ValueError):
    """Bytes that cannot be used. `reason` is the word that the dead letter carries, the message is for a human."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Framed:
    """A message taken apart, its body not decoded."""

    schema: Schema
    body: bytes


class Codec(Protocol):
    """How records become bytes and bytes become records. Nothing here blocks; all errors are `CodecError`."""

    def encode(self, record: Record) -> bytes:
        """Bytes of a record, written with the current schema of its class."""

    def split(self, message: bytes | None, name: str | None = None) -> Framed:
        """The writer's schema, which must be one of the record `name` where that is given, and the undecoded body."""

    def decode(self, message: bytes | None, kind: type[R]) -> R:
        """A record, resolved from the writer's schema to the current one."""


class SingleObjectCodec:
    """Avro single-object encoding over the schemas of this build."""

    def __init__(self) -> None:
        self._known = registry.known()
        self._head = {
            name: (MARKER + registry.current(name).fingerprint, registry.current(name).parsed) for name in RECORDS
        }

    def encode(self, record: Record) -> bytes:
        """Bytes of a record, written with the current schema of its class."""
        head, schema = self._head[type(record).__name__]
        out = io.BytesIO()
        out.write(head)
        schemaless_writer(out, schema, msgspec.to_builtins(record, builtin_types=(bytes,)))
        return out.getvalue()

    def split(self, message: bytes | None, name: str | None = None) -> Framed:
        """The writer's schema and the undecoded body. Raises `CodecError` (not_avro, unknown_schema, wrong_record)."""
        if message is None or message[:2] != MARKER or len(message) < HEADER_BYTES:
            found = "no bytes at all" if not message else f"bytes that begin {message[:8].hex(' ')}"
            raise CodecError("not_avro", f"expected Avro single-object encoding, found {found}")
        schema = self._known.get(message[2:HEADER_BYTES])
        if schema is None:
            raise CodecError(
                "unknown_schema",
                f"the writer's schema {message[2:HEADER_BYTES].hex()} is not one of this build's: "
                "the producer is newer than this reader, or not ours",
            )
        if name is not None and schema.name != name:
            raise CodecError("wrong_record", f"expected a {name}, found a {schema.name}")
        return Framed(schema, message[HEADER_BYTES:])

    def decode(self, message: bytes | None, kind: type[R]) -> R:
        """A record, resolved from the writer's schema to the current one.

        Raises `CodecError` (not_avro, unknown_schema, wrong_record, truncated, trailing_bytes, not_avro).
        """
        framed = self.split(message, kind.__name__)
        return msgspec.convert(self.decode_body(framed, kind.__name__), kind)

    @staticmethod
    def decode_body(framed: Framed, name: str) -> dict[str, Any]:
        """The fields of a body, resolved to the current schema `name`; the whole body must be used up."""
        source = io.BytesIO(framed.body)
        try:
            fields = schemaless_reader(source, framed.schema.parsed, registry.current(name).parsed)
        except Exception as error:  # fastavro raises whatever the garbage leads it to
            # in the middle of a number it raises IndexError
            if isinstance(error, EOFError | IndexError) and source.tell() >= len(framed.body):
                raise CodecError("truncated", f"the {name} ends early, after {len(framed.body)} bytes") from error
            raise CodecError("not_avro", f"the {name} does not decode: {type(error).__name__}: {error}") from error
        left = len(framed.body) - source.tell()
        if left:
            raise CodecError("trailing_bytes", f"{left} bytes are left over after the {name}")
        return fields  # type: ignore[no-any-return]
