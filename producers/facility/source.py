"""The source `facility`: reads every device around the nodes, each by itself, and says when one changes for the worse.

Devices on one bus are asked one after the other, buses and controllers beside each other. A device that does not answer
is an event, once; the others go on. It is asked again ever more rarely, up to a minute, because on a serial line every
question without an answer costs its neighbours the time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec
import structlog

from producers.facility import maps
from producers.facility.alarms import Alarms, Change
from producers.facility.ipmi import Ipmitool
from producers.facility.modbus import Bus
from producers.facility.points import ABSENT, CRITICAL, Answer, DeviceError
from producers.facility.redfish import Redfish
from producers.facility.settings import BmcSettings, FacilitySettings, ModbusDevice
from producers.source import Origin
from producers.standing import REPEAT_S
from schemas.catalog import Catalog
from schemas.ids import device_id
from schemas.records import FacilitySample, HardwareEvent, Record

log = structlog.get_logger()

_AT_ONCE = 8
"""Lines that are asked beside each other: threads that mostly wait."""
_RARELY_MS = 60_000
_MARGIN_S = 1.0
_LONGEST_LIST = 10
"""Points that are named in one event."""

Ask = Callable[[], tuple[str, Answer]]
"""Gives the protocol that answered and what it said. Raises `DeviceError`."""


class _Line(Protocol):
    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Watched:
    """One device and how it does."""

    component: str
    kind: str
    of_node: str | None
    rack: str | None
    ask: Ask
    worst_s: float
    """How long asking it may take."""
    alarms: Alarms = field(default_factory=Alarms)
    failures: int = 0
    """Readings in a row that came to nothing."""
    partly: bool = False
    """That some of its points cannot be read was told."""
    due_ms: int = 0
    told_ms: int = 0
    """When it was last told that it does not answer."""


class FacilitySource:
    """PDUs, coolers, meters and management controllers, as records and events."""

    name = "facility"

    def __init__(
        self,
        origin: Origin,
        catalog: Catalog,
        settings: FacilitySettings,
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._origin = origin
        self._catalog = catalog
        self._settings = settings
        self._wall_ms = wall_ms
        self._asked: dict[str, None] = {}
        self._open: list[_Line] = []
        self._lanes = [*self._buses(settings.devices), *([self._bmc(bmc)] for bmc in settings.bmcs)]

    @property
    def doing(self) -> str:
        """Which devices are being asked."""
        return f"asking {', '.join(list(self._asked)) or 'nobody'}"

    @property
    def deadline_s(self) -> float:
        """How long a reading takes at worst, where nobody answers: what takes longer hangs."""
        lanes = sorted((sum(device.worst_s for device in lane) for lane in self._lanes), reverse=True)
        return _MARGIN_S + sum(lanes[::_AT_ONCE])

    def read(self, now_ms: int) -> Iterable[Record]:
        """A sample of each device that answers, and an event for each change."""
        outcomes = self._ask_all([lane for lane in self._due(now_ms) if lane])
        observed_ms = self._wall_ms()
        records: list[Record] = []
        for device, outcome in outcomes:
            say = _Teller(self._origin, self._catalog, device, now_ms, observed_ms)
            if isinstance(outcome, DeviceError):
                records += self._failed(device, outcome, say, now_ms)
            else:
                protocol, answer = outcome
                records.append(self._sample(device, protocol, answer, now_ms, observed_ms))
                records += _answered(device, answer, say)
        return records

    def close(self) -> None:
        """Let go of lines, and end sessions."""
        for line in self._open:
            line.close()

    def _buses(self, devices: Sequence[ModbusDevice]) -> Iterator[list[_Watched]]:
        together: dict[str, list[ModbusDevice]] = {}
        for device in devices:
            together.setdefault(device.bus, []).append(device)
        for on_bus in together.values():
            bus = Bus(on_bus)
            self._open.append(bus)
            yield [self._modbus(device, bus) for device in on_bus]

    def _modbus(self, device: ModbusDevice, bus: Bus) -> _Watched:
        loaded: list[maps.RegisterMap] = []

        def ask() -> tuple[str, Answer]:
            if not loaded:  # a map that is wrong is its device's trouble alone, and can be mended while we run
                try:
                    loaded.append(maps.load(device.map))
                except maps.MapError as error:
                    raise DeviceError(f"its register map cannot be used: {error}") from error
            return "modbus", bus.read(device, loaded[0])

        component = device_id(device.kind, device.name)
        worst_s = device.timeout_s * (device.retries + 1) + device.timeout_s
        return _Watched(component, device.kind, None, device.rack, ask, worst_s)

    def _bmc(self, settings: BmcSettings) -> _Watched:
        node = settings.of_node or self._origin.node
        redfish = Redfish(settings) if settings.url is not None else None
        ipmitool = Ipmitool(settings) if settings.ipmitool else None
        self._open += [line for line in (redfish, ipmitool) if line is not None]

        def ask() -> tuple[str, Answer]:
            first: DeviceError | None = None
            if redfish is not None:
                try:
                    return "redfish", redfish.read()
                except DeviceError as error:
                    if ipmitool is None:
                        raise
                    first = error
            assert ipmitool is not None  # noqa: S101 - the settings have url, ipmitool or both
            try:
                return "ipmitool", ipmitool.read()
            except DeviceError as error:
                raise DeviceError(f"{first}; and {error}" if first else str(error)) from error

        worst_s = settings.budget_s * 2 if redfish and ipmitool else settings.budget_s + settings.timeout_s
        return _Watched(device_id("bmc", node), "bmc", node, settings.rack, ask, worst_s)

    def _due(self, now_ms: int) -> Iterator[list[_Watched]]:
        for lane in self._lanes:
            for device in lane:
                if device.due_ms - now_ms > _RARELY_MS + self._settings.period_ms:  # the wall clock was set back
                    device.due_ms = 0
            yield [device for device in lane if device.due_ms <= now_ms]

    def _ask_all(self, lanes: Sequence[list[_Watched]]) -> list[tuple[_Watched, tuple[str, Answer] | DeviceError]]:
        """Every device of the lanes; those of one lane in order, lanes beside each other."""
        waiting: queue.SimpleQueue[list[_Watched]] = queue.SimpleQueue()
        for lane in lanes:
            waiting.put(lane)
        outcomes: dict[str, tuple[_Watched, tuple[str, Answer] | DeviceError]] = {}

        def work() -> None:
            while True:
                try:
                    lane = waiting.get_nowait()
                except queue.Empty:
                    return
                for device in lane:
                    outcomes[device.component] = device, self._ask(device)

        # threads of our own, not an executor's: those would hold up the end of the process
        count = min(_AT_ONCE, len(lanes))
        threads = [threading.Thread(target=work, name=f"facility-{i}", daemon=True) for i in range(1, count)]
        for thread in threads:
            thread.start()
        work()
        for thread in threads:
            thread.join()
        return [outcomes[device.component] for lane in lanes for device in lane]

    def _ask(self, device: _Watched) -> tuple[str, Answer] | DeviceError:
        self._asked[device.component] = None
        try:
            return device.ask()
        except DeviceError as error:
            return error
        except Exception as error:  # whatever one device leads to, the others go on
            log.exception("reading a device failed", device=device.component)
            return DeviceError(f"{type(error).__name__}: {error}")
        finally:
            self._asked.pop(device.component, None)

    def _failed(self, device: _Watched, error: DeviceError, say: _Teller, now_ms: int) -> Iterator[HardwareEvent]:
        device.failures += 1
        wait_ms = min(_RARELY_MS, self._settings.period_ms * 2 ** min(10, device.failures - 1))
        device.due_ms = now_ms + max(wait_ms, self._settings.period_ms)
        if device.failures == 1 or now_ms - device.told_ms >= REPEAT_S * 1000:
            device.told_ms = now_ms
            yield say("device_unreachable", str(error), {"error": str(error)})

    def _sample(self, device: _Watched, protocol: str, answer: Answer, now_ms: int, observed_ms: int) -> FacilitySample:
        return FacilitySample(
            **self._origin.envelope(
                tick_ms=now_ms, observed_ms=observed_ms, interval_ms=self._settings.period_ms, rack=device.rack
            ),
            source=protocol,
            device=device.component,
            device_kind=device.kind,
            of_node=device.of_node,
            points=[measured.point() for measured in answer.measured],
        )


class _Teller:
    """Makes the events of one device at one tick."""

    def __init__(self, origin: Origin, catalog: Catalog, device: _Watched, event_ms: int, observed_ms: int) -> None:
        self._origin = replace(origin, rack=device.rack or origin.rack)
        self._catalog = catalog
        self._device = device
        self.event_ms = event_ms
        self._observed_ms = observed_ms

    def __call__(self, kind: str, text: str, details: dict[str, str]) -> HardwareEvent:
        about = {"component": self._device.component, "device_kind": self._device.kind, **details}
        if self._device.of_node:
            about["of_node"] = self._device.of_node
        event = self._origin.event(
            self._catalog,
            kind,
            source=FacilitySource.name,
            event_ms=self.event_ms,
            observed_ms=self._observed_ms,
            details=about,
            raw=f"{self._device.component}: {text}",
        )
        entry = self._catalog.of(event)  # with the variant
        return msgspec.structs.replace(event, severity=entry.severity, action=entry.action)


def _answered(device: _Watched, answer: Answer, say: _Teller) -> Iterator[HardwareEvent]:
    """What changed on a device that answered."""
    device.due_ms = 0
    if device.failures:
        device.failures = 0
        yield say("device_recovered", "it answers again", {})
    if answer.unread and not device.partly:
        shown = "; ".join(answer.unread[:_LONGEST_LIST])
        more = len(answer.unread) - _LONGEST_LIST
        text = f"cannot be read: {shown}{f'; and {more} more' if more > 0 else ''}"
        yield say("metric_unreadable", text, {"count": str(len(answer.unread))})
    device.partly = bool(answer.unread)
    for change in device.alarms.update(answer.measured, say.event_ms / 1000):
        yield _told(change, say)


def _told(change: Change, say: _Teller) -> HardwareEvent:
    measured = change.measured
    details = {"point": measured.name, "state": measured.state or ""}
    if measured.value is not None:
        details |= {"value": f"{measured.value:g}", "unit": measured.unit}
    value = f", {measured.value:g} {measured.unit}".rstrip() if measured.value is not None else ""
    if change.ended:
        return say(
            "device_alarm_cleared",
            f"{measured.name} is {measured.state} again{value}",
            {"kind": change.kind, **details},
        )
    if measured.state in {CRITICAL, ABSENT}:
        details["variant"] = measured.state
    return say(change.kind, f"{measured.name} is {measured.state}{value}", details)
