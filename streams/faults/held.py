"""One fault as it is held: what the evidence says, what else is known, and the record that comes of both."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from schemas.catalog import SEVERITIES
from schemas.records import Fault
from streams.faults.climb import Climbed
from streams.faults.source import Source
from streams.faults.work import Window, Work


class OpenFault(msgspec.Struct, kw_only=True):
    """A fault, with what is needed to go on with it (or, once it is over, to know its evidence again).

    1 KB, and 4.5 KB once 64 pieces of evidence are remembered.
    """

    fault: Fault
    """As the evidence has it; its revision is that of the last record written."""
    boot_id: str | None = None
    """The node's boot id at the last evidence."""
    standing: list[str] = []
    """Anomalies that are raised and not cleared."""
    points: list[str] = []
    """What events have reported and none has told to be over (`point_of`): the fault ends with the last of them."""
    remembered: list[str] = []
    """Ids of the last evidence."""
    arrived_ms: int = 0
    """When the last evidence reached Kafka."""
    written_count: int = 0
    written_ms: int = 0
    ended_ms: int | None = None
    """When it ended, by the clock; None while it has not."""
    because: str = ""
    """Why it ended, where that is to be said."""
    events_through: int = -1
    anomalies_through: int = -1
    """The offset of the last record of each topic that changed it. State is kept fault by fault, so a kill may leave
    some of a run's faults kept and others not: when the run is done again, each takes just what is new to it."""
    recurrence: int = 0
    """Earlier faults of its class on the component, when it began."""
    flapping: bool = False
    settled_ms: int | None = None
    """Of one that flaps: when it was told to be over, unless there was evidence since."""
    repairs: dict[str, int] = {}
    """What was done and did not help, to milliseconds until it was back."""
    climbed: Climbed | None = None
    acknowledged_by: str | None = None
    acknowledged_ms: int | None = None
    snoozed_ms: int | None = None
    """When somebody said until when."""
    snoozed_until_ms: int | None = None
    work: Work | None = None
    windows: list[Window] = []
    """Of announced work."""

    @property
    def key(self) -> str:
        """Where it is held."""
        return key_of(self.fault.component, self.fault.fault_class)

    def has_taken(self, source: Source) -> bool:
        """Whether a record is folded in already."""
        through = self.events_through if source.is_event else self.anomalies_through
        return source.offset is not None and source.offset <= through

    def take(self, source: Source) -> None:
        """Note that a record is folded in."""
        if source.offset is not None and source.is_event:
            self.events_through = source.offset
        elif source.offset is not None:
            self.anomalies_through = source.offset

    def shown(self) -> Fault:
        """The record that says all of it."""
        fault = self.fault
        severity, action, rule, reason = fault.severity, fault.action, fault.rule, fault.reason
        work = None if self.work is None or self.work.over else self.work
        if work is not None and work.explained:
            severity, action, rule = SEVERITIES[0], "none", "maintenance"
            reason = also(reason, "It is being worked on.")
        elif self.climbed is not None:
            action, rule = self.climbed.action, f"ladder.{self.climbed.name}"
            reason = also(reason, self.climbed.reason)
        if self.work is not None and self.work.over:
            reason = also(reason, "It began in announced work that is over.")
        if self.flapping:
            reason = also(reason, "It comes and goes, and stands until it has been quiet for long.")
        reason = also(reason, self.because)
        quiet = [until for until in (self.snoozed_until_ms, work.until_ms if work else None) if until is not None]
        return replace(
            fault,
            severity=severity,
            action=action,
            action_rule=rule,
            reason=reason,
            recurrence=self.recurrence,
            flapping=self.flapping,
            maintenance=work.fault_id if work else None,
            acknowledged_by=self.acknowledged_by,
            acknowledged_ms=self.acknowledged_ms,
            snoozed_until_ms=max(quiet, default=None),
        )


def key_of(component: str, fault_class: str) -> str:
    """Where the fault of a class on a component is held: it has one life at a time."""
    return f"{component}|{fault_class}"


def also(reason: str, more: str) -> str:
    """A reason with one more sentence."""
    return f"{reason}{'' if reason.endswith(('.', ']')) else '.'} {more}" if more else reason
