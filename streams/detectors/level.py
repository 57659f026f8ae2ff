"""A metric against what it long was on the same GPU: a short average that its own history makes unlikely."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from schemas.catalog.rules import LevelRule, Rack
from schemas.records import Anomaly
from streams.detectors.beside import LARGEST, Comparison
from streams.detectors.held import Flip, Held, begins, finding, gpus_longest_gap_ms, own
from streams.detectors.limits import Limits, Skus, sides
from streams.readings.roster import NEVER_MS, Roster
from streams.readings.ticks import Tick

Floats = NDArray[np.float32]

_NAME = "level"
_HOUR_MS = 3_600_000
_CLIP = 3.0
"""A reading counts for the baseline as if it were no more than so many deviations away (Huber 1964)."""
_FORGETS_WARMUPS = 8.0
"""The time constant of the deviations, once they are learnt, in warm-ups."""


class LevelDetector:
    """One rule over all GPUs of a partition. State: 60 bytes a GPU.

    The baseline is a streaming estimate of the median and its spread with bounded influence: an outlier moves it no
    further than three deviations would. It is learnt over `warmup_ms` of judged time and moves by no more than
    `settles_per_hour` afterwards. What is held against it is the average of the last `short_ms`, in units of how
    much such averages usually wander about a longer one: noise is no finding, and a drift that has gone far does not
    hide itself by looking like noise.

    The baseline is longer than the log that is read back after a restart. It is then learnt anew; a GPU whose anomaly
    stands goes on with the baseline that the anomaly names.
    """

    def __init__(
        self,
        metric: str,
        row: int,
        unit: str,
        rule: LevelRule,
        comparison: Comparison | None,
        *,
        tick_ms: int,
        skus: Skus | None = None,
    ) -> None:
        self._metric, self._row, self._unit, self._rule, self._comparison = metric, row, unit, rule, comparison
        self._tick_ms = tick_ms
        self._rack: Rack = rule.beside.rack if rule.beside else "few_comparable"
        self._limits = Limits(rule, skus)
        self._longer_ms = np.sqrt(rule.short_ms * rule.warmup_ms)
        self._held = Held(for_ms=rule.for_ms, clear_for_ms=rule.clear_for_ms)
        self._base: Floats = np.empty(0, np.float32)
        """(G,) the level that is normal."""
        self._spread: Floats = np.empty(0, np.float32)
        """(G,) the mean absolute deviation of readings from it."""
        self._short: Floats = np.empty(0, np.float32)
        """(G,) the average of the last deviations."""
        self._longer: Floats = np.empty(0, np.float32)
        """(G,) the average of the deviations over a longer time, between short and warm-up."""
        self._variance: Floats = np.empty(0, np.float32)
        """(G,) the mean square of what is between the two averages."""
        self._learnt_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) for how long it has been judged."""
        self._read_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) when it was judged last."""
        self._known_limits: dict[str, float] = {}
        """Baseline and distance together of restored anomalies whose GPU has not been met yet."""

    def update(self, tick: Tick) -> Iterator[Anomaly]:
        """Take the next tick in; gives whose level has left its baseline, or is back."""
        self._limits.follow(tick.roster)
        self._grow(tick.roster)
        values = tick.values[self._row] if self._comparison is None else self._comparison.of(tick, self._rack).value
        with np.errstate(invalid="ignore"):
            known = np.abs(values) <= LARGEST
        self._learn(tick, values, known)
        rule = self._rule
        deviation = np.sqrt(self._variance + np.float32(rule.noise**2))
        unlikely = np.abs(self._short) >= np.float32(rule.deviations) * deviation
        beyond, clears = sides(self._short, self._limits)
        judged = known & (self._learnt_ms >= rule.warmup_ms)
        gap_ms = partial(gpus_longest_gap_ms, tick, self._tick_ms)
        for flip in self._held.step(tick.tick_ms, gap_ms, raises=beyond & unlikely, clears=clears, known=judged):
            yield self._tell(tick, flip, float(self._base[flip.at]), float(self._short[flip.at]))

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these raised, each against the baseline that it was raised against."""
        mine = own(standing, _NAME, self._rule)
        self._known_limits = {a.gpu: a.limit for a in mine if a.gpu and a.limit is not None}
        self._limits.follow(roster)
        self._held.restore(begins(mine), roster.gpus)
        for gpu, serial in enumerate(roster.gpus[: len(self._base)]):
            self._take_base(gpu, serial)

    def _learn(self, tick: Tick, values: Floats, known: NDArray[np.bool_]) -> None:
        """Take the readings into baseline, spread and averages, each by the time that it stands for."""
        rule = self._rule
        first = known & (self._learnt_ms == 0) & (self._read_ms == NEVER_MS)
        self._base[first] = values[first]
        gap_ms = tick.tick_ms - np.maximum(self._read_ms, tick.tick_ms - gpus_longest_gap_ms(tick, self._tick_ms))
        elapsed_ms = np.where(known & ~first, gap_ms, 0)
        warm = self._learnt_ms >= rule.warmup_ms
        self._learnt_ms += elapsed_ms
        self._read_ms[known] = tick.tick_ms
        elapsed = elapsed_ms.astype(np.float32)
        memory_ms = np.minimum(self._learnt_ms, rule.warmup_ms).astype(np.float32)
        off = np.where(known, values - self._base, np.float32(0))
        far = np.float32(_CLIP) * np.maximum(self._spread, np.float32(rule.noise))
        bounded = np.clip(off, -far, far)
        gain = elapsed / np.maximum(memory_ms, np.float32(1))
        step = bounded * gain
        most = np.float32(rule.settles_per_hour / _HOUR_MS) * elapsed
        self._base += np.where(warm, np.clip(step, -most, most), step)
        # the spread and the averages have as long a memory, and one outlier counts for no more in them
        slow = elapsed / np.maximum(np.minimum(self._learnt_ms, np.float32(_FORGETS_WARMUPS * rule.warmup_ms)), 1)
        slow = slow.astype(np.float32)
        self._spread += (np.abs(bounded) - self._spread) * slow
        self._short += (off - self._short) * -np.expm1(-elapsed / np.float32(rule.short_ms))
        self._longer += (off - self._longer) * -np.expm1(-elapsed / np.float32(self._longer_ms))
        usual = np.float32(_CLIP**2) * (self._variance + np.float32(rule.noise**2))
        self._variance += (np.minimum((self._short - self._longer) ** 2, usual) - self._variance) * slow

    def _grow(self, roster: Roster) -> None:
        met, new = len(self._base), len(roster.gpus) - len(self._base)
        if not new:
            return
        self._held.grow(roster.gpus)
        for name in ("_base", "_spread", "_short", "_longer", "_variance"):
            setattr(self, name, np.append(getattr(self, name), np.zeros(new, np.float32)))
        self._learnt_ms = np.append(self._learnt_ms, np.zeros(new, np.int64))
        self._read_ms = np.append(self._read_ms, np.full(new, NEVER_MS))
        for gpu in range(met, met + new):
            self._take_base(gpu, roster.gpus[gpu])

    def _take_base(self, gpu: int, serial: str) -> None:
        known_limit, distance = self._known_limits.pop(serial, None), self._limits.of(gpu).limit
        if known_limit is not None and self._learnt_ms[gpu] < self._rule.warmup_ms and np.isfinite(distance):
            self._base[gpu] = known_limit - distance
            # until readings say more, it is off by just what the finding said
            self._short[gpu] = self._longer[gpu] = distance
            self._learnt_ms[gpu] = self._rule.warmup_ms

    def _tell(self, tick: Tick, flip: Flip, base: float, short: float) -> Anomaly:
        what = self._metric if self._comparison is None else f"{self._metric} beside its peers"
        if flip.raised:
            side = "above" if short > 0 else "below"
            found = f"{what} is {abs(short):.3g} {self._unit} {side} its usual {base:.3g} {self._unit}"
        else:
            found = f"{what} is back at its usual {base:.3g} {self._unit}"
        rule = self._limits.of(flip.at)
        return finding(
            tick, flip, detector=_NAME, rule=rule, metric=self._metric,
            value=base + short, limit=base + rule.limit, found=found + self._limits.told(flip.at),
        )  # fmt: skip
