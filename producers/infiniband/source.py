"""The InfiniBand and RoCE ports of this node, for the agent: a `NodeSample` per read, and what is wrong with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from producers.infiniband.judge import judge
from producers.infiniband.port import Port, PortReading
from producers.infiniband.tables import table
from producers.infiniband.tree import read_class
from producers.infiniband.watch import Finding, PortWatch
from producers.kernel_log.events import normal_pci
from producers.source import Origin
from producers.unreadable import Unreadable
from schemas import records
from schemas.catalog import Catalog
from schemas.records import HardwareEvent, NodeSample, Record

if TYPE_CHECKING:
    from producers.infiniband.settings import InfiniBandSettings

log = structlog.get_logger()

_NAMED = 5
"""Files that cannot be read are named up to so many."""


class InfiniBandSource:
    """The ports of this node. `read` gives nothing where there is no InfiniBand, and never was.

    Cards that are lent out as virtual functions are left out: whoever has them sees them. The devices are kept in
    `state` (None: in memory only), so that one that does not come back from a reboot is missed.
    """

    name = "infiniband"

    def __init__(
        self,
        origin: Origin,
        catalog: Catalog,
        settings: InfiniBandSettings,
        state: Path | None = None,
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.doing = "nothing yet"
        self._origin = origin
        self._catalog = catalog
        self._settings = settings
        self._wall_ms = wall_ms
        self._clock = clock
        self._state = state
        self._kept = _known(state)
        self._watch = PortWatch(settings.down_s, settings.slow_s, self._kept)
        self._unreadable: set[str] = set()
        """What could not be read at the last read."""
        self._told: set[str] = set()

    def read(self, now_ms: int) -> Iterable[Record]:
        """One sample of all ports, and what changed for the worse or the better."""
        ports: list[Port] = []
        problems = list(read_class(self._settings.tree, ports, doing=self._at, virtual=False))
        self.doing = "judging the ports"
        readings = list(judge(ports, self._origin.node))
        given: list[Record] = [self._event(found, now_ms) for found in self._watch.update(readings, self._clock())]
        given += self._cannot_read(problems, now_ms)
        self._keep()
        if readings:
            given.append(self._sample(ports, readings, now_ms))
        self.doing = "nothing"
        return given

    def _at(self, what: str) -> None:
        self.doing = f"reading {what}"

    def _keep(self) -> None:
        """Write down which devices there are, when that has changed."""
        known = self._watch.known
        if self._state is None or {_who(one) for one in known} == {_who(one) for one in self._kept}:
            return
        self._kept = known
        try:
            temporary = self._state.with_suffix(".new")
            temporary.write_bytes(msgspec.json.encode(known))
            temporary.replace(self._state)
        except OSError as error:
            log.warning("the list of known InfiniBand devices cannot be kept", path=str(self._state), error=str(error))

    def _cannot_read(self, problems: Sequence[Unreadable], now_ms: int) -> list[HardwareEvent]:
        """One event for all that cannot be read for the second time in a row: files vanish while a device does."""
        now = {problem.place: problem for problem in problems}
        new = [problem for place, problem in now.items() if place in self._unreadable and place not in self._told]
        self._told = (self._told & now.keys()) | {problem.place for problem in new}
        self._unreadable = set(now)
        if not new:
            return []
        more = f"; and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
        text = "; ".join(map(str, new[:_NAMED])) + more
        details = {"files": str(len(new))}
        if any("permission" in problem.reason for problem in new):
            details["remedy"] = "let the agent's user read these files: sysfs shows them to everybody by default"
        return [
            self._origin.event(
                self._catalog,
                "metric_unreadable",
                source=self.name,
                event_ms=now_ms,
                observed_ms=self._wall_ms(),
                details=details,
                raw=f"InfiniBand: {text}",
            )
        ]

    def _event(self, found: Finding, now_ms: int) -> HardwareEvent:
        reading = found.reading
        about = {
            "component": reading.component,
            "interface": reading.device,
            "port": str(reading.port),
            "card": reading.card,
            "guid": reading.guid,
        }
        return self._origin.event(
            self._catalog,
            found.kind,
            source=self.name,
            event_ms=now_ms,
            observed_ms=self._wall_ms(),
            pci=normal_pci(reading.pci) if reading.pci else None,
            details={key: value for key, value in about.items() if value} | found.details,
            raw=found.text,
            count=found.times,
        )

    def _sample(self, ports: Sequence[Port], readings: Sequence[PortReading], now_ms: int) -> NodeSample:
        return NodeSample(
            **self._origin.envelope(
                tick_ms=now_ms, observed_ms=self._wall_ms(), interval_ms=self._settings.interval_ms
            ),
            source=self.name,
            ports=[_record(port, reading) for port, reading in zip(ports, readings, strict=True)],
        )


def _who(reading: PortReading) -> tuple[str | None, str]:
    return reading.guid, reading.device


def _known(state: Path | None) -> list[PortReading]:
    try:
        return msgspec.json.decode(state.read_bytes(), type=list[PortReading]) if state and state.exists() else []
    except (msgspec.DecodeError, OSError) as error:
        log.warning("the list of known InfiniBand devices begins anew", path=str(state), error=str(error))
        return []


def _record(port: Port, reading: PortReading) -> records.Port:
    known = table().counter
    return records.Port(
        device=reading.device,
        port=reading.port,
        link_layer=reading.link_layer.lower() if reading.link_layer else None,
        state=reading.state,
        physical_state=reading.physical_state,
        rate_gbps=reading.rate_gbps,
        expected_gbps=reading.expected_gbps,
        rate_name=reading.rate_name,
        degraded=reading.degraded,
        reason=reading.reason,
        card=reading.card,
        guid=reading.guid,
        firmware=reading.firmware,
        counters={
            name: value
            for name, value in port.counters.items()
            if value is not None and not (name in known and known[name].kind == "setting")
        },
    )
