"""Which fault of a group is the root, and the incident record that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import fsum
from typing import NamedTuple

from schemas.catalog import ACTIONS, SEVERITIES, Catalog
from schemas.catalog.causes import Cause, CommonCause, Of
from schemas.ids import device_id, node_id, rack_id
from schemas.records import Fault, Incident, Member
from streams.topology import Topology

STRONG = 0.5
"""From this weight on a row says what causes what; below it only says that two belong together."""
_EVIDENCE_LINES = 8
_KINDS: Mapping[Of, str] = {"node": "node", "rack": "rack", "pdu": "PDU"}


@dataclass(slots=True)
class Graph:
    """Who explains whom in a group: fault id to the fault ids that it explains, each with the row that says so."""

    effects: dict[str, dict[str, Cause]] = field(default_factory=dict)
    causes: dict[str, set[str]] = field(default_factory=dict)
    """The same, the other way round."""

    def add(self, cause: str, effect: str, row: Cause) -> None:
        """Enter a tie; the strongest between two stands."""
        known = self.effects.setdefault(cause, {}).get(effect)
        if known is None or known.weight < row.weight:
            self.effects[cause][effect] = row
            self.causes.setdefault(effect, set()).add(cause)

    def drop(self, fault: str) -> None:
        """Forget all ties of a fault: what is known of it has changed."""
        for effect in self.effects.pop(fault, {}):
            self.causes[effect].discard(fault)
        for cause in self.causes.pop(fault, set()):
            self.effects[cause].pop(fault, None)

    def update(self, other: Graph) -> None:
        """Enter all ties of another graph."""
        for cause, effect, row in other.ties():
            self.add(cause, effect, row)

    def ties(self) -> Iterator[tuple[str, str, Cause]]:
        """All ties: (cause, effect, the row that says so)."""
        for cause, effects in self.effects.items():
            for effect, row in effects.items():
                yield cause, effect, row

    def is_explained(self, fault: str) -> bool:
        """Whether a strong row says what caused a fault."""
        return any(self.effects[cause][fault].weight >= STRONG for cause in self.causes.get(fault, ()))

    def reach(self, root: str) -> dict[str, tuple[float, str]]:
        """All that `root` explains, directly or by way of others: fault id to (weight, name of the row).

        The weight of a chain is that of its weakest link; a weak tie is not followed further.
        """
        found: dict[str, tuple[float, str]] = {}
        front = [(root, 1.0)]
        while front:
            at, so_far = front.pop()
            for effect, row in self.effects.get(at, {}).items():
                weight = min(so_far, row.weight)
                if effect != root and weight > found.get(effect, (0.0, ""))[0]:
                    found[effect] = (weight, row.name)
                    if row.weight >= STRONG:
                        front.append((effect, weight))
        return found


class _Together(NamedTuple):
    """Faults that share one thing, which is the root."""

    of: Of
    name: str
    members: str
    """How many of what, in words."""
    faults: int


class _Root(NamedTuple):
    """The verdict on a group."""

    fault: Fault
    component: str
    kind: str
    """Of the component, as its title names it."""
    explains: dict[str, tuple[float, str]]
    reason: str
    together: _Together | None = None
    """What fails together, where the root is what it shares."""


def describe(
    faults: Mapping[str, Fault],
    graph: Graph,
    *,
    incident_id: str,
    before: Incident | None,
    page: bool,
    decided_ms: int,
    catalog: Catalog,
    common_causes: Sequence[CommonCause],
    topology: Topology,
) -> Incident:
    """The incident that a group of faults is, with its root, its members' roles, and the next revision."""
    root = _common_cause(faults, graph, common_causes, topology) or _root(faults, graph)
    others = sorted(
        (fault for fault in faults.values() if fault is not root.fault),
        key=lambda fault: (fault.first_ms, fault.fault_id),
    )
    over = all(fault.state == "cleared" for fault in faults.values())
    unexplained = (0.0, "found beside it")
    members = [_member(root.fault, "root", "explains the others" if others else "alone")]
    members += [_member(fault, "symptom", root.explains.get(fault.fault_id, unexplained)[1]) for fault in others]
    deciding = [root.fault, *others]
    weight = fsum(weight for weight, _ in root.explains.values())
    critical_first = sorted(deciding, key=lambda fault: SEVERITIES.index(fault.severity), reverse=True)
    return Incident(
        incident_id=incident_id,
        revision=before.revision + 1 if before else 1,
        state="cleared" if over else ("updated" if before else "open"),
        page=page,
        site=root.fault.site,
        racks=sorted({fault.rack for fault in faults.values()}),
        root=root.component,
        root_fault_id=root.fault.fault_id,
        root_class=root.fault.fault_class,
        root_code=root.fault.code,
        root_node=root.fault.node if root.kind not in {"rack", "pdu"} else None,
        root_gpu=None if root.together else root.fault.gpu,
        root_pci=None if root.together else root.fault.pci,
        title=_title(root, len(others), catalog),
        severity=critical_first[0].severity,
        action=_action(root),
        reason=root.reason,
        score=round(weight / len(others), 3) if others else 1.0,
        members=members,
        evidence=[f"{one.source}: {one.text}" for fault in deciding[:4] for one in fault.evidence[:2]][
            :_EVIDENCE_LINES
        ],
        first_ms=min(fault.first_ms for fault in faults.values()),
        last_ms=max(fault.last_ms for fault in faults.values()),
        cleared_ms=max(fault.cleared_ms or fault.last_ms for fault in faults.values()) if over else None,
        observed_ms=min(fault.observed_ms for fault in faults.values()),
        decided_ms=decided_ms,
    )


def _root(faults: Mapping[str, Fault], graph: Graph) -> _Root:
    """The fault that nothing explains and that explains most; between equals the one seen first."""
    unexplained = [fault for fault in faults.values() if not graph.is_explained(fault.fault_id)]
    reach = {fault.fault_id: graph.reach(fault.fault_id) for fault in unexplained or faults.values()}

    def standing(fault_id: str) -> tuple[float, int, int, int, str, str]:
        fault = faults[fault_id]
        # exact, so that the order in which the faults came does not decide between equals
        weight = fsum(weight for weight, _ in reach[fault_id].values())
        rank = SEVERITIES.index(fault.severity), ACTIONS.index(fault.action)
        return -weight, -rank[0], fault.first_ms, -rank[1], fault.component, fault_id

    best = min(reach, key=standing)
    fault, explains = faults[best], reach[best]
    others = len(faults) - 1
    rows = Counter(name for _, name in explains.values()).most_common(3)
    because = ", ".join(f"{name} ({count})" for name, count in rows)
    reason = (
        f"explains {len(explains)} of {others} other faults: {because}"
        if others
        else "the only fault: nothing near it in place and time"
    )
    return _Root(fault, fault.component, fault.component_kind, explains, reason)


def _common_cause(
    faults: Mapping[str, Fault], graph: Graph, common_causes: Sequence[CommonCause], topology: Topology
) -> _Root | None:
    """The thing whose members fail together, where there are enough of them."""
    newest_first = sorted(faults.values(), key=lambda fault: (fault.first_ms, fault.fault_id), reverse=True)
    for row in common_causes:
        found = [fault for fault in newest_first if fault.fault_class == row.effect]
        inside: dict[tuple[str, str], list[Fault]] = {}
        for fault in found:
            if name := topology.name_of(row.of, fault.node, fault.rack):
                inside.setdefault((fault.site, name), []).append(fault)
        for (site, name), failing in sorted(inside.items()):
            # a member that came back and failed again is still one
            members = len({fault.component if row.of == "node" else fault.node for fault in failing})
            if members < row.at_least or (row.all_inside and len(failing) < len(found)):
                continue
            known = max(topology.size(row.of, site, name), members)
            if members / known >= row.at_least_share:
                first = min(failing, key=lambda fault: (fault.first_ms, fault.component))
                what = "GPUs" if row.of == "node" else "nodes"
                reason = f"{members} of {known} {what} of the {_KINDS[row.of]} at once: {row.reason}"
                explains = {fault.fault_id: (1.0, row.name) for fault in failing if fault is not first}
                for fault in failing:  # and what each of them explains
                    explains = graph.reach(fault.fault_id) | explains
                explains.pop(first.fault_id, None)
                component = {"node": node_id, "rack": rack_id}.get(row.of, partial(device_id, "pdu"))(name)
                together = _Together(row.of, name, f"{members} {what}", len(failing))
                return _Root(first, component, row.of, explains, reason, together)
    return None


def _action(root: _Root) -> str:
    return "check_hardware" if root.together else root.fault.action


def _member(fault: Fault, role: str, because: str) -> Member:
    return Member(
        fault_id=fault.fault_id,
        component=fault.component,
        fault_class=fault.fault_class,
        code=fault.code,
        role=role,
        because=because,
    )


def _title(root: _Root, others: int, catalog: Catalog) -> str:
    fault = root.fault
    known = catalog.faults.get(fault.fault_class)
    what = known.title if known else fault.fault_class
    if fault.code is not None:
        what += f" ({'SXid' if fault.component_kind == 'nvswitch' else 'XID'} {fault.code})"
    if root.together:
        where = f"{_KINDS[root.together.of]} {root.together.name}, {root.together.members}"
        others -= root.together.faults - 1
    elif root.kind == "gpu":
        where = f"GPU {fault.gpu or fault.pci or 'unknown'} in {fault.node}"
    elif root.kind == "node":
        where = f"node {fault.node}"
    else:
        where = fault.component
    rest = f", {others} symptom{'s' if others > 1 else ''}" if others else ""
    return f"{what}: {where}{rest}"
