"""The driver calls of the slow group, by name: one call each, so that one that is not supported spoils no other.

Read beside `library.py`, which makes them. Checked against the signatures of nvidia-ml-py and a stand-in for the
driver's library; where the comment names no capture, no GPU has confirmed it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pynvml

Ask = Callable[[Any], Sequence[float]]
"""The numbers of one call on a device; raises `pynvml.NVMLError`."""


@dataclass(frozen=True, slots=True)
class CounterCall:
    """One call of the driver, and the unit of each number that it gives."""

    units: tuple[str, ...]
    ask: Ask


def _one(function: Callable[..., Any], *arguments: Any) -> Ask:
    return lambda device: (function(device, *arguments),)


def _sram(device: Any) -> Sequence[float]:
    status = pynvml.c_nvmlEccSramErrorStatus_v1_t()
    pynvml.nvmlDeviceGetSramEccErrorStatus(device, pynvml.byref(status))
    return (
        status.volatileCor,
        status.volatileUncParity + status.volatileUncSecDed,
        status.volatileUncParity,
        status.volatileUncSecDed,
        status.aggregateCor,
        status.aggregateUncParity + status.aggregateUncSecDed,
        status.aggregateUncParity,
        status.aggregateUncSecDed,
        status.aggregateUncBucketL2,
        status.aggregateUncBucketSm,
        status.aggregateUncBucketMcu,
        status.aggregateUncBucketPcie,
        status.aggregateUncBucketOther,
        float(bool(status.bThresholdExceeded)),
    )


def _histogram(device: Any) -> Sequence[float]:
    banks = pynvml.nvmlDeviceGetRowRemapperHistogram(device)
    return (banks.max, banks.high, banks.partial, banks.low, banks.none)


def _retired(cause: int, device: Any) -> Sequence[float]:
    return (len(pynvml.nvmlDeviceGetRetiredPages(device, cause)),)


def _violation(policy: int, device: Any) -> Sequence[float]:
    return (pynvml.nvmlDeviceGetViolationStatus(device, policy).violationTime,)


def _memory(device: Any) -> Sequence[float]:
    memory = pynvml.nvmlDeviceGetMemoryInfo(device, version=pynvml.nvmlMemory_v2)
    return (memory.total, memory.reserved)


def fabric_info(device: Any) -> Any:
    """What the driver knows of the GPU's NVLink fabric, in the newest form that it knows."""
    try:
        info = pynvml.c_nvmlGpuFabricInfo_v3_t()
        pynvml.nvmlDeviceGetGpuFabricInfoV(device, pynvml.byref(info))
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH:
            raise
        info = pynvml.c_nvmlGpuFabricInfo_v2_t()
        pynvml.nvmlDeviceGetGpuFabricInfoV(device, pynvml.byref(info))
    return info


def _fabric(device: Any) -> Sequence[float]:
    """State, status and health. The status means something only once the state is `completed` (nvml.h)."""
    info = fabric_info(device)
    # drivers before the summary have the mask that it sums up
    health = float(info.healthSummary) if hasattr(info, "healthSummary") else health_of(info.healthMask)
    completed = info.state == pynvml.NVML_GPU_FABRIC_STATE_COMPLETED
    known = completed and health != pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_NOT_SUPPORTED
    return (info.state, info.status if completed else math.nan, health if known else math.nan)


_BAD_BITS = (
    (
        pynvml.NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_UNHEALTHY,
        pynvml.NVML_GPU_FABRIC_HEALTH_MASK_WIDTH_ROUTE_UNHEALTHY,
        pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_UNHEALTHY,
    ),
    (
        pynvml.NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ACCESS_TIMEOUT_RECOVERY,
        pynvml.NVML_GPU_FABRIC_HEALTH_MASK_WIDTH_ACCESS_TIMEOUT_RECOVERY,
        pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_UNHEALTHY,
    ),
    (
        pynvml.NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_DEGRADED_BW,
        pynvml.NVML_GPU_FABRIC_HEALTH_MASK_WIDTH_DEGRADED_BW,
        pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_LIMITED_CAPACITY,
    ),
    (
        pynvml.NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_RECOVERY,
        pynvml.NVML_GPU_FABRIC_HEALTH_MASK_WIDTH_ROUTE_RECOVERY,
        pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_LIMITED_CAPACITY,
    ),
)
"""Parts of the fabric's health mask, the worst first; each is 0 (not supported), 1 (true) or 2 (false)."""


def health_of(mask: int) -> float:
    """The summary (`NVML_GPU_FABRIC_HEALTH_SUMMARY_…`) of a health mask."""
    parts = [((mask >> shift) & width, summary) for shift, width, summary in _BAD_BITS]
    if not any(part for part, _ in parts):
        return float(pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_NOT_SUPPORTED)
    worst = (summary for part, summary in parts if part == 1)
    return float(next(worst, pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_HEALTHY))


_KINDS = {
    "correctable": pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
    "uncorrectable": pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
}
_SINCE = {"volatile": pynvml.NVML_VOLATILE_ECC, "aggregate": pynvml.NVML_AGGREGATE_ECC}
_LOCATIONS = {
    "sram": pynvml.NVML_MEMORY_LOCATION_SRAM,
    "dram": pynvml.NVML_MEMORY_LOCATION_DRAM,
    "register_file": pynvml.NVML_MEMORY_LOCATION_REGISTER_FILE,
    "l1_cache": pynvml.NVML_MEMORY_LOCATION_L1_CACHE,
    "l2_cache": pynvml.NVML_MEMORY_LOCATION_L2_CACHE,
}
_LINK_ERRORS = {
    "crc_flit_errors": pynvml.NVML_NVLINK_ERROR_DL_CRC_FLIT,
    "crc_data_errors": pynvml.NVML_NVLINK_ERROR_DL_CRC_DATA,
    "replays": pynvml.NVML_NVLINK_ERROR_DL_REPLAY,
    "recoveries": pynvml.NVML_NVLINK_ERROR_DL_RECOVERY,
}
_COUNT = ("count",)
_CELSIUS = ("°C",)
_MILLIWATTS = ("mW",)
_ECC = {
    f"ecc.{since}.{kind}": CounterCall(_COUNT, _one(pynvml.nvmlDeviceGetTotalEccErrors, type_, counter))
    for since, counter in _SINCE.items()
    for kind, type_ in _KINDS.items()
} | {
    f"ecc.{since}.{kind}.{place}": CounterCall(
        _COUNT, _one(pynvml.nvmlDeviceGetMemoryErrorCounter, type_, counter, location)
    )
    for since, counter in _SINCE.items()
    for kind, type_ in _KINDS.items()
    for place, location in _LOCATIONS.items()
}
_LINKS = {
    f"nvlink.active.{link}": CounterCall(("state",), _one(pynvml.nvmlDeviceGetNvLinkState, link))
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS)
} | {
    f"nvlink.{name}.{link}": CounterCall(_COUNT, _one(pynvml.nvmlDeviceGetNvLinkErrorCounter, link, counter))
    for name, counter in _LINK_ERRORS.items()
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS)
}
COUNTER_CALLS: dict[str, CounterCall] = {
    **_ECC,
    "sram_ecc": CounterCall(_COUNT * 13 + ("flag",), _sram),
    "remapped_rows": CounterCall(("rows", "rows", "flag", "flag"), pynvml.nvmlDeviceGetRemappedRows),
    "remap_histogram": CounterCall(("banks",) * 5, _histogram),
    "retired_pages.single_bit": CounterCall(
        ("pages",), partial(_retired, pynvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS)
    ),
    "retired_pages.double_bit": CounterCall(
        ("pages",), partial(_retired, pynvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR)
    ),
    "retired_pages.pending": CounterCall(("flag",), _one(pynvml.nvmlDeviceGetRetiredPagesPendingStatus)),
    "pcie.replays": CounterCall(_COUNT, _one(pynvml.nvmlDeviceGetPcieReplayCounter)),
    "pcie.width": CounterCall(("lanes",), _one(pynvml.nvmlDeviceGetCurrPcieLinkWidth)),
    "pcie.width_max": CounterCall(("lanes",), _one(pynvml.nvmlDeviceGetMaxPcieLinkWidth)),
    "pcie.generation": CounterCall(("generation",), _one(pynvml.nvmlDeviceGetCurrPcieLinkGeneration)),
    "pcie.generation_max": CounterCall(("generation",), _one(pynvml.nvmlDeviceGetMaxPcieLinkGeneration)),
    "pcie.generation_device_max": CounterCall(("generation",), _one(pynvml.nvmlDeviceGetGpuMaxPcieLinkGeneration)),
    "violation.power": CounterCall(("ns",), partial(_violation, pynvml.NVML_PERF_POLICY_POWER)),
    "violation.thermal": CounterCall(("ns",), partial(_violation, pynvml.NVML_PERF_POLICY_THERMAL)),
    "violation.sync_boost": CounterCall(("ns",), partial(_violation, pynvml.NVML_PERF_POLICY_SYNC_BOOST)),
    "energy": CounterCall(("mJ",), _one(pynvml.nvmlDeviceGetTotalEnergyConsumption)),
    "power_limit.enforced": CounterCall(_MILLIWATTS, _one(pynvml.nvmlDeviceGetEnforcedPowerLimit)),
    "power_limit.requested": CounterCall(_MILLIWATTS, _one(pynvml.nvmlDeviceGetPowerManagementLimit)),
    "power_limit.default": CounterCall(_MILLIWATTS, _one(pynvml.nvmlDeviceGetPowerManagementDefaultLimit)),
    "power_limit.range": CounterCall(_MILLIWATTS * 2, pynvml.nvmlDeviceGetPowerManagementLimitConstraints),
    "threshold.shutdown": CounterCall(
        _CELSIUS, _one(pynvml.nvmlDeviceGetTemperatureThreshold, pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)
    ),
    "threshold.slowdown": CounterCall(
        _CELSIUS, _one(pynvml.nvmlDeviceGetTemperatureThreshold, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
    ),
    "threshold.gpu": CounterCall(
        _CELSIUS, _one(pynvml.nvmlDeviceGetTemperatureThreshold, pynvml.NVML_TEMPERATURE_THRESHOLD_GPU_MAX)
    ),
    "threshold.memory": CounterCall(
        _CELSIUS, _one(pynvml.nvmlDeviceGetTemperatureThreshold, pynvml.NVML_TEMPERATURE_THRESHOLD_MEM_MAX)
    ),
    "memory_limits": CounterCall(("bytes", "bytes"), _memory),
    "memory_total": CounterCall(("bytes",), lambda device: (pynvml.nvmlDeviceGetMemoryInfo(device).total,)),
    "bar1_total": CounterCall(("bytes",), lambda device: (pynvml.nvmlDeviceGetBAR1MemoryInfo(device).bar1Total,)),
    "clock_max.sm": CounterCall(("MHz",), _one(pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_SM)),
    "clock_max.memory": CounterCall(("MHz",), _one(pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_MEM)),
    "mig": CounterCall(("mode", "mode"), pynvml.nvmlDeviceGetMigMode),
    "ecc_mode": CounterCall(("mode", "mode"), pynvml.nvmlDeviceGetEccMode),
    "persistence": CounterCall(("mode",), _one(pynvml.nvmlDeviceGetPersistenceMode)),
    "compute_mode": CounterCall(("mode",), _one(pynvml.nvmlDeviceGetComputeMode)),
    "fabric": CounterCall(("state", "status", "health"), _fabric),
    **_LINKS,
}
"""Every call by name. The numbers of `sram_ecc`, in order: volatile correctable, uncorrectable, of that by parity, by
SEC-DED; aggregate the same four; of the aggregate uncorrectable ones in L2, SM, microcontroller, PCIe, elsewhere;
threshold exceeded."""
