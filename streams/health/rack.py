"""The health of one rack: what stands in it, the open faults of it, and the verdicts that follow.

All of it is kept as one, so that verdicts and the faults behind them can never be of different times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from schemas.ids import node_id, rack_id
from schemas.records import Fault, Verdict
from streams.health.judging import NOTHING, Condition, Judge, Judged, Said, condition
from streams.topology import DECLARED, Topology

_KEEP_ENDED_MS = 3_600_000
"""A fault that is over is known for so long: a record of it that is written again changes nothing."""

Counts = Counter[tuple[str, str]]
"""Components by kind and health."""


class Where(NamedTuple):
    """A rack; two sites may both have a rack 1."""

    site: str
    rack: str


class RackHealth(msgspec.Struct, kw_only=True):
    """What is kept of a rack: some 600 bytes a component in memory, some 20 of it packed."""

    site: str
    rack: str
    nodes: dict[str, bool] = {}
    """Node to whether anything was heard of it."""
    gpus: dict[str, str] = {}
    """GPU (component id) to its node."""
    faults: dict[str, Fault] = {}
    """Open ones that say something, by component and class, without their evidence."""
    ended: dict[str, tuple[int, int]] = {}
    """Those that were open lately, by fault id: the last revision, and when that was decided."""
    verdicts: dict[str, Verdict] = {}
    """The newest of each component."""
    through: dict[str, int] = {}
    """The offset of the last record of each topic that changed it: a run that is done again brings it what is new."""


class Lifted(NamedTuple):
    """A component taken out of a rack, with what is known of it."""

    faults: dict[str, Fault]
    verdict: Verdict | None


class Rack:
    """A rack at work. `counts` is shared with all that count."""

    def __init__(self, kept: RackHealth, judge: Judge, topology: Topology, counts: Counts) -> None:
        self.kept = kept
        self.where = Where(kept.site, kept.rack)
        self.taken = dict(kept.through)
        """Up to which offset of each topic it has taken records in that may come once more, after a kill."""
        self._judge = judge
        self._topology = topology
        self._counts = counts
        self._gpus_of: dict[str, set[str]] = {node: set() for node in kept.nodes}
        self._judged: dict[str, dict[str, Judged]] = {}
        """Component to what each open fault that is about it comes to, by component and class of the fault."""
        self._by_itself: dict[str, Condition] = {}
        """Node (component id) to its condition, leaving out what the rack makes of it."""
        for gpu, node in kept.gpus.items():
            self._gpus_of[node].add(gpu)
        for key, fault in kept.faults.items():
            component = about(fault)
            self._judged.setdefault(component, {})[key] = judge.fault(fault, component)
        for node in kept.nodes:
            self._by_itself[node_id(node)] = self._node_by_itself(node)
        counts.update((one.component_kind, one.health) for one in kept.verdicts.values())

    # --- what stands in it --------------------------------------------------------------------------------------------

    def put_node(self, node: str, *, heard: bool) -> bool:
        """A node stands in it. Returns whether that, or that it was heard of, is new."""
        if node in self.kept.nodes and (self.kept.nodes[node] or not heard):
            return False
        self.kept.nodes[node] = heard
        self._gpus_of.setdefault(node, set())
        return True

    def put_gpu(self, component: str, node: str) -> None:
        """A GPU is in a node that stands in it."""
        self.kept.gpus[component] = node
        self._gpus_of[node].add(component)

    def gpus_in(self, node: str) -> list[str]:
        """The GPUs (component ids) in a node."""
        return sorted(self._gpus_of[node])

    def lift(self, component: str) -> Lifted:
        """Take a GPU, or a node that holds none any more, out."""
        kind, _, name = component.partition(":")
        if kind == "gpu":
            self._gpus_of[self.kept.gpus.pop(component)].discard(component)
        else:
            del self.kept.nodes[name], self._gpus_of[name]
            self._by_itself.pop(component, None)
        faults = {key: self.kept.faults.pop(key) for key in self._judged.pop(component, {})}
        verdict = self.kept.verdicts.pop(component, None)
        if verdict is not None:
            self._counts[verdict.component_kind, verdict.health] -= 1
        return Lifted(faults, verdict)

    def put_back(self, component: str, lifted: Lifted) -> None:
        """What was known of a component where it was before is known of it here."""
        for key, fault in lifted.faults.items():
            self.kept.faults[key] = fault
            self._judged.setdefault(component, {})[key] = self._judge.fault(fault, component)
        if lifted.verdict is not None:
            self.kept.verdicts[component] = lifted.verdict
            self._counts[lifted.verdict.component_kind, lifted.verdict.health] += 1

    def is_spoken_of(self, component: str) -> bool:
        """Whether any open fault is about it."""
        return component in self._judged

    # --- faults -------------------------------------------------------------------------------------------------------

    def enter(self, fault: Fault, decided_ms: int) -> bool:
        """Keep a fault as it is now. Returns whether that can change a verdict."""
        key, component = key_of(fault), about(fault)
        if self._is_old(key, fault):
            return False
        before = self._judged.get(component, {}).get(key)
        judged = NOTHING if fault.state == "cleared" else self._judge.fault(fault, component)
        if judged != NOTHING:
            self.kept.faults[key] = replace(fault, evidence=[])
            self._judged.setdefault(component, {})[key] = judged
            return judged != before
        if before is None:
            return False
        del self.kept.faults[key], self._judged[component][key]
        if not self._judged[component]:
            del self._judged[component]
        lately = {one: end for one, end in self.kept.ended.items() if decided_ms - end[1] < _KEEP_ENDED_MS}
        self.kept.ended = lately | {fault.fault_id: (fault.revision, decided_ms)}
        return True

    def _is_old(self, key: str, fault: Fault) -> bool:
        known, (ended_revision, _) = self.kept.faults.get(key), self.kept.ended.get(fault.fault_id, (0, 0))
        known_revision = known.revision if known is not None and known.fault_id == fault.fault_id else 0
        return fault.revision <= max(known_revision, ended_revision)

    # --- verdicts -----------------------------------------------------------------------------------------------------

    def judge(
        self, nodes: Sequence[str], at_ms: int, decided_ms: int, opened: Container[str] = ()
    ) -> Iterator[Verdict]:
        """The verdicts that are new: on nodes, on the GPUs in them, on the rack.

        `at_ms` is when what led to it happened, `opened` has the ids of faults that began with it.
        """
        for node in nodes:
            self._by_itself[node_id(node)] = self._node_by_itself(node)
        rack = rack_id(self.where.rack)
        said = [*self._own(rack), *self._judge.parts(rack, self._by_itself)]
        found = [*(one for node in nodes for one in self._in_node(node)), (rack, None, condition(rack, said))]
        for component, holder, state in found:
            verdict = self._verdict(component, holder, state, at_ms, decided_ms, opened)
            if verdict is not None:
                yield verdict

    def _in_node(self, name: str) -> Iterator[tuple[str, str | None, Condition]]:
        """The conditions of a node and of the GPUs in it, with what each makes of the other, and the rack of both."""
        node, of_rack = node_id(name), self._held(rack_id(self.where.rack))
        state = condition(node, [*self._by_itself[node].said, *of_rack])
        yield node, name, state
        from_above = [*self._held(node), *of_rack, *self._unheard(node)]
        for gpu in self.gpus_in(name):
            said = [*self._gpu_said(name, gpu), *from_above]
            by_itself = condition(gpu, said)
            blocked = by_itself.rentable and not state.rentable
            yield gpu, name, condition(gpu, [*said, *self._judge.whole(node, state)]) if blocked else by_itself

    def _node_by_itself(self, node: str) -> Condition:
        component = node_id(node)
        gpus = {gpu: condition(gpu, self._gpu_said(node, gpu)) for gpu in self._gpus_of[node]}
        said = [*self._own(component), *self._unheard(component), *self._judge.parts(component, gpus)]
        return condition(component, said)

    def _gpu_said(self, node: str, gpu: str) -> list[Said]:
        """What speaks on a GPU by itself.

        In a node whose agent finds GPUs, one that is only declared is not there; where it finds none, it does not look.
        """
        missing = (
            self.kept.nodes[node]
            and self._is_declared(gpu)
            and not all(self._is_declared(other) for other in self._gpus_of[node])
        )
        return [*self._own(gpu), *([self._judge.never_heard(gpu)] if missing else [])]

    def _is_declared(self, gpu: str) -> bool:
        place = self._topology.place_of(gpu)
        return place is not None and place.source == DECLARED

    def _unheard(self, component: str) -> list[Said]:
        return [] if self.kept.nodes[component.partition(":")[2]] else [self._judge.never_heard(component)]

    def _own(self, component: str) -> list[Said]:
        return [said for judged in self._judged.get(component, {}).values() for said in judged.own]

    def _held(self, component: str) -> list[Said]:
        return [said for judged in self._judged.get(component, {}).values() for said in judged.held]

    def _verdict(
        self, component: str, node: str | None, found: Condition, at_ms: int, decided_ms: int, opened: Container[str]
    ) -> Verdict | None:
        """The next revision; None where there is nothing new to say."""
        before, reasons = self.kept.verdicts.get(component), found.reasons
        if before is not None and _gist(before) == (
            self.where.rack, node, found.health, found.rentable, found.action, reasons,
        ):  # fmt: skip
            return None
        since_ms = at_ms
        if before is not None and before.health == found.health:
            # a fault that began earlier and is heard of later moves the beginning, if it is one of those that count
            counts = any(one.fault_id in opened and one.effect == found.health for one in reasons if one.fault_id)
            since_ms = min(before.since_ms, at_ms) if counts else before.since_ms
        elif before is not None and not opened:
            since_ms = max(before.since_ms, at_ms)
        kind, _, name = component.partition(":")
        verdict = Verdict(
            component=component,
            component_kind=kind,
            revision=before.revision + 1 if before else 1,
            site=self.where.site,
            rack=self.where.rack,
            node=node,
            gpu=name if kind == "gpu" and not is_nameless(component) else None,
            health=found.health,
            rentable=found.rentable,
            action=found.action,
            reasons=reasons,
            since_ms=since_ms,
            decided_ms=max(decided_ms, before.decided_ms) if before else decided_ms,
        )
        if before is not None:
            self._counts[kind, before.health] -= 1
        self._counts[kind, verdict.health] += 1
        self.kept.verdicts[component] = verdict
        return verdict


def _gist(verdict: Verdict) -> tuple[object, ...]:
    """What makes a verdict worth telling again."""
    return verdict.rack, verdict.node, verdict.health, verdict.rentable, verdict.action, verdict.reasons


def key_of(fault: Fault) -> str:
    """What a fault is the only open one of."""
    return f"{fault.component}|{fault.fault_class}"


def about(fault: Fault) -> str:
    """The component with a verdict that a fault speaks on: its own, or what its own is part of.

    A port or NVSwitch is part of its node, a management controller belongs to the node that it is called by; a PDU, a
    cooler or a meter, and what spans racks, is a matter of the rack that tells of it.
    """
    kind, _, name = fault.component.partition(":")
    if kind in {"gpu", "node", "rack"}:
        return fault.component
    if kind == "bmc":
        return node_id(name)
    return node_id(fault.node) if kind in {"port", "nvswitch"} and fault.node else rack_id(fault.rack)


def is_nameless(component: str) -> bool:
    """Whether a GPU is known by its slot only, `gpu:NODE/PCI`."""
    return "/" in component
