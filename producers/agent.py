"""The agent of a node: reads its sources on time, sends what they say, and says itself when one does not answer.

One loop, which owns the publisher; each source has a thread of its own (`source.Worker`), so that one that hangs or
fails holds up nobody. Ticks are multiples of the period on the wall clock, so the nodes of a fleet sample together.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from producers import metrics
from producers.node import Schedule, sources
from producers.nvml import Nvml
from producers.publisher import PRECIOUS_LAST, Publisher, Sequences
from producers.source import Inbox, Origin, Reading, Worker, boot_id
from producers.spool import MIB, Spool, SpoolError
from schemas.catalog import Catalog, load
from schemas.records import (
    FacilitySample,
    GpuCounters,
    GpuSample,
    HardwareEvent,
    InventoryRecord,
    NodeSample,
    Record,
)
from schemas.topics import COUNTERS, EVENTS, FACILITY, INVENTORY, NODE_SAMPLES, SAMPLES

if TYPE_CHECKING:
    from producers.settings import AgentSettings

log = structlog.get_logger()

_BEAT_S = 1.0
"""The loop comes round at least so often."""
_CATCH_UP_S = 0.02
"""The same while the spool is being sent: 2,000 records each time."""
_DROPS_EVERY_S = 10.0
"""Dropped records are summed up so long before they become an event."""
_HOLD_S = 30.0
"""A source that commits with its next read waits at most so long for what it gave to be safe."""
_LOOK_ANYHOW_MS = 5000
"""A source that is told when there is more is read so often all the same: nobody has promised to tell everything."""
_TOPIC_OF: Mapping[type[Record], str] = {
    GpuSample: SAMPLES,
    GpuCounters: COUNTERS,
    NodeSample: NODE_SAMPLES,
    FacilitySample: FACILITY,
    HardwareEvent: EVENTS,
}
"""What is numbered, and keyed by rack."""


class Agent:
    """The loop of `run`, with everything that it touches handed in. `step` is one round of it."""

    def __init__(
        self,
        origin: Origin,
        catalog: Catalog,
        schedules: Sequence[Schedule],
        publisher: Publisher,
        sequences: Sequences,
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origin = origin
        self._catalog = catalog
        self._publisher = publisher
        self._sequences = sequences
        self._wall_ms = wall_ms
        self._clock = clock
        self._inbox = Inbox()
        self._schedules = {schedule.source.name: schedule for schedule in schedules}
        self._workers = {name: Worker(s.source, self._inbox.put, clock) for name, s in self._schedules.items()}
        self._drops: Counter[tuple[str, str]] = Counter()
        self._drops_told = -_DROPS_EVERY_S

    def start(self) -> None:
        """Say that this node is watched from here on."""
        sources = ",".join(self._schedules)
        self._say("agent_started", f"watching {sources}", {"sources": sources})

    def step(self) -> None:
        """One round: order reads that are due, sleep until an answer, news or the next tick, send what came."""
        now_ms = self._wall_ms()
        wait_s = _CATCH_UP_S if self._publisher.catching_up else _BEAT_S
        ears: dict[int, Schedule] = {}
        for name, schedule in self._schedules.items():
            worker = self._workers[name]
            self._order(schedule, worker, now_ms)
            busy_s = worker.busy_s()
            self._watch(schedule, busy_s)
            ears |= dict.fromkeys(schedule.ears, schedule)
            wait_s = min(wait_s, self._sleep_s(schedule, busy_s, now_ms))
        for ear in self._inbox.wait(wait_s, ears.keys()):
            heard = ears[ear]
            heard.ears, heard.due_ms = (), heard.ordered_ms + heard.period_ms
        for reading in self._inbox.take():
            self._take(reading)
        self._publisher.poll()
        self._report_drops()

    def stop(self, flush_s: float, beat: Callable[[], None]) -> None:
        """Say so, take in what is under way, and send or spool what is left."""
        ended = {name for name, worker in self._workers.items() if worker.close(0.5)}
        for reading in self._inbox.take():
            self._take(reading)
        self._report_drops(at_once=True)
        self._say("agent_stopped", "the agent was stopped")
        left = self._publisher.close(flush_s, beat)
        if left:
            log.warning("kafka did not take everything in time: the rest waits in the spool", records=left)
        for name in ended:  # whose thread still reads must not lose what it reads with
            if close := getattr(self._schedules[name].source, "close", None):
                close()  # the kernel log commits, now that all it gave is safe

    def send(self, record: Record) -> None:
        """Number a record and publish it where it belongs."""
        if isinstance(record, InventoryRecord):
            self._publisher.publish(INVENTORY, record.component, record)
        elif isinstance(record, (GpuSample, GpuCounters, NodeSample, FacilitySample, HardwareEvent)):
            topic = _TOPIC_OF[type(record)]
            numbered = msgspec.structs.replace(record, sequence=self._sequences.take(topic))
            self._publisher.publish(topic, record.rack, numbered)
        else:
            raise TypeError(f"no source of a node gives a {type(record).__name__}")

    def _order(self, schedule: Schedule, worker: Worker, now_ms: int) -> None:
        if schedule.due_ms - now_ms > (_quiet_ms(schedule) if schedule.ears else schedule.period_ms):
            schedule.due_ms = 0  # the wall clock was set back
        if now_ms < schedule.due_ms or (schedule.commits and (schedule.ordered or self._hold(schedule))):
            return
        tick_ms = now_ms - now_ms % schedule.period_ms
        at_once = schedule.commits and not schedule.due_ms
        # one that failed is read until it does not: that is to be told
        if (schedule.due_ms or at_once) and (schedule.failing or schedule.needed(tick_ms)):
            schedule.ordered, schedule.ordered_ms, schedule.ears = True, tick_ms, ()
            if not worker.order(tick_ms):
                metrics.SKIPPED_TICKS.labels(schedule.source.name).inc()
        schedule.due_ms = tick_ms + schedule.period_ms

    def _hold(self, schedule: Schedule) -> bool:
        if not (schedule.gave and self._publisher.unsafe(EVENTS)):
            schedule.held_since = None
            return False
        schedule.held_since = self._clock() if schedule.held_since is None else schedule.held_since
        return self._clock() - schedule.held_since < _HOLD_S

    def _watch(self, schedule: Schedule, busy_s: float) -> None:
        over_s = busy_s - schedule.deadline_s
        if over_s <= 0:
            return
        metrics.HANGING.labels(schedule.source.name).set(over_s)
        if not schedule.overdue:
            schedule.overdue = True
            doing = schedule.source.doing
            self._say(
                "source_failed",
                f"{schedule.source.name} hangs for {busy_s:.1f} s: {doing}",
                {"source": schedule.source.name, "hangs_s": f"{busy_s:.1f}", "doing": doing},
            )

    def _take(self, reading: Reading) -> None:
        schedule = self._schedules[reading.source]
        metrics.READ_SECONDS.labels(reading.source).observe(reading.took_s)
        was_failing, was_overdue = schedule.failing, schedule.overdue
        schedule.failing, schedule.overdue = reading.error is not None, False
        schedule.ordered, schedule.gave = False, bool(reading.records)
        if was_overdue:
            metrics.HANGING.labels(reading.source).set(0.0)
        if reading.error is not None:
            metrics.FAILED_READS.labels(reading.source).inc()
            if not was_failing:
                why = f"{type(reading.error).__name__}: {reading.error}"
                log.error("a source failed", source=reading.source, exc_info=reading.error)
                self._say("source_failed", f"{reading.source}: {why}", {"source": reading.source, "error": why})
        elif was_failing or was_overdue:
            text = f"{reading.source} can be read again, after a read of {reading.took_s:.1f} s"
            self._say("source_recovered", text, {"source": reading.source, "took_s": f"{reading.took_s:.1f}"})
        if schedule.listen is not None and reading.error is None and not reading.records:
            schedule.ears = schedule.listen()
            if schedule.ears:
                schedule.due_ms = schedule.ordered_ms + _quiet_ms(schedule)
        for record in reading.records:
            # values of a read that hung are of no known moment; what happened, happened
            if not was_overdue or isinstance(record, (HardwareEvent, InventoryRecord)):
                self.send(record)

    def _sleep_s(self, schedule: Schedule, busy_s: float, now_ms: int) -> float:
        """For how long this source can do without the loop."""
        if schedule.held_since is not None:
            return _CATCH_UP_S
        soon = (schedule.due_ms - now_ms) / 1000
        if busy_s and not schedule.overdue:
            soon = min(soon, schedule.deadline_s - busy_s)
        return max(0.001, soon)

    def _report_drops(self, *, at_once: bool = False) -> None:
        self._drops.update(self._publisher.drops())
        if not self._drops or not (at_once or self._clock() - self._drops_told >= _DROPS_EVERY_S):
            return
        self._drops_told = self._clock()
        for (topic, reason), count in self._drops.items():
            text = f"{count} records of {topic} are lost: {reason}"
            self._say("records_dropped", text, {"topic": topic, "reason": reason}, count=count)
        self._drops.clear()

    def _say(self, kind: str, text: str, details: Mapping[str, str] | None = None, *, count: int = 1) -> None:
        now_ms = self._wall_ms()
        self.send(
            self._origin.event(
                self._catalog,
                kind,
                source="agent",
                event_ms=now_ms,
                observed_ms=now_ms,
                details=details,
                raw=text,
                count=count,
            )
        )


def _quiet_ms(schedule: Schedule) -> int:
    """How long a source that is told when there is more is left alone."""
    return max(schedule.period_ms, _LOOK_ANYHOW_MS)


def run(
    settings: AgentSettings,
    *,
    kafka: dict[str, Any],
    stop: threading.Event,
    beat: Callable[[], None],
    nvml: Nvml | None = None,
) -> None:
    """Watch this node until `stop` is set; `beat` is called at least each second.

    Raises `SpoolError` where `state_dir` cannot be used, `schemas.catalog.CatalogError` for a catalogue file that is
    wrong. All else is reported and lived with.
    """
    catalog = load(settings.catalog)
    origin = Origin(settings.site, settings.rack, settings.node, boot_id())
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpoolError(
            f"the agent cannot keep its state in {settings.state_dir}: {error.strerror}; set agent.state_dir"
        ) from error
    spool = Spool(settings.state_dir / "spool", settings.publish.spool_mib * MIB, PRECIOUS_LAST)
    sequences = Sequences(origin.boot_id, path=settings.state_dir / "sequence")
    publisher = Publisher(kafka, settings.publish, spool=spool)
    agent = Agent(origin, catalog, sources(settings, origin, catalog, nvml), publisher, sequences)
    log.info("agent started", node=origin.node, rack=origin.rack, site=origin.site, spooled=len(spool))
    try:
        agent.start()
        while not stop.is_set():
            agent.step()
            beat()
        agent.stop(settings.publish.flush_s, beat)
    finally:
        sequences.close()
        spool.close()
