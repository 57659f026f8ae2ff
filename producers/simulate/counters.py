"""What changes slowly on the fleet's GPUs: error counters, energy, limits. Arrays over the fleet, as in `signals`.

Healthy GPUs have errors too: a few parts see most of the corrected ones, links recover now and then, packets are
repeated. These come at random between two readings, at rates that are drawn once per GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from producers.simulate.plan import Effect
from producers.simulate.signals import HW_POWER_BRAKE, HW_THERMAL, SLOWDOWN_CELSIUS, SW_POWER_CAP, SW_THERMAL, Floats
from producers.simulate.topology import Node
from producers.simulate.world import grown

Doubles = NDArray[np.float64]

_DAY_S = 86_400.0
_COUNTED = (
    "ecc_volatile_correctable", "ecc_volatile_uncorrectable", "ecc_aggregate_correctable",
    "ecc_aggregate_uncorrectable", "ecc_volatile_dram_correctable", "ecc_volatile_dram_uncorrectable",
    "ecc_aggregate_dram_correctable", "ecc_aggregate_dram_uncorrectable", "row_remap_correctable",
    "row_remap_uncorrectable", "pcie_replays", "nvlink_crc_flit_errors", "nvlink_replays", "nvlink_recoveries",
    "nvlink_recoveries_failed", "throttled_sw_power_cap_us", "throttled_sw_thermal_us", "throttled_hw_thermal_us",
    "throttled_hw_power_brake_us", "energy_joules",
)  # fmt: skip
LINK_COUNTERS = {
    "nvlink_crc_flit_errors": "nvlink_link_crc_flit_errors",
    "nvlink_replays": "nvlink_link_replays",
    "nvlink_recoveries": "nvlink_link_recoveries",
    "nvlink_recoveries_failed": "nvlink_link_recoveries_failed",
}
"""The counters of a GPU that are sums over its NVLinks, and the columns that have them by link."""
_FOR_LIFE = frozenset(name for name in _COUNTED if "aggregate" in name or "remap" in name)
"""Kept in the board's own memory; the others begin anew when the driver is loaded."""
_THROTTLED = {
    "throttled_sw_power_cap_us": SW_POWER_CAP,
    "throttled_sw_thermal_us": SW_THERMAL,
    "throttled_hw_thermal_us": HW_THERMAL,
    "throttled_hw_power_brake_us": HW_POWER_BRAKE,
}
_ORDINARY = {
    # group of counters: (median per GPU and day, how much GPUs differ: sigma of the logarithm)
    ("ecc_volatile_correctable", "ecc_aggregate_correctable", "ecc_volatile_dram_correctable",
     "ecc_aggregate_dram_correctable"): (0.01, 1.6),
    ("pcie_replays",): (0.3, 1.0),
    ("nvlink_replays",): (3.0, 1.0),
    ("nvlink_recoveries",): (0.02, 1.0),
    ("nvlink_crc_flit_errors",): (5.0, 1.0),
}  # fmt: skip


class Counters:
    """The counters of all GPUs; some 200 bytes a GPU, and 600 more for those of its 18 NVLinks."""

    def __init__(self, nodes: Sequence[Node], seed: int) -> None:
        self._rng = np.random.default_rng((seed, 0xC0))
        gpus = [(node, gpu) for node in nodes for gpu in node.gpus]
        self._size = size = len(gpus)
        self._links = max(node.platform.links for node in nodes)
        self._of_links: dict[str, Doubles] = {name: np.zeros((size, self._links)) for name in LINK_COUNTERS}
        # of its own: which link it was changes nothing else in the fleet
        self._which_link = np.random.default_rng((seed, 0xC1))
        self._totals: dict[str, Doubles] = {name: np.zeros(size) for name in _COUNTED}
        # a fleet has a past: some boards have lived through errors and repairs
        old = self._rng.poisson(self._rng.lognormal(-2.0, 1.8, size)).astype(float)
        self._totals["ecc_aggregate_correctable"] += old
        self._totals["ecc_aggregate_dram_correctable"] += old
        self._totals["row_remap_correctable"] += self._rng.random(size) < 0.02
        self._totals["row_remap_uncorrectable"] += self._rng.random(size) < 0.008
        self._rates = [
            (names, self._rng.lognormal(np.log(median), sigma, size)) for names, (median, sigma) in _ORDINARY.items()
        ]
        limit = np.array([node.platform.limit_watts for node, _ in gpus])
        memory = np.array([node.platform.memory_bytes for node, _ in gpus], float)
        self._fixed: dict[str, Doubles] = {
            "row_remap_pending": np.zeros(size),
            "row_remap_failure": np.zeros(size),
            "pcie_width": np.full(size, 16.0),
            "pcie_width_max": np.full(size, 16.0),
            "pcie_generation": np.full(size, 5.0),
            "pcie_generation_max": np.full(size, 5.0),
            "power_limit_watts": limit,
            "power_limit_default_watts": limit,
            "temperature_slowdown_celsius": np.full(size, SLOWDOWN_CELSIUS),
            "memory_total_bytes": memory,
        }
        self._read_s = 0.0

    def add(self, step_s: float, readings: Mapping[str, Floats], throttle: NDArray[np.int64]) -> None:
        """What a tick adds: energy, and time spent throttled."""
        self._totals["energy_joules"] += np.nan_to_num(readings["power_watts"]) * step_s
        bits = int(np.bitwise_or.reduce(np.maximum(throttle, 0)))
        for name, mask in _THROTTLED.items():
            if bits & mask:
                self._totals[name] += ((throttle & mask) != 0) * (throttle >= 0) * (step_s * 1e6)

    def keep(self, effects: Iterable[Effect]) -> None:
        """Growth that is over, and stays."""
        for effect in effects:
            self._totals[effect.name][list(effect.on)] += effect.value
            if effect.name in LINK_COUNTERS:
                self._of_links[effect.name][list(effect.on), effect.link] += effect.value

    def restart(self, gpus: Sequence[int]) -> None:
        """The driver of these GPUs was loaded anew."""
        for name, values in self._totals.items():
            if name not in _FOR_LIFE:
                values[list(gpus)] = 0.0
        for values in self._of_links.values():
            values[list(gpus)] = 0.0

    def read(self, now_s: float, effects: Iterable[Effect], unreadable: Sequence[int]) -> dict[str, Doubles]:
        """All counters now, each of shape (G,), as the contract names them; NaN is not read."""
        days, self._read_s = (now_s - self._read_s) / _DAY_S, now_s
        for names, rates in self._rates:
            some = self._rng.poisson(rates * days)
            for name in names:
                self._totals[name] += some
                if name in LINK_COUNTERS:
                    self._spread(self._of_links[name], some)
        found = {name: values.copy() for name, values in (self._totals | self._fixed).items()}
        found["energy_joules"] = np.rint(found["energy_joules"])
        for effect in effects:
            on = list(effect.on)
            if effect.channel == "count":
                found[effect.name][on] += grown(effect, now_s)
            else:
                found[effect.name][on] = effect.value
        for values in found.values():
            values[list(unreadable)] = np.nan
        return found

    def links(
        self,
        now_s: float,
        effects: Iterable[Effect],
        down: Iterable[tuple[Sequence[int], int]],
        unreadable: Sequence[int],
    ) -> dict[str, Doubles]:
        """The same by link, as of the last `read`: shape (G, links) each. `down`: GPUs, and which of their links is."""
        found = {LINK_COUNTERS[name]: values.copy() for name, values in self._of_links.items()}
        for effect in effects:
            if effect.channel == "count" and effect.name in LINK_COUNTERS:
                found[LINK_COUNTERS[effect.name]][list(effect.on), effect.link] += grown(effect, now_s)
        active = found["nvlink_link_active"] = np.ones((self._size, self._links))
        for gpus, link in down:
            active[list(gpus), link] = 0.0
        for values in found.values():
            values[list(unreadable)] = np.nan
        return found

    def _spread(self, of_links: Doubles, some: NDArray[np.int64]) -> None:
        """Each of a GPU's errors is one of its links', by chance."""
        gpus = np.repeat(np.arange(self._size), some)
        np.add.at(of_links, (gpus, self._which_link.integers(self._links, size=len(gpus))), 1.0)
