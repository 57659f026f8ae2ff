"""A link that has lost lanes: narrower than it can be, and than it was or its neighbours' are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.catalog.rules import NarrowRule
from schemas.records import Anomaly
from streams.detectors.held import Flip, Held, begins, finding, gpus_longest_gap_ms, own
from streams.readings.roster import Roster
from streams.readings.ticks import Tick

_NAME = "narrow"


class NarrowDetector:
    """One rule over all GPUs of a partition. State: 32 bytes a GPU.

    That it could be wider is not enough: some slots are narrow by design, and some virtual machines say so of all.
    It must have been wider while it was watched, or most of the GPUs of its node, of the same width at most, are.
    """

    def __init__(self, metric: str, row: int, most: int, unit: str, rule: NarrowRule, *, tick_ms: int) -> None:
        """`most` is the row of how wide it can be."""
        self._metric, self._row, self._most, self._unit = metric, row, most, unit
        self._rule, self._tick_ms = rule, tick_ms
        self._held = Held(for_ms=rule.for_ms, clear_for_ms=rule.clear_for_ms)
        self._widest: NDArray[np.float64] = np.empty(0)
        """(G,) the widest that it has been."""

    def update(self, tick: Tick) -> Iterator[Anomaly]:
        """Take the next tick in; gives whose link is narrow, or wide again."""
        self._held.grow(tick.roster.gpus)
        width, most = tick.values[self._row], tick.values[self._most]
        known = np.isfinite(width) & np.isfinite(most) & (width > 0)
        self._widest = np.append(self._widest, np.zeros(len(width) - len(self._widest)))
        self._widest = np.where(known, np.maximum(self._widest, width), self._widest)
        short = known & (width < most)
        raises = short & (self._widest > width)
        if short.any():
            raises |= short & self._is_less_than_most(tick, width, most, known)
        gap_ms = partial(gpus_longest_gap_ms, tick, self._tick_ms)
        for flip in self._held.step(tick.tick_ms, gap_ms, raises=raises, clears=width >= most, known=known):
            yield self._tell(tick, flip, float(width[flip.at]), float(most[flip.at]))

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these raised."""
        self._held.restore(begins(own(standing, _NAME, self._rule)), roster.gpus)

    @staticmethod
    def _is_less_than_most(
        tick: Tick, width: NDArray[Any], most: NDArray[Any], known: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """(G,) where more than half of the GPUs of the node that can be as wide are wider."""
        node = tick.roster.gpu_node
        lost = np.zeros(len(width), np.bool_)
        for gpu in np.flatnonzero(known & (width < most)).tolist():
            beside = known & (node == node[gpu]) & (most == most[gpu])
            lost[gpu] = 2 * np.count_nonzero(width[beside] > width[gpu]) > np.count_nonzero(beside)
        return lost

    def _tell(self, tick: Tick, flip: Flip, width: float, most: float) -> Anomaly:
        found = f"{self._metric} is {width:g} of {most:g} {self._unit}" + (
            "" if flip.raised else ", as wide as it can be"
        )
        return finding(
            tick, flip, detector=_NAME, rule=self._rule, metric=self._metric, value=width, limit=most, found=found
        )
