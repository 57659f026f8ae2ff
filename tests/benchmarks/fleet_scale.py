"""The aim for one small machine: 100,000 GPUs at 1 Hz, from the simulated fleet to ClickHouse, never falling behind."""

from __future__ import annotations

from collections.abc import Iterable

from tests.benchmarks.context import Context
from tests.benchmarks.fleet import CONSUMERS, Played, play
from tests.benchmarks.table import Row, count, judged

_GPUS, _SECONDS = 100_000, 300.0
_WARM_UP_S = 30.0
_GROWTH_S = 2.0
"""By so much the lag may rise over the whole run, by a straight line (`Played.growth`): two ticks, its noise."""


def run(context: Context) -> Iterable[Row]:
    """Rows: what is sustained, and what each part takes for it. `--scale` makes both fleet and time smaller."""
    gpus = context.sized(_GPUS, least=1000)
    played = play(context, gpus, warm_up_s=_WARM_UP_S * min(1.0, context.scale), seconds=_SECONDS * context.scale)
    grows = {name: played.growth(name) * played.seconds > _GROWTH_S for name in CONSUMERS}
    # what keeps up deals with what is sent; where it does not, the slowest tells what would be sustained
    rate = min([played.samples_per_s, *(played.handled_per_s(name) for name, falls in grows.items() if falls)])
    yield judged(
        f"{played.gpus:,} GPUs at 1 Hz for {played.seconds:.0f} s, end to end on {context.count} cores",
        f"{count(rate)} GPU samples/s",
        f"≥ {count(gpus)}/s, lag as it was",
        met=played.kept_pace and not any(grows.values()),
        beside=f"sent {count(played.samples_per_s)}/s; " + "; ".join(_lag(played, name) for name in CONSUMERS),
    )
    yield cost(played)


def cost(played: Played) -> Row:
    """What each part takes of processor and memory."""
    cores, memory = played.cores(), played.memory_mib
    parts = ", ".join(f"{name} {cores[name]:.2f} cores {memory[name]:.0f} MiB" for name in cores)
    behind = "" if played.kept_pace else f"; only {count(played.samples_per_s)} GPU samples/s were sent"
    return Row(
        f"cost of {played.gpus:,} GPUs at 1 Hz, all parts",
        f"{sum(cores.values()):.2f} cores, {sum(memory.values()) / 1024:.1f} GiB",
        parts + behind,
    )


def _lag(played: Played, name: str) -> str:
    middle, most, end = played.behind_s(name)
    return (
        f"{name} {count(played.handled_per_s(name))}/s, behind by {middle:.1f} s (median), {most:.1f} s at most, "
        f"{end:.1f} s at the end, {60 * played.growth(name):+.2f} s a minute"
    )
