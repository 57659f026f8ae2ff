"""A day of a simulated fleet, through the real decoder, windows and detectors: what was found, and what was true.

No Kafka: its clock is the fleet's own, which is right. A message arrives some milliseconds after the moment at which it
was made, whatever its node takes that moment for; an event a quarter of a second after it happened; an anomaly when the
tick that closes its own has arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from producers.settings import SimulateSettings
from producers.simulate.fleet import SimulatedFleet
from producers.simulate.topology import racks_of
from producers.simulate.truth import Truth
from schemas.codec import SingleObjectCodec
from schemas.records import Anomaly, HardwareEvent, InventoryRecord
from schemas.topics import COUNTERS, SAMPLES
from streams.readings.processor import CounterProcessor, Processor, SampleProcessor
from streams.settings import StreamsSettings
from streams.topology import Topology

START_MS = 1_767_225_600_000
"""2026-01-01: any midnight would do."""
SAMPLE_DELAY_MS = 50
EVENT_DELAY_MS = 250
"""An agent looks at its kernel log so often."""
_TICKS_A_RUN = 12


@dataclass(frozen=True, slots=True)
class Scene:
    """One simulated fleet."""

    seed: int
    mix: str
    """`even`: as many faults of each kind; `published`: as often as in real fleets, one to another."""
    fault_rate: float
    gpus: int = 1024
    hours: float = 24.0
    interval_ms: int = 10_000

    @property
    def end_ms(self) -> int:
        """The last moment of it."""
        return START_MS + round(self.hours * 3_600_000)


class Arrived(NamedTuple):
    """A record, and when it reached Kafka, in the fleet's own true time."""

    at_ms: int
    record: HardwareEvent | Anomaly | InventoryRecord


@dataclass(frozen=True, slots=True)
class Recording:
    """What a fleet told in a day, and what of it was trouble."""

    scene: Scene
    arrived: tuple[Arrived, ...]
    """In order."""
    truth: tuple[Truth, ...]
    inventory: tuple[InventoryRecord, ...]
    homeless: int
    """Faults that found no place."""
    refused: int
    """Messages that were no use, such as those of a clock hours ahead."""


class _Message(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class _Log:
    """One partition that is written, and read in runs."""

    def __init__(self, topic: str, processor: Processor, grace_ms: int, interval_ms: int) -> None:
        self.refused = 0
        self._topic, self._processor = topic, processor
        # a tick closes with the first message that is a grace later
        self._closes_ms = -(-grace_ms // interval_ms) * interval_ms + SAMPLE_DELAY_MS
        self._run: list[_Message] = []
        self._offset = 0

    def append(self, made_ms: int, bodies: Iterable[bytes]) -> None:
        """Messages that were made at one moment."""
        for body in bodies:
            self._run.append(_Message(self._topic, 0, self._offset, made_ms + SAMPLE_DELAY_MS, None, body))
            self._offset += 1

    def run(self) -> Iterator[Arrived]:
        """Read what was written since; gives what was found, and when that was known."""
        findings, self._run = self._processor.run(self._run), []
        self.refused += len(findings.rejected)
        for anomaly in findings.anomalies:
            yield Arrived(anomaly.tick_ms + self._closes_ms, anomaly)


def record(scene: Scene) -> Recording:
    """Live through it. About half a minute of one core for a day of 1,000 GPUs."""
    settings = SimulateSettings(
        racks=racks_of(scene.gpus),
        faults=(),
        fault_rate=scene.fault_rate,
        fault_mix="even" if scene.mix == "even" else "published",
        interval_ms=scene.interval_ms,
        seed=scene.seed,
    )
    fleet = SimulatedFleet(settings, START_MS)
    streams = StreamsSettings(tick_ms=scene.interval_ms, silence_ms=3 * scene.interval_ms)
    codec, topology = SingleObjectCodec(), Topology()
    for known in fleet.inventory():
        topology.learn(known)
    counters_ms = settings.counters_interval_s * 1000
    samples = _Log(SAMPLES, SampleProcessor(streams, codec, None, topology), streams.grace_ms, scene.interval_ms)
    counters = _Log(COUNTERS, CounterProcessor(streams, codec, None, topology), streams.counters_grace_ms, counters_ms)
    number = {node.name: node.number for node in fleet.nodes}
    arrived: list[Arrived] = []
    for tick in range((scene.end_ms - START_MS) // scene.interval_ms):
        step = fleet.step()
        arrived += [Arrived(step.tick_ms, placed) for placed in step.placements()]
        for event in fleet.events(step):
            happened_ms = event.event_ms - step.skew_ms.get(number[event.node], 0)
            arrived.append(Arrived(happened_ms + EVENT_DELAY_MS, event))
        samples.append(step.tick_ms, (body for _, body in fleet.encoded(step, step.tick_ms)))
        counters.append(step.tick_ms, (body for _, body in fleet.encoded_counters(step, step.tick_ms)))
        if tick % _TICKS_A_RUN == 0:
            arrived += [*samples.run(), *counters.run()]
    return Recording(
        scene,
        tuple(sorted(arrived, key=lambda one: one.at_ms)),
        tuple(fleet.truth()),
        tuple(fleet.inventory()),
        fleet.homeless,
        samples.refused + counters.refused,
    )
