"""The Faust app: four agents that read runs, call the cores in `partitions.py`, and write what comes out.

The order is fixed and is what makes a kill harmless: read a run, compute, deliver the outputs, deliver the memory, then
let the run be acknowledged. Whatever is lost in between is done again from the memory, and gives the same records.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import faust
import structlog
from aiokafka.errors import KafkaError as AioKafkaError
from confluent_kafka import KafkaException
from faust.types import TP
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter
from yarl import URL

from schemas.catalog import load
from schemas.catalog.causes import causes
from schemas.codec import SingleObjectCodec
from schemas.records import Anomaly, Fault, Incident, Record
from schemas.topics import ANOMALIES, DEAD_LETTERS, EVENTS, FAULTS, INCIDENTS, SAMPLES, STREAMS_STATE
from streams import metrics
from streams.partitions import FaultPartition, IncidentPartition, Outcome, SamplePartition, dead_letter
from streams.readback import InventoryFeed, Reader
from streams.samples import Message, Rejected
from streams.settings import StreamsSettings
from streams.topology import Topology
from streams.transport import RunTransport

log = structlog.get_logger()

READER = "streams"
_OUTPUTS: Mapping[type[Record], tuple[str, Callable[[Any], str]]] = {
    Anomaly: (ANOMALIES, lambda anomaly: anomaly.rack),
    Fault: (FAULTS, lambda fault: fault.site),
    Incident: (INCIDENTS, lambda incident: incident.site),
}
_INPUTS = (SAMPLES, EVENTS, ANOMALIES, FAULTS)
_TIMER_S = 0.1
_IDLE_LOOK_S = 1.0
_LONGEST_RETRY_S = 5.0
_Send = tuple[str, bytes | None, bytes | None, int | None]
"""Topic, key, value, and the partition where the key does not decide it."""

T = TypeVar("T")


class Worker:
    """One process of the stream processors. Partitions come and go with the consumer group's rebalances."""

    def __init__(self, settings: StreamsSettings, *, bootstrap: str, data_dir: Path, name: str = "") -> None:
        self._settings = settings
        self._bootstrap = bootstrap
        self._codec = SingleObjectCodec()
        override = Path(settings.catalog_override) if settings.catalog_override else None
        self._catalog = load(override)
        self._topology = Topology()
        self._inventory = InventoryFeed(bootstrap, self._codec, self._topology)
        self._probe = Reader(bootstrap)
        self._samples: dict[int, SamplePartition] = {}
        self._faults: dict[int, FaultPartition] = {}
        self._incidents: dict[int, IncidentPartition] = {}
        self._assigned: set[tuple[str, int]] = set()
        self._locks: dict[tuple[str, int], asyncio.Lock] = {}
        self.app = self._build_app(data_dir, name)
        self._topics = {
            topic: self.app.topic(topic, key_serializer="raw", value_serializer="raw")
            for topic in (*_INPUTS, INCIDENTS, DEAD_LETTERS, STREAMS_STATE)
        }
        self._register()

    def _build_app(self, data_dir: Path, name: str) -> faust.App:
        app = faust.App(
            self._settings.app_id,
            broker=f"kafka://{self._bootstrap}",
            datadir=str(data_dir / f"streams{name}"),
            key_serializer="raw",
            value_serializer="raw",
            store="memory://",
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            consumer_auto_offset_reset="earliest",
            broker_session_timeout=6.0,  # with the heartbeat: back from a kill in 4 to 18 s (measured)
            broker_heartbeat_interval=1.0,
            broker_commit_interval=1.0,
            broker_max_poll_records=4 * self._settings.max_run,
            consumer_max_fetch_size=8 * 1024 * 1024,
            producer_acks=-1,
            producer_linger=0,
            producer_compression_type="lz4",
            stream_wait_empty=True,
        )
        transport = RunTransport([URL(f"kafka://{self._bootstrap}")], app)
        transport.topics_in_runs = frozenset(_INPUTS)
        transport.longest_run = self._settings.max_run
        app.transport = transport
        app.on_partitions_revoked.connect(self._on_revoked)
        app.on_partitions_assigned.connect(self._on_assigned)
        return app

    def _register(self) -> None:
        handlers: dict[str, Callable[[int, Sequence[Message]], Awaitable[Outcome]]] = {
            SAMPLES: self._run_samples,
            EVENTS: self._run_evidence,
            ANOMALIES: self._run_evidence,
            FAULTS: self._run_faults,
        }
        for topic, handle in handlers.items():
            # concurrency 1: a partition's runs end in their order, which is what lets the highest offset be committed
            self.app.agent(self._topics[topic], name=f"fleetpulse.{topic}", concurrency=1)(self._agent(topic, handle))
        self.app.timer(_TIMER_S)(self._on_timer)
        self.app.timer(_IDLE_LOOK_S)(self._on_second)

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
            try:
                outcome = await self._persist("reading state back", lambda: handle(partition, run))
            except Exception as error:
                # Faust would acknowledge the run and go on in silence
                log.exception(
                    "this run could not be handled; its records go to dead.letters", topic=topic, partition=partition
                )
                metrics.FAILED_RUNS.labels(topic).inc()
                reason = f"{type(error).__name__}: {error}"
                outcome = Outcome(rejected=[Rejected(message, "processing_failed", reason) for message in run])
            await self._deliver(partition, outcome)
        metrics.MESSAGES.labels(topic).inc(len(run))
        metrics.READINGS.inc(outcome.readings)
        metrics.LATE.inc(outcome.late)
        metrics.RUN_SECONDS.labels(topic).observe(time.monotonic() - began)
        behind = self.app.consumer.highwater(TP(topic, partition)) - run[-1].offset - 1
        metrics.LAG.labels(topic, partition).set(max(0, behind))

    async def _run_samples(self, partition: int, run: Sequence[Message]) -> Outcome:
        held = self._samples.get(partition)
        if held is None:
            held = self._samples[partition] = await asyncio.to_thread(self._rebuild_samples, partition, run[0])
        return held.run(run, _now_ms())

    async def _run_evidence(self, partition: int, run: Sequence[Message]) -> Outcome:
        return (await self._fault_partition(partition)).run(run)

    async def _run_faults(self, partition: int, run: Sequence[Message]) -> Outcome:
        return (await self._incident_partition(partition)).run(run, _now_ms())

    def _rebuild_samples(self, partition: int, first: Message) -> SamplePartition:
        """Windows follow from the last minutes of the log; read them back up to where the group stands."""
        with metrics.REBUILD_SECONDS.time():
            reader = Reader(self._bootstrap)
            try:
                held = SamplePartition(self._settings, self._codec, reader.state(partition))
                since_ms = first.timestamp - self._settings.rebuild_ms
                for messages in reader.samples_before(partition, first.offset, since_ms):
                    held.rebuild(messages)
            finally:
                reader.close()
        return held

    async def _fault_partition(self, partition: int) -> FaultPartition:
        if partition not in self._faults:
            memory = await asyncio.to_thread(self._memory, partition)
            if partition not in self._faults:
                self._faults[partition] = FaultPartition(self._catalog, self._topology, self._codec, memory)
        return self._faults[partition]

    async def _incident_partition(self, partition: int) -> IncidentPartition:
        if partition not in self._incidents:
            memory = await asyncio.to_thread(self._memory, partition)
            self._incidents[partition] = IncidentPartition(
                self._settings, self._catalog, causes(), self._topology, self._codec, memory
            )
        return self._incidents[partition]

    def _memory(self, partition: int) -> dict[str, bytes]:
        reader = Reader(self._bootstrap)
        try:
            return reader.state(partition)
        finally:
            reader.close()

    async def _on_timer(self) -> None:
        """Time goes on for faults and incidents, also where nothing comes."""
        for topic, partition in sorted(self._assigned):
            async with self._lock(topic, partition):
                if topic == FAULTS:
                    incidents = await self._incident_partition(partition)
                    await self._deliver(partition, incidents.advance(_now_ms()))
                    metrics.OPEN_INCIDENTS.labels(partition).set(len(incidents))
                elif topic == EVENTS:
                    faults = await self._fault_partition(partition)
                    await self._deliver(partition, faults.advance(_now_ms()))
                    metrics.OPEN_FAULTS.labels(partition).set(len(faults))

    async def _on_second(self) -> None:
        """Follow the inventory; let the clock judge partitions in which nothing comes and nothing waits."""
        try:
            await asyncio.to_thread(self._inventory.follow)
        except KafkaException as error:
            log.warning("the inventory cannot be read; going on with what is known", reason=str(error))
        for partition, held in list(self._samples.items()):
            if not held.idle(_now_ms()):
                continue
            try:
                end = await asyncio.to_thread(self._probe.end, SAMPLES, partition)
            except KafkaException:
                continue  # the broker is away, which says nothing of the nodes
            async with self._lock(SAMPLES, partition):
                if end == held.next_offset and self._samples.get(partition) is held:
                    await self._deliver(partition, held.advance(_now_ms()))

    async def _deliver(self, partition: int, outcome: Outcome) -> None:
        """Outputs first, then the memory that takes them for written; each delivery is awaited."""
        now_ms = _now_ms()
        letters = [dead_letter(rejected, READER, now_ms) for rejected in outcome.rejected]
        for rejected in outcome.rejected:
            metrics.REJECTED.labels(rejected.message.topic, rejected.reason).inc()
        sends: list[_Send] = []
        for record in outcome.records:
            topic, key = _OUTPUTS[type(record)]
            sends.append((topic, key(record).encode(), self._codec.encode(record), None))
        sends += [(DEAD_LETTERS, None, self._codec.encode(letter), None) for letter in letters]
        memory: list[_Send] = [(STREAMS_STATE, key.encode(), state, partition) for key, state in outcome.memory.items()]
        await self._persist("writing outputs", lambda: self._send_all(sends))
        await self._persist("writing state", lambda: self._send_all(memory))

    async def _persist(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again for as long as the broker is away: an exception would make Faust acknowledge what is not done."""

        def tell(state: RetryCallState) -> None:
            reason = state.outcome.exception() if state.outcome else None
            log.warning(
                "Kafka does not answer; trying again", doing=what, attempt=state.attempt_number, reason=str(reason)
            )

        async for trial in AsyncRetrying(
            retry=retry_if_exception_type((KafkaException, AioKafkaError)),
            wait=wait_exponential_jitter(initial=0.2, max=_LONGEST_RETRY_S),
            before_sleep=tell,
        ):
            with trial:
                return await attempt()
        raise AssertionError("unreachable: the retry has no end")

    async def _send_all(self, sends: Sequence[_Send]) -> None:
        if not sends:
            return
        pending = [
            await self._topics[topic].send(key=key, value=value, partition=partition)
            for topic, key, value, partition in sends
        ]
        await asyncio.gather(*pending)
        for topic, *_ in sends:
            metrics.WRITTEN.labels(topic).inc()

    def _lock(self, topic: str, partition: int) -> asyncio.Lock:
        """Evidence of both topics folds into one book; everything else has a lock of its own."""
        return self._locks.setdefault((EVENTS if topic == ANOMALIES else topic, partition), asyncio.Lock())

    async def _on_assigned(self, _: Any, assigned: set[Any], **__: Any) -> None:
        self._assigned = {(tp.topic, tp.partition) for tp in assigned}

    async def _on_revoked(self, _: Any, revoked: set[Any], **__: Any) -> None:
        self._assigned -= {(tp.topic, tp.partition) for tp in revoked}
        held: dict[str, dict[int, Any]] = {SAMPLES: self._samples, EVENTS: self._faults, FAULTS: self._incidents}
        for tp in revoked:
            held.get(tp.topic, {}).pop(tp.partition, None)

    async def serve(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Work until `stop` is set. Raises what crashed the app."""
        await asyncio.to_thread(self._inventory.follow)
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
    settings: StreamsSettings, *, bootstrap: str, data_dir: Path, stop: threading.Event, beat: Callable[[], None]
) -> None:
    """The body of a worker process; returns when `stop` is set. Raises where the broker cannot be reached."""

    async def main() -> None:
        await Worker(settings, bootstrap=bootstrap, data_dir=data_dir).serve(stop, beat)

    asyncio.run(main())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
