"""A limit, held for a time, with a way back: the plainest detector, and the one an operator can check by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from schemas.catalog.metrics import Rule
from schemas.ids import gpu_id, stable_id
from schemas.records import Anomaly
from streams.roster import NEVER_MS, Roster
from streams.ticks import Tick

_LONGEST_GAP_TICKS, _LONGEST_GAP_INTERVALS = 10, 3
"""A condition is not held over a gap in the readings that is longer than both of these."""


class ThresholdDetector:
    """One rule of the metric catalogue over all GPUs of a partition. State: 25 bytes a GPU.

    An unknown reading (NaN) neither confirms nor clears; after a long gap a pending condition begins anew.
    """

    def __init__(self, metric: str, row: int, unit: str, rule: Rule, *, tick_ms: int) -> None:
        self._metric, self._row, self._unit, self._rule = metric, row, unit, rule
        self._gap_ms = _LONGEST_GAP_TICKS * tick_ms
        self._since_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) since when the condition to raise (or, where raised, to clear) has held; NEVER_MS where it does not."""
        self._read_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) when the metric was last read."""
        self._begin_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) when the raised condition began; NEVER_MS where none is raised."""
        self._standing: dict[str, int] = {}
        """Restored anomalies whose GPU has not been met yet: serial to begin_ms."""

    def update(self, tick: Tick) -> Iterator[Anomaly]:
        """Take the next tick in; gives what is raised or cleared by it."""
        self._grow(tick)
        values = tick.throttle if self._row < 0 else tick.values[self._row]
        known = values >= 0 if self._row < 0 else ~np.isnan(values)
        raised = self._begin_ms != NEVER_MS
        condition = np.where(raised, self._back(values), self._beyond(values)) & known
        interval_ms = tick.roster.node_interval_ms[tick.roster.gpu_node]
        gap_ms = np.maximum(self._gap_ms, _LONGEST_GAP_INTERVALS * interval_ms)
        stale = known & (tick.tick_ms - self._read_ms > gap_ms)
        starts = condition & ((self._since_ms == NEVER_MS) | stale)
        self._since_ms[known & ~condition] = NEVER_MS
        self._since_ms[starts] = tick.tick_ms
        self._read_ms[known] = tick.tick_ms
        held_ms = np.where(raised, self._rule.clear_for_ms, self._rule.for_ms)
        decided = condition & (tick.tick_ms - self._since_ms >= held_ms)
        for gpu in np.flatnonzero(decided).tolist():
            yield self._flip(tick, gpu, float(values[gpu]))

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these raised."""
        self._standing = {
            a.gpu: a.begin_ms for a in standing if a.rule == self._rule.name and a.detector == "threshold" and a.gpu
        }
        met = roster.gpus[: len(self._begin_ms)]
        begin_ms = np.array([self._standing.pop(serial, NEVER_MS) for serial in met], np.int64)
        # what held so far was held against the other condition
        self._since_ms[(begin_ms == NEVER_MS) != (self._begin_ms == NEVER_MS)] = NEVER_MS
        self._begin_ms = begin_ms

    def _beyond(self, values: NDArray[np.float32] | NDArray[np.int64]) -> NDArray[np.bool_]:
        rule = self._rule
        if rule.raise_above is not None:
            return np.asarray(values > rule.raise_above)
        if rule.raise_below is not None:
            return np.asarray(values < rule.raise_below)
        return np.asarray((values.astype(np.int64) & (rule.raise_bits or 0)) != 0)

    def _back(self, values: NDArray[np.float32] | NDArray[np.int64]) -> NDArray[np.bool_]:
        rule = self._rule
        if rule.clear_below is not None:
            return np.asarray(values < rule.clear_below)
        if rule.clear_above is not None:
            return np.asarray(values > rule.clear_above)
        return ~self._beyond(values)

    def _flip(self, tick: Tick, gpu: int, value: float) -> Anomaly:
        raising = self._begin_ms[gpu] == NEVER_MS
        begin_ms = int(self._since_ms[gpu] if raising else self._begin_ms[gpu])
        self._begin_ms[gpu] = begin_ms if raising else NEVER_MS
        self._since_ms[gpu] = NEVER_MS
        place, serial, rule = tick.roster.place(gpu), tick.roster.gpus[gpu], self._rule
        component = gpu_id(serial)
        limit = next(x for x in (rule.raise_above, rule.raise_below, rule.raise_bits) if x is not None)
        for_s = (tick.tick_ms - begin_ms) / 1000
        if rule.raise_bits is not None:
            found = f"{self._metric} has {int(value):#x} set" if raising else f"{self._metric} is clear of {limit:#x}"
        else:
            side = "above" if rule.raise_above is not None else "below"
            found = f"{self._metric} {value:g} {self._unit}" + (
                f" is {side} {limit:g} {self._unit}" if raising else " is back"
            )
        return Anomaly(
            anomaly_id=stable_id("threshold", rule.name, component, begin_ms),
            site=place.site,
            rack=place.rack,
            node=place.node,
            gpu=serial,
            component=component,
            detector="threshold",
            rule=rule.name,
            metric=self._metric,
            fault_class=rule.fault_class,
            state="raised" if raising else "cleared",
            severity=rule.severity,
            action=rule.action,
            value=value,
            limit=float(limit),
            begin_ms=begin_ms,
            tick_ms=tick.tick_ms,
            reason=f"{found} for {for_s:g} s" if raising else f"{found} after {for_s:g} s",
        )

    def _grow(self, tick: Tick) -> None:
        met, all_ = len(self._since_ms), len(tick.roster.gpus)
        if all_ == met:
            return
        new = np.full(all_ - met, NEVER_MS)
        self._since_ms, self._read_ms = np.append(self._since_ms, new), np.append(self._read_ms, new)
        begins = [self._standing.pop(serial, NEVER_MS) for serial in tick.roster.gpus[met:]]
        self._begin_ms = np.append(self._begin_ms, np.array(begins, np.int64))
