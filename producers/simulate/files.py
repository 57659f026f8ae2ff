"""A simulated fleet into files: what its agents would have sent, and the truth about it. As fast as it goes.

`gpu.samples.avro`, `gpu.counters.avro` and `node.samples.avro` are Avro object containers (deflate); `events.jsonl` has
what `fleetpulse decode` prints, with node and rack; `inventory.jsonl` where everything is and which jobs ran where;
`truth.jsonl` what was broken. The same settings give the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from producers.settings import SimulateSettings
from producers.simulate.fleet import SimulatedFleet
from producers.simulate.play import write_truth
from producers.simulate.truth import Truth
from schemas import container, registry
from schemas.catalog import Catalog, load
from schemas.codec import HEADER_BYTES, SingleObjectCodec
from schemas.records import HardwareEvent, Record

START_MS = 1_736_121_600_000
"""Monday, 6 January 2025, 00:00 UTC: when a fleet in files begins, where nothing else is said."""
_BLOCK_BYTES = 1 << 20
_LEVEL = 1
"""Of deflate: three times smaller at 50 MB a second; more costs time and gains little."""


class AvroFile:
    """Writes messages of one schema, as the codec made them, into one object container file."""

    def __init__(self, path: Path, record: str) -> None:
        self._schema = registry.current(record)
        self._out = path.open("wb")
        self._out.write(container.header(self._schema, "deflate"))
        self._bodies: list[bytes] = []
        self._bytes = 0
        self.records = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._flush()
        self._out.close()

    def write(self, message: bytes) -> None:
        """Add one message."""
        self._bodies.append(message[HEADER_BYTES:])
        self._bytes += len(message)
        self.records += 1
        if self._bytes >= _BLOCK_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._bodies:
            return
        deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
        data = deflate.compress(b"".join(self._bodies)) + deflate.flush()
        self._out.writelines(container.block(self._schema, len(self._bodies), data))
        self._bodies, self._bytes = [], 0


def run(
    settings: SimulateSettings, out: Path, *, beat: Callable[[float], bool] = lambda _: True
) -> tuple[SimulatedFleet, list[Truth]]:
    """Play `settings.duration_s` seconds into the folder `out`; gives the fleet and its truth.

    `beat` is told the share that is done, and says whether to go on. Raises `ValueError` where the settings have no
    end, `OSError` where the files cannot be written.
    """
    if settings.duration_s is None:
        raise ValueError("a fleet in files must end: set simulate.duration_s")
    out.mkdir(parents=True, exist_ok=True)
    start_ms = START_MS if settings.start_ms is None else settings.start_ms
    fleet = SimulatedFleet(settings, start_ms - start_ms % settings.interval_ms)
    catalog, codec, encoder = load(), SingleObjectCodec(), msgspec.json.Encoder()
    steps = round(settings.duration_s * 1000 / settings.interval_ms)
    with (
        AvroFile(out / "gpu.samples.avro", "GpuSample") as samples,
        AvroFile(out / "gpu.counters.avro", "GpuCounters") as counters,
        AvroFile(out / "node.samples.avro", "NodeSample") as hosts,
        (out / "events.jsonl").open("wb") as events,
        (out / "inventory.jsonl").open("wb") as inventory,
    ):
        _write_lines(inventory.write, encoder, fleet.inventory())
        for tick in range(steps):
            step = fleet.step()
            for _, message in fleet.encoded(step, step.tick_ms):
                samples.write(message)
            for _, message in fleet.encoded_counters(step, step.tick_ms):
                counters.write(message)
            for host in step.hosts():
                hosts.write(codec.encode(host))
            for event in fleet.events(step):
                events.write(encoder.encode(as_decoded(event, catalog)) + b"\n")
            _write_lines(inventory.write, encoder, step.placements())
            if not beat((tick + 1) / steps):
                break
    truth = fleet.truth()
    write_truth(settings.truth_path or out / "truth.jsonl", truth)
    return fleet, truth


def as_decoded(event: HardwareEvent, catalog: Catalog) -> dict[str, object]:
    """An event as `fleetpulse decode` prints it: what it says, what the catalogue makes of it, and where it was."""
    entry = catalog.of(event)
    return {
        "kind": event.kind,
        "code": event.code,
        "pci": event.pci,
        "gpu": event.gpu,
        "link": event.link,
        "severity": event.severity,
        "action": event.action,
        "fault_class": entry.fault_class,
        "name": entry.name,
        "nvidia_action": entry.nvidia_action,
        "rule": entry.rule,
        "overridden": entry.overridden,
        "event_ms": event.event_ms,
        "observed_ms": event.observed_ms,
        "source": event.source,
        "site": event.site,
        "rack": event.rack,
        "node": event.node,
        "boot_id": event.boot_id,
        "event_id": event.event_id,
        "sequence": event.sequence,
        "count": event.count,
        "details": event.details,
        "raw": event.raw,
    }


def _write_lines(write: Callable[[bytes], object], encoder: msgspec.json.Encoder, records: Iterable[Record]) -> None:
    for record in records:
        write(encoder.encode(record) + b"\n")
