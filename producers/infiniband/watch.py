"""What is wrong with a node's ports, from one reading to the next: down, flapping, slow, counting errors, gone.

Pure: the readings and the clock come in, findings go out, each once when it begins and once when it is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from producers.infiniband.judge import UP
from producers.infiniband.port import PortReading
from producers.infiniband.tables import Limit, table
from producers.standing import Standing

_MISSED = 2
"""A device that is not there in so many reads in a row is lost: while a driver is reloaded one read may find none."""
_POINTS = 60
"""Values kept of a counter per window."""


class Finding(NamedTuple):
    """One thing to tell about a device or a port."""

    kind: str
    text: str
    reading: PortReading
    details: dict[str, str]
    times: int = 1


class Growth:
    """How much a counter grew within the last `window_s`; what it stood at before is unknown, and counts as nothing."""

    __slots__ = ("_last", "_points", "_window_s")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._points: deque[tuple[float, int]] = deque()
        self._last = 0

    def add(self, value: int, now_s: float) -> tuple[int, float]:
        """The growth, and the seconds in which it grew. A counter that went back was set to 0, and begins anew."""
        points = self._points
        if value < self._last:
            points.clear()
        while points and points[0][0] < now_s - self._window_s:
            points.popleft()
        if not points or now_s - points[-1][0] >= self._window_s / _POINTS:
            points.append((now_s, value))
        self._last = value
        return value - points[0][1], now_s - points[0][0]


@dataclass(slots=True, eq=False)
class _Port:
    """One port between readings: some 20 kB with all its counters in trouble, else 3."""

    down: Standing
    long_down: Standing
    slow: Standing
    errors: dict[str, tuple[Growth, Standing]]
    active: bool = False
    """At the last reading that told its state."""
    was_active: bool = False
    downed: int | None = None


@dataclass(slots=True, eq=False)
class _Device:
    """A device that was there, by one of its ports."""

    reading: PortReading
    missed: int = 0
    standing: Standing = field(default_factory=Standing)


class PortWatch:
    """The ports of one node between readings; `known` are the devices that it had when it was watched before."""

    def __init__(self, down_s: float = 60.0, slow_s: float = 20.0, known: Iterable[PortReading] = ()) -> None:
        self._down_s = down_s
        self._slow_s = slow_s
        self._ports: dict[tuple[str, int], _Port] = {}
        self._devices = {reading.guid or reading.device: _Device(reading) for reading in known}

    @property
    def known(self) -> list[PortReading]:
        """A port of each device that is there, or is missed."""
        return [device.reading for device in self._devices.values()]

    def update(self, readings: Sequence[PortReading], now_s: float) -> list[Finding]:
        """What is to be told after the node's ports were read, all at once."""
        findings = list(self._missing(readings, now_s))
        for reading in readings:
            key = (reading.device, reading.port)
            port = self._ports.get(key)
            if port is None:
                port = self._ports[key] = _Port(
                    Standing(self._down_s), Standing(self._down_s), Standing(self._slow_s), {}
                )
            if reading.state is not None:
                findings += _link(port, reading, readings, now_s)
            findings += _errors(port, reading, now_s)
        return findings

    def _missing(self, readings: Sequence[PortReading], now_s: float) -> Iterator[Finding]:
        """Devices that are gone. A device is its GUID: a driver that is loaded without one of them renames the rest."""
        present = {reading.guid or reading.device: reading for reading in readings}
        replaced = len(present) + self._bonded(present) >= len(self._devices)
        for identity in [known for known in self._devices if known not in present]:
            device = self._devices[identity]
            device.missed += 1
            if replaced:
                del self._devices[identity]
            elif device.missed >= _MISSED and device.standing.see(True, now_s):
                yield _lost(device.reading, present.values())
        for identity, reading in present.items():
            device = self._devices.setdefault(identity, _Device(reading))
            device.reading, device.missed = reading, 0
            if device.standing.see(False, now_s):
                yield Finding("adapter_found", f"{_device_name(reading)} is there again.", reading, {})

    def _bonded(self, present: Mapping[str, PortReading]) -> int:
        """Devices that have just become a bond of two: of two ports of a card one device is left."""
        return sum(
            "bond" in reading.device
            and (identity not in self._devices or self._devices[identity].reading.device != reading.device)
            for identity, reading in present.items()
        )


def _lost(gone: PortReading, present: Iterable[PortReading]) -> Finding:
    left = sorted({reading.device for reading in present})
    rest = (
        f"{len(left)} other{'s are' if len(left) > 1 else ' is'} still there"
        if left
        else ("no other is there either: the driver may have been unloaded")
    )
    text = f"{_device_name(gone)} has vanished from the node; {rest}. Look for PCIe and mlx5 lines in the kernel log."
    return Finding("adapter_lost", text, gone, {"devices_left": str(len(left))})


def _link(port: _Port, reading: PortReading, readings: Sequence[PortReading], now_s: float) -> Iterator[Finding]:
    active = reading.state == UP
    just_fell = port.active and not active
    yield from _flaps(port, reading, just_fell)
    port.was_active = port.was_active or active
    # one that was never active may have no cable on purpose: it gets time to come up, and is never critical
    port.down.hold_s = 0.0 if port.was_active else port.long_down.hold_s
    since = port.down.since
    down = False if active else True if port.was_active or reading.degraded else None
    turn = port.down.see(down, now_s)
    details = {"state": reading.state or "", "physical_state": reading.physical_state or ""}
    if turn == "ends":
        lasted = "" if since is None else f" after {_duration(now_s - since)}"
        yield Finding("link_up", f"{_name(reading)} is active again{lasted}, at {_rate(reading)}.", reading, {})
    elif turn == "begins" or (turn == "stands" and not port.long_down.stands):
        verb = "went down" if just_fell else "is down"
        text = f"{_name(reading)} {verb}: {_why_down(reading)}{_peers(reading, readings)}."
        yield Finding("port_down", text, reading, details)
    switched_off = reading.physical_state == "disabled"
    turn = port.long_down.see(bool(down) and port.was_active and not switched_off, now_s)
    if turn in ("begins", "stands"):
        lasted = _duration(now_s - (port.long_down.since or now_s))
        text = f"{_name(reading)} has been down for {lasted}: {_why_down(reading)}{_peers(reading, readings)}."
        yield Finding("port_stays_down", text, reading, details)
    if active:
        yield from _speed(port, reading, readings, now_s)
    port.active = active


def _flaps(port: _Port, reading: PortReading, just_fell: bool) -> Iterator[Finding]:
    """Times the link went down between two readings, but the one that is told as port_down."""
    downed, before = reading.errors.get("link_downed"), port.downed
    port.downed = downed
    if downed is None or before is None or downed - before - just_fell <= 0:
        return
    times = downed - before - just_fell
    often = "once" if times == 1 else f"{times} times"
    text = (
        f"{_name(reading)} lost its link {often} since it was last read (link_downed went from {before} to {downed}):"
        f" look at its cable, its transceiver and the switch port."
    )
    yield Finding("link_flap", text, reading, {"link_downed": str(downed), "before": str(before)}, times)


def _speed(port: _Port, reading: PortReading, readings: Sequence[PortReading], now_s: float) -> Iterator[Finding]:
    if reading.degraded is None or reading.rate_gbps is None:
        return
    turn = port.slow.see(reading.degraded, now_s)
    details = {"rate_gbps": f"{reading.rate_gbps:g}"}
    if turn == "ends":
        yield Finding("port_full_speed", f"{_name(reading)} runs at {_rate(reading)} again.", reading, details)
    elif turn:
        reference = reading.peer_gbps or reading.card_gbps or 0.0
        details |= {"expected_gbps": f"{reference:g}", "expected_by": "peers" if reading.peer_gbps else "card"}
        if reading.peer_gbps is None:
            whose = f"its card is made for {reference:g} Gb/s{_called(reference)}"
        else:
            peer = next(one for one in _kin(reading, readings) if one.rate_gbps == reference)
            details["reference"] = peer.component
            whose = f"its peers, such as {peer.device} port {peer.port}, run at {_rate(peer)}"
        text = f"{_name(reading)} runs at {_rate(reading)} where {whose}: look at its cable, transceiver, switch port."
        yield Finding("port_slow", text, reading, details)


def _errors(port: _Port, reading: PortReading, now_s: float) -> Iterator[Finding]:
    counters = reading.errors | reading.signals
    for name, limit in table().limit.items():
        value = counters.get(name)
        if value is None:
            continue
        if name not in port.errors:
            port.errors[name] = (Growth(limit.window_s), Standing())
        growth, standing = port.errors[name]
        grown, within_s = growth.add(value, now_s)
        turn = standing.see(_too_many(grown, limit), now_s)
        details = {"counter": name, "value": str(value), "grown": str(grown), "within_s": f"{within_s:.0f}"}
        if turn == "ends":
            text = f"{_name(reading)}: {name} grew by {grown} within {_duration(limit.window_s)}: it is quiet again."
            yield Finding("port_errors_ended", text, reading, details)
        elif turn:
            text = (
                f"{_name(reading)}: {name} grew by {grown} within {_duration(within_s)}, where {limit.count} within "
                f"{_duration(limit.window_s)} are too many. {table().counter[name].meaning}"
            )
            details |= {"limit": str(limit.count), "limit_window_s": f"{limit.window_s:g}", "why": limit.reason}
            yield Finding(limit.kind, text, reading, details)


def _too_many(grown: int, limit: Limit) -> bool | None:
    return True if grown >= limit.count else False if grown <= limit.count // 4 else None


def _why_down(reading: PortReading) -> str:
    state, physical = reading.state or "unknown", reading.physical_state or "unknown"
    why = table().state.get(state) or table().physical_state.get(physical)
    return f"its state is {state} ({physical})" + (f", {why}" if why else "")


def _peers(reading: PortReading, readings: Sequence[PortReading]) -> str:
    kin = [one for one in _kin(reading, readings) if one.state == UP]
    if not kin:
        return ""
    many = "the other port of its kind is" if len(kin) == 1 else f"{len(kin)} other ports of its kind are"
    return f"; {many} active, such as {kin[0].device} port {kin[0].port} at {_rate(kin[0])}"


def _kin(reading: PortReading, readings: Sequence[PortReading]) -> list[PortReading]:
    """The active ports of the same kind of card, as `judge` compares them."""
    kind = reading.board_id or reading.hca_type
    return [
        one
        for one in readings
        if one is not reading
        and one.state == UP
        and (one.board_id or one.hca_type) == kind
        and one.link_layer == reading.link_layer
    ]


def _name(reading: PortReading) -> str:
    return f"{reading.device} port {reading.port}" + (f" ({reading.card})" if reading.card else "")


def _device_name(reading: PortReading) -> str:
    card = f" ({reading.card})" if reading.card else ""
    return f"{reading.device}{card}" + (f" at {reading.pci}" if reading.pci else "")


def _rate(reading: PortReading) -> str:
    if reading.rate_gbps is None:
        return "an unknown rate"
    return f"{reading.rate_gbps:g} Gb/s" + (f" ({reading.rate_name})" if reading.rate_name else "")


def _called(gbps: float) -> str:
    """What four lanes of such a rate are called."""
    name = next((speed for speed, lane in table().speed.items() if lane * 4 == gbps), None)
    return f" ({name})" if name else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
