"""Which faults hang together, and by what.

Three things tie two faults: a row of the causal table, by their classes, what they share and how far apart they are in
time; a thing that both are part of, where faults of their class come closer together than chance has them; and the
same trouble again, soon after it was over. What follows from these ties (groups, roots) is decided
elsewhere, and depends only on the faults that are in, not on the order in which they came.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from schemas.catalog.causes import NEARNESS, Cause, Causes
from schemas.records import Fault
from streams.correlation.again import Again
from streams.correlation.base_rates import FleetRates
from streams.correlation.graph import Graph, Order
from streams.correlation.places import Entered, Part, Place, Places, is_cause, onsets_ms
from streams.correlation.rows import Rows
from streams.correlation.together import Bursts
from streams.topology import Thing, Topology

AGAIN = "comes_back"
"""By what the same trouble hangs on the one before; the name of a row that every table has."""
_BEFORE_ALL = ""
"""Sorts before every fault id."""
_PLACE = {near: place for place, near in enumerate(NEARNESS)}

_Bucket = list[tuple[int, str]]
"""(when it began, or became worse; fault id), in order."""
_NOTHING: dict[str, _Bucket] = {}


class Moved(NamedTuple):
    """Faults whose connections have changed."""

    grew: set[str]
    fell: set[str]
    explained: set[str]
    """Faults that have other explanations than before: a root may be another one for it."""


class Ties:
    """All ties among the faults that are in. About 1 KB a fault, and 300 bytes a tie.

    `enter` and `leave` tell of faults, `settle` gives whose connections have changed since.
    """

    def __init__(self, table: Causes, topology: Topology, rates: FleetRates) -> None:
        self.graph = Graph()
        self._rows = Rows(table)
        self._places = Places(self._rows, topology)
        self._in: dict[str, Entered] = {}
        self._buckets: dict[Place, dict[str, _Bucket]] = {}
        """What is to be found somewhere, by class."""
        self._together = Bursts(self._rows, topology, rates, table.chance)
        self._again = Again(table, rates, self.graph, self._together, self._in)

    def __len__(self) -> int:
        return len(self._in) + len(self._buckets) + len(self.graph) + len(self._together) + len(self._again)

    def enter(self, fault: Fault, jobs: Iterable[str] = ()) -> tuple[str, ...]:
        """Take in a fault as it is known now; gives the jobs that ran on it, those named in `jobs` among them.

        What is known of jobs is never unlearnt: the inventory forgets them.
        """
        known = self._in.get(fault.fault_id)
        if known is not None and _bears_the_same(known.fault, fault):
            self._extend(known, fault)
            return known.jobs
        self._put(fault, known.jobs if known else tuple(jobs), known)
        return self._in[fault.fault_id].jobs

    def look_again(self, fault_id: str) -> None:
        """The inventory has changed around a fault: enter it by where it is now."""
        known = self._in[fault_id]
        self._put(known.fault, known.jobs, known)

    def leave(self, fault_id: str) -> None:
        """Forget a fault and all ties of it."""
        known = self._in.pop(fault_id)
        self._take_out(known)
        self._explain_anew(self.graph.drop(fault_id))

    def settle(self) -> Moved:
        """Whose connections have grown or fallen away since the last call."""
        *ties, explained = self.graph.settle()
        links = self._together.settle()
        # a cause is no other trouble for one more effect
        lives = self._again.settle({effect for _, effect in chain(*ties)} | set(chain.from_iterable(chain(*links))))
        grew, fell = (set(chain.from_iterable(chain(*pairs))) for pairs in zip(ties, links, lives, strict=True))
        return Moved(*(faults & self._in.keys() for faults in (grew, fell, explained)))

    def neighbours(self, fault_id: str) -> Iterable[str]:
        """The faults with which one is in the same incident."""
        return chain(*(of.neighbours(fault_id) for of in (self.graph, self._together, self._again)))

    def effects(self, fault_id: str) -> list[tuple[str, float, str]]:
        """What a fault explains: (fault id, how surely, the name of the row that says so)."""
        by_rows = self.graph.effects.get(fault_id)
        found = [(effect, row.weight, row.name) for effect, row in by_rows.items()] if by_rows else []
        return [*found, *((again, 1.0, AGAIN) for again in self._again.after(fault_id))]

    def hopes_ms(self, fault_id: str) -> int:
        """How long after its last evidence a fault may still turn out to be the cause of another one."""
        return self._rows.longest_ms(self._in[fault_id].fault.fault_class)

    def jobs(self, fault_id: str) -> tuple[str, ...]:
        """The jobs that ran on what a fault is about, when it began."""
        return self._in[fault_id].jobs

    def parts(self, fault_id: str) -> list[Part]:
        """The things that may be the cause where many of their parts have such a fault."""
        return self._in[fault_id].parts

    def rate_of(self, fault_class: str, thing: Thing | None) -> float:
        """Arrivals of a class an hour on all parts of a thing; on the whole fleet where it is None."""
        return self._together.rate_of(fault_class, thing)

    # --- entering and leaving -----------------------------------------------------------------------------------------

    def _put(self, fault: Fault, jobs: tuple[str, ...], known: Entered | None) -> None:
        fault_id, crowded = fault.fault_id, set()
        if known is not None:
            self._take_out(known)
            crowded = self.graph.drop(fault_id)
        one = self._in[fault_id] = self._places.of(fault, jobs)
        for place, of_class in self._places.keys(one):
            bucket = self._buckets.setdefault(place, {}).setdefault(of_class, [])
            for began_ms in onsets_ms(fault):
                insort(bucket, (began_ms, fault_id))
        self._together.enter(one)
        self._again.enter(fault)
        self._find_causes(one)
        self._find_effects(one, None)
        self._explain_anew(crowded)

    def _take_out(self, known: Entered) -> None:
        """Out of all indexes; ties of the causal table are left to the graph."""
        for place, of_class in self._places.keys(known):
            here = self._buckets[place]
            bucket = here[of_class]
            for began_ms in onsets_ms(known.fault):
                del bucket[bisect_left(bucket, (began_ms, known.fault.fault_id))]
            if not bucket:
                del here[of_class]
            if not here:
                del self._buckets[place]
        self._together.leave(known)
        self._again.leave(known.fault)

    # --- rows of the causal table -------------------------------------------------------------------------------------

    def _find_causes(self, one: Entered) -> None:
        """Enter what explains a fault."""
        fault, found = one.fault, dict[str, tuple[Order, Cause]]()
        newest_ms = max(onsets_ms(fault))
        by_near = self._rows.explaining(fault.fault_class, fault.code)
        where = (((near, name), by_near[near]) for near in by_near for name in one.places.get(near, ()))
        for row, bucket in self._meeting(where):
            for began_ms, cause_id in bucket:
                if began_ms > newest_ms + row.before_ms:
                    break
                cause = self._in[cause_id].fault
                if cause is not fault and _is_in_time(row, cause, fault) and is_cause(row, cause):
                    order, known = _order(cause, fault, row), found.get(cause_id)
                    if known is None or order < known[0]:
                        found[cause_id] = order, row
        self.graph.explain(fault.fault_id, found)

    def _find_effects(self, one: Entered, since_ms: int | None) -> None:
        """Enter what a fault explains; where it has only gone on since `since_ms`, what it explains by that."""
        fault = one.fault
        for row, bucket in self._meeting(one.effects.items()):
            from_ms = fault.first_ms - row.before_ms if since_ms is None else since_ms + row.within_ms + 1
            if bucket[-1][0] < from_ms:
                continue
            until_ms = fault.last_ms + row.within_ms
            for at in range(bisect_left(bucket, (from_ms, _BEFORE_ALL)), len(bucket)):
                began_ms, effect_id = bucket[at]
                if began_ms > until_ms:
                    break
                effect = self._in[effect_id].fault
                if effect is not fault and (not row.effect_codes or effect.code in row.effect_codes):
                    self.graph.add(effect_id, _order(fault, effect, row), row)

    def _meeting(self, where: Iterable[tuple[Place, Mapping[str, Sequence[Cause]]]]) -> Iterator[tuple[Cause, _Bucket]]:
        """Each row, given by place and by the class that it is about, with the faults of that class that are there."""
        for place, by_class in where:
            for of_class, bucket in self._buckets.get(place, _NOTHING).items():
                for row in by_class.get(of_class, ()):
                    yield row, bucket

    def _explain_anew(self, crowded: set[str]) -> None:
        """Look once more for what explains some faults, of which not all explanations had been kept."""
        for fault_id in sorted(crowded):
            self._find_causes(self._in[fault_id])

    def _extend(self, known: Entered, fault: Fault) -> None:
        """A fault of which nothing that bears on its ties has changed, but that it goes on, or is over."""
        before = known.fault
        known.fault = fault
        if before.cleared_ms != fault.cleared_ms or before.severity != fault.severity:
            self._again.look(known)
        if fault.last_ms > before.last_ms:
            self._find_effects(known, before.last_ms)


def _bears_the_same(before: Fault, after: Fault) -> bool:
    """Whether nothing has changed that decides to which others a fault is tied, but for how long it goes on."""
    return (
        before.first_ms == after.first_ms
        and before.worsened_ms == after.worsened_ms
        and before.code == after.code
        and before.rule == after.rule
        and before.gpu == after.gpu
        and before.job == after.job
        and before.maintenance == after.maintenance
        and before.node == after.node
        and before.rack == after.rack
    )


def _order(cause: Fault, effect: Fault, row: Cause) -> Order:
    if cause.worsened_ms is None and effect.worsened_ms is None:  # the usual case, and the quick one
        away_ms = abs(effect.first_ms - cause.first_ms)
    else:
        away_ms = min(abs(one - other) for one in onsets_ms(effect) for other in onsets_ms(cause))
    return -row.weight, _PLACE[row.near], away_ms, cause.first_ms, cause.fault_id


def _is_in_time(row: Cause, cause: Fault, effect: Fault) -> bool:
    """Whether an effect began, or became worse, while a cause may have been what did it."""
    from_ms, until_ms = cause.first_ms - row.before_ms, cause.last_ms + row.within_ms
    worsened_ms = effect.worsened_ms
    return from_ms <= effect.first_ms <= until_ms or (worsened_ms is not None and from_ms <= worsened_ms <= until_ms)
