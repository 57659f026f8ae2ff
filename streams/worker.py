"""Five agents of a Faust app that read runs, call the cores in `partitions/`, and write what comes out.

The order is fixed and is what makes a kill harmless: read a run, compute, deliver the outputs, deliver the memory, then
let the run be acknowledged. Whatever is lost in between is done again from the memory, and gives the same records.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from confluent_kafka import KafkaException
from faust.types import TP

from schemas.catalog import load
from schemas.catalog.causes import causes
from schemas.catalog.metrics import watch_list
from schemas.codec import SingleObjectCodec
from schemas.topics import ANOMALIES, COUNTERS, EVENTS, FAULTS, SAMPLES
from streams import metrics
from streams.app import build_app
from streams.delivery import Delivery, persistently
from streams.garbage import collect_seldom
from streams.inventory import InventoryWatch
from streams.partitions import CounterPartition, FaultPartition, IncidentPartition, Outcome, SamplePartition
from streams.readback import InventoryFeed, Reader
from streams.readings.decode import Message, Rejected
from streams.rebuild import Rebuilder
from streams.settings import StreamsSettings
from streams.topology import Topology
from streams.transport import calm_logs
from streams.writer import Writer

log = structlog.get_logger()

_INPUTS = (SAMPLES, COUNTERS, EVENTS, ANOMALIES, FAULTS)
_READINGS = (SAMPLES, COUNTERS)
_GATHER_S = 0.1
"""How often incidents are looked at that gather their faults: a page waits for it."""
_IDLE_LOOK_S = 1.0


class Worker:
    """One process of the stream processors. Partitions come and go with the consumer group's rebalances."""

    def __init__(self, settings: StreamsSettings, *, kafka: Mapping[str, str], data_dir: Path) -> None:
        calm_logs()
        self._settings = settings
        self._bootstrap = kafka["bootstrap.servers"]
        codec = SingleObjectCodec()
        override = Path(settings.catalog_override) if settings.catalog_override else None
        catalog = load(override)
        limits = Path(settings.metrics_override) if settings.metrics_override else None
        watched = watch_list(limits).check(catalog.faults)
        self._topology = Topology()
        self._rebuilder = Rebuilder(
            settings, partial(Reader, kafka), codec, catalog, causes(), watched, self._topology, _now_ms
        )
        self._inventory = InventoryFeed(kafka, codec)
        self._following = asyncio.Lock()
        self._watch = InventoryWatch(catalog, settings.two_places_ms)
        self._probe = Reader(kafka, settings.app_id)
        self._samples: dict[int, SamplePartition] = {}
        self._counters: dict[int, CounterPartition] = {}
        self._faults: dict[int, FaultPartition] = {}
        self._incidents: dict[int, IncidentPartition] = {}
        self._assigned: dict[tuple[str, int], int] = {}
        """What is ours, and since when by the clock."""
        self._handled: dict[tuple[str, int], int] = {}
        """Up to where, in what is ours."""
        self._looked_at: set[int] = set()
        """Partitions of samples in which nothing has come since they are ours, and of which no more can be told."""
        self._locks: dict[tuple[str, int], asyncio.Lock] = {}
        self.app = build_app(settings, kafka=kafka, folder=data_dir / "streams", in_runs=frozenset(_INPUTS))
        self.app.on_partitions_revoked.connect(self._on_revoked)
        self.app.on_partitions_assigned.connect(self._on_assigned)
        self._topics = {topic: self.app.topic(topic, key_serializer="raw", value_serializer="raw") for topic in _INPUTS}
        self._writer = Writer(kafka)
        self._delivery = Delivery(self._writer, codec)
        self._register()

    def _register(self) -> None:
        handlers: dict[str, Callable[[int, Sequence[Message]], Awaitable[Outcome]]] = {
            SAMPLES: self._run_samples,
            COUNTERS: self._run_counters,
            EVENTS: self._run_evidence,
            ANOMALIES: self._run_evidence,
            FAULTS: self._run_faults,
        }
        for topic, handle in handlers.items():
            # concurrency 1: a partition's runs end in their order, which is what lets the highest offset be committed
            self.app.agent(self._topics[topic], name=f"fleetpulse.{topic}", concurrency=1)(self._agent(topic, handle))
        self._repeat(_GATHER_S, partial(self._go_on, FAULTS))
        self._repeat(_IDLE_LOOK_S, partial(self._go_on, EVENTS))
        self._repeat(_IDLE_LOOK_S, self._on_second)
        self._repeat(_IDLE_LOOK_S, self._on_inventory)

    def _repeat(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do it again and again with a pause between, so that it never overlaps itself, however slow Kafka is."""

        async def task() -> None:
            while not self.app.should_stop:
                await self.app.sleep(seconds)
                await work()

        self.app.task(task)

    def _agent(
        self, topic: str, handle: Callable[[int, Sequence[Message]], Awaitable[Outcome]]
    ) -> Callable[[Any], Awaitable[None]]:
        async def agent(stream: Any) -> None:
            async for run in stream:
                await self._handle(topic, run, handle)

        return agent

    async def _handle(
        self, topic: str, run: Sequence[Message], handle: Callable[[int, Sequence[Message]], Awaitable[Outcome]]
    ) -> None:
        partition, began = run[-1].partition, time.monotonic()
        async with self._lock(topic, partition):
            outcome = await self._work(topic, run, handle)
            if (topic, partition) not in self._assigned:
                self._drop({(topic, partition)})  # taken from us meanwhile: what we hold is no longer what is true
        metrics.MESSAGES.labels(topic).inc(len(run))
        metrics.READINGS.inc(outcome.readings)
        metrics.LATE.inc(outcome.late)
        metrics.RUN_SECONDS.labels(topic).observe(time.monotonic() - began)
        self._handled[topic, partition] = run[-1].offset + 1
        self._measure_lag(topic, partition)

    def _measure_lag(self, topic: str, partition: int) -> None:
        tp, handled = TP(topic, partition), self._handled.get((topic, partition))
        highwater = self.app.consumer.highwater(tp) if tp in self.app.consumer.assignment() else None
        if highwater is not None and handled is not None:
            metrics.LAG.labels(topic, partition).set(max(0, highwater - handled))

    async def _work(
        self, topic: str, run: Sequence[Message], handle: Callable[[int, Sequence[Message]], Awaitable[Outcome]]
    ) -> Outcome:
        partition = run[-1].partition
        try:
            outcome = await persistently("reading state back", lambda: handle(partition, run))
        except Exception as error:
            # Faust would acknowledge the run and go on in silence
            metrics.FAILED_RUNS.labels(topic).inc()
            if topic not in _READINGS:
                self._drop({(topic, partition)})  # half done: what was kept before the run is whole
            if topic not in _READINGS and len(run) > 1:
                log.exception("a run failed; going through it one by one", topic=topic, partition=partition)
                for message in run:
                    outcome = await self._work(topic, [message], handle)
                return outcome
            log.exception("records could not be handled and go to dead.letters", topic=topic, partition=partition)
            reason = f"{type(error).__name__}: {error}"
            outcome = Outcome(rejected=[Rejected(message, "processing_failed", reason) for message in run])
        await self._deliver(partition, outcome)
        return outcome

    async def _run_samples(self, partition: int, run: Sequence[Message]) -> Outcome:
        held = self._samples.get(partition)
        if held is None:
            first = run[0]
            held = await asyncio.to_thread(self._rebuilder.samples, partition, first.offset, first.timestamp)
            self._samples[partition] = held
        return held.run(run, _now_ms())

    async def _run_counters(self, partition: int, run: Sequence[Message]) -> Outcome:
        held = self._counters.get(partition)
        if held is None:
            first = run[0]
            held = await asyncio.to_thread(self._rebuilder.counters, partition, first.offset, first.timestamp)
            self._counters[partition] = held
        return held.run(run, _now_ms())

    async def _run_evidence(self, partition: int, run: Sequence[Message]) -> Outcome:
        return (await self._fault_partition(partition)).run(run, _now_ms())

    async def _run_faults(self, partition: int, run: Sequence[Message]) -> Outcome:
        return (await self._incident_partition(partition)).run(run, _now_ms())

    async def _fault_partition(self, partition: int) -> FaultPartition:
        """What is held of a partition of evidence, read back first where nothing is. The caller has its lock."""
        if partition not in self._faults:
            self._faults[partition] = await asyncio.to_thread(self._rebuilder.faults, partition)
        return self._faults[partition]

    async def _incident_partition(self, partition: int) -> IncidentPartition:
        """The same for faults."""
        if partition not in self._incidents:
            self._incidents[partition] = await asyncio.to_thread(self._rebuilder.incidents, partition)
        return self._incidents[partition]

    async def _go_on(self, topic: str) -> None:
        """Time goes on for faults (`EVENTS`) or incidents (`FAULTS`), also where nothing comes."""
        for of, partition in sorted(self._assigned):
            if of != topic:
                continue
            async with self._lock(topic, partition):
                if (topic, partition) not in self._assigned:
                    continue  # taken from us while we waited
                held = await persistently("reading state back", partial(self._timed, topic, partition))
                if (topic, partition) not in self._assigned:
                    self._drop({(topic, partition)})
                    continue
                await self._deliver(partition, held.advance(_now_ms()))
                gauge = metrics.OPEN_INCIDENTS if topic == FAULTS else metrics.OPEN_FAULTS
                gauge.labels(partition).set(len(held))
                if isinstance(held, FaultPartition):
                    for (kind, health), count in held.health.items():
                        metrics.COMPONENTS.labels(partition, kind, health).set(count)

    async def _timed(self, topic: str, partition: int) -> FaultPartition | IncidentPartition:
        if topic == FAULTS:
            return await self._incident_partition(partition)
        return await self._fault_partition(partition)

    async def _on_second(self) -> None:
        """Follow the inventory; let the clock judge partitions in which nothing comes and nothing waits."""
        try:
            await self._follow()
        except KafkaException as error:
            log.warning("the inventory cannot be read; going on with what is known", reason=str(error))
            for held in self._samples.values():
                held.unseen(_now_ms())  # the broker is away, which says nothing of the nodes
        for topic, partition in sorted(self._assigned):
            self._measure_lag(topic, partition)
            if topic == SAMPLES:
                await self._judge_quiet(partition)

    async def _follow(self) -> None:
        """Learn what has come to the inventory. Raises `KafkaException`."""
        async with self._following:
            for partition, offset, arrived_ms, record in await asyncio.to_thread(self._inventory.follow):
                self._topology.learn(record)
                for held in self._faults.values():
                    held.learnt(record)
                self._watch.take(partition, offset, arrived_ms, record)

    async def _on_inventory(self) -> None:
        """Tell what the inventory shows: moves, contradictions. The worker that has partition 0 of the events does.

        A task of its own: it waits for Kafka as long as Kafka is away, and the clock must not wait with it.
        """
        if (EVENTS, 0) not in self._assigned:
            self._watch.hush()
            return
        if not self._watch.tells:
            memory = await persistently("reading state back", lambda: asyncio.to_thread(self._rebuilder.memory, 0))
            await persistently("reading the inventory", self._follow)  # at least as far as whoever told before
            self._watch.resume(memory, self._inventory.ends)
        await self._deliver(0, self._watch.tell())

    async def _judge_quiet(self, partition: int) -> None:
        held, now_ms = self._samples.get(partition), _now_ms()
        if held is None:
            since_ms = self._assigned.get((SAMPLES, partition), now_ms)
            if partition not in self._looked_at and now_ms - since_ms > self._settings.idle_ms:
                await self._begin_quiet(partition)
            return
        if not held.idle(now_ms):
            return
        try:
            end = await asyncio.to_thread(self._probe.end, SAMPLES, partition)
        except KafkaException:
            held.unseen(now_ms)
            return
        async with self._lock(SAMPLES, partition):
            if end == held.next_offset and self._samples.get(partition) is held:
                await self._deliver(partition, held.advance(_now_ms()))

    async def _begin_quiet(self, partition: int) -> None:
        """Nothing has come since a partition is ours, so no run has had its windows rebuilt.

        A rack that went dark just before must be missed all the same.
        """
        async with self._lock(SAMPLES, partition):
            if partition in self._samples:
                return
            try:
                newest = await asyncio.to_thread(self._probe.last, SAMPLES, partition)
                committed = await asyncio.to_thread(self._probe.committed, SAMPLES, partition)
                if newest is not None and committed != newest.offset + 1:
                    return  # something waits, and will come as a run
                self._looked_at.add(partition)
                if newest is None:
                    return
                held = await asyncio.to_thread(
                    self._rebuilder.samples, partition, newest.offset + 1, newest.timestamp, newest
                )
            except KafkaException:
                return
            if (SAMPLES, partition) in self._assigned:
                self._samples[partition] = held

    async def _deliver(self, partition: int, outcome: Outcome) -> None:
        await self._delivery.deliver(partition, outcome, _now_ms())

    def _lock(self, topic: str, partition: int) -> asyncio.Lock:
        """Evidence of both topics folds into one book; everything else has a lock of its own."""
        return self._locks.setdefault((EVENTS if topic == ANOMALIES else topic, partition), asyncio.Lock())

    async def _on_assigned(self, _: Any, assigned: set[Any], **__: Any) -> None:
        ours = {(tp.topic, tp.partition) for tp in assigned}
        held = {(SAMPLES, at) for at in self._samples} | {(COUNTERS, at) for at in self._counters}
        held |= {(EVENTS, at) for at in self._faults}
        self._drop((held | {(FAULTS, at) for at in self._incidents}) - ours)
        self._assigned = dict.fromkeys(ours, _now_ms())
        self._looked_at.clear()

    async def _on_revoked(self, _: Any, revoked: set[Any], **__: Any) -> None:
        """Another worker may go on from what we have written, so what we hold is worth nothing from here on."""
        gone = {(tp.topic, tp.partition) for tp in revoked}
        for topic, partition in gone:
            if self._handled.pop((topic, partition), None) is not None:
                metrics.LAG.remove_by_labels({"topic": topic, "partition": str(partition)})
        self._assigned = {tp: since_ms for tp, since_ms in self._assigned.items() if tp not in gone}
        self._drop(gone)

    def _drop(self, partitions: set[tuple[str, int]]) -> None:
        held: dict[str, dict[int, Any]] = {
            SAMPLES: self._samples,
            COUNTERS: self._counters,
            EVENTS: self._faults,
            ANOMALIES: self._faults,
            FAULTS: self._incidents,
        }
        gauges = {EVENTS: metrics.OPEN_FAULTS, FAULTS: metrics.OPEN_INCIDENTS}
        for topic, partition in partitions:
            held[topic].pop(partition, None)
            if topic in gauges:
                gauges[topic].remove(partition)  # whose number it is now is another's to say
            if topic == EVENTS:
                metrics.COMPONENTS.remove_by_labels({"partition": str(partition)})

    async def serve(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Work until `stop` is set. Raises what crashed the app."""
        try:
            await self._follow()
        except KafkaException as error:
            raise ConnectionError(
                f"cannot read fleet.inventory from Kafka at {self._bootstrap}: "
                f"{self._inventory.trouble() or error.args[0].str()}; "
                "start the broker, create the topics (`fleetpulse topics`), or set kafka.bootstrap to one that answers"
            ) from error
        with self._writer:
            await self.app.start()
            log.info("stream processors are up", group=self._settings.app_id, broker=self._bootstrap)
            try:
                while not stop.is_set():
                    if self.app.crashed:
                        raise self.app.crash_reason or RuntimeError("the Faust app crashed")
                    beat()
                    await asyncio.sleep(0.2)
            finally:
                await self.app.stop()
                self._inventory.close()
                self._probe.close()


def run(
    settings: StreamsSettings,
    *,
    kafka: Mapping[str, str],
    data_dir: Path,
    stop: threading.Event,
    beat: Callable[[], None],
) -> None:
    """The body of a worker process; returns when `stop` is set.

    `kafka` is a librdkafka client configuration. Raises `ConnectionError` where no broker answers, `CredentialsError`
    where Faust cannot log in as it says.
    """

    async def main() -> None:
        await Worker(settings, kafka=kafka, data_dir=data_dir).serve(stop, beat)

    collect_seldom()
    asyncio.run(main())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
