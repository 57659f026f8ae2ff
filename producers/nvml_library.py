"""NVML as the agent asks it: a few calls by name, each a row of numbers. `pynvml` is behind it, and nothing else is.

A second implementation of the same interface is the simulated NVML (`producers/simulate/nvml.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pynvml

from producers.discovery import GpuIdentity, normal_serial
from producers.kernel_log.events import normal_pci

ALL_LINKS = 0xFFFFFFFF
"""nvml.h: the scope that sums NVLink throughput over all links."""


class NvmlError(Exception):
    """NVML's answer when it has none; `code` is its `NVML_ERROR_…` number."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


Answer = Sequence[float | NvmlError]
"""The numbers of one call (NaN: not yet), or, in the places of a batch, why there is none."""


class Nvml(Protocol):
    """NVML. Everything may block, and raises `NvmlError`."""

    def open(self) -> None:
        """Load and initialise; also again after `close`."""

    def close(self) -> None:
        """Let the driver go. Never raises."""

    def count(self) -> int:
        """GPUs that the driver counts, with those that no longer answer."""

    def handle(self, index: int) -> Any:
        """What `identify` and `read` want to know a GPU by."""

    def identify(self, handle: Any, index: int) -> GpuIdentity:
        """Who it is. A part that cannot be told is None."""

    def read(self, handle: Any, call: str) -> Answer:
        """The answer of one of `CALLS`, in NVML's own units. Single places of a batch may hold an error."""


CALLS: dict[str, tuple[str, ...]] = {
    "temperature": ("°C",),
    "margin": ("°C",),
    "power": ("mW",),
    "sm_clock": ("MHz",),
    "memory_clock": ("MHz",),
    "utilization": ("% GPU", "% memory"),
    "memory": ("bytes",),
    "bar1": ("bytes",),
    "fan": ("%",),
    "pstate": ("P",),
    "encoder": ("%",),
    "decoder": ("%",),
    "processes": ("processes",),
    "throttle": ("bits",),
    # one call for all of them: memory temperature, power now, power averaged, NVLink sent and received (running
    # totals over all links), NVLink links that are up
    "fields": ("°C", "mW", "mW", "KiB", "KiB", "links"),
    # GPU performance monitoring (Hopper and later), over the time since it was last asked: SM, tensor and DRAM
    # activity, PCIe sent and received, NVLink sent and received
    "gpm": ("%", "%", "%", "MiB/s", "MiB/s", "MiB/s", "MiB/s"),
    "links": ("links",),
    # each of these blocks for 20 ms, in which NVML counts bytes
    "pcie_tx": ("KB/s",),
    "pcie_rx": ("KB/s",),
}
"""Every call by name, with the unit of each place of its answer."""

_FIELDS = (
    (pynvml.NVML_FI_DEV_MEMORY_TEMP, 0),
    (pynvml.NVML_FI_DEV_POWER_INSTANT, 0),
    (pynvml.NVML_FI_DEV_POWER_AVERAGE, 0),
    (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, ALL_LINKS),
    (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, ALL_LINKS),
)
_GPM = (
    pynvml.NVML_GPM_METRIC_SM_UTIL,
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
    pynvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC,
    pynvml.NVML_GPM_METRIC_PCIE_RX_PER_SEC,
    pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC,
    pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC,
)
_VALUE_MEMBER = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "usVal",
}


_SINGLE: dict[str, Callable[[Any], Answer]] = {
    "temperature": lambda device: (pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU),),
    "margin": lambda device: (pynvml.nvmlDeviceGetMarginTemperature(device),),
    "power": lambda device: (pynvml.nvmlDeviceGetPowerUsage(device),),
    "sm_clock": lambda device: (pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM),),
    "memory_clock": lambda device: (pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_MEM),),
    "utilization": lambda device: _utilization(pynvml.nvmlDeviceGetUtilizationRates(device)),
    "memory": lambda device: (pynvml.nvmlDeviceGetMemoryInfo(device).used,),
    "bar1": lambda device: (pynvml.nvmlDeviceGetBAR1MemoryInfo(device).bar1Used,),
    "fan": lambda device: (pynvml.nvmlDeviceGetFanSpeed(device),),
    "pstate": lambda device: (pynvml.nvmlDeviceGetPerformanceState(device),),
    "encoder": lambda device: (pynvml.nvmlDeviceGetEncoderUtilization(device)[0],),
    "decoder": lambda device: (pynvml.nvmlDeviceGetDecoderUtilization(device)[0],),
    "processes": lambda device: (len(pynvml.nvmlDeviceGetComputeRunningProcesses(device)),),
    "throttle": lambda device: (pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(device),),
    "pcie_tx": lambda device: (pynvml.nvmlDeviceGetPcieThroughput(device, pynvml.NVML_PCIE_UTIL_TX_BYTES),),
    "pcie_rx": lambda device: (pynvml.nvmlDeviceGetPcieThroughput(device, pynvml.NVML_PCIE_UTIL_RX_BYTES),),
}


class Library:
    """The real one. Keeps, per GPU, the list of its fields and the last GPM sample (20 kB)."""

    def __init__(self) -> None:
        self._devices: list[_Device] = []

    def open(self) -> None:
        """Load and initialise NVML."""
        _asked(pynvml.nvmlInit)

    def close(self) -> None:
        """Let the driver go."""
        for device in self._devices:
            device.close()
        self._devices.clear()
        try:
            _asked(pynvml.nvmlShutdown)
        except NvmlError:  # the driver went first
            return

    def count(self) -> int:
        """GPUs that the driver counts."""
        return int(_asked(pynvml.nvmlDeviceGetCount))

    def handle(self, index: int) -> _Device:
        """A GPU by the driver's index."""
        device = _Device(_asked(pynvml.nvmlDeviceGetHandleByIndex, index))
        self._devices.append(device)
        return device

    def identify(self, handle: _Device, index: int) -> GpuIdentity:
        """Who it is. Raises only where the GPU is lost."""
        device = handle.device
        return GpuIdentity(
            index=index,
            serial=normal_serial(_told(pynvml.nvmlDeviceGetSerial, device)),
            uuid=_told(pynvml.nvmlDeviceGetUUID, device),
            pci=_told(lambda _: normal_pci(pynvml.nvmlDeviceGetPciInfo(device).busId), device),
            sku=_told(pynvml.nvmlDeviceGetName, device),
            driver_version=_told(lambda _: pynvml.nvmlSystemGetDriverVersion(), device),
            vbios_version=_told(pynvml.nvmlDeviceGetVbiosVersion, device),
            module=_told(pynvml.nvmlDeviceGetModuleId, device),
            nvlink_domain=_told(_fabric, device),
        )

    def read(self, handle: _Device, call: str) -> Answer:
        """The answer of a call."""
        try:
            return handle.read(call)
        except pynvml.NVMLError as error:
            raise NvmlError(error.value, str(error)) from error


class _Device:
    """One GPU of the real NVML, and what has to be remembered between two reads."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self._asked_fields: list[tuple[int, int]] | None = None
        self._gpm: _Gpm | None = None

    def read(self, call: str) -> Answer:
        if call == "fields":
            return self._fields()
        if call == "gpm":
            return self._activity()
        if call == "links":
            return self._links()
        return _SINGLE[call](self.device)

    def close(self) -> None:
        if self._gpm is not None:
            self._gpm.close()
            self._gpm = None

    def _fields(self) -> Answer:
        if self._asked_fields is None:
            links = ((pynvml.NVML_FI_DEV_NVLINK_GET_STATE, link) for link in range(_link_count(self.device)))
            self._asked_fields = [*_FIELDS, *links]
        values = [_field_value(field) for field in pynvml.nvmlDeviceGetFieldValues(self.device, self._asked_fields)]
        return (*values[: len(_FIELDS)], _links_up(values[len(_FIELDS) :]))

    def _activity(self) -> Answer:
        if self._gpm is None:
            if not pynvml.nvmlGpmQueryDeviceSupport(self.device).isSupportedDevice:
                raise _not_supported()
            self._gpm = _Gpm()
        return self._gpm.read(self.device)

    def _links(self) -> Answer:
        links = _link_count(self.device)
        if not links:
            raise _not_supported()
        return (float(sum(pynvml.nvmlDeviceGetNvLinkState(self.device, link) for link in range(links))),)


class _Gpm:
    """Two samples of one GPU in turn, and the request that compares them."""

    def __init__(self) -> None:
        self._before = pynvml.nvmlGpmSampleAlloc()
        self._now = pynvml.nvmlGpmSampleAlloc()
        self._has_before = False
        self._request = pynvml.c_nvmlGpmMetricsGet_t()
        self._request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        self._request.numMetrics = len(_GPM)
        for place, metric in enumerate(_GPM):
            self._request.metrics[place].metricId = metric

    def read(self, device: Any) -> Answer:
        pynvml.nvmlGpmSampleGet(device, self._now)
        self._before, self._now = self._now, self._before
        if not self._has_before:  # an activity needs two samples; these come with the next tick
            self._has_before = True
            return (math.nan,) * len(_GPM)
        self._request.sample1, self._request.sample2 = self._now, self._before
        pynvml.nvmlGpmMetricsGet(self._request)
        metrics = self._request.metrics
        return tuple(
            metrics[place].value
            if metrics[place].nvmlReturn == pynvml.NVML_SUCCESS
            else _refused(metrics[place].nvmlReturn)
            for place in range(len(_GPM))
        )

    def close(self) -> None:
        for sample in (self._before, self._now):
            try:
                pynvml.nvmlGpmSampleFree(sample)
            except pynvml.NVMLError:
                continue


def _asked(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        raise NvmlError(error.value, str(error)) from error


def _told(function: Callable[[Any], Any], device: Any) -> Any:
    """An answer of `function`, None where NVML has none. A GPU that is lost says so by an exception."""
    try:
        return function(device)
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
            raise NvmlError(error.value, str(error)) from error
        return None


def _refused(code: int) -> NvmlError:
    return NvmlError(code, str(pynvml.NVMLError(code)))


def _not_supported() -> NvmlError:
    return NvmlError(pynvml.NVML_ERROR_NOT_SUPPORTED, "Not Supported")


def _utilization(rates: Any) -> Answer:
    return (rates.gpu, rates.memory)


def _links_up(states: Sequence[float | NvmlError]) -> float | NvmlError:
    known = [state for state in states if not isinstance(state, NvmlError)]
    if known:
        return float(known.count(pynvml.NVML_NVLINK_STATE_ACTIVE))
    return states[0] if states else _not_supported()


def _field_value(field: Any) -> float | NvmlError:
    if field.nvmlReturn != pynvml.NVML_SUCCESS:
        return _refused(field.nvmlReturn)
    member = _VALUE_MEMBER.get(field.valueType)
    return float(getattr(field.value, member)) if member else _not_supported()


def _link_count(device: Any) -> int:
    found = _field_value(pynvml.nvmlDeviceGetFieldValues(device, [pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT])[0])
    return 0 if isinstance(found, NvmlError) else min(int(found), pynvml.NVML_NVLINK_MAX_LINKS)


def _fabric(device: Any) -> str | None:
    """The NVLink domain of a GPU in a rack-wide fabric, None where the node is a domain by itself."""
    info = pynvml.c_nvmlGpuFabricInfoV_t()
    pynvml.nvmlDeviceGetGpuFabricInfoV(device, pynvml.byref(info))
    cluster = bytes(info.clusterUuid)
    if info.state != pynvml.NVML_GPU_FABRIC_STATE_COMPLETED or not any(cluster):
        return None
    return f"{cluster.hex()}.{info.cliqueId}"
