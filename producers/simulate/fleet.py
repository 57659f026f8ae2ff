"""The simulated fleet: one step is one tick of every node, as the records that real nodes would send."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from producers.settings import SimulateSettings
from producers.simulate.encode import SampleEncoder
from producers.simulate.script import KernelLine, Report, Script, Truth
from producers.simulate.signals import GPU_IDLE, SLOWDOWN_CELSIUS, Floats, Signals
from producers.simulate.topology import Node, build, inventory
from schemas.records import GpuSample, InventoryRecord

_APPLICATION_ERROR_EVERY_S = 20.0
"""Somewhere in the fleet, a program fails by its own fault so often."""
_APPLICATION_ERRORS = (
    "13, pid={pid}, name=python3, Graphics SM Warp Exception on (GPC 4, TPC 2, SM 1): Out Of Range Address",
    "31, pid={pid}, name=python3, Ch 00000010, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_3 faulted",
    "43, pid={pid}, name=python3, Ch 00000008",
)


@dataclass(frozen=True)
class Step:
    """One tick of the fleet, over all its G GPUs."""

    site: str
    tick_ms: int
    interval_ms: int
    sequence: int
    readings: dict[str, Floats]
    """Metric to values, shape (G,); NaN is not read."""
    throttle: NDArray[np.int64]
    """Shape (G,); -1 is not read."""
    nodes: tuple[Node, ...]
    """Those that send."""
    lines: list[KernelLine]
    """What kernels said since the tick before."""
    reports: list[Report]
    """What NVML said at this tick."""

    @cached_property
    def samples(self) -> list[GpuSample]:
        """The records of all nodes that send."""
        columns = {name: values.tolist() for name, values in self.readings.items()}
        bits = self.throttle.tolist()
        return [self._sample(node, columns, bits) for node in self.nodes]

    def _sample(self, node: Node, columns: dict[str, list[float]], bits: list[int]) -> GpuSample:
        first, end = node.gpus[0].number, node.gpus[-1].number + 1
        return GpuSample(
            site=self.site,
            rack=node.rack,
            node=node.name,
            boot_id=node.boot_id,
            sequence=self.sequence,
            tick_ms=self.tick_ms,
            observed_ms=self.tick_ms,
            interval_ms=self.interval_ms,
            gpus=[gpu.serial for gpu in node.gpus],
            gpu_index=[gpu.index for gpu in node.gpus],
            throttle_reasons=bits[first:end],
            **{name: values[first:end] for name, values in columns.items()},
        )


class SimulatedFleet:
    """A fleet of made-up nodes whose faults are known. The same settings and `start_ms` give the same records."""

    def __init__(self, settings: SimulateSettings, start_ms: int) -> None:
        self.nodes: tuple[Node, ...] = build(settings.racks, settings.seed, boot=start_ms)
        self._settings = settings
        self._start_ms = start_ms
        self._script = Script(settings, self.nodes)
        self._signals = Signals(self.nodes, settings.seed)
        self._encoder = SampleEncoder(self.nodes, settings.site, settings.interval_ms)
        self._rng = np.random.default_rng((settings.seed, 1))
        self._tick = 0

    def inventory(self) -> list[InventoryRecord]:
        """Where everything is."""
        return inventory(self.nodes, self._settings.site, self._start_ms)

    def truth(self) -> list[Truth]:
        """What has been broken so far."""
        return self._script.truth(self._start_ms)

    def step(self) -> Step:
        """The next tick."""
        step_s = self._settings.interval_ms / 1000
        now_s = self._tick * step_s
        tick_ms = self._start_ms + self._tick * self._settings.interval_ms
        readings = self._signals.step(now_s, step_s, self._script.load_factor(now_s, self._signals.size))
        idle = readings["gpu_utilization_percent"] == 0
        throttle = np.where(idle, GPU_IDLE, 0).astype(np.int64)
        silent = self._script.apply(now_s, readings, throttle)
        readings["temperature_margin_celsius"] = SLOWDOWN_CELSIUS - readings["temperature_celsius"]
        lines = [*self._script.lines(now_s - step_s, now_s), *self._application_errors(now_s, step_s, silent)]
        step = Step(
            site=self._settings.site,
            tick_ms=tick_ms,
            interval_ms=self._settings.interval_ms,
            sequence=self._tick,
            readings=readings,
            throttle=throttle,
            nodes=tuple(node for node in self.nodes if node.name not in silent) if silent else self.nodes,
            lines=sorted(lines, key=lambda line: line.at_s),
            reports=self._script.reports(now_s - step_s, now_s),
        )
        self._tick += 1
        return step

    def encoded(self, step: Step, observed_ms: int) -> Iterator[tuple[Node, bytes]]:
        """The messages of `step.samples`, each with its node, observed at `observed_ms`."""
        sending = None if len(step.nodes) == len(self.nodes) else {node.name for node in step.nodes}
        messages = self._encoder.encode(
            step.readings, step.throttle, sequence=step.sequence, tick_ms=step.tick_ms, observed_ms=observed_ms
        )
        for node, message in messages:
            if sending is None or node.name in sending:
                yield node, message

    def _application_errors(self, now_s: float, step_s: float, silent: set[str]) -> Iterator[KernelLine]:
        if not self._settings.application_errors or self._rng.random() > step_s / _APPLICATION_ERROR_EVERY_S:
            return
        node = self.nodes[self._rng.integers(len(self.nodes))]
        gpu = node.gpus[self._rng.integers(len(node.gpus))]
        words = _APPLICATION_ERRORS[self._rng.integers(len(_APPLICATION_ERRORS))]
        if node.name not in silent and not self._script.breaks(gpu, now_s):
            pid = 20_000 + self._tick
            yield KernelLine(node, now_s - step_s / 2, f"NVRM: Xid (PCI:{gpu.pci}): {words.format(pid=pid)}")
