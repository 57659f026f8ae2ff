"""What a replay came to, for programs (one object an incident) and for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from infra.commands.sql import cell, connected, table
from infra.settings import Settings
from schemas.catalog import SEVERITIES
from schemas.records import Fault, HardwareEvent, Member
from streams.replay import Came, Outcome

_FAULTS = """
SELECT node, component, fault_class, code, severity, action, count, first_at, last_at, state, reason, fault_id
FROM fault_history
WHERE site IN {sites:Array(String)} AND node IN {nodes:Array(String)}
ORDER BY severity = 'critical' DESC, first_at
"""
_INCIDENTS = """
SELECT title, severity, action, root, paged_at IS NOT NULL AS pages, symptom_count, reason, evidence
FROM incidents
WHERE hasAny(arrayMap(member -> member.fault_id, members), {faults:Array(String)})
ORDER BY first_at
"""
_EVIDENCE_LINES = 4


def objects(outcome: Outcome) -> list[dict[str, Any]]:
    """One object for each incident, in the order in which they began. Times are UTC milliseconds of the events."""
    return [_object(outcome, came) for came in outcome.standing()]


def _object(outcome: Outcome, came: Came) -> dict[str, Any]:
    incident = came.incident
    faults = [fault for member in incident.members if (fault := outcome.faults.get(member.fault_id)) is not None]
    return {
        "incident_id": incident.incident_id,
        "title": incident.title,
        "severity": incident.severity,
        "action": incident.action,
        "pages": came.pages,
        # whether it was written once or more often says how the log was cut, not how it ended
        "state": "cleared" if incident.state == "cleared" else "open",
        "site": incident.site,
        "racks": incident.racks,
        "root": {
            "component": incident.root,
            "node": incident.root_node,
            "gpu": incident.root_gpu,
            "pci": incident.root_pci,
            "code": incident.root_code,
            "fault_class": incident.root_class,
            "fault_id": incident.root_fault_id,
        },
        "members": [_member(member, outcome.faults.get(member.fault_id)) for member in incident.members],
        "reason": incident.reason,
        "score": incident.score,
        "alternatives": incident.alternatives,
        # an incident is not written again for each repeat of its faults, so these know better
        "first_ms": min((fault.first_ms for fault in faults), default=incident.first_ms),
        "last_ms": max((fault.last_ms for fault in faults), default=incident.last_ms),
        "cleared_ms": incident.cleared_ms,
        "merged": came.merged,
    }  # fmt: skip


def _member(member: Member, fault: Fault | None) -> dict[str, Any]:
    return {
        "component": member.component,
        "node": fault and fault.node,
        "gpu": fault and fault.gpu,
        "pci": fault and fault.pci,
        "code": member.code,
        "fault_class": member.fault_class,
        "fault_id": member.fault_id,
        "role": member.role,
        "because": member.because,
        "severity": fault and fault.severity,
        "action": fault and fault.action,
        "count": fault and fault.count,
        "first_ms": fault and fault.first_ms,
        "last_ms": fault and fault.last_ms,
        "evidence": [piece.text for piece in fault.evidence[:1]] if fault else [],
    }


def print_text(outcome: Outcome) -> None:
    """Faults and incidents of a replay in this process."""
    critical_first = sorted(
        outcome.faults.values(), key=lambda one: (one.severity != SEVERITIES[-1], one.first_ms, one.component)
    )
    names = ("node", "component", "fault_class", "code", "severity", "action", "count", "first_at", "last_at", "state",
             "reason")  # fmt: skip
    rows = [
        (one.node, one.component, one.fault_class, one.code, one.severity, one.action, one.count,
         _moment(one.first_ms), _moment(one.last_ms), one.state, one.reason)
        for one in critical_first
    ]  # fmt: skip
    _print(names, rows, [
        (one.title, one.severity, one.action, one.root, pages > 0, len(one.members) - 1, one.reason, one.evidence)
        for one, pages, _ in outcome.standing()
    ])  # fmt: skip


def print_history(settings: Settings, events: Sequence[HardwareEvent]) -> None:
    """Faults and incidents of the nodes of a replay, as the history has them."""
    sites, nodes = sorted({event.site for event in events}), sorted({event.node for event in events})
    with connected(settings) as client:
        faults = client.query(_FAULTS, parameters={"sites": sites, "nodes": nodes})
        ids = [row[-1] for row in faults.result_rows]
        incidents = client.query(_INCIDENTS, parameters={"faults": ids}).result_rows
    _print(list(faults.column_names)[:-1], [row[:-1] for row in faults.result_rows], incidents)


def _print(names: Sequence[str], faults: Sequence[Sequence[Any]], incidents: Sequence[Sequence[Any]]) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(f"[bold]{len(faults)} fault{'' if len(faults) == 1 else 's'}[/]")
    if faults:
        console.print(table(names, faults))
    console.print(f"\n[bold]{len(incidents)} incident{'' if len(incidents) == 1 else 's'}[/]")
    for title, severity, action, root, pages, symptoms, reason, evidence in incidents:
        loud = "pages" if pages else "wakes nobody"
        console.print(Text(f"{severity}: {title} ({loud})", style="bold red" if pages else "bold"))
        console.print(Text(f"  root      {root}" + (f", {symptoms} symptoms" if symptoms else "")))
        console.print(Text(f"  do        {action.replace('_', ' ')}"))
        console.print(Text(f"  because   {reason}"), soft_wrap=True)
        for line in evidence[:_EVIDENCE_LINES]:
            console.print(Text(f"  evidence  {cell(line)}"), soft_wrap=True)


def _moment(at_ms: int) -> datetime:
    """As the history has it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).replace(tzinfo=None)
