"""Kafka into ClickHouse: every topic into its table, each record once.

This module reads Kafka, cuts batches (`batches.py`) and hands them to one `PartitionLoader` per partition
(`partition.py`), which has the protocol. It never waits for ClickHouse: a partition whose batches pile up is paused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from schemas import topics
from schemas.codec import Codec, SingleObjectCodec
from schemas.records import DeadLetter
from sinks import metrics
from sinks.batches import Cutter, Intent, Limits, LogRewoundError
from sinks.clickhouse.insert import Client
from sinks.clickhouse.migrate import migrate
from sinks.clickhouse.tables import ROUTES, Route
from sinks.commits import Commits
from sinks.dead_letters import DeadLetters
from sinks.outage import Outage
from sinks.partition import Hands, PartitionLoader, may_pass
from sinks.settings import LoaderSettings

log = structlog.get_logger()

_POLL_SECONDS = 0.1
# commits are made between polls, so while batches are under way polls are short
_BUSY_POLL_SECONDS = 0.01
_POLL_RECORDS = 2_000
_LAG_SECONDS = 2.0
_DRAIN_SECONDS = 20.0
_ASK_SECONDS = 10.0
_CONSUMER: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    # a loader that joins or leaves takes only its own share of partitions with it
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 6_000,
    "heartbeat.interval.ms": 1_000,
    "fetch.wait.max.ms": 100,
    # memory for records that were fetched ahead
    "queued.max.messages.kbytes": 32 * 1024,
    # how long fetching stops once that is full: the default of a second leaves ClickHouse idle
    "fetch.queue.backoff.ms": 20,
}


T = TypeVar("T")


class _StoppingError(Exception):
    """The process stops, so a question to Kafka stays without an answer."""


class LoaderError(Exception):
    """The loader cannot go on; the message says why and what to do."""


def run(
    settings: LoaderSettings,
    *,
    kafka: dict[str, Any],
    connect: Callable[[], Any],
    stop: threading.Event,
    beat: Callable[[], None],
    routes: Iterable[Route] = ROUTES,
) -> None:
    """Load until `stop` is set. Blocks; `beat` is called several times a second.

    `kafka` is a librdkafka client configuration, `routes` says which topics go where, and `connect` gives a new
    `clickhouse_connect` client whose login may create tables. ClickHouse or Kafka being away is waited out. Raises
    `LoaderError` and `MigrationError` where only a human can help, and whatever shows a mistake in the loader itself:
    nothing is lost then, start it again.
    """
    outage = Outage()
    if not _migrate(settings, connect, outage, stop, beat):
        return
    routes = tuple(routes)
    codec = SingleObjectCodec()
    letters = DeadLetters(kafka, codec, next((r.topic for r in routes if r.kind is DeadLetter), topics.DEAD_LETTERS))
    try:
        _Loader(settings, kafka, connect, codec, letters, outage, routes, stop).run(beat)
    finally:
        letters.close()


def _migrate(
    settings: LoaderSettings,
    connect: Callable[[], Client],
    outage: Outage,
    stop: threading.Event,
    beat: Callable[[], None],
) -> bool:
    """Bring the tables up; waits while ClickHouse is away. Returns False where `stop` was set first."""
    while not stop.is_set():
        beat()
        try:
            client = connect()
            try:
                migrate(client, settings.database, beat=beat)
            finally:
                client.close()
        except Exception as error:
            if not may_pass(error):
                raise
            outage.failed("migrate", "-", error)
            stop.wait(0.5)
        else:
            outage.over("migrate")
            return True
    return False


@dataclass(slots=True)
class _Lane:
    """One partition of ours: what cuts its batches and what writes them."""

    cutter: Cutter
    loader: PartitionLoader
    newest_ms: int = 0
    paused: bool = False


class _Loader:
    """The consumer loop. State: one lane per assigned partition."""

    def __init__(
        self,
        settings: LoaderSettings,
        kafka: dict[str, Any],
        connect: Callable[[], Client],
        codec: Codec,
        letters: DeadLetters,
        outage: Outage,
        routes: tuple[Route, ...],
        stop: threading.Event,
    ) -> None:
        self._stop = stop
        self._routes = {route.topic: route for route in routes}
        self._limits = Limits(settings.batch_records, settings.batch_bytes, settings.batch_age_ms)
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._said: set[str] = set()
        self._topic_ids: dict[str, str] = {}
        self._kafka = kafka
        self._commits = Commits()
        self._consumer = Consumer(
            kafka
            | _CONSUMER
            | {"group.id": settings.group, "error_cb": self._trouble, "on_commit": self._commits.answered}
            | ({"group.instance.id": settings.instance} if settings.instance else {})
        )
        self._hands = Hands(
            commits=self._commits,
            connect=connect,
            codec=codec,
            letters=letters,
            outage=outage,
            database=settings.database,
            compression=settings.compression,
            retry_max_seconds=settings.retry_max_seconds,
            now_ms=_now_ms,
        )

    def run(self, beat: Callable[[], None]) -> None:
        self._consumer.subscribe(
            list(self._routes), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )
        lag_due = 0.0
        try:
            while not self._stop.is_set():
                beat()
                self._poll()
                self._cut_due()
                self._pause_and_resume()
                self._raise_failures()
                if time.monotonic() >= lag_due:
                    self._measure_lag()
                    lag_due = time.monotonic() + _LAG_SECONDS
        finally:
            self._drain()
            self._consumer.close()

    def _poll(self) -> None:
        busy = any(lane.loader.working for lane in self._lanes.values())
        for message in self._consumer.consume(_POLL_RECORDS, _BUSY_POLL_SECONDS if busy else _POLL_SECONDS):
            self._take(message)
        self._commits.make(self._consumer)

    def _drain(self) -> None:
        """Let what is being written end and be committed; what waits is dropped and read again after the next start."""
        for lane in self._lanes.values():
            lane.loader.finish()
        deadline = time.monotonic() + _DRAIN_SECONDS
        while any(lane.loader.alive for lane in self._lanes.values()) and time.monotonic() < deadline:
            self._commits.make(self._consumer)
            self._consumer.poll(_BUSY_POLL_SECONDS)

    def _take(self, message: Message) -> None:
        if (error := message.error()) is not None:
            self._trouble(error)
            return
        lane = self._lanes.get((message.topic() or "", message.partition() or 0))
        offset = message.offset()
        if lane is None or offset is None:
            return
        lane.newest_ms = message.timestamp()[1]
        try:
            done = lane.cutter.add(offset, message.key(), message.value(), _now_ms())
        except LogRewoundError as error:
            raise LoaderError(
                f"{message.topic()}/{message.partition()} is not the log it was: {error}. If the topic was made anew, "
                "start the loader again; if its end was lost, set the offsets of the loader's group to where to go on"
            ) from error
        for batch in done:
            lane.loader.put(batch, lane.newest_ms)

    def _cut_due(self) -> None:
        now_ms = _now_ms()
        for lane in self._lanes.values():
            # while a batch waits, the open one grows: the busier, the larger the batches
            if lane.loader.idle and lane.cutter.due(now_ms):
                for batch in lane.cutter.take():
                    lane.loader.put(batch, lane.newest_ms)

    def _pause_and_resume(self) -> None:
        for (topic, partition), lane in self._lanes.items():
            if lane.loader.full and not lane.paused:
                self._consumer.pause([TopicPartition(topic, partition)])
                lane.paused = True
            elif lane.paused and lane.loader.idle:
                self._consumer.resume([TopicPartition(topic, partition)])
                lane.paused = False
        metrics.PAUSED.set(sum(lane.paused for lane in self._lanes.values()))

    def _raise_failures(self) -> None:
        for lane in self._lanes.values():
            if lane.loader.failure is not None:
                raise lane.loader.failure

    def _measure_lag(self) -> None:
        for (topic, partition), lane in self._lanes.items():
            _, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
            if high >= 0:
                loaded = lane.cutter.start if lane.loader.loaded is None else lane.loader.loaded
                metrics.LAG_RECORDS.labels(topic, str(partition)).set(max(0, high - loaded))

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """New partitions: begin where the last owner stopped, with the batch that it had begun."""
        try:
            committed = self._committed(consumer, partitions) if partitions else []
            places = [self._take_over(consumer, found) for found in committed]
        except _StoppingError:
            places = []
        log.info("partitions assigned", partitions=[f"{place.topic}/{place.partition}" for place in places])
        consumer.incremental_assign(places)
        # librdkafka remembers that a partition was paused when it left us, and would never read it again
        if places:
            consumer.resume(places)

    def _take_over(self, consumer: Consumer, found: TopicPartition) -> TopicPartition:
        """Begin with a partition; `found` is what is committed for it. Returns where to read from."""
        topic, partition = found.topic, found.partition
        topic_id = self._topic_id(topic)
        intent = self._standing_intent(consumer, found, topic_id)
        start = max(found.offset, 0)
        begun = (start, intent.last) if intent else None
        self._lanes[topic, partition] = _Lane(
            Cutter(self._hands.codec, self._routes[topic].kind.__name__, self._limits, start, intent),
            PartitionLoader(self._routes[topic], partition, topic_id, self._hands, begun),
        )
        return TopicPartition(topic, partition, found.offset if found.offset >= 0 else OFFSET_BEGINNING)

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Partitions that are no longer ours: what was begun, the next owner does again."""
        for gone in partitions:
            lane = self._lanes.pop((gone.topic, gone.partition), None)
            if lane is not None:
                lane.loader.give_up()
                metrics.LAG_RECORDS.remove(gone.topic, str(gone.partition))
        log.info("partitions revoked", partitions=[f"{gone.topic}/{gone.partition}" for gone in partitions])

    def _committed(self, consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition]:
        wanted = [TopicPartition(place.topic, place.partition) for place in partitions]

        def ask() -> list[TopicPartition]:
            found: list[TopicPartition] = consumer.committed(wanted, timeout=_ASK_SECONDS)
            for place in found:
                if place.error is not None:
                    raise KafkaException(place.error)
            return found

        return self._ask(ask)

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask Kafka until it answers. Raises `_StoppingError` where the process stops before that."""
        while not self._stop.is_set():
            try:
                return question()
            except KafkaException as error:
                self._trouble(error.args[0])
                self._stop.wait(0.2)
        raise _StoppingError

    def _standing_intent(self, consumer: Consumer, found: TopicPartition, topic_id: str) -> Intent | None:
        intent = Intent.parse(found.metadata)
        if intent is None or found.offset < 0:
            return None
        name = f"{found.topic}/{found.partition}"
        if intent.topic_id != topic_id:
            log.warning("the topic was made anew since the last batch: beginning at its begin", partition=name)
            found.offset = OFFSET_BEGINNING
            return None
        place = TopicPartition(found.topic, found.partition)
        low, _ = self._ask(lambda: consumer.get_watermark_offsets(place, timeout=_ASK_SECONDS))
        if low > intent.last:
            log.error(
                "Kafka deleted records before they were loaded: raise the topic's retention, keep the loader running",
                partition=name,
                first=found.offset,
                last=low - 1,
            )
            return None
        return intent

    def _topic_id(self, topic: str) -> str:
        """The topic's id, which differs once it is deleted and made again; empty where the broker has none."""
        if topic not in self._topic_ids:
            wanted = TopicCollection([topic])
            with AdminClient(self._kafka) as admin:
                identity = self._ask(
                    lambda: admin.describe_topics(wanted, request_timeout=_ASK_SECONDS)[topic].result().topic_id
                )
            self._topic_ids[topic] = "" if identity is None else str(identity).rstrip("=")
        return self._topic_ids[topic]

    def _trouble(self, error: KafkaError) -> None:
        """Something is wrong with Kafka. It mends itself or is fatal; each kind is said once."""
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - that is its public name
            return
        if error.fatal():
            raise LoaderError(f"Kafka refuses this loader: {error.str()}")
        if error.name() not in self._said:
            self._said.add(error.name())
            log.warning("trouble with Kafka, going on as soon as it is over", error=error.str())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
