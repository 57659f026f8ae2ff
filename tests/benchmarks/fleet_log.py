"""A topic full of GPU samples: a large simulated fleet's log, made faster than a fleet would.

The simulator's own ticks are encoded whole for a few seconds of fleet time, and their readings come round again with
new times: an Avro body is its fields one after the other, so a new head in front of the same arrays is a new record.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec
from confluent_kafka import Producer
from fastavro import parse_schema, schemaless_writer

from producers.settings import RackSpec, SimulateSettings
from producers.simulate.fleet import SimulatedFleet
from schemas import registry
from schemas.codec import MARKER
from schemas.records import GpuSample
from schemas.topics import SAMPLES
from tests.benchmarks.context import BenchmarkError

_HEAD_FIELDS = ("site", "rack", "node", "boot_id", "sequence", "tick_ms", "observed_ms", "interval_ms")
_BEHIND_MS = 5_000
_GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True)
class FleetLog:
    """What lies in the topic."""

    nodes: int
    ticks: int
    fresh_ticks: int = 8
    """Ticks that the simulator makes; then their readings come round again."""

    @property
    def messages(self) -> int:
        """One per node and tick."""
        return self.nodes * self.ticks

    @property
    def samples(self) -> int:
        """GPU samples in all of them."""
        return self.messages * _GPUS_PER_NODE


def send(bootstrap: str, prepared: Iterable[tuple[bytes, bytes]], *, one_by_one: bool = False) -> None:
    """Write records to `gpu.samples`.

    `one_by_one`: each record is a batch of its own, as when every node has its own agent; else they come in large
    batches, as from one simulator or relay. Raises `BenchmarkError` where Kafka does not take them.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "compression.type": "zstd",
            "enable.idempotence": True,
            "linger.ms": 0 if one_by_one else 20,
            "batch.num.messages": 1 if one_by_one else 10_000,
            "queue.buffering.max.messages": 200_000,
            "log_level": 0,
        }
    )
    for number, (key, value) in enumerate(prepared):
        while True:
            try:
                producer.produce(SAMPLES, value, key)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1000 == 0:
            producer.poll(0)
    if left := producer.flush(60):
        raise BenchmarkError(f"Kafka did not take {left} records of the prepared log within a minute")


def records(log: FleetLog) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each record, tick by tick; the last tick is a few seconds ago."""
    racks = max(1, log.nodes // 8)
    settings = SimulateSettings(
        racks=(RackSpec(kind="hgx", racks=racks, nodes=log.nodes // racks),), faults=(), application_errors=False
    )
    start_ms = (time.time_ns() // 1_000_000 - _BEHIND_MS - log.ticks * 1000) // 1000 * 1000
    fleet = SimulatedFleet(settings, start_ms)
    fields = registry.current("GpuSample").canonical["fields"]
    if tuple(field["name"] for field in fields[: len(_HEAD_FIELDS)]) != _HEAD_FIELDS:
        raise BenchmarkError("gpu.samples.avsc no longer begins with the fields that tests/benchmarks/fleet_log.py renews")
    head = parse_schema({"type": "record", "name": "Head", "fields": fields[: len(_HEAD_FIELDS)]})
    tail = parse_schema({"type": "record", "name": "Tail", "fields": fields[len(_HEAD_FIELDS) :]})
    begin = MARKER + registry.current("GpuSample").fingerprint
    kept: list[list[tuple[GpuSample, bytes]]] = []
    for tick in range(log.ticks):
        if tick < log.fresh_ticks:
            kept.append([(sample, _body(tail, msgspec.structs.asdict(sample))) for sample in fleet.step().samples])
        tick_ms = start_ms + tick * 1000
        for sample, arrays in kept[tick % len(kept)]:
            out = io.BytesIO()
            out.write(begin)
            schemaless_writer(
                out,
                head,
                {
                    "site": sample.site,
                    "rack": sample.rack,
                    "node": sample.node,
                    "boot_id": sample.boot_id,
                    "sequence": tick,
                    "tick_ms": tick_ms,
                    "observed_ms": tick_ms + 20,
                    "interval_ms": 1000,
                },
            )
            out.write(arrays)
            yield sample.rack.encode(), out.getvalue()


def _body(schema: object, fields: dict[str, object]) -> bytes:
    out = io.BytesIO()
    schemaless_writer(out, schema, fields)
    return out.getvalue()
