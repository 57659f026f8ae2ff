"""A topic full of GPU samples: minutes of a large simulated fleet, written in seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from confluent_kafka import Producer

from producers.inventory.compare import key_of
from producers.settings import RackSpec, SimulateSettings
from producers.simulate.fleet import SimulatedFleet
from producers.simulate.library import library
from schemas.codec import SingleObjectCodec
from schemas.topics import EVENTS, INVENTORY, SAMPLES
from tests.benchmarks.context import BenchmarkError

_BEHIND_MS = 5_000
_FLUSH_S = 120.0
_READ_MS = 20
"""What an agent needs to read its GPUs."""
GPUS_PER_NODE, _NODES_PER_RACK = 8, 8


@dataclass(frozen=True, slots=True)
class FleetLog:
    """What lies in the topic."""

    racks: int
    """Of 8 nodes with 8 GPUs each."""
    ticks: int
    fault_rate: float = 0.0
    """So many times as many faults as in published fleets."""

    @property
    def nodes(self) -> int:
        """In all racks."""
        return self.racks * _NODES_PER_RACK

    @property
    def messages(self) -> int:
        """One per node and tick."""
        return self.nodes * self.ticks

    @property
    def samples(self) -> int:
        """GPU samples in all of them."""
        return self.messages * GPUS_PER_NODE


def send(
    bootstrap: str, prepared: Iterable[tuple[bytes, bytes]], *, topic: str = SAMPLES, one_by_one: bool = False
) -> int:
    """Write records to a topic; gives how many.

    `one_by_one`: each record is a batch of its own, as when every node has its own agent; else they come in large
    batches, as from one simulator or relay. Raises `BenchmarkError` where Kafka does not take them.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "compression.type": "zstd",
            "acks": 1,
            "linger.ms": 0 if one_by_one else 20,
            "batch.num.messages": 1 if one_by_one else 10_000,
            "queue.buffering.max.messages": 200_000,
            "log_level": 0,
        }
    )
    number = 0
    for number, (key, value) in enumerate(prepared, 1):
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1000 == 0:
            producer.poll(0)
    if left := producer.flush(_FLUSH_S):
        raise BenchmarkError(f"Kafka did not take {left} records of the prepared log within {_FLUSH_S:.0f} s")
    return number


def records(log: FleetLog) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each sample, tick by tick; the last tick is a few seconds ago."""
    yield from ((key, value) for topic, key, value in told(log) if topic == SAMPLES)


def told(log: FleetLog) -> Iterator[tuple[str, bytes, bytes]]:
    """Topic, key and value of all that stream workers read of the fleet: where things are, samples, events."""
    rack = RackSpec(kind="hgx", racks=log.racks, nodes=_NODES_PER_RACK)
    settings = SimulateSettings(
        racks=(rack,),
        faults=(),
        application_errors=False,
        fault_rate=log.fault_rate,
        fault_mix="even",
        fault_kinds=tuple(
            library().keys() - {"clock_skews"}
        ),  # such readings are refused, and then it is not one count
    )
    start_ms = (time.time_ns() // 1_000_000 - _BEHIND_MS - log.ticks * 1000) // 1000 * 1000
    fleet, codec = SimulatedFleet(settings, start_ms), SingleObjectCodec()
    for place in fleet.inventory():
        yield INVENTORY, key_of(place).encode(), codec.encode(place)
    for _ in range(log.ticks):
        step = fleet.step()
        for node, message in fleet.encoded(step, step.tick_ms + _READ_MS):
            yield SAMPLES, node.rack.encode(), message
        for event in fleet.events(step):
            yield EVENTS, event.rack.encode(), codec.encode(event)
