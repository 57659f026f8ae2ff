"""Which faults hang together, and by what: a known order of cause and effect, or more of them at once than by chance.

Three things tie two faults: a row of the causal table, by their classes, what they share and how far apart they are in
time; a thing that both are part of, where faults of their class come closer together than chance has them; and the
same trouble on the same component, soon after it was over. What follows from these ties (groups, roots) is decided
elsewhere, and depends only on the faults that are in, not on the order in which they came.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from schemas.catalog import SEVERITIES
from schemas.catalog.causes import ANY, NEARNESS, Cause, Causes, CommonCause, Near
from schemas.records import Fault
from streams.base_rates import HOUR_MS, FleetRates, most_for
from streams.topology import Thing, Topology, thing_of

MAINTENANCE = "maintenance"
_AROUND = frozenset({"rack", "pdu", "switch", "cooling", "meter", "site"})
"""Kinds of components that stand around nodes: never a part of what they feed or cool."""
_MOST_PARTS = 6
"""A burst is looked for among so many parts one after the other: more of them make no difference to what is chance."""
_SHORTEST_MS = 1000
"""What comes closer together is taken to come so close: no clock of a fleet is better."""
_WHOLE_SHARE = 0.5
"""A rack counts as one part of a site from this share of its nodes on, and with two of them at least."""
_BEFORE_ALL = ""
"""Sorts before every fault id."""

Place = tuple[Near, str]
"""What is shared: how near that is, and its name with its site."""
_Bucket = list[tuple[int, str]]
"""(first evidence, fault id), in order."""
_Life = tuple[str, str, str]
"""Site, component and class of faults that follow one another."""
_Burst = tuple[str, Thing]
"""Name of the row and the thing of faults that may be one burst."""


class Graph:
    """Who explains whom: fault id to the fault ids that it explains, each with the strongest row that says so."""

    __slots__ = ("causes", "effects")

    def __init__(self) -> None:
        self.effects: dict[str, dict[str, Cause]] = {}
        self.causes: dict[str, dict[str, Cause]] = {}
        """The same, the other way round."""

    def add(self, cause: str, effect: str, row: Cause) -> bool:
        """Enter a tie; the strongest between two stands. Gives whether anything changed."""
        known = self.effects.setdefault(cause, {}).get(effect)
        if known is not None and strength(known) >= strength(row):
            return False
        self.effects[cause][effect] = row
        self.causes.setdefault(effect, {})[cause] = row
        return True

    def remove(self, cause: str, effect: str, row: Cause) -> bool:
        """Take back a tie, where it is by that row. Gives whether anything changed."""
        if self.effects.get(cause, {}).get(effect) is not row:
            return False
        _cut(self.effects, cause, effect)
        _cut(self.causes, effect, cause)
        return True

    def drop(self, fault: str) -> set[str]:
        """Forget all ties of a fault; gives the faults that it explained."""
        effects = self.effects.pop(fault, {})
        for effect in effects:
            _cut(self.causes, effect, fault)
        for cause in self.causes.pop(fault, {}):
            _cut(self.effects, cause, fault)
        return set(effects)


def _cut(ties: dict[str, dict[str, Cause]], one: str, other: str) -> None:
    del ties[one][other]
    if not ties[one]:
        del ties[one]


def strength(row: Cause) -> tuple[float, int, str]:
    """The order among rows that tie the same two: the surer, then the nearer."""
    return row.weight, -NEARNESS.index(row.near), row.name


class Moved(NamedTuple):
    """Faults whose connections have changed."""

    grew: set[str]
    fell: set[str]


@dataclass(slots=True)
class _Run:
    """Faults of one class that may hang together: those on the parts of one thing, or of one component by and by."""

    entries: list[tuple[int, str, str]] = field(default_factory=list)
    """(first evidence, part, fault id), in order."""
    linked: set[tuple[str, str]] = field(default_factory=set)
    rate: float = 0.0
    """Arrivals a millisecond on the whole thing, by which the links were judged: a rate that changes parts nobody."""


@dataclass(slots=True)
class _Entered:
    """One fault, and under what it is entered."""

    fault: Fault
    jobs: tuple[str, ...]
    places: dict[Near, tuple[str, ...]]
    things: list[tuple[CommonCause, Thing, str]]
    """Of which things it is a part that may fail together, and as which part."""


class Ties:
    """All ties among the faults that are in. About 1 KB a fault, and 200 bytes a tie.

    `enter` and `leave` tell of faults, `settle` gives whose connections have changed since.
    """

    def __init__(self, table: Causes, topology: Topology, rates: FleetRates) -> None:
        self.graph = Graph()
        self._table = table
        self._topology = topology
        self._rates = rates
        self._rows = _rows(table)
        self._again = Cause(
            name="comes_back",
            cause=ANY,
            effect=ANY,
            near="component",
            within_ms=table.comes_back.within_ms,
            before_ms=0,
            reason=table.comes_back.reason,
        )
        self._in: dict[str, _Entered] = {}
        self._buckets: dict[tuple[Near, str, str], _Bucket] = {}
        """What is shared, by class, to who shares it."""
        self._lives: dict[_Life, _Run] = {}
        self._runs: dict[_Burst, _Run] = {}
        self._stale_lives: set[_Life] = set()
        self._stale: set[_Burst] = set()
        """Runs that have changed."""
        self._links: dict[str, dict[str, int]] = {}
        """Fault to those that it hangs together with for no known order, and by how many reasons."""
        self._parent: dict[str, str] = {}
        """Effect to the cause by which it hangs in its incident: the one that explains it best."""
        self._children: dict[str, set[str]] = {}
        self._grew: set[str] = set()
        self._fell: set[str] = set()

    def enter(self, fault: Fault, jobs: Iterable[str] = ()) -> tuple[str, ...]:
        """Take in a fault as it is known now; gives the jobs that ran on it, those named in `jobs` among them.

        What is known of jobs is never unlearnt: the inventory forgets them.
        """
        known = self._in.get(fault.fault_id)
        if known is not None and _bearing(known.fault) == _bearing(fault):
            self._extend(known, fault)
        else:
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
        for effect in self.graph.drop(fault_id):
            self._choose(effect)
        self._choose(fault_id)

    def settle(self) -> Moved:
        """Whose connections have grown or fallen away since the last call."""
        for life in sorted(self._stale_lives):
            self._link_lives(life)
        for key in sorted(self._stale):
            self._link_burst(key)
        self._stale_lives.clear()
        self._stale.clear()
        moved = Moved(self._grew & self._in.keys(), self._fell & self._in.keys())
        self._grew, self._fell = set(), set()
        return moved

    def neighbours(self, fault_id: str) -> Iterator[str]:
        """The faults with which one is in the same incident."""
        if fault_id in self._parent:
            yield self._parent[fault_id]
        yield from self._children.get(fault_id, ())
        yield from self._links.get(fault_id, ())

    def parent(self, fault_id: str) -> tuple[str, Cause] | None:
        """The cause that explains a fault best, and the row that says so."""
        cause = self._parent.get(fault_id)
        return None if cause is None else (cause, self.graph.causes[fault_id][cause])

    def jobs(self, fault_id: str) -> tuple[str, ...]:
        """The jobs that ran on what a fault is about, when it began."""
        return self._in[fault_id].jobs

    def things(self, fault_id: str) -> list[tuple[CommonCause, Thing, str]]:
        """Of which things a fault is on a part, and on which, where its class may be that of the thing."""
        return self._in[fault_id].things

    def is_again(self, row: Cause) -> bool:
        """Whether a tie only says that the same trouble is there again."""
        return row is self._again

    def rate_of(self, fault_class: str, thing: Thing | None) -> float:
        """Arrivals of a class an hour on all parts of a thing; on the whole fleet where it is None."""
        unit, topology = self._rates.unit(fault_class), self._topology
        if thing is None:
            many = topology.count(unit)
        elif unit == "gpu":
            many = topology.gpus_in(thing)
        else:
            many = 1 if thing[0] in {"node", "nvlink_domain", "job"} else topology.size(thing)
        return self._rates.per_hour(fault_class) * max(1, many)

    # --- entering and leaving -----------------------------------------------------------------------------------------

    def _put(self, fault: Fault, jobs: tuple[str, ...], known: _Entered | None) -> None:
        fault_id = fault.fault_id
        touched: set[str] = {fault_id}
        if known is not None:
            self._take_out(known)
            touched |= self.graph.drop(fault_id)
        one = self._in[fault_id] = self._placed(fault, jobs)
        for near, names in one.places.items():
            for name in names:
                for fault_class in self._rows.entered_as(fault.fault_class, near):
                    insort(self._buckets.setdefault((near, name, fault_class), []), (fault.first_ms, fault_id))
        for common, thing, part in one.things:
            self._stale.add((common.name, thing))
            insort(self._runs.setdefault((common.name, thing), _Run()).entries, (fault.first_ms, part, fault_id))
        life = _life(fault)
        self._stale_lives.add(life)
        insort(self._lives.setdefault(life, _Run()).entries, (fault.first_ms, "", fault_id))
        touched |= self._tie(one)
        for effect in touched:
            self._choose(effect)

    def _take_out(self, known: _Entered) -> None:
        """Out of all indexes; ties of the causal table are left to the graph."""
        fault, fault_id = known.fault, known.fault.fault_id
        for near, names in known.places.items():
            for name in names:
                for fault_class in self._rows.entered_as(fault.fault_class, near):
                    bucket = self._buckets[near, name, fault_class]
                    del bucket[bisect_left(bucket, (fault.first_ms, fault_id))]
                    if not bucket:
                        del self._buckets[near, name, fault_class]
        for common, thing, part in known.things:
            self._stale.add((common.name, thing))
            self._runs[common.name, thing].entries.remove((fault.first_ms, part, fault_id))
        life = _life(fault)
        self._stale_lives.add(life)
        self._lives[life].entries.remove((fault.first_ms, "", fault_id))

    def _placed(self, fault: Fault, jobs: tuple[str, ...]) -> _Entered:
        site = fault.site
        nears = self._rows.nears.get(fault.fault_class, frozenset()) | self._rows.any_nears
        commons = self._rows.common.get(fault.fault_class, ())
        if "job" in nears or any(row.of == "job" for row in commons):
            jobs = tuple(sorted({*jobs, *self._jobs(fault)}))
        places: dict[Near, tuple[str, ...]] = {}
        for near in nears:
            if near == "maintenance":
                named = fault.fault_id if fault.fault_class == MAINTENANCE else fault.maintenance
                places[near] = () if named is None else (named,)
            elif near == "job":
                places[near] = tuple("/".join(thing_of("job", site, job)) for job in jobs)
            else:
                shared = self._shared(near, fault)
                places[near] = () if shared is None else (f"{site}/{shared}",)
        things = []
        if fault.component_kind not in _AROUND and fault.maintenance is None:
            for row in commons:
                names = jobs if row.of == "job" else filter(None, (self._shared(row.of, fault),))
                part = fault.component if row.of in {"node", "nvlink_domain", "job"} else fault.node or fault.component
                part = fault.rack if row.of == "site" else part
                things += [(row, thing_of(row.of, site, name), part) for name in names]
        return _Entered(fault, jobs, places, things)

    def _shared(self, near: Near, fault: Fault) -> str | None:
        if near == "site":
            return fault.site
        return self._topology.shared(near, component=fault.component, gpu=fault.gpu, node=fault.node, rack=fault.rack)

    def _jobs(self, fault: Fault) -> Iterable[str]:
        if fault.component_kind == "gpu":
            job = fault.job or self._topology.job(fault.gpu, fault.first_ms)
            return () if job is None else (job,)
        if fault.component.startswith("rack:"):
            rack = fault.component.removeprefix("rack:")
            return self._topology.jobs_on(fault.site, fault.first_ms, rack=rack)
        return self._topology.jobs_on(fault.site, fault.first_ms, node=fault.node) if fault.node else ()

    # --- rows of the causal table -------------------------------------------------------------------------------------

    def _tie(self, one: _Entered) -> set[str]:
        """Enter what explains a fault and what it explains; gives the effects whose causes have changed."""
        fault, touched = one.fault, set()
        for row in self._rows.by_effect.get(fault.fault_class, self._rows.by_any):
            if row.effect_codes and fault.code not in row.effect_codes:
                continue
            for name in one.places.get(row.near, ()):
                for first_ms, cause_id in self._buckets.get((row.near, name, row.cause), ()):
                    if first_ms > fault.first_ms + row.before_ms:
                        break
                    cause = self._in[cause_id].fault
                    if cause is not fault and fault.first_ms <= cause.last_ms + row.within_ms and _causes(row, cause):
                        self.graph.add(cause_id, fault.fault_id, row)
        touched |= self._explain(one, None)
        return touched

    def _explain(self, one: _Entered, since_ms: int | None) -> set[str]:
        """Enter what a fault explains; where it has only gone on since `since_ms`, what it explains by that."""
        fault, touched = one.fault, set()
        for row in self._rows.by_cause.get(fault.fault_class, ()):
            if not _causes(row, fault):
                continue
            from_ms = fault.first_ms - row.before_ms if since_ms is None else since_ms + row.within_ms + 1
            until_ms = fault.last_ms + row.within_ms
            for name in one.places.get(row.near, ()):
                bucket = self._buckets.get((row.near, name, row.effect), [])
                for _, effect_id in bucket[bisect_left(bucket, (from_ms, _BEFORE_ALL)) :]:
                    effect = self._in[effect_id].fault
                    if effect.first_ms > until_ms:
                        break
                    fits = effect is not fault and (not row.effect_codes or effect.code in row.effect_codes)
                    if fits and self.graph.add(fault.fault_id, effect_id, row):
                        touched.add(effect_id)
        return touched

    def _extend(self, known: _Entered, fault: Fault) -> None:
        """A fault of which nothing that bears on its ties has changed, but that it goes on."""
        before_ms = known.fault.last_ms
        if (known.fault.cleared_ms, known.fault.severity) != (fault.cleared_ms, fault.severity):
            self._stale_lives.add(_life(fault))
        known.fault = fault
        if fault.last_ms > before_ms:
            for effect in self._explain(known, before_ms):
                self._choose(effect)

    def _choose(self, effect: str) -> None:
        """Find the cause by which a fault hangs in its incident: the surest, then the nearest in place, then in time.

        One only: a symptom that two causes explain does not make them one incident.
        """
        chosen = None
        causes = self.graph.causes.get(effect)
        if causes:
            first_ms = self._in[effect].fault.first_ms

            def order(cause: str) -> tuple[float, int, int, int, str]:
                row, fault = causes[cause], self._in[cause].fault
                away_ms = max(fault.first_ms - first_ms, first_ms - fault.last_ms, 0)
                return -row.weight, NEARNESS.index(row.near), away_ms, fault.first_ms, cause

            chosen = min((cause for cause, row in causes.items() if row is not self._again), key=order, default=None)
        before = self._parent.get(effect)
        if before == chosen:
            return
        if before is not None:
            del self._parent[effect]
            self._children[before].discard(effect)
            if not self._children[before]:
                del self._children[before]
            self._fell |= {before, effect}
        if chosen is not None:
            self._parent[effect] = chosen
            self._children.setdefault(chosen, set()).add(effect)
            self._grew |= {chosen, effect}

    # --- the same trouble again ---------------------------------------------------------------------------------------

    def _link_lives(self, life: _Life) -> None:
        run = self._lives[life]
        lives = [fault_id for _, _, fault_id in run.entries]
        linked = {pair for pair in pairwise(lives) if self._comes_back(*pair)}
        for first, second in run.linked - linked:
            if self.graph.remove(first, second, self._again):
                self._choose(second)
        for first, second in linked:
            if self.graph.add(first, second, self._again):
                self._choose(second)
        self._relink(run, linked)
        if not lives:
            del self._lives[life]

    def _comes_back(self, first: str, second: str) -> bool:
        before, after = self._in[first].fault, self._in[second].fault
        if before.cleared_ms is None or SEVERITIES[0] in {before.severity, after.severity}:
            return False  # what is no trouble comes and goes as it likes
        gap_ms = max(_SHORTEST_MS, after.first_ms - before.cleared_ms)
        by_chance = self._rates.per_hour(after.fault_class) * gap_ms / HOUR_MS
        return gap_ms <= self._table.comes_back.within_ms and by_chance < most_for(1, self._table.chance)

    # --- more at once than by chance ----------------------------------------------------------------------------------

    def _link_burst(self, key: _Burst) -> None:
        (name, thing), run = key, self._runs[key]
        common = self._rows.common_by_name[name]
        if not run.linked:
            run.rate = self.rate_of(common.effect, thing) / HOUR_MS
        self._relink(run, set(_bursts(run, common, self._table.chance, self._enough(common, thing, run))))
        if not run.entries:
            del self._runs[key]

    def _enough(self, common: CommonCause, thing: Thing, run: _Run) -> dict[str, int]:
        """How many faults each part must have to count as one: where parts are racks, not the first of its nodes."""
        if common.of != "site":
            return {}
        racks = {rack for _, rack, _ in run.entries}
        size = self._topology.gpus_in if self._rates.unit(common.effect) == "gpu" else self._topology.size
        return {rack: max(2, round(_WHOLE_SHARE * size(("rack", thing[1], rack)))) for rack in racks}

    def _relink(self, run: _Run, linked: set[tuple[str, str]]) -> None:
        for first, second in run.linked - linked:
            self._unlink(first, second)
        for first, second in linked - run.linked:
            self._link(first, second)
        run.linked = linked

    def _link(self, first: str, second: str) -> None:
        for one, other in ((first, second), (second, first)):
            links = self._links.setdefault(one, {})
            links[other] = links.get(other, 0) + 1
        self._grew |= {first, second}

    def _unlink(self, first: str, second: str) -> None:
        for one, other in ((first, second), (second, first)):
            links = self._links[one]
            links[other] -= 1
            if not links[other]:
                del links[other]
            if not links:
                del self._links[one]
        self._fell |= {first, second}


def _life(fault: Fault) -> _Life:
    return fault.site, fault.component, fault.fault_class


def _bearing(fault: Fault) -> tuple[object, ...]:
    """What decides to which others a fault is tied, but for how long it goes on."""
    return (
        fault.fault_class,
        fault.code,
        fault.rule,
        fault.first_ms,
        fault.component,
        fault.gpu,
        fault.node,
        fault.rack,
        fault.job,
        fault.maintenance,
    )


def _causes(row: Cause, cause: Fault) -> bool:
    """Whether a fault is of the kind that a row has for a cause; its class is."""
    return (
        (not row.cause_codes or cause.code in row.cause_codes)
        and (not row.cause_kinds or cause.component_kind in row.cause_kinds)
        and (not row.cause_rules or cause.rule in row.cause_rules)
    )


def _bursts(run: _Run, common: CommonCause, chance: float, enough: dict[str, int]) -> Iterator[tuple[str, str]]:
    """The pairs of faults that hang together because so many parts have failed in so short a time.

    Of each part the first fault counts; what follows on the same part hangs on that one.
    """
    leaders: list[list[tuple[int, str, str]]] = []
    last: dict[str, list[tuple[int, str, str]]] = {}
    for entry in run.entries:
        led = last.get(entry[1])
        if led is not None and entry[0] - led[0][0] <= common.within_ms:
            led.append(entry)
        else:
            leaders.append(led := [entry])
            last[entry[1]] = led
    leaders = [led for led in leaders if len(led) >= enough.get(led[0][1], 1)]
    together = [False] * len(leaders)
    """Whether a leader hangs together with the next one."""
    for first in range(len(leaders)):
        parts = {leaders[first][0][1]}
        for end in range(first + 1, len(leaders)):
            at_ms, part, _ = leaders[end][0]
            parts.add(part)
            if at_ms - leaders[end - 1][0][0] > common.within_ms or len(parts) > _MOST_PARTS:
                break
            lasts_ms = max(_SHORTEST_MS, at_ms - leaders[first][0][0])
            if len(parts) >= common.at_least and run.rate * lasts_ms < most_for(len(parts) - 1, chance):
                together[first:end] = [True] * (end - first)
    for number, led in enumerate(leaders):
        if together[number]:
            yield led[0][2], leaders[number + 1][0][2]
        if together[number] or (number and together[number - 1]):
            yield from ((led[0][2], other) for _, _, other in led[1:])


class _Rows(NamedTuple):
    """The table by classes."""

    by_cause: dict[str, list[Cause]]
    by_effect: dict[str, list[Cause]]
    """With those that explain any class."""
    by_any: list[Cause]
    nears: dict[str, frozenset[Near]]
    """Fault class to the distances at which it can be tied to anything."""
    any_nears: frozenset[Near]
    common: dict[str, list[CommonCause]]
    common_by_name: dict[str, CommonCause]

    def entered_as(self, fault_class: str, near: Near) -> tuple[str, ...]:
        """The classes under which a fault is looked for at a distance."""
        return (fault_class, ANY) if near in self.any_nears else (fault_class,)


def _rows(table: Causes) -> _Rows:
    by_cause: dict[str, list[Cause]] = {}
    by_any = [row for row in table.causes if row.effect == ANY]
    by_effect: dict[str, list[Cause]] = {row.effect: list(by_any) for row in table.causes if row.effect != ANY}
    nears: dict[str, set[Near]] = {}
    common: dict[str, list[CommonCause]] = {}
    for row in table.causes:
        by_cause.setdefault(row.cause, []).append(row)
        nears.setdefault(row.cause, set()).add(row.near)
        if row.effect != ANY:
            by_effect[row.effect].append(row)
            nears.setdefault(row.effect, set()).add(row.near)
    for common_row in table.common_causes:
        common.setdefault(common_row.effect, []).append(common_row)
    return _Rows(
        by_cause,
        by_effect,
        by_any,
        {name: frozenset(found) for name, found in nears.items()},
        frozenset(row.near for row in by_any),
        common,
        {row.name: row for row in table.common_causes},
    )
