"""What stands for the agents of simulated nodes: the decoder that reads real kernel logs, and the numbers of events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import count

import msgspec

from producers.kernel_log.decode import Decoder
from producers.kernel_log.record import SOURCE, hardware_event
from producers.simulate.plan import KernelLine, Report
from producers.simulate.topology import Node
from producers.source import Origin
from schemas.catalog import Catalog, load
from schemas.ids import stable_id
from schemas.records import HardwareEvent


class _Agent:
    """The agent of one node since its boot."""

    def __init__(self, site: str, node: Node, boot_id: str, catalog: Catalog) -> None:
        self.origin = Origin(site, node.rack, node.name, boot_id)
        self._catalog = catalog
        self._decoder = Decoder()
        for gpu in node.gpus:
            self._decoder.gpus.tell(gpu.pci, gpu.serial)
        self._lines = 0
        self._sequence = count()

    def hear(self, at_ms: int, text: str, observed_ms: int) -> Iterator[HardwareEvent]:
        """A kernel line, and the events that it leads to."""
        stamp = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="microseconds")
        self._lines += 1
        raw = f"{stamp.replace('.', ',')} {text}"
        for ordinal, found in enumerate(self._decoder.feed(self._lines, raw)):
            yield hardware_event(
                found,
                event_id=stable_id(self.origin.node, self.origin.boot_id, SOURCE, self._lines, ordinal),
                origin=self.origin,
                catalog=self._catalog,
                observed_ms=observed_ms,
                sequence=next(self._sequence),
            )

    def report(self, report: Report, at_ms: int, observed_ms: int) -> HardwareEvent:
        """What another source said, as an event."""
        event = self.origin.event(
            self._catalog,
            report.kind,
            source=report.source,
            event_ms=at_ms,
            observed_ms=observed_ms,
            gpu=report.gpu.serial if report.gpu else None,
            pci=report.gpu.pci if report.gpu else None,
            details=dict(report.details),
            raw=report.text,
        )
        return msgspec.structs.replace(event, sequence=next(self._sequence))


class Agents:
    """The agents of all nodes: kernel lines and reports become events, through the real decoder."""

    def __init__(self, site: str, start_ms: int) -> None:
        self._site = site
        self._start_ms = start_ms
        self._catalog = load()
        self._agents: dict[tuple[str, str], _Agent] = {}

    def of_line(self, line: KernelLine, boots: Sequence[str], skew_ms: int, observed_ms: int | None) -> Iterator[
        HardwareEvent
    ]:  # fmt: skip
        """The events of a kernel line; `observed_ms` is now, or None where the fleet's time is not the clock's."""
        at_ms = self._start_ms + round(line.at_s * 1000) + skew_ms
        yield from self._agent(line.node, boots).hear(at_ms, line.text, observed_ms or at_ms)

    def of_report(
        self, report: Report, boots: Sequence[str], skew_ms: int, tick_ms: int, observed_ms: int | None
    ) -> HardwareEvent:
        """A report as an event: at its own moment, or at the tick."""
        at_ms = (tick_ms if report.at_s is None else self._start_ms + round(report.at_s * 1000)) + skew_ms
        return self._agent(report.node, boots).report(report, at_ms, observed_ms or at_ms)

    def _agent(self, node: Node, boots: Sequence[str]) -> _Agent:
        key = (node.name, boots[node.number])
        agent = self._agents.get(key)
        if agent is None:
            agent = self._agents[key] = _Agent(self._site, node, key[1], self._catalog)
        return agent
