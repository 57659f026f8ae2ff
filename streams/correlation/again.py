"""The same trouble soon after it was over: on one component, or on another part of a thing that had a burst of it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from schemas.catalog import SEVERITIES
from schemas.catalog.causes import Causes
from schemas.records import Fault
from streams.correlation.base_rates import HOUR_MS, FleetRates, most_for
from streams.correlation.bursts import SHORTEST_MS, Entry, Links, Pair, Run
from streams.correlation.graph import Graph
from streams.correlation.places import Entered
from streams.correlation.together import Bursts

_Life = tuple[str, str, str]
"""Site, component and class of faults that follow one another."""


class _Seen(NamedTuple):
    """What was found out for as long as nothing changes. By fault id."""

    bursts: dict[str, frozenset[str]]
    """What came together with each."""
    before: dict[str, str | None]
    known: dict[str, bool]
    """Whether most of its burst had such trouble lately."""


class Again:
    """Which faults are the same trouble as one before."""

    def __init__(
        self, table: Causes, rates: FleetRates, graph: Graph, together: Bursts, entered: Mapping[str, Entered]
    ) -> None:
        """What hangs on what is asked of `graph` and `together`; `entered` are the faults that are in, by id."""
        self._table = table
        self._rates = rates
        self._graph = graph
        self._together = together
        self._in = entered
        self._links = Links()
        self._runs: dict[_Life, Run] = {}
        self._stale: set[_Life] = set()
        self._next: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._runs) + len(self._links) + len(self._next)

    def enter(self, fault: Fault) -> None:
        """Take in a fault."""
        life = _life(fault)
        self._runs.setdefault(life, Run()).enter(Entry(fault.first_ms, "", fault.fault_id))
        self._stale.add(life)

    def leave(self, fault: Fault) -> None:
        """Forget a fault, as it was entered."""
        life = _life(fault)
        self._runs[life].entries.remove(Entry(fault.first_ms, "", fault.fault_id))
        self._stale.add(life)

    def look(self, known: Entered) -> None:
        """A fault is over, or is not over any more, or hangs on others: it, and what came after it, are looked at."""
        self._stale.add(_life(known.fault))
        self._stale.update(self._after(known))

    def settle(self, moved: Iterable[str]) -> tuple[list[Pair], list[Pair]]:
        """The pairs that are the same trouble since the last call, and those that no longer are.

        `moved`: faults that hang on others than before.
        """
        for fault_id in moved:
            if (known := self._in.get(fault_id)) is not None:
                self.look(known)
        seen = _Seen({}, {}, {})
        # a burst is judged as a whole
        in_them = (entry.fault_id for life in self._stale for entry in self._runs[life].entries)
        bursts = {self._burst_of(fault_id, seen) for fault_id in in_them}
        self._stale.update(_life(self._in[fault_id].fault) for fault_id in chain(*bursts))
        for life in sorted(self._stale):
            self._relink(life, seen)
        self._stale.clear()
        return self._links.settle()

    def neighbours(self, fault_id: str) -> Collection[str]:
        """What came before and after a fault."""
        return self._links.neighbours(fault_id)

    def after(self, fault_id: str) -> Iterable[str]:
        """The faults that are the trouble of one again."""
        return self._next.get(fault_id, ())

    def _relink(self, life: _Life, seen: _Seen) -> None:
        run = self._runs[life]
        if len(run.entries) == 1 and not run.linked and not self._in[run.entries[0].fault_id].parts:
            return
        linked = {(before, entry.fault_id) for entry in run.entries if (before := self._is_again(entry.fault_id, seen))}
        for first, second in run.linked - linked:
            self._next[first].discard(second)
            if not self._next[first]:
                del self._next[first]
        for first, second in linked - run.linked:
            self._next.setdefault(first, set()).add(second)
        self._links.relink(run, linked)
        if not run.entries:
            del self._runs[life]

    def _is_again(self, fault_id: str, seen: _Seen) -> str | None:
        """The fault that is there again with this one; None where it is part of something new.

        It is where it has a cause of its own, or where it comes with many others that had no such trouble lately: a
        node that has just been mended goes dark with all that hangs on its PDU.
        """
        before = self._before(fault_id, seen)
        if before is None or self._graph.parent(fault_id) is not None:
            return None
        burst = self._burst_of(fault_id, seen)
        if fault_id not in seen.known:
            known = sum(self._before(other, seen) is not None for other in burst)
            seen.known.update(dict.fromkeys(burst, 2 * known > len(burst)))
        return before if seen.known[fault_id] else None

    def _burst_of(self, fault_id: str, seen: _Seen) -> frozenset[str]:
        if fault_id not in seen.bursts:
            burst = self._together.all_with(fault_id)
            seen.bursts.update(dict.fromkeys(burst, burst))
        return seen.bursts[fault_id]

    def _before(self, fault_id: str, seen: _Seen) -> str | None:
        """The same trouble until shortly before: on the component, or on another part of a thing that had a burst."""
        if fault_id in seen.before:
            return seen.before[fault_id]
        after = self._in[fault_id]
        at_ms, lives = after.fault.first_ms, self._runs[_life(after.fault)].entries
        earlier = [one.fault_id for one in lives[: bisect_left(lives, Entry(at_ms, "", fault_id))][-1:]]
        on_others = (self._together.before(part, at_ms, fault_id) for part in after.parts)
        found = (one for one in chain(earlier, *on_others) if self._comes_back(self._in[one].fault, after.fault))
        seen.before[fault_id] = next(found, None)
        return seen.before[fault_id]

    def _comes_back(self, before: Fault, after: Fault) -> bool:
        """Whether one was over so shortly before the other began that this is no chance."""
        if before.cleared_ms is None or SEVERITIES[0] in {before.severity, after.severity}:
            return False  # what is no trouble comes and goes as it likes
        gap_ms = max(SHORTEST_MS, after.first_ms - before.cleared_ms)
        by_chance = self._rates.per_hour(after.fault_class) * gap_ms / HOUR_MS
        is_after = before.component == after.component or before.cleared_ms <= after.first_ms
        return is_after and gap_ms <= self._table.comes_back.within_ms and by_chance < most_for(1, self._table.chance)

    def _after(self, known: Entered) -> Iterator[_Life]:
        """The faults on other parts of the same things that may be the trouble of one that has just ended."""
        over_ms = known.fault.cleared_ms
        if over_ms is None:
            return
        for part in known.parts:
            for fault_id in self._together.since(part, over_ms, over_ms + self._table.comes_back.within_ms):
                yield _life(self._in[fault_id].fault)


def _life(fault: Fault) -> _Life:
    return fault.site, fault.component, fault.fault_class
