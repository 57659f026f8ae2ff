"""Faults that share one cause become one incident, with a root, symptoms, and one page.

Two faults are joined when a row of the causal table (`schemas/catalog/causes.toml`) ties them: their classes, what they
share in the topology, and how far apart their first evidence is. The root is the fault that explains most of the
others. An incident gathers for a moment before it may page, because the first fault heard of is often an echo.

Event time decides what belongs together; the clock that comes in as an argument only decides when to speak.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from schemas.catalog import SEVERITIES, Catalog
from schemas.catalog.causes import Cause, Causes, Near
from schemas.ids import stable_id
from schemas.records import Fault, Incident
from streams.roots import Graph, describe
from streams.topology import Topology

_KEEP_CLEARED_MS = 600_000
"""A cleared incident takes in late evidence for so long, then it is left to history."""
_KEEP_LOOSE_MS = 120_000
"""A fault that is worth no incident waits so long for a cause to explain it."""
_REWRITE_MS = 1000
"""An incident that has spoken is written again at most so often."""
_EVIDENCE = 2
"""Pieces of evidence kept of each fault: what an incident shows of it."""


class Group(msgspec.Struct, kw_only=True):
    """Faults that belong together; an incident once it has spoken. About 3 KB a fault."""

    incident_id: str
    born_ms: int
    """When its first fault was heard of, by the clock."""
    heard_ms: int
    """When its last fault was heard of, by the clock."""
    faults: dict[str, Fault]
    """By fault id, at their newest revision."""
    paged: bool = False
    written: Incident | None = None


class _Rows(NamedTuple):
    """The causal table by the two classes that a row ties."""

    by_classes: dict[tuple[str, str], list[Cause]]
    near_of: dict[str, tuple[Near, ...]]
    """Fault class to the distances at which it can be tied to anything."""


class Correlator:
    """The incidents of one site. Records to write come out of `advance`, in order.

    The same faults in any order give the same incidents once all are in: groups are joined when a late fault ties them.
    `changes` gives what has to be kept to go on after a restart, `restore` takes it back.
    """

    def __init__(self, catalog: Catalog, table: Causes, topology: Topology, *, settle_ms: int) -> None:
        self._catalog = catalog
        self._table = table
        self._topology = topology
        self._settle_ms = settle_ms
        self._rows = _rows(table)
        self._groups: dict[str, Group] = {}
        self._graphs: dict[str, Graph] = {}
        """Who explains whom in each group; follows from its faults."""
        self._group_of: dict[str, str] = {}
        """Fault id to the group that holds it."""
        self._neighbours: dict[tuple[Near, str], set[str]] = {}
        """What is shared to the faults that share it: where to look for ties."""
        self._placed: dict[str, set[tuple[Near, str]]] = {}
        """Fault id to where it stands among the neighbours: the inventory may have learnt better since."""
        self._unspoken: set[str] = set()
        """Groups with something that may be worth a record."""
        self._merged: list[Incident] = []
        self._touched: set[str] = set()

    def __len__(self) -> int:
        return len(self._groups)

    def on_fault(self, fault: Fault, now_ms: int) -> None:
        """Take one fault record in. An older revision than the one known changes nothing."""
        group = self._groups.get(self._group_of.get(fault.fault_id, ""))
        known = group.faults[fault.fault_id] if group else None
        if known is not None and known.revision >= fault.revision:
            return
        fault = msgspec.structs.replace(fault, evidence=fault.evidence[:_EVIDENCE])
        if group is None or known is None or _bearing(known) != _bearing(fault):
            ties = list(self._ties(fault))
            if not ties and group is None and fault.state == "cleared":
                return  # over before anything came of it
            group = self._join(fault, ties, group, now_ms)
        group.faults[fault.fault_id] = fault
        group.heard_ms = now_ms
        self._unspoken.add(group.incident_id)
        self._touched.add(group.incident_id)

    def advance(self, now_ms: int) -> list[Incident]:
        """Let time go on: incidents that have gathered for long enough speak, those long over are let go."""
        written, self._merged = self._merged, []
        for incident_id in sorted(self._unspoken):
            group = self._groups[incident_id]
            since_ms, wait_ms = (
                (group.born_ms, self._settle_ms) if group.written is None else (group.written.decided_ms, _REWRITE_MS)
            )
            if now_ms - since_ms >= wait_ms:
                self._unspoken.discard(incident_id)
                incident = self._speak(group, now_ms)
                if incident is not None:
                    written.append(incident)
        for group in list(self._groups.values()):
            keep_ms = _KEEP_LOOSE_MS if group.written is None else _KEEP_CLEARED_MS
            if now_ms - group.heard_ms > keep_ms and (group.written is None or group.written.state == "cleared"):
                self._forget(group)
        return written

    def changes(self) -> dict[str, bytes | None]:
        """What has changed since the last call, by incident id; None where it has been let go."""
        touched, self._touched = self._touched, set()
        held = {key: self._groups.get(key) for key in sorted(touched)}
        # Kafka takes a megabyte a record; packed, that is an incident of some ten thousand faults
        return {key: zlib.compress(msgspec.msgpack.encode(group), 1) if group else None for key, group in held.items()}

    def restore(self, state: bytes) -> None:
        """Take back one incident. Raises `zlib.error` and `msgspec.DecodeError` where the bytes are not ours."""
        group = msgspec.msgpack.decode(zlib.decompress(state), type=Group)
        self._groups[group.incident_id], self._graphs[group.incident_id] = group, Graph()
        self._unspoken.add(group.incident_id)
        for fault in list(group.faults.values()):
            # a kill in the middle of a merge leaves both: they are merged once more
            group = self._join(fault, list(self._ties(fault)), group, group.heard_ms)

    def _ties(self, fault: Fault) -> Iterator[tuple[Fault, Fault, Cause]]:
        """What ties a fault to those known: (cause, effect, the row that says so)."""
        near_by = {
            other
            for near in self._rows.near_of.get(fault.fault_class, ())
            if (shared := self._shared(near, fault)) is not None
            for other in self._neighbours.get((near, shared), ())
        }
        for other_id in sorted(near_by - {fault.fault_id}):
            other = self._groups[self._group_of[other_id]].faults[other_id]
            for cause, effect in ((other, fault), (fault, other)):
                row = self._row(cause, effect)
                if row is not None:
                    yield cause, effect, row

    def _row(self, cause: Fault, effect: Fault) -> Cause | None:
        """The strongest row by which one fault explains another."""
        fitting = (
            row
            for row in self._rows.by_classes.get((cause.fault_class, effect.fault_class), ())
            if (not row.cause_codes or cause.code in row.cause_codes)
            and (not row.effect_codes or effect.code in row.effect_codes)
            and cause.first_ms - row.before_ms <= effect.first_ms <= cause.last_ms + row.within_ms
            and self._shared(row.near, cause) == self._shared(row.near, effect) is not None
        )
        return max(fitting, key=lambda row: row.weight, default=None)

    def _shared(self, near: Near, fault: Fault) -> str | None:
        topology = self._topology
        shared = topology.shared(near, component=fault.component, gpu=fault.gpu, node=fault.node, rack=fault.rack)
        return None if shared is None else f"{fault.site}/{shared}"  # two sites may both have a rack 1

    def _join(self, fault: Fault, ties: list[tuple[Fault, Fault, Cause]], held: Group | None, now_ms: int) -> Group:
        """The group that takes a fault: a new one, the one that holds it or is tied to it, or all these as one."""
        others = {self._group_of[(effect if cause is fault else cause).fault_id] for cause, effect, _ in ties}
        if held is not None:
            others.add(held.incident_id)
        if fault.fault_id in self._group_of:
            others.add(self._group_of[fault.fault_id])
        # the one that has spoken keeps its id, else the older one
        tied = sorted(
            (self._groups[other] for other in others), key=lambda g: (g.written is None, g.born_ms, g.incident_id)
        )
        if tied:
            group = tied[0]
            for other in tied[1:]:
                self._absorb(group, other, now_ms)
        else:
            incident_id = stable_id("incident", fault.fault_id)
            group = Group(incident_id=incident_id, born_ms=now_ms, heard_ms=now_ms, faults={})
            self._groups[incident_id], self._graphs[incident_id] = group, Graph()
        graph = self._graphs[group.incident_id]
        graph.drop(fault.fault_id)  # a fault that is known better by now may be tied otherwise
        for cause, effect, row in ties:
            graph.add(cause.fault_id, effect.fault_id, row)
        self._place(fault, group)
        return group

    def _absorb(self, group: Group, other: Group, now_ms: int) -> None:
        """Two groups turn out to be one."""
        if other.written is not None and other.written.state != "cleared":
            over = msgspec.structs.replace(
                other.written,
                revision=other.written.revision + 1,
                state="cleared",
                page=False,
                reason=f"merged into incident {group.incident_id}",
                cleared_ms=other.written.last_ms,
                decided_ms=now_ms,
            )
            self._merged.append(over)
        self._graphs[group.incident_id].update(self._graphs[other.incident_id])
        self._forget(other)
        group.born_ms = min(group.born_ms, other.born_ms)
        group.paged = group.paged or other.paged
        for fault in other.faults.values():
            known = group.faults.get(fault.fault_id)
            if known is None or known.revision < fault.revision:
                group.faults[fault.fault_id] = fault
            self._place(group.faults[fault.fault_id], group)
        self._touched.add(group.incident_id)

    def _place(self, fault: Fault, group: Group) -> None:
        self._unplace(fault.fault_id)
        self._group_of[fault.fault_id] = group.incident_id
        nears = self._rows.near_of.get(fault.fault_class, ())
        places = {(near, shared) for near in nears if (shared := self._shared(near, fault)) is not None}
        for place in places:
            self._neighbours.setdefault(place, set()).add(fault.fault_id)
        self._placed[fault.fault_id] = places

    def _unplace(self, fault_id: str) -> None:
        self._group_of.pop(fault_id, None)
        for place in self._placed.pop(fault_id, ()):
            self._neighbours[place].discard(fault_id)
            if not self._neighbours[place]:
                del self._neighbours[place]

    def _forget(self, group: Group) -> None:
        for fault_id in group.faults:
            if self._group_of.get(fault_id) == group.incident_id:
                self._unplace(fault_id)
        del self._groups[group.incident_id], self._graphs[group.incident_id]
        self._unspoken.discard(group.incident_id)
        self._touched.add(group.incident_id)

    def _speak(self, group: Group, now_ms: int) -> Incident | None:
        """The record that the group is worth now; None where it is worth none, or says nothing new."""
        pageable = [
            fault
            for fault in group.faults.values()
            if fault.severity != SEVERITIES[0] and self._pages(fault.fault_class)
        ]
        if group.written is None and not pageable:
            return None
        # what was over before it could speak is for the history, not for the night
        page = not group.paged and any(f.severity == SEVERITIES[-1] and f.state != "cleared" for f in pageable)
        incident = describe(
            group.faults,
            self._graphs[group.incident_id],
            incident_id=group.incident_id,
            before=group.written,
            page=page,
            decided_ms=now_ms,
            catalog=self._catalog,
            common_causes=self._table.common_causes,
            topology=self._topology,
        )
        if group.written is not None and not page and _gist(incident) == _gist(group.written):
            return None
        group.written, group.paged = incident, group.paged or page
        self._touched.add(group.incident_id)
        return incident

    def _pages(self, fault_class: str) -> bool:
        found = self._catalog.faults.get(fault_class)
        return found is not None and found.pages


def _bearing(fault: Fault) -> tuple[object, ...]:
    """What decides to which others a fault is tied."""
    return fault.code, fault.first_ms, fault.last_ms, fault.gpu


def _rows(table: Causes) -> _Rows:
    by_classes: dict[tuple[str, str], list[Cause]] = {}
    near_of: dict[str, set[Near]] = {}
    for row in table.causes:
        by_classes.setdefault((row.cause, row.effect), []).append(row)
        near_of.setdefault(row.cause, set()).add(row.near)
        near_of.setdefault(row.effect, set()).add(row.near)
    return _Rows(by_classes, {name: tuple(sorted(nears)) for name, nears in near_of.items()})


def _gist(incident: Incident) -> tuple[object, ...]:
    """What makes a record worth writing again: not the passing of time, nor one more repeat."""
    return (
        incident.state == "cleared",
        incident.root,
        incident.root_fault_id,
        incident.severity,
        incident.action,
        incident.title,
        sorted((member.fault_id, member.role) for member in incident.members),
    )
