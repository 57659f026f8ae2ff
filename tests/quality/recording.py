"""A day of a simulated fleet, through the real decoder, windows and detectors: what was found, and what was true.

No Kafka: its clock is the fleet's own. A message arrives some milliseconds after its tick, an event a quarter of a
second after it happened, an anomaly when the tick that closes its own has arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from producers.settings import SimulateSettings
from producers.simulate.fleet import SimulatedFleet
from producers.simulate.topology import racks_of
from producers.simulate.truth import Truth
from schemas.codec import SingleObjectCodec
from schemas.records import Anomaly, HardwareEvent, InventoryRecord
from schemas.topics import SAMPLES
from streams.detect import SampleProcessor
from streams.settings import StreamsSettings

START_MS = 1_767_225_600_000
"""2026-01-01: any midnight would do."""
SAMPLE_DELAY_MS = 50
EVENT_DELAY_MS = 250
"""An agent looks at its kernel log so often."""
_TICKS_A_RUN = 6


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
    processor = SampleProcessor(streams, SingleObjectCodec())
    # a tick closes with the first message that is a grace later
    closes_ms = -(-streams.grace_ms // scene.interval_ms) * scene.interval_ms + SAMPLE_DELAY_MS
    number = {node.name: node.number for node in fleet.nodes}
    arrived: list[Arrived] = []
    run: list[_Message] = []
    refused = offset = 0
    for tick in range((scene.end_ms - START_MS) // scene.interval_ms):
        step = fleet.step()
        arrived += [Arrived(step.tick_ms, placed) for placed in step.placements()]
        for event in fleet.events(step):
            happened_ms = event.event_ms - step.skew_ms.get(number[event.node], 0)
            arrived.append(Arrived(happened_ms + EVENT_DELAY_MS, event))
        at_ms = step.tick_ms + SAMPLE_DELAY_MS
        for _, body in fleet.encoded(step, step.tick_ms):
            run.append(_Message(SAMPLES, 0, offset, at_ms, None, body))
            offset += 1
        if tick % _TICKS_A_RUN == 0:
            findings = processor.run(run)
            refused += len(findings.rejected)
            arrived += [Arrived(anomaly.tick_ms + closes_ms, anomaly) for anomaly in findings.anomalies]
            run = []
    return Recording(
        scene,
        tuple(sorted(arrived, key=lambda one: one.at_ms)),
        tuple(fleet.truth()),
        tuple(fleet.inventory()),
        fleet.homeless,
        refused,
    )
