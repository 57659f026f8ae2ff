"""What healthy GPUs read: jobs that load them together, heat that follows power, noise and steps like NVML's.

Everything is an array over all GPUs of the fleet (G), computed for one tick from the one before. The same seed gives
the same readings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from producers.simulate.topology import Node

Floats = NDArray[np.float64]

SLOWDOWN_CELSIUS = 87.0
"""From here on a GPU lowers its clocks (software thermal slowdown)."""
HARDWARE_SLOWDOWN_CELSIUS = 90.0
"""From here on the hardware halves them."""
SW_THERMAL, HW_SLOWDOWN, HW_THERMAL, GPU_IDLE = 0x20, 0x08, 0x40, 0x01
"""NVML's clock event reasons (nvml.h, nvmlClocksEventReason…)."""

_INLET_CELSIUS = 27.0
_BUSY_RISE_CELSIUS = 41.0
_HEAT_S = 12.0
"""Time constant with which heat follows power."""
_RAMP_S = 3.0
"""Time constant with which a job takes up its load."""
_BUSY_SHARE = 0.85


class Signals:
    """The state of all GPUs; `step` moves it on by one tick and gives the readings."""

    def __init__(self, nodes: Sequence[Node], seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        gpus = [(node, gpu) for node in nodes for gpu in node.gpus]
        self.size = len(gpus)
        platform = [node.platform for node, _ in gpus]
        self._idle_watts = np.array([p.idle_watts for p in platform])
        self._busy_watts = np.array([p.busy_watts for p in platform])
        self._sm_clock = np.array([p.sm_clock_mhz for p in platform])
        self._memory_clock = np.array([p.memory_clock_mhz for p in platform])
        self._memory_bytes = np.array([p.memory_bytes for p in platform])
        self._links = np.array([p.links for p in platform], float)
        # a job holds a whole NVLink domain; what its neighbours do is another job's matter
        domains = sorted({node.nvlink_domain for node in nodes})
        self._job_of = np.array([domains.index(node.nvlink_domain) for node, _ in gpus])
        self._job_begins_s = self._rng.uniform(-600, 0, len(domains))
        self._job_lasts_s = self._rng.uniform(400, 1200, len(domains))
        # warm air rises, and the last GPU of a board breathes what the first has heated
        slots = {rack: max(node.slot for node in nodes if node.rack == rack) for rack in {node.rack for node in nodes}}
        self._place_celsius = np.array(
            [3.0 * node.slot / slots[node.rack] + 0.35 * gpu.index for node, gpu in gpus]
        ) + self._rng.normal(0, 0.8, self.size)
        self._load = self._target(0.0)
        self._heat = self._load * _BUSY_RISE_CELSIUS

    def step(self, now_s: float, step_s: float, load_factor: Floats) -> dict[str, Floats]:
        """The readings at `now_s` seconds of the fleet's time, each of shape (G,), before anything is broken.

        All metrics of the contract but the fan's: such boards have none of their own, so nobody offers it.

        `load_factor` (G,) is the share of its job's load that each GPU can take.
        """
        rng, size = self._rng, self.size
        target = self._target(now_s) * load_factor
        self._load += (target - self._load) * min(1.0, step_s / _RAMP_S)
        load = np.clip(self._load + rng.normal(0, 0.015, size), 0, 1)
        self._heat += (load * _BUSY_RISE_CELSIUS - self._heat) * min(1.0, step_s / _HEAT_S)
        watts = self._idle_watts + load * (self._busy_watts - self._idle_watts) + rng.normal(0, 4, size)
        temperature = _INLET_CELSIUS + self._place_celsius + self._heat + rng.normal(0, 0.3, size)
        busy = load > 0.05
        links_bytes = load * 2.1e11 * rng.uniform(0.9, 1.0, size)
        return {
            "temperature_celsius": np.rint(temperature),
            "memory_temperature_celsius": np.rint(temperature + 7 + 3 * load),
            "power_watts": np.round(watts, 3),
            "power_average_watts": np.round(watts + rng.normal(0, 2, size), 3),
            "sm_clock_mhz": np.where(busy, self._sm_clock - 15 * rng.integers(0, 4, size), 345.0),
            "memory_clock_mhz": self._memory_clock.copy(),
            "gpu_utilization_percent": np.rint(np.where(busy, 100 * np.minimum(1.0, load * 1.1), 0)),
            "memory_utilization_percent": np.rint(100 * load * 0.55),
            "sm_active_percent": np.round(100 * load * 0.86, 2),
            "tensor_active_percent": np.round(100 * load * 0.43, 2),
            "dram_active_percent": np.round(100 * load * 0.38, 2),
            "memory_used_bytes": np.where(busy, self._memory_bytes * 0.84, 5.5e8),
            "bar1_used_bytes": np.full(size, 3.1e6),
            "pcie_tx_bytes_per_second": np.rint(load * 3.0e9 * rng.uniform(0.7, 1, size)),
            "pcie_rx_bytes_per_second": np.rint(load * 4.4e9 * rng.uniform(0.7, 1, size)),
            "nvlink_tx_bytes_per_second": np.rint(links_bytes),
            "nvlink_rx_bytes_per_second": np.rint(links_bytes * rng.uniform(0.97, 1.03, size)),
            "nvlink_links_active": self._links.copy(),
            "performance_state": np.zeros(size),
            "encoder_utilization_percent": np.zeros(size),
            "decoder_utilization_percent": np.zeros(size),
            "process_count": np.where(busy, 1.0, 0.0),
        }

    def _target(self, now_s: float) -> Floats:
        """The load that each GPU's job asks for: jobs follow one another, with a pause in between."""
        phase = ((now_s - self._job_begins_s) % self._job_lasts_s) / self._job_lasts_s
        # a collective waits now and then: load dips together on all GPUs of the job
        wave = 0.93 + 0.07 * np.sin(now_s / 7.0 + np.arange(len(phase)))
        return np.asarray(np.where(phase < _BUSY_SHARE, wave, 0.0)[self._job_of])
