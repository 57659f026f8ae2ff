"""Announced work: its windows in time, and what is in its scope."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from schemas.catalog.classes import Margin
from schemas.records import Fault
from streams.faults.source import CLOCK, Source
from streams.topology import Topology

SCOPES = ("rack", "node", "gpu", "pdu", "switch", "site")
"""What work may be announced on: `rack:R`, `node:N`, `gpu:SERIAL`, `pdu:P`, `switch:LEAF`, `site:S`."""
_MOST_WINDOWS = 8
_NEVER_MS = 0
"""The end of a window that was taken back before it began."""


class Window(msgspec.Struct, array_like=True):
    """One announced time of work, and where in the log it was announced and ended."""

    of: str
    """Fault id of the work."""
    begin_ms: int
    until_ms: int
    told: Source
    closed_ms: int | None = None
    closed: Source | None = None

    def end_ms(self, source: Source) -> int:
        """When it ends, as far as was known when a record came."""
        if self.closed_ms is None or (self.closed is not None and not source.knows(self.closed)):
            return self.until_ms
        return self.closed_ms

    def quiet_until_ms(self, first_ms: int, margin: Margin, source: Source, *, explained: bool) -> int | None:
        """Until when a fault that began at a time has to be quiet because of it; None where it has nothing to do.

        What the work explains is given the grace in which machines boot; all else only until the end.
        """
        if not source.knows(self.told):
            return None
        end_ms = self.end_ms(source) + (margin.grace_s * 1000 if explained else 0)
        return end_ms if self.begin_ms - margin.lead_s * 1000 <= first_ms <= end_ms else None


class Work(msgspec.Struct, frozen=True):
    """That a fault began, or became worse, in announced work."""

    fault_id: str
    """Of the work."""
    at_ms: int
    """When that was."""
    until_ms: int
    explained: bool
    """It is what such work does to a machine."""
    over: bool = False
    """The work is over and the fault stands: it is one like any other."""


def announced(windows: list[Window], new: Window) -> list[Window]:
    """With one more window, which takes the place of those of the same work that it overlaps. The last 8 are known."""
    for window in windows:
        if window.of == new.of and window.begin_ms <= new.until_ms and new.begin_ms <= window.end_ms(CLOCK):
            window.closed_ms, window.closed = _NEVER_MS, new.told
    return [*windows, new][-_MOST_WINDOWS:]


def close(windows: Iterable[Window], at_ms: int, margin: Margin, source: Source) -> None:
    """End what is being done; where nothing has begun, take back what was to come."""
    left = [window for window in windows if window.end_ms(CLOCK) > at_ms]
    begun = [window for window in left if window.begin_ms - margin.lead_s * 1000 <= at_ms]
    for window in begun or left:
        window.closed_ms, window.closed = at_ms if begun else _NEVER_MS, source


def last_end_ms(windows: Iterable[Window]) -> int:
    """When the last of them ends, as far as is known."""
    return max((window.end_ms(CLOCK) for window in windows), default=_NEVER_MS)


def quiet_until(
    windows: Iterable[Window], at_ms: int, margin: Margin, source: Source, *, explained: bool
) -> Work | None:
    """Which of these windows keeps a fault of that time quiet the longest."""
    found = (
        (until_ms, window.of)
        for window in windows
        if (until_ms := window.quiet_until_ms(at_ms, margin, source, explained=explained)) is not None
    )
    until_ms, of = max(found, default=(None, ""))
    return None if until_ms is None else Work(of, at_ms, until_ms, explained)


def in_scope(work: Fault, fault: Fault, topology: Topology) -> bool:
    """Whether the component of a fault is among what is worked on, as far as the inventory knows."""
    if fault.site != work.site:
        return False
    kind, _, name = work.component.partition(":")
    if fault.component == work.component or kind == "site":
        return True
    if kind == "rack":
        return fault.rack == name
    if kind == "gpu":
        return fault.gpu == name
    if not fault.node:
        return False
    found = {"node": lambda node: node, "pdu": topology.pdu, "switch": topology.leaf_switch}.get(kind)
    return found is not None and found(fault.node) == name
