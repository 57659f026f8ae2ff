"""The host of this node, for the agent: a `NodeSample` per read, and what is wrong with it.

psutil and a few files of /proc and /sys that it does not read. Each part is read by itself: what fails costs its own
values only, and is told once.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from producers.host import devices, texts
from producers.host.clock import KernelClock, kernel_clock
from producers.host.watch import Finding, HostWatch, Usage
from producers.source import Origin
from schemas.catalog import Catalog
from schemas.records import Disk, HardwareEvent, Network, NodeSample, Record

if TYPE_CHECKING:
    from producers.host.settings import HostSettings

log = structlog.get_logger()

_ABSENT = (FileNotFoundError, NotImplementedError)
_NOT_OFFERED = {errno.EOPNOTSUPP, errno.ENOSYS}
"""What the kernel answers where it was built or started without something, such as pressure stall information."""
_GUEST = frozenset({"guest", "guest_nice"})
"""Processor times that are in `user` and `nice` already."""
_ROUNDING_S = 0.001
"""Sums of processor times, which come in hundredths of a second, are off by less."""
_LOOK_AGAIN_S = 600.0
"""How often sensors are looked for."""
_REPEAT_S = 300.0
"""A part that comes and goes is told at most so often."""
_REMEDY = "run the agent as a user who may read it: root, or one in the group that /proc is mounted for (gid=)"


class HostError(RuntimeError):
    """Nothing of the host could be read; the message says what to do."""


class HostSource:
    """The host of this node. `state_dir` is where the agent keeps its own: a disk that fills there is reported.

    `system` stands in for psutil, `kernel_clock` for the kernel's own view of its clock.
    """

    name = "host"

    def __init__(
        self,
        origin: Origin,
        catalog: Catalog,
        settings: HostSettings,
        state_dir: Path,
        *,
        system: Any = None,
        kernel_clock: Callable[[], KernelClock] = kernel_clock,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.doing = "nothing yet"
        self._origin = origin
        self._catalog = catalog
        self._settings = settings
        self._state_dir = state_dir
        self._system = system
        self._kernel_clock = kernel_clock
        self._wall_ms = wall_ms
        self._clock = clock
        self._watch = HostWatch(origin.node, settings)
        self._totals: dict[str, tuple[float, float]] = {}
        """Running totals, each with the moment at which it was read."""
        self._totals_now: dict[str, tuple[float, float]] = {}
        self._cpu_before: dict[str, float] = {}
        self._mounts: tuple[str, list[texts.Mount]] = ("", [])
        self._sensors: list[Path] = []
        self._look_at = -math.inf
        self._failing: set[str] = set()
        self._told: dict[str, float] = {}
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._usages: dict[str, Usage] = {}
        self._links: dict[str, devices.Link] | None = None
        self._said: KernelClock | None = None

    def read(self, now_ms: int) -> Iterable[Record]:
        """One sample of the host, and what changed for the worse or the better.

        Raises `HostError` where nothing at all could be read.
        """
        if self._system is None:
            import psutil

            psutil.PROCFS_PATH = str(self._settings.proc)
            self._system = psutil
        now_s = self._clock()
        self._totals_now = {}
        self._usages, self._links, self._said = {}, None, None
        values: dict[str, Any] = {}
        problems: dict[str, Exception] = {}
        parts = self._parts()
        for part, read in parts.items():
            self.doing = f"reading {part}"
            try:
                values |= read(now_s)
            except _ABSENT:
                continue
            except OSError as error:
                if error.errno not in _NOT_OFFERED:
                    problems[part] = error
            except Exception as error:  # noqa: BLE001 - whatever one part raises, the others are read
                problems[part] = error
        self._totals = self._totals_now
        self.doing = "nothing"
        if not any(value is not None and value != [] for value in values.values()):
            why = "; ".join(f"{part}: {error}" for part, error in problems.items()) or "none of its files is there"
            raise HostError(
                f"nothing of the host can be read under {self._settings.proc} and {self._settings.sys} ({why}): "
                "mount them for the agent, or set agent.host.proc and agent.host.sys"
            )
        values["disks"] = values.get("disks", []) + values.pop("file_systems", [])
        sample = self._sample(values, now_ms)
        findings = self._watch.update(sample, self._usages, self._links, self._said, now_s)
        return [
            *(self._event(found, now_ms) for found in findings),
            *(self._event(found, now_ms) for found in self._cannot_read(problems, now_s)),
            sample,
        ]

    def _parts(self) -> dict[str, Callable[[float], Mapping[str, Any]]]:
        return {
            "processor times": self._cpu,
            "load": self._load,
            "memory": self._memory,
            "swap": self._swap,
            "paging": self._paging,
            "processor pressure": lambda _: self._pressure("cpu", "some"),
            "memory pressure": lambda _: self._pressure("memory", "some", "full"),
            "disk pressure": lambda _: self._pressure("io", "some", "full"),
            "processes": self._processes,
            "uptime": lambda _: {"uptime_s": texts.uptime_s(self._proc("uptime"))},
            "processor temperatures": self._temperature,
            "disks": self._disks,
            "file systems": self._file_systems,
            "networks": self._networks,
            "the clock": self._ask_clock,
        }

    def _proc(self, name: str) -> str:
        return (self._settings.proc / name).read_text(encoding="utf-8", errors="replace")

    def _rate(self, key: str, total: float, now_s: float) -> float | None:
        """Per second since the last read; None for the first one, and where the total went back."""
        self._totals_now[key] = (total, now_s)
        before, then_s = self._totals.get(key, (math.inf, now_s))
        return (total - before) / (now_s - then_s) if total >= before and now_s > then_s else None

    def _cpu(self, _: float) -> dict[str, Any]:
        times = self._system.cpu_times()
        now = {name: float(getattr(times, name)) for name in times._fields if name not in _GUEST}
        before, self._cpu_before = self._cpu_before, now
        values: dict[str, Any] = {"cpu_count": self._system.cpu_count()}
        if before.keys() != now.keys():
            return values
        spent = {name: now[name] - before[name] for name in now}
        whole = sum(spent.values())
        if whole <= 0:
            return values

        def share(seconds: float | None) -> float | None:
            if seconds is None or not -_ROUNDING_S <= seconds <= whole + _ROUNDING_S:
                return None
            return min(100.0, max(0.0, 100 * seconds / whole))

        waiting = spent.get("iowait", 0.0)  # the kernel says itself that this one may go back
        idle = spent["idle"] + waiting if spent["idle"] >= 0 and waiting >= 0 else None
        values["cpu_utilization_percent"] = share(None if idle is None else whole - idle)
        values["cpu_iowait_percent"] = share(spent.get("iowait"))
        values["cpu_steal_percent"] = share(spent.get("steal"))
        return values

    def _load(self, _: float) -> dict[str, Any]:
        return dict(zip(("load_1m", "load_5m", "load_15m"), map(float, self._system.getloadavg()), strict=True))

    def _memory(self, _: float) -> dict[str, Any]:
        memory = self._system.virtual_memory()
        return {
            "memory_total_bytes": float(memory.total),
            "memory_used_bytes": float(memory.total - memory.available),
            "memory_available_bytes": float(memory.available),
        }

    def _swap(self, _: float) -> dict[str, Any]:
        swap = self._system.swap_memory()
        return {"swap_total_bytes": float(swap.total), "swap_used_bytes": float(swap.used)}

    def _paging(self, now_s: float) -> dict[str, Any]:
        # psutil takes a page for 4 KiB; on Grace it has 64
        found = texts.counters(self._proc("vmstat"), ("pswpin", "pswpout", "oom_kill"))
        values: dict[str, Any] = {"oom_kills": found.get("oom_kill")}
        for name, column in (("pswpin", "swap_in_bytes_per_second"), ("pswpout", "swap_out_bytes_per_second")):
            if name in found:
                values[column] = self._rate(name, found[name] * self._page_bytes, now_s)
        return values

    def _pressure(self, resource: str, *wanted: str) -> dict[str, Any]:
        found = texts.pressure(self._proc(f"pressure/{resource}"))
        return {f"{resource}_pressure_{kind}_percent": found.get(kind) for kind in wanted}

    def _processes(self, _: float) -> dict[str, Any]:
        found = self._system.pids()
        if 1 not in found:
            raise PermissionError(
                errno.EACCES, "other users' processes are hidden (hidepid), so they cannot be counted"
            )
        return {"process_count": len(found)}

    def _temperature(self, now_s: float) -> dict[str, Any]:
        if now_s >= self._look_at:
            self._sensors, self._look_at = devices.cpu_sensors(self._settings.sys), now_s + _LOOK_AGAIN_S
        return {"cpu_temperature_celsius": devices.hottest_celsius(self._sensors)}

    def _disks(self, now_s: float) -> dict[str, Any]:
        counted = self._system.disk_io_counters(perdisk=True, nowrap=False) or {}
        found = []
        for name in sorted(devices.disks(self._settings.sys, counted)):
            count = counted[name]
            busy = self._rate(f"busy {name}", getattr(count, "busy_time", math.nan), now_s)
            found.append(
                Disk(
                    name=name,
                    read_bytes_per_second=self._rate(f"read {name}", count.read_bytes, now_s),
                    write_bytes_per_second=self._rate(f"write {name}", count.write_bytes, now_s),
                    busy_percent=None if busy is None else min(100.0, busy / 10),  # of 1000 ms a second
                )
            )
        return {"disks": found}

    def _file_systems(self, _: float) -> dict[str, Any]:
        root, state = Path("/"), _existing(self._state_dir)
        for path in (root,) if state.stat().st_dev == root.stat().st_dev else (root, state):
            usage = self._usage(str(path))
            if usage and usage.used + usage.free > 0:
                self._usages[str(path)] = Usage(100 * usage.used / (usage.used + usage.free), usage.free)
        text = self._proc("self/mounts")
        if text != self._mounts[0]:
            self._mounts = (text, texts.mounts(text))
        found = []
        for mount in sorted(self._mounts[1], key=lambda mount: mount.path):
            self.doing = f"asking how full {mount.path} is"
            used = self._usage(mount.path)
            total_bytes, used_bytes = (float(used.total), float(used.used)) if used else (None, None)
            found.append(Disk(name=mount.path, total_bytes=total_bytes, used_bytes=used_bytes))
        return {"file_systems": found}

    def _usage(self, path: str) -> Any:
        """None where it cannot be asked: a disk that is gone, a directory of others."""
        try:
            return self._system.disk_usage(path)
        except (OSError, ValueError):
            return None

    def _networks(self, now_s: float) -> dict[str, Any]:
        counted = self._system.net_io_counters(pernic=True, nowrap=False) or {}
        links: dict[str, devices.Link] = {}
        found = []
        for name in sorted(devices.interfaces(self._settings.sys, counted)):
            self.doing = f"reading the link of {name}"
            link, count = devices.link(self._settings.sys, name), counted[name]
            links[name] = link
            found.append(
                Network(
                    name=name,
                    up=link.up,
                    speed_mbps=link.speed_mbps,
                    receive_bytes_per_second=self._rate(f"received {name}", count.bytes_recv, now_s),
                    send_bytes_per_second=self._rate(f"sent {name}", count.bytes_sent, now_s),
                    receive_errors=count.errin,
                    send_errors=count.errout,
                    receive_drops=count.dropin,
                    send_drops=count.dropout,
                )
            )
        self._links = links
        return {"networks": found}

    def _ask_clock(self, _: float) -> dict[str, Any]:
        self._said = self._kernel_clock()
        return {}

    def _cannot_read(self, problems: Mapping[str, Exception], now_s: float) -> Iterable[Finding]:
        """One finding for the parts that fail since now."""
        failing = set(problems)
        new = [
            part
            for part in problems
            if part not in self._failing and now_s - self._told.get(part, -math.inf) >= _REPEAT_S
        ]
        self._failing = failing
        self._told |= dict.fromkeys(new, now_s)
        for part in new:
            error = problems[part]
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            details = {"metrics": part, "error": f"{type(error).__name__}: {error}"}
            text = f"Reading {part} of the host fails: {why}"
            if isinstance(error, PermissionError):
                text, details["remedy"] = f"{text}; {_REMEDY}", _REMEDY
            log.warning("a part of the host cannot be read", part=part, error=text)
            yield Finding("metric_unreadable", text, details)

    def _sample(self, values: Mapping[str, Any], now_ms: int) -> NodeSample:
        return NodeSample(
            **self._origin.envelope(
                tick_ms=now_ms, observed_ms=self._wall_ms(), interval_ms=self._settings.interval_ms
            ),
            source=self.name,
            **values,
        )

    def _event(self, found: Finding, now_ms: int) -> HardwareEvent:
        return self._origin.event(
            self._catalog,
            found.kind,
            source=self.name,
            event_ms=now_ms,
            observed_ms=self._wall_ms(),
            details=found.details,
            raw=found.text,
        )


def _existing(path: Path) -> Path:
    """The path, or what of it is there already."""
    return next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))
