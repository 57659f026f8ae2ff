"""The adapter runs through the real pynvml, down to a stand-in for libnvidia-ml that fills the same C structures."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from typing import Any

import pynvml
import pytest

from producers.nvml_library import CALLS, Library, NvmlError

OK = int(pynvml.NVML_SUCCESS)
UINT, ULONG_LONG = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
LINKS = 18
ALL_LINKS = 0xFFFFFFFF
UUID = b"GPU-566e6f65-c38e-b12f-4824-6944218668b9"
CLOCKS = {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}
PCIE = {pynvml.NVML_PCIE_UTIL_TX_BYTES: 111, pynvml.NVML_PCIE_UTIL_RX_BYTES: 222}
FIELDS = {
    (pynvml.NVML_FI_DEV_MEMORY_TEMP, 0): (UINT, "uiVal", 54),
    (pynvml.NVML_FI_DEV_POWER_INSTANT, 0): (UINT, "uiVal", 625_680),
    (pynvml.NVML_FI_DEV_POWER_AVERAGE, 0): (UINT, "uiVal", 631_950),
    (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, ALL_LINKS): (ULONG_LONG, "ullVal", 2**40),
    (pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT, 0): (UINT, "uiVal", LINKS),
}
ACTIVITY = {
    pynvml.NVML_GPM_METRIC_SM_UTIL: 91.5,
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL: 40.25,
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL: 33.0,
    pynvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC: 100.0,
    pynvml.NVML_GPM_METRIC_PCIE_RX_PER_SEC: 200.0,
    pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC: 300.0,
}


def fill(reference: Any, **values: Any) -> int:
    target = reference._obj if hasattr(reference, "_obj") else reference
    for name, value in values.items():
        setattr(target, name, value)
    return OK


def number(reference: Any, value: int) -> int:
    return fill(reference, value=value)


class Libnvidia:
    """What the driver's library would do, for one H100. `errors` maps a function's name to what it returns instead."""

    def __init__(self) -> None:
        self.errors: dict[str, int] = {}
        self.gpm_taken: list[int] = []
        self.gpm_compared: tuple[int, int] | None = None
        self.links_down: set[int] = set()
        self._device = ctypes.c_int(1)
        self._functions: dict[str, Callable[..., int]] = {
            "nvmlInitWithFlags": lambda _: OK,
            "nvmlShutdown": lambda: OK,
            "nvmlDeviceGetCount_v2": lambda out: number(out, 1),
            "nvmlDeviceGetHandleByIndex_v2": self.handle,
            "nvmlDeviceGetTemperature": lambda _device, _sensor, out: number(out, 59),
            "nvmlDeviceGetMarginTemperature": lambda _, out: fill(out, marginTemperature=26),
            "nvmlDeviceGetPowerUsage": lambda _, out: number(out, 631_950),
            "nvmlDeviceGetClockInfo": lambda _, kind, out: number(out, CLOCKS[kind.value]),
            "nvmlDeviceGetUtilizationRates": lambda _, out: fill(out, gpu=100, memory=11),
            "nvmlDeviceGetMemoryInfo": lambda _, out: fill(out, used=20_780_679_168),
            "nvmlDeviceGetBAR1MemoryInfo": lambda _, out: fill(out, bar1Used=3_000_000),
            "nvmlDeviceGetPerformanceState": lambda _, out: number(out, 0),
            "nvmlDeviceGetEncoderUtilization": lambda _device, out, _period: number(out, 7),
            "nvmlDeviceGetDecoderUtilization": lambda _device, out, _period: number(out, 9),
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _, out: number(out, 0x44),
            "nvmlDeviceGetPcieThroughput": lambda _, kind, out: number(out, PCIE[kind.value]),
            "nvmlDeviceGetComputeRunningProcesses_v3": self.processes,
            "nvmlDeviceGetFieldValues": self.fields,
            "nvmlGpmQueryDeviceSupport": lambda _, out: fill(out, isSupportedDevice=1),
            "nvmlGpmSampleAlloc": self.gpm_alloc,
            "nvmlGpmSampleFree": lambda _: OK,
            "nvmlGpmSampleGet": self.gpm_take,
            "nvmlGpmMetricsGet": self.gpm_compare,
            "nvmlDeviceGetSerial": lambda _device, out, _size: fill(out, value=b"1655022005478"),
            "nvmlDeviceGetUUID": lambda _device, out, _size: fill(out, value=UUID),
            "nvmlDeviceGetName": lambda _device, out, _size: fill(out, value=b"NVIDIA H100 80GB HBM3"),
            "nvmlDeviceGetPciInfo_v3": lambda _, out: fill(out, busId=b"00000000:53:00.0"),
        }

    def __getattr__(self, name: str) -> Callable[..., int]:
        """A function by name, as a loaded library has it; one that is missing is an AttributeError there too."""
        if name in self.errors:
            return lambda *_: self.errors[name]
        if name not in self._functions:
            raise AttributeError(name)
        function = self._functions[name]
        return lambda *arguments: self.errors.get(name) or function(*arguments)

    def handle(self, index: Any, out: Any) -> int:
        if index.value != 0:
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        kind = ctypes.POINTER(pynvml.struct_c_nvmlDevice_t)
        out._obj.contents = ctypes.cast(ctypes.pointer(self._device), kind).contents
        return OK

    def processes(self, _: Any, count: Any, out: Any) -> int:
        number(count, 2)
        return OK if out is not None else int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)

    def fields(self, _: Any, count: Any, out: Any) -> int:
        states = {
            (pynvml.NVML_FI_DEV_NVLINK_GET_STATE, link): (UINT, "uiVal", int(link not in self.links_down))
            for link in range(LINKS)
        }
        for place in range(count.value):
            field = out._obj[place]
            found = (FIELDS | states).get((field.fieldId, field.scopeId))
            field.nvmlReturn = OK if found else pynvml.NVML_ERROR_NOT_SUPPORTED
            if found:
                field.valueType = found[0]
                setattr(field.value, found[1], found[2])
        return OK

    def gpm_alloc(self, out: Any) -> int:
        out._obj.contents = pynvml.struct_c_nvmlGpmSample_t.from_buffer(bytearray(8))
        return OK

    def gpm_take(self, _: Any, sample: Any) -> int:
        self.gpm_taken.append(ctypes.addressof(sample.contents))
        return OK

    def gpm_compare(self, request: Any) -> int:
        asked = request._obj
        self.gpm_compared = (ctypes.addressof(asked.sample1.contents), ctypes.addressof(asked.sample2.contents))
        for place in range(asked.numMetrics):
            metric = asked.metrics[place]
            metric.nvmlReturn = OK if metric.metricId in ACTIVITY else pynvml.NVML_ERROR_NOT_SUPPORTED
            metric.value = ACTIVITY.get(metric.metricId, 0.0)
        return OK


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Libnvidia:
    stand_in = Libnvidia()
    monkeypatch.setattr(pynvml, "nvmlLib", stand_in)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return stand_in


@pytest.fixture
def library(driver: Libnvidia) -> Iterator[Library]:
    library = Library()
    library.open()
    yield library
    library.close()


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("temperature", (59,)),
        ("margin", (26,)),
        ("power", (631_950,)),
        ("sm_clock", (1980,)),
        ("memory_clock", (2619,)),
        ("utilization", (100, 11)),
        ("memory", (20_780_679_168,)),
        ("bar1", (3_000_000,)),
        ("pstate", (0,)),
        ("encoder", (7,)),
        ("decoder", (9,)),
        ("processes", (2,)),
        ("throttle", (0x44,)),
        ("pcie_tx", (111,)),
        ("pcie_rx", (222,)),
    ],
)
def test_a_call_gives_what_the_driver_says(library: Library, call: str, answer: tuple[float, ...]) -> None:
    found = tuple(library.read(library.handle(0), call))

    assert found == answer
    assert len(found) == len(CALLS[call])


def test_fields_come_in_one_call_and_a_field_that_is_not_supported_spoils_no_other(library: Library) -> None:
    memory, power, average, sent, received, links = library.read(library.handle(0), "fields")

    assert (memory, power, average, sent, links) == (54, 625_680, 631_950, 2**40, LINKS)
    assert isinstance(received, NvmlError)
    assert received.code == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_a_link_that_is_down_is_not_counted_as_up(library: Library, driver: Libnvidia) -> None:
    handle = library.handle(0)
    driver.links_down = {3, 7}

    assert library.read(handle, "fields")[5] == LINKS - 2


def test_activity_compares_this_tick_with_the_one_before(library: Library, driver: Libnvidia) -> None:
    handle = library.handle(0)

    first = library.read(handle, "gpm")
    second = library.read(handle, "gpm")
    compared = driver.gpm_compared
    taken = list(driver.gpm_taken)
    third = library.read(handle, "gpm")

    assert all(isinstance(value, float) and math.isnan(value) for value in first)
    assert list(second[:6]) == [91.5, 40.25, 33.0, 100.0, 200.0, 300.0]
    assert isinstance(second[6], NvmlError)
    assert compared == (taken[0], taken[1])
    assert driver.gpm_compared == (taken[1], taken[0])
    assert third[0] == 91.5


def test_a_gpu_says_who_it_is_and_what_cannot_be_told_is_none(library: Library, driver: Libnvidia) -> None:
    driver.errors["nvmlDeviceGetVbiosVersion"] = pynvml.NVML_ERROR_NO_PERMISSION
    identity = library.identify(library.handle(0), 0)

    assert (identity.serial, identity.pci) == ("1655022005478", "0000:53:00")
    assert identity.uuid == UUID.decode()
    assert identity.sku == "NVIDIA H100 80GB HBM3"
    assert (identity.vbios_version, identity.module, identity.nvlink_domain) == (None, None, None)


def test_a_lost_gpu_is_an_error_with_its_code(library: Library, driver: Libnvidia) -> None:
    handle = library.handle(0)
    driver.errors |= dict.fromkeys(("nvmlDeviceGetTemperature", "nvmlDeviceGetSerial"), pynvml.NVML_ERROR_GPU_IS_LOST)

    with pytest.raises(NvmlError, match="GPU is lost") as reading:
        library.read(handle, "temperature")
    with pytest.raises(NvmlError) as identifying:
        library.identify(handle, 0)

    assert reading.value.code == identifying.value.code == pynvml.NVML_ERROR_GPU_IS_LOST


def test_what_an_old_driver_does_not_have_is_an_error_and_not_a_crash(library: Library) -> None:
    with pytest.raises(NvmlError) as caught:
        library.read(library.handle(0), "fan")

    assert caught.value.code == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND


def test_a_machine_without_nvml_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setattr(pynvml, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))

    with pytest.raises(NvmlError, match="NVML Shared Library Not Found"):
        Library().open()
