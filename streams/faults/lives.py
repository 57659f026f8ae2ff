"""What can happen to a fault: it begins, is written, is told to be over, ends; and what decides how.

`FaultBook` knows what leads to it, `Operators` what people say to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from schemas.catalog import Catalog, ClearsOn, FaultClass
from schemas.ids import gpu_id, node_id, stable_id
from schemas.records import Fault
from streams.faults.climb import Climbed, climb
from streams.faults.held import OpenFault, key_of
from streams.faults.history import DAY_MS, Life
from streams.faults.shelf import Shelf
from streams.faults.source import CLOCK, Source
from streams.faults.words import MAINTENANCE
from streams.faults.work import Window, Work, in_scope, last_end_ms, quiet_until
from streams.topology import Topology

_REMEMBERED = 64
"""Evidence ids kept per fault: the same event delivered again within so many is not counted twice."""
_REMOVED_MS = 3_600_000
"""What was taken out of the inventory has no faults after so long: agents that are still there contradict it sooner."""


class Over(NamedTuple):
    """When a fault ended by itself, and what is to be said of it."""

    at_ms: int
    because: str = ""


class Lives:
    """The faults of one partition, and what changes them."""

    def __init__(self, catalog: Catalog, topology: Topology) -> None:
        self.shelf = Shelf()
        self.margin = catalog.faults[MAINTENANCE].margin
        self._catalog = catalog
        self._topology = topology

    def begin(self, key: str, seed: Fault, source: Source) -> OpenFault:
        """A new life, which knows of the ones before it."""
        fault_id = stable_id("fault", seed.component, seed.fault_class, seed.evidence[0].id)
        found = self.shelf.begin(key, replace(seed, fault_id=fault_id, count=0, evidence=[]))
        fault_class = self.class_of(found)
        if fault_class is not None:
            lives = self.shelf.history(seed.component).earlier(seed.fault_class, fault_id, source)
            since_ms = seed.first_ms - fault_class.look_back_days * DAY_MS
            found.recurrence = sum(life.first_ms >= since_ms for life in lives)
            found.flapping = _flaps(lives, seed.first_ms, fault_class)
        return found

    def take(self, found: OpenFault, source: Source, identity: str, arrived_ms: int) -> None:
        """Note that a record is folded in, and remember it."""
        found.take(source)
        found.arrived_ms = max(found.arrived_ms, arrived_ms)
        found.remembered = [*found.remembered[1 - _REMEMBERED :], identity]
        self.shelf.touch(found.key)

    def write(self, key: str, now_ms: int) -> Fault:
        """The next revision of an open fault."""
        found = self.shelf.open[key]
        state = "open" if found.fault.revision == 0 else "updated"
        found.fault = replace(found.fault, revision=found.fault.revision + 1, state=state)
        found.written_count, found.written_ms = found.fault.count, now_ms
        self.shelf.touch(key)
        return found.shown()

    def told_over(self, key: str, at_ms: int, now_ms: int, source: Source) -> Iterator[Fault]:
        """A fault is told to be over, which ends it, unless it has come back too often."""
        found = self.shelf.open[key]
        if found.flapping:
            found.settled_ms, found.arrived_ms = at_ms, max(found.arrived_ms, now_ms)
            self.shelf.touch(key)
        else:
            yield self.end(key, at_ms, now_ms, source)

    def end(
        self, key: str, at_ms: int, now_ms: int, source: Source, *, because: str = "", by_operator: bool = False
    ) -> Fault:
        """The last revision of a fault."""
        found = self.shelf.open[key]
        fault = found.fault
        found.because = because
        found.fault = replace(fault, revision=fault.revision + 1, state="cleared", cleared_ms=max(at_ms, fault.last_ms))
        self.note(found, CLOCK)
        life = self.shelf.noted(fault.component).life(fault.fault_id)
        if life is not None:
            life.last_ms, life.ended_ms, life.ended = fault.last_ms, found.fault.cleared_ms, source
            life.by_operator, life.flapped, life.boot_id = by_operator, found.flapping, found.boot_id
        self.shelf.end(key, now_ms)
        return found.shown()

    def speak(self, key: str, now_ms: int) -> Fault:
        """The revision of a fault that was kept quiet and is so no more."""
        found = self.shelf.open[key]
        if found.work is not None and found.work.until_ms <= now_ms:
            found.work = replace(found.work, over=True)
            self.note(found, CLOCK)
        if found.snoozed_until_ms is not None and found.snoozed_until_ms <= now_ms:
            found.snoozed_until_ms = None
        return self.write(key, now_ms)

    def note(self, found: OpenFault, source: Source) -> None:
        """Enter a fault in its component's history, unless it is what announced work does to a machine."""
        fault, work = found.fault, found.work
        if fault.fault_class == MAINTENANCE or (work is not None and work.explained and not work.over):
            return
        life = Life(fault.fault_id, fault.fault_class, fault.first_ms, source, fault.last_ms, fault.node, found.boot_id)
        self.shelf.noted(fault.component).begin(life)

    def over_by_itself(self, found: OpenFault, now_ms: int) -> Over | None:
        """The end of a fault of which nobody will say that it is over; None where it has not come."""
        fault = found.fault
        if fault.fault_class == MAINTENANCE:
            end_ms = last_end_ms(own_windows(found)) + self.margin.grace_s * 1000
            return Over(end_ms) if end_ms <= now_ms else None
        removed_ms = self.removed_ms(fault)
        if removed_ms is not None and (self.is_explained(found) or now_ms - removed_ms >= _REMOVED_MS):
            return Over(removed_ms, "It was taken out of the inventory.")
        quiet_s = self._quiet_s(found)
        if quiet_s is None or now_ms - found.arrived_ms < quiet_s * 1000:
            return None
        return Over(_after(found, quiet_s))

    def quiet_over_ms(self, found: OpenFault) -> int | None:
        """When a fault is over where nothing more comes of it, by event time; None where quiet does not end it."""
        quiet_s = self._quiet_s(found)
        return None if quiet_s is None else _after(found, quiet_s)

    def _quiet_s(self, found: OpenFault) -> int | None:
        """Seconds of quiet that end a fault; None where a detector still holds it up, or quiet ends nothing."""
        fault_class = self.class_of(found)
        if found.standing or fault_class is None:
            return None
        quiet_s = fault_class.clears_after_quiet_s
        if not found.flapping:
            return quiet_s
        if quiet_s is None and found.settled_ms is None:
            return None
        return max(quiet_s or 0, fault_class.flapping.quiet_s)

    def class_of(self, found: OpenFault) -> FaultClass | None:
        """Its class; None where the catalogue does not know it."""
        return self._catalog.faults.get(found.fault.fault_class)

    def clears_on(self, found: OpenFault, trigger: ClearsOn) -> bool:
        """Whether this ends faults of its class."""
        fault_class = self.class_of(found)
        return fault_class is not None and trigger in fault_class.clears_on

    def climb(self, found: OpenFault, source: Source) -> Climbed | None:
        """What the ladder makes of it."""
        fault = found.fault
        entry = self._catalog.by_rule(fault.rule)
        return climb(
            self._catalog.ladder,
            fault,
            self.shelf.history(fault.component),
            source,
            repairs=found.repairs,
            driver_version=self._topology.driver_version(fault.gpu, fault.node),
            own_action=entry is not None and entry.own_action,
        )

    def removed_ms(self, fault: Fault) -> int | None:
        """Since when the inventory has had a fault's component no more; None where it has it, or never had."""
        places = (fault.component, gpu_id(fault.gpu) if fault.gpu else "", node_id(fault.node) if fault.node else "")
        return next((at for place in places if (at := self._topology.removed_ms(place)) is not None), None)

    def is_explained(self, found: OpenFault) -> bool:
        """Whether it is what work does to a machine."""
        fault_class = self.class_of(found)
        return fault_class is not None and fault_class.explained_by_work is not None

    def work_on(self, found: OpenFault, at_ms: int, source: Source, *, explained: bool) -> Work | None:
        """The announced work in which a fault began, or became worse, at a time; None where there is none."""
        windows = [
            window
            for work in self.shelf.works()
            if in_scope(work.fault, found.fault, self._topology)
            for window in work.windows
        ]
        return quiet_until(windows, at_ms, self.margin, source, explained=explained) if windows else None

    def in_scope(self, work: OpenFault, found: OpenFault) -> bool:
        """Whether a fault is of what is worked on."""
        return in_scope(work.fault, found.fault, self._topology)


def _after(found: OpenFault, quiet_s: int) -> int:
    return max(found.fault.last_ms, found.settled_ms or 0) + quiet_s * 1000


def own_windows(found: OpenFault) -> list[Window]:
    """The windows of announced work, without those of earlier work on the same thing."""
    return [window for window in found.windows if window.of == found.fault.fault_id]


def maintenance_key(of: str) -> str:
    """Where the work on something is held."""
    return key_of(of, MAINTENANCE)


def _flaps(lives: Sequence[Life], first_ms: int, fault_class: FaultClass) -> bool:
    """Whether a fault that begins now has come back too often; `lives` are the earlier ones of its class, in order.

    What an operator ended was mended: it is counted anew from there.
    """
    rule = fault_class.flapping
    mended = next((place for place in range(len(lives), 0, -1) if lives[place - 1].by_operator), 0)
    recent = lives[mended:]
    if recent and recent[-1].flapped and first_ms - (recent[-1].ended_ms or 0) <= rule.within_s * 1000:
        return True
    return 1 + sum(life.first_ms >= first_ms - rule.within_s * 1000 for life in recent) >= rule.times
