"""The bursts: faults of one class on the parts of one thing, closer together than chance has them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator

from schemas.catalog.causes import CommonCause
from streams.correlation.base_rates import HOUR_MS, FleetRates
from streams.correlation.bursts import Entry, Links, Pair, Run
from streams.correlation.places import Entered, Part, onsets_ms
from streams.correlation.rows import Rows
from streams.topology import Thing, Topology

_WHOLE_SHARE = 0.5
"""A rack counts as one part of a site from this share of its nodes on, and with two of them at least."""
_LOOK_BACK = 100
"""So many faults before one are looked at for the burst that it may belong to."""

_Burst = tuple[str, Thing]
"""Name of the row and the thing of faults that may be one burst."""


class Bursts:
    """What hangs together because so much of one thing fails at once."""

    def __init__(self, rows: Rows, topology: Topology, rates: FleetRates, chance: float) -> None:
        self._rows = rows
        self._topology = topology
        self._rates = rates
        self._chance = chance
        self._links = Links()
        self._runs: dict[_Burst, Run] = {}
        self._stale: set[_Burst] = set()

    def __len__(self) -> int:
        return len(self._runs) + len(self._links)

    def enter(self, one: Entered) -> None:
        """Take in a fault."""
        for row, thing, part in one.parts:
            run = self._runs.setdefault((row.name, thing), Run())
            for began_ms in onsets_ms(one.fault):
                run.enter(Entry(began_ms, part, one.fault.fault_id))
            self._stale.add((row.name, thing))

    def leave(self, one: Entered) -> None:
        """Forget a fault, as it was entered."""
        for row, thing, part in one.parts:
            for began_ms in onsets_ms(one.fault):
                self._runs[row.name, thing].entries.remove(Entry(began_ms, part, one.fault.fault_id))
            self._stale.add((row.name, thing))

    def settle(self) -> tuple[list[Pair], list[Pair]]:
        """The pairs that hang together since the last call, and those that no longer do."""
        for burst in sorted(self._stale):
            self._relink(burst)
        self._stale.clear()
        return self._links.settle()

    def neighbours(self, fault_id: str) -> Collection[str]:
        """The faults that came together with one, as far as they are linked with it."""
        return self._links.neighbours(fault_id)

    def all_with(self, fault_id: str) -> frozenset[str]:
        """All that came together with a fault, itself among them."""
        found, front = {fault_id}, [fault_id]
        while front:
            news = set(self._links.neighbours(front.pop())) - found
            found |= news
            front += news
        return frozenset(found)

    def before(self, part: Part, at_ms: int, fault_id: str) -> Iterator[str]:
        """The faults of bursts on a part's thing that began before one did there, the newest first."""
        run = self._runs[part.row.name, part.thing]
        end = bisect_left(run.entries, Entry(at_ms, part.name, fault_id))
        for entry in reversed(run.entries[max(0, end - _LOOK_BACK) : end]):
            if entry.fault_id in run.members:
                yield entry.fault_id

    def since(self, part: Part, from_ms: int, until_ms: int) -> Iterator[str]:
        """The faults on a part's thing that began in a span of time."""
        entries = self._runs[part.row.name, part.thing].entries
        for entry in entries[bisect_left(entries, (from_ms,)) :]:
            if entry.first_ms > until_ms:
                break
            yield entry.fault_id

    def rate_of(self, fault_class: str, thing: Thing | None) -> float:
        """Arrivals of a class an hour on all parts of a thing; on the whole fleet where it is None."""
        unit, topology = self._rates.unit(fault_class), self._topology
        if thing is None:
            many = topology.count(unit)
        elif unit == "gpu":
            many = topology.gpu_count(thing)
        else:
            many = 1 if thing[0] in {"node", "nvlink_domain", "job"} else topology.size(thing)
        return self._rates.per_hour(fault_class) * max(1, many)

    def _relink(self, burst: _Burst) -> None:
        (name, thing), run = burst, self._runs[burst]
        row = self._rows.common_by_name[name]
        if not run.linked:
            run.rate = self.rate_of(row.effect, thing) / HOUR_MS
        found = run.bursts(
            within_ms=row.within_ms,
            at_least=row.at_least,
            chance=self._chance,
            enough=self._enough(row, thing, run),
        )
        self._links.relink(run, set(found))
        if not run.entries:
            del self._runs[burst]

    def _enough(self, row: CommonCause, thing: Thing, run: Run) -> dict[str, int]:
        """How many faults each part must have to count: where parts are racks, not the first of its nodes."""
        if row.of != "site":
            return {}
        size = self._topology.gpu_count if self._rates.unit(row.effect) == "gpu" else self._topology.size
        racks = {entry.part for entry in run.entries}
        return {rack: max(2, round(_WHOLE_SHARE * size(("rack", thing[1], rack)))) for rack in racks}
