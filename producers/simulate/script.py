"""What breaks by a script, at given places and times, as in the demo; `world` has what breaks by chance.

A scripted fault changes readings, and lets the kernel of a node say what real kernels say. The truth is what the script
does; nothing here knows how, or whether, it is found.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from producers.settings import FaultName, Injection, SimulateSettings
from producers.simulate.faults.nvlink import LINK_DOWN, RESPONSE_LOST, words
from producers.simulate.plan import Effect, KernelLine, Report
from producers.simulate.signals import (
    HARDWARE_SLOWDOWN_CELSIUS,
    HW_SLOWDOWN,
    HW_THERMAL,
    SLOWDOWN_CELSIUS,
    SW_THERMAL,
    Floats,
)
from producers.simulate.topology import Gpu, Node
from producers.simulate.truth import Truth
from producers.simulate.world import grown
from schemas.ids import gpu_id, node_id

_AFTER_WARMUP_S: Mapping[str, float] = {
    "gpu_falls_off_bus": 0.4,
    "gpu_overheats": 0.0,
    "node_goes_silent": 12.5,
    "nvlink_fails": 20.3,
}
"""When each scripted fault begins, seconds after the warm-up: apart, so that a spectator can follow, and not at a tick,
so that the kernel speaks before the next reading shows it, as it does."""
_CREEP_S = 25.0
"""An overheating GPU takes so long to `SLOWDOWN_CELSIUS`, however warm it was, and goes on creeping."""
_HOTTEST_CELSIUS = 94.0
_COOLING_CELSIUS_PER_S = 2.5
_OVERHEATING_S = 45.0
_WARNS_S = 18.0
"""So long before it fails the link of `nvlink_fails` trains again and again, which its counters show."""
_RECOVERIES, _RECOVERIES_SHOW = 60.0, 3.0
_ECHO_S = 1.8
"""Within so long the rest of the NVLink domain has noticed."""
_LINK = 14


@dataclass(slots=True)
class _Scripted:
    """One injected fault, resolved to its place."""

    injection: Injection
    node: Node
    gpu: Gpu
    peers: tuple[tuple[Node, Gpu], ...]
    """The other GPUs of its NVLink domain."""
    observable_s: float | None = None
    """When a reading first showed it."""
    from_celsius: float | None = None
    """How warm the GPU was when it began to overheat."""
    is_hard: bool = False
    """A reading has shown more than a warning."""

    @property
    def begins_s(self) -> float:
        return self.injection.at_s

    @property
    def ends_s(self) -> float | None:
        after = self.injection.clear_after_s
        return None if after is None else self.injection.at_s + after

    @property
    def warns(self) -> Effect | None:
        """What its counters show before it begins."""
        begins_s = max(0.0, self.begins_s - self.injection.warns_s)
        if self.injection.fault != "nvlink_fails" or begins_s >= self.begins_s:
            return None
        return Effect("count", begins_s, math.inf, (self.gpu.number,), _RECOVERIES, ramp_s=self.begins_s - begins_s,
                      name="nvlink_recoveries", link=_LINK)  # fmt: skip

    def holds(self, now_s: float) -> bool:
        """Whether it is broken now."""
        return self.begins_s <= now_s and (self.ends_s is None or now_s < self.ends_s)


class Script:
    """The faults of one run. `apply` breaks the readings of a tick, `lines` gives what kernels say up to then."""

    def __init__(self, settings: SimulateSettings, nodes: Sequence[Node]) -> None:
        by_name = {node.name: node for node in nodes}
        self._faults = [_resolve(one, by_name, nodes) for one in (*_scripted(settings, nodes), *settings.inject)]
        self._lines = sorted(
            (line for fault in self._faults for line in _speech(fault)), key=lambda line: (line.at_s, line.node.name)
        )

    @property
    def places(self) -> set[int]:
        """The nodes that are broken by the script."""
        return {fault.node.number for fault in self._faults}

    def load_factor(self, now_s: float, size: int) -> Floats | None:
        """(G,) the share of its load that each GPU can take: a job whose links are down does not compute."""
        if not any(fault.injection.fault == "nvlink_fails" and fault.holds(now_s) for fault in self._faults):
            return None
        factor = np.ones(size, np.float32)
        for fault in self._faults:
            if fault.injection.fault == "nvlink_fails" and fault.holds(now_s):
                factor[[fault.gpu.number, *(gpu.number for _, gpu in fault.peers)]] = 0.0
        return factor

    def apply(self, now_s: float, readings: dict[str, Floats], throttle: NDArray[np.int64]) -> set[str]:
        """Break what is broken now, in place; gives the names of the nodes that send nothing."""
        silent = set()
        for fault in self._faults:
            kind, gpu = fault.injection.fault, fault.gpu.number
            if kind == "gpu_overheats" and now_s >= fault.begins_s:
                self._heat(fault, now_s, readings, throttle)
            if not fault.holds(now_s):
                continue
            if kind == "gpu_falls_off_bus":
                for values in readings.values():
                    values[gpu] = np.nan
                throttle[gpu] = -1
                self._shows(fault, now_s)
            elif kind == "nvlink_fails":
                readings["nvlink_links_active"][gpu] -= 1
                for name in ("nvlink_tx_bytes_per_second", "nvlink_rx_bytes_per_second"):
                    readings[name][gpu] = 0.0
                self._shows(fault, now_s)
            elif kind == "node_goes_silent":
                silent.add(fault.node.name)
                self._shows(fault, now_s)
        return silent

    def links_down(self, now_s: float) -> list[tuple[tuple[int], int]]:
        """GPUs whose links are down, and which link of each."""
        failed = (fault for fault in self._faults if fault.injection.fault == "nvlink_fails" and fault.holds(now_s))
        return [((fault.gpu.number,), _LINK) for fault in failed]

    def lines(self, from_s: float, to_s: float) -> list[KernelLine]:
        """What kernels say from `from_s` to below `to_s`, in order."""
        first = bisect_left(self._lines, from_s, key=_at_s)
        silent = [fault for fault in self._faults if fault.injection.fault == "node_goes_silent"]
        return [
            line
            for line in self._lines[first : bisect_left(self._lines, to_s, key=_at_s)]
            if not any(fault.node is line.node and fault.holds(line.at_s) for fault in silent)
        ]

    def counts(self, now_s: float) -> list[Effect]:
        """What counters show besides, when they are read."""
        found = []
        for fault in self._faults:
            effect = fault.warns
            if effect is None or now_s < effect.begin_s:
                continue
            found.append(effect)
            if fault.observable_s is None and grown(effect, now_s) >= _RECOVERIES_SHOW:
                fault.observable_s = now_s
        return found

    def reports(self, after_s: float, to_s: float) -> list[Report]:
        """What NVML reports at the tick `to_s`, the one before having been at `after_s`."""
        found = []
        for fault in self._faults:
            if fault.injection.fault != "gpu_falls_off_bus":
                continue
            name = f"GPU {fault.gpu.index} ({fault.gpu.serial})"
            if after_s < fault.begins_s <= to_s:
                found.append(Report(fault.node, fault.gpu, "gpu_lost", f"NVML: {name}: GPU is lost"))
            if fault.ends_s is not None and after_s < fault.ends_s <= to_s:
                found.append(Report(fault.node, fault.gpu, "gpu_found", f"NVML reads {fault.gpu.serial} again"))
        return found

    def breaks(self, gpu: Gpu, now_s: float) -> bool:
        """Whether a fault holds this GPU: then no program runs on it that could fail."""
        return any(fault.gpu is gpu and fault.holds(now_s) for fault in self._faults)

    def truth(self, start_ms: int) -> list[Truth]:
        """What has been broken so far, root and symptoms. `start_ms` is the event time of the first tick."""
        told = []
        for fault in self._faults:
            if fault.observable_s is None:
                continue
            # what warned of it is a part of it
            starts_s = fault.begins_s if fault.warns is None else fault.warns.begin_s
            told.append(_truth(fault, "root", fault.node, fault.gpu, starts_s, fault.observable_s, start_ms))
            if fault.injection.fault == "nvlink_fails" and fault.is_hard:
                for number, (node, gpu) in enumerate(fault.peers):
                    echo_s = _echo_s(fault, number)
                    told.append(_truth(fault, "symptom", node, gpu, echo_s, echo_s, start_ms))
        return told

    def _heat(self, fault: _Scripted, now_s: float, readings: dict[str, Floats], throttle: NDArray[np.int64]) -> None:
        """A cooler that comes loose: the temperature creeps up, the clocks give way, and later it is mended."""
        gpu = fault.gpu.number
        healthy = readings["temperature_celsius"][gpu]
        if fault.from_celsius is None:
            fault.from_celsius = float(healthy)
        ends_s = fault.ends_s if fault.ends_s is not None else now_s + 1
        creep = (SLOWDOWN_CELSIUS - 0.5 - fault.from_celsius) / _CREEP_S
        hottest = min(_HOTTEST_CELSIUS, fault.from_celsius + creep * (min(now_s, ends_s) - fault.begins_s))
        celsius = np.rint(max(healthy, hottest - _COOLING_CELSIUS_PER_S * max(0.0, now_s - ends_s)))
        readings["temperature_celsius"][gpu] = celsius
        readings["memory_temperature_celsius"][gpu] += 0.4 * (celsius - healthy)
        if celsius >= SLOWDOWN_CELSIUS:
            throttle[gpu] |= SW_THERMAL
            readings["sm_clock_mhz"][gpu] *= 0.8
            self._shows(fault, now_s)
        if celsius >= HARDWARE_SLOWDOWN_CELSIUS:
            throttle[gpu] |= HW_SLOWDOWN | HW_THERMAL
            readings["sm_clock_mhz"][gpu] *= 0.625

    @staticmethod
    def _shows(fault: _Scripted, now_s: float) -> None:
        fault.is_hard = True
        if fault.observable_s is None:
            fault.observable_s = min((line.at_s for line in _speech(fault)), default=now_s)


def spread(
    nodes: Sequence[Node], fault: FaultName, count: int, *, first_s: float, last_s: float, seed: int = 1
) -> tuple[Injection, ...]:
    """`count` faults of one kind for a measurement, evenly over the time, each on a node of its own.

    NVLink faults get a domain of their own. Raises `ValueError` where the fleet is too small for that.
    """
    own = {node.nvlink_domain if fault == "nvlink_fails" else node.name: node for node in nodes}
    if len(own) < count:
        raise ValueError(f"{count} times {fault} needs {count} nodes or NVLink domains, this fleet has {len(own)}")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(np.array(list(own), dtype=object))[:count]
    times = np.linspace(first_s, last_s, count) + rng.uniform(0, (last_s - first_s) / count, count)
    return tuple(
        Injection(
            fault=fault,
            at_s=round(float(at_s), 3),
            node=own[place].name,
            gpu=int(rng.integers(len(own[place].gpus))),
        )
        for place, at_s in zip(chosen, times, strict=True)
    )


def _scripted(settings: SimulateSettings, nodes: Sequence[Node]) -> list[Injection]:
    """The scripted faults, each in a rack of its own where there are enough; NVLink in a rack that is one domain."""
    racks = sorted({node.rack for node in nodes})
    rack_wide = [rack for rack in racks if any(n.rack == rack and n.platform.domain_is_rack for n in nodes)]
    free = list(racks)
    placed = []
    # the pickiest chooses first
    for name in sorted(settings.faults, key=lambda name: name != "nvlink_fails"):
        wanted = [rack for rack in free if rack in rack_wide] if name == "nvlink_fails" else free
        rack = (wanted or free or racks)[-1 if name == "nvlink_fails" else 0]
        if rack in free:
            free.remove(rack)
        inside = [node for node in nodes if node.rack == rack]
        node = inside[(len(inside) * 2) // 3 - (len(inside) > 1)]
        at_s = settings.warmup_s + _AFTER_WARMUP_S[name]
        clear_after_s = _OVERHEATING_S if name == "gpu_overheats" else None
        placed.append(
            Injection(
                fault=name,
                at_s=at_s,
                node=node.name,
                gpu=len(node.gpus) // 2,
                clear_after_s=clear_after_s,
                warns_s=_WARNS_S if name == "nvlink_fails" else 0.0,
            )
        )
    return placed


def _resolve(injection: Injection, by_name: Mapping[str, Node], nodes: Sequence[Node]) -> _Scripted:
    node = by_name.get(injection.node)
    if node is None:
        some = ", ".join(list(by_name)[:3])
        raise ValueError(f"simulate.inject: there is no node {injection.node!r} in this fleet; there are {some}, …")
    if injection.gpu >= len(node.gpus):
        raise ValueError(f"simulate.inject: {node.name} has GPUs 0 to {len(node.gpus) - 1}, not {injection.gpu}")
    peers = tuple(
        (other, gpu)
        for other in nodes
        if other.nvlink_domain == node.nvlink_domain
        for gpu in other.gpus
        if gpu is not node.gpus[injection.gpu]
    )
    return _Scripted(injection, node, node.gpus[injection.gpu], peers)


def _echo_s(fault: _Scripted, number: int) -> float:
    """When the `number`-th peer notices: soon, one after the other, in no order that means anything."""
    return fault.begins_s + 0.2 + _ECHO_S * ((number * 7) % len(fault.peers)) / len(fault.peers)


def _speech(fault: _Scripted) -> Iterator[KernelLine]:
    """Every kernel line of one fault, in the words of real kernels."""
    node, gpu, at_s, kind = fault.node, fault.gpu, fault.begins_s, fault.injection.fault
    pci = gpu.pci
    if kind == "gpu_falls_off_bus":
        yield KernelLine(node, at_s, f"NVRM: GPU at PCI:{pci}: {gpu.uuid}")
        yield KernelLine(node, at_s, f"NVRM: GPU Board Serial Number: {gpu.serial}")
        yield KernelLine(
            node, at_s, f"NVRM: Xid (PCI:{pci}): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
        )
        yield KernelLine(node, at_s + 0.001, f"NVRM: GPU {pci}.0: GPU has fallen off the bus.")
        yield KernelLine(node, at_s + 0.002, f"NVRM: GPU {pci}.0: GPU serial number is {gpu.serial}.")
    elif kind == "nvlink_fails" and node.platform.domain_is_rack:
        fatal = f"NETIR_LINK_EVT  Fatal   XC0 i0 Link {_LINK:02d}"
        registers = words(LINK_DOWN | _LINK << 13, 0)
        yield KernelLine(node, at_s, f"NVRM: Xid (PCI:{pci}): 149, {fatal} {registers}")
        changed = "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"
        yield KernelLine(node, at_s + 0.6, f"NVRM: Xid (PCI:{pci}): 154, {changed}")
        for number, (other, peer) in enumerate(fault.peers):
            echo_s = _echo_s(fault, number)
            pid, link = 70_000 + number, (_LINK + number) % other.platform.links
            lost = f"RLW_SRC_TRACK Nonfatal XC1 i0 Link {link:02d} {words(RESPONSE_LOST | link << 13, 8)}"
            yield KernelLine(other, echo_s, f"NVRM: Xid (PCI:{peer.pci}): 145, pid={pid}, name=python3, {lost}")
            torn = f"45, pid={pid}, name=python3, Ch 00000008"
            yield KernelLine(other, echo_s + 0.15, f"NVRM: Xid (PCI:{peer.pci}): {torn}")
    elif kind == "nvlink_fails":
        broken = f"NVLink: fatal error detected on link {_LINK}(0x0, 0x0, 0x10000, 0x0, 0x0, 0x0, 0x0)"
        yield KernelLine(node, at_s, f"NVRM: Xid (PCI:{pci}): 74, pid='<unknown>', name=<unknown>, {broken}")
        for number, (other, peer) in enumerate(fault.peers):
            torn = f"45, pid={70_000 + number}, name=python3, Ch 00000008"
            yield KernelLine(other, _echo_s(fault, number), f"NVRM: Xid (PCI:{peer.pci}): {torn}")


def _at_s(line: KernelLine) -> float:
    return line.at_s


def _truth(
    fault: _Scripted, role: str, node: Node, gpu: Gpu, start_s: float, observable_s: float, start_ms: int
) -> Truth:
    whole_node = fault.injection.fault == "node_goes_silent"
    return Truth(
        fault=fault.injection.fault,
        component=node_id(node.name) if whole_node else gpu_id(gpu.serial),
        node=node.name,
        rack=node.rack,
        gpu=None if whole_node else gpu.serial,
        role=role,
        start_ms=start_ms + round(start_s * 1000),
        first_observable_ms=start_ms + round(observable_s * 1000),
        cleared_ms=None if fault.ends_s is None else start_ms + round(fault.ends_s * 1000),
        hard_ms=start_ms + round(fault.begins_s * 1000) if role == "root" and fault.warns and fault.is_hard else None,
    )
