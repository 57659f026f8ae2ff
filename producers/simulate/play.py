"""Playing a simulated fleet into Kafka: inventory first, then every tick, in real time or faster; and its truth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from producers.kernel_log.decode import Decoder
from producers.publisher import Publisher
from producers.settings import SimulateSettings
from producers.simulate.fleet import SimulatedFleet, Step
from producers.simulate.script import KernelLine
from producers.simulate.topology import Node
from schemas.catalog import Catalog, load
from schemas.ids import stable_id
from schemas.records import HardwareEvent
from schemas.topics import EVENTS, INVENTORY, SAMPLES

log = structlog.get_logger()

_INVENTORY_LEAD_S = 2.0
"""The inventory is sent so long before the first tick, as on a real fleet, where it is long known."""
_FULL_WAIT_S = 0.05


class _Kernel:
    """The kernel log of one simulated node, read by the decoder that reads real ones."""

    def __init__(self, site: str, node: Node, catalog: Catalog) -> None:
        self._site, self._node, self._catalog = site, node, catalog
        self._decoder = Decoder()
        for gpu in node.gpus:
            self._decoder.gpus.tell(gpu.pci, gpu.serial)
        self._sequence = 0
        self._lines = 0

    def say(self, at_ms: int, text: str, observed_ms: int) -> Iterator[HardwareEvent]:
        """One line, and the events that it leads to."""
        stamp = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="microseconds")
        self._lines += 1
        for found in self._decoder.feed(self._lines, f"{stamp.replace('.', ',')} {text}"):
            entry = self._catalog.entry(found.kind, found.code, found.details.get("variant"))
            yield HardwareEvent(
                event_id=stable_id(self._node.name, self._node.boot_id, "kernel_log", self._sequence),
                site=self._site,
                rack=self._node.rack,
                node=self._node.name,
                boot_id=self._node.boot_id,
                sequence=self._sequence,
                event_ms=found.event_ms if found.event_ms is not None else at_ms,
                observed_ms=observed_ms,
                source="kernel_log",
                kind=found.kind,
                code=found.code,
                gpu=found.gpu,
                pci=found.pci,
                link=found.link,
                severity=entry.severity,
                action=entry.action,
                details=found.details,
                raw=found.raw,
            )
            self._sequence += 1


class Player:
    """Sends steps of a fleet as its nodes would: samples with a little jitter, kernel lines when they are said."""

    def __init__(self, fleet: SimulatedFleet, settings: SimulateSettings, publisher: Publisher, start_ms: int) -> None:
        self._settings = settings
        self._publisher = publisher
        self._start_ms = start_ms
        catalog = load()
        self._kernels = {node.name: _Kernel(settings.site, node, catalog) for node in fleet.nodes}

    def send_samples(self, step: Step, observed_ms: int) -> None:
        """All nodes' samples of a tick."""
        for sample in step.samples:
            sent = msgspec.structs.replace(sample, observed_ms=observed_ms)
            self._send(SAMPLES, sample.rack, sent)

    def send_lines(self, lines: Sequence[KernelLine], observed_ms: int | None) -> None:
        """Kernel lines, decoded; `observed_ms` is now, or None where the fleet's time is not the clock's."""
        for line in lines:
            at_ms = self._start_ms + round(line.at_s * 1000)
            for event in self._kernels[line.node.name].say(at_ms, line.text, observed_ms or at_ms):
                self._send(EVENTS, event.rack, event)

    def _send(self, topic: str, key: str, record: Any) -> None:
        while not self._publisher.publish(topic, key, record):
            self._publisher.poll(_FULL_WAIT_S)


def run(settings: SimulateSettings, *, kafka: dict[str, Any], stop: threading.Event, beat: Callable[[], None]) -> None:
    """The body of the simulator's process; returns when the script is through or `stop` is set.

    Raises `ValueError` where an injection names a node or GPU that the fleet does not have.
    """
    step_s = settings.interval_ms / 1000
    steps = round(settings.duration_s / step_s) if settings.duration_s else None
    start_ms = _start_ms(settings)
    fleet = SimulatedFleet(settings, start_ms)
    publisher = Publisher(kafka, settings.publish)
    player = Player(fleet, settings, publisher, start_ms)
    for record in fleet.inventory():
        publisher.publish(INVENTORY, record.component, record)
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
            player.send_lines([line], _now_ms() if settings.speed == 1 else None)
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
    left = publisher.close(settings.publish.flush_s, beat)
    if left:
        log.warning("the simulator ends with records that Kafka has not taken", records=left)
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
