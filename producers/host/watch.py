"""What is wrong with a host, from one reading to the next: full disks, no memory, links down, a clock that nobody sets.

Pure: readings and the clock come in, findings go out, each once when it begins and once when it is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from producers.host.clock import KernelClock
from producers.host.devices import Link
from producers.standing import Standing
from schemas.records import NodeSample

if TYPE_CHECKING:
    from producers.host.settings import HostSettings

_GIB = 2**30
_MISSED = 2
"""An interface that is not there in so many reads in a row is gone: while it is renamed one read may not find it."""
_REMEMBERED_S = 7 * 86_400.0
"""An interface that is gone for so long is forgotten: a card that was taken out is no trouble for ever, and one that
fell off is seen to within a week. Until then it is told as long as it is gone, and its return ends it.
"""


class Finding(NamedTuple):
    """One thing to tell about the host."""

    kind: str
    text: str
    details: dict[str, str]


class Usage(NamedTuple):
    """How full a file system is."""

    used_percent: float
    """Of what programs may use, as df counts."""
    free_bytes: float


@dataclass(slots=True, eq=False)
class _Interface:
    card: str | None
    bond: bool
    had_link: bool = False
    missed: int = 0
    gone_since: float | None = None
    down: Standing = field(default_factory=Standing)


class HostWatch:
    """One host between readings."""

    def __init__(self, node: str, settings: HostSettings) -> None:
        self._node = node
        self._settings = settings
        self._full: dict[str, Standing] = {}
        self._interfaces: dict[str, _Interface] = {}
        self._exhausted = Standing(settings.memory_s)
        self._thrashing = Standing(settings.memory_s)
        self._clock = Standing(settings.clock_s)

    def update(
        self,
        sample: NodeSample,
        usages: Mapping[str, Usage],
        links: Mapping[str, Link] | None,
        clock: KernelClock | None,
        now_s: float,
    ) -> list[Finding]:
        """What is to be told after a read. What could not be read is None, or not in it, and changes nothing."""
        found = [finding for path, usage in usages.items() for finding in self._disk(path, usage, now_s)]
        found += self._memory(sample, now_s)
        found += self._stalls(sample, now_s)
        if links is not None:
            found += self._networks(links, now_s)
        if clock is not None:
            found += self._clock_error(clock, now_s)
        return found

    def _disk(self, path: str, usage: Usage, now_s: float) -> Iterator[Finding]:
        limits = self._settings
        full = _between(usage.used_percent, limits.disk_full_percent, limits.disk_freed_percent)
        turn = self._full.setdefault(path, Standing()).see(full, now_s)
        details = {"path": path, "used_percent": f"{usage.used_percent:.1f}", "free_bytes": f"{usage.free_bytes:.0f}"}
        free = f"{usage.free_bytes / _GIB:.1f} GiB"
        if turn == "ends":
            text = f"The file system of {path} has room again: {usage.used_percent:.1f} % are used, {free} are free."
            yield Finding("disk_freed", text, details)
        elif turn:
            text = (
                f"The file system of {path} is {usage.used_percent:.1f} % full, {free} are left: "
                "free some before logs and the agent's spool are lost."
            )
            yield Finding("disk_full", text, details)

    def _memory(self, sample: NodeSample, now_s: float) -> Iterator[Finding]:
        total, available = sample.memory_total_bytes, sample.memory_available_bytes
        if not total or available is None:
            return
        percent = 100 * available / total
        limits = self._settings
        out = _between(-percent, -limits.memory_exhausted_percent, -limits.memory_free_percent)
        turn = self._exhausted.see(out, now_s)
        left = f"{available / _GIB:.1f} GiB of {total / _GIB:.1f} GiB ({percent:.1f} %)"
        details = {"available_percent": f"{percent:.1f}", "available_bytes": f"{available:.0f}"}
        if turn == "ends":
            yield Finding("memory_recovered", f"Memory is free again: {left} can be had.", details)
        elif turn:
            text = f"Memory is exhausted: only {left} can still be had, and the kernel ends programs next."
            yield Finding("memory_exhausted", text, details)

    def _stalls(self, sample: NodeSample, now_s: float) -> Iterator[Finding]:
        limits, full = self._settings, sample.memory_pressure_full_percent
        read, written = sample.swap_in_bytes_per_second, sample.swap_out_bytes_per_second
        slower = min(read, written) if read is not None and written is not None else None
        if full is not None:
            thrashing = _between(full, limits.thrashing_percent, limits.thrashing_over_percent)
            said = f"for {full:.0f} % of the last 10 s all programs waited for memory"
        elif slower is not None:
            limit = limits.swapping_bytes_per_second
            thrashing = _between(slower, limit, limit / 4)
            said = "memory is written to swap and read back at once"
        else:
            return
        turn = self._thrashing.see(thrashing, now_s)
        if slower is not None and slower > 0:
            said += f" ({(read or 0) / 1e6:.0f} MB/s in, {(written or 0) / 1e6:.0f} MB/s out)"
        details = {"memory_pressure_full_percent": f"{full:.1f}"} if full is not None else {}
        if turn == "ends":
            yield Finding("memory_recovered", f"The host no longer stalls for memory: {said}.", details)
        elif turn:
            yield Finding("memory_thrashing", f"The host stalls for want of memory: {said}.", details)

    def _networks(self, links: Mapping[str, Link], now_s: float) -> Iterator[Finding]:
        there: dict[str | None, str] = {link.card: name for name, link in links.items() if link.card is not None}
        for name in [known for known in self._interfaces if known not in links]:
            interface = self._interfaces[name]
            now = there.get(interface.card)
            if now is not None and now not in self._interfaces:
                yield from self._renamed(name, now, interface)
            elif interface.bond or now is not None:
                yield from self._removed(name, interface)
            else:
                yield from self._missing(name, interface, now_s)
        for name, link in links.items():
            interface = self._interfaces.setdefault(name, _Interface(link.card, link.bond))
            interface.missed, interface.gone_since = 0, None
            if link.up is None or not (link.up or interface.had_link):
                continue
            interface.had_link = True
            turn = interface.down.see(not link.up, now_s)
            if turn == "ends":
                speed = f" at {link.speed_mbps:g} Mb/s" if link.speed_mbps else ""
                yield Finding("link_up", f"{name} has a link again{speed}.", self._about(name))
            elif turn and link.enabled is False:
                if turn == "begins":
                    text = f"{name} was switched off on this node (ip link set {name} down)."
                    yield Finding("network_disabled", text, self._about(name) | {"state": "disabled"})
            elif turn:
                text = f"{name} has no link: look at its cable, its transceiver and the switch port."
                yield Finding("network_down", text, self._about(name) | {"state": "down"})

    def _renamed(self, name: str, now: str, interface: _Interface) -> Iterator[Finding]:
        """The same port under another name: udev, a driver that was loaded again, `ip link set … name`."""
        del self._interfaces[name]
        self._interfaces[now] = _Interface(interface.card, interface.bond, interface.had_link)
        if interface.down.stands:  # what is wrong with it is told under its new name from here on
            yield Finding("link_up", f"{name} is called {now} now.", self._about(name))

    def _removed(self, name: str, interface: _Interface) -> Iterator[Finding]:
        """Gone, but no hardware is: a bond, or one of several interfaces of a port that is there."""
        interface.missed += 1
        if interface.missed < _MISSED:
            return
        del self._interfaces[name]
        if interface.had_link:
            text = f"{name} was removed from this node by its network configuration; its hardware is there."
            yield Finding("network_disabled", text, self._about(name) | {"state": "removed"})

    def _missing(self, name: str, interface: _Interface, now_s: float) -> Iterator[Finding]:
        interface.missed += 1
        if interface.missed < _MISSED:
            return
        goes = interface.gone_since is None
        since = interface.gone_since = now_s if interface.gone_since is None else interface.gone_since
        if not interface.had_link or now_s - since >= _REMEMBERED_S:
            del self._interfaces[name]
            return
        turn = interface.down.see(True, now_s)
        if turn or goes:  # one that was down before and is gone now is told so
            text = f"{name} is gone from the node: its card fell off the bus, or its driver was unloaded."
            yield Finding("network_down", text, self._about(name) | {"state": "gone"})

    def _about(self, name: str) -> dict[str, str]:
        return {"component": f"port:{self._node}/{name}", "interface": name}

    def _clock_error(self, clock: KernelClock, now_s: float) -> Iterator[Finding]:
        limit = self._settings.clock_error_s
        turn = self._clock.see(_between(clock.max_error_s, limit, limit / 2), now_s)
        details = {
            "max_error_s": f"{clock.max_error_s:.3f}",
            "estimated_error_s": f"{clock.estimated_error_s:.3f}",
            "disciplined": str(clock.disciplined).lower(),
        }
        if turn == "ends":
            text = f"The clock is set again: it is off by {clock.max_error_s:.3f} s at most."
            yield Finding("clock_synchronised", text, details)
        elif turn:
            text = (
                f"Nobody sets the clock: by the kernel's reckoning it may be off by {clock.max_error_s:.1f} s or more. "
                "Start chrony, ntpd, systemd-timesyncd or phc2sys."
            )
            yield Finding("clock_unsynchronised", text, details)


def _between(value: float, begins: float, ends: float) -> bool | None:
    """True from `begins` on, False below `ends`; None between them."""
    return True if value >= begins else False if value < ends else None
