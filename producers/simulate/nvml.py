"""A simulated NVML: the interface of `nvml_library.Nvml` over made-up GPUs that can be broken on purpose.

For tests and for measuring the agent on a machine without a GPU. The numbers wander a little, so that records have
the size of real ones.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pynvml

from producers.discovery import GpuIdentity
from producers.nvml_library import Answer, NvmlError

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
}
"""What a busy H100 says. The fan is missing: such a board has none, and NVML says so."""


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
    fails: dict[str, int] = field(default_factory=dict)
    """Call (or `*`) to the NVML error it answers with."""
    says: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Call to numbers it answers with, whatever is true."""


class SimulatedNvml:
    """NVML with `gpus` GPUs. Break it: `gpus[i].lost = True`, `driver_error = NVML_ERROR_DRIVER_NOT_LOADED`, …"""

    def __init__(self, gpus: int = 8, seed: int = 1, sleep: Callable[[float], None] = time.sleep) -> None:
        self._random = random.Random(seed)  # noqa: S311 - noise, not secrets
        self._sleep = sleep
        self._ticks = 0
        self.driver_error: int | None = None
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
        )

    def read(self, handle: SimulatedGpu, call: str) -> Answer:
        """The answer of a call."""
        self.calls += 1
        self._driver()
        if handle.hang_s:
            self._sleep(handle.hang_s)
        if handle.lost or not handle.present:
            raise _error(pynvml.NVML_ERROR_GPU_IS_LOST)
        if code := handle.fails.get(call) or handle.fails.get("*"):
            raise _error(code)
        if call in handle.says:
            return handle.says[call]
        values = _HEALTHY.get(call)
        if values is None:
            raise _error(pynvml.NVML_ERROR_NOT_SUPPORTED)
        if call == "fields":
            self._ticks += 1
            return (*values[:3], values[3] + self._ticks * 1e7, values[4] + self._ticks * 1e7, values[5])
        if call == "gpm":
            wobble = self._random.uniform(0.97, 1.0)
            return tuple(value * wobble for value in values)
        return values

    def _present(self) -> list[SimulatedGpu]:
        return [gpu for gpu in self.gpus if gpu.present]

    def _driver(self) -> None:
        if self.driver_error is not None:
            raise _error(self.driver_error)


def _error(code: int) -> NvmlError:
    return NvmlError(code, str(pynvml.NVMLError(code)))
