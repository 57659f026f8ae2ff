"""The console: one readable block per notice on standard output, or one log line."""

from __future__ import annotations

import sys
import time
from typing import Literal, TextIO

import structlog
from pydantic import Field

from schemas.records import Alternative, Incident
from sinks.channels.channel import Channel, ChannelModel, Notice

log = structlog.get_logger()

_EVIDENCE_LINES = 4
_ALTERNATIVES = 2
_WIDTH = 160


class ConsoleSettings(ChannelModel):
    """Print alerts where this process runs."""

    to: Literal["stdout", "log"] = Field("stdout", description="A block on standard output, or one structured log line")

    def open(self) -> Channel:
        """The console."""
        return LogLine() if self.to == "log" else Console(sys.stdout)


class Console:
    """A block per notice."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def deliver(self, notice: Notice, now_ms: int) -> None:
        """Write and flush one block. Raises no `DeliveryError`: a closed stream ends the process."""
        self._out.write(block(notice, now_ms))
        self._out.flush()


class LogLine:
    """A log line per notice, for log collectors."""

    def deliver(self, notice: Notice, now_ms: int) -> None:
        """Log one line."""
        incident = notice.incident
        log.warning(
            "ALERT" if notice.kind == "page" else "RESOLVED",
            incident_id=incident.incident_id,
            title=incident.title,
            severity=incident.severity,
            root=incident.root,
            action=incident.action,
            reason=incident.reason,
            symptoms=_symptoms(incident),
            alternatives=[other.component for other in incident.alternatives],
            delay_ms=notice.delay_ms(now_ms),
        )


def block(notice: Notice, now_ms: int) -> str:
    """One notice as a few lines of text."""
    incident = notice.incident
    if notice.kind == "resolve":
        return f"✔ RESOLVED {incident.title}\n  incident  {incident.incident_id}\n\n"
    place = ", ".join(
        part
        for part in (
            incident.root_node and f"node {incident.root_node}",
            incident.root_pci and f"PCI {incident.root_pci}",
            f"rack {', '.join(incident.racks)}" if incident.racks else "",
        )
        if part
    )
    rows = [
        ("root", f"{incident.root} ({place})" if place else incident.root),
        ("action", incident.action.replace("_", " ")),
        ("because", incident.reason),
    ]
    if symptoms := _symptoms(incident):
        rows.append(("explains", f"{symptoms} more fault{'s' if symptoms > 1 else ''}"))
    rows += [("evidence" if place == 0 else "", line) for place, line in enumerate(incident.evidence[:_EVIDENCE_LINES])]
    if len(incident.evidence) > _EVIDENCE_LINES:
        rows.append(("", f"… and {len(incident.evidence) - _EVIDENCE_LINES} more"))
    for other in incident.alternatives[:_ALTERNATIVES]:
        rows += _alternative(other, incident)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(incident.first_ms / 1000))
    rows.append(("since", f"{since} UTC, told {notice.delay_ms(now_ms) / 1000:.1f} s after it was first seen"))
    if notice.cleared_ms is not None:
        rows.append(("", "it has cleared meanwhile"))
    rows.append(("incident", incident.incident_id))
    lines = [f"▲ {incident.severity.upper()} {incident.title}"]
    lines += [f"  {label:<9} {_one_line(text)}" for label, text in rows]
    return "\n".join(lines) + "\n\n"


def _alternative(other: Alternative, incident: Incident) -> list[tuple[str, str]]:
    """What else could explain the incident, and what would decide."""
    what = f"{other.fault_class.replace('_', ' ')} of {other.component}"
    scores = f"score {other.score:.2f} against {incident.score:.2f}"
    rows = [("or else", f"it could also be {what} ({scores}): {other.because}")]
    return [*rows, ("", f"to tell apart: {other.tell_apart}")] if other.tell_apart else rows


def _symptoms(incident: Incident) -> int:
    return sum(member.role == "symptom" for member in incident.members)


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
