"""The record classes and the `.avsc` files beside them say the same, field by field."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from schemas import records, registry
from schemas.records import RECORDS

_PRIMITIVES = {str: {"string"}, int: {"int", "long"}, float: {"float", "double"}, bool: {"boolean"}, bytes: {"bytes"}}


def agrees(annotation: Any, avro: Any) -> bool:
    """Whether a Python annotation and an Avro type say the same."""
    if isinstance(annotation, UnionType):
        (inner,) = [arm for arm in get_args(annotation) if arm is not NoneType]
        return isinstance(avro, list) and len(avro) == 2 and avro[0] == "null" and agrees(inner, avro[1])
    if get_origin(annotation) is list:
        (item,) = get_args(annotation)
        return isinstance(avro, dict) and avro["type"] == "array" and agrees(item, avro["items"])
    if get_origin(annotation) is dict:
        _, value = get_args(annotation)
        return isinstance(avro, dict) and avro["type"] == "map" and agrees(value, avro["values"])
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return (
            isinstance(avro, dict)
            and avro["name"].rpartition(".")[2] == annotation.__name__
            and fields_agree(annotation, avro["fields"])
        )
    return isinstance(avro, str) and avro in _PRIMITIVES[annotation]


def fields_agree(record: type[msgspec.Struct], avro_fields: list[dict[str, Any]]) -> bool:
    """Whether all fields agree: names, their order, types, nullability and defaults."""
    hints = get_type_hints(record)
    fields = msgspec.structs.fields(record)
    assert [field.name for field in fields] == [field["name"] for field in avro_fields]
    for field, avro in zip(fields, avro_fields, strict=True):
        assert agrees(hints[field.name], avro["type"]), f"{field.name}: {hints[field.name]} against {avro['type']}"
        made = field.default_factory
        default = field.default if made is msgspec.NODEFAULT else made()
        assert avro.get("default", msgspec.NODEFAULT) == default, f"{field.name}: the defaults differ"
    return True


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_class_agrees_with_its_schema(name: str) -> None:
    assert fields_agree(RECORDS[name], registry.current(name).parsed["fields"])


def test_every_schema_has_a_record_class_and_every_record_class_a_schema() -> None:
    current = {schema.name for schema in registry.known().values() if schema.current}
    assert current == set(RECORDS)


def test_a_default_agrees_in_type_with_its_field() -> None:
    # Avro takes the default of a union from its first arm; fastavro would not complain before a reader needs it
    for schema in registry.known().values():
        for field in schema.parsed["fields"]:
            if isinstance(field["type"], list):
                assert field["type"][0] == "null", f"{schema.name}.{field['name']}"
                assert field["default"] is None, f"{schema.name}.{field['name']}"


def test_every_field_says_what_it_is_for() -> None:
    for schema in registry.known().values():
        assert [field["name"] for field in schema.parsed["fields"] if not field.get("doc")] == []


def test_records_are_values() -> None:
    letter = records.Evidence(id="1", at_ms=1, source="kernel_log", text="Xid 79")
    with pytest.raises(AttributeError):
        letter.text = "Xid 48"  # type: ignore[misc]
