"""Records lived through again, in event time: the fault book and the correlation as a worker runs them, without Kafka.

A record arrives when it is said to, and the clock stands at the last arrival. Between two of them the timers of a
worker go on: counts are written, what is quiet ends, incidents speak. Behind the last one they go on for a moment, so
that what was told comes to its incident; nothing ends for a quiet that nobody has seen.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from schemas.catalog import Catalog
from schemas.catalog.causes import Causes
from schemas.records import Anomaly, Fault, HardwareEvent, Incident, InventoryRecord
from streams.correlation import Correlator
from streams.faults import FaultBook
from streams.topology import Topology

_FLUSH_S = 5
"""Counts that are behind are written at the latest after so long (`streams.faults`)."""
_FAULTS_PERIOD_MS = 30_000
"""A look goes through all open faults, and a worker looks each 100 ms. When a fault ended for quiet does not depend on
when that was looked for; that it is told some seconds later changes nothing."""
_SPEAK_S = (1, 2, 3, 130)
"""How long after a fault the correlation may have something to do: it settles, writes again, lets go of the loose."""
_INCIDENTS_PERIOD_MS = 1000
"""Near enough to 100 ms to tell what an incident knew when it spoke."""


class Arrived(NamedTuple):
    """A record, and when it reached Kafka, or would have."""

    at_ms: int
    record: HardwareEvent | Anomaly | InventoryRecord


class Told(NamedTuple):
    """A fault record, and when it was written."""

    at_ms: int
    fault: Fault


class Said(NamedTuple):
    """An incident record, and when it was written."""

    at_ms: int
    incident: Incident


class Correlation(Protocol):
    """What makes incidents of faults: `streams.correlation.correlator.Correlator`, or its rivals."""

    def on_fault(self, fault: Fault, now_ms: int) -> None:
        """Take one fault record in."""

    def advance(self, now_ms: int) -> list[Incident]:
        """Let time go on; gives the records to write."""


class _Looks:
    """When the timers have to look: at multiples of a period, each once. Costs nothing while nothing happens."""

    def __init__(self, period_ms: int) -> None:
        self._period_ms = period_ms
        self._due: list[int] = []
        self._known: set[int] = set()

    def add(self, at_ms: int, later_s: Iterable[int]) -> None:
        """Look so many seconds after a moment, or as soon as the period allows after that."""
        for later in later_s:
            due_ms = -(-(at_ms + later * 1000) // self._period_ms) * self._period_ms
            if due_ms not in self._known:
                self._known.add(due_ms)
                heapq.heappush(self._due, due_ms)

    def until(self, until_ms: float) -> Iterator[int]:
        """The moments that have come, in order."""
        while self._due and self._due[0] <= until_ms:
            due_ms = heapq.heappop(self._due)
            self._known.discard(due_ms)
            yield due_ms


def faults_of(arrived: Iterable[Arrived], book: FaultBook, topology: Topology, catalog: Catalog) -> Iterator[Told]:
    """The fault records that come of records in the order of their arrival. `topology` is the one that `book` asks."""
    quiet_s = {fault.clears_after_quiet_s for fault in catalog.faults.values()} - {None}
    waits_s = sorted({_FLUSH_S, *(seconds for seconds in quiet_s if seconds is not None)})
    looks = _Looks(_FAULTS_PERIOD_MS)
    at_ms: int | None = None
    for at_ms, what in arrived:
        for now_ms in looks.until(at_ms):
            yield from (Told(now_ms, fault) for fault in (*book.flush(now_ms), *book.end_quiet(now_ms)))
        if isinstance(what, InventoryRecord):
            topology.learn(what)
            continue
        written = book.on_event(what, at_ms) if isinstance(what, HardwareEvent) else book.on_anomaly(what, at_ms)
        yield from (Told(at_ms, fault) for fault in written)
        looks.add(at_ms, waits_s)
    if at_ms is not None:
        end_ms = at_ms + _FLUSH_S * 1000
        yield from (Told(end_ms, fault) for fault in book.flush(end_ms))


def incidents_of(told: Iterable[Told | Arrived], correlation: Correlation, topology: Topology) -> Iterator[Said]:
    """The incident records that come of fault records, in order; inventory that comes meanwhile is learnt.

    `topology` is the one that `correlation` asks.
    """
    looks = _Looks(_INCIDENTS_PERIOD_MS)

    def look(until_ms: float) -> Iterator[Said]:
        for now_ms in looks.until(until_ms):
            yield from (Said(now_ms, incident) for incident in correlation.advance(now_ms))

    for one in told:
        yield from look(one.at_ms)
        if isinstance(one, Told):
            correlation.on_fault(one.fault, one.at_ms)
            looks.add(one.at_ms, _SPEAK_S)
        elif isinstance(one.record, InventoryRecord):
            topology.learn(one.record)
    yield from look(float("inf"))


def pauses(told: Sequence[Told], said: Sequence[Said]) -> list[int]:
    """Where a pipeline whose clock is the wall's has to be let speak, when it is sent the same records without waiting.

    An incident pages for what stands when it speaks, and keeps its id from then on. So what ends one of its faults, or
    joins it to another incident, may come only after it has spoken. These are the moments before which to wait, as few
    as do for all of that, in order.
    """
    spoken: dict[str, int] = {}
    holds: dict[str, str] = {}
    spans: list[tuple[int, int]] = []
    """Spoken by then, ended or joined from then on: (from, to]."""
    for at_ms, incident in said:
        if incident.page or incident.incident_id not in spoken:
            spoken[incident.incident_id] = at_ms
        elif into := incident.merged_into:
            spans += [(spoken[each], at_ms) for each in (incident.incident_id, into) if each in spoken]
        holds |= dict.fromkeys((member.fault_id for member in incident.members), incident.incident_id)
    for at_ms, fault in told:
        since_ms = spoken.get(holds.get(fault.fault_id, ""))
        if fault.state == "cleared" and since_ms is not None:
            spans.append((since_ms, at_ms))
    found: list[int] = []
    for since_ms, until_ms in sorted(spans, key=lambda span: span[1]):
        if since_ms < until_ms and not (found and found[-1] > since_ms):
            found.append(until_ms)
    return found


@dataclass(slots=True)
class SeenIncident:
    """One incident over all its revisions."""

    first: Incident
    newest: Incident
    page: Incident | None = None
    merged_into: str | None = None


class Came(NamedTuple):
    """What an incident came to."""

    incident: Incident
    """Its newest revision."""
    pages: int
    """How often somebody was paged: for it, and for those that were merged into it later."""
    merged: tuple[str, ...]
    """The incidents that were merged into it, directly or by way of others."""


@dataclass(slots=True)
class Outcome:
    """What faults and incidents came to: the newest of each, whatever was written how often."""

    faults: dict[str, Fault] = field(default_factory=dict)
    incidents: dict[str, SeenIncident] = field(default_factory=dict)

    def take(self, record: Fault | Incident) -> None:
        """Take in a record; one that is delivered again, or after a newer one, changes nothing."""
        if isinstance(record, Incident):
            note(self.incidents, record)
            return
        known = self.faults.get(record.fault_id)
        if known is None or known.revision < record.revision:
            self.faults[record.fault_id] = record

    def standing(self) -> list[Came]:
        """The incidents that are none's part, in the order in which they began."""
        merged: dict[str, list[str]] = {}
        for incident_id, seen in self.incidents.items():
            if seen.merged_into is not None:
                merged.setdefault(last_of(self.incidents, incident_id), []).append(incident_id)
        found = []
        for incident_id, seen in self.incidents.items():
            if seen.merged_into is None:
                took = sorted(merged.get(incident_id, ()))
                pages = sum(self.incidents[each].page is not None for each in (incident_id, *took))
                found.append(Came(seen.newest, pages, tuple(took)))
        return sorted(found, key=lambda came: (came.incident.first_ms, came.incident.incident_id))


def live_through(
    arrived: Sequence[Arrived], *, catalog: Catalog, table: Causes, settle_ms: int
) -> tuple[list[Told], list[Said]]:
    """All fault and incident records that come of records in the order of their arrival, from an empty memory."""
    topology = Topology()
    told = list(faults_of(arrived, FaultBook(catalog, table, topology), topology, catalog))
    topology = Topology()  # the correlation learns by itself what moves meanwhile
    moves: list[Told | Arrived] = [one for one in arrived if isinstance(one.record, InventoryRecord)]
    coming = heapq.merge(moves, told, key=lambda one: one.at_ms)
    correlator = Correlator(catalog, table, topology, settle_ms=settle_ms)
    return told, list(incidents_of(coming, correlator, topology))


def note(incidents: dict[str, SeenIncident], incident: Incident) -> None:
    """Take an incident record into what is known of its incident."""
    seen = incidents.get(incident.incident_id)
    if seen is None:
        seen = incidents[incident.incident_id] = SeenIncident(incident, incident)
    seen.page = seen.page or (incident if incident.page else None)
    if incident.merged_into is not None:
        seen.merged_into = incident.merged_into
    elif seen.newest.revision < incident.revision:
        seen.newest = incident


def last_of(incidents: Mapping[str, SeenIncident], incident_id: str) -> str:
    """The incident into which one was merged in the end."""
    gone: set[str] = set()
    while (into := incidents[incident_id].merged_into) in incidents and into not in gone:
        gone.add(incident_id)
        incident_id = str(into)
    return incident_id
