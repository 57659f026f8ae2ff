"""The lives of faults.

A fault opens with the first evidence that the catalogue does not call informational, gathers what follows, and ends
the way its class says, or with an operator's word. Every change that an operator would want to see is one `Fault`
record with the next revision; mere repeats raise the count and are written now and then. The clock comes in as an
argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from msgspec.structs import replace

from schemas.catalog import SEVERITIES, Catalog, ClearsOn
from schemas.catalog.causes import Causes
from schemas.ids import gpu_id
from schemas.records import Anomaly, Fault, HardwareEvent
from streams.faults import words
from streams.faults.evidence import added, component_of, of_anomaly, of_event, place_of, point_of
from streams.faults.held import OpenFault, key_of
from streams.faults.history import DAY_MS
from streams.faults.lives import Lives
from streams.faults.operators import Operators
from streams.faults.source import CLOCK, Source
from streams.faults.words import MAINTENANCE
from streams.topology import Topology

INFORMATIONAL, GPU_SILENT, NODE_SILENT, SOURCE_HEALTH = "informational", "gpu_silent", "node_silent", "source_health"
_STOPPED = "agent_stopped|"
_UNREADABLE = frozenset(f"source_failed|{source}" for source in ("nvml", "nvidia_smi", "dcgm_exporter"))
"""What an agent reports when it cannot read what samples are made of (`point_of`)."""
_EVERY_REPEAT_UNTIL = 16
_REPEAT_GROWTH = 1.25
_FLUSH_MS = 5000
"""Counts of a storm are written at the latest after so long."""
_SWEEP_MS = 3_600_000
"""How often what is too long ago to count is let go of."""
_CLEARING_KINDS: dict[str, ClearsOn] = {
    "gpu_found": "gpu_reports",
    "driver_recovered": "driver_recovered",
    "source_recovered": "source_recovered",
}
_NODE_WIDE: frozenset[ClearsOn] = frozenset({"driver_recovered", "source_recovered"})


class FaultBook:
    """The faults of one partition, by component and class.

    `on_event`, `on_anomaly`, `flush` and `end_quiet` give the records to write, in order; they never raise for what a
    record holds. What ends together is written in the order of its key: what came first is not known after a restart.
    `history_changes`, then `changes`, give what has to be kept to go on, in this order: a fault that is kept must not
    know more than its component's history. `restore_history`, `restore`, then `restored` take it back.
    """

    def __init__(self, catalog: Catalog, table: Causes, topology: Topology) -> None:
        self._catalog = catalog
        self._leading = table.leading_codes()
        self._topology = topology
        self._lives = Lives(catalog, topology)
        self._operators = Operators(catalog, self._lives)
        self._besides = frozenset(name for step in catalog.ladder.values() for name in step.beside)
        self._longest_ms = (1 + max(one.look_back_days for one in catalog.faults.values())) * DAY_MS
        self._swept_ms = -_SWEEP_MS
        self._shelf = self._lives.shelf

    def __len__(self) -> int:
        return len(self._shelf.open)

    def open_faults(self) -> Iterator[Fault]:
        """Every fault that is open, at its last revision that was written, or a little ahead of it."""
        return (found.shown() for found in self._shelf.open.values())

    def on_event(self, event: HardwareEvent, arrived_ms: int, offset: int | None = None) -> list[Fault]:
        """Fold a hardware event in; `arrived_ms` is when it reached Kafka, `offset` where it stands in its topic."""
        source = Source(is_event=True, offset=offset)
        if words.is_word(event):
            return list(self._operators.on_word(event, arrived_ms, source))
        written = list(self._ends_by(event, arrived_ms, source))
        entry = self._catalog.of(event)
        if entry.fault_class in {INFORMATIONAL, MAINTENANCE}:  # who announces work is an operator
            return written
        seed = of_event(event, entry, self._catalog, self._topology)
        known = self._shelf.known(key_of(seed.component, seed.fault_class))
        is_repeat = known is not None and event.event_id in known.remembered and not known.has_taken(source)
        written += self._fold(seed, arrived_ms, source, boot_id=event.boot_id, point=point_of(event))
        if seed.fault_class in self._besides and not is_repeat:
            written += self._climb_beside(seed, arrived_ms, source)
        return written

    def on_anomaly(self, anomaly: Anomaly, arrived_ms: int, offset: int | None = None) -> list[Fault]:
        """Fold a detector's finding in: raised ones open or feed a fault, cleared ones may end it."""
        source = Source(is_event=False, offset=offset)
        if anomaly.state == "cleared":
            return list(self._anomaly_cleared(anomaly, arrived_ms, source))
        seed = of_anomaly(anomaly, self._catalog, self._topology)
        if anomaly.fault_class in {NODE_SILENT, GPU_SILENT} and self._lives.removed_ms(seed) is not None:
            return []  # nobody expects it to report
        if anomaly.fault_class == NODE_SILENT:
            seed = self._explained_silence(seed, anomaly)
        return self._fold(seed, arrived_ms, source, standing=anomaly.anomaly_id)

    def _explained_silence(self, seed: Fault, anomaly: Anomaly) -> Fault:
        """The silence of a node as a part of what its agent has said of it: somebody knows why nothing comes."""
        found = self._shelf.open.get(key_of(anomaly.component, SOURCE_HEALTH))
        if found is None:
            return seed
        if _STOPPED in found.points:
            told, severity = "its agent was stopped on purpose", "info"
        elif not _UNREADABLE.isdisjoint(found.points) and found.fault.last_ms >= anomaly.begin_ms:
            # said after the last reading: whoever says so is alive
            told, severity = "its agent is there but cannot read its GPUs", "warning"
        else:
            return seed
        reason = f"{told}, and {anomaly.reason}"
        return replace(seed, fault_class=SOURCE_HEALTH, severity=severity, action="none", reason=reason)

    def flush(self, now_ms: int) -> list[Fault]:
        """Write the counts that are behind for long enough."""
        behind = [
            key
            for key, found in self._shelf.open.items()
            if found.fault.count > found.written_count and now_ms - found.written_ms >= _FLUSH_MS
        ]
        return [self._lives.write(key, now_ms) for key in sorted(behind)]

    def end_quiet(self, now_ms: int) -> list[Fault]:
        """Let time go on: end what has been quiet for long, or is no longer there; what was held back speaks."""
        due = [
            (key, over)
            for key, found in self._shelf.open.items()
            if (over := self._lives.over_by_itself(found, now_ms)) is not None or _speaks(found, now_ms)
        ]
        written = [
            self._lives.speak(key, now_ms)
            if over is None
            else self._lives.end(key, over.at_ms, now_ms, CLOCK, because=over.because)
            for key, over in sorted(due, key=lambda one: one[0])
        ]
        self._shelf.forget(now_ms)
        if now_ms - self._swept_ms >= _SWEEP_MS:
            self._swept_ms = now_ms
            self._shelf.forget_history(now_ms - self._longest_ms)
        return written

    def history_changes(self) -> dict[str, bytes | None]:
        """The histories that have changed since the last call, by component; None where one counts no more."""
        return self._shelf.history_changes()

    def changes(self) -> dict[str, bytes | None]:
        """The faults that have changed since the last call, by key; None where one is over and forgotten."""
        return self._shelf.changes()

    def restore_history(self, component: str, state: bytes) -> None:
        """Take back one history. Raises `msgspec.DecodeError` where the bytes are not ours."""
        self._shelf.restore_history(component, state)

    def restore(self, key: str, state: bytes) -> None:
        """Take back one fault. Raises as `restore_history` does."""
        self._shelf.restore(key, state)

    def restored(self, events_end: int, anomalies_end: int) -> None:
        """All is taken back. The ends are the offsets behind the last record of each topic."""
        self._shelf.restored(events_end, anomalies_end)

    def _fold(
        self,
        seed: Fault,
        arrived_ms: int,
        source: Source,
        *,
        boot_id: str | None = None,
        standing: str | None = None,
        point: str | None = None,
    ) -> list[Fault]:
        key = key_of(seed.component, seed.fault_class)
        evidence = seed.evidence[0]
        earlier = self._shelf.known(key)
        if earlier is not None and (evidence.id in earlier.remembered or earlier.has_taken(source)):
            return []
        ended = list(self._end_before(key, seed, arrived_ms, source))
        found = self._shelf.open.get(key) or self._lives.begin(key, seed, source)
        before, gist = found.fault, _gist(found.shown())
        is_new = before.revision == 0
        came_back = self._note_repairs(found, seed, boot_id, source)
        self._lives.take(found, source, evidence.id, arrived_ms)
        found.fault = added(before, seed, self._leading.get(seed.fault_class, frozenset()))
        found.boot_id = boot_id or found.boot_id
        found.settled_ms = None
        if standing:
            found.standing.append(standing)
        if point and point not in found.points:
            found.points.append(point)  # all of them: the fault stands until the last is over
        self._shelf.touch(key)
        worse = SEVERITIES.index(found.fault.severity) > SEVERITIES.index(before.severity)
        if is_new or (worse and (found.work is None or found.work.over)):
            found.work = self._lives.work_on(
                found, seed.first_ms, source, explained=is_new and self._lives.is_explained(found)
            )
        if is_new or came_back or found.fault.rule != before.rule:
            found.climbed = self._lives.climb(found, source)
        if is_new:
            self._lives.note(found, source)
        count = found.fault.count
        worth_writing = (
            is_new
            or gist != _gist(found.shown())
            or count <= _EVERY_REPEAT_UNTIL
            or count >= ceil(found.written_count * _REPEAT_GROWTH)
        )
        return [*ended, self._lives.write(key, arrived_ms)] if worth_writing else ended

    def _end_before(self, key: str, seed: Fault, arrived_ms: int, source: Source) -> Iterator[Fault]:
        """End a fault that had been quiet for long enough when this evidence of another life came to be.

        Days of a log may come at once: a node that was cut off, a worker that was away, a replay. Lives are told apart
        as if each had come in its time. (A clock that is ahead tells nothing of a quiet.)
        """
        found = self._shelf.open.get(key)
        over_ms = self._lives.quiet_over_ms(found) if found is not None else None
        if over_ms is not None and over_ms <= seed.first_ms <= arrived_ms:
            yield self._lives.end(key, over_ms, arrived_ms, source)

    def _note_repairs(self, found: OpenFault, seed: Fault, boot_id: str | None, source: Source) -> bool:
        """Enter what was done to the component since the same was last seen on it. Says whether that is news."""
        history = self._shelf.history(seed.component)
        if found.fault.revision:
            began_ms, seen_ms = found.fault.first_ms, found.fault.last_ms
            node, before = found.fault.node, found.boot_id
        elif lives := history.earlier(seed.fault_class, found.fault.fault_id, source):
            last = lives[-1]
            began_ms, seen_ms = last.first_ms, last.last_ms if last.ended_ms is None else last.ended_ms
            node, before = last.node, last.boot_id
        else:
            return False
        at_ms, known = seed.last_ms, dict(found.repairs)
        if boot_id and before and boot_id != before and node == seed.node:
            found.repairs["reboot"] = min(max(0, at_ms - seen_ms), known.get("reboot", at_ms))
        for reset_ms in history.resets_between(began_ms, at_ms, source):
            found.repairs["reset"] = min(at_ms - reset_ms, found.repairs.get("reset", at_ms))
        return found.repairs != known

    def _climb_beside(self, seed: Fault, arrived_ms: int, source: Source) -> Iterator[Fault]:
        """What another fault on its component changes for those that are there already."""
        for key, found in self._shelf.at(seed.component):
            if found.fault.fault_class == seed.fault_class or found.has_taken(source):
                continue
            climbed = self._lives.climb(found, source)
            if climbed != found.climbed:
                found.climbed = climbed
                found.take(source)
                yield self._lives.write(key, arrived_ms)

    def _anomaly_cleared(self, anomaly: Anomaly, arrived_ms: int, source: Source) -> Iterator[Fault]:
        key = key_of(anomaly.component, anomaly.fault_class)
        told = key_of(anomaly.component, SOURCE_HEALTH)
        if (known_why := self._shelf.open.get(told)) is not None and anomaly.anomaly_id in known_why.standing:
            key = told
        found, known = self._shelf.open.get(key), self._shelf.known(key)
        stood = found is not None and anomaly.anomaly_id in found.standing
        # what is known and no longer stands was cleared before, and is delivered again
        is_news = stood or known is None or anomaly.anomaly_id not in known.remembered
        if found is not None and stood and not found.has_taken(source):
            found.standing.remove(anomaly.anomaly_id)
            found.arrived_ms = max(found.arrived_ms, arrived_ms)
            found.take(source)
            self._shelf.touch(key)
            if not found.standing and (
                self._lives.clears_on(found, "anomaly_cleared") or (key == told and not found.points)
            ):
                yield from self._lives.told_over(key, anomaly.tick_ms, arrived_ms, source)
        if anomaly.rule == GPU_SILENT and is_news:
            for other, fault in self._shelf.at(anomaly.component):
                if self._lives.clears_on(fault, "gpu_reports") and not fault.standing and not fault.has_taken(source):
                    fault.take(source)
                    yield from self._lives.told_over(other, anomaly.tick_ms, arrived_ms, source)

    def _ends_by(self, event: HardwareEvent, arrived_ms: int, source: Source) -> Iterator[Fault]:
        """Faults that an event ends: a new boot of their node, a recovery of just what was wrong."""
        yield from self._told_over(event, arrived_ms, source)
        gpu = event.gpu or self._topology.gpu_at(event.node, event.pci)
        component = gpu_id(gpu, event.node, event.pci)
        if _tells_reset(event) and self._shelf.history(component).lives:
            self._shelf.noted(component).reset(event.event_ms, source)
        trigger = _CLEARING_KINDS.get(event.kind)
        if event.kind == "xid" and event.code == 154 and event.details.get("variant") == "none":
            trigger = "recovery_action_none"
        if trigger is None and event.kind != "agent_started":
            return
        for key, found in sorted(self._shelf.open.items()):
            if found.fault.node != event.node or found.has_taken(source):
                continue
            # what a detector holds up ends when the detector says so; and what happened before a fault began is no
            # end of it, but a recovery that is delivered once more
            if found.standing or event.event_ms < found.fault.first_ms:
                continue
            rebooted = event.kind == "agent_started" and found.boot_id not in (None, event.boot_id)
            ours = trigger in _NODE_WIDE or found.fault.component == component
            if (trigger and ours and self._lives.clears_on(found, trigger)) or (
                rebooted and self._lives.clears_on(found, "new_boot")
            ):
                found.take(source)
                yield from self._lives.told_over(key, event.event_ms, arrived_ms, source)

    def _told_over(self, event: HardwareEvent, arrived_ms: int, source: Source) -> Iterator[Fault]:
        """Faults of which an event says that the last thing reported is over: a port that runs at full speed again."""
        ends = self._catalog.of(event).ends
        if not ends:
            return
        told = event.details.get("kind") or event.details.get("condition", "")
        over = {f"{told if kind == '*' else kind}|{place_of(event)}" for kind in ends}
        gpu = event.gpu or self._topology.gpu_at(event.node, event.pci)
        _, component = component_of("gpu" if event.gpu or event.pci else "node", event, gpu)
        for key, found in self._shelf.at(component):
            if found.has_taken(source) or over.isdisjoint(found.points) or event.event_ms < found.fault.first_ms:
                continue
            found.points = [one for one in found.points if one not in over]
            found.take(source)
            self._shelf.touch(key)
            if not found.points and not found.standing:
                yield from self._lives.told_over(key, event.event_ms, arrived_ms, source)


def _speaks(found: OpenFault, now_ms: int) -> bool:
    """Whether what kept a fault quiet is over."""
    work, snoozed_ms = found.work, found.snoozed_until_ms
    return (work is not None and not work.over and work.until_ms <= now_ms) or (
        snoozed_ms is not None and snoozed_ms <= now_ms
    )


def _gist(shown: Fault) -> tuple[object, ...]:
    """What makes a record worth writing, however many repeats there were."""
    return shown.severity, shown.action, shown.code, shown.maintenance, shown.snoozed_until_ms


def _tells_reset(event: HardwareEvent) -> bool:
    """Whether the driver says that a GPU asks for nothing any more: it was reset."""
    return (event.kind == "xid" and event.code == 154 and event.details.get("variant") == "none") or (
        event.kind == "gpu_condition_over" and event.details.get("condition") == "gpu_recovery_action"
    )
