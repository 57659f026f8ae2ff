"""What the agent takes from its node: 8 GPUs at 1 Hz, kernel log followed, everything published to real Kafka."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import psutil
from confluent_kafka import Consumer, TopicPartition

from schemas.topics import SAMPLES, topics
from tests.benchmarks.context import BenchmarkError, Context, Measured
from tests.benchmarks.table import Row, judged

_GPUS = 8
_SETTLE_S, _WATCH_S = 5.0, 30.0
_LINE_EVERY_S = 5.0
"""A node's kernel has little to say; what it says costs the agent a line's decoding and a cursor on disk."""
AIM_CPU, AIM_MB = 0.005, 60.0


def run(context: Context) -> Iterable[Row]:
    """Rows: share of one core, and memory."""
    watch_s = float(context.sized(_WATCH_S, least=5))
    kernel_log = context.scratch / "kern.log"
    kernel_log.touch()
    with context.kafka() as bootstrap:
        given = {
            "gpus": _GPUS,
            "data_dir": str(context.scratch / "agent"),
            "bootstrap": bootstrap,
            "kernel_log": str(kernel_log),
        }
        with context.start("agent", given) as process:
            context.say("letting the agent settle")
            _pass(process, kernel_log, _SETTLE_S)
            its = psutil.Process(process.pid)
            before, woken, sent, began = its.cpu_times(), _woken(its), _sent(bootstrap), time.monotonic()
            context.say(f"watching the agent for {watch_s:.0f} s")
            _pass(process, kernel_log, watch_s)
            after, woken, took_s = its.cpu_times(), _woken(its) - woken, time.monotonic() - began
            sent = _sent(bootstrap) - sent
            memory = its.memory_info().rss
    if abs(sent - took_s) > 2 + took_s * 0.1:
        raise BenchmarkError(f"the agent sent {sent} samples in {took_s:.0f} s, expected one a second")
    cpu_s = after.user + after.system - before.user - before.system
    yield judged(
        f"agent at 1 Hz, {_GPUS} GPUs: share of one core",
        f"{cpu_s / took_s:.2%}",
        f"< {AIM_CPU:.1%}",
        met=cpu_s / took_s < AIM_CPU,
        beside=f"{cpu_s * 1000 / took_s:.1f} ms of processor time and {woken / took_s:.0f} wake-ups of its threads a "
        "second; NVML simulated, so without the driver",
    )
    yield judged("agent: memory (RSS)", f"{memory / 1e6:.0f} MB", f"< {AIM_MB:g} MB", met=memory / 1e6 < AIM_MB)


def _pass(process: Measured, kernel_log: Path, seconds: float) -> None:
    """Let time go by while the kernel now and then says something ordinary."""
    deadline = time.monotonic() + seconds
    while (left_s := deadline - time.monotonic()) > 0:
        process.alive()
        with kernel_log.open("a") as log:
            log.write("kernel: audit: type=1400 apparmor=ALLOWED operation=open profile=snap\n")
        time.sleep(min(left_s, _LINE_EVERY_S))


def _woken(process: psutil.Process) -> int:
    """How often its threads have gone to sleep, and so were woken."""
    states = (Path(f"/proc/{process.pid}/task/{thread.id}/status").read_text() for thread in process.threads())
    counts = (line.split()[1] for state in states for line in state.splitlines() if line.startswith("voluntary_ctxt"))
    return sum(map(int, counts))


def _sent(bootstrap: str) -> int:
    """Records in `gpu.samples`."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench-agent"})
    try:
        partitions = (TopicPartition(SAMPLES, number) for number in range(topics()[SAMPLES].partitions))
        return sum(consumer.get_watermark_offsets(one, timeout=10, cached=False)[1] for one in partitions)
    finally:
        consumer.close()
