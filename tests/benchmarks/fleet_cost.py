"""What a fleet costs by its size: processor and memory of each part at 1,000, 10,000 and 100,000 GPUs, also drawn."""

from __future__ import annotations

from collections.abc import Iterable

from tests.benchmarks.chart import Panel, svg
from tests.benchmarks.context import Context
from tests.benchmarks.fleet import PARTS, Played, play
from tests.benchmarks.fleet_scale import cost
from tests.benchmarks.table import Row

_GPUS = (1_000, 10_000, 100_000)
_WARM_UP_S = 15.0
_SECONDS = 60.0
"""Counters come each 30 s, samples of the hosts each 60 s: both are in it."""
PICTURE = "fleet_cost.svg"


def run(context: Context) -> Iterable[Row]:
    """A row for each size. `--scale` makes the fleets smaller, not the time."""
    fleets: list[Played] = []
    for gpus in _GPUS:
        played = play(context, context.sized(gpus, least=64), warm_up_s=_WARM_UP_S, seconds=_SECONDS)
        fleets.append(played)
        yield cost(played)
    if context.pictures is not None:
        (context.pictures / PICTURE).write_text(_drawn(fleets))


def _drawn(fleets: list[Played]) -> str:
    def curve(values: Iterable[float]) -> list[tuple[float, float]]:
        return [(fleet.gpus, value) for fleet, value in zip(fleets, values, strict=True)]

    cores = {part: curve(fleet.cores()[part] for fleet in fleets) for part in PARTS}
    memory = {part: curve(fleet.memory_mib[part] for fleet in fleets) for part in PARTS}
    return svg(
        Panel("processor seconds a second", "GPUs at 1 Hz", cores),
        Panel("memory, MiB", "GPUs at 1 Hz", memory),
    )
