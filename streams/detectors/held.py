"""A condition that has to hold for a time before it counts, with a way back; and the finding that comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.catalog.metrics import Finding, OneSided
from schemas.ids import gpu_id, stable_id
from schemas.records import Anomaly
from streams.roster import NEVER_MS, Roster
from streams.ticks import Tick

_LONGEST_GAP_TICKS, _LONGEST_GAP_INTERVALS = 10, 3
"""A condition is not held over a gap in the readings that is longer than both of these."""

Flags = NDArray[np.bool_]


def longest_gap_ms(tick: Tick, tick_ms: int) -> NDArray[np.int64]:
    """(G,) so long may a GPU go unread until what was known of it is no longer held to go on."""
    interval_ms = tick.roster.node_interval_ms[tick.roster.gpu_node]
    return np.maximum(_LONGEST_GAP_TICKS * tick_ms, _LONGEST_GAP_INTERVALS * interval_ms)


def sides(values: NDArray[np.float32], rule: OneSided) -> tuple[Flags, Flags]:
    """(G,) where values are beyond the rule's limit, and (G,) where they are back."""
    limit, back = np.float32(rule.limit), np.float32(rule.back)
    if rule.raise_above is not None:
        return np.asarray(values > limit), np.asarray(values < back)
    return np.asarray(values < limit), np.asarray(values > back)


@dataclass(frozen=True, slots=True)
class Flip:
    """A condition of one GPU that is raised or cleared."""

    gpu: int
    raised: bool
    begin_ms: int
    """Since when the condition holds that was raised, or is cleared now."""


class Held:
    """One condition over all GPUs of a partition. State: 24 bytes a GPU.

    What is unknown neither confirms nor clears; after a long gap a pending condition begins anew.
    """

    def __init__(self, *, for_ms: int, clear_for_ms: int, tick_ms: int) -> None:
        self._for_ms, self._clear_for_ms, self._tick_ms = for_ms, clear_for_ms, tick_ms
        self._since_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) since when the condition to raise (or, where raised, to clear) has held; NEVER_MS where it does not."""
        self._read_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) when the condition was last known."""
        self._begin_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) when the raised condition began; NEVER_MS where none is raised."""
        self._standing: dict[str, int] = {}
        """Restored anomalies whose GPU has not been met yet: serial to begin_ms."""

    @property
    def raised(self) -> Flags:
        """(G,) where it is raised."""
        return np.asarray(self._begin_ms != NEVER_MS)

    def grow(self, roster: Roster) -> None:
        """Enter newcomers; one whose anomaly was restored goes on being raised."""
        met, all_ = len(self._since_ms), len(roster.gpus)
        if all_ == met:
            return
        new = np.full(all_ - met, NEVER_MS)
        self._since_ms, self._read_ms = np.append(self._since_ms, new), np.append(self._read_ms, new)
        begins = [self._standing.pop(serial, NEVER_MS) for serial in roster.gpus[met:]]
        self._begin_ms = np.append(self._begin_ms, np.array(begins, np.int64))

    def step(self, tick: Tick, *, raises: Flags, clears: Flags, known: Flags) -> Iterator[Flip]:
        """Take the condition of each GPU (G,) at the next tick in; gives what flips, in roster order."""
        raised = self._begin_ms != NEVER_MS
        condition = np.where(raised, clears, raises) & known
        stale = known & (tick.tick_ms - self._read_ms > longest_gap_ms(tick, self._tick_ms))
        starts = condition & ((self._since_ms == NEVER_MS) | stale)
        self._since_ms[known & ~condition] = NEVER_MS
        self._since_ms[starts] = tick.tick_ms
        self._read_ms[known] = tick.tick_ms
        held_ms = np.where(raised, self._clear_for_ms, self._for_ms)
        decided = condition & (tick.tick_ms - self._since_ms >= held_ms)
        for gpu in np.flatnonzero(decided).tolist():
            raising = bool(self._begin_ms[gpu] == NEVER_MS)
            begin_ms = int(self._since_ms[gpu] if raising else self._begin_ms[gpu])
            self._begin_ms[gpu] = begin_ms if raising else NEVER_MS
            self._since_ms[gpu] = NEVER_MS
            yield Flip(gpu, raising, begin_ms)

    def restore(self, standing: dict[str, int], roster: Roster) -> None:
        """Go on with just these raised: serial to begin_ms."""
        self._standing = standing
        met = roster.gpus[: len(self._begin_ms)]
        begin_ms = np.array([self._standing.pop(serial, NEVER_MS) for serial in met], np.int64)
        # what held so far was held against the other condition
        self._since_ms[(begin_ms == NEVER_MS) != (self._begin_ms == NEVER_MS)] = NEVER_MS
        self._begin_ms = begin_ms


def own(standing: Iterable[Anomaly], detector: str, rule: Finding) -> list[Anomaly]:
    """Those of one rule of one detector."""
    return [a for a in standing if a.rule == rule.name and a.detector == detector and a.gpu]


def begins(standing: Iterable[Anomaly]) -> dict[str, int]:
    """Serial to begin_ms."""
    return {a.gpu: a.begin_ms for a in standing if a.gpu}


def finding(
    tick: Tick, flip: Flip, *, detector: str, rule: Finding, metric: str, value: float | None, limit: float, found: str
) -> Anomaly:
    """What is told of a flip; `found` is the reason without its duration."""
    place, serial = tick.roster.place(flip.gpu), tick.roster.gpus[flip.gpu]
    component = gpu_id(serial)
    for_s = (tick.tick_ms - flip.begin_ms) / 1000
    return Anomaly(
        anomaly_id=stable_id(detector, rule.name, component, flip.begin_ms),
        site=place.site,
        rack=place.rack,
        node=place.node,
        gpu=serial,
        component=component,
        detector=detector,
        rule=rule.name,
        metric=metric,
        fault_class=rule.fault_class,
        state="raised" if flip.raised else "cleared",
        severity=rule.severity,
        action=rule.action,
        value=value,
        limit=limit,
        begin_ms=flip.begin_ms,
        tick_ms=tick.tick_ms,
        reason=f"{found} for {for_s:g} s" if flip.raised else f"{found} after {for_s:g} s",
    )
