"""How large a fleet one core can play into Kafka."""

from __future__ import annotations

from collections.abc import Iterable

from tests.benchmarks.context import Context
from tests.benchmarks.table import Row, count, judged

_RACKS, _TICKS = 160, 60
_GPUS_PER_RACK = 64
_LIMIT_S = 120.0
AIM_PER_S = 100_000


def run(context: Context) -> Iterable[Row]:
    """One row."""
    racks, ticks = context.sized(_RACKS, least=10), _TICKS
    with context.kafka() as bootstrap:
        context.say(f"playing {count(racks * _GPUS_PER_RACK)} GPUs into Kafka")
        given = {"bootstrap": bootstrap, "racks": racks, "nodes": _GPUS_PER_RACK // 8, "ticks": ticks}
        found = context.measure("simulate", given, limit_s=_LIMIT_S)
    per_s = found["samples"] / found["wall_s"]
    yield judged(
        "simulated fleet, played into Kafka",
        f"{count(per_s)} GPU samples/s",
        f"≥ {count(AIM_PER_S)}/s",
        met=per_s >= AIM_PER_S,
        beside=f"{count(racks * _GPUS_PER_RACK)} GPUs, {ticks} ticks as fast as it goes, all acknowledged; "
        f"{found['cpu_s'] / found['wall_s']:.0%} of the core busy",
    )
