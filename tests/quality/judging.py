"""A recording through the real fault book and the real correlation, or through what one would do without them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from schemas.catalog import SEVERITIES, Catalog, load
from schemas.catalog.causes import causes
from schemas.ids import stable_id
from schemas.records import Anomaly, Fault, Incident, InventoryRecord, Member
from streams.correlation import Correlator
from streams.faults import FaultBook
from streams.replay import Correlation, SeenIncident, Told, faults_of, incidents_of, last_of, note
from streams.settings import StreamsSettings
from streams.topology import Topology
from tests.quality.recording import Arrived, Recording

NEVER_ALARMS = frozenset({"application", "informational"})
"""Classes that are a program's business or nobody's: kept as history, and no alarm whatever their severity."""
CHAIN_MS = 60_000
"""Time-only chaining joins what follows within so long: alert managers come with half a minute to five."""


@dataclass(slots=True)
class SeenFault:
    """One fault over all its revisions."""

    first: Fault
    newest: Fault
    opened_ms: int
    alarmed_ms: int | None = None
    """When it first was worth telling somebody: a warning or worse, of a class that is no program's business."""
    told_ms: list[int] = field(default_factory=list)
    """When it was written with news, alarmed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a recording."""

    faults: dict[str, SeenFault]
    incidents: dict[str, SeenIncident]

    def incident_of(self) -> dict[str, str]:
        """Fault id to the incident that holds it in the end; faults in none are left out."""
        found: dict[str, str] = {}
        for incident_id, seen in sorted(self.incidents.items(), key=lambda item: item[1].newest.decided_ms):
            found |= dict.fromkeys((member.fault_id for member in seen.newest.members), self.last_of(incident_id))
        return found

    def last_of(self, incident_id: str) -> str:
        """The incident into which one was merged in the end."""
        return last_of(self.incidents, incident_id)


def fold(recording: Recording, *, without: str = "") -> list[Told]:
    """The fault records of a recording, in order; `without` names a detector that is switched off."""
    topology, catalog = _topology(recording.inventory), load()
    book = FaultBook(catalog, causes(), topology)
    arrived = (
        one for one in recording.arrived if not isinstance(one.record, Anomaly) or one.record.detector != without
    )
    return list(faults_of(arrived, book, topology, catalog))


def ours(recording: Recording) -> Callable[[], tuple[Correlation, Topology]]:
    """A maker of fresh correlations as they are in production, with the inventory learnt."""
    settle_ms = StreamsSettings().settle_ms

    def make() -> tuple[Correlation, Topology]:
        topology = _topology(recording.inventory)
        return Correlator(load(), causes(), topology, settle_ms=settle_ms), topology

    return make


def outcome(
    written: Sequence[Told], moves: Sequence[Arrived], correlation: Correlation, topology: Topology | None = None
) -> Outcome:
    """Let a correlation live through fault records; `moves` are jobs that come and go meanwhile."""
    incidents: dict[str, SeenIncident] = {}
    # what moves in the same millisecond has moved before
    coming = heapq.merge(moves, written, key=lambda one: one.at_ms)
    for said in incidents_of(coming, correlation, topology or Topology()):
        note(incidents, said.incident)
    return Outcome(seen(written), incidents)


def seen(written: Sequence[Told]) -> dict[str, SeenFault]:
    """The faults of which records were written, by their ids."""
    faults: dict[str, SeenFault] = {}
    for one in written:
        _note(faults, one.fault, one.at_ms)
    return faults


class TimeOnly:
    """The rival: whatever follows within a minute belongs together, wherever it is; the first of them is the root.

    It pages by the same rule as ours, and waits as long before it speaks.
    """

    def __init__(self, chain_ms: int = CHAIN_MS, catalog: Catalog | None = None, settle_ms: int = 1000) -> None:
        self._chain_ms, self._settle_ms = chain_ms, settle_ms
        self._catalog = catalog or load()
        self._chains: dict[str, dict[str, Fault]] = {}
        self._chain_of: dict[str, str] = {}
        self._last: tuple[int, str] | None = None
        self._born_ms: dict[str, int] = {}
        self._paged: set[str] = set()
        self._revision: dict[str, int] = {}
        self._changed: set[str] = set()

    def on_fault(self, fault: Fault, now_ms: int) -> None:
        """Take one fault record in."""
        chain = self._chain_of.get(fault.fault_id)
        if chain is None:
            if self._last is None or now_ms - self._last[0] > self._chain_ms:
                chain = stable_id("chain", fault.fault_id)
                self._born_ms[chain] = now_ms
            else:
                chain = self._last[1]
            self._last = now_ms, chain
            self._chain_of[fault.fault_id] = chain
        self._chains.setdefault(chain, {})[fault.fault_id] = fault
        self._changed.add(chain)

    def advance(self, now_ms: int) -> list[Incident]:
        """Let time go on; gives the records to write."""
        ready = sorted(chain for chain in self._changed if now_ms - self._born_ms[chain] >= self._settle_ms)
        self._changed.difference_update(ready)
        return [incident for chain in ready if (incident := self._speak(chain, now_ms)) is not None]

    def _speak(self, chain: str, now_ms: int) -> Incident | None:
        members = list(self._chains[chain].values())
        pageable = [one for one in members if one.severity != SEVERITIES[0] and self._pages(one.fault_class)]
        if chain not in self._revision and not pageable:
            return None
        page = chain not in self._paged and any(
            one.severity == SEVERITIES[-1] and one.state != "cleared" for one in pageable
        )
        if page:
            self._paged.add(chain)
        self._revision[chain] = self._revision.get(chain, 0) + 1
        root = min(members, key=lambda one: (one.first_ms, one.fault_id))
        return Incident(
            incident_id=chain,
            revision=self._revision[chain],
            state="updated",
            page=page,
            site=root.site,
            racks=sorted({one.rack for one in members}),
            root=root.component,
            root_fault_id=root.fault_id,
            root_class=root.fault_class,
            title="",
            severity=root.severity,
            action=root.action,
            reason="the first of a chain",
            score=0.0,
            members=[
                Member(fault_id=one.fault_id, component=one.component, fault_class=one.fault_class, role="", because="")
                for one in members
            ],
            evidence=[],
            first_ms=root.first_ms,
            last_ms=max(one.last_ms for one in members),
            observed_ms=root.observed_ms,
            decided_ms=now_ms,
        )

    def _pages(self, fault_class: str) -> bool:
        found = self._catalog.faults.get(fault_class)
        return found is not None and found.pages


def shuffled(written: Sequence[Told], seed: int) -> list[Told]:
    """The same faults, each with the onset of another: what is near in time is so by chance.

    A correlation that still puts the right ones together would do so by place alone.
    """
    first_ms: dict[str, int] = {}
    for at_ms, fault in written:
        first_ms.setdefault(fault.fault_id, at_ms)
    onsets = np.random.default_rng((seed, 0x5F)).permutation(list(first_ms.values())).tolist()
    shift_ms = {fault_id: onset - first_ms[fault_id] for fault_id, onset in zip(first_ms, onsets, strict=True)}
    moved = [
        Told(at_ms + shift_ms[fault.fault_id], _moved(fault, shift_ms[fault.fault_id])) for at_ms, fault in written
    ]
    return sorted(moved, key=lambda one: one.at_ms)


def _moved(fault: Fault, by_ms: int) -> Fault:
    return msgspec.structs.replace(
        fault,
        first_ms=fault.first_ms + by_ms,
        last_ms=fault.last_ms + by_ms,
        observed_ms=fault.observed_ms + by_ms,
        cleared_ms=None if fault.cleared_ms is None else fault.cleared_ms + by_ms,
    )


def _topology(inventory: Iterable[InventoryRecord]) -> Topology:
    topology = Topology()
    for known in inventory:
        topology.learn(known)
    return topology


def _note(faults: dict[str, SeenFault], fault: Fault, at_ms: int) -> None:
    seen = faults.get(fault.fault_id)
    if seen is None:
        seen = faults[fault.fault_id] = SeenFault(fault, fault, at_ms)
    seen.newest = fault
    if fault.state != "cleared" and fault.severity != SEVERITIES[0] and fault.fault_class not in NEVER_ALARMS:
        seen.alarmed_ms = at_ms if seen.alarmed_ms is None else seen.alarmed_ms
        seen.told_ms.append(at_ms)
