"""Which faults hang together, and by what: a known order of cause and effect, or more of them at once than by chance.

Three things tie two faults: a row of the causal table, by their classes, what they share and how far apart they are in
time; a thing that both are part of, where faults of their class come closer together than chance has them; and the
same trouble on the same component, soon after it was over. What follows from these ties (groups, roots) is decided
elsewhere, and depends only on the faults that are in, not on the order in which they came.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from schemas.catalog import SEVERITIES
from schemas.catalog.causes import ANY, NEARNESS, Cause, Causes, CommonCause, Near
from schemas.records import Fault
from streams.correlation.base_rates import HOUR_MS, FleetRates, most_for
from streams.correlation.bursts import SHORTEST_MS, Entry, Links, Run
from streams.correlation.graph import Graph, Order
from streams.correlation.rows import Rows
from streams.topology import Thing, Topology, thing_of

MAINTENANCE = "maintenance"
AGAIN = "comes_back"
"""By what the same trouble hangs on the one before; the name of a row that every table has."""
AROUND = frozenset({"rack", "pdu", "switch", "cooling", "meter", "site"})
"""Kinds of components that stand around nodes: never a part of what they feed or cool."""
_WHOLE_SHARE = 0.5
"""A rack counts as one part of a site from this share of its nodes on, and with two of them at least."""
_BEFORE_ALL = ""
"""Sorts before every fault id."""
_LOOK_BACK = 100
"""So many faults before one are looked at for the burst that it may belong to."""
_PLACE = {near: place for place, near in enumerate(NEARNESS)}

_Key = tuple[Near, str, str]
"""What is shared, how near that is, and the class of who shares it."""
_Bucket = list[tuple[int, str]]
"""(when it began, or became worse; fault id), in order."""
_Life = tuple[str, str, str]
"""Site, component and class of faults that follow one another."""
_Burst = tuple[str, Thing]
"""Name of the row and the thing of faults that may be one burst."""


class Moved(NamedTuple):
    """Faults whose connections have changed."""

    grew: set[str]
    fell: set[str]
    explained: set[str]
    """Faults that have other explanations than before: a root may be another one for it."""


class Part(NamedTuple):
    """A part of a thing that a fault is on, and the row by which the thing may be the cause."""

    row: CommonCause
    thing: Thing
    name: str


@dataclass(slots=True)
class _Entered:
    """One fault, and under what it is entered."""

    fault: Fault
    jobs: tuple[str, ...]
    places: dict[Near, tuple[str, ...]]
    parts: list[Part]
    effects: list[tuple[Cause, _Key]]
    """By which rows it may explain others, and under what these are to be found."""


class _Seen(NamedTuple):
    """What was found out about the same trouble coming back, for as long as nothing changes. By fault id."""

    bursts: dict[str, frozenset[str]]
    """What came together with each."""
    before: dict[str, str | None]
    known: dict[str, bool]
    """Whether most of its burst had such trouble lately."""


class Ties:
    """All ties among the faults that are in. About 1 KB a fault, and 300 bytes a tie.

    `enter` and `leave` tell of faults, `settle` gives whose connections have changed since.
    """

    def __init__(self, table: Causes, topology: Topology, rates: FleetRates) -> None:
        self.graph = Graph()
        self._together = Links()
        """Bursts."""
        self._again = Links()
        """The same trouble again."""
        self._table = table
        self._topology = topology
        self._rates = rates
        self._rows = Rows(table)
        self._in: dict[str, _Entered] = {}
        self._buckets: dict[_Key, _Bucket] = {}
        self._lives: dict[_Life, Run] = {}
        self._bursts: dict[_Burst, Run] = {}
        self._stale_lives: set[_Life] = set()
        self._stale_bursts: set[_Burst] = set()
        self._next: dict[str, set[str]] = {}
        """Fault to those that are the same trouble again."""

    def __len__(self) -> int:
        indexes = len(self._buckets) + len(self._lives) + len(self._bursts)
        return len(self._in) + indexes + len(self._next) + len(self.graph) + len(self._together) + len(self._again)

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
        for burst in sorted(self._stale_bursts):
            self._link_burst(burst)
        self._stale_bursts.clear()
        links = self._together.settle()
        # a cause is no other trouble for one more effect
        self._link_lives({effect for _, effect in chain(*ties)} | set(chain.from_iterable(chain(*links))))
        lives = self._again.settle()
        grew, fell = (set(chain.from_iterable(chain(*pairs))) for pairs in zip(ties, links, lives, strict=True))
        return Moved(*(faults & self._in.keys() for faults in (grew, fell, explained)))

    def neighbours(self, fault_id: str) -> Iterator[str]:
        """The faults with which one is in the same incident."""
        yield from self.graph.neighbours(fault_id)
        yield from self._together.neighbours(fault_id)
        yield from self._again.neighbours(fault_id)

    def effects(self, fault_id: str) -> Iterator[tuple[str, float, str]]:
        """What a fault explains: (fault id, how surely, the name of the row that says so)."""
        for effect, row in self.graph.effects.get(fault_id, {}).items():
            yield effect, row.weight, row.name
        for again in self._next.get(fault_id, ()):
            yield again, 1.0, AGAIN

    def jobs(self, fault_id: str) -> tuple[str, ...]:
        """The jobs that ran on what a fault is about, when it began."""
        return self._in[fault_id].jobs

    def parts(self, fault_id: str) -> list[Part]:
        """The things that may be the cause where many of their parts have such a fault."""
        return self._in[fault_id].parts

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

    # --- entering and leaving -----------------------------------------------------------------------------------------

    def _put(self, fault: Fault, jobs: tuple[str, ...], known: _Entered | None) -> None:
        fault_id, crowded = fault.fault_id, set()
        if known is not None:
            self._take_out(known)
            crowded = self.graph.drop(fault_id)
        one = self._in[fault_id] = self._placed(fault, jobs)
        for key in self._keys(one):
            for began_ms in _onsets_ms(fault):
                insort(self._buckets.setdefault(key, []), (began_ms, fault_id))
        for row, thing, part in one.parts:
            run = self._bursts.setdefault((row.name, thing), Run())
            for began_ms in _onsets_ms(fault):
                run.enter(Entry(began_ms, part, fault_id))
            self._stale_bursts.add((row.name, thing))
        life = _life(fault)
        self._lives.setdefault(life, Run()).enter(Entry(fault.first_ms, "", fault_id))
        self._stale_lives.add(life)
        self._find_causes(one)
        self._find_effects(one, None)
        self._explain_anew(crowded)

    def _take_out(self, known: _Entered) -> None:
        """Out of all indexes; ties of the causal table are left to the graph."""
        fault, fault_id = known.fault, known.fault.fault_id
        for key in self._keys(known):
            bucket = self._buckets[key]
            for began_ms in _onsets_ms(fault):
                del bucket[bisect_left(bucket, (began_ms, fault_id))]
            if not bucket:
                del self._buckets[key]
        for row, thing, part in known.parts:
            for began_ms in _onsets_ms(fault):
                self._bursts[row.name, thing].entries.remove(Entry(began_ms, part, fault_id))
            self._stale_bursts.add((row.name, thing))
        life = _life(fault)
        self._lives[life].entries.remove(Entry(fault.first_ms, "", fault_id))
        self._stale_lives.add(life)

    def _keys(self, one: _Entered) -> Iterator[_Key]:
        """Under what a fault is looked for."""
        for near, names in one.places.items():
            for name in names:
                yield near, name, one.fault.fault_class
                if near in self._rows.any_nears:
                    yield near, name, ANY

    def _placed(self, fault: Fault, jobs: tuple[str, ...]) -> _Entered:
        site, rows = fault.site, self._rows
        if fault.fault_class in rows.of_jobs:
            jobs = tuple(sorted({*jobs, *self._jobs(fault)}))
        places: dict[Near, tuple[str, ...]] = {}
        names: tuple[str, ...]
        for near in rows.nears_of(fault.fault_class, fault.code):
            if near == "maintenance":
                named = fault.fault_id if fault.fault_class == MAINTENANCE else fault.maintenance
                names = () if named is None else (named,)
            elif near == "job":
                names = tuple("/".join(thing_of("job", site, job)) for job in jobs)
            else:
                shared = self._shared(near, fault)
                names = () if shared is None else (f"{site}/{shared}",)
            if names:
                places[near] = names
        parts = []
        if fault.component_kind not in AROUND and fault.maintenance is None:
            for row in rows.common.get(fault.fault_class, ()):
                shared_by = jobs if row.of == "job" else filter(None, (self._shared(row.of, fault),))
                part = fault.component if row.of in {"node", "nvlink_domain", "job"} else fault.node or fault.component
                part = fault.rack if row.of == "site" else part
                parts += [Part(row, thing_of(row.of, site, name), part) for name in shared_by]
        effects: list[tuple[Cause, _Key]] = [
            (cause, (cause.near, name, cause.effect))
            for cause in rows.explained_by(fault.fault_class, fault.code)
            if _is_cause(cause, fault)
            for name in places.get(cause.near, ())
        ]
        return _Entered(fault, jobs, places, parts, effects)

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

    def _find_causes(self, one: _Entered) -> None:
        """Enter what explains a fault."""
        fault, found = one.fault, dict[str, tuple[Order, Cause]]()
        newest_ms = max(_onsets_ms(fault))
        for row in self._rows.explaining(fault.fault_class, fault.code):
            for name in one.places.get(row.near, ()):
                for began_ms, cause_id in self._buckets.get((row.near, name, row.cause), ()):
                    if began_ms > newest_ms + row.before_ms:
                        break
                    cause = self._in[cause_id].fault
                    if cause is not fault and _is_in_time(row, cause, fault) and _is_cause(row, cause):
                        order, known = _order(cause, fault, row), found.get(cause_id)
                        if known is None or order < known[0]:
                            found[cause_id] = order, row
        self.graph.explain(fault.fault_id, found)

    def _find_effects(self, one: _Entered, since_ms: int | None) -> None:
        """Enter what a fault explains; where it has only gone on since `since_ms`, what it explains by that."""
        fault = one.fault
        for row, key in one.effects:
            bucket = self._buckets.get(key)
            from_ms = fault.first_ms - row.before_ms if since_ms is None else since_ms + row.within_ms + 1
            if bucket is None or bucket[-1][0] < from_ms:
                continue
            until_ms = fault.last_ms + row.within_ms
            for at in range(bisect_left(bucket, (from_ms, _BEFORE_ALL)), len(bucket)):
                began_ms, effect_id = bucket[at]
                if began_ms > until_ms:
                    break
                effect = self._in[effect_id].fault
                if effect is not fault and (not row.effect_codes or effect.code in row.effect_codes):
                    self.graph.add(effect_id, _order(fault, effect, row), row)

    def _explain_anew(self, crowded: set[str]) -> None:
        """Look once more for what explains some faults, of which not all explanations had been kept."""
        for fault_id in sorted(crowded):
            self._find_causes(self._in[fault_id])

    def _extend(self, known: _Entered, fault: Fault) -> None:
        """A fault of which nothing that bears on its ties has changed, but that it goes on, or is over."""
        before = known.fault
        known.fault = fault
        if before.cleared_ms != fault.cleared_ms or before.severity != fault.severity:
            self._stale_lives.add(_life(fault))
            self._stale_lives.update(self._after(known))
        if fault.last_ms > before.last_ms:
            self._find_effects(known, before.last_ms)

    # --- the same trouble again, and more at once than by chance ------------------------------------------------------

    def _link_lives(self, moved: Iterable[str]) -> None:
        """Link what is the same trouble again, where it has changed or hangs on others than before."""
        seen = _Seen({}, {}, {})
        for fault_id in moved:
            if (known := self._in.get(fault_id)) is not None:
                self._stale_lives.add(_life(known.fault))
                self._stale_lives.update(self._after(known))
        # a burst is judged as a whole
        in_them = (entry.fault_id for life in self._stale_lives for entry in self._lives[life].entries)
        bursts = {self._burst_of(fault_id, seen) for fault_id in in_them}
        self._stale_lives.update(_life(self._in[fault_id].fault) for fault_id in chain(*bursts))
        for life in sorted(self._stale_lives):
            run = self._lives[life]
            if len(run.entries) == 1 and not run.linked and not self._in[run.entries[0].fault_id].parts:
                continue
            linked = {
                (before, entry.fault_id) for entry in run.entries if (before := self._is_again(entry.fault_id, seen))
            }
            for first, second in run.linked - linked:
                self._next[first].discard(second)
                if not self._next[first]:
                    del self._next[first]
            for first, second in linked - run.linked:
                self._next.setdefault(first, set()).add(second)
            self._again.relink(run, linked)
            if not run.entries:
                del self._lives[life]
        self._stale_lives.clear()

    def _is_again(self, fault_id: str, seen: _Seen) -> str | None:
        """The fault that is there again with this one; None where it is part of something new.

        It is where it has a cause of its own, or where it comes with many others that had no such trouble lately: a
        node that has just been mended goes dark with all that hangs on its PDU.
        """
        before = self._before(fault_id, seen)
        if before is None or self.graph.parent(fault_id) is not None:
            return None
        burst = self._burst_of(fault_id, seen)
        if fault_id not in seen.known:
            known = sum(self._before(other, seen) is not None for other in burst)
            seen.known.update(dict.fromkeys(burst, 2 * known > len(burst)))
        return before if seen.known[fault_id] else None

    def _burst_of(self, fault_id: str, seen: _Seen) -> frozenset[str]:
        """All that came together with a fault, itself among them."""
        if fault_id not in seen.bursts:
            found, front = {fault_id}, [fault_id]
            while front:
                news = set(self._together.neighbours(front.pop())) - found
                found |= news
                front += news
            burst = frozenset(found)
            seen.bursts.update(dict.fromkeys(burst, burst))
        return seen.bursts[fault_id]

    def _before(self, fault_id: str, seen: _Seen) -> str | None:
        """The same trouble until shortly before: on the component, or on another part of a thing that had a burst."""
        if fault_id in seen.before:
            return seen.before[fault_id]
        after = self._in[fault_id]
        at, lives = after.fault.first_ms, self._lives[_life(after.fault)].entries
        earlier = lives[max(0, bisect_left(lives, Entry(at, "", fault_id)) - 1) :][:1]
        for row, thing, name in after.parts:
            entries = self._bursts[row.name, thing].entries
            end = bisect_left(entries, Entry(at, name, fault_id))
            earlier += [one for one in reversed(entries[max(0, end - _LOOK_BACK) : end]) if self._together.has(one[2])]
        found = (one.fault_id for one in earlier if self._comes_back(self._in[one.fault_id].fault, after.fault))
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

    def _after(self, known: _Entered) -> Iterator[_Life]:
        """The faults on other parts of the same things that may be the trouble of one that has just ended."""
        over_ms = known.fault.cleared_ms
        if over_ms is None:
            return
        for row, thing, _ in known.parts:
            entries = self._bursts[row.name, thing].entries
            for entry in entries[bisect_left(entries, (over_ms,)) :]:
                if entry.first_ms > over_ms + self._table.comes_back.within_ms:
                    break
                yield _life(self._in[entry.fault_id].fault)

    def _link_burst(self, burst: _Burst) -> None:
        (name, thing), run = burst, self._bursts[burst]
        row = self._rows.common_by_name[name]
        if not run.linked:
            run.rate = self.rate_of(row.effect, thing) / HOUR_MS
        found = run.bursts(
            within_ms=row.within_ms,
            at_least=row.at_least,
            chance=self._table.chance,
            enough=self._enough(row, thing, run),
        )
        self._together.relink(run, set(found))
        if not run.entries:
            del self._bursts[burst]

    def _enough(self, row: CommonCause, thing: Thing, run: Run) -> dict[str, int]:
        """How many faults each part must have to count: where parts are racks, not the first of its nodes."""
        if row.of != "site":
            return {}
        size = self._topology.gpu_count if self._rates.unit(row.effect) == "gpu" else self._topology.size
        racks = {entry.part for entry in run.entries}
        return {rack: max(2, round(_WHOLE_SHARE * size(("rack", thing[1], rack)))) for rack in racks}


def _life(fault: Fault) -> _Life:
    return fault.site, fault.component, fault.fault_class


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
    away_ms = min(abs(one - other) for one in _onsets_ms(effect) for other in _onsets_ms(cause))
    return -row.weight, _PLACE[row.near], away_ms, cause.first_ms, cause.fault_id


def _onsets_ms(fault: Fault) -> tuple[int, ...]:
    """When a fault began; and when it became what it is, where it was an early warning before."""
    return (fault.first_ms,) if fault.worsened_ms is None else (fault.first_ms, fault.worsened_ms)


def _is_in_time(row: Cause, cause: Fault, effect: Fault) -> bool:
    """Whether an effect began, or became worse, while a cause may have been what did it."""
    from_ms, until_ms = cause.first_ms - row.before_ms, cause.last_ms + row.within_ms
    return any(from_ms <= began_ms <= until_ms for began_ms in _onsets_ms(effect))


def _is_cause(row: Cause, cause: Fault) -> bool:
    """Whether a fault is of the kind that a row has for a cause; its class is."""
    return (
        (not row.cause_codes or cause.code in row.cause_codes)
        and (not row.cause_kinds or cause.component_kind in row.cause_kinds)
        and (not row.cause_rules or cause.rule in row.cause_rules)
    )
