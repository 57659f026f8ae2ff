"""Playing a simulated fleet into Kafka: inventory first, then every tick, in real time or faster; and its truth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import structlog

from producers import metrics
from producers.kernel_log.decode import Decoder
from producers.kernel_log.record import SOURCE, hardware_event
from producers.publisher import Publisher
from producers.settings import SimulateSettings
from producers.simulate.fleet import SimulatedFleet, Step
from producers.simulate.script import KernelLine, Report
from producers.simulate.topology import Node
from producers.source import Origin
from schemas.catalog import Catalog, load
from schemas.ids import stable_id
from schemas.records import HardwareEvent, Record
from schemas.topics import EVENTS, INVENTORY, SAMPLES

log = structlog.get_logger()

_INVENTORY_LEAD_S = 2.0
"""The inventory is sent so long before the first tick, as on a real fleet, where it is long known."""
_FULL_WAIT_S = 0.05


class _Agent:
    """What stands for the agent of one simulated node: the decoder that reads real kernel logs, and its numbers."""

    def __init__(self, site: str, node: Node, catalog: Catalog) -> None:
        self._origin = Origin(site, node.rack, node.name, node.boot_id)
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
                event_id=stable_id(self._origin.node, self._origin.boot_id, SOURCE, self._lines, ordinal),
                origin=self._origin,
                catalog=self._catalog,
                observed_ms=observed_ms,
                sequence=next(self._sequence),
            )

    def report(self, report: Report, tick_ms: int, observed_ms: int) -> HardwareEvent:
        """What NVML said, as an event."""
        event = self._origin.event(
            self._catalog,
            report.kind,
            source="nvml",
            event_ms=tick_ms,
            observed_ms=observed_ms,
            gpu=report.gpu.serial,
            pci=report.gpu.pci,
            raw=report.text,
        )
        return msgspec.structs.replace(event, sequence=next(self._sequence))


class Player:
    """Sends steps of a fleet as its agents would: samples at their tick, events when they happen."""

    def __init__(
        self, fleet: SimulatedFleet, site: str, start_ms: int, publisher: Publisher, wait: Callable[[], bool]
    ) -> None:
        self._fleet = fleet
        self._start_ms = start_ms
        self._publisher = publisher
        self._wait = wait
        """Called while memory is full; False gives up."""
        catalog = load()
        self._agents = {node.name: _Agent(site, node, catalog) for node in fleet.nodes}

    def send_inventory(self) -> None:
        """Where everything is."""
        for record in self._fleet.inventory():
            self._publish(INVENTORY, record.component, record)

    def send_samples(self, step: Step, observed_ms: int) -> None:
        """All nodes' samples of a tick, and what their NVML reports."""
        sent = 0
        for node, message in self._fleet.encoded(step, observed_ms):
            while not self._publisher.send(SAMPLES, node.rack.encode(), message):
                if not self._wait():
                    return
            sent += len(node.gpus)
        metrics.SIMULATED_SAMPLES.inc(sent)
        for report in step.reports:
            event = self._agents[report.node.name].report(report, step.tick_ms, observed_ms)
            self._publish(EVENTS, event.rack, event)

    def send_line(self, line: KernelLine, observed_ms: int | None) -> None:
        """A kernel line, decoded; `observed_ms` is now, or None where the fleet's time is not the clock's."""
        at_ms = self._start_ms + round(line.at_s * 1000)
        for event in self._agents[line.node.name].hear(at_ms, line.text, observed_ms or at_ms):
            self._publish(EVENTS, event.rack, event)

    def _publish(self, topic: str, key: str, record: Record) -> None:
        while not self._publisher.publish(topic, key, record):
            if not self._wait():
                return


def run(settings: SimulateSettings, *, kafka: dict[str, Any], stop: threading.Event, beat: Callable[[], None]) -> None:
    """The body of the simulator's process; returns when the script is through or `stop` is set.

    Raises `ValueError` where an injection names a node or GPU that the fleet does not have.
    """
    step_s = settings.interval_ms / 1000
    steps = round(settings.duration_s / step_s) if settings.duration_s else None
    start_ms = _start_ms(settings)
    fleet = SimulatedFleet(settings, start_ms)
    publisher = Publisher(kafka, settings.publish)

    def wait() -> bool:
        publisher.poll(_FULL_WAIT_S)
        beat()
        return not stop.is_set()

    player = Player(fleet, settings.site, start_ms, publisher, wait)
    player.send_inventory()
    publisher.poll()
    gpus = sum(len(node.gpus) for node in fleet.nodes)
    log.info("simulated fleet is up", nodes=len(fleet.nodes), gpus=gpus, seed=settings.seed)
    began_ms = start_ms if settings.speed == 1 else _now_ms()
    truth_written = tick = 0
    while not stop.is_set() and (steps is None or tick < steps):
        step = fleet.step()
        due_ms = start_ms + tick * settings.interval_ms
        # what kernels said came between the ticks; with the clock it is sent when it is said
        for line in step.lines:
            if settings.speed > 0 and not _wait(began_ms, line.at_s, settings.speed, stop, publisher, beat):
                break
            player.send_line(line, _now_ms() if settings.speed == 1 else None)
        if settings.speed > 0:
            _wait(began_ms, (due_ms - start_ms) / 1000, settings.speed, stop, publisher, beat)
        player.send_samples(step, _now_ms() if settings.speed == 1 else due_ms)
        publisher.poll()
        beat()
        truth = fleet.truth()
        if len(truth) != truth_written and settings.truth_path:
            _write_truth(settings.truth_path, truth)
            truth_written = len(truth)
        tick += 1
    if settings.truth_path:
        _write_truth(settings.truth_path, fleet.truth())
    publisher.close(settings.publish.flush_s, beat)
    for (topic, reason), lost in publisher.drops().items():
        log.error("records of the simulated fleet are lost", topic=topic, records=lost, reason=reason)
    log.info("simulated fleet has played", ticks=tick, faults=sum(one.role == "root" for one in fleet.truth()))


def _start_ms(settings: SimulateSettings) -> int:
    """The event time of the first tick, on the fleet's grid of ticks."""
    if settings.start_ms is not None:
        start_ms = settings.start_ms
    elif settings.speed == 1:
        start_ms = _now_ms() + round(_INVENTORY_LEAD_S * 1000)
    else:
        start_ms = _now_ms() - round((settings.duration_s or 0) * 1000)
    return -(-start_ms // settings.interval_ms) * settings.interval_ms


def _wait(
    began_ms: int, at_s: float, speed: float, stop: threading.Event, publisher: Publisher, beat: Callable[[], None]
) -> bool:
    """Until the fleet's time, which began at `began_ms` by the clock, is `at_s`; False where `stop` came first."""
    while (left_s := (began_ms + at_s * 1000 / speed - _now_ms()) / 1000) > 0:
        if stop.wait(min(left_s, 0.05)):
            return False
        publisher.poll()
        beat()
    return not stop.is_set()


def _write_truth(path: Path, truth: Sequence[msgspec.Struct]) -> None:
    """All of it, in one step, so that a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in truth))
    part.replace(path)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
