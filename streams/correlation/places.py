"""Where a fault is to be found: what it shares with others, and the things of which it is on a part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from schemas.catalog.causes import ANY, Cause, CommonCause, Near
from schemas.records import Fault
from streams.correlation.rows import Rows
from streams.topology import Thing, Topology, thing_of

MAINTENANCE = "maintenance"
AROUND = frozenset({"rack", "pdu", "switch", "cooling", "meter", "site"})
"""Kinds of components that stand around nodes: never a part of what they feed or cool."""

Place = tuple[Near, str]
"""How near it is, and the name of what is shared."""


class Part(NamedTuple):
    """A part of a thing that a fault is on, and the row by which the thing may be the cause."""

    row: CommonCause
    thing: Thing
    name: str


@dataclass(slots=True)
class Entered:
    """One fault, and under what it is entered."""

    fault: Fault
    jobs: tuple[str, ...]
    places: dict[Near, tuple[str, ...]]
    parts: list[Part]
    effects: dict[Place, dict[str, list[Cause]]]
    """By which rows it may explain others: where these are to be found, and their class."""


class Places:
    """Finds where faults are, as the inventory has it now."""

    def __init__(self, rows: Rows, topology: Topology) -> None:
        self._rows = rows
        self._topology = topology

    def of(self, fault: Fault, jobs: tuple[str, ...]) -> Entered:
        """Where one is; `jobs` is what was known to run on it before."""
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
        effects: dict[Place, dict[str, list[Cause]]] = {}
        for cause in rows.explained_by(fault.fault_class, fault.code):
            if is_cause(cause, fault):
                for name in places.get(cause.near, ()):
                    effects.setdefault((cause.near, name), {}).setdefault(cause.effect, []).append(cause)
        return Entered(fault, jobs, places, self._parts(fault, jobs), effects)

    def keys(self, one: Entered) -> Iterator[tuple[Place, str]]:
        """Under what a fault is looked for: where it is, and its class."""
        for near, names in one.places.items():
            for name in names:
                yield (near, name), one.fault.fault_class
                if near in self._rows.any_nears:
                    yield (near, name), ANY

    def _parts(self, fault: Fault, jobs: tuple[str, ...]) -> list[Part]:
        parts: list[Part] = []
        if fault.component_kind in AROUND or fault.maintenance is not None:
            return parts
        for row in self._rows.common.get(fault.fault_class, ()):
            shared_by = jobs if row.of == "job" else filter(None, (self._shared(row.of, fault),))
            part = fault.component if row.of in {"node", "nvlink_domain", "job"} else fault.node or fault.component
            part = fault.rack if row.of == "site" else part
            parts += [Part(row, thing_of(row.of, fault.site, name), part) for name in shared_by]
        return parts

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


def onsets_ms(fault: Fault) -> tuple[int, ...]:
    """When a fault began; and when it became what it is, where it was an early warning before."""
    return (fault.first_ms,) if fault.worsened_ms is None else (fault.first_ms, fault.worsened_ms)


def is_cause(row: Cause, cause: Fault) -> bool:
    """Whether a fault is of the kind that a row has for a cause; its class is."""
    return (
        (not row.cause_codes or cause.code in row.cause_codes)
        and (not row.cause_kinds or cause.component_kind in row.cause_kinds)
        and (not row.cause_rules or cause.rule in row.cause_rules)
    )
