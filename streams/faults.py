"""Evidence folded into faults: one component, one class, one life, however often it is reported.

A fault opens with the first evidence that the catalogue does not call informational, gathers what follows, and ends
the way its class says. Every change that an operator would want to see is one `Fault` record with the next revision;
mere repeats raise the count and are written now and then. The clock comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from schemas.catalog import ACTIONS, COMPONENT_KINDS, SEVERITIES, Catalog, ClearsOn, Entry
from schemas.catalog.causes import Causes
from schemas.ids import gpu_id, node_id, port_id, stable_id
from schemas.records import Anomaly, Evidence, Fault, HardwareEvent
from streams.topology import Topology

INFORMATIONAL, GPU_SILENT, NODE_SILENT, SOURCE_HEALTH = "informational", "gpu_silent", "node_silent", "source_health"
_STOPPED = "agent_stopped|"
_FIRST_EVIDENCE, _LAST_EVIDENCE = 3, 5
_REMEMBERED = 64
"""Evidence ids kept per fault: the same event delivered again within so many is not counted twice."""
_EVERY_REPEAT_UNTIL = 16
_REPEAT_GROWTH = 1.25
_FLUSH_MS = 5000
"""Counts of a storm are written at the latest after so long."""
_KEEP_ENDED_MS = 3_600_000
"""The evidence of a fault that is over is remembered for so long: delivered again it opens no second life."""
_LONGEST_TEXT = 2000
"""Characters of a raw line that go into evidence; kernel lines have some hundred."""
_CLEARING_KINDS: dict[str, ClearsOn] = {
    "gpu_found": "gpu_reports",
    "driver_recovered": "driver_recovered",
    "source_recovered": "source_recovered",
}
_NODE_WIDE: frozenset[ClearsOn] = frozenset({"driver_recovered", "source_recovered"})


class _Source(NamedTuple):
    """Where a record stood in the log; None where there is no log, as in a back-test."""

    is_event: bool
    offset: int | None


class OpenFault(msgspec.Struct, kw_only=True):
    """A fault, with what is needed to go on with it (or, once it is over, to know its evidence again). About 3 KB."""

    fault: Fault
    """The newest state; its revision is that of the last record written."""
    boot_id: str | None = None
    """The node's boot id at the last evidence."""
    standing: list[str] = []
    """Anomalies that are raised and not cleared."""
    points: list[str] = []
    """What events have reported and none has told to be over (`_point`): the fault ends with the last of them."""
    remembered: list[str] = []
    """Ids of the last evidence."""
    arrived_ms: int = 0
    """When the last evidence reached Kafka."""
    written_count: int = 0
    written_ms: int = 0
    ended_ms: int | None = None
    """When it ended, by the clock; None while it has not."""
    events_through: int = -1
    anomalies_through: int = -1
    """The offset of the last record of each topic that changed it. State is kept fault by fault, so a kill may leave
    some of a run's faults kept and others not: when the run is done again, each takes just what is new to it."""

    def has_taken(self, source: _Source) -> bool:
        """Whether a record is folded in already."""
        through = self.events_through if source.is_event else self.anomalies_through
        return source.offset is not None and source.offset <= through

    def take(self, source: _Source) -> None:
        """Note that a record is folded in."""
        if source.offset is not None and source.is_event:
            self.events_through = source.offset
        elif source.offset is not None:
            self.anomalies_through = source.offset


class FaultBook:
    """The open faults of one partition, by component and class.

    `on_event`, `on_anomaly`, `flush` and `end_quiet` give the records to write, in order; they never raise for what a
    record holds. What ends together is written in the order of its key: what came first is not known after a restart.
    `changes` gives what has to be kept to go on, `restore` takes it back.
    """

    def __init__(self, catalog: Catalog, table: Causes, topology: Topology) -> None:
        self._catalog = catalog
        self._leading = table.leading_codes()
        self._topology = topology
        self._open: dict[str, OpenFault] = {}
        self._ended: dict[str, OpenFault] = {}
        """Those that ended lately, in the order in which they ended."""
        self._touched: set[str] = set()

    def __len__(self) -> int:
        return len(self._open)

    def open_faults(self) -> Iterator[Fault]:
        """Every fault that is open, at its last revision that was written, or a little ahead of it."""
        return (found.fault for found in self._open.values())

    def on_event(self, event: HardwareEvent, arrived_ms: int, offset: int | None = None) -> list[Fault]:
        """Fold a hardware event in; `arrived_ms` is when it reached Kafka, `offset` where it stands in its topic."""
        source = _Source(is_event=True, offset=offset)
        written = list(self._ends_by(event, arrived_ms, source))
        entry = self._catalog.of(event)
        if entry.fault_class == INFORMATIONAL:
            return written
        gpu = event.gpu or self._topology.gpu_at(event.node, event.pci)
        component_kind, component = _component(self._catalog.faults[entry.fault_class].component_kind, event, gpu)
        evidence = Evidence(id=event.event_id, at_ms=event.event_ms, source=event.source, text=_text(event, entry))
        seed = Fault(
            fault_id="",
            revision=0,
            state="open",
            site=event.site,
            rack=event.rack,
            node=event.node,
            gpu=gpu if component_kind == "gpu" else None,
            pci=event.pci or (self._topology.pci_of(gpu) if component_kind == "gpu" else None),
            component=component,
            component_kind=component_kind,
            fault_class=entry.fault_class,
            code=event.code,
            severity=entry.severity,
            action=entry.action,
            rule=entry.rule,
            reason=entry.reason,
            first_ms=event.event_ms,
            last_ms=event.event_ms,
            count=max(1, event.count),
            evidence=[evidence],
            observed_ms=event.observed_ms,
        )
        return written + self._fold(seed, arrived_ms, source, boot_id=event.boot_id, point=_point(event))

    def on_anomaly(self, anomaly: Anomaly, arrived_ms: int, offset: int | None = None) -> list[Fault]:
        """Fold a detector's finding in: raised ones open or feed a fault, cleared ones may end it."""
        source = _Source(is_event=False, offset=offset)
        if anomaly.state == "cleared":
            return list(self._anomaly_cleared(anomaly, arrived_ms, source))
        fault_class = self._catalog.faults.get(anomaly.fault_class)
        evidence = Evidence(
            id=anomaly.anomaly_id,
            at_ms=anomaly.tick_ms,
            source=anomaly.detector,
            text=f"{anomaly.rule}: {anomaly.reason}",
        )
        seed = Fault(
            fault_id="",
            revision=0,
            state="open",
            site=anomaly.site,
            rack=anomaly.rack,
            node=anomaly.node,
            gpu=anomaly.gpu,
            pci=self._topology.pci_of(anomaly.gpu),
            component=anomaly.component,
            component_kind=fault_class.component_kind if fault_class else "gpu",
            fault_class=anomaly.fault_class,
            code=None,
            severity=anomaly.severity,
            action=anomaly.action,
            rule=f"{anomaly.detector}.{anomaly.rule}",
            reason=anomaly.reason,
            first_ms=anomaly.begin_ms,
            last_ms=anomaly.tick_ms,
            count=1,
            evidence=[evidence],
            observed_ms=anomaly.tick_ms,
        )
        if anomaly.fault_class == NODE_SILENT and self._was_stopped(anomaly.component):
            # the fault that the stop has opened takes it in: somebody knows why nothing comes
            seed = replace(
                seed,
                fault_class=SOURCE_HEALTH,
                severity="info",
                action="none",
                reason=f"its agent was stopped on purpose, and {anomaly.reason}",
            )
        return self._fold(seed, arrived_ms, source, standing=anomaly.anomaly_id)

    def _was_stopped(self, component: str) -> bool:
        """Whether the agent of a node said that it is stopped, and has not said since that it is back."""
        found = self._open.get(f"{component}|{SOURCE_HEALTH}")
        return found is not None and _STOPPED in found.points

    def flush(self, now_ms: int) -> list[Fault]:
        """Write the counts that are behind for long enough."""
        behind = [
            key
            for key, found in self._open.items()
            if found.fault.count > found.written_count and now_ms - found.written_ms >= _FLUSH_MS
        ]
        return [self._write(key, now_ms) for key in sorted(behind)]

    def end_quiet(self, now_ms: int) -> list[Fault]:
        """End the faults that have been quiet for long enough."""
        over = {
            key: found.fault.last_ms + quiet_s * 1000
            for key, found in self._open.items()
            if (quiet_s := self._quiet_s(found)) is not None and now_ms - found.arrived_ms >= quiet_s * 1000
        }
        written = [self._end(key, at_ms, now_ms) for key, at_ms in sorted(over.items())]
        for key, ended in list(self._ended.items()):
            if ended.ended_ms is not None and now_ms - ended.ended_ms < _KEEP_ENDED_MS:
                break
            del self._ended[key]
            self._touched.add(key)
        return written

    def changes(self) -> dict[str, bytes | None]:
        """What has changed since the last call, by key; None where a fault is over and forgotten."""
        touched, self._touched = self._touched, set()
        held = {key: self._open.get(key) or self._ended.get(key) for key in sorted(touched)}
        return {key: msgspec.msgpack.encode(fault) if fault else None for key, fault in held.items()}

    def restore(self, key: str, state: bytes) -> None:
        """Take back one fault. Raises `msgspec.DecodeError` where the bytes are not ours."""
        found = msgspec.msgpack.decode(state, type=OpenFault)
        (self._open if found.ended_ms is None else self._ended)[key] = found

    def restored(self, events_end: int, anomalies_end: int) -> None:
        """All is taken back. What was taken from beyond a topic's end was taken from one that was there before it."""
        for found in (*self._open.values(), *self._ended.values()):
            found.events_through = found.events_through if found.events_through < events_end else -1
            found.anomalies_through = found.anomalies_through if found.anomalies_through < anomalies_end else -1
        self._ended = dict(sorted(self._ended.items(), key=lambda item: item[1].ended_ms or 0))

    def _fold(
        self,
        seed: Fault,
        arrived_ms: int,
        source: _Source,
        *,
        boot_id: str | None = None,
        standing: str | None = None,
        point: str | None = None,
    ) -> list[Fault]:
        key = f"{seed.component}|{seed.fault_class}"
        evidence = seed.evidence[0]
        found = self._open.get(key)
        earlier = found or self._ended.get(key)
        if earlier is not None and (evidence.id in earlier.remembered or earlier.has_taken(source)):
            return []
        if found is None:
            fault = replace(seed, fault_id=stable_id("fault", seed.component, seed.fault_class, evidence.id))
            found = self._open[key] = OpenFault(fault=replace(fault, count=0, evidence=[]))
            if earlier is not None:
                found.remembered = earlier.remembered
                found.events_through, found.anomalies_through = earlier.events_through, earlier.anomalies_through
                del self._ended[key]
        before = found.fault
        found.take(source)
        found.fault = _with(before, seed, self._leading.get(seed.fault_class, frozenset()))
        found.remembered = [*found.remembered[1 - _REMEMBERED :], evidence.id]
        found.arrived_ms = max(found.arrived_ms, arrived_ms)
        found.boot_id = boot_id or found.boot_id
        if standing:
            found.standing.append(standing)
        if point and point not in found.points:
            found.points.append(point)  # all of them: the fault stands until the last is over
        self._touched.add(key)
        count = found.fault.count
        worth_writing = (
            before.revision == 0
            or (before.severity, before.action, before.code)
            != (found.fault.severity, found.fault.action, found.fault.code)
            or count <= _EVERY_REPEAT_UNTIL
            or count >= ceil(found.written_count * _REPEAT_GROWTH)
        )
        return [self._write(key, arrived_ms)] if worth_writing else []

    def _anomaly_cleared(self, anomaly: Anomaly, arrived_ms: int, source: _Source) -> Iterator[Fault]:
        key = f"{anomaly.component}|{anomaly.fault_class}"
        planned = f"{anomaly.component}|{SOURCE_HEALTH}"
        if (stopped := self._open.get(planned)) is not None and anomaly.anomaly_id in stopped.standing:
            key = planned
        found = self._open.get(key)
        known = found or self._ended.get(key)
        stood = found is not None and anomaly.anomaly_id in found.standing
        # what is known and no longer stands was cleared before, and is delivered again
        is_news = stood or known is None or anomaly.anomaly_id not in known.remembered
        if found is not None and stood and not found.has_taken(source):
            found.standing.remove(anomaly.anomaly_id)
            found.arrived_ms = max(found.arrived_ms, arrived_ms)
            found.take(source)
            self._touched.add(key)
            if not found.standing and (
                self._clears_on(found, "anomaly_cleared") or (key == planned and not found.points)
            ):
                yield self._end(key, anomaly.tick_ms, arrived_ms)
        if anomaly.rule == GPU_SILENT and is_news:
            for other, fault in sorted(self._open.items()):
                if (
                    fault.fault.component == anomaly.component
                    and self._clears_on(fault, "gpu_reports")
                    and not fault.standing
                    and not fault.has_taken(source)
                ):
                    fault.take(source)
                    yield self._end(other, anomaly.tick_ms, arrived_ms)

    def _ends_by(self, event: HardwareEvent, arrived_ms: int, source: _Source) -> Iterator[Fault]:
        """Faults that an event ends: a new boot of their node, a recovery of just what was wrong."""
        yield from self._told_over(event, arrived_ms, source)
        trigger = _CLEARING_KINDS.get(event.kind)
        if event.kind == "xid" and event.code == 154 and event.details.get("variant") == "none":
            trigger = "recovery_action_none"
        if trigger is None and event.kind != "agent_started":
            return
        gpu = event.gpu or self._topology.gpu_at(event.node, event.pci)
        component = gpu_id(gpu, event.node, event.pci)
        for key, found in sorted(self._open.items()):
            if found.fault.node != event.node or found.has_taken(source):
                continue
            # what a detector holds up ends when the detector says so; and what happened before a fault began is no
            # end of it, but a recovery that is delivered once more
            if found.standing or event.event_ms < found.fault.first_ms:
                continue
            rebooted = event.kind == "agent_started" and found.boot_id not in (None, event.boot_id)
            ours = trigger in _NODE_WIDE or found.fault.component == component
            if (trigger and ours and self._clears_on(found, trigger)) or (
                rebooted and self._clears_on(found, "new_boot")
            ):
                found.take(source)
                yield self._end(key, event.event_ms, arrived_ms)

    def _told_over(self, event: HardwareEvent, arrived_ms: int, source: _Source) -> Iterator[Fault]:
        """Faults of which an event says that the last thing reported is over: a port that runs at full speed again."""
        ends = self._catalog.of(event).ends
        if not ends:
            return
        told = event.details.get("kind") or event.details.get("condition", "")
        over = {f"{told if kind == '*' else kind}|{_place(event)}" for kind in ends}
        gpu = event.gpu or self._topology.gpu_at(event.node, event.pci)
        _, component = _component("gpu" if event.gpu or event.pci else "node", event, gpu)
        for key, found in sorted(self._open.items()):
            if found.fault.component != component or found.has_taken(source) or over.isdisjoint(found.points):
                continue
            if event.event_ms < found.fault.first_ms:
                continue
            found.points = [one for one in found.points if one not in over]
            found.take(source)
            self._touched.add(key)
            if not found.points and not found.standing:
                yield self._end(key, event.event_ms, arrived_ms)

    def _clears_on(self, found: OpenFault, trigger: ClearsOn) -> bool:
        fault_class = self._catalog.faults.get(found.fault.fault_class)
        return fault_class is not None and trigger in fault_class.clears_on

    def _quiet_s(self, found: OpenFault) -> int | None:
        """Seconds of quiet that end a fault; None where a detector still holds it up, or quiet ends nothing."""
        fault_class = self._catalog.faults.get(found.fault.fault_class)
        return None if found.standing or fault_class is None else fault_class.clears_after_quiet_s

    def _write(self, key: str, now_ms: int) -> Fault:
        found = self._open[key]
        state = "open" if found.fault.revision == 0 else "updated"
        found.fault = replace(found.fault, revision=found.fault.revision + 1, state=state)
        found.written_count, found.written_ms = found.fault.count, now_ms
        self._touched.add(key)
        return found.fault

    def _end(self, key: str, at_ms: int, now_ms: int) -> Fault:
        found = self._open.pop(key)
        fault = found.fault
        over = replace(fault, revision=fault.revision + 1, state="cleared", cleared_ms=max(at_ms, fault.last_ms))
        found.fault, found.ended_ms, found.standing = over, now_ms, []
        self._ended[key] = found
        self._touched.add(key)
        return over


def _with(fault: Fault, news: Fault, leading: frozenset[int]) -> Fault:
    """A fault with one more piece of evidence; the most severe evidence decides code, action and reason.

    Between equals one of the `leading` codes decides, whichever came first: it tells a cause from an echo.
    """
    evidence = sorted([*fault.evidence, *news.evidence], key=lambda one: one.at_ms)
    if len(evidence) > _FIRST_EVIDENCE + _LAST_EVIDENCE:
        evidence = evidence[:_FIRST_EVIDENCE] + evidence[-_LAST_EVIDENCE:]
    decides = news if fault.count == 0 or _weight(news, leading) > _weight(fault, leading) else fault
    return replace(
        fault,
        code=decides.code,
        severity=decides.severity,
        action=decides.action,
        rule=decides.rule,
        reason=decides.reason,
        gpu=fault.gpu or news.gpu,
        pci=fault.pci or news.pci,
        first_ms=min(fault.first_ms, news.first_ms),
        last_ms=max(fault.last_ms, news.last_ms),
        count=fault.count + news.count,
        evidence=evidence,
    )


def _weight(fault: Fault, leading: frozenset[int]) -> tuple[int, int, bool]:
    return SEVERITIES.index(fault.severity), ACTIONS.index(fault.action), fault.code in leading


def _text(event: HardwareEvent, entry: Entry) -> str:
    return event.raw[:_LONGEST_TEXT] or entry.name


def _point(event: HardwareEvent) -> str:
    """What an event reports of its component, in the words in which another event may say that it is over."""
    return f"{event.kind if event.code is None else event.code}|{_place(event)}"


def _place(event: HardwareEvent) -> str:
    """The place on its component where something is wrong: a fan, a phase, a counter, a file system."""
    return next((event.details[name] for name in ("point", "counter", "path") if name in event.details), "")


def _component(kind: str, event: HardwareEvent, gpu: str | None) -> tuple[str, str]:
    """Kind and id of what an event is about: what the event names itself, else what its fault class is about."""
    named = event.details.get("component", "")
    prefix, _, rest = named.partition(":")
    if rest and prefix in COMPONENT_KINDS:
        return prefix, named
    interface, port = event.details.get("interface"), event.details.get("port")
    if kind == "gpu":
        return kind, gpu_id(gpu, event.node, event.pci)
    if kind == "nvswitch":
        return kind, f"nvswitch:{event.node}/{event.pci or 'unknown'}"
    if kind == "port" and interface and port and port.isdigit():
        return kind, port_id(event.node, interface, int(port))
    if kind == "port":
        return kind, f"port:{event.node}/{interface or event.link or 'unknown'}"
    return "node", node_id(event.node)
