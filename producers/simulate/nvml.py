"""A simulated NVML: the interface of `nvml.interface.Nvml` over made-up GPUs that can be broken on purpose.

For tests and for measuring the agent on a machine without a GPU. The numbers wander a little, so that records have
the size of real ones.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pynvml

from producers.discovery import GpuIdentity
from producers.nvml.counter_calls import COUNTER_CALLS
from producers.nvml.interface import Answer, NvmlError, Watch, Xid

_HEALTHY: dict[str, tuple[float, ...]] = {
    "temperature": (58,),
    "margin": (29,),
    "power": (612_000,),
    "sm_clock": (1980,),
    "memory_clock": (2619,),
    "utilization": (98, 41),
    "memory": (61_000_000_000,),
    "bar1": (3_000_000,),
    "pstate": (0,),
    "encoder": (0,),
    "decoder": (0,),
    "processes": (1,),
    "throttle": (0,),
    "fields": (66, 612_000, 609_500, 9e9, 9e9, 18),
    "gpm": (88.0, 41.5, 37.25, 120.5, 340.25, 150_000.0, 150_250.0),
    "links": (18,),
    "pcie_tx": (126_000,),
    "pcie_rx": (356_000,),
    "nvlink_count": (18,),
}
"""What a busy H100 says. The fan is missing: such a board has none, and NVML says so."""

LINKS = 18
_GIB = 1 << 30
_COUNTERS: dict[str, tuple[float, ...]] = {
    **{name: (0,) for name in COUNTER_CALLS if name.startswith("ecc.") and name.endswith(("able", ".sram", ".dram"))},
    "sram_ecc": (0,) * 14,
    "remapped_rows": (0, 0, 0, 0),
    "remap_histogram": (2560, 0, 0, 0, 0),
    "pcie.replays": (9,),
    "pcie.width": (16,),
    "pcie.width_max": (16,),
    "pcie.generation": (5,),
    "pcie.generation_max": (5,),
    "pcie.generation_device_max": (5,),
    "energy": (86_400_000_000,),
    "power_limit.enforced": (700_000,),
    "power_limit.requested": (700_000,),
    "power_limit.default": (700_000,),
    "power_limit.range": (200_000, 700_000),
    "threshold.shutdown": (92,),
    "threshold.slowdown": (89,),
    "threshold.gpu": (87,),
    "threshold.memory": (95,),
    "memory_limits": (80 * _GIB, 600 << 20),
    "memory_total": (80 * _GIB,),
    "bar1_total": (128 * _GIB,),
    "clock_max.sm": (1980,),
    "clock_max.memory": (2619,),
    "mig": (0, 0),
    "ecc_mode": (1, 1),
    "persistence": (1,),
    "compute_mode": (0,),
    "fabric": (3, 0, 1),
}
"""The same of the slow group; retired pages are missing, boards since Ampere remap rows instead."""
_FIELDS: dict[tuple[int, int], float] = {
    (pynvml.NVML_FI_DEV_PCIE_REPLAY_ROLLOVER_COUNTER, 0): 0,
    (pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP, 0): 5_000_000_000,
    (pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST, 0): 0,
    (pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN, 0): 250_000_000,
    (pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN, 0): 0,
    (pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN, 0): 0,
    (pynvml.NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT, 0): -8,
    (pynvml.NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT, 0): -2,
    (pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, 0): 0,
} | {
    (number, link): value
    for link in range(LINKS)
    for number, value in (
        (pynvml.NVML_FI_DEV_NVLINK_GET_STATE, 1),
        (pynvml.NVML_FI_DEV_NVLINK_GET_SPEED, 26_562),
        (pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY, 0),
        (pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY, 0),
        (pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_CRC, 0),
        (pynvml.NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS, 0),
        (pynvml.NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS, 3),
        (pynvml.NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS, 0),
    )
}
"""Fields by id and link."""


@dataclass
class SimulatedGpu:
    """One GPU, and what is wrong with it."""

    index: int
    serial: str | None
    uuid: str
    pci: str
    lost: bool = False
    present: bool = True
    hang_s: float = 0.0
    hangs: dict[str, float] = field(default_factory=dict)
    """Call to how long it takes, in seconds."""
    fails: dict[str, int] = field(default_factory=dict)
    """Call (or `*`) to the NVML error it answers with; `nvmlDeviceGetFieldValues` is the call for fields."""
    says: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Call to numbers it answers with, whatever is true."""
    fields: dict[tuple[int, int], float | NvmlError] = field(default_factory=dict)
    """Field id and scope to what it answers with, whatever is true."""
    xids: deque[int] = field(default_factory=deque)
    """XIDs that nobody was told yet."""

    def take_link_down(self, link: int) -> None:
        """An NVLink is down from here on."""
        self.fields[pynvml.NVML_FI_DEV_NVLINK_GET_STATE, link] = 0

    def take_link_up(self, link: int) -> None:
        """An NVLink is up again."""
        self.fields.pop((pynvml.NVML_FI_DEV_NVLINK_GET_STATE, link), None)

    def add_memory_errors(self, *, correctable: int = 0, uncorrectable: int = 0) -> None:
        """Device memory has had so many more errors, since the driver loaded and over its life."""
        for since in ("volatile", "aggregate"):
            for kind, count in (("correctable", correctable), ("uncorrectable", uncorrectable)):
                for call in (f"ecc.{since}.{kind}", f"ecc.{since}.{kind}.dram"):
                    self.says[call] = (self.says.get(call, (0,))[0] + count,)

    def remap_row(self, *, failed: bool = False) -> None:
        """A row of memory was remapped after an uncorrectable error, or could not be; it waits for a reset."""
        rows = self.says.get("remapped_rows", (0, 0, 0, 0))
        self.says["remapped_rows"] = (rows[0], rows[1] + (not failed), 1, 1 if failed else rows[3])


class SimulatedNvml:
    """NVML with `gpus` GPUs. Break it: `gpus[i].lost = True`, `driver_error = NVML_ERROR_DRIVER_NOT_LOADED`, …"""

    def __init__(self, gpus: int = 8, seed: int = 1, sleep: Callable[[float], None] = time.sleep) -> None:
        self._random = random.Random(seed)  # noqa: S311 - noise, not secrets
        self._sleep = sleep
        self._ticks = 0
        self.driver_error: int | None = None
        self.watch_error: int | None = None
        """What registering for events fails with."""
        self.calls = 0
        """How often anything was asked."""
        self.gpus = [
            SimulatedGpu(
                index=index,
                serial=f"165432100{index:04d}",
                uuid=f"GPU-{seed:08x}-0000-4000-8000-{index:012x}",
                pci=f"0000:{0x19 + 0x11 * index:02x}:00",
            )
            for index in range(gpus)
        ]

    def open(self) -> None:
        """Initialise."""
        self._driver()

    def close(self) -> None:
        """Let go."""

    def count(self) -> int:
        """GPUs that the driver counts: lost ones too, as the real one does."""
        self._driver()
        return len(self._present())

    def handle(self, index: int) -> SimulatedGpu:
        """A GPU by its index among those that are present."""
        self._driver()
        present = self._present()
        if index >= len(present):
            raise _error(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        gpu = present[index]
        if gpu.lost:
            raise _error(pynvml.NVML_ERROR_GPU_IS_LOST)
        return gpu

    def identify(self, handle: SimulatedGpu, index: int) -> GpuIdentity:
        """Who it is."""
        return GpuIdentity(
            index=index,
            serial=handle.serial,
            uuid=handle.uuid,
            pci=handle.pci,
            sku="NVIDIA H100 80GB HBM3",
            driver_version="570.86.15",
            vbios_version="96.00.A5.00.01",
            module=index + 1,
            board_part_number="692-2G520-0200-000",
            inforom_version="G520.0200.00.05",
        )

    def read(self, handle: SimulatedGpu, call: str) -> Answer:
        """The answer of a call."""
        self._ask(handle, call)
        if call in handle.says:
            return handle.says[call]
        values = _HEALTHY.get(call) or _COUNTERS.get(call)
        if values is None:
            raise _error(pynvml.NVML_ERROR_NOT_SUPPORTED)
        if call == "fields":
            self._ticks += 1
            return (*values[:3], values[3] + self._ticks * 1e7, values[4] + self._ticks * 1e7, values[5])
        if call == "gpm":
            wobble = self._random.uniform(0.97, 1.0)
            return tuple(value * wobble for value in values)
        return values

    def fields(self, handle: SimulatedGpu, asked: Sequence[tuple[int, int]]) -> Answer:
        """The values of fields."""
        self._ask(handle, "nvmlDeviceGetFieldValues")
        known = _FIELDS | handle.fields
        return [known.get(wanted, _error(pynvml.NVML_ERROR_NOT_SUPPORTED)) for wanted in asked]

    def watch(self, handles: Sequence[SimulatedGpu]) -> Watch:
        """An event set: XIDs of `SimulatedGpu.xids`, from now on."""
        self._driver()
        if self.watch_error is not None:
            raise _error(self.watch_error)
        for gpu in handles:
            gpu.xids.clear()
        return _SimulatedWatch(handles, self._driver)

    @staticmethod
    def error(code: int) -> NvmlError:
        """NVML's error of that number, for `SimulatedGpu.fields`."""
        return _error(code)

    def _ask(self, gpu: SimulatedGpu, call: str) -> None:
        """What every call goes through: the driver, the time it takes, and what is broken."""
        self.calls += 1
        self._driver()
        if takes_s := gpu.hang_s or gpu.hangs.get(call):
            self._sleep(takes_s)
        if gpu.lost or not gpu.present:
            raise _error(pynvml.NVML_ERROR_GPU_IS_LOST)
        if code := gpu.fails.get(call) or gpu.fails.get("*"):
            raise _error(code)

    def _present(self) -> list[SimulatedGpu]:
        return [gpu for gpu in self.gpus if gpu.present]

    def _driver(self) -> None:
        if self.driver_error is not None:
            raise _error(self.driver_error)


class _SimulatedWatch:
    """An event set; it does not wait for what has not happened."""

    def __init__(self, gpus: Iterable[SimulatedGpu], driver: Callable[[], None]) -> None:
        self._gpus = list(gpus)
        self._driver = driver

    def wait(self, timeout_ms: int) -> Xid | None:  # noqa: ARG002 - nothing happens meanwhile
        """The next XID."""
        self._driver()
        for gpu in self._gpus:
            if gpu.xids:
                return Xid(gpu, gpu.xids.popleft())
        return None

    def close(self) -> None:
        """Let it go."""


def _error(code: int) -> NvmlError:
    return NvmlError(code, str(pynvml.NVMLError(code)))
