"""Records of ours that come back to us: whether anybody could act on what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from schemas.catalog import ACTIONS, SEVERITIES
from schemas.codec import CodecError
from schemas.records import Anomaly, Fault, Record

_STATES: Mapping[type[Record], tuple[str, ...]] = {
    Anomaly: ("raised", "cleared"),
    Fault: ("open", "updated", "cleared"),
}

C = TypeVar("C", Anomaly, Fault)


def checked(record: C) -> C:
    """A record whose words are those of the catalogue. Raises `CodecError` for one that nobody could act on."""
    for name, word, known in (
        ("severity", record.severity, SEVERITIES),
        ("action", record.action, ACTIONS),
        ("state", record.state, _STATES[type(record)]),
    ):
        if word not in known:
            kind = type(record).__name__
            raise CodecError("unknown_word", f"{name} of the {kind} is {word!r}; known are {', '.join(known)}")
    return record
