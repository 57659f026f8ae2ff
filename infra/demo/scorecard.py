"""What was injected beside what was found: was each fault found, is its root right, how long did it take, who was woken
for nothing. Plain arithmetic over values; nothing here reads a clock, a file or a topic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from schemas.records import Incident

ROOT = "root"
EXPECTED_CLASSES = {
    "gpu_falls_off_bus": {"gpu_lost"},
    "gpu_overheats": {"thermal"},
    "nvlink_fails": {"nvlink"},
    "node_goes_silent": {"node_silent"},
}
"""Scripted fault to the classes that its incident's root may have; the right component with another is not found."""

_EARLY_MS = 2000
"""How much before its injection the evidence of a fault may be dated: two ticks of the fleet."""


class Injected(msgspec.Struct, frozen=True):
    """One line of the truth file: a fault, or the part of one component in it."""

    fault: str
    component: str
    node: str | None = None
    rack: str | None = None
    gpu: str | None = None
    role: str = ROOT
    start_ms: int = 0
    first_observable_ms: int = 0
    """When a perfect observer could know."""
    cleared_ms: int | None = None
    hard_ms: int | None = None
    """When it became more than a warning, where one was to be seen before."""

    @property
    def due_ms(self) -> int:
        """From when on somebody should be told."""
        return self.first_observable_ms if self.hard_ms is None else self.hard_ms


class Told(msgspec.Struct, frozen=True):
    """An incident over all its revisions so far."""

    first: Incident
    newest: Incident
    page: Incident | None = None
    """The revision that paged, if one did."""


@dataclass(frozen=True, slots=True)
class Row:
    """One injected fault and what became of it."""

    injected: Injected
    told: Told | None
    found: bool
    """An incident has the injected component among its members, with the right class where it is the root."""
    root_right: bool
    """The incident names it as the root, and so did the page."""
    delay_seconds: float | None
    """From being observable to the decision to page (or to the incident's newest word where it pages nobody)."""
    alerted_seconds: float | None = None
    """From being observable to somebody having been told."""
    warned_seconds: float | None = None
    """How long before it failed its incident was there, as an early warning that woke nobody."""


@dataclass(frozen=True, slots=True)
class Scorecard:
    """The outcome of a run."""

    rows: tuple[Row, ...]
    false_alarms: tuple[Told, ...]
    """Incidents that paged and are not the one incident of an injected fault."""
    expected: int = 1
    """How many faults the script has: one that was never injected proves nothing."""

    @property
    def failures(self) -> list[str]:
        """What is wrong, in words; empty where every fault was found at its root and nobody was woken for nothing."""
        said = []
        if len(self.rows) < self.expected:
            said.append(f"only {len(self.rows)} of {self.expected} faults came to show")
        if missed := [row for row in self.rows if not row.found]:
            said.append(f"{len(missed)} of {len(self.rows)} faults were not found")
        if wrong := [row for row in self.rows if row.found and not row.root_right]:
            said.append(f"{len(wrong)} got the wrong root")
        if self.false_alarms:
            said.append(f"{len(self.false_alarms)} false alarms woke somebody")
        return said

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures


def read_truth(lines: Iterable[bytes]) -> list[Injected]:
    """The injected faults of a truth file. A last line that is still being written is left for the next reading."""
    whole = (line for line in lines if line.endswith(b"\n") and line.strip())
    return [msgspec.json.decode(line, type=Injected) for line in whole]


def fold(told: dict[str, Told], revision: Incident) -> None:
    """Take one record of `fleet.incidents` into `told` (by incident id); a repeated record changes nothing."""
    before = told.get(revision.incident_id)
    first = before.first if before is not None and before.first.revision <= revision.revision else revision
    newest = revision if before is None or revision.revision >= before.newest.revision else before.newest
    page = before.page if before is not None and before.page is not None else (revision if revision.page else None)
    told[revision.incident_id] = Told(first, newest, page)


def score(
    injected: Sequence[Injected],
    told: Iterable[Told],
    *,
    expected: int = 1,
    alerted_ms: Mapping[str, int] | None = None,
) -> Scorecard:
    """Hold what was found against what was injected. `alerted_ms` says when somebody was told, by incident id."""
    by_page = sorted(told, key=lambda one: (one.page is None, one.newest.first_ms))
    left = {one.newest.incident_id: one for one in by_page}
    rows = []
    for root in sorted((one for one in injected if one.role == ROOT), key=lambda one: one.first_observable_ms):
        match = _best(root, [one for one in by_page if one.newest.incident_id in left])
        if match is not None:
            del left[match.newest.incident_id]
        rows.append(_row(root, match, alerted_ms or {}))
    return Scorecard(tuple(rows), tuple(one for one in left.values() if one.page is not None), expected)


def _best(root: Injected, told: Sequence[Told]) -> Told | None:
    in_time = [one for one in told if one.newest.last_ms >= root.start_ms - _EARLY_MS]
    by_root = [one for one in in_time if one.newest.root == root.component]
    by_member = [one for one in in_time if root.component in {member.component for member in one.newest.members}]
    return next(iter([*by_root, *by_member]), None)


def _row(root: Injected, told: Told | None, alerted_ms: Mapping[str, int]) -> Row:
    if told is None:
        return Row(root, None, found=False, root_right=False, delay_seconds=None)
    decided = told.page or told.newest
    is_root = told.newest.root == root.component and decided.root == root.component
    classes = EXPECTED_CLASSES.get(root.fault)
    right_class = classes is None or not is_root or told.newest.root_class in classes
    delay = (decided.decided_ms - root.due_ms) / 1000
    warned = None if root.hard_ms is None else (root.hard_ms - told.first.decided_ms) / 1000
    alerted = alerted_ms.get(told.newest.incident_id)
    return Row(
        root,
        told,
        found=right_class,
        root_right=is_root,
        delay_seconds=delay,
        alerted_seconds=None if alerted is None else (alerted - root.due_ms) / 1000,
        warned_seconds=warned if warned is not None and warned > 0 else None,
    )
