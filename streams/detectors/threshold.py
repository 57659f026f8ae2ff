"""A limit, held for a time, with a way back: the plainest detector, and the one an operator can check by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from schemas.catalog.metrics import Rule
from schemas.records import Anomaly
from streams.detectors.held import Flip, Held, begins, finding, own
from streams.roster import Roster
from streams.ticks import Tick

_NAME = "threshold"


class ThresholdDetector:
    """One rule of the metric catalogue over all GPUs of a partition. State: 24 bytes a GPU.

    An unknown reading (NaN) neither confirms nor clears; after a long gap a pending condition begins anew.
    """

    def __init__(self, metric: str, row: int, unit: str, rule: Rule, *, tick_ms: int) -> None:
        self._metric, self._row, self._unit, self._rule = metric, row, unit, rule
        self._held = Held(for_ms=rule.for_ms, clear_for_ms=rule.clear_for_ms, tick_ms=tick_ms)

    def update(self, tick: Tick) -> Iterator[Anomaly]:
        """Take the next tick in; gives what is raised or cleared by it."""
        self._held.grow(tick.roster)
        values = tick.throttle if self._row < 0 else tick.values[self._row]
        known = values >= 0 if self._row < 0 else ~np.isnan(values)
        flips = self._held.step(tick, raises=self._beyond(values), clears=self._back(values), known=known)
        for flip in flips:
            yield self._tell(tick, flip, float(values[flip.gpu]))

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these raised."""
        self._held.restore(begins(own(standing, _NAME, self._rule)), roster)

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

    def _tell(self, tick: Tick, flip: Flip, value: float) -> Anomaly:
        rule = self._rule
        limit = next(x for x in (rule.raise_above, rule.raise_below, rule.raise_bits) if x is not None)
        if rule.raise_bits is not None:
            found = (
                f"{self._metric} has {int(value):#x} set" if flip.raised else f"{self._metric} is clear of {limit:#x}"
            )
        else:
            side = "above" if rule.raise_above is not None else "below"
            found = f"{self._metric} {value:g} {self._unit}" + (
                f" is {side} {limit:g} {self._unit}" if flip.raised else " is back"
            )
        return finding(
            tick, flip, detector=_NAME, rule=rule, metric=self._metric, value=value, limit=float(limit), found=found
        )
