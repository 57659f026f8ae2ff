"""Counters that grow, whatever befalls them: a reset (driver, reboot), a wrap, another source, a reading missed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.catalog.rules import BudgetRule, GrowthRule
from schemas.records import Anomaly
from streams.detectors.beside import LARGEST
from streams.detectors.held import Flip, Held, begins, finding, gpus_longest_gap_ms, own
from streams.detectors.limits import Limits, Skus, sides
from streams.readings.roster import NEVER_MS, Roster
from streams.readings.ticks import Tick

Doubles = NDArray[np.float64]

_NAME, _BUDGET = "counter_rate", "budget"
_NEAR_TOP = 0.75
"""A counter that has fallen has wrapped only if it was in the last quarter of its range and is in the first now."""
_PARTS = 6
"""A span is kept in so many parts and the one that is under way."""
_HOUR_MS = 3_600_000
_LATELY_MS = 90_000
"""Who was read within so long before a span was kept is read back from the log."""


def growth(before: Doubles, now: Doubles, *, wraps_at: float | None = None) -> Doubles:
    """(G,) by how much each counter has grown between two readings.

    NaN where either was not read, is infinite or negative. A counter that fell by more than half was reset, and has
    grown by what it reads now (what it counted between the first reading and the reset is lost); or, where it has
    `wraps_at` values (such as 2**32) and fell from near the top of them to near the bottom, it has wrapped. One that
    fell by less has been misread, now or before, and has not grown.
    """
    known = np.isfinite(before) & np.isfinite(now) & (before >= 0) & (now >= 0)
    with np.errstate(invalid="ignore"):
        step = now - before
        grown = np.where(step >= 0, step, np.where(now < before / 2, now, 0.0))
        if wraps_at is not None:
            wrapped = (step < 0) & (before >= _NEAR_TOP * wraps_at) & (now <= (1 - _NEAR_TOP) * wraps_at)
            grown = np.where(wrapped, step + wraps_at, grown)
    return np.where(known, grown, np.nan)


class Kept(msgspec.Struct):
    """What has to be kept of a span that is longer than the log that is read back: the GPUs that have grown at all, and
    those that have not been read lately.
    """

    since_ms: int
    """Since when all growth is counted."""
    through_ms: int
    """The last tick that is counted."""
    grown: dict[str, list[tuple[int, float]]]
    """GPU serial to the parts of the span, by number, in which it has grown, and by how much."""
    bases: dict[str, tuple[float, int, int]] = {}
    """GPU serial to its last reading, when that was, and which of the counters it was of."""


class Spans:
    """The growth of one counter of all GPUs within the last `span_ms`. State: 45 bytes a GPU.

    What is kept are the sums of the span's parts, so that it is known to a sixth of the span how long ago it grew.
    After a gap that is longer than the span, what has grown meanwhile counts by the span's share of the gap.
    """

    def __init__(self, rows: Sequence[int], span_ms: int, *, wraps_at: float | None = None) -> None:
        """`rows` are the counter's row in the table, and those that stand in where it is not read."""
        self._rows, self._span_ms, self._wraps_at = rows, span_ms, wraps_at
        self._part_ms = span_ms // _PARTS
        self._grown: NDArray[np.float32] = np.zeros((_PARTS + 1, 0), np.float32)
        """(parts, G) growth within each part; part number p is in row p % parts."""
        self._base: Doubles = np.empty(0)
        """(G,) the last reading; NaN before the first."""
        self._base_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) when that was."""
        self._stood_in: NDArray[np.int8] = np.empty(0, np.int8)
        """(G,) which of the rows that was."""
        self._part = NEVER_MS
        """The number of the part that is under way."""
        self._since_ms = NEVER_MS
        self._through_ms = NEVER_MS
        """Growth up to here is counted already: it was restored."""
        self._restored: dict[str, list[tuple[int, float]]] = {}
        """What is kept of GPUs that have not been met yet."""
        self._bases: dict[str, tuple[float, int, int]] = {}
        """Likewise."""
        self._names: Sequence[str] = ()
        self._ticked_ms = NEVER_MS

    def add(self, tick: Tick) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Take a tick in; gives (G,) the growth within the span, and whose counter was read."""
        self._grow(tick.roster.gpus)
        self._turn(tick.tick_ms)
        now = tick.values[self._rows[0]]
        which = np.zeros(len(now), np.int8)
        for place, row in enumerate(self._rows[1:], start=1):
            missing = np.isnan(now)
            now, which = np.where(missing, tick.values[row], now), np.where(missing, np.int8(place), which)
        read = (now >= 0) & (now <= LARGEST)
        grown = growth(self._base, now, wraps_at=self._wraps_at)
        goes_on = self._stood_in == which if len(self._rows) > 1 else True
        if tick.anew is not None:
            goes_on &= ~tick.anew
        gap_ms = tick.tick_ms - self._base_ms
        share = np.where(gap_ms > self._span_ms, self._span_ms / np.maximum(gap_ms, 1), 1.0)
        counts = read & goes_on & ~np.isnan(grown) & (tick.tick_ms > self._through_ms)
        self._grown[self._part % (_PARTS + 1)] += np.where(counts, grown * share, 0.0).astype(np.float32)
        self._base = np.where(read, now, self._base)
        self._base_ms[read] = tick.tick_ms
        self._stood_in = np.where(read, which, self._stood_in)
        return self._grown.sum(axis=0), read

    def counted(self, tick_ms: int) -> bool:
        """Whether this tick is news, and not read back to learn where counters stand."""
        return tick_ms > self._through_ms

    def is_whole(self, now_ms: int) -> bool:
        """Whether all of the span has been seen: only then is little growth a sign of health."""
        return now_ms - self._since_ms >= self._span_ms

    def keep(self) -> Kept:
        """What has to be kept."""
        places = {part % (_PARTS + 1): part for part in range(self._part - _PARTS, self._part + 1)}
        grown = {name: parts for name, parts in self._restored.items() if max(parts)[0] in places.values()}
        for place, gpu in np.argwhere(self._grown > 0).tolist():
            grown.setdefault(self._names[gpu], []).append((places[place], float(self._grown[place, gpu])))
        bases = dict(self._bases)
        for gpu in np.flatnonzero((self._base_ms < self._ticked_ms - _LATELY_MS) & ~np.isnan(self._base)).tolist():
            bases[self._names[gpu]] = float(self._base[gpu]), int(self._base_ms[gpu]), int(self._stood_in[gpu])
        return Kept(self._since_ms, self._ticked_ms, grown, bases)

    def recall(self, kept: Kept) -> None:
        """Go on from what was kept. Ticks up to then only say where the counters stand."""
        self._since_ms, self._through_ms = kept.since_ms, kept.through_ms
        self._restored, self._bases = kept.grown, kept.bases
        if kept.since_ms != NEVER_MS:
            self._part = kept.through_ms // self._part_ms

    def _turn(self, tick_ms: int) -> None:
        """Let parts of the span that are over go."""
        self._ticked_ms = tick_ms
        if self._since_ms == NEVER_MS:
            self._since_ms = tick_ms
        part = tick_ms // self._part_ms
        if part <= self._part:
            return
        for gone in range(max(self._part + 1, part - _PARTS), part + 1):
            self._grown[gone % (_PARTS + 1)] = 0.0
        self._part = part

    def _grow(self, names: Sequence[str]) -> None:
        self._names = names
        met, new = len(self._base), len(names) - len(self._base)
        if not new:
            return
        self._grown = np.pad(self._grown, ((0, 0), (0, new)))
        self._base = np.append(self._base, np.full(new, np.nan))
        self._base_ms = np.append(self._base_ms, np.full(new, NEVER_MS))
        self._stood_in = np.append(self._stood_in, np.zeros(new, np.int8))
        for gpu, name in enumerate(names[met:], start=met):
            for part, grown in self._restored.pop(name, ()):
                if self._part - _PARTS <= part <= self._part:
                    self._grown[part % (_PARTS + 1), gpu] = grown
            if name in self._bases:
                self._base[gpu], self._base_ms[gpu], self._stood_in[gpu] = self._bases.pop(name)


class CounterRateDetector:
    """One rule on the growth of one counter, over all GPUs of a partition. State: 69 bytes a GPU.

    It is raised as soon as enough has been counted, however little of the span has been seen, and cleared only where
    all of it has.
    """

    def __init__(
        self, metric: str, unit: str, rule: GrowthRule, spans: Spans, *, tick_ms: int, skus: Skus | None = None
    ) -> None:
        self._metric, self._unit, self._rule, self._tick_ms = metric, unit, rule, tick_ms
        self._spans = spans
        self.spans = {rule.name: spans}
        """By what they are kept under."""
        self._limits = Limits(rule, skus)
        self._held = Held(for_ms=rule.for_ms, clear_for_ms=rule.clear_for_ms)
        self._scale = 1.0 if rule.as_ == "count" else 1.0 / (1000 * rule.span_ms)

    def update(self, tick: Tick) -> Iterator[Anomaly]:
        """Take the next tick in; gives whose counter grows too fast, or no longer does."""
        self._held.grow(tick.roster.gpus)
        self._limits.follow(tick.roster)
        grown, read = self._spans.add(tick)
        if not self._spans.counted(tick.tick_ms):
            return
        value = grown * np.float32(self._scale)
        raises, clears = sides(value, self._limits)
        if not self._spans.is_whole(tick.tick_ms):
            clears = np.zeros_like(clears)
        gap_ms = partial(gpus_longest_gap_ms, tick, self._tick_ms)
        for flip in self._held.step(tick.tick_ms, gap_ms, raises=raises, clears=clears, known=read):
            yield self._tell(tick, flip, float(value[flip.at]))

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these raised."""
        self._held.restore(begins(own(standing, _NAME, self._rule)), roster.gpus)

    def _tell(self, tick: Tick, flip: Flip, value: float) -> Anomaly:
        rule = self._limits.of(flip.at)
        span = f"within {rule.span_ms / 60_000:g} min" if rule.span_ms < 2 * _HOUR_MS else (
            f"within {rule.span_ms / _HOUR_MS:g} h"
        )  # fmt: skip
        limit = f"{_said(rule, rule.limit, self._unit)}{self._limits.told(flip.at)}"
        grown = f"{self._metric} has grown by {_said(rule, value, self._unit)} {span}"
        found = f"{grown}, more than {limit}" if flip.raised else f"{grown}, below {limit}"
        return finding(
            tick, flip, detector=_NAME, rule=rule, metric=self._metric, value=value, limit=rule.limit, found=found
        )


class BudgetDetector:
    """When a budget will be used up, if the counters that draw on it go on as they do. State: 69 bytes a GPU, and 45
    for each further counter.
    """

    def __init__(
        self,
        metric: str,
        unit: str,
        rule: BudgetRule,
        rows: Sequence[int],
        spans: Sequence[Spans],
        *,
        tick_ms: int,
        skus: Skus | None = None,
    ) -> None:
        """`rows` are the counters' rows in the table, `spans` their growth."""
        self._metric, self._unit, self._rule, self._tick_ms = metric, unit, rule, tick_ms
        self._rows, self._spans = rows, spans
        self.spans = {f"{rule.name}|{at}": one for at, one in enumerate(spans)}
        """By what they are kept under."""
        self._limits = Limits(rule, skus)
        self._held = Held(for_ms=rule.for_ms, clear_for_ms=rule.clear_for_ms)

    def update(self, tick: Tick) -> Iterator[Anomaly]:
        """Take the next tick in; gives whose budget will soon be gone, or lasts again."""
        self._held.grow(tick.roster.gpus)
        self._limits.follow(tick.roster)
        now = tick.values[list(self._rows)]
        used = np.where((now >= 0) & (now <= LARGEST), now, 0.0).sum(axis=0)
        parts = [spans.add(tick) for spans in self._spans]
        grown, read = np.sum([one for one, _ in parts], axis=0), np.any([one for _, one in parts], axis=0)
        if not self._spans[0].counted(tick.tick_ms):
            return
        rule = self._rule
        a_hour = grown / (rule.span_ms / _HOUR_MS)
        left = np.maximum(self._limits.each("limit") - used, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            left_hours = np.where(left > 0, left / a_hour, 0.0)
        left_hours = np.where((a_hour > 0) | (left <= 0), left_hours, np.inf)
        raises, clears = left_hours < rule.within_hours, left_hours > rule.clear_within_hours
        if not all(spans.is_whole(tick.tick_ms) for spans in self._spans):
            clears = np.zeros_like(clears)
        gap_ms = partial(gpus_longest_gap_ms, tick, self._tick_ms)
        for flip in self._held.step(tick.tick_ms, gap_ms, raises=raises, clears=clears, known=read):
            yield self._tell(tick, flip, float(used[flip.at]), float(left_hours[flip.at]))

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these raised."""
        self._held.restore(begins(own(standing, _BUDGET, self._rule)), roster.gpus)

    def _tell(self, tick: Tick, flip: Flip, used: float, left_hours: float) -> Anomaly:
        rule = self._limits.of(flip.at)
        found = f"{used:g} of {rule.limit:g} {self._unit}{self._limits.told(flip.at)} are used up"
        if flip.raised:
            found += f", and the rest lasts {left_hours:.0f} h as it goes"
        return finding(
            tick, flip, detector=_BUDGET, rule=rule, metric=self._metric, value=used, limit=rule.limit, found=found
        )


def _said(rule: GrowthRule, value: float, unit: str) -> str:
    return f"{value:.3g} {unit}" if rule.as_ == "count" else f"{value:.1%} {unit}"
