"""The pure parts alone, no Kafka: the best of some short passes of each."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from producers.kernel_log.decode import Decoder
from producers.settings import RackSpec, SimulateSettings
from producers.simulate.fleet import SimulatedFleet
from producers.spool import Spool
from schemas.codec import SingleObjectCodec
from schemas.records import GpuSample
from schemas.topics import COUNTERS, SAMPLES
from streams.readback import Record
from streams.readings.decode import SampleDecoder
from streams.readings.processor import CounterProcessor, SampleProcessor
from streams.settings import StreamsSettings
from tests.state_bytes import state_bytes

_PASSES = 5
_START_MS = 1_790_000_000_000
_NODES, _RUN = 250, 2000
_ORDINARY = "kernel: [ 1234.567890] audit: type=1400 apparmor=ALLOWED operation=open profile=snap name=/proc/123/mem"
_NVRM = "kernel: [ 1234.567890] NVRM: loading NVIDIA UNIX x86_64 Kernel Module  570.86.15"
_XID = "kernel: [ 1234.567890] NVRM: Xid (PCI:0000:2a:00): 79, pid=1234, name=python3, GPU has fallen off the bus."


def main(given: dict[str, Any]) -> None:
    """`given`: share of the usual number of repetitions."""
    share = given["share"]
    codec = SingleObjectCodec()
    fleet = SimulatedFleet(
        SimulateSettings(racks=(RackSpec(kind="hgx", racks=_NODES // 10, nodes=10),), faults=()), _START_MS
    )
    ticks = 8 * (1 + _PASSES)
    samples = [sample for _ in range(ticks) for sample in fleet.step().samples]
    log = [Record(SAMPLES, 0, at, sample.tick_ms, b"", codec.encode(sample)) for at, sample in enumerate(samples)]
    runs = [log[at : at + _RUN] for at in range(0, len(log), _RUN)]
    some = samples[: round(2000 * share)]
    readings = _RUN * 8
    decode = SampleDecoder(codec, StreamsSettings().future_ms)
    # every pass goes on in the log, as a worker does
    processor, going = SampleProcessor(StreamsSettings(), codec), iter(runs)
    processor.run(next(going))
    lines = [_XID if at % 100 == 0 else _NVRM if at % 10 == 0 else _ORDINARY for at in range(round(20_000 * share))]
    found = {
        "encode_records": _best(len(some), lambda: [codec.encode(one) for one in some]),
        "decode_single": _best(8 * len(some), lambda: [codec.decode(m.value, GpuSample) for m in log[: len(some)]]),
        "decode_block": _best(readings, lambda: decode(runs[0])),
        "process": _best(readings, lambda: processor.run(next(going))),
        **_counters(codec),
        "kernel_lines": _best(len(lines), lambda: _read(lines)),
        "simulate": _best(8 * _NODES, lambda: list(fleet.encoded(fleet.step(), 0))),
    }
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), 2**30, [SAMPLES])
        records = [m.value for m in log[: round(4000 * share)] if m.value]
        found["spool_append"] = _best(len(records), lambda: _spool(spool, records))
        found["spool_take"] = _best(len(records), lambda: _take_back(spool, len(records)))
        spool.close()
    found["message_bytes"] = sum(len(m.value or b"") for m in log) / len(log)
    print(json.dumps(found))


def _counters(codec: SingleObjectCodec) -> dict[str, float]:
    """How fast counters are dealt with, and what a GPU costs with its samples and its counters."""
    settings = StreamsSettings()
    fleet = SimulatedFleet(
        SimulateSettings(racks=(RackSpec(kind="hgx", racks=_NODES // 10, nodes=10),), faults=()), _START_MS
    )
    samples, counters = SampleProcessor(settings, codec), CounterProcessor(settings, codec)
    logs: dict[str, list[Record]] = {SAMPLES: [], COUNTERS: []}
    for _ in range(30 * (1 + _PASSES)):
        step = fleet.step()
        for topic, encoded in (
            (SAMPLES, fleet.encoded(step, step.tick_ms)),
            (COUNTERS, fleet.encoded_counters(step, step.tick_ms)),
        ):
            logs[topic] += [Record(topic, 0, 0, step.tick_ms, b"", body) for _, body in encoded]
        samples.run(logs[SAMPLES])
        logs[SAMPLES].clear()
    runs = [logs[COUNTERS][at : at + _NODES] for at in range(0, len(logs[COUNTERS]), _NODES)]
    counters.run(runs[0])
    going = iter(runs[1:])
    per_s = _best(8 * _NODES, lambda: counters.run(next(going)))
    return {"counters": per_s, "state_bytes": state_bytes(samples, counters) / (8 * _NODES)}


def _best(things: int, work: Callable[[], object]) -> float:
    """Things a second in the best pass."""
    times = []
    for _ in range(_PASSES):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return things / min(times)


def _spool(spool: Spool, records: list[bytes]) -> None:
    for record in records:
        spool.append(SAMPLES, b"rack", record)


def _take_back(spool: Spool, records: int) -> None:
    for entry in spool.take(SAMPLES, records):
        spool.settle(entry)


def _read(lines: list[str]) -> int:
    decoder = Decoder(now_ms=_START_MS)
    return sum(len(decoder.feed(number, line)) for number, line in enumerate(lines, 1))


main(json.loads(sys.argv[1]))
