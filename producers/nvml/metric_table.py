"""How each metric of `gpu.samples` is read from NVML: which call, in which unit, and which values can be.

Also what NVML's errors mean to a reader: `UNSUPPORTED`, `LOST`, `DRIVER_GONE`, `explained`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pynvml

from producers.nvml.interface import NvmlError

KIB = 1024.0
MIB = 1024.0 * 1024.0


@dataclass(frozen=True, slots=True)
class Way:
    """One way to read a metric."""

    call: str
    """A name of `interface.CALLS`."""
    place: int = 0
    """Which number of the answer."""
    scale: float = 1.0
    """From NVML's unit to the one in the metric's name."""
    total: bool = False
    """NVML gives a running total, the metric is what it grows by per second."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A column of `gpu.samples`: what it can be at all, and its ways, the best first."""

    name: str
    low: float
    high: float
    ways: tuple[Way, ...]


# The limits keep out what drivers are known to say instead of an error (0xffffffff, 0 for a sensor that is not there);
# they are far outside of what hardware does. NVIDIA's API reference has the units of each call.
METRICS: tuple[Metric, ...] = (
    Metric("temperature_celsius", -40, 200, (Way("temperature"),)),
    Metric("memory_temperature_celsius", 1, 200, (Way("fields", 0),)),  # 0: the board has no such sensor
    Metric("temperature_margin_celsius", -100, 200, (Way("margin"),)),
    Metric("power_watts", 0, 5000, (Way("fields", 1, 1e-3), Way("power", 0, 1e-3))),
    # NVIDIA: nvmlDeviceGetPowerUsage is a one-second average on some boards and the power now on others, so no stand-in
    Metric("power_average_watts", 0, 5000, (Way("fields", 2, 1e-3),)),
    Metric("sm_clock_mhz", 0, 10_000, (Way("sm_clock"),)),
    Metric("memory_clock_mhz", 0, 50_000, (Way("memory_clock"),)),
    Metric("gpu_utilization_percent", 0, 100, (Way("utilization", 0),)),
    Metric("memory_utilization_percent", 0, 100, (Way("utilization", 1),)),
    Metric("sm_active_percent", 0, 100, (Way("gpm", 0),)),
    Metric("tensor_active_percent", 0, 100, (Way("gpm", 1),)),
    Metric("dram_active_percent", 0, 100, (Way("gpm", 2),)),
    Metric("memory_used_bytes", 0, 1e13, (Way("memory"),)),
    Metric("bar1_used_bytes", 0, 1e13, (Way("bar1"),)),
    Metric("fan_speed_percent", 0, 200, (Way("fan"),)),  # NVIDIA: may exceed 100
    # before Hopper: a call that blocks 20 ms per direction and GPU
    Metric("pcie_tx_bytes_per_second", 0, 1e12, (Way("gpm", 3, MIB), Way("pcie_tx", 0, 1000))),
    Metric("pcie_rx_bytes_per_second", 0, 1e12, (Way("gpm", 4, MIB), Way("pcie_rx", 0, 1000))),
    Metric("nvlink_tx_bytes_per_second", 0, 1e13, (Way("gpm", 5, MIB), Way("fields", 3, KIB, total=True))),
    Metric("nvlink_rx_bytes_per_second", 0, 1e13, (Way("gpm", 6, MIB), Way("fields", 4, KIB, total=True))),
    Metric("nvlink_links_active", 0, 256, (Way("fields", 5), Way("links"))),
    Metric("performance_state", 0, 15, (Way("pstate"),)),  # 32 is NVML's `unknown`
    Metric("encoder_utilization_percent", 0, 100, (Way("encoder"),)),
    Metric("decoder_utilization_percent", 0, 100, (Way("decoder"),)),
    Metric("process_count", 0, 1e6, (Way("processes"),)),
    Metric("throttle_reasons", 0, 2.0**53, (Way("throttle"),)),
)
COLUMNS: tuple[str, ...] = tuple(metric.name for metric in METRICS)
THROTTLE = COLUMNS.index("throttle_reasons")
"""The one column that is a bit mask, -1 where it is unknown."""

UNSUPPORTED = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,  # a field id that this driver does not know
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
    }
)
"""The GPU or the driver does not offer it: no fault."""
LOST = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_GPU_NOT_FOUND})
"""The GPU does not answer the driver any more."""
DRIVER_GONE = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)
"""Nobody can be asked until NVML is opened again."""


def explained(error: NvmlError) -> str:
    """What NVML said, and what to do about it where that is known."""
    if error.code == pynvml.NVML_ERROR_NO_PERMISSION:
        return f"{error} (run the agent as root; for activity also NVreg_RestrictProfilingToAdminUsers=0)"
    if error.code == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return f"{error} (the driver was updated under the agent: restart it)"
    return str(error)
