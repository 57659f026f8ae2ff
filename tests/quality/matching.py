"""Holds alarms against the truth, by the table `matching.toml`: who explains what, and who was found."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from producers.simulate.truth import Truth
from tests.quality.judging import SeenFault

LATE_MS = 120_000
"""An alarm may come so long after its cause is over: a tick has to close, a condition to hold."""
EARLY_MS = 1000
"""Kernel lines of a fault may be stamped a moment before it begins."""


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of the table."""

    kind: str
    on: Literal["root", "symptoms", "node"]
    classes: tuple[str, ...]
    finds: bool
    reason: str


@cache
def rules() -> dict[str, tuple[Rule, ...]]:
    """The table, by kind of true fault. Raises `msgspec.ValidationError` where it is not what it should be."""
    document = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    found: dict[str, list[Rule]] = defaultdict(list)
    for rule in msgspec.convert(document["rule"], tuple[Rule, ...]):
        found[rule.kind].append(rule)
    return {kind: tuple(of_kind) for kind, of_kind in found.items()}


def claimed_by() -> dict[str, set[str]]:
    """Fault class to the kinds that it may be the finding of."""
    found: dict[str, set[str]] = defaultdict(set)
    for kind, of_kind in rules().items():
        for rule in of_kind:
            if rule.finds:
                for name in rule.classes:
                    found[name].add(kind)
    return found


@dataclass(frozen=True, slots=True)
class TrueFault:
    """One true fault with all its parts."""

    fault_id: str
    root: Truth
    parts: tuple[Truth, ...]
    harmless: bool

    @property
    def kind(self) -> str:
        """What it is."""
        return self.root.fault


@dataclass(slots=True)
class Verdict:
    """What became of one true fault."""

    true: TrueFault
    alarms: list[str] = field(default_factory=list)
    """Ids of the faults that it explains."""
    found_ms: int | None = None
    """When somebody was first told the right thing about it."""


@dataclass(frozen=True, slots=True)
class Matched:
    """A recording's alarms beside its truth."""

    verdicts: tuple[Verdict, ...]
    label: Mapping[str, str]
    """Fault to the true fault (or harmless event) that explains it, alarms and program errors alike."""
    false_alarms: tuple[SeenFault, ...]
    alarms: int


def true_faults(truth: Iterable[Truth]) -> list[TrueFault]:
    """The lines of a truth file, put together by fault."""
    parts: dict[str, list[Truth]] = defaultdict(list)
    for line in truth:
        if line.fault_id is not None:
            parts[line.fault_id].append(line)
    return [
        TrueFault(fault_id, lines[0], tuple(lines), harmless=lines[0].role == "harmless")
        for fault_id, lines in parts.items()
    ]


def match(truth: Sequence[TrueFault], faults: Mapping[str, SeenFault], end_ms: int) -> Matched:
    """Put each fault down to what explains it."""
    verdicts = {true.fault_id: Verdict(true) for true in truth if not true.harmless}
    at_component, at_node = _places(truth)
    label: dict[str, str] = {}
    false_alarms: list[SeenFault] = []
    alarms = 0
    for fault_id, seen in faults.items():
        fault = seen.newest
        near = {
            true.fault_id: true
            for true in (*at_component.get(fault.component, ()), *at_node.get(fault.node or "", ()))
        }  # fmt: skip
        explained: list[tuple[bool, int, str]] = []
        for true in near.values():
            if true.harmless:
                continue
            for told_ms in seen.told_ms:
                finds = _explains(true, seen, told_ms, end_ms)
                if finds is None:
                    continue
                verdict = verdicts[true.fault_id]
                if finds and (verdict.found_ms is None or told_ms < verdict.found_ms):
                    verdict.found_ms = told_ms
                if told_ms == seen.alarmed_ms:
                    # what finds goes before what follows, and the youngest cause before an older one
                    explained.append((not finds, -true.root.start_ms, true.fault_id))
                break
        if seen.alarmed_ms is not None:
            alarms += 1
            if explained:
                label[fault_id] = min(explained)[2]
                verdicts[label[fault_id]].alarms.append(fault_id)
            else:
                false_alarms.append(seen)
        elif (cause := _touched(near.values(), seen, end_ms)) is not None:
            label[fault_id] = cause
    return Matched(tuple(verdicts.values()), label, tuple(false_alarms), alarms)


def _places(truth: Iterable[TrueFault]) -> tuple[dict[str, list[TrueFault]], dict[str, list[TrueFault]]]:
    at_component: dict[str, list[TrueFault]] = defaultdict(list)
    at_node: dict[str, list[TrueFault]] = defaultdict(list)
    for true in truth:
        for part in true.parts:
            at_component[part.component].append(true)
        if true.root.node:
            at_node[true.root.node].append(true)
    return at_component, at_node


def _explains(true: TrueFault, seen: SeenFault, at_ms: int, end_ms: int) -> bool | None:
    """Whether an alarm at a moment is the finding of a true fault (True), a consequence (False), or neither (None)."""
    fault = seen.newest
    best: bool | None = None
    for rule in rules().get(true.kind, ()):
        if fault.fault_class not in rule.classes:
            continue
        for part in true.parts:
            fits = {
                "root": part is true.root and fault.component == part.component,
                "symptoms": part is not true.root and fault.component == part.component,
                "node": part is true.root and fault.node == part.node,
            }[rule.on]
            if fits and part.start_ms - EARLY_MS <= at_ms <= (true.root.cleared_ms or end_ms) + LATE_MS:
                best = rule.finds or bool(best)
    return best


def _touched(near: Iterable[TrueFault], seen: SeenFault, end_ms: int) -> str | None:
    """Whose doing a fault is that is no alarm: a program that died with a GPU, on one of its parts, in its time."""
    fits = [
        (-part.start_ms, true.fault_id)
        for true in near
        for part in true.parts
        if part.component == seen.newest.component
        and part.start_ms - EARLY_MS <= seen.opened_ms <= (true.root.cleared_ms or end_ms) + LATE_MS
    ]
    return min(fits)[1] if fits else None
