"""Every source of the agent on a bench of its own, where what it reads can be broken on purpose.

A bench says how its source is made, how each trouble is brought about, and what the source has to say of it. A new
source is a class here (or in `source_benches_programs.py`, `source_benches_devices.py`) and one line in
`tests/unit/test_producers_sources.py`.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pynvml

from producers.discovery import GpuIdentity, InventorySource, Roster
from producers.kernel_log.source import KernelLogSource
from producers.nvml import NvmlCountersSource, NvmlSource, NvmlXidSource
from producers.nvml.interface import Watch, Xid
from producers.settings import AgentSettings
from producers.simulate.nvml import SimulatedNvml
from producers.source import Origin, Source
from schemas.catalog import Catalog
from schemas.records import Record

ORIGIN = Origin("site", "rack-7", "node-1", "boot")
TROUBLES = ("raises", "vanishes", "says_garbage", "is_unplugged", "is_forbidden")
"""What may befall the thing that a source reads. That it hangs is a matter of its own: `Bench.hang`."""
START_S = 1_700_000_000.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """One way to break it, and what is said then: events, an error with its remedy, or, for a reason, nothing."""

    make: Callable[[], object]
    told: frozenset[str] = frozenset()
    raises: str = ""
    quiet: str = ""


def told(make: Callable[[], object], *kinds: str) -> Trouble:
    """Trouble that is an event, of each of these kinds."""
    return Trouble(make, told=frozenset(kinds))


def raises(make: Callable[[], object], remedy: str) -> Trouble:
    """Trouble of the source itself; its error matches `remedy`."""
    return Trouble(make, raises=remedy)


def quiet(make: Callable[[], object], why: str) -> Trouble:
    """Trouble that this source has nothing to say of."""
    return Trouble(make, quiet=why)


def in_turn(*steps: Callable[[], object]) -> Callable[[], None]:
    """One step after the other."""

    def go() -> None:
        for step in steps:
            step()

    return go


class Bench(ABC):
    """One source, the world it reads, and a clock that moves only by `tick`."""

    period_s = 1.0
    says_as: frozenset[str]
    """`HardwareEvent.source` of what it tells."""
    lacks: ClassVar[Mapping[str, str]] = {}
    """Those of `TROUBLES` that cannot be, and why."""

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self.folder = folder
        self.catalog = catalog
        self.now_s = START_S
        self.gate = threading.Event()
        """What hangs waits for it."""
        self.gate.set()

    @abstractmethod
    def source(self, name: str = "") -> Source:
        """The source; with another `name` one more over the same world, which keeps its state elsewhere."""

    @abstractmethod
    def troubles(self) -> dict[str, Trouble]:
        """The other ones of `TROUBLES`."""

    @abstractmethod
    def heal(self) -> None:
        """All is well again."""

    @abstractmethod
    def hang(self) -> None:
        """The next read blocks until `gate` is set."""

    def speak(self) -> None:  # noqa: B027 - most sources have something to say at each tick
        """Have something happen that the source tells of although all is well."""

    def before(self, now_ms: int) -> None:  # noqa: B027 - mostly nothing
        """What goes before each tick."""

    def settle(self) -> None:  # noqa: B027 - mostly nothing
        """Wait for what goes on by itself."""

    def close(self) -> None:  # noqa: B027 - mostly nothing
        """Leave nothing behind."""

    @property
    def now_ms(self) -> int:
        """The tick."""
        return int(self.now_s * 1000)

    def wall_ms(self) -> int:
        """The clock that is handed to the source: a little after the tick."""
        return self.now_ms + 5

    def clock(self) -> float:
        """The same, for how long things take."""
        return self.now_s

    def tick(self, *sources: Source, after_s: float | None = None) -> list[list[Record]]:
        """One read of each source, all at the same tick."""
        self.now_s += self.period_s if after_s is None else after_s
        self.before(self.now_ms)
        records = [list(source.read(self.now_ms)) for source in sources]
        self.settle()
        return records

    def block(self, *_: object) -> None:
        """Hang here, if the gate is shut."""
        self.gate.wait(30)


class NvmlBench(Bench):
    """GPUs by NVML."""

    says_as = frozenset({"nvml"})

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        super().__init__(folder, catalog)
        self.nvml = SimulatedNvml(gpus=3, sleep=self.block)

    def source(self, name: str = "") -> Source:
        return self.eyes()

    def eyes(self) -> NvmlSource:
        return NvmlSource(
            ORIGIN,
            self.catalog,
            self.nvml,
            Roster(),
            wall_ms=self.wall_ms,
            clock=self.clock,
            gpu_on_bus=lambda: True,
        )

    def troubles(self) -> dict[str, Trouble]:
        return {
            "raises": told(lambda: self.broken(fails={"fields": 999}), "metric_unreadable"),
            "vanishes": told(lambda: self.broken(lost=True), "gpu_lost"),
            "says_garbage": told(lambda: self.broken(says={"temperature": (9999,)}), "metric_unreadable"),
            "is_unplugged": told(lambda: self.broken(present=False), "gpu_lost", "gpu_count_changed"),
            "is_forbidden": told(lambda: self.driver(pynvml.NVML_ERROR_NO_PERMISSION), "driver_unavailable"),
        }

    def broken(self, **how: object) -> None:
        for name, value in how.items():
            setattr(self.nvml.gpus[1], name, value)

    def driver(self, error: int | None) -> None:
        self.nvml.driver_error = error

    def heal(self) -> None:
        self.driver(None)
        self.broken(fails={}, says={}, hangs={}, lost=False, present=True, hang_s=0.0)

    def hang(self) -> None:
        self.gate.clear()
        self.broken(hang_s=1.0)


class NvmlCountersBench(NvmlBench):
    """What changes slowly on GPUs, by NVML."""

    says_as = frozenset({"nvml_counters"})
    period_s = 30.0

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        super().__init__(folder, catalog)
        self._eyes = self.eyes()

    def source(self, name: str = "") -> Source:
        return NvmlCountersSource(
            ORIGIN, self.catalog, self.nvml, self._eyes.handles, wall_ms=self.wall_ms, clock=self.clock
        )

    def before(self, now_ms: int) -> None:
        list(self._eyes.read(now_ms))

    def troubles(self) -> dict[str, Trouble]:
        by_nvml = "the NVML source tells it"
        return {
            "raises": told(lambda: self.broken(fails={"energy": 999}), "metric_unreadable"),
            "vanishes": quiet(lambda: self.broken(lost=True), by_nvml),
            "says_garbage": told(lambda: self.broken(says={"energy": (-5,)}), "metric_unreadable"),
            "is_unplugged": quiet(lambda: self.broken(present=False), by_nvml),
            "is_forbidden": told(
                lambda: self.broken(fails={"energy": pynvml.NVML_ERROR_NO_PERMISSION}), "metric_unreadable"
            ),
        }

    def hang(self) -> None:
        self.gate.clear()
        self.broken(hangs={"energy": 1.0})


class NvmlXidsBench(NvmlBench):
    """XIDs by NVML's event set."""

    says_as = frozenset({"nvml"})

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        super().__init__(folder, catalog)
        self._eyes = self.eyes()

    def source(self, name: str = "") -> Source:
        return NvmlXidSource(ORIGIN, self.catalog, self, self._eyes.handles, lambda: True, wall_ms=self.wall_ms)

    def __getattr__(self, name: str) -> Any:
        """NVML, but for `watch`."""
        return getattr(self.nvml, name)

    def watch(self, handles: Sequence[Any]) -> Watch:
        return _Watch(self.nvml.watch(handles), self.block)

    def before(self, now_ms: int) -> None:
        list(self._eyes.read(now_ms))

    def speak(self) -> None:
        self.nvml.gpus[0].xids.append(31)

    def troubles(self) -> dict[str, Trouble]:
        by_nvml = "the NVML source tells it"
        return {
            "raises": raises(lambda: self.watching(pynvml.NVML_ERROR_UNKNOWN), "let the agent read /dev/kmsg"),
            "vanishes": quiet(lambda: self.broken(lost=True), by_nvml),
            "says_garbage": told(lambda: self.nvml.gpus[1].xids.append(424242), "xid"),
            "is_unplugged": quiet(lambda: self.broken(present=False), by_nvml),
            "is_forbidden": raises(lambda: self.watching(pynvml.NVML_ERROR_NO_PERMISSION), "let the agent read"),
        }

    def watching(self, error: int | None) -> None:
        self.nvml.watch_error = error
        self.nvml.gpus[2].present = error is None  # another set of GPUs is registered anew

    def heal(self) -> None:
        super().heal()
        self.watching(None)

    def hang(self) -> None:
        self.gate.clear()


class _Watch:
    """An event set that can hang."""

    def __init__(self, watch: Watch, block: Callable[[], None]) -> None:
        self._watch, self._block = watch, block

    def wait(self, timeout_ms: int) -> Xid | None:
        self._block()
        return self._watch.wait(timeout_ms)

    def close(self) -> None:
        self._watch.close()


class KernelLogBench(Bench):
    """The kernel log: a file, and the kernel's own buffer."""

    says_as = frozenset({"kernel_log"})
    lacks: ClassVar[Mapping[str, str]] = {"is_unplugged": "a log is not plugged in"}
    line = "NVRM: Xid (PCI:0000:19:00): 31, pid=1, name=python3, Ch 00000010\n"

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        super().__init__(folder, catalog)
        self.file = folder / "kern.log"
        self.file.write_text("")
        self.error: OSError | None = None

    def source(self, name: str = "") -> Source:
        return KernelLogSource(
            (self.file, Path("/dev/null")),  # a device, as /dev/kmsg is one; what it says comes from `_kmsg`
            origin=ORIGIN,
            catalog=self.catalog,
            state=self.folder / f"kernel_log{name}.json",
            clock_ms=self.wall_ms,
            uptime_s=lambda: 500.0,
            read_kmsg=self._kmsg,
        )

    def _kmsg(self, _: int, __: int) -> bytes:
        if not self.gate.is_set():
            self.block()
        raise self.error or BlockingIOError

    def speak(self) -> None:
        self.write(self.line.encode())

    def write(self, text: bytes) -> None:
        with self.file.open("ab") as file:
            file.write(text)

    def troubles(self) -> dict[str, Trouble]:
        return {
            "raises": raises(lambda: self.fails(OSError(5, "Input/output error")), "reading the kernel log /dev/null"),
            "vanishes": quiet(self.file.unlink, "logs are rotated: the file comes back"),
            "says_garbage": quiet(
                lambda: self.write(b"\xff\x00NVRM: Xid (PCI:zz): \n" + b"x" * 100_000 + b"\n"), "no kernel line"
            ),
            "is_forbidden": raises(lambda: self.fails(PermissionError(1, "Operation not permitted")), "CAP_SYSLOG"),
        }

    def fails(self, error: OSError | None) -> None:
        self.error = error

    def heal(self) -> None:
        self.fails(None)
        if not self.file.exists():
            self.file.write_text("")

    def hang(self) -> None:
        self.gate.clear()


class DiscoveryBench(Bench):
    """What is installed in the node."""

    says_as: frozenset[str] = frozenset()
    lacks: ClassVar[Mapping[str, str]] = {
        "raises": "it reads nothing by itself: it repeats what the NVML source found",
        "says_garbage": "what the NVML source found was checked there",
        "is_forbidden": "it reads nothing by itself",
    }

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        super().__init__(folder, catalog)
        self.gpus: list[GpuIdentity] = []
        self.speak()
        self.speak()

    def source(self, name: str = "") -> Source:
        return InventorySource(ORIGIN, AgentSettings(rack="rack-7", node="node-1"), self._found)

    def _found(self) -> Sequence[GpuIdentity]:
        self.block()
        return self.gpus

    def speak(self) -> None:
        index = len(self.gpus)
        self.gpus.append(GpuIdentity(index=index, serial=str(165 + index), pci=f"0000:{0x19 + index:02x}:00"))

    def troubles(self) -> dict[str, Trouble]:
        return {
            "vanishes": quiet(self.gpus.pop, "the NVML source tells it"),
            "is_unplugged": quiet(self.gpus.clear, "the NVML source tells it"),
        }

    def heal(self) -> None:
        return

    def hang(self) -> None:
        self.gate.clear()
