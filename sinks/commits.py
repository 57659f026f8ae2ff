"""Kafka commits that many threads ask for and one makes.

All calls on a consumer come from the thread that polls it: confluent-kafka 2.16 loses the answer to a synchronous
commit when another thread polls meanwhile, and then blocks both for ever (measured: within a few hundred commits).
It also makes giving up a partition simple: rebalance callbacks run on the same thread, so nothing can slip in after.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

log = structlog.get_logger()

_PAUSE_SECONDS = 0.2
_QUIET_SECONDS = 5.0


class PartitionGoneError(Exception):
    """The partition is no longer ours, so nothing may be committed for it."""


class _Request:
    """One commit that a thread waits for."""

    __slots__ = ("due", "gone", "position", "said", "settled", "since", "under_way")

    def __init__(self, position: TopicPartition) -> None:
        self.position = position
        self.settled = threading.Event()
        self.gone = False
        self.under_way = False
        self.due = 0.0
        self.since = time.monotonic()
        self.said = False


class Commits:
    """The requests: at most one per partition, since each partition's thread waits for its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, int], _Request] = {}
        self._gone: set[tuple[str, int]] = set()

    def commit(self, position: TopicPartition) -> None:
        """Have an offset and its metadata committed; blocks until the broker has it. For any thread.

        Raises `PartitionGoneError` where the partition was given up.
        """
        request = _Request(position)
        place = (position.topic, position.partition)
        with self._lock:
            if place in self._gone:
                raise PartitionGoneError
            self._requests[place] = request
        request.settled.wait()
        if request.gone:
            raise PartitionGoneError

    def make(self, consumer: Consumer) -> None:
        """Send what is asked for; the answers come to `answered` while polling. For the consumer's thread."""
        now = time.monotonic()
        with self._lock:
            due = [request for request in self._requests.values() if not request.under_way and request.due <= now]
            for request in due:
                request.under_way = True
        if due:
            try:
                consumer.commit(offsets=[request.position for request in due], asynchronous=True)
            except KafkaException as error:
                self.answered(error.args[0], [request.position for request in due])

    def answered(self, error: KafkaError | None, positions: Iterable[TopicPartition]) -> None:
        """The broker's answer (librdkafka's `on_commit`): what failed is asked for again."""
        with self._lock:
            for position in positions:
                request = self._requests.get((position.topic, position.partition))
                if request is None or request.position.offset != position.offset:
                    continue
                failed = position.error or error
                if failed is None:
                    del self._requests[position.topic, position.partition]
                    request.settled.set()
                    continue
                # while a group rebalances, commits fail for a moment: that is no news
                if not request.said and time.monotonic() - request.since > _QUIET_SECONDS:
                    log.warning(
                        "Kafka did not take a commit: trying again",
                        topic=position.topic,
                        partition=position.partition,
                        error=failed.str(),
                    )
                    request.said = True
                request.under_way = False
                request.due = time.monotonic() + _PAUSE_SECONDS

    def ours(self, topic: str, partition: int) -> None:
        """The partition was assigned to us."""
        with self._lock:
            self._gone.discard((topic, partition))

    def gone(self, topic: str, partition: int) -> None:
        """The partition is no longer ours: whoever waits for a commit of it, now or later, is told so."""
        with self._lock:
            self._gone.add((topic, partition))
            request = self._requests.pop((topic, partition), None)
        if request is not None:
            request.gone = True
            request.settled.set()
