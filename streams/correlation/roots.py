"""What a group of faults points at: every candidate for its root, scored, and what would tell them apart.

A candidate is one of the faults, or a thing that many of them share. Its score is the product of how much of the group
it explains, how well that agrees with cause and effect, and how surely it is no coincidence. The best one is the root.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import fsum
from typing import NamedTuple

from schemas.catalog import ACTIONS, SEVERITIES
from schemas.catalog.causes import Causes, CommonCause, Of
from schemas.ids import device_id, node_id, rack_id
from schemas.records import Alternative, Fault
from streams.correlation.base_rates import HOUR_MS, chance_of
from streams.correlation.bursts import SHORTEST_MS
from streams.correlation.ties import Ties
from streams.topology import Thing, Topology, thing_of

STRONG = 0.5
"""From this weight on a row says what causes what."""
_COMPANY = 0.1
"""So much one of many on the same thing explains of the others: it was there, too."""
_EARLY = 0.2
"""So much of its score a candidate loses that comes after all that it explains."""
_FAULTS = 32
"""Of a group's faults so many are weighed as its root: those that explain most by themselves."""
_ALTERNATIVES = 3
_LEAST_SCORE = 0.05
"""What explains less is no explanation that anybody would look into."""
_ANYWAY = "Mend {component} where that is cheap: if the others go on, look at {root}."
KIND: Mapping[Of, str] = {
    "node": "node",
    "nvlink_domain": "NVLink domain",
    "pdu": "PDU",
    "leaf_switch": "leaf switch",
    "rack": "rack",
    "job": "job",
    "site": "site",
}
_PARTS: Mapping[Of, str] = {"node": "GPUs", "nvlink_domain": "GPUs", "job": "GPUs", "site": "racks"}

_Explained = dict[str, tuple[float, str]]
"""Fault id to how surely it is explained, and by which row."""
_NOT_AT_ALL = (0.0, "")


class Together(NamedTuple):
    """What fails together, where the root is what it shares."""

    thing: Thing
    parts: str
    """How many of what, in words."""
    faults: tuple[Fault, ...]
    """Those on its parts."""
    pages: bool
    """Whether so much of it fails that it wakes somebody by itself."""


@dataclass(slots=True)
class Candidate:
    """One explanation of a group."""

    score: float
    component: str
    fault: Fault
    """The fault itself, or the first on the thing."""
    explains: _Explained
    because: str
    tell_apart: str
    together: Together | None = None
    rank: tuple[object, ...] = field(default=())
    """Decides between equal scores."""

    @property
    def roots(self) -> tuple[Fault, ...]:
        """The faults that are the root: one, or all those on the thing."""
        return self.together.faults if self.together else (self.fault,)


class Verdict(NamedTuple):
    """What a group comes to."""

    root: Candidate
    alternatives: list[Alternative]
    chance: float | None
    """How likely so many faults come together by chance; None of one alone."""


def judge(faults: Mapping[str, Fault], ties: Ties, table: Causes, topology: Topology) -> Verdict:
    """Weigh all candidates of a group. Equal groups give equal verdicts, in whichever order their faults came."""
    if len(faults) == 1:
        (fault,) = faults.values()
        because = "the only fault: nothing near it in place and time"
        return Verdict(Candidate(1.0, fault.component, fault, {}, because, ""), [], None)
    groups = _things(faults, ties)
    candidates = [*_of_faults(faults, ties, groups, table), *_of_things(faults, ties, groups, topology)]
    candidates.sort(key=lambda one: (-round(one.score, 6), one.rank))
    root = candidates[0]
    alternatives: dict[str, Alternative] = {}
    for other in candidates[1:]:
        if other.score < _LEAST_SCORE or len(alternatives) == _ALTERNATIVES:
            break
        if other.component != root.component and other.component not in alternatives:
            alternatives[other.component] = Alternative(
                component=other.component,
                fault_class=other.fault.fault_class,
                score=round(other.score, 3),
                because=other.because,
                tell_apart=other.tell_apart.format(component=other.component, root=root.component),
            )
    return Verdict(root, list(alternatives.values()), _chance(faults, ties, topology))


class _Shared(NamedTuple):
    """The faults of a group on the parts of one thing."""

    row: CommonCause
    order: int
    """Of the row in the table."""
    thing: Thing
    on: dict[str, list[Fault]]
    """By part, in the order of time."""

    @property
    def faults(self) -> list[Fault]:
        """All of them."""
        return [fault for on_part in self.on.values() for fault in on_part]


def _things(faults: Mapping[str, Fault], ties: Ties) -> dict[tuple[str, Thing], _Shared]:
    found: dict[tuple[str, Thing], _Shared] = {}
    for fault in sorted(faults.values(), key=lambda fault: (fault.first_ms, fault.fault_id)):
        for order, (row, thing, part) in enumerate(ties.parts(fault.fault_id)):
            shared = found.setdefault((row.name, thing), _Shared(row, order, thing, {}))
            shared.on.setdefault(part, []).append(fault)
    return found


def _of_faults(
    faults: Mapping[str, Fault], ties: Ties, groups: Mapping[tuple[str, Thing], _Shared], table: Causes
) -> Iterable[Candidate]:
    """Each fault as the root of the others."""
    graph, others = ties.graph, len(faults) - 1

    def weight(fault: Fault) -> tuple[object, ...]:
        return (-len(graph.effects.get(fault.fault_id, ())), *_standing(fault))

    found, explains_some = 0, False
    for number, fault in enumerate(sorted(faults.values(), key=weight)):
        if number >= _FAULTS and found:
            return
        fault_id = fault.fault_id
        explains = _reach((fault_id,), faults, ties)
        parts = ties.parts(fault_id)
        if not (explains or parts) and explains_some:
            continue  # it explains nothing, and others do
        explained = max(
            (
                -order[0]
                for cause, order in graph.causes.get(fault_id, {}).items()
                if cause in faults and cause not in explains and -order[0] >= STRONG
            ),
            default=0.0,
        )
        if explained == 1.0:
            continue
        early = sum(faults[effect].first_ms < fault.first_ms for effect in explains)
        in_order = (1.0 - explained) * (1.0 - _EARLY * early / len(explains) if explains else 1.0)
        beside = max(
            (groups[row.name, thing] for row, thing, _ in parts),
            key=lambda shared: (len(shared.faults), -shared.order),
            default=None,
        )
        if beside is not None:
            for other in beside.faults:
                if other is not fault:
                    explains.setdefault(other.fault_id, (_COMPANY, beside.row.name))
        # exact, so that the order in which the faults came does not decide between equals
        share = fsum(sure for sure, _ in explains.values()) / others
        rows = Counter(name for _, name in sorted(explains.values())).most_common(3)
        because = f"explains {len(explains)} of {others} other faults" + (
            ": " + ", ".join(f"{name} ({count})" for name, count in rows) if rows else ""
        )
        found, explains_some = found + 1, explains_some or bool(explains)
        yield Candidate(
            share * in_order,
            fault.component,
            fault,
            explains,
            because,
            table.tell_apart.get(fault.fault_class, _ANYWAY),
            rank=(1, *_standing(fault)),
        )


def _of_things(
    faults: Mapping[str, Fault], ties: Ties, groups: Mapping[tuple[str, Thing], _Shared], topology: Topology
) -> Iterable[Candidate]:
    """Each thing of which several parts fail as the root."""
    graph = ties.graph
    for (name, thing), shared in groups.items():
        row, parts = shared.row, len(shared.on)
        if parts < row.at_least:
            continue
        inside = shared.faults
        first = min(inside, key=lambda fault: (fault.first_ms, fault.component, fault.fault_id))
        known = max(topology.parts(thing), parts)
        explains = _reach([fault.fault_id for fault in inside], faults, ties)
        explains |= {fault.fault_id: (1.0, name) for fault in inside if fault is not first}
        share = fsum(sure for sure, _ in explains.values()) / (len(faults) - 1)
        # a known order goes before: what one of them, or something else, explains needs no common cause
        unexplained = sum(
            all(
                cause not in faults or -order[0] < STRONG
                for cause, order in graph.causes.get(fault.fault_id, {}).items()
            )
            for fault in inside
        )
        begins = [on_part[0].first_ms for on_part in shared.on.values()]
        lasts_ms = max(SHORTEST_MS, max(begins) - min(begins))
        sure = 1.0 - chance_of(parts - 1, ties.rate_of(row.effect, thing) * lasts_ms / HOUR_MS)
        what = _PARTS.get(row.of, "nodes")
        # what is no trouble by itself is none in numbers
        troubled = sum(any(fault.severity != SEVERITIES[0] for fault in on_part) for on_part in shared.on.values())
        pages = row.pages_from_share is not None and troubled / known >= row.pages_from_share
        yield Candidate(
            share * min(1.0, parts / known / row.shows_from_share) * unexplained / len(inside) * sure,
            _component(row.of, thing[2]),
            first,
            explains,
            f"{parts} of {known} {what} of the {KIND[row.of]} at once: {row.reason}",
            row.tell_apart,
            Together(thing, f"{parts} {what}", tuple(inside), pages),
            rank=(0, shared.order, name, thing),
        )


def _reach(roots: Sequence[str], faults: Mapping[str, Fault], ties: Ties) -> _Explained:
    """All that some faults explain, directly or by way of others, within their group.

    The weight of a chain is that of its weakest link.
    """
    found: _Explained = {}
    front = [(root, 1.0) for root in roots]
    begins = set(roots)
    while front:
        at, so_far = front.pop()
        for effect, sure, name in ties.effects(at):
            weight = min(so_far, sure)
            known = found.get(effect, _NOT_AT_ALL)
            if effect in faults and effect not in begins and (weight, name) > known:
                found[effect] = (weight, name)
                if weight > known[0]:
                    front.append((effect, weight))
    return found


def _standing(fault: Fault) -> tuple[object, ...]:
    """The order among faults that explain as much: the worse, the first, the one with the most to do."""
    return (
        -SEVERITIES.index(fault.severity),
        fault.first_ms,
        -ACTIONS.index(fault.action),
        fault.component,
        fault.fault_id,
    )


def _component(of: Of, name: str) -> str:
    kind = "switch" if of == "leaf_switch" else of
    return {"node": node_id, "rack": rack_id}.get(of, partial(device_id, kind))(name)


def _chance(faults: Mapping[str, Fault], ties: Ties, topology: Topology) -> float:
    """How likely so many faults of these classes begin so close together on what they share, by the base rates."""
    members = list(faults.values())
    begins = [fault.first_ms if fault.worsened_ms is None else fault.worsened_ms for fault in members]
    hours = max(SHORTEST_MS, max(begins) - min(begins)) / HOUR_MS
    thing = _narrowest(members, topology)
    mean = fsum(ties.rate_of(name, thing) for name in sorted({fault.fault_class for fault in members})) * hours
    return chance_of(len(members) - 1, mean)


def _narrowest(members: Sequence[Fault], topology: Topology) -> Thing | None:
    """The smallest thing that holds them all; None where they are at several sites."""
    first = members[0]
    if any(fault.site != first.site for fault in members):
        return None
    ways: tuple[Of, ...] = ("node", "nvlink_domain", "pdu", "leaf_switch", "rack")
    for of in ways:
        name = _shares(of, first, topology)
        if name is not None and all(_shares(of, fault, topology) == name for fault in members):
            return thing_of(of, first.site, name)
    return thing_of("site", first.site, first.site)


def _shares(of: Of, fault: Fault, topology: Topology) -> str | None:
    return topology.shared(of, component=fault.component, gpu=fault.gpu, node=fault.node, rack=fault.rack)
