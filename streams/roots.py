"""Which fault of a group is the root, and the incident record that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.catalog import ACTIONS, SEVERITIES, Catalog
from schemas.catalog.causes import Cause, CommonCause
from schemas.ids import rack_id
from schemas.records import Fault, Incident, Member
from streams.topology import Topology

STRONG = 0.5
"""From this weight on a row says what causes what; below it only says that two belong together."""
_EVIDENCE_LINES = 8


@dataclass(slots=True)
class Graph:
    """Who explains whom in a group: fault id to the fault ids that it explains, each with the row that says so."""

    effects: dict[str, dict[str, Cause]] = field(default_factory=dict)
    explained: dict[str, int] = field(default_factory=dict)
    """Fault id to how many strong rows explain it."""

    def add(self, cause: str, effect: str, row: Cause) -> None:
        """Enter a tie; the strongest between two stands."""
        known = self.effects.setdefault(cause, {}).get(effect)
        if known is not None and known.weight >= row.weight:
            return
        if row.weight >= STRONG and (known is None or known.weight < STRONG):
            self.explained[effect] = self.explained.get(effect, 0) + 1
        self.effects[cause][effect] = row

    def update(self, other: Graph) -> None:
        """Enter all ties of another graph."""
        for cause, effects in other.effects.items():
            for effect, row in effects.items():
                self.add(cause, effect, row)

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


class _Root(NamedTuple):
    """The verdict on a group."""

    fault: Fault
    component: str
    kind: str
    """Of the component, as its title names it."""
    explains: dict[str, tuple[float, str]]
    reason: str


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
    root = _common_cause(faults, common_causes, topology) or _root(faults, graph)
    others = sorted(
        (fault for fault in faults.values() if fault is not root.fault),
        key=lambda fault: (fault.first_ms, fault.fault_id),
    )
    over = all(fault.state == "cleared" for fault in faults.values())
    unexplained = (0.0, "found beside it")
    members = [_member(root.fault, "root", "explains the others" if others else "alone")]
    members += [_member(fault, "symptom", root.explains.get(fault.fault_id, unexplained)[1]) for fault in others]
    deciding = [root.fault, *others]
    weight = sum(weight for weight, _ in root.explains.values())
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
        root_node=root.fault.node if root.kind != "rack" else None,
        root_gpu=root.fault.gpu,
        root_pci=root.fault.pci,
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
    unexplained = [fault for fault in faults.values() if not graph.explained.get(fault.fault_id)]
    reach = {fault.fault_id: graph.reach(fault.fault_id) for fault in unexplained or faults.values()}

    def standing(fault_id: str) -> tuple[float, int, int, int, str]:
        fault = faults[fault_id]
        weight = sum(weight for weight, _ in reach[fault_id].values())
        rank = SEVERITIES.index(fault.severity), ACTIONS.index(fault.action)
        return -weight, -rank[0], fault.first_ms, -rank[1], fault.component

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
    faults: Mapping[str, Fault], common_causes: Sequence[CommonCause], topology: Topology
) -> _Root | None:
    """The thing whose members fail together, where there are enough of them."""
    for row in common_causes:
        by_rack: dict[str, list[Fault]] = {}
        for fault in faults.values():
            if fault.fault_class == row.effect:
                by_rack.setdefault(fault.rack, []).append(fault)
        for rack, failing in sorted(by_rack.items()):
            known = max(topology.nodes_in_rack(rack), len(failing))
            if len(failing) >= row.at_least and len(failing) / known >= row.at_least_share:
                first = min(failing, key=lambda fault: (fault.first_ms, fault.component))
                reason = f"{len(failing)} of {known} nodes of the rack at once: {row.reason}"
                explains = {fault.fault_id: (1.0, row.name) for fault in failing if fault is not first}
                return _Root(first, rack_id(rack), "rack", explains, reason)
    return None


def _action(root: _Root) -> str:
    return "check_hardware" if root.kind == "rack" else root.fault.action


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
    if root.kind == "rack":
        where = f"rack {fault.rack}, {others + 1} nodes"
    elif root.kind == "gpu":
        where = f"GPU {fault.gpu or fault.pci or 'unknown'} in {fault.node}"
    elif root.kind == "node":
        where = f"node {fault.node}"
    else:
        where = fault.component
    rest = f", {others} symptom{'s' if others > 1 else ''}" if others and root.kind != "rack" else ""
    return f"{what}: {where}{rest}"
