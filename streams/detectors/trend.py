"""Time to exhaustion: a metric that will pass its limit soon if it goes on rising as it does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from schemas.catalog.rules import TrendRule
from schemas.records import Anomaly
from streams.detectors.beside import LARGEST
from streams.detectors.held import Flip, Held, begins, finding, gpus_longest_gap_ms, own
from streams.detectors.limits import Limits, Skus
from streams.readings.roster import NEVER_MS, Roster
from streams.readings.tables import METRICS
from streams.readings.ticks import Tick

Floats = NDArray[np.float32]

_NAME = "trend"
_HOUR_MS = 3_600_000
_POWER = METRICS.index("power_watts")
_SPANS_TO_WARM = 3
"""After so many time constants the averages have forgotten where they began, to 5 %."""
_SPANS_STEADY = 2
"""Power must have been steady for so many: heat comes after it."""


class TrendDetector:
    """One rule over all GPUs of a partition. State: 64 bytes a GPU.

    An average of the readings and an average of that average (Brown's double smoothing) give level and slope; from
    there it is a division. Heat follows work, so a GPU is judged only where its power has been steady for a while by
    the same two averages; otherwise it is unknown: neither confirmed nor cleared. After a long gap all begins anew.
    """

    def __init__(
        self, metric: str, row: int, unit: str, rule: TrendRule, *, tick_ms: int, skus: Skus | None = None
    ) -> None:
        self._metric, self._row, self._unit, self._rule, self._tick_ms = metric, row, unit, rule, tick_ms
        self._limits = Limits(rule, skus)
        self._held = Held(for_ms=rule.for_ms, clear_for_ms=rule.clear_for_ms)
        self._value: Floats = np.empty((2, 0), np.float32)
        """(2, G) the average, and the average of the average."""
        self._power: Floats = np.empty((2, 0), np.float32)
        """(2, G) the same of the power."""
        self._learnt_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) since the last gap, for how long it was read."""
        self._read_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) when it was read last."""
        self._unsteady_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) when its power was last not steady."""

    def update(self, tick: Tick) -> Iterator[Anomaly]:
        """Take the next tick in; gives who is about to pass the limit, or no longer is."""
        self._grow(tick.roster)
        known = self._learn(tick)
        rule = self._rule
        near, far = self._value
        slope = (near - far) / np.float32(rule.span_ms)  # unit per millisecond
        level = 2 * near - far
        rises = slope * _HOUR_MS >= rule.least_per_hour
        self._limits.follow(tick.roster)
        limit = self._limits.each("limit")
        left_ms = np.where(rises, (limit - level) / np.where(rises, slope, 1), np.float32(np.inf))
        unsteady = np.abs(self._power[0] - self._power[1]) > rule.steady_share * self._power[0]
        self._unsteady_ms[unsteady] = tick.tick_ms
        steady = tick.tick_ms - self._unsteady_ms >= _SPANS_STEADY * rule.span_ms
        judged = known & steady & (self._learnt_ms >= _SPANS_TO_WARM * rule.span_ms)
        raises, clears = left_ms < rule.within_ms, (left_ms > rule.clear_within_ms) & (level < limit)
        gap_ms = partial(gpus_longest_gap_ms, tick, self._tick_ms)
        for flip in self._held.step(tick.tick_ms, gap_ms, raises=raises, clears=clears, known=judged):
            yield self._tell(tick, flip, float(level[flip.at]), float(slope[flip.at]), float(left_ms[flip.at]))

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these raised."""
        self._held.restore(begins(own(standing, _NAME, self._rule)), roster.gpus)

    def _learn(self, tick: Tick) -> NDArray[np.bool_]:
        """Take the readings in; gives who was read."""
        values, power = tick.values[self._row], tick.values[_POWER]
        with np.errstate(invalid="ignore"):
            known = (np.abs(values) <= LARGEST) & (np.abs(power) <= LARGEST)
        since_ms = tick.tick_ms - self._read_ms
        anew = known & (since_ms > gpus_longest_gap_ms(tick, self._tick_ms))
        on = known & ~anew
        share = np.where(on, -np.expm1(np.where(on, -since_ms, 0) / self._rule.span_ms), 0).astype(np.float32)
        for held, read in ((self._value, values), (self._power, power)):
            held[:, anew] = read[anew]
            held[0] += np.where(on, read - held[0], np.float32(0)) * share
            held[1] += (held[0] - held[1]) * share
        self._learnt_ms[anew] = 0
        self._learnt_ms[on] += since_ms[on]
        self._read_ms[known] = tick.tick_ms
        return np.asarray(known)

    def _grow(self, roster: Roster) -> None:
        new = len(roster.gpus) - len(self._read_ms)
        if not new:
            return
        self._held.grow(roster.gpus)
        self._value = np.pad(self._value, ((0, 0), (0, new)))
        self._power = np.pad(self._power, ((0, 0), (0, new)))
        self._learnt_ms = np.append(self._learnt_ms, np.zeros(new, np.int64))
        self._read_ms = np.append(self._read_ms, np.full(new, NEVER_MS))
        self._unsteady_ms = np.append(self._unsteady_ms, np.full(new, NEVER_MS))

    def _tell(self, tick: Tick, flip: Flip, level: float, slope: float, left_ms: float) -> Anomaly:
        rule, unit, whose = self._limits.of(flip.at), self._unit, self._limits.told(flip.at)
        a_minute = slope * 60_000
        if flip.raised and level < rule.limit:
            found = (
                f"{self._metric} {level:.3g} {unit} rises by {a_minute:.2g} {unit} a minute: "
                f"{rule.limit:g} {unit}{whose} in {max(0.0, left_ms) / 60_000:.0f} min; so"
            )
        elif flip.raised:
            found = f"{self._metric} {level:.3g} {unit} is past {rule.limit:g} {unit}{whose} and rises,"
        else:
            found = f"{self._metric} {level:.3g} {unit} no longer nears {rule.limit:g} {unit}{whose}"
        return finding(
            tick, flip, detector=_NAME, rule=rule, metric=self._metric, value=level, limit=rule.limit, found=found
        )
