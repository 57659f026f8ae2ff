"""The adapter runs through the real pynvml, down to a stand-in for libnvidia-ml that fills the same C structures."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pynvml
import pytest

from producers.nvml.counter_calls import COUNTER_CALLS, health_of
from producers.nvml.interface import CALLS, NvmlError
from producers.nvml.library import Library

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


ECC = {  # (kind, since) or (kind, since, location) to the count that the driver tells
    (kind, since, *place): 1 + kind + 2 * since + 10 * (place[0] + 1 if place else 0)
    for kind in (0, 1)
    for since in (0, 1)
    for place in [(), *((location,) for location in range(pynvml.NVML_MEMORY_LOCATION_COUNT))]
}
THRESHOLDS = {0: 92, 1: 89, 2: 95, 3: 87}
POLICIES = {0: 1000, 1: 2000, 2: 3000}


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
        self.events: list[tuple[int, int]] = []
        """XID and GPU instance of events that wait."""
        self.registered: list[int] = []
        self.freed = 0
        self.shut_down = 0
        self.fabric: dict[str, Any] = {"state": 3, "status": 0, "healthMask": 0, "healthSummary": 1}
        self.fabric_versions = {2, 3}
        self._device = ctypes.c_int(1)
        self._functions: dict[str, Callable[..., int]] = {
            "nvmlInitWithFlags": lambda _: OK,
            "nvmlShutdown": self.count_shutdown,
            "nvmlDeviceGetCount_v2": lambda out: number(out, 1),
            "nvmlDeviceGetHandleByIndex_v2": self.handle,
            "nvmlDeviceGetTemperature": lambda _device, _sensor, out: number(out, 59),
            "nvmlDeviceGetTemperatureV": self.temperature,
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
            "nvmlDeviceGetCurrentClocksEventReasons": lambda _, out: number(out, 0x44),
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
            "nvmlDeviceGetBoardPartNumber": lambda _device, out, _size: fill(out, value=b"692-2G520-0200-000"),
            "nvmlDeviceGetInforomImageVersion": lambda _device, out, _size: fill(out, value=b"G520.0200.00.05"),
            "nvmlDeviceGetTotalEccErrors": lambda _, kind, since, out: number(out, ECC[kind.value, since.value]),
            "nvmlDeviceGetMemoryErrorCounter": lambda _, kind, since, place, out: number(
                out, ECC[kind.value, since.value, place.value]
            ),
            "nvmlDeviceGetSramEccErrorStatus": self.sram,
            "nvmlDeviceGetRemappedRows": lambda _, *outs: [number(out, n + 3) for n, out in enumerate(outs)] and OK,
            "nvmlDeviceGetRowRemapperHistogram": lambda _, out: fill(out, max=640, high=4, partial=3, low=2, none=1),
            "nvmlDeviceGetRetiredPages": self.retired,
            "nvmlDeviceGetRetiredPagesPendingStatus": lambda _, out: number(out, 1),
            "nvmlDeviceGetPcieReplayCounter": lambda _, out: number(out, 9),
            "nvmlDeviceGetCurrPcieLinkWidth": lambda _, out: number(out, 8),
            "nvmlDeviceGetMaxPcieLinkWidth": lambda _, out: number(out, 16),
            "nvmlDeviceGetCurrPcieLinkGeneration": lambda _, out: number(out, 1),
            "nvmlDeviceGetMaxPcieLinkGeneration": lambda _, out: number(out, 4),
            "nvmlDeviceGetGpuMaxPcieLinkGeneration": lambda _, out: number(out, 5),
            "nvmlDeviceGetViolationStatus": lambda _, policy, out: fill(out, violationTime=POLICIES[policy.value]),
            "nvmlDeviceGetTotalEnergyConsumption": lambda _, out: number(out, 123_456),
            "nvmlDeviceGetEnforcedPowerLimit": lambda _, out: number(out, 650_000),
            "nvmlDeviceGetPowerManagementLimit": lambda _, out: number(out, 660_000),
            "nvmlDeviceGetPowerManagementDefaultLimit": lambda _, out: number(out, 700_000),
            "nvmlDeviceGetPowerManagementLimitConstraints": lambda _, low, high: (
                number(low, 200_000) or number(high, 710_000)
            ),
            "nvmlDeviceGetTemperatureThreshold": lambda _, which, out: number(out, THRESHOLDS[which.value]),
            "nvmlDeviceGetMemoryInfo_v2": lambda _, out: fill(
                out, total=85_000_000_000, reserved=600_000_000, used=20_180_679_168
            ),
            "nvmlDeviceGetMaxClockInfo": lambda _, kind, out: number(out, CLOCKS[kind.value] + 1),
            "nvmlDeviceGetMigMode": lambda _, now, then: number(now, 0) or number(then, 1),
            "nvmlDeviceGetEccMode": lambda _, now, then: number(now, 1) or number(then, 0),
            "nvmlDeviceGetPersistenceMode": lambda _, out: number(out, 1),
            "nvmlDeviceGetComputeMode": lambda _, out: number(out, 3),
            "nvmlDeviceGetGpuFabricInfoV": self.fabric_info,
            "nvmlDeviceGetNvLinkState": lambda _, link, out: number(out, int(link not in self.links_down)),
            "nvmlDeviceGetNvLinkErrorCounter": lambda _, link, counter, out: number(out, 100 * counter + link),
            "nvmlEventSetCreate": self.event_set,
            "nvmlDeviceRegisterEvents": lambda _, kinds, __: self.registered.append(kinds.value) or OK,
            "nvmlEventSetWait_v2": self.wait,
            "nvmlEventSetFree": self.free,
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

    def temperature(self, _: Any, out: Any) -> int:
        assert out._obj.version == pynvml.nvmlTemperature_v1
        return fill(out, temperature=59) if out._obj.sensorType == pynvml.NVML_TEMPERATURE_GPU else 2

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

    def count_shutdown(self) -> int:
        self.shut_down += 1
        return OK

    def sram(self, _: Any, out: Any) -> int:
        assert out._obj.version == pynvml.nvmlEccSramErrorStatus_v1
        names = [name for name, _ in pynvml.c_nvmlEccSramErrorStatus_v1_t._fields_][1:]
        return fill(out, **{name: place for place, name in enumerate(names, 1)})

    def retired(self, _: Any, cause: Any, count: Any, pages: Any) -> int:
        number(count, 2 + cause.value)
        return OK if pages is not None else int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)

    def fabric_info(self, _: Any, out: Any) -> int:
        if out._obj.version >> 24 not in self.fabric_versions:
            return int(pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
        names = {name for name, _ in out._obj._fields_}
        return fill(out, **{name: value for name, value in self.fabric.items() if name in names})

    def event_set(self, out: Any) -> int:
        out._obj.contents = pynvml.struct_c_nvmlEventSet_t.from_buffer(bytearray(8))
        return OK

    def wait(self, _: Any, out: Any, timeout: Any) -> int:
        if not self.events:
            return int(pynvml.NVML_ERROR_TIMEOUT)
        xid, instance = self.events.pop(0)
        kind = ctypes.POINTER(pynvml.struct_c_nvmlDevice_t)
        fill(out, eventType=pynvml.nvmlEventTypeXidCriticalError, eventData=xid, gpuInstanceId=instance)
        out._obj.device = ctypes.cast(ctypes.pointer(self._device), kind)
        return OK

    def free(self, _: Any) -> int:
        self.freed += 1
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
        ("memory", (20_180_679_168,)),
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


NEWER = {
    # the call: what newer drivers answer by, what older ones do, what both say
    "temperature": ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature", (59,), (59,)),
    "throttle": (
        "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons", (0x44,), (0x44,)
    ),
    "memory": ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo", (20_180_679_168,), (20_780_679_168,)),
}  # fmt: skip


@pytest.mark.parametrize("call", NEWER)
def test_a_driver_that_has_dropped_a_deprecated_call_is_read_all_the_same(
    library: Library, driver: Libnvidia, call: str
) -> None:
    _, older, says, _ = NEWER[call]
    driver.errors[older] = pynvml.NVML_ERROR_DEPRECATED  # as NVIDIA announces it for CUDA 14
    assert tuple(library.read(library.handle(0), call)) == says


@pytest.mark.parametrize("call", NEWER)
def test_a_driver_that_is_older_than_a_call_is_asked_by_the_one_before(
    library: Library, driver: Libnvidia, call: str
) -> None:
    newer, _, _, says = NEWER[call]
    del driver._functions[newer]
    assert tuple(library.read(library.handle(0), call)) == says


def test_memory_in_use_is_without_what_the_driver_keeps_for_itself(library: Library) -> None:
    handle = library.handle(0)
    (used,) = library.read(handle, "memory")
    _, reserved = library.read(handle, "memory_limits")
    assert used + reserved == 20_780_679_168  # what the call that knows no reserve says is used


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
    driver.errors |= dict.fromkeys(("nvmlDeviceGetTemperatureV", "nvmlDeviceGetSerial"), pynvml.NVML_ERROR_GPU_IS_LOST)

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


# --- the slow group ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("ecc.volatile.correctable", (ECC[0, 0],)),
        ("ecc.aggregate.uncorrectable", (ECC[1, 1],)),
        ("ecc.volatile.uncorrectable.dram", (ECC[1, 0, 2],)),
        ("ecc.aggregate.correctable.sram", (ECC[0, 1, 7],)),
        ("ecc.volatile.correctable.l1_cache", (ECC[0, 0, 0],)),
        ("ecc.volatile.uncorrectable.l2_cache", (ECC[1, 0, 1],)),
        ("ecc.volatile.uncorrectable.register_file", (ECC[1, 0, 3],)),
        # aggregate: parity 1, SEC-DED 2, correctable 3; volatile 4, 5, 6; L2 7, SM 8, PCIe 9, MCU 10, other 11
        ("sram_ecc", (6, 9, 4, 5, 3, 3, 1, 2, 7, 8, 10, 9, 11, 1)),
        ("remapped_rows", (3, 4, 5, 6)),
        ("remap_histogram", (640, 4, 3, 2, 1)),
        ("retired_pages.single_bit", (2,)),
        ("retired_pages.double_bit", (3,)),
        ("retired_pages.pending", (1,)),
        ("pcie.replays", (9,)),
        ("pcie.width", (8,)),
        ("pcie.width_max", (16,)),
        ("pcie.generation", (1,)),
        ("pcie.generation_max", (4,)),
        ("pcie.generation_device_max", (5,)),
        ("violation.power", (1000,)),
        ("violation.thermal", (2000,)),
        ("violation.sync_boost", (3000,)),
        ("energy", (123_456,)),
        ("power_limit.enforced", (650_000,)),
        ("power_limit.requested", (660_000,)),
        ("power_limit.default", (700_000,)),
        ("power_limit.range", (200_000, 710_000)),
        ("threshold.shutdown", (92,)),
        ("threshold.slowdown", (89,)),
        ("threshold.memory", (95,)),
        ("threshold.gpu", (87,)),
        ("memory_limits", (85_000_000_000, 600_000_000)),
        ("clock_max.sm", (1981,)),
        ("clock_max.memory", (2620,)),
        ("mig", (0, 1)),
        ("ecc_mode", (1, 0)),
        ("persistence", (1,)),
        ("compute_mode", (3,)),
        ("fabric", (3, 0, 1)),
        ("nvlink.active.17", (1,)),
        ("nvlink.replays.5", (5,)),
        ("nvlink.recoveries.5", (105,)),
        ("nvlink.crc_flit_errors.5", (205,)),
        ("nvlink.crc_data_errors.35", (335,)),
        ("nvlink_count", (18,)),
    ],
)
def test_a_call_of_the_slow_group_gives_what_the_driver_says(
    library: Library, call: str, answer: tuple[float, ...]
) -> None:
    found = tuple(library.read(library.handle(0), call))

    assert found == answer
    if call in COUNTER_CALLS:
        assert len(found) == len(COUNTER_CALLS[call].units)


def test_any_fields_can_be_asked_for_many_at_once(library: Library) -> None:
    asked = [(pynvml.NVML_FI_DEV_NVLINK_GET_STATE, link) for link in range(150)]

    found = library.fields(library.handle(0), asked)

    assert list(found[:LINKS]) == [1.0] * LINKS
    assert len(found) == 150
    assert all(isinstance(value, NvmlError) for value in found[LINKS:])


def test_a_driver_before_the_health_summary_of_the_fabric_has_its_mask_read(
    library: Library, driver: Libnvidia
) -> None:
    driver.fabric_versions = {2}
    handle = library.handle(0)
    healthy = 2 | 2 << 2 | 2 << 4 | 2 << 6
    driver.fabric["healthMask"] = healthy

    assert list(library.read(handle, "fabric")) == [3, 0, pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_HEALTHY]
    assert health_of(healthy & ~3 | 1) == pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_LIMITED_CAPACITY
    assert health_of(1 | 1 << 4) == pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_UNHEALTHY
    assert health_of(0) == pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_NOT_SUPPORTED


@pytest.mark.parametrize("versions", [{2}, {2, 3}, {3}], ids=["old", "now", "when version 2 is gone"])
def test_the_nvlink_domain_of_a_rack_is_its_cluster_and_clique(
    library: Library, driver: Libnvidia, versions: set[int]
) -> None:
    driver.fabric_versions = versions
    cluster = (ctypes.c_uint8 * 16)(*range(16))
    driver.fabric |= {"clusterUuid": cluster, "cliqueId": 32_766}
    assert library.identify(library.handle(0), 0).nvlink_domain == f"{bytes(range(16)).hex()}.32766"


def test_a_gpu_that_has_not_joined_its_fabric_has_no_status_and_no_health(library: Library, driver: Libnvidia) -> None:
    driver.fabric |= {"state": 2, "status": 999}

    state, status, health = library.read(library.handle(0), "fabric")

    assert state == 2
    assert isinstance(status, float)
    assert math.isnan(status)
    assert health != health


def test_a_gpu_says_which_board_it_is(library: Library) -> None:
    identity = library.identify(library.handle(0), 0)

    assert (identity.board_part_number, identity.inforom_version) == ("692-2G520-0200-000", "G520.0200.00.05")


# --- events -----------------------------------------------------------------------------------------------------------


def test_xids_come_through_the_event_set_with_their_gpu(library: Library, driver: Libnvidia) -> None:
    handle = library.handle(0)
    watch = library.watch([handle])
    driver.events = [(79, 0xFFFFFFFF), (43, 3)]

    found = [watch.wait(100) for _ in range(3)]

    assert driver.registered == [pynvml.nvmlEventTypeXidCriticalError]
    assert found[2] is None
    assert [(xid.handle is handle, xid.code, xid.gpu_instance) for xid in found[:2] if xid] == [
        (True, 79, None),
        (True, 43, 3),
    ]
    watch.close()
    watch.close()
    assert driver.freed == 1


def test_a_gpu_without_events_is_an_error_that_leaves_no_event_set(library: Library, driver: Libnvidia) -> None:
    driver.errors["nvmlDeviceRegisterEvents"] = pynvml.NVML_ERROR_NOT_SUPPORTED

    with pytest.raises(NvmlError, match="Not Supported"):
        library.watch([library.handle(0)])

    assert driver.freed == 1


# --- several threads --------------------------------------------------------------------------------------------------


def test_nvml_is_not_shut_down_under_a_call_of_another_thread(driver: Libnvidia) -> None:
    library = Library()
    library.open()
    handle = library.handle(0)
    watch = library.watch([handle])
    inside, release = threading.Event(), threading.Event()

    def slow(_: Any, out: Any) -> int:
        inside.set()
        release.wait(20)
        return number(out, 5)

    driver._functions["nvmlDeviceGetTotalEnergyConsumption"] = slow
    answers: list[Any] = []
    reading = threading.Thread(target=lambda: answers.append(library.read(handle, "energy")))
    reading.start()
    try:
        assert inside.wait(20)
        library.close()
        library.close()
        assert driver.shut_down == 0
        with pytest.raises(NvmlError, match="being closed"):
            library.open()
    finally:
        release.set()
        reading.join(20)

    assert answers == [(5,)]
    assert driver.shut_down == 1
    library.open()
    with pytest.raises(NvmlError, match="since this GPU was found") as stale:
        library.read(handle, "energy")
    with pytest.raises(NvmlError) as waiting:
        watch.wait(0)
    assert stale.value.code == waiting.value.code == pynvml.NVML_ERROR_UNINITIALIZED
    assert library.read(library.handle(0), "temperature") == (59,)
    library.close()
    assert driver.shut_down == 2


def test_the_same_gpu_is_the_same_handle_until_nvml_is_closed(library: Library) -> None:
    first = library.handle(0)
    assert library.handle(0) is first

    library.close()
    library.open()
    assert library.handle(0) is not first
