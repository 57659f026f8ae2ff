"""NVML as the agent asks it: a few calls by name, each a row of numbers.

Two implement it: the real one (`library.py`) and the simulated one (`producers/simulate/nvml.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from producers.discovery import GpuIdentity


class NvmlError(Exception):
    """NVML's answer when it has none; `code` is its `NVML_ERROR_…` number."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


Answer = Sequence[float | NvmlError]
"""The numbers of one call (NaN: not yet), or, in the places of a batch, why there is none."""


@dataclass(frozen=True, slots=True)
class Xid:
    """One XID as NVML's event set tells it."""

    handle: Any
    """The GPU, as `Nvml.handle` gave it; None where it is none of those that are watched."""
    code: int
    gpu_instance: int | None = None
    """The MIG instance, where MIG is on."""


class Watch(Protocol):
    """An event set that XIDs of some GPUs arrive in. May block for as long as it is asked to; raises `NvmlError`."""

    def wait(self, timeout_ms: int) -> Xid | None:
        """The next XID; None where none came in time."""

    def close(self) -> None:
        """Let it go. Never raises."""


class Nvml(Protocol):
    """NVML. Everything may block, and raises `NvmlError`. Several threads may ask at once."""

    def open(self) -> None:
        """Load and initialise; also again after `close`."""

    def close(self) -> None:
        """Let the driver go, once no call is under way in any thread. Never raises, never waits."""

    def count(self) -> int:
        """GPUs that the driver counts, with those that no longer answer."""

    def handle(self, index: int) -> Any:
        """What the calls below want to know a GPU by; of no use after `close`."""

    def identify(self, handle: Any, index: int) -> GpuIdentity:
        """Who it is. A part that cannot be told is None."""

    def read(self, handle: Any, call: str) -> Answer:
        """The answer of one of `CALLS` or `COUNTER_CALLS`, in NVML's own units.

        Single places of a batch may hold an error.
        """

    def fields(self, handle: Any, asked: Sequence[tuple[int, int]]) -> Answer:
        """The values of (field id, scope) pairs in one driver call, in NVML's own units; some may be errors."""

    def watch(self, handles: Sequence[Any]) -> Watch:
        """An event set for the XIDs of these GPUs, from now on."""


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
    "nvlink_count": ("links",),
}
"""Every call of the fast group by name, with the unit of each place of its answer, and how many NVLinks there are.

`counter_calls.COUNTER_CALLS` has those of the slow group.
"""
