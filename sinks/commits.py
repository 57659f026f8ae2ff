"""Kafka commits that many threads ask for and one makes.

All calls on a consumer come from the thread that polls it: confluent-kafka 2.16 loses the answer to a synchronous
commit when another thread polls meanwhile, and then blocks both for ever (measured: within a few hundred commits).
It also makes giving up a partition simple: rebalance callbacks run on the same thread, so nothing can slip in after.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition

log = structlog.get_logger()

_PAUSE_SECONDS = 0.2
_QUIET_SECONDS = 5.0


class PartitionGoneError(Exception):
    """The partition is no longer ours, so nothing may be committed for it."""


class Consumer(Protocol):
    """What is needed of a confluent-kafka consumer."""

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> object:
        """Send offsets to the group's coordinator."""


class _Request:
    """One commit that a thread waits for."""

    __slots__ = ("due", "position", "said", "settled", "since", "under_way")

    def __init__(self, position: TopicPartition) -> None:
        self.position = position
        self.settled = threading.Event()
        self.under_way = False
        self.since = time.monotonic()
        self.due = 0.0
        self.said = False


class Claim:
    """The right to commit for a partition, from its assignment to its revocation. Assigned again, it is a new claim."""

    def __init__(self, commits: Commits, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.request: _Request | None = None
        self.released = False
        self._commits = commits

    def commit(self, offset: int, metadata: str) -> None:
        """Have an offset and its metadata committed; blocks until the broker has it. For the partition's thread.

        Raises `PartitionGoneError` where the claim was or is being released.
        """
        request = _Request(TopicPartition(self.topic, self.partition, offset, metadata))
        self._commits.ask(self, request)
        request.settled.wait()
        if self.released:
            raise PartitionGoneError

    def release(self) -> None:
        """The partition is no longer ours: a commit that waits, and every later one, is refused. Does not block."""
        self._commits.release(self)


class Commits:
    """The claims of one consumer, each with at most one request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[tuple[str, int], Claim] = {}

    def claim(self, topic: str, partition: int) -> Claim:
        """The partition was assigned to us."""
        claim = Claim(self, topic, partition)
        with self._lock:
            self._claims[topic, partition] = claim
        return claim

    def ask(self, claim: Claim, request: _Request) -> None:
        """Take a request in. Raises `PartitionGoneError` where the claim was released."""
        with self._lock:
            if claim.released:
                raise PartitionGoneError
            claim.request = request

    def release(self, claim: Claim) -> None:
        """Refuse what the claim asks for, now and later."""
        with self._lock:
            claim.released = True
            if self._claims.get((claim.topic, claim.partition)) is claim:
                del self._claims[claim.topic, claim.partition]
            if claim.request is not None:
                claim.request.settled.set()

    def make(self, consumer: Consumer) -> None:
        """Send what is asked for; the answers come to `answered` while polling. For the consumer's thread."""
        now = time.monotonic()
        with self._lock:
            requests = [claim.request for claim in self._claims.values() if claim.request is not None]
            due = [request for request in requests if not request.under_way and request.due <= now]
            for request in due:
                request.under_way = True
        if due:
            positions = [request.position for request in due]
            try:
                consumer.commit(offsets=positions, asynchronous=True)
            except KafkaException as error:
                self.answered(error.args[0], positions)

    def answered(self, error: KafkaError | None, positions: Iterable[TopicPartition]) -> None:
        """The broker's answer (librdkafka's `on_commit`): what failed is asked for again."""
        with self._lock:
            for position in positions:
                claim = self._claims.get((position.topic, position.partition))
                request = None if claim is None else claim.request
                if claim is None or request is None or not _same(request.position, position):
                    continue  # of a claim that was released meanwhile
                failed = position.error or error
                if failed is None:
                    claim.request = None
                    request.settled.set()
                else:
                    _again(request, failed)


def _same(asked: TopicPartition, answered: TopicPartition) -> bool:
    return asked.offset == answered.offset and (asked.metadata or "") == (answered.metadata or "")


def _again(request: _Request, error: KafkaError) -> None:
    # while a group rebalances, commits fail for a moment: that is no news
    if not request.said and time.monotonic() - request.since > _QUIET_SECONDS:
        request.said = True
        log.warning(
            "Kafka did not take a commit: trying again",
            topic=request.position.topic,
            partition=request.position.partition,
            error=error.str(),
        )
    request.under_way = False
    request.due = time.monotonic() + _PAUSE_SECONDS
