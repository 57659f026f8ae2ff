"""Where records go that cannot be used: to the topic `dead.letters`, as they came, with the reason."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from schemas import topics
from schemas.codec import Codec
from schemas.records import DeadLetter

log = structlog.get_logger()

READER = "sinks.loader"
_KEPT_BYTES = 64 * 1024


class DeadLetters:
    """The way to the dead letters, shared by threads. The producer's own queue is its only state."""

    def __init__(self, kafka: dict[str, Any], codec: Codec, topic: str = topics.DEAD_LETTERS) -> None:
        self._codec = codec
        self._topic = topic
        self._producer = Producer(
            kafka
            | {
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "zstd",
                "partitioner": "murmur2_random",
                "linger.ms": 5,
            }
        )

    def send(self, letters: Iterable[DeadLetter], stop: threading.Event) -> bool:
        """Publish letters and wait until the broker has them all, for as long as it takes.

        Returns False where `stop` was set first. A record too large for the topic goes with its first 64 KiB.
        """
        waiting = [(letter, _Receipt()) for letter in letters]
        for letter, receipt in waiting:
            self._publish(letter, receipt, stop)
        while unsettled := [pair for pair in waiting if not pair[1].delivered]:
            if stop.is_set():
                return False
            self._producer.poll(0.1)
            for letter, receipt in unsettled:
                if receipt.error is not None:
                    self._again(letter, receipt, stop)
        return True

    def close(self) -> None:
        """Let what is under way arrive, for a few seconds at most; the rest was not confirmed and comes again."""
        self._producer.flush(5)
        self._producer.purge()
        self._producer.close()

    def _again(self, letter: DeadLetter, receipt: _Receipt, stop: threading.Event) -> None:
        error, receipt.error = receipt.error, None
        assert error is not None  # noqa: S101 - for the type checker: the caller looked
        log.warning("a dead letter was not taken and is sent again", topic=letter.topic, error=error.str())
        self._publish(letter, receipt, stop)

    def _publish(self, letter: DeadLetter, receipt: _Receipt, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._producer.produce(self._topic, self._codec.encode(letter), on_delivery=receipt.settle)
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE or len(letter.value) <= _KEPT_BYTES:
                    raise
                letter = _shortened(letter)
            else:
                return


class _Receipt:
    """What became of one letter."""

    __slots__ = ("delivered", "error")

    def __init__(self) -> None:
        self.delivered = False
        self.error: KafkaError | None = None

    def settle(self, error: KafkaError | None, _message: object) -> None:
        self.error, self.delivered = error, error is None


def _shortened(letter: DeadLetter) -> DeadLetter:
    return DeadLetter(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        reason=letter.reason,
        detail=f"{letter.detail} (the first {_KEPT_BYTES} of {len(letter.value)} bytes are kept here)",
        reader=letter.reader,
        key=letter.key,
        value=letter.value[:_KEPT_BYTES],
        observed_ms=letter.observed_ms,
    )
