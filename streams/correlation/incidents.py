"""What an incident says of a group of faults, and whether it wakes somebody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from schemas.catalog import SEVERITIES, Catalog
from schemas.records import Evidence, Fault, Incident, Member
from streams.correlation.places import AROUND, MAINTENANCE
from streams.correlation.roots import KIND, STRONG, Candidate, Verdict
from streams.correlation.ties import Ties

_EVIDENCE_OF = 4
"""The evidence of so many faults is shown, the root's first."""
_CRITICAL = SEVERITIES[-1]


class Waking(NamedTuple):
    """Whether a group is worth a page now."""

    now: bool
    again_ms: int | None = None
    """When to ask again, by the clock: somebody wants to hear of it no earlier."""


def describe(
    faults: Mapping[str, Fault],
    verdict: Verdict,
    ties: Ties,
    *,
    incident_id: str,
    before: Incident | None,
    split_from: str | None,
    page: bool,
    decided_ms: int,
    catalog: Catalog,
) -> Incident:
    """The record of a group of faults: root, members with their roles, and the next revision."""
    root = verdict.root
    others = sorted(
        (fault for fault in faults.values() if fault is not root.fault),
        key=lambda fault: (fault.first_ms, fault.fault_id),
    )
    over = all(fault.state == "cleared" for fault in faults.values())
    unexplained = (0.0, "found beside it")
    members = [_member(root.fault, "root", "explains the others" if others else "alone")]
    members += [_member(fault, "symptom", root.explains.get(fault.fault_id, unexplained)[1]) for fault in others]
    deciding = [root.fault, *others]
    worst = max(deciding, key=lambda fault: SEVERITIES.index(fault.severity)).severity
    of, _, thing = root.together.thing if root.together else (None, None, None)
    around = root.fault.component_kind in AROUND
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
        root_node=(thing if of == "node" else None) if root.together or around else root.fault.node,
        root_gpu=None if root.together else root.fault.gpu,
        root_pci=None if root.together else root.fault.pci,
        title=_title(root, len(others), catalog),
        severity=_CRITICAL if root.together and root.together.pages else worst,
        action="check_hardware" if root.together else root.fault.action,
        reason=root.because,
        score=round(root.score, 3),
        members=members,
        evidence=[f"{one.source}: {one.text}" for fault in deciding[:_EVIDENCE_OF] for one in of_note(fault)],
        first_ms=min(fault.first_ms for fault in faults.values()),
        last_ms=max(fault.last_ms for fault in faults.values()),
        cleared_ms=max(fault.cleared_ms or fault.last_ms for fault in faults.values()) if over else None,
        observed_ms=min(fault.observed_ms for fault in deciding if fault.severity == worst),
        decided_ms=decided_ms,
        alternatives=verdict.alternatives,
        chance=None if verdict.chance is None else float(f"{verdict.chance:.3g}"),
        jobs=sorted({job for fault_id in faults for job in ties.jobs(fault_id)}),
        split_from=split_from,
        acknowledged_by=root.fault.acknowledged_by,
    )


def of_note(fault: Fault) -> list[Evidence]:
    """What an incident shows of a fault's evidence: what made it what it is, and what came before or after that."""
    if not fault.evidence:
        return []
    since_ms = fault.first_ms if fault.worsened_ms is None else fault.worsened_ms
    decisive = next((one for one in fault.evidence if one.at_ms >= since_ms), fault.evidence[0])
    return [decisive, *(one for one in fault.evidence if one is not decisive)][:2]


def gist(incident: Incident) -> tuple[object, ...]:
    """What makes a record worth writing again: not the passing of time, nor one more repeat."""
    return (
        incident.state == "cleared",
        incident.root,
        incident.root_fault_id,
        incident.severity,
        incident.action,
        incident.title,
        incident.acknowledged_by,
        sorted((member.fault_id, member.role) for member in incident.members),
    )


def is_worth_a_record(faults: Iterable[Fault], root: Candidate, catalog: Catalog) -> bool:
    """Whether a group is an incident at all.

    Something in it may page when it is bad enough, or many share a cause, or some trouble, or work, has led to more.
    """
    is_trouble = root.fault.severity != SEVERITIES[0] or root.fault.fault_class == MAINTENANCE
    leads_to_more = is_trouble and any(sure >= STRONG for sure, _ in root.explains.values())
    return root.together is not None or leads_to_more or any(_may_page(fault, catalog) for fault in faults)


def wakes(faults: Mapping[str, Fault], root: Candidate, ties: Ties, catalog: Catalog, now_ms: int) -> Waking:
    """Whether something critical stands that nobody works on, knows of, or wants not to hear of.

    What the root explains is quiet with it: who has acknowledged a lost switch knows why its ports are down.
    """
    if root.fault.fault_class == MAINTENANCE:
        return Waking(now=False)
    standing = [
        fault
        for fault in faults.values()
        if fault.state != "cleared" and fault.severity == _CRITICAL and _may_page(fault, catalog)
    ]
    if root.together and root.together.pages:
        standing += [fault for fault in root.roots if fault.state != "cleared" and fault not in standing]
    of_root = [fault for fault in root.roots if fault.state != "cleared"] or [root.fault]
    root_quiet_ms = min(_quiet_until(fault) for fault in of_root)
    again_ms: float = _FOREVER
    for fault in standing:
        if _on_purpose(fault.fault_id, ties):
            continue
        explained = root.explains.get(fault.fault_id, (0.0, ""))[0] >= STRONG
        quiet_ms = max(_quiet_until(fault), root_quiet_ms if explained else 0)
        if quiet_ms <= now_ms:
            return Waking(now=True)
        again_ms = min(again_ms, quiet_ms)
    return Waking(now=False, again_ms=None if again_ms == _FOREVER else int(again_ms))


_FOREVER = float("inf")


def _quiet_until(fault: Fault) -> float:
    """Until when a fault wakes nobody, by what people said of it; 0 where nobody said anything."""
    if fault.maintenance is not None or fault.acknowledged_by is not None:
        return _FOREVER
    return fault.snoozed_until_ms or 0


def _on_purpose(fault_id: str, ties: Ties) -> bool:
    """Whether what explains a fault, or what explains that, was done on purpose."""
    seen: set[str] = set()
    while fault_id not in seen and (found := ties.graph.parent(fault_id)) is not None:
        seen.add(fault_id)
        fault_id, row = found
        if not row.wakes:
            return True
    return False


def _may_page(fault: Fault, catalog: Catalog) -> bool:
    found = catalog.faults.get(fault.fault_class)
    return fault.severity != SEVERITIES[0] and found is not None and found.pages


def _member(fault: Fault, role: str, because: str) -> Member:
    return Member(
        fault_id=fault.fault_id,
        component=fault.component,
        fault_class=fault.fault_class,
        code=fault.code,
        role=role,
        because=because,
    )


def _title(root: Candidate, others: int, catalog: Catalog) -> str:
    fault = root.fault
    known = catalog.faults.get(fault.fault_class)
    what = known.title if known else fault.fault_class
    if fault.code is not None:
        what += f" ({'SXid' if fault.component_kind == 'nvswitch' else 'XID'} {fault.code})"
    if root.together:
        of, _, name = root.together.thing
        where = f"{KIND[of]} {name}, {root.together.parts}"
        others -= len(root.together.faults) - 1
    elif fault.component_kind == "gpu":
        where = f"GPU {fault.gpu or fault.pci or 'unknown'} in {fault.node}"
    elif fault.component_kind == "node":
        where = f"node {fault.node}"
    else:
        where = fault.component
    rest = f", {others} symptom{'s' if others > 1 else ''}" if others else ""
    return f"{what}: {where}{rest}"
