"""What a run led to."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.records import DeadLetter, Record
from streams.partitions.memory import Memory
from streams.readings.decode import Rejected

_LETTER_BYTES = 500_000
"""A dead letter holds so much of a value: with its envelope it must fit in a Kafka record of the usual limit."""


@dataclass(slots=True)
class Outcome:
    """What a run led to: records to write, in order; messages that could not be used; memory to keep afterwards."""

    records: list[Record] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    memory: Memory = field(default_factory=dict)
    readings: int = 0
    late: int = 0


def dead_letter(rejected: Rejected, reader: str, now_ms: int) -> DeadLetter:
    """The record for a message that could not be used."""
    message, detail = rejected.message, rejected.detail
    value = message.value or b""
    if len(value) > _LETTER_BYTES:
        detail += f" (the first {_LETTER_BYTES} of {len(value)} bytes)"
    return DeadLetter(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        reason=rejected.reason,
        detail=detail,
        reader=reader,
        key=message.key,
        value=value[:_LETTER_BYTES],
        observed_ms=now_ms,
    )
