"""Reading parts of topics back, outside the consumer group: state, windows, the inventory.

Everything here blocks and uses a consumer of its own that commits nothing. A worker calls it from a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka.partitioner import murmur2
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from schemas.codec import CodecError, SingleObjectCodec
from schemas.records import InventoryRecord
from schemas.topics import INVENTORY, STREAMS_STATE

_WAIT_S = 10.0
_POLL_S = 0.05
_BATCH = 2000
_TIMED_OUT, _PARTITION_EOF = KafkaError._TIMED_OUT, KafkaError._PARTITION_EOF  # noqa: SLF001 - documented as public
_ALL_BROKERS_DOWN = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001 - the same


@dataclass(frozen=True, slots=True)
class Record:
    """A Kafka record in the shape that `streams.readings.decode.Message` asks for."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None

    @classmethod
    def of(cls, message: KafkaMessage) -> Record:
        """The same in our shape."""
        _, stamped_ms = message.timestamp()
        return cls(message.topic(), message.partition(), message.offset(), stamped_ms, message.key(), message.value())


class Reader:
    """A consumer without a group. Close it when done."""

    def __init__(self, kafka: Mapping[str, str], group: str = "fleetpulse-readback") -> None:
        """`kafka` is a librdkafka client configuration."""
        self._trouble: str | None = None
        self._consumer = Consumer(
            {
                **kafka,
                "error_cb": self._note,
                "group.id": group,  # required by the client; nothing is joined or committed, only looked up
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "log_level": 2,  # what fails is raised; the client would tell of every attempt to connect
            },
            logger=logging.getLogger("librdkafka"),
        )

    def close(self) -> None:
        """Let the connections go."""
        self._consumer.close()

    def trouble(self) -> str | None:
        """What the client has said is wrong with the connection, which is more than that nobody answered."""
        if not self._consumer.assignment():
            self._consumer.poll(0)  # it says so when it is asked
        return self._trouble

    def _note(self, error: KafkaError) -> None:
        if error.code() != _ALL_BROKERS_DOWN:  # follows from what was said before
            self._trouble = error.str()

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises `KafkaException` where no broker answers."""
        return len(self._consumer.list_topics(topic, timeout=_WAIT_S).topics[topic].partitions)

    def end(self, topic: str, partition: int) -> int:
        """The offset behind the last record. Raises `KafkaException` where no broker answers within a second."""
        _, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=1.0, cached=False)
        return int(high)

    def last(self, topic: str, partition: int) -> Record | None:
        """The last record of a partition; None where it is empty. Raises `KafkaException`."""
        low, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=1.0, cached=False)
        records = [one for batch in self.between(topic, partition, max(low, high - 1), high) for one in batch]
        return records[-1] if records else None

    def committed(self, topic: str, partition: int) -> int | None:
        """The offset at which the reader's group will go on; None where it has none. Raises `KafkaException`."""
        (found,) = self._consumer.committed([TopicPartition(topic, partition)], timeout=1.0)
        return None if found.offset < 0 else int(found.offset)

    def between(self, topic: str, partition: int, first: int, end: int) -> Iterator[Sequence[Record]]:
        """Records with offsets from `first` to below `end`, in batches.

        Raises `KafkaException` where the broker says no, and where it says nothing for ten seconds.
        """
        if first >= end:
            return
        self._consumer.assign([TopicPartition(topic, partition, first)])
        quiet_s = 0.0
        try:
            while True:
                # consume() waits for a full batch, so the patience is ours
                messages = self._consumer.consume(_BATCH, timeout=_POLL_S)
                quiet_s = 0.0 if messages else quiet_s + _POLL_S
                if quiet_s > _WAIT_S:
                    raise KafkaException(KafkaError(_TIMED_OUT, f"no answer for {topic} [{partition}]"))
                records = [Record.of(_checked(m)) for m in messages if not _is_end(m) and m.offset() < end]
                if records:
                    yield records
                if any(_is_end(m) or m.offset() >= end - 1 for m in messages):
                    return
        finally:
            self._consumer.unassign()

    def whole(self, topic: str, partition: int) -> Iterator[Sequence[Record]]:
        """All records of a partition as it is now."""
        target = TopicPartition(topic, partition)
        low, high = self._consumer.get_watermark_offsets(target, timeout=_WAIT_S, cached=False)
        yield from self.between(topic, partition, low, high)

    def state(self, partition: int) -> dict[str, bytes]:
        """The stream processors' memory of a partition, by key."""
        newest: dict[str, bytes] = {}
        for records in self.whole(STREAMS_STATE, partition):
            for record in records:
                key = (record.key or b"").decode()
                if record.value:
                    newest[key] = record.value
                else:
                    newest.pop(key, None)
        return newest

    def before(self, topic: str, partition: int, offset: int, since_ms: int) -> Iterator[Sequence[Record]]:
        """What of a partition reached Kafka from `since_ms` on, up to below `offset`."""
        found = self._consumer.offsets_for_times([TopicPartition(topic, partition, since_ms)], timeout=_WAIT_S)
        first = found[0].offset
        if 0 <= first < offset:
            yield from self.between(topic, partition, first, offset)


def partition_of(key: str, partitions: int) -> int:
    """Where Kafka's own way to spread keys, which all our producers use, puts a key."""
    return int((murmur2(key.encode()) & 0x7FFF_FFFF) % partitions)


class Learnt(NamedTuple):
    """An inventory record, where it stands in the topic and when it got there."""

    partition: int
    offset: int
    arrived_ms: int
    record: InventoryRecord


class InventoryFeed:
    """The inventory topic, followed from its beginning."""

    def __init__(self, kafka: Mapping[str, str], codec: SingleObjectCodec) -> None:
        self._reader = Reader(kafka)
        self._codec = codec
        self._next: dict[int, int] = {}

    def trouble(self) -> str | None:
        """What the client has said is wrong with the connection."""
        return self._reader.trouble()

    @property
    def ends(self) -> dict[int, int]:
        """The offsets up to which was read, by partition."""
        return dict(self._next)

    def follow(self) -> list[Learnt]:
        """What has come since, in order. Raises `KafkaException`.

        A `Topology` learns it where it is also asked, not in the thread that reads: between two steps of a change a
        GPU is nowhere.
        """
        learnt: list[Learnt] = []
        for partition in self._partitions():
            end = self._reader.end(INVENTORY, partition)
            for records in self._reader.between(INVENTORY, partition, self._next.get(partition, 0), end):
                learnt += filter(None, map(self._decode, records))
            self._next[partition] = end
        return learnt

    def close(self) -> None:
        """Let the connections go."""
        self._reader.close()

    def _decode(self, record: Record) -> Learnt | None:
        try:
            decoded = self._codec.decode(record.value, InventoryRecord)
            return Learnt(record.partition, record.offset, record.timestamp, decoded)
        except CodecError:
            return None  # the sink dead-letters it; here the place just stays unknown

    def _partitions(self) -> list[int]:
        if not self._next:
            metadata = self._reader._consumer.list_topics(INVENTORY, timeout=_WAIT_S)  # noqa: SLF001 - same module
            self._next = dict.fromkeys(metadata.topics[INVENTORY].partitions, 0)
        return sorted(self._next)


def _is_end(message: Any) -> bool:
    error = message.error()
    return error is not None and error.code() == _PARTITION_EOF


def _checked(message: Any) -> KafkaMessage:
    if message.error() is not None:
        raise KafkaException(message.error())
    return message
