"""A replay through Kafka: events are published like an agent's, and each hop is waited for by its committed offsets.

The answer comes the whole way round, by no other path than live data takes.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import Consumer, KafkaException, TopicPartition
from msgspec.structs import replace

from infra import addresses, pipeline
from infra.errors import OperatorError
from infra.presence import present
from infra.settings import Settings
from schemas.codec import CodecError, SingleObjectCodec
from schemas.records import Fault, HardwareEvent, Incident, InventoryRecord, Record
from schemas.topics import EVENTS, FAULTS, INCIDENTS
from streams.replay import Outcome

if TYPE_CHECKING:
    from infra.options import Options

_LOOK_SECONDS = 0.3
_LEARN_SECONDS = 3.0
"""Workers look at the inventory each second."""
_SPEAK_SECONDS = 1.5
"""Incidents speak by the wall clock, some time after they have settled."""
_FLUSH_SECONDS = 5.5
"""Counts of repeats are written at the latest after so long (`streams.faults`)."""

R = TypeVar("R", bound=Record)


@contextmanager
def reached(options: Options, settings: Settings, say: Callable[[str], None]) -> Iterator[Pipeline]:
    """The pipeline that runs on the data directory, or on your Kafka; else one that is started for the occasion."""
    if settings.kafka.bootstrap is not None or "kafka" in present(settings.data_dir.absolute()):
        yield Pipeline(settings, lambda: None, say)
        return
    said: set[str] = set()

    def waiting(what: str) -> None:
        if what not in said:
            said.add(what)
            say(f"no pipeline runs on {settings.data_dir}: starting {what} …")

    log_dir = settings.data_dir.absolute() / "log"
    with pipeline.running(settings, options.repeated(settings), log_dir=log_dir, waiting=waiting) as supervisor:
        yield Pipeline(settings, supervisor.step, say)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline that runs."""

    settings: Settings
    look_after: Callable[[], None]
    """Called while waiting, where we have started it."""
    say: Callable[[str], None]

    def send(
        self,
        events: Sequence[HardwareEvent],
        inventory: Sequence[InventoryRecord],
        pauses: Sequence[int],
        seconds: float,
    ) -> str:
        """Send what was recorded and wait for its incidents; says what is still on its way after `seconds`.

        Before each of the `pauses` (event time) it waits until the incidents so far have spoken. What of the inventory
        is new or different is sent first; nothing that is declared is taken back.
        """
        self._tell(inventory)
        where = addresses.bootstrap(self.settings)
        parts = list(_cut(events, pauses))
        self.say(
            f"sending to {where}" + (f", in {len(parts)} parts that wait for each other" if len(parts) > 1 else "")
        )
        late = ""
        for part in parts:
            self._publish(part)
            late = self._settled(time.monotonic() + seconds)
            if late:
                return late
        time.sleep(_FLUSH_SECONDS)
        return self._settled(time.monotonic() + seconds)

    def wait_for_history(self, seconds: float) -> str:
        """Wait until ClickHouse has it; says what it has not after `seconds`."""
        deadline = time.monotonic() + seconds
        behind = self._behind(self.settings.loader.group, [EVENTS, FAULTS, INCIDENTS], deadline)
        time.sleep(0.5)
        return f"loader: {behind} records behind" if behind else ""

    def outcome(self, events: Sequence[HardwareEvent]) -> Outcome:
        """The faults that have an event of ours as evidence, and their incidents, as the stream workers wrote them."""
        ours = {event.event_id for event in events}
        faults = list(self._records(FAULTS, Fault))
        mine = {fault.fault_id for fault in faults if any(piece.id in ours for piece in fault.evidence)}
        outcome = Outcome()
        for fault in faults:
            if fault.fault_id in mine:
                outcome.take(fault)
        for incident in self._records(INCIDENTS, Incident):
            if any(member.fault_id in mine for member in incident.members):
                outcome.take(incident)
        return outcome

    def _tell(self, inventory: Sequence[InventoryRecord]) -> None:
        """Send what of the inventory is not known as it was when the log began."""
        from producers.inventory import compare, topic

        if not inventory:
            return
        kafka, now_ms = addresses.kafka_client(self.settings), time.time_ns() // 1_000_000
        first = {compare.key_of(record): record for record in reversed(inventory) if not record.removed}
        known = {compare.key_of(record): record for record in topic.read(kafka)}
        told = [replace(record, seen_ms=now_ms) for record in first.values()]
        news = [record for record in told if _as_told(known.get(compare.key_of(record))) != _as_told(record)]
        if news:
            self.say(f"telling {len(news)} components of the inventory")
            topic.publish(kafka, self.settings.agent.publish, news)
            time.sleep(_LEARN_SECONDS)

    def _publish(self, events: Sequence[HardwareEvent]) -> None:
        from producers.publisher import Publisher

        publisher = Publisher(addresses.kafka_client(self.settings), self.settings.agent.publish)
        for event in events:
            while not publisher.publish(EVENTS, event.rack, event):
                publisher.poll(0.1)
        left = publisher.close(30.0)
        if left or publisher.failed:
            raise OperatorError(
                f"{left + publisher.failed} of {len(events)} events could not be sent to "
                f"{addresses.bootstrap(self.settings)}; is the broker there? `fleetpulse doctor` looks"
            )

    def _settled(self, deadline: float) -> str:
        """Wait until the stream workers have taken all in and incidents have spoken; says what is behind."""
        group = self.settings.streams.app_id
        if behind := self._behind(group, [EVENTS], deadline):
            return f"stream workers on events: {behind} records behind"
        if behind := self._behind(group, [FAULTS], deadline):
            return f"stream workers on faults: {behind} records behind"
        time.sleep(self.settings.streams.settle_ms / 1000 + _SPEAK_SECONDS)
        return ""

    def _behind(self, group: str, topics: Sequence[str], deadline: float) -> int:
        """How many records a consumer group is behind of where the topics end now, 0 as soon as it is not."""
        consumer = self._consumer(group)
        try:
            listed = consumer.list_topics(timeout=10).topics
            places = [TopicPartition(topic, number) for topic in topics for number in listed[topic].partitions]
            ends = {(one.topic, one.partition): consumer.get_watermark_offsets(one, timeout=10)[1] for one in places}
            while True:
                committed = {
                    (one.topic, one.partition): max(one.offset, 0) for one in consumer.committed(places, timeout=10)
                }
                behind = int(sum(max(0, end - committed.get(place, 0)) for place, end in ends.items()))
                if behind == 0 or time.monotonic() > deadline:
                    return behind
                self.look_after()
                time.sleep(_LOOK_SECONDS)
        except (KafkaException, KeyError) as error:
            raise OperatorError(
                f"Kafka at {addresses.bootstrap(self.settings)} does not say how far {group} is: {error}"
            ) from error
        finally:
            consumer.close()

    def _records(self, topic: str, kind: type[R]) -> Iterator[R]:
        """All records of a topic that are there now; what cannot be decoded is passed over. Raises `OperatorError`."""
        from streams.readback import Reader

        codec = SingleObjectCodec()
        where = addresses.bootstrap(self.settings)
        consumer, reader = self._consumer("fleetpulse-replay"), Reader(addresses.kafka_client(self.settings))
        try:
            for partition in sorted(consumer.list_topics(topic, timeout=10).topics[topic].partitions):
                for batch in reader.whole(topic, partition):
                    for record in batch:
                        with suppress(CodecError):
                            yield codec.decode(record.value, kind)
        except KafkaException as error:
            raise OperatorError(f"{topic} cannot be read from Kafka at {where}: {error}") from error
        finally:
            consumer.close()
            reader.close()

    def _consumer(self, group: str) -> Consumer:
        client: dict[str, Any] = {**addresses.kafka_client(self.settings), "group.id": group, "log_level": 0}
        return Consumer(client)


def _cut(events: Sequence[HardwareEvent], pauses: Sequence[int]) -> Iterator[Sequence[HardwareEvent]]:
    """The events between the pauses; none of the parts is empty."""
    first = 0
    for pause_ms in pauses:
        end = bisect_left(events, pause_ms, key=lambda event: event.event_ms)
        if first < end < len(events):
            yield events[first:end]
            first = end
    yield events[first:]


def _as_told(record: InventoryRecord | None) -> InventoryRecord | None:
    """Without when it was told."""
    return record and replace(record, seen_ms=0)
