"""What GPUs read: jobs that load them, heat that follows power, clocks that follow both, noise and steps like NVML's.

Everything is an array over all GPUs of the fleet (G), computed for one tick from the one before. The same seed gives
the same readings. What is broken comes in as `Drive`: how well a GPU is cooled, fed and clocked; so that one cause
shows in all readings that it has an effect on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from producers.simulate.jobs import IDLE, Jobs
from producers.simulate.topology import Node

Floats = NDArray[np.float32]

SLOWDOWN_CELSIUS = 87.0
"""From here on a GPU lowers its clocks (software thermal slowdown)."""
HARDWARE_SLOWDOWN_CELSIUS = 90.0
"""From here on the hardware halves them."""
SW_THERMAL, HW_SLOWDOWN, HW_THERMAL, HW_POWER_BRAKE = 0x20, 0x08, 0x40, 0x80
GPU_IDLE, SW_POWER_CAP = 0x01, 0x04
"""NVML's clock event reasons (nvml.h, nvmlClocksEventReason…)."""

_DIE_S, _SINK_S = 3.0, 45.0
"""Time constants with which heat follows power: the die at once, the heat sink or cold plate after a while."""
_DIE_SHARE = 0.35
_RAMP_S = 3.0
"""Time constant with which a job takes up its load."""
_JITTER_S = 5.0
_CLOCK_STEP_MHZ = 15.0
_NVLINK_BYTES = 3.6e11
"""What 18 links move in one direction when a job uses them fully, bytes a second."""


@dataclass(frozen=True)
class Drive:
    """How things stand around the GPUs: each array has shape (G,); None means that all is well."""

    rise: Floats | None = None
    """How many times as warm as usual a GPU gets for its power."""
    inlet_celsius: Floats | None = None
    """How much warmer than usual what cools it is."""
    load: Floats | None = None
    """The share of its job's load that it can take."""
    clock: Floats | None = None
    """The share of its usual clocks that it runs at, without a reason being told."""
    power: Floats | None = None
    """The share of its power limit that it may draw."""


HEALTHY = Drive()


class Signals:
    """The state of all GPUs; `step` moves it on by one tick and gives the readings. Some 150 bytes a GPU."""

    def __init__(self, nodes: Sequence[Node], seed: int, jobs: Jobs) -> None:
        self._rng = np.random.default_rng(seed)
        self._jobs = jobs
        gpus = [(node, gpu) for node in nodes for gpu in node.gpus]
        self.size = len(gpus)
        platform = [node.platform for node, _ in gpus]
        rng = self._rng

        def each(name: str) -> Floats:
            return np.array([getattr(p, name) for p in platform], np.float32)

        def spread(deviation: float) -> Floats:
            return rng.normal(0, deviation, self.size).astype(np.float32)

        self._idle_watts = each("idle_watts") * (1 + spread(0.04))
        self._work_watts = (each("busy_watts") - each("idle_watts")) * (1 + spread(0.02))
        self._limit_watts = each("limit_watts")
        # a part that is cooled a little worse stays so for life
        self._celsius_per_watt = each("busy_rise_celsius") / each("busy_watts") * (1 + spread(0.035))
        self._sm_clock = each("sm_clock_mhz")
        self._clock_offset = -np.abs(spread(18.0))
        self._idle_clock = each("idle_clock_mhz")
        self._memory_clock = each("memory_clock_mhz")
        self._memory_bytes = each("memory_bytes")
        self._memory_offset = 4.0 + np.clip(spread(1.0), -2, 2)
        self._links = each("links")
        slots = {rack: max(node.slot for node in nodes if node.rack == rack) for rack in {node.rack for node in nodes}}
        place = [
            node.platform.slot_celsius * node.slot / slots[node.rack] + node.platform.place_celsius * gpu.index
            for node, gpu in gpus
        ]
        self._inlet = each("inlet_celsius") + np.array(place, np.float32) + np.clip(spread(0.7), -1.5, 1.5)
        racks = sorted({node.rack for node in nodes})
        self._rack_of = np.array([racks.index(node.rack) for node, _ in gpus])
        self._rack_phase = rng.uniform(0, 2 * np.pi, len(racks))
        self._jitter = np.zeros(self.size, np.float32)
        load, _ = jobs.load(0.0)
        self._load = load[jobs.row_of]
        watts = self._idle_watts + self._load * jobs.column("intensity")[jobs.row_of] * self._work_watts
        self._die = watts * self._celsius_per_watt * _DIE_SHARE
        self._sink = watts * self._celsius_per_watt * (1 - _DIE_SHARE)
        self.excess_celsius = np.zeros(self.size, np.float32)
        """(G,) how much warmer each GPU is than it would be if all were well."""
        self._slowed = np.zeros(self.size, np.uint8)
        """What heat did to the clocks at the last tick: 0 nothing, 1 software, 2 hardware slowdown."""

    def step(self, now_s: float, step_s: float, drive: Drive = HEALTHY) -> tuple[dict[str, Floats], NDArray[np.int64]]:
        """The readings at `now_s` seconds of the fleet's time, each of shape (G,), and the throttle reasons.

        All metrics of the contract but the fan's: such boards have none of their own, so nobody offers it.
        """
        jobs, size = self._jobs, self.size
        noise = self._rng.standard_normal((6, size), dtype=np.float32)
        rows = jobs.row_of
        load_of_job, up_of_job = jobs.load(now_s)
        target = load_of_job[rows]
        if drive.load is not None:
            target = target * drive.load
        self._load += (target - self._load) * np.float32(-np.expm1(-step_s / _RAMP_S))
        keep = np.float32(np.exp(-step_s / _JITTER_S))
        self._jitter = self._jitter * keep + noise[0] * np.float32(0.018 * np.sqrt(1 - keep * keep))
        load = np.clip(self._load * (1 + self._jitter), 0, 1)
        load[load < 0.02] = 0.0
        busy = load > 0
        work = load * jobs.column("intensity")[rows]
        clock = self._sm_clock + self._clock_offset - 30 * work + 6 * noise[1]
        work, pace, clock = self._slowdowns(work, clock, drive)
        watts = self._idle_watts + work * self._work_watts + np.float32(4.0) * noise[2]
        throttle = np.where(busy, 0, GPU_IDLE)
        watts, clock = self._cap(watts, clock, throttle, drive)
        temperature = self._warm(now_s, step_s, watts, drive) + np.float32(0.3) * noise[3]
        np.rint(temperature, out=temperature)
        self._throttle(temperature, throttle)
        percent = 100 * load
        effective = percent * pace
        nvlink = work * pace * jobs.column("nvlink")[rows] * np.float32(_NVLINK_BYTES)
        wobble = 1 + np.float32(0.04) * noise[4]
        up = up_of_job[rows] + (rows != IDLE)
        dram = effective * jobs.column("dram")[rows]
        return {
            "temperature_celsius": temperature,
            "memory_temperature_celsius": np.rint(temperature + self._memory_offset + np.float32(0.06) * dram),
            "power_watts": _milli(watts),
            "power_average_watts": _milli(watts + np.float32(2.0) * noise[5]),
            "sm_clock_mhz": np.where(busy, np.floor(clock / _CLOCK_STEP_MHZ) * _CLOCK_STEP_MHZ, self._idle_clock),
            "memory_clock_mhz": self._memory_clock.copy(),
            "gpu_utilization_percent": np.rint(np.minimum(percent * np.float32(1.12), 100)),
            "memory_utilization_percent": np.rint(dram * np.float32(1.3)),
            "sm_active_percent": _hundredth(effective * np.float32(0.86)),
            "tensor_active_percent": _hundredth(effective * jobs.column("tensor")[rows]),
            "dram_active_percent": _hundredth(dram),
            # a program that starts fills its memory by and by
            "memory_used_bytes": np.float32(5.5e8)
            + np.float32(0.5) * up * jobs.column("memory")[rows] * self._memory_bytes,
            "bar1_used_bytes": np.full(size, 3.1e6, np.float32),
            "pcie_tx_bytes_per_second": np.rint(load * wobble * np.float32(2.4e9)),
            "pcie_rx_bytes_per_second": np.rint(load * wobble * np.float32(3.6e9)),
            "nvlink_tx_bytes_per_second": np.rint(nvlink * wobble),
            "nvlink_rx_bytes_per_second": np.rint(nvlink * (2 - wobble)),
            "nvlink_links_active": self._links.copy(),
            "performance_state": np.zeros(size, np.float32),
            "encoder_utilization_percent": np.zeros(size, np.float32),
            "decoder_utilization_percent": np.zeros(size, np.float32),
            "process_count": (rows != IDLE).astype(np.float32),
            "temperature_margin_celsius": np.float32(SLOWDOWN_CELSIUS) - temperature,
        }, throttle

    def _slowdowns(self, work: Floats, clock: Floats, drive: Drive) -> tuple[Floats, Floats | float, Floats]:
        """What GPUs do that run slower than they should, and what that does to those who wait for them.

        Work done, the pace of each GPU (1: as fast as its job could), and the clocks.
        """
        hot = self._slowed.any()
        if drive.clock is None and not hot:
            return work, 1.0, clock
        speed = np.ones(self.size, np.float32) if drive.clock is None else drive.clock
        if hot:
            speed = speed * np.choose(self._slowed, (1.0, 0.8, 0.5)).astype(np.float32)
        clock = clock * speed
        rows = self._jobs.row_of
        slowest = np.ones(len(self._jobs.together), np.float32)
        np.minimum.at(slowest, rows, speed)
        # where a job waits for its slowest GPU the others spin: busy by their utilisation, but doing less
        pace = np.where(self._jobs.together[rows], slowest[rows] / speed, np.float32(1.0))
        return work * speed * (np.float32(0.45) + np.float32(0.55) * pace), pace, clock

    def _cap(self, watts: Floats, clock: Floats, throttle: NDArray[np.int64], drive: Drive) -> tuple[Floats, Floats]:
        """Hold the power limit: what is above it costs clocks (SW_POWER_CAP), as on every heavily loaded board."""
        limit = self._limit_watts if drive.power is None else self._limit_watts * drive.power
        over = watts > limit
        if over.any():
            clock = np.where(over, clock * np.sqrt(limit / np.maximum(watts, 1)), clock)
            watts = np.where(over, limit - np.float32(0.004) * (watts - limit), watts)
            throttle[over] |= SW_POWER_CAP
        return watts, clock

    def _warm(self, now_s: float, step_s: float, watts: Floats, drive: Drive) -> Floats:
        """Temperatures before they are read: heat follows power, in the die at once and in the sink after a while."""
        heat = watts * self._celsius_per_watt
        die_k, sink_k = (np.float32(-np.expm1(-step_s / time_s)) for time_s in (_DIE_S, _SINK_S))
        self._die += (heat * np.float32(_DIE_SHARE) - self._die) * die_k
        self._sink += (heat * np.float32(1 - _DIE_SHARE) - self._sink) * sink_k
        # a hall breathes: some tenths of a degree over half an hour, each rack in its own time
        hall = (0.5 * np.sin(now_s / 300 + self._rack_phase)).astype(np.float32)[self._rack_of]
        healthy = self._inlet + hall + self._die + self._sink
        if drive.rise is not None or drive.inlet_celsius is not None or self.excess_celsius.any():
            wanted = np.zeros(self.size, np.float32)
            if drive.rise is not None:
                wanted += (drive.rise - 1) * (self._die + self._sink)
            if drive.inlet_celsius is not None:
                wanted += drive.inlet_celsius
            self.excess_celsius += (wanted - self.excess_celsius) * sink_k
            self.excess_celsius[np.abs(self.excess_celsius) < 0.01] = 0.0
        return np.asarray(np.minimum(healthy + self.excess_celsius, 103.0), np.float32)

    def _throttle(self, temperature: Floats, throttle: NDArray[np.int64]) -> None:
        hot = temperature >= SLOWDOWN_CELSIUS
        if not hot.any():
            if self._slowed.any():
                self._slowed[:] = 0
            return
        hotter = temperature >= HARDWARE_SLOWDOWN_CELSIUS
        throttle[hot] |= SW_THERMAL
        throttle[hotter] |= HW_SLOWDOWN | HW_THERMAL
        self._slowed = hot.astype(np.uint8) + hotter.astype(np.uint8)


def _milli(values: Floats) -> Floats:
    """NVML gives whole milliwatts."""
    return np.asarray(np.rint(values * np.float32(1000)) / np.float32(1000), np.float32)


def _hundredth(values: Floats) -> Floats:
    return np.asarray(np.rint(values * np.float32(100)) / np.float32(100), np.float32)
