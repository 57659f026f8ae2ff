"""Small parts alone: what a record costs to write and read, before any Kafka."""

from __future__ import annotations

from collections.abc import Iterable

from tests.benchmarks.context import Context
from tests.benchmarks.table import Row, count, judged, times

_LIMIT_S = 120.0
_STATE_BYTES = 4096


def run(context: Context) -> Iterable[Row]:
    """One row per part."""
    context.say("encoding, decoding, detecting, spooling")
    found = context.measure("pure", {"share": min(1.0, max(0.05, context.scale))}, limit_s=_LIMIT_S)
    block, single = found["decode_block"], found["decode_single"]
    yield Row(
        "encode a node's tick (8 GPUs, 24 metrics)",
        f"{count(found['encode_records'])} records/s",
        f"{found['message_bytes']:.0f} bytes a record",
    )
    yield Row(
        "decode a run of 2,000 records in one block",
        f"{count(block)} GPU samples/s",
        f"record by record {count(single)}: {times(block / single)}",
    )
    yield Row("decode, gather into ticks, run all detectors", f"{count(found['process'])} GPU samples/s")
    yield Row(
        "the same for counters, a run of one tick of 250 nodes",
        f"{count(found['counters'])} GPU readings/s",
        "a GPU is read each 30 s",
    )
    yield judged(
        "memory of windows and detectors, samples and counters",
        f"{found['state_bytes']:.0f} bytes/GPU",
        "≤ 4096 bytes",
        met=found["state_bytes"] <= _STATE_BYTES,
    )
    yield Row("kernel log, 1 line in 100 an XID", f"{count(found['kernel_lines'])} lines/s")
    yield Row(
        "spool to disk",
        f"{count(found['spool_append'])} records/s",
        f"take back {count(found['spool_take'])} records/s",
    )
    yield Row("simulated fleet, encoded", f"{count(found['simulate'])} GPU samples/s")
