"""One GPU against its peers at the same tick: the straggler and the bad cooler, below every absolute limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from schemas.catalog.rules import PeerRule
from schemas.records import Anomaly
from streams.detectors.beside import Comparison
from streams.detectors.held import Flip, Held, begins, finding, gpus_longest_gap_ms, own
from streams.detectors.limits import Limits, Skus, sides
from streams.readings.roster import Roster
from streams.readings.ticks import Tick

_NAME = "peer"


class PeerDetector:
    """One rule over all GPUs of a partition. State: 24 bytes a GPU, and the groups' share (`beside.Groups`).

    A GPU that cannot be compared (idle, unread, too few peers) is unknown: neither confirmed nor cleared. All that a
    finding depends on lies within the rule's `for_ms`, so windows that are rebuilt give the same findings.
    """

    def __init__(
        self,
        metric: str,
        unit: str,
        rule: PeerRule,
        comparison: Comparison,
        *,
        tick_ms: int,
        skus: Skus | None = None,
    ) -> None:
        self._metric, self._rule, self._comparison, self._tick_ms = metric, rule, comparison, tick_ms
        self._limits = Limits(rule, skus)
        self._held = Held(for_ms=rule.for_ms, clear_for_ms=rule.clear_for_ms)
        self._is_ratio = rule.beside.as_ == "ratio"
        self._unit = unit

    def update(self, tick: Tick) -> Iterator[Anomaly]:
        """Take the next tick in; gives who has begun, or ceased, to stand out among its peers."""
        self._held.grow(tick.roster.gpus)
        self._limits.follow(tick.roster)
        found, rule = self._comparison.of(tick, self._rule.beside.rack), self._rule
        usual = 1.0 if self._is_ratio else 0.0
        with np.errstate(invalid="ignore"):
            away = np.abs(found.value - np.float32(usual)) >= np.float32(rule.deviations) * found.scale
            beyond, clears = sides(found.value, self._limits)
        # A reason that the GPU itself tells ends what was pending: its own rule has it.
        bits = rule.beside.excused_bits
        excused = (tick.throttle > 0) & ((tick.throttle & bits) != 0)
        raises, clears, known = beyond & away & ~excused, clears | excused, excused | ~np.isnan(found.value)
        gap_ms = partial(gpus_longest_gap_ms, tick, self._tick_ms)
        for flip in self._held.step(tick.tick_ms, gap_ms, raises=raises, clears=clears, known=known):
            yield self._tell(tick, flip, float(found.value[flip.at]), float(found.centre[flip.at]))

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these raised."""
        self._held.restore(begins(own(standing, _NAME, self._rule)), roster.gpus)

    def _tell(self, tick: Tick, flip: Flip, distance: float, centre: float) -> Anomaly:
        rule = self._limits.of(flip.at)
        if np.isnan(distance):
            found = f"{self._metric} is explained by a throttle reason"
        elif self._is_ratio:
            found = f"{self._metric} is {distance:.0%} of its peers' {centre:g} {self._unit}"
        else:
            side = "above" if distance > 0 else "below"
            found = f"{self._metric} is {abs(distance):.3g} {self._unit} {side} its peers' {centre:.3g} {self._unit}"
        return finding(
            tick,
            flip,
            detector=_NAME,
            rule=rule,
            metric=self._metric,
            value=None if np.isnan(distance) else distance,
            limit=rule.limit,
            found=found + self._limits.told(flip.at),
        )
