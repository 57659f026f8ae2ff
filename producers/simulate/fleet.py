"""The simulated fleet: one step is one tick of every node, as the records that real nodes would send."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.settings import SimulateSettings
from producers.simulate.agents import Agents
from producers.simulate.arrivals import Arrivals
from producers.simulate.counters import Counters, Doubles
from producers.simulate.encode import ColumnEncoder, Stamp
from producers.simulate.faults.scene import Scene
from producers.simulate.jobs import Jobs
from producers.simulate.machines import machine_samples
from producers.simulate.plan import KernelLine, Report
from producers.simulate.script import Script
from producers.simulate.signals import SLOWDOWN_CELSIUS, Drive, Floats, Signals
from producers.simulate.topology import Node, boot_id, build, from_inventory, gpu_record, inventory
from producers.simulate.truth import Truth
from producers.simulate.world import Now, World
from producers.source import Origin
from schemas.records import GpuCounters, GpuSample, HardwareEvent, InventoryRecord, NodeSample

_APPLICATION_ERROR_EVERY_S = 20.0
"""Somewhere in a fleet without faults by chance, a program fails by its own fault so often."""
_APPLICATION_ERRORS = (
    "13, pid={pid}, name=python3, Graphics SM Warp Exception on (GPC 4, TPC 2, SM 1): Out Of Range Address",
    "31, pid={pid}, name=python3, Ch 00000010, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_3 faulted",
    "43, pid={pid}, name=python3, Ch 00000008",
)


@dataclass(frozen=True)
class Step:
    """One tick of the fleet, over all its G GPUs. Records are made when they are asked for."""

    site: str
    tick_ms: int
    interval_ms: int
    sequence: NDArray[np.int64]
    """Shape (N,): the number of each node's sample since its boot."""
    readings: dict[str, Floats]
    """Metric to values, shape (G,); NaN is not read."""
    throttle: NDArray[np.int64]
    """Shape (G,); -1 is not read."""
    nodes: tuple[Node, ...]
    """Those that send samples."""
    lines: list[KernelLine]
    """What kernels said since the tick before."""
    reports: list[Report]
    """What other sources said since then, and NVML at this tick."""
    boots: tuple[str, ...] = ()
    """Boot id by node number."""
    skew_ms: Mapping[int, int] = field(default_factory=dict)
    """By how much the clocks of some nodes are off, by node number."""
    counts_sequence: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Shape (N,): the same as `sequence` for the records of counters."""
    counts: dict[str, Doubles] | None = None
    """The counters, shape (G,) each, at the ticks at which they are read."""
    link_counts: dict[str, Doubles] | None = None
    """Those of each NVLink, shape (G, links) each, at the same ticks."""
    counters_interval_ms: int = 30_000
    mute: frozenset[int] = frozenset()
    """Nodes that send nothing at all."""
    moved: tuple[int, ...] = ()
    """GPUs on which another job runs than at the tick before."""
    placements: Callable[[], list[InventoryRecord]] = list
    hosts: Callable[[], list[NodeSample]] = list
    """The hosts' and ports' samples, at the ticks at which they are read; none at the others."""

    @cached_property
    def samples(self) -> list[GpuSample]:
        """The records of all nodes that send."""
        columns = {name: values.tolist() for name, values in self.readings.items()}
        bits = self.throttle.tolist()
        return [self._sample(node, columns, bits) for node in self.nodes]

    @cached_property
    def counters(self) -> list[GpuCounters]:
        """The counters of all nodes that send, at the ticks at which they are read."""
        if self.counts is None:
            return []
        columns = {name: values.tolist() for name, values in (self.counts | (self.link_counts or {})).items()}
        return [self._counts(node, columns) for node in self.nodes]

    def stamps(self, sequence: NDArray[np.int64], observed_ms: int) -> list[Stamp]:
        """Numbers and times of all nodes' records, each by its own clock; nodes with the same share one stamp."""
        numbers, places = np.unique(sequence, return_inverse=True)
        shared = [Stamp(number, self.tick_ms, observed_ms) for number in numbers.tolist()]
        found = [shared[place] for place in places.tolist()]
        for node, skew_ms in self.skew_ms.items():
            off_ms = tick_skew(skew_ms, self.interval_ms)
            found[node] = Stamp(int(sequence[node]), self.tick_ms + off_ms, observed_ms + off_ms)
        return found

    @cached_property
    def _own_stamps(self) -> list[Stamp]:
        return self.stamps(self.sequence, self.tick_ms)

    @cached_property
    def _own_counts_stamps(self) -> list[Stamp]:
        return self.stamps(self.counts_sequence, self.tick_ms)

    def _counts(self, node: Node, columns: dict[str, list[float]]) -> GpuCounters:
        head = self._head(node, self._own_counts_stamps[node.number], self.counters_interval_ms)
        return GpuCounters(**head, **_own(node, columns))

    def _sample(self, node: Node, columns: dict[str, list[float]], bits: list[int]) -> GpuSample:
        head = self._head(node, self._own_stamps[node.number], self.interval_ms)
        return GpuSample(**head, **_own(node, columns), **_own(node, {"throttle_reasons": bits}))

    def _head(self, node: Node, stamp: Stamp, interval_ms: int) -> dict[str, Any]:
        """What a record about the GPUs of a node begins with."""
        origin = Origin(self.site, node.rack, node.name, self.boots[node.number])
        envelope = origin.envelope(tick_ms=stamp.tick_ms, observed_ms=stamp.observed_ms, interval_ms=interval_ms)
        return {
            **envelope,
            "sequence": stamp.sequence,
            "gpus": [gpu.serial for gpu in node.gpus],
            "gpu_index": [gpu.index for gpu in node.gpus],
        }


def _own(node: Node, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """A node's part of columns over the whole fleet."""
    first, end = node.gpus[0].number, node.gpus[-1].number + 1
    return {name: values[first:end] for name, values in columns.items()}


def _nodes(settings: SimulateSettings, start_ms: int) -> tuple[Node, ...]:
    if settings.inventory is None:
        return build(settings.racks, settings.seed, boot=start_ms, racks_per_leaf=settings.racks_per_leaf)
    from producers.inventory import load

    return from_inventory(load(settings.inventory).records(start_ms), settings.seed, start_ms)


class SimulatedFleet:
    """A fleet of made-up nodes whose faults are known. The same settings and `start_ms` give the same records.

    `nodes` stands in for the fleet that the settings describe, as from `topology.from_inventory`.
    """

    def __init__(self, settings: SimulateSettings, start_ms: int, nodes: Sequence[Node] | None = None) -> None:
        self.nodes: tuple[Node, ...] = _nodes(settings, start_ms) if nodes is None else tuple(nodes)
        self._settings = settings
        self._start_ms = start_ms
        self._script = Script(settings, self.nodes)
        self._jobs = Jobs(self.nodes, settings.seed, start_ms)
        self._signals = Signals(self.nodes, settings.seed, self._jobs)
        scene = Scene(self.nodes)
        self._world = World(scene, Arrivals(settings, scene, self._script.places), self._jobs, settings.seed)
        self._counters = Counters(self.nodes, settings.seed)
        self._counters_ms = settings.counters_interval_s * 1000
        self._encoder = ColumnEncoder("GpuSample", self.nodes, settings.site, settings.interval_ms)
        self._counters_encoder = ColumnEncoder("GpuCounters", self.nodes, settings.site, self._counters_ms)
        self._agents = Agents(settings.site, start_ms)
        self._boots = [node.boot_id for node in self.nodes]
        self._boot_count = [0] * len(self.nodes)
        # since each node's boot: samples, counters, readings of the host
        self._sequence, self._counts_sequence, self._hosts_sequence = np.zeros((3, len(self.nodes)), np.int64)
        self._rng = np.random.default_rng((settings.seed, 1))
        self._tick = 0

    def inventory(self) -> list[InventoryRecord]:
        """Where everything is."""
        return inventory(self.nodes, self._settings.site, self._start_ms)

    def truth(self) -> list[Truth]:
        """What has been broken so far: by the script, then by chance."""
        now_s = self._tick * self._settings.interval_ms / 1000
        return [*self._script.truth(self._start_ms), *self._world.truth(now_s, self._start_ms)]

    @property
    def homeless(self) -> int:
        """Faults that should have come, and found no place where nothing else was broken."""
        return self._world.homeless

    def step(self) -> Step:
        """The next tick."""
        step_s = self._settings.interval_ms / 1000
        now_s = self._tick * step_s
        tick_ms = self._start_ms + self._tick * self._settings.interval_ms
        self._jobs.advance(now_s)
        now = self._world.step(now_s)
        self._boot(now)
        readings, throttle = self._signals.step(now_s, step_s, self._drive(now, now_s))
        silent = self._script.apply(now_s, readings, throttle)
        if self._script.places:
            readings["temperature_margin_celsius"] = np.float32(SLOWDOWN_CELSIUS) - readings["temperature_celsius"]
        self._counters.add(step_s, readings, throttle)
        self._break(now, readings, throttle)
        reading_counters = self._every(self._counters_ms)
        self._counters.keep(now.grown)
        counts, link_counts = self._count(now, now_s, self._unread(readings)) if reading_counters else (None, None)
        self._world.look(now, now_s, readings, self._signals.excess_celsius, counters=reading_counters)
        away = {node.number for node in self.nodes if node.name in silent} if silent else set()
        lines = [*self._script.lines(now_s - step_s, now_s), *now.lines]
        if not self._settings.fault_rate:
            lines += self._application_errors(now_s, step_s, silent)
        away |= now.silent
        step = Step(
            site=self._settings.site,
            tick_ms=tick_ms,
            interval_ms=self._settings.interval_ms,
            sequence=self._sequence.copy(),
            readings=readings,
            throttle=throttle,
            nodes=tuple(node for node in self.nodes if node.number not in away) if away else self.nodes,
            lines=sorted(lines, key=lambda line: line.at_s),
            reports=[*self._script.reports(now_s - step_s, now_s), *now.reports],
            boots=tuple(self._boots),
            skew_ms=now.skew_ms,
            counts_sequence=self._counts_sequence.copy() if reading_counters else self._counts_sequence,
            counts=counts,
            link_counts=link_counts,
            counters_interval_ms=self._counters_ms,
            mute=frozenset(away - now.hung),
            moved=tuple(self._jobs.moved),
            # the first step tells of the jobs that are there already
            placements=self._placements(
                tuple(self._jobs.moved if self._tick else range(self._jobs.row_of.size)), tick_ms
            ),
            hosts=self._hosts(now, frozenset(away - now.hung), readings, tick_ms),
        )
        there = np.ones(len(self.nodes), np.int64)
        there[list(away)] = 0
        self._sequence += there
        if reading_counters:
            self._counts_sequence += there
        self._tick += 1
        return step

    def encoded(self, step: Step, observed_ms: int) -> Iterator[tuple[Node, bytes]]:
        """The messages of `step.samples`, each with its node, observed at `observed_ms`."""
        stamps = step.stamps(step.sequence, observed_ms)
        yield from self._sending(step, self._encoder.encode(step.readings, step.throttle, stamps, step.boots))

    def encoded_counters(self, step: Step, observed_ms: int) -> Iterator[tuple[Node, bytes]]:
        """The messages of `step.counters`."""
        if step.counts is not None:
            stamps = step.stamps(step.counts_sequence, observed_ms)
            columns = step.counts | (step.link_counts or {})
            yield from self._sending(step, self._counters_encoder.encode(columns, None, stamps, step.boots))

    def events(self, step: Step, observed_ms: int | None = None) -> list[HardwareEvent]:
        """The events of a step, in the order of their times: what the decoder makes of kernel lines, and reports.

        To be called once for each step: an agent counts its lines. `observed_ms` is None where the fleet's time is not
        the clock's.
        """
        found = [event for line in step.lines for event in self.hear(line, step, observed_ms)]
        found += [self.report(report, step, observed_ms) for report in step.reports]
        return sorted(found, key=lambda event: event.event_ms)

    def hear(self, line: KernelLine, step: Step, observed_ms: int | None) -> list[HardwareEvent]:
        """The events of one kernel line of a step."""
        skew_ms = step.skew_ms.get(line.node.number, 0)
        return list(self._agents.of_line(line, step.boots, skew_ms, observed_ms))

    def report(self, report: Report, step: Step, observed_ms: int | None) -> HardwareEvent:
        """One report of a step as an event."""
        skew_ms = step.skew_ms.get(report.node.number, 0)
        return self._agents.of_report(report, step.boots, skew_ms, step.tick_ms, observed_ms)

    def _drive(self, now: Now, now_s: float) -> Drive:
        load = self._script.load_factor(now_s, self._signals.size)
        if load is None:
            return now.drive
        d = now.drive
        return Drive(rise=d.rise, inlet_celsius=d.inlet_celsius, load=load, clock=d.clock, power=d.power)

    def _break(self, now: Now, readings: dict[str, Floats], throttle: NDArray[np.int64]) -> None:
        for effect in now.throttle:
            throttle[list(effect.on)] |= int(effect.value)
        for effect in now.links:
            on = list(effect.on)
            readings["nvlink_links_active"][on] -= effect.value
            readings["nvlink_tx_bytes_per_second"][on] = 0.0
            readings["nvlink_rx_bytes_per_second"][on] = 0.0
        if now.unreadable:
            for values in readings.values():
                values[now.unreadable] = np.nan
            throttle[now.unreadable] = -1

    def _count(self, now: Now, now_s: float, unread: Sequence[int]) -> tuple[dict[str, Doubles], dict[str, Doubles]]:
        """The counters of GPUs and of links."""
        down = [*((effect.on, effect.link) for effect in now.links), *self._script.links_down(now_s)]
        rising = [*now.counts, *self._script.counts(now_s)]
        return self._counters.read(now_s, rising, unread), self._counters.links(now_s, rising, down, unread)

    def _boot(self, now: Now) -> None:
        for number in now.booted:
            node = self.nodes[number]
            self._boot_count[number] += 1
            self._boots[number] = boot_id(
                self._settings.seed, node.name, f"{self._start_ms}/{self._boot_count[number]}"
            )  # fmt: skip
            self._sequence[number] = self._counts_sequence[number] = self._hosts_sequence[number] = 0
            self._counters.restart([gpu.number for gpu in node.gpus])

    def _every(self, period_ms: int) -> bool:
        """Whether this is the tick of a slower reading."""
        return self._tick % max(1, round(period_ms / self._settings.interval_ms)) == 0

    @staticmethod
    def _unread(readings: Mapping[str, Floats]) -> list[int]:
        return [int(number) for number in np.flatnonzero(np.isnan(readings["temperature_celsius"]))]

    def _hosts(
        self, now: Now, mute: frozenset[int], readings: dict[str, Floats], tick_ms: int
    ) -> Callable[[], list[NodeSample]]:
        if not self._every(self._settings.host_interval_s * 1000):
            return list
        nodes = tuple(node for node in self.nodes if node.number not in mute)
        boots, tick, skew_ms = tuple(self._boots), self._tick, now.skew_ms
        period_ms = self._settings.host_interval_s * 1000
        sequence = self._hosts_sequence.tolist()
        self._hosts_sequence[[node.number for node in nodes]] += 1
        return lambda: list(
            machine_samples(
                nodes,
                readings,
                now.ports,
                site=self._settings.site,
                boots=boots,
                skew_ms=skew_ms,
                sequence=sequence,
                tick_ms=tick_ms,
                interval_ms=period_ms,
                uptime_s=float(86_400 + tick * self._settings.interval_ms // 1000),
                seed=(self._settings.seed, tick),
            )
        )

    def _placements(self, moved: tuple[int, ...], seen_ms: int) -> Callable[[], list[InventoryRecord]]:
        if not moved:
            return list
        names = {gpu: job.name if (job := self._jobs.job_of(gpu)) else None for gpu in moved}
        return lambda: [
            gpu_record(node, gpu, self._settings.site, seen_ms, names[gpu.number])
            for node in self.nodes
            for gpu in node.gpus
            if gpu.number in names
        ]

    def _sending(self, step: Step, messages: Iterator[tuple[Node, bytes]]) -> Iterator[tuple[Node, bytes]]:
        if len(step.nodes) == len(self.nodes):
            yield from messages
            return
        sending = {node.number for node in step.nodes}
        yield from ((node, message) for node, message in messages if node.number in sending)

    def _application_errors(self, now_s: float, step_s: float, silent: set[str]) -> Iterator[KernelLine]:
        if not self._settings.application_errors or self._rng.random() > step_s / _APPLICATION_ERROR_EVERY_S:
            return
        node = self.nodes[self._rng.integers(len(self.nodes))]
        gpu = node.gpus[self._rng.integers(len(node.gpus))]
        words = _APPLICATION_ERRORS[self._rng.integers(len(_APPLICATION_ERRORS))]
        if node.name not in silent and not self._script.breaks(gpu, now_s):
            pid = 20_000 + self._tick
            yield KernelLine(node, now_s - step_s / 2, f"NVRM: Xid (PCI:{gpu.pci}): {words.format(pid=pid)}")


def tick_skew(skew_ms: int, interval_ms: int) -> int:
    """By how much the ticks of a node are off whose clock is: it too samples at multiples of its period."""
    if not skew_ms:
        return 0
    whole = max(1, round(abs(skew_ms) / interval_ms))
    return whole * interval_ms * (1 if skew_ms > 0 else -1)
