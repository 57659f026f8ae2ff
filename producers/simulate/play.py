"""Playing a simulated fleet into Kafka: inventory first, then every tick, in real time or faster; and its truth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from producers import metrics
from producers.inventory.compare import key_of
from producers.publisher import Publisher
from producers.settings import SimulateSettings
from producers.simulate.fleet import SimulatedFleet, Step
from producers.simulate.plan import KernelLine, Report
from producers.simulate.topology import Node
from producers.simulate.truth import Truth
from schemas.records import Record
from schemas.topics import COUNTERS, EVENTS, INVENTORY, NODE_SAMPLES, SAMPLES

log = structlog.get_logger()

_INVENTORY_LEAD_S = 2.0
"""The inventory is sent so long before the first tick, as on a real fleet, where it is long known."""
_FULL_WAIT_S = 0.05
_TRUTH_EVERY_TICKS = 600
"""How often the truth is written where the fleet's time runs freely."""


class Player:
    """Sends steps of a fleet as its agents would: samples at their tick, events when they happen."""

    def __init__(self, fleet: SimulatedFleet, publisher: Publisher, wait: Callable[[], bool]) -> None:
        self._fleet = fleet
        self._publisher = publisher
        self._wait = wait
        """Called while memory is full; False gives up."""

    def send_inventory(self) -> None:
        """Where everything is."""
        for record in self._fleet.inventory():
            self._publish(INVENTORY, key_of(record), record)

    def send_samples(self, step: Step, observed_ms: int) -> None:
        """All nodes' samples of a tick, the slower ones when they are due, and which jobs have moved."""
        sent = 0
        for node, message in self._fleet.encoded(step, observed_ms):
            if not self._send(SAMPLES, node, message):
                return
            sent += len(node.gpus)
        metrics.SIMULATED_SAMPLES.inc(sent)
        for node, message in self._fleet.encoded_counters(step, observed_ms):
            if not self._send(COUNTERS, node, message):
                return
        for host in step.hosts():
            self._publish(NODE_SAMPLES, host.rack, host)
        for record in step.placements():
            self._publish(INVENTORY, key_of(record), record)

    def send_line(self, line: KernelLine, step: Step, observed_ms: int | None) -> None:
        """A kernel line, decoded; `observed_ms` is now, or None where the fleet's time is not the clock's."""
        for event in self._fleet.hear(line, step, observed_ms):
            self._publish(EVENTS, event.rack, event)

    def send_report(self, report: Report, step: Step, observed_ms: int | None) -> None:
        """What another source said."""
        event = self._fleet.report(report, step, observed_ms)
        self._publish(EVENTS, event.rack, event)

    def _send(self, topic: str, node: Node, message: bytes) -> bool:
        while not self._publisher.send(topic, node.rack.encode(), message):
            if not self._wait():
                return False
        return True

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

    player = Player(fleet, publisher, wait)
    player.send_inventory()
    publisher.poll()
    gpus = sum(len(node.gpus) for node in fleet.nodes)
    log.info("simulated fleet is up", nodes=len(fleet.nodes), gpus=gpus, seed=settings.seed)
    began_ms = start_ms if settings.speed == 1 else _now_ms()
    truth_written: list[Truth] = []
    tick = 0
    while not stop.is_set() and (steps is None or tick < steps):
        step = fleet.step()
        due_ms = start_ms + tick * settings.interval_ms
        # what kernels said came between the ticks; with the clock it is sent when it is said
        for line in step.lines:
            if settings.speed > 0 and not _wait(began_ms, line.at_s, settings.speed, stop, publisher, beat):
                break
            player.send_line(line, step, _now_ms() if settings.speed == 1 else None)
        if settings.speed > 0:
            _wait(began_ms, (due_ms - start_ms) / 1000, settings.speed, stop, publisher, beat)
        for report in step.reports:
            player.send_report(report, step, _now_ms() if settings.speed == 1 else None)
        player.send_samples(step, _now_ms() if settings.speed == 1 else due_ms)
        publisher.poll()
        beat()
        if settings.truth_path and (settings.speed > 0 or tick % _TRUTH_EVERY_TICKS == 0):
            truth = fleet.truth()
            if truth != truth_written:
                write_truth(settings.truth_path, truth)
                truth_written = truth
        tick += 1
    if settings.truth_path:
        write_truth(settings.truth_path, fleet.truth())
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


def write_truth(path: Path, truth: Sequence[Truth]) -> None:
    """All of it, in one step, so that a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in truth))
    part.replace(path)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
