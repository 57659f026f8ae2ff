"""One GPU of the real NVML: its calls through `pynvml`, and what has to be remembered between two reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pynvml

from producers.nvml.counter_calls import COUNTER_CALLS
from producers.nvml.interface import Answer, NvmlError

ALL_LINKS = 0xFFFFFFFF
"""nvml.h: the scope that sums NVLink throughput over all links."""
LINKS_UP = frozenset({pynvml.NVML_NVLINK_STATE_ACTIVE, pynvml.NVML_NVLINK_STATE_SLEEP})
"""A link that sleeps saves power while idle and is up."""

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
_NO_SUCH_CALL = frozenset(
    {
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
    }
)
_FIELDS_AT_ONCE = 100
"""One call with all fields of a GPU of 18 links (some 200) would hold NVML's lock for long."""


class Device:
    """Remembers the list of its fields and the last GPM sample: 20 kB."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.closed = False
        self._asked_fields: list[tuple[int, int]] | None = None
        self._gpm: _Gpm | None = None

    def read(self, call: str) -> Answer:
        """The answer of a call; raises `pynvml.NVMLError` or `NvmlError`."""
        if call == "fields":
            return self._fields()
        if call == "gpm":
            return self._activity()
        return _SINGLE[call](self.device)

    def fields(self, asked: Sequence[tuple[int, int]]) -> Answer:
        """Values of fields, some of which may be errors."""
        found: list[float | NvmlError] = []
        for start in range(0, len(asked), _FIELDS_AT_ONCE):
            part = list(asked[start : start + _FIELDS_AT_ONCE])
            found += map(_field_value, pynvml.nvmlDeviceGetFieldValues(self.device, part))
        return found

    def forget(self) -> None:
        """The GPU was found anew: a rate that reaches back before that means nothing."""
        self._asked_fields = None
        if self._gpm is not None:
            self._gpm.forget()

    def close(self) -> None:
        """Free what the driver holds for it."""
        self.closed = True
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

    def forget(self) -> None:
        self._has_before = False

    def close(self) -> None:
        for sample in (self._before, self._now):
            try:
                pynvml.nvmlGpmSampleFree(sample)
            except pynvml.NVMLError:
                continue


def _refused(code: int) -> NvmlError:
    return NvmlError(code, str(pynvml.NVMLError(code)))


def _not_supported() -> NvmlError:
    return NvmlError(pynvml.NVML_ERROR_NOT_SUPPORTED, "Not Supported")


def _newer(ask: Callable[[Any], Any], before: Callable[[Any], Any], device: Any) -> Any:
    """The answer of `ask`, and of what it took the place of where this driver is older than it.

    NVIDIA has deprecated the older ones: a driver of CUDA 14 will refuse them.
    """
    try:
        return ask(device)
    except pynvml.NVMLError as error:
        if error.value not in _NO_SUCH_CALL:
            raise
        return before(device)


def _temperature(device: Any) -> Answer:
    sensor = pynvml.NVML_TEMPERATURE_GPU
    return (
        _newer(
            lambda device: pynvml.nvmlDeviceGetTemperatureV(device, sensor),
            lambda device: pynvml.nvmlDeviceGetTemperature(device, sensor),
            device,
        ),
    )


def _throttle(device: Any) -> Answer:
    now, before = pynvml.nvmlDeviceGetCurrentClocksEventReasons, pynvml.nvmlDeviceGetCurrentClocksThrottleReasons
    return (_newer(now, before, device),)


def _memory(device: Any) -> Answer:
    """What programs use, as nvidia-smi and DCGM show it.

    The first version of the call adds what the driver keeps for itself: 0.9 GB on an idle A100.
    """
    with_reserved = pynvml.nvmlMemory_v2
    return (
        _newer(
            lambda device: pynvml.nvmlDeviceGetMemoryInfo(device, version=with_reserved),
            pynvml.nvmlDeviceGetMemoryInfo,
            device,
        ).used,
    )


def _utilization(rates: Any) -> Answer:
    return (rates.gpu, rates.memory)


def _links(device: Any) -> Answer:
    states = [pynvml.nvmlDeviceGetNvLinkState(device, link) for link in range(int(_count(device)[0]))]
    return (float(sum(state in LINKS_UP for state in states)),)


def _links_up(states: Sequence[float | NvmlError]) -> float | NvmlError:
    known = [state for state in states if not isinstance(state, NvmlError)]
    if known:
        return float(sum(state in LINKS_UP for state in known))
    return states[0] if states else _not_supported()


def _field_value(field: Any) -> float | NvmlError:
    if field.nvmlReturn != pynvml.NVML_SUCCESS:
        return _refused(field.nvmlReturn)
    member = _VALUE_MEMBER.get(field.valueType)
    return float(getattr(field.value, member)) if member else _not_supported()


def _link_count(device: Any) -> int:
    found = _field_value(pynvml.nvmlDeviceGetFieldValues(device, [pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT])[0])
    return 0 if isinstance(found, NvmlError) else min(int(found), pynvml.NVML_NVLINK_MAX_LINKS)


def _count(device: Any) -> Sequence[float]:
    links = _link_count(device)
    if not links:
        raise _not_supported()
    return (float(links),)


_SINGLE: dict[str, Callable[[Any], Answer]] = {
    "temperature": _temperature,
    "margin": lambda device: (pynvml.nvmlDeviceGetMarginTemperature(device),),
    "power": lambda device: (pynvml.nvmlDeviceGetPowerUsage(device),),
    "sm_clock": lambda device: (pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM),),
    "memory_clock": lambda device: (pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_MEM),),
    "utilization": lambda device: _utilization(pynvml.nvmlDeviceGetUtilizationRates(device)),
    "memory": _memory,
    "bar1": lambda device: (pynvml.nvmlDeviceGetBAR1MemoryInfo(device).bar1Used,),
    "fan": lambda device: (pynvml.nvmlDeviceGetFanSpeed(device),),
    "pstate": lambda device: (pynvml.nvmlDeviceGetPerformanceState(device),),
    "encoder": lambda device: (pynvml.nvmlDeviceGetEncoderUtilization(device)[0],),
    "decoder": lambda device: (pynvml.nvmlDeviceGetDecoderUtilization(device)[0],),
    "processes": lambda device: (len(pynvml.nvmlDeviceGetComputeRunningProcesses(device)),),
    "throttle": _throttle,
    "pcie_tx": lambda device: (pynvml.nvmlDeviceGetPcieThroughput(device, pynvml.NVML_PCIE_UTIL_TX_BYTES),),
    "pcie_rx": lambda device: (pynvml.nvmlDeviceGetPcieThroughput(device, pynvml.NVML_PCIE_UTIL_RX_BYTES),),
    "links": _links,
    "nvlink_count": _count,
} | {name: call.ask for name, call in COUNTER_CALLS.items()}
"""The calls by name; `fields` and `gpm` remember something and are the device's own."""
