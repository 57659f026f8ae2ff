"""Faults that share one cause become one incident, with a root, symptoms, and one page.

What hangs together (`ties.py`) is one group. An incident gathers for a moment before it may page, because the first
fault heard of is often an echo. Groups grow, merge and fall apart with what becomes known; the part with the root keeps
the id.

Event time decides what belongs together; the clock that comes in as an argument only decides when to speak.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

import msgspec

from schemas.catalog import SEVERITIES, Catalog
from schemas.catalog.base_rates import BaseRates, base_rates
from schemas.catalog.causes import Causes
from schemas.ids import stable_id
from schemas.records import Fault, Incident
from streams.correlation.base_rates import FleetRates, Learnt
from streams.correlation.incidents import describe, gist, is_worth_a_record, of_note, wakes
from streams.correlation.memory import INCIDENT, MEMBER, RATES, Group, Held, Touched
from streams.correlation.roots import judge
from streams.correlation.ties import Ties
from streams.topology import Topology

_HELD, _LEARNT = msgspec.msgpack.Decoder(Held), msgspec.msgpack.Decoder(Learnt)
_KEEP_LOOSE_MS = 120_000
"""Faults that are worth no incident wait at least so long for one to explain them, and as long as a row of the causal
table has them explain one that comes."""
_LATE_MS = 60_000
"""How much longer an incident that is over is kept than the same trouble may come back: evidence may be late."""
_REWRITE_MS = 1000
"""An incident that has spoken is written again at most so often."""


@dataclass(slots=True)
class _Cell:
    """Faults that hang together now: whole groups, and faults that are in none or whose group has fallen apart."""

    groups: set[str] = field(default_factory=set)
    loose: list[str] = field(default_factory=list)


class Correlator:
    """The incidents of the sites of one partition. Records to write come out of `advance`, in order.

    The same faults in any order give the same incidents once all are in. `changes` gives what has to be kept to go on
    after a restart, by kind and id; `restore` takes it back piece by piece, `restored` says that all is there.
    """

    def __init__(
        self, catalog: Catalog, table: Causes, topology: Topology, *, settle_ms: int, rates: BaseRates | None = None
    ) -> None:
        """`rates` are those with which a fleet begins; this build's where none are given."""
        self._catalog = catalog
        self._table = table
        self._topology = topology
        self._settle_ms = settle_ms
        self._keep_over_ms = table.comes_back.within_ms + _LATE_MS
        self._rates = FleetRates(catalog, rates or base_rates(), topology.count)
        self._ties = Ties(table, topology, self._rates)
        self._seen_topology = topology.revision
        self._held: dict[str, Held] = {}
        self._heard = 0
        self._groups: dict[str, Group] = {}
        self._members: dict[str, dict[str, Fault]] = {}
        """Incident to its faults at their newest revision."""
        self._fresh: dict[str, bool] = {}
        """Faults that are in no group yet, and whether they were over when they were heard of."""
        self._unspoken: set[str] = set()
        """Groups with something that may be worth a record."""
        self._looks: list[tuple[int, str, bool]] = []
        """When to look at which group: whether it has something to say now (True), or may be let go. A heap."""
        self._merged: list[Incident] = []
        self._touched = Touched()
        self._now_ms = 0

    def __len__(self) -> int:
        return len(self._groups) + len(self._fresh)

    def on_fault(self, fault: Fault, now_ms: int) -> None:
        """Take one fault record in. An older revision than the one known changes nothing."""
        held = self._held.get(fault.fault_id)
        if held is not None and held.fault.revision >= fault.revision:
            return
        if len(fault.evidence) > 1:
            fault = msgspec.structs.replace(fault, evidence=of_note(fault))
        if held is None:
            if fault.revision == 1:  # a later one has been let go, and is told of again
                self._rates.note(fault.fault_class, f"{fault.site}/{fault.rack}", fault.first_ms, now_ms)
            self._heard += 1
            held = self._held[fault.fault_id] = Held(fault=fault, incident_id="", heard=self._heard, heard_ms=now_ms)
            self._fresh[fault.fault_id] = fault.state == "cleared"
            is_news = True
        else:
            is_news = _is_news(held.fault, fault)
            held.fault = fault
        held.jobs = self._ties.enter(fault, held.jobs)
        if is_news or held.has_gone_on:
            self._touched.faults.add(fault.fault_id)
        group = self._groups.get(held.incident_id)
        if group is not None:
            self._members[group.incident_id][fault.fault_id] = fault
            group.heard_ms = now_ms
            if is_news:
                self._unspoken.add(group.incident_id)

    def advance(self, now_ms: int) -> list[Incident]:
        """Let time go on: incidents that have gathered for long enough speak, those long over are let go."""
        self._now_ms = now_ms
        self._follow_topology()
        self._regroup(now_ms)
        self._look(now_ms)
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
        return written

    # --- memory -------------------------------------------------------------------------------------------------------

    def changes(self) -> dict[str, bytes | None]:
        """What has changed since the last call, by kind and id (`incident|ID`); None where it has been let go."""
        return self._touched.changes(self._groups, self._held, self._rates, self._now_ms)

    def restore(self, kind: str, state: bytes) -> None:
        """Take back one piece. Raises `zlib.error` and `msgspec.DecodeError` where the bytes are not ours."""
        if kind == INCIDENT:
            group = Group.unpacked(state)
            self._groups[group.incident_id], self._members[group.incident_id] = group, {}
            self._touched.restored(group)
        elif kind == MEMBER:
            held = _HELD.decode(state)
            self._held[held.fault.fault_id] = held
        elif kind == RATES:
            self._rates.learnt = _LEARNT.decode(state)

    def restored(self) -> None:
        """All is taken back. A kill in the middle of keeping it may have left halves: what hangs together is joined
        once more, and what has lost its incident begins anew.
        """
        for fault_id, held in sorted(self._held.items(), key=lambda item: item[1].heard):
            self._heard, self._now_ms = held.heard, max(self._now_ms, held.heard_ms)
            if held.incident_id in self._groups:
                self._members[held.incident_id][fault_id] = held.fault
            else:
                held.incident_id, self._fresh[fault_id] = "", False
            held.jobs = self._ties.enter(held.fault, held.jobs)
        for group in [self._groups[one] for one, members in self._members.items() if not members]:
            self._forget(group)
        self._ties.settle()
        self._arrange(list(self._held), set(self._groups), self._now_ms)
        for group in self._groups.values():
            self._unspoken.add(group.incident_id)
            self._look_later(group)

    # --- groups -------------------------------------------------------------------------------------------------------

    def _follow_topology(self) -> None:
        """Enter faults anew around which the inventory has learnt something."""
        if self._topology.revision == self._seen_topology:
            return
        nodes = self._topology.changed_since(self._seen_topology)
        self._seen_topology = self._topology.revision
        for fault_id, held in self._held.items():
            if nodes is None or held.fault.node in nodes:
                self._ties.look_again(fault_id)

    def _regroup(self, now_ms: int) -> None:
        """Let what hangs together now be one group, and what no longer does fall apart."""
        grew, fell, explained = self._ties.settle()
        self._unspoken |= {self._held[fault_id].incident_id for fault_id in explained | grew | fell} - {""}
        if not (self._fresh or grew or fell):
            return
        broken = {self._held[fault_id].incident_id for fault_id in fell} - {""}
        begins = {*self._fresh, *grew, *fell}
        for incident_id in broken:
            begins |= self._members[incident_id].keys()
        self._arrange(begins, broken, now_ms)

    def _arrange(self, begins: Iterable[str], broken: set[str], now_ms: int) -> None:
        """Find the cells that some faults are in, and let each be one group."""
        in_order = sorted(begins, key=lambda fault_id: self._held[fault_id].heard)
        cells = list(self._cells(dict.fromkeys(in_order), broken))
        homes: dict[int, list[Group]] = {}
        if broken:
            cell_of = {fault_id: number for number, cell in enumerate(cells) for fault_id in cell.loose}
            for group in (self._groups[incident_id] for incident_id in sorted(broken)):
                homes.setdefault(cell_of[self._home(group)], []).append(group)
        for number, cell in enumerate(cells):
            self._settle_cell(cell, homes.get(number, []), now_ms)
        for incident_id in broken:
            if not self._members.get(incident_id, True):
                self._forget(self._groups[incident_id])

    def _cells(self, begins: dict[str, None], broken: set[str]) -> Iterator[_Cell]:
        """What hangs together, from some faults on. A group that is whole is not looked through: only those of its
        faults from which something begins may hang on others.
        """
        of_group: dict[str, list[str]] = {}
        for fault_id in begins:
            of_group.setdefault(self._held[fault_id].incident_id, []).append(fault_id)
        seen: set[str] = set()
        for begin in begins:
            if begin in seen:
                continue
            cell, front = _Cell(), [begin]
            while front:
                fault_id = front.pop()
                if fault_id in seen:
                    continue
                seen.add(fault_id)
                incident_id = self._held[fault_id].incident_id
                if not incident_id or incident_id in broken:
                    cell.loose.append(fault_id)
                elif incident_id not in cell.groups:
                    cell.groups.add(incident_id)
                    front += of_group.get(incident_id, ())
                if fault_id in begins or not incident_id or incident_id in broken:
                    front += self._ties.neighbours(fault_id)
            yield cell

    def _home(self, group: Group) -> str:
        """The fault whose part keeps a group's id when it falls apart: its root, or the first where it has none yet."""
        members = self._members[group.incident_id]
        if group.written is not None and group.written.root_fault_id in members:
            return group.written.root_fault_id
        return min(members, key=lambda fault_id: (members[fault_id].first_ms, fault_id))

    def _settle_cell(self, cell: _Cell, homes: list[Group], now_ms: int) -> None:
        groups = [self._groups[incident_id] for incident_id in cell.groups] + homes
        if not homes and len(groups) == 1 and not cell.loose:
            return
        if not groups and self._is_nothing(cell):
            return
        # the one that has spoken keeps its id, else the older one
        groups.sort(key=lambda group: (group.written is None, group.born_ms, group.incident_id))
        group = groups[0] if groups else self._begin(cell, now_ms)
        for other in groups[1:]:
            self._absorb(group, other, cell, now_ms)
        for fault_id in cell.loose:
            self._move(fault_id, group)

    def _is_nothing(self, cell: _Cell) -> bool:
        """Let a fault go that was over before anything came of it; gives whether the cell was one."""
        (fault_id, *others) = cell.loose
        if others or not self._fresh.get(fault_id, False):
            return False
        self._let_go(fault_id)
        return True

    def _begin(self, cell: _Cell, now_ms: int) -> Group:
        """A new group for faults that hang on none: that have just come, or that have fallen off another one."""
        loose = [self._held[fault_id] for fault_id in cell.loose]
        fallen = [held for held in loose if held.incident_id]
        if fallen:
            first = min(fallen, key=lambda held: (held.fault.first_ms, held.fault.fault_id))
            before = self._groups[first.incident_id]
            has_spoken = before.written is not None
            revision = before.written.revision if before.written else 0
            group = Group(
                incident_id=stable_id("incident", first.fault.fault_id, before.incident_id, revision),
                born_ms=now_ms if has_spoken else before.born_ms,
                heard_ms=now_ms,
                # who was woken for the whole has seen all that was in it
                paged=any(held.told and held.fault.severity == SEVERITIES[-1] for held in fallen),
                split_from=before.incident_id if has_spoken else None,
            )
        else:
            first = min(loose, key=lambda held: held.heard)
            incident_id = stable_id("incident", first.fault.fault_id)
            group = Group(incident_id=incident_id, born_ms=first.heard_ms, heard_ms=first.heard_ms)
        while group.incident_id in self._groups:  # the rest of what fell apart may have kept it
            group.incident_id = stable_id("incident", group.incident_id)
        self._groups[group.incident_id], self._members[group.incident_id] = group, {}
        self._look_later(group)
        return group

    def _absorb(self, group: Group, other: Group, cell: _Cell, now_ms: int) -> None:
        """Two groups turn out to be one. Faults of one that has fallen apart are moved by their cells."""
        if other.written is not None and other.written.merged_into is None:
            over = msgspec.structs.replace(
                other.written,
                revision=other.written.revision + 1,
                state="cleared",
                page=False,
                reason=f"merged into incident {group.incident_id}",
                merged_into=group.incident_id,
                cleared_ms=other.written.cleared_ms or other.written.last_ms,
                decided_ms=now_ms,
            )
            self._merged.append(over)
            other.written = over
        group.born_ms = min(group.born_ms, other.born_ms)
        group.heard_ms = max(group.heard_ms, other.heard_ms)
        group.paged = group.paged or other.paged
        self._say(group)
        if other.incident_id in cell.groups:
            for fault_id in list(self._members[other.incident_id]):
                self._move(fault_id, group)
            self._forget(other)

    def _move(self, fault_id: str, group: Group) -> None:
        held = self._held[fault_id]
        if held.incident_id == group.incident_id:
            return
        if held.incident_id:
            del self._members[held.incident_id][fault_id]
            self._say(self._groups[held.incident_id])
        self._fresh.pop(fault_id, None)
        held.incident_id = group.incident_id
        self._members[group.incident_id][fault_id] = held.fault
        group.heard_ms = max(group.heard_ms, held.heard_ms)
        self._touched.faults.add(fault_id)
        self._say(group)

    def _say(self, group: Group) -> None:
        """Something about a group has changed."""
        self._unspoken.add(group.incident_id)
        self._touched.groups.add(group.incident_id)

    def _let_go(self, fault_id: str) -> None:
        self._ties.leave(fault_id)
        del self._held[fault_id]
        self._fresh.pop(fault_id, None)
        self._touched.faults.add(fault_id)

    def _forget(self, group: Group) -> None:
        for fault_id in self._members.pop(group.incident_id):
            self._let_go(fault_id)
        del self._groups[group.incident_id]
        self._unspoken.discard(group.incident_id)
        self._touched.groups.add(group.incident_id)

    def _look_later(self, group: Group) -> None:
        heappush(self._looks, (group.heard_ms + self._keep_ms(group), group.incident_id, False))

    def _keep_ms(self, group: Group) -> int:
        """How long to keep a group of which nothing is heard any more."""
        if group.written is not None:
            return self._keep_over_ms
        hopes_ms = (self._ties.hopes_ms(fault_id) for fault_id in self._members[group.incident_id])
        return max(_KEEP_LOOSE_MS, max(hopes_ms, default=0))

    def _look(self, now_ms: int) -> None:
        """Let groups go that nothing comes of any more, and wake those that somebody has put off until now."""
        while self._looks and self._looks[0][0] < now_ms:
            _, incident_id, speaks = heappop(self._looks)
            group = self._groups.get(incident_id)
            if group is None:
                continue
            if speaks:
                self._unspoken.add(incident_id)
            elif group.written is None or group.written.state == "cleared":
                keep_ms = self._keep_ms(group)
                if now_ms - group.heard_ms > keep_ms and incident_id not in self._unspoken:
                    self._forget(group)
                else:
                    heappush(self._looks, (max(now_ms, group.heard_ms + keep_ms), incident_id, False))

    def _speak(self, group: Group, now_ms: int) -> Incident | None:
        """The record that the group is worth now; None where it is worth none, or says nothing new."""
        faults = self._members[group.incident_id]
        verdict = judge(faults, self._ties, self._table, self._topology)
        if group.written is None and not is_worth_a_record(faults.values(), verdict.root, self._catalog):
            return None
        # what was over before it could speak is for the history, not for the night
        waking = wakes(faults, verdict.root, self._ties, self._catalog, now_ms)
        page = waking.now and not group.paged
        if waking.again_ms is not None and not group.paged:
            heappush(self._looks, (waking.again_ms, group.incident_id, True))
        incident = describe(
            faults,
            verdict,
            self._ties,
            incident_id=group.incident_id,
            before=group.written,
            split_from=group.split_from,
            page=page,
            decided_ms=now_ms,
            catalog=self._catalog,
        )
        if group.written is not None and not page and gist(incident) == gist(group.written):
            return None
        if group.written is None or incident.state == "cleared":
            group.written = incident
            self._look_later(group)
        group.written, group.paged = incident, group.paged or page
        self._touched.groups.add(group.incident_id)
        if page:
            for fault_id in faults:
                self._held[fault_id].told = True
            self._touched.faults |= faults.keys()
        return incident


def _is_news(before: Fault, after: Fault) -> bool:
    """Whether anything has changed that an incident says of a fault, or that decides whether it wakes somebody."""
    return (
        (before.state == "cleared") != (after.state == "cleared")
        or before.severity != after.severity
        or before.action != after.action
        or before.code != after.code
        or before.first_ms != after.first_ms
        or before.worsened_ms != after.worsened_ms
        or before.gpu != after.gpu
        or before.job != after.job
        or before.acknowledged_by != after.acknowledged_by
        or before.snoozed_until_ms != after.snoozed_until_ms
        or before.maintenance != after.maintenance
    )
