"""The inventory topic, read as a whole and written to."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from producers.inventory.compare import key_of
from producers.publisher import Publisher
from producers.settings import PublisherSettings
from schemas.codec import CodecError, SingleObjectCodec
from schemas.records import InventoryRecord
from schemas.topics import INVENTORY

_WAIT_S = 10.0
_POLL_S = 0.05
_BATCH = 5000
_TIMED_OUT, _PARTITION_EOF = KafkaError._TIMED_OUT, KafkaError._PARTITION_EOF  # noqa: SLF001 - documented as public


class TopicError(ConnectionError):
    """The topic cannot be read or written; the message says where, why and what to do."""


def read(kafka: Mapping[str, Any]) -> list[InventoryRecord]:
    """All records that are there now, in the order of the log. Raises `TopicError`.

    `kafka` is librdkafka client configuration. Records that cannot be decoded are passed over: the loader dead-letters
    them.
    """
    consumer = Consumer(
        {
            "log_level": 2,
            "logger": logging.getLogger("librdkafka"),
            **kafka,
            "group.id": "fleetpulse-inventory",  # required by the client; nothing is joined or committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    where = kafka.get("bootstrap.servers", "Kafka")
    try:
        return _read(consumer)
    except KafkaException as error:
        why: KafkaError = error.args[0]
        raise TopicError(
            f"cannot read {INVENTORY} from Kafka at {where}: {why.str()}; is the broker there, and the topic "
            "(`fleetpulse topics`)? `fleetpulse doctor` looks"
        ) from error
    finally:
        consumer.close()


def publish(kafka: Mapping[str, Any], settings: PublisherSettings, records: Iterable[InventoryRecord]) -> int:
    """Send records; returns how many Kafka has acknowledged. Raises `TopicError` where that is not all of them."""
    publisher = Publisher(kafka, settings)
    sent = 0
    for record in records:
        while not publisher.publish(INVENTORY, key_of(record), record):
            publisher.poll(0.1)
        publisher.poll()
        sent += 1
    left = publisher.close(60.0)
    if left or publisher.failed:
        raise TopicError(
            f"{left + publisher.failed} of {sent} inventory records could not be sent to Kafka at "
            f"{kafka.get('bootstrap.servers', '?')}; load the file again when it is there"
        )
    return publisher.delivered


def _read(consumer: Consumer) -> list[InventoryRecord]:
    topic = consumer.list_topics(INVENTORY, timeout=_WAIT_S).topics[INVENTORY]
    if topic.error is not None:
        raise KafkaException(topic.error)
    codec = SingleObjectCodec()
    found: list[InventoryRecord] = []
    for number in sorted(topic.partitions):
        low, high = consumer.get_watermark_offsets(TopicPartition(INVENTORY, number), timeout=_WAIT_S)
        if low >= high:
            continue
        consumer.assign([TopicPartition(INVENTORY, number, low)])
        for message in _until_end(consumer, high):
            try:
                found.append(codec.decode(message.value(), InventoryRecord))
            except CodecError:
                continue
    return found


def _until_end(consumer: Consumer, high: int) -> Iterator[Message]:
    quiet_s = 0.0
    while True:
        messages = consumer.consume(_BATCH, timeout=_POLL_S)  # waits for a full batch, so the patience is ours
        quiet_s = 0.0 if messages else quiet_s + _POLL_S
        if quiet_s > _WAIT_S:
            raise KafkaException(KafkaError(_TIMED_OUT, "no answer"))
        for message in messages:
            error = message.error()
            if error is None and (message.offset() or 0) < high:
                yield message
            # the last records of a compacted topic may be gone: then only its end tells that it is reached
            if (error is not None and error.code() == _PARTITION_EOF) or (message.offset() or 0) >= high - 1:
                return
            if error is not None:
                raise KafkaException(error)
