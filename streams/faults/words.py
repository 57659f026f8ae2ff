"""What operators say, read from hardware events of source `operator`.

Nothing here raises for what an event holds: words that cannot be understood are None, are kept in history, and do
nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite
from typing import NamedTuple

from schemas.catalog import Entry
from schemas.ids import rack_id
from schemas.records import Fault, HardwareEvent
from streams.faults.evidence import piece_of
from streams.faults.work import SCOPES

MAINTENANCE = "maintenance"
"""The class of announced work."""
SOURCE = "operator"
ANNOUNCED, ENDED = "maintenance_announced", "maintenance_ended"
ACKNOWLEDGED, SNOOZED, FAULT_ENDED = "fault_acknowledged", "fault_snoozed", "fault_ended"
WORDS = frozenset({ANNOUNCED, ENDED, ACKNOWLEDGED, SNOOZED, FAULT_ENDED})
_SOMEBODY = "an operator"
_LATEST_MS = 253_402_300_799_000
"""The end of the year 9999: the last time that can be written as a date."""


class Target(NamedTuple):
    """Which faults a word is about."""

    fault_id: str
    component: str
    fault_class: str

    def names(self, fault: Fault, said_ms: int) -> bool:
        """Whether a fault is meant.

        An id names one life. A component's faults are those that had begun when it was said: delivered again later,
        the same word is not about the next one.
        """
        if self.fault_id:
            return fault.fault_id == self.fault_id
        return (
            bool(self.component)
            and fault.component == self.component
            and self.fault_class in {"", fault.fault_class}
            and said_ms >= fault.first_ms
        )


def is_word(event: HardwareEvent) -> bool:
    """Whether an event is an operator's word to the faults."""
    return event.source == SOURCE and event.kind in WORDS


def target(event: HardwareEvent) -> Target:
    """What a word about faults is about: details `fault_id`, or `component` and perhaps `fault_class`."""
    details = event.details
    return Target(details.get("fault_id", ""), details.get("component", ""), details.get("fault_class", ""))


def by(event: HardwareEvent) -> str:
    """Who says it."""
    return event.details.get("by") or _SOMEBODY


def note(event: HardwareEvent) -> str:
    """What else was said, as an end of a sentence."""
    said = (event.details.get("note") or event.details.get("reason") or "").strip()
    return f": {said}" if said else ""


def until_ms(event: HardwareEvent) -> int | None:
    """Until when: details `until_ms`, or `until_s` counted from the event."""
    return _time_ms(event, "until")


def scope(event: HardwareEvent) -> str | None:
    """What is worked on: details `scope`, as `rack:R`; the event's rack where it names none."""
    kind, _, name = event.details.get("scope", rack_id(event.rack)).partition(":")
    kind = "switch" if kind == "leaf_switch" else kind
    return f"{kind}:{name}" if name and kind in SCOPES else None


def window(event: HardwareEvent) -> tuple[int, int] | None:
    """From when until when: details `begin_ms` and `until_ms`, else `begin_s` and `until_s` counted from the event.

    Without a beginning it begins at once; without an end, or one that does not come after it, it is none.
    """
    begin, until = _time_ms(event, "begin"), until_ms(event)
    begin = event.event_ms if begin is None else begin
    return (begin, until) if until is not None and until > begin else None


def work(event: HardwareEvent, entry: Entry, of: str, begin_ms: int, end_ms: int) -> Fault:
    """The fault that announced work is, at revision 0.

    Work on what spans racks is announced to each of them, and is one fault all the same: where the streams that hear
    of it are several, all of them write the same record, about the first of the racks.
    """
    kind, _, name = of.partition(":")
    return Fault(
        fault_id="",
        revision=0,
        state="open",
        site=event.site,
        rack=event.details.get("first_rack", event.rack),
        node=name if kind == "node" else (event.node or None) if kind == "gpu" else None,
        gpu=name if kind == "gpu" else None,
        component=of,
        component_kind=kind,
        fault_class=MAINTENANCE,
        severity=entry.severity,
        action=entry.action,
        rule=entry.rule,
        reason=f"{of} is worked on from {_clock(begin_ms)} to {_clock(end_ms)}, says {by(event)}{note(event)}",
        first_ms=event.event_ms,
        last_ms=event.event_ms,
        count=1,
        evidence=[piece_of(event, entry.name)],
        observed_ms=event.observed_ms,
    )


def _time_ms(event: HardwareEvent, name: str) -> int | None:
    """A time in an event's details; the absolute form wins over the relative one."""
    for key, unit_ms, origin_ms in ((f"{name}_ms", 1, 0), (f"{name}_s", 1000, event.event_ms)):
        if key in event.details:
            try:
                found = float(event.details[key])
            except ValueError:
                return None
            at_ms = origin_ms + found * unit_ms
            return round(at_ms) if isfinite(at_ms) and 0 < at_ms <= _LATEST_MS else None
    return None


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
