"""What is kept of a partition, entry by entry, and taken back; up to where in its topics it has got."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import structlog

from streams.readings.decode import Message

log = structlog.get_logger()

Memory = dict[str, bytes | None]


def recall(memory: Mapping[str, bytes], kind: str, take_back: Callable[[str, bytes], None]) -> None:
    """Hand all entries of a kind over. One that cannot be read is of another build: what it held begins anew."""
    for key, state in memory.items():
        of, _, rest = key.partition("|")
        if of != kind:
            continue
        try:
            take_back(rest, state)
        except (msgspec.MsgspecError, zlib.error) as error:
            log.warning("memory of another build cannot be read and is left out", key=key, reason=str(error))


def kept(kind: str, changes: Mapping[str, bytes | None]) -> Memory:
    """Changes of one kind, as they are kept."""
    return {f"{kind}|{key}": state for key, state in changes.items()}


def applied_offsets(memory: Mapping[str, bytes], ends: Mapping[str, int], *topics: str) -> dict[str, int]:
    """The highest offset of each topic that the memory already holds."""
    applied = {topic: int(memory.get(f"applied|{topic}", b"-1")) for topic in topics}
    return {topic: offset if offset < ends[topic] else -1 for topic, offset in applied.items()}


def kept_offsets(applied: Mapping[str, int]) -> Memory:
    """The same, as they are kept."""
    return {f"applied|{topic}": str(offset).encode() for topic, offset in applied.items()}


def fresh(messages: Sequence[Message], applied: dict[str, int]) -> Iterable[Message]:
    """The messages that are not in the memory yet; `applied` follows."""
    for message in messages:
        if message.offset > applied[message.topic]:
            applied[message.topic] = message.offset
            yield message
