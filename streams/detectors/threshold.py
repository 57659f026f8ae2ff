"""A limit, held for a time, with a way back: the plainest detector, and the one an operator can check by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.catalog.rules import Rule
from schemas.records import Anomaly
from streams.detectors.held import Flip, Held, begins, finding, gpus_longest_gap_ms, own
from streams.detectors.limits import Limits, Skus
from streams.readings.roster import Roster
from streams.readings.ticks import Tick

_NAME = "threshold"


class ThresholdDetector:
    """One rule of a catalogue over all GPUs of a partition. State: 24 bytes a GPU.

    An unknown reading (NaN) neither confirms nor clears; after a long gap a pending condition begins anew.
    """

    def __init__(self, metric: str, row: int, unit: str, rule: Rule, *, tick_ms: int, skus: Skus | None = None) -> None:
        self._metric, self._row, self._unit, self._rule, self._tick_ms = metric, row, unit, rule, tick_ms
        self._limits = Limits(rule, skus)
        self._held = Held(for_ms=rule.for_ms, clear_for_ms=rule.clear_for_ms)

    def update(self, tick: Tick) -> Iterator[Anomaly]:
        """Take the next tick in; gives what is raised or cleared by it."""
        self._held.grow(tick.roster.gpus)
        self._limits.follow(tick.roster)
        values = tick.throttle if self._row < 0 else tick.values[self._row]
        known = values >= 0 if self._row < 0 else ~np.isnan(values)
        beyond = self._beyond(values)
        gap_ms = partial(gpus_longest_gap_ms, tick, self._tick_ms)
        for flip in self._held.step(
            tick.tick_ms, gap_ms, raises=beyond, clears=self._back(values, beyond), known=known
        ):
            yield self._tell(tick, flip, float(values[flip.at]))

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these raised."""
        self._held.restore(begins(own(standing, _NAME, self._rule)), roster.gpus)

    def _beyond(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        rule = self._rule
        if rule.raise_bits is not None:
            return np.asarray((values & rule.raise_bits) != 0)
        limit = self._limits.each("limit")
        return np.asarray(values > limit if rule.raise_above is not None else values < limit)

    def _back(self, values: NDArray[Any], beyond: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if self._rule.raise_bits is not None:
            return ~beyond
        back = self._limits.each("back")
        return np.asarray(values < back if self._rule.raise_above is not None else values > back)

    def _tell(self, tick: Tick, flip: Flip, value: float) -> Anomaly:
        rule = self._limits.of(flip.at)
        if rule.raise_bits is not None:
            mask = rule.raise_bits
            found = (
                f"{self._metric} has {int(value):#x} set" if flip.raised else f"{self._metric} is clear of {mask:#x}"
            )
        else:
            side = "above" if rule.raise_above is not None else "below"
            beyond = f"is {side} {_with_unit(rule.limit, self._unit)}{self._limits.told(flip.at)}"
            found = f"{self._metric} {_with_unit(value, self._unit)} {beyond if flip.raised else 'is back'}"
        return finding(
            tick, flip, detector=_NAME, rule=rule, metric=self._metric, value=value, limit=rule.limit, found=found
        )


def _with_unit(value: float, unit: str) -> str:
    return f"{value:g} {unit}".rstrip()
