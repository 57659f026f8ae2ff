"""The Avro schemas this build knows: the current ones, and the earlier ones it can still read.

`*.avsc` beside this module are what producers write. `earlier/*.avsc` are versions that were once current, kept because
a fleet is never upgraded at one instant; readers resolve them to the current version (new fields take their default).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from fastavro import parse_schema
from fastavro.schema import fingerprint, to_parsing_canonical_form

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, eq=False)
class Schema:
    """One version of one record's schema."""

    name: str
    """The record's name without the namespace, e.g. `GpuSample`."""
    fingerprint: bytes
    """CRC-64-AVRO of the parsing canonical form, eight bytes, little-endian as on the wire."""
    parsed: dict[str, Any]
    """The schema as fastavro takes it, with documentation and defaults."""
    canonical: dict[str, Any]
    """Its parsing canonical form: what decides how bytes are laid out, and no more."""
    current: bool
    """Whether producers of this build write it."""


def parse(source: bytes, *, current: bool) -> Schema:
    """Read one `.avsc` document. Raises `msgspec.DecodeError` or `SchemaParseException` where it is not one."""
    document = msgspec.json.decode(source)
    canonical = to_parsing_canonical_form(document)
    return Schema(
        name=document["name"],
        # fastavro prints the number's bytes in the order in which they go on the wire
        fingerprint=bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO")),
        parsed=parse_schema(document),
        canonical=msgspec.json.decode(canonical),
        current=current,
    )


@cache
def known() -> dict[bytes, Schema]:
    """Every schema of this build by fingerprint."""
    found = [parse(path.read_bytes(), current=False) for path in sorted(FOLDER.glob("earlier/*.avsc"))]
    # last, because a version that differs only in words has the fingerprint of the one before
    found += [parse(path.read_bytes(), current=True) for path in sorted(FOLDER.glob("*.avsc"))]
    return {schema.fingerprint: schema for schema in found}


@cache
def current(name: str) -> Schema:
    """The schema that producers of this build write for a record. Raises `KeyError` where there is none."""
    for schema in known().values():
        if schema.current and schema.name == name:
            return schema
    raise KeyError(name)
