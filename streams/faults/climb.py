"""The action ladder at work: which rows of `schemas/catalog/ladder.toml` hold for a fault, and what they make of it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from schemas.catalog import SEVERITIES, Step
from schemas.records import Fault
from streams.faults.history import DAY_MS, History
from streams.faults.source import Source

_HOUR_MS = 3_600_000


class Climbed(msgspec.Struct, frozen=True):
    """The action that the ladder has chosen, and why."""

    name: str
    """The row that had the last word."""
    action: str
    reason: str


def climb(
    steps: Mapping[str, Step],
    fault: Fault,
    history: History,
    source: Source,
    *,
    repairs: Mapping[str, int],
    driver_version: str | None,
    own_action: bool,
) -> Climbed | None:
    """What the ladder makes of a fault whose severity and first action are those that the evidence asks for.

    `repairs`: what was done and did not help (`reboot`, `reset`), to milliseconds until the fault was back.
    `own_action`: an operator's file names the first action. None where no row changes anything.
    """
    if fault.severity == SEVERITIES[0]:
        return None
    chosen: Climbed | None = None
    for name, step in steps.items():
        if not step.concerns(fault.fault_class, fault.rule) or (own_action and step.operator_wins):
            continue
        if not step.changes(chosen.action if chosen else fault.action):
            continue
        if step.after is not None:
            back_ms = repairs.get(step.after)
            if back_ms is None or back_ms > (step.within_hours or 0) * _HOUR_MS:
                continue
        if step.beside and fault.fault_class not in step.beside and not history.has_open(step.beside, source):
            continue
        if step.driver_below is not None and not _is_below(driver_version, step.driver_below):
            continue
        times = _times(fault, history, source, step.within_days)
        if step.times is not None and times < step.times:
            continue
        chosen = Climbed(name, step.action, step.reason.format(times=times))
    return chosen


def _times(fault: Fault, history: History, source: Source, within_days: int | None) -> int:
    """How many faults of the class the component had within so many days, this one counted."""
    since_ms = fault.first_ms - (within_days or 0) * DAY_MS
    earlier = history.earlier(fault.fault_class, fault.fault_id, source)
    return 1 + sum(life.first_ms >= since_ms for life in earlier)


def _is_below(driver_version: str | None, branch: int) -> bool:
    """Whether a driver (`550.54.15`) is of an earlier branch; one that is not known is not."""
    found = re.match(r"[0-9]{1,6}", driver_version or "")
    return found is not None and int(found[0]) < branch
