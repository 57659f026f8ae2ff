"""Nodes whose clocks are off: their messages reach Kafka before they were made, or all of them too late."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from schemas.catalog.rules import ClockRule
from schemas.records import Anomaly
from streams.detectors.held import Flip, Held, begins, longest_gap_ms, node_finding, own
from streams.roster import NEVER_MS, Roster
from streams.ticks import Tick

_NAME = "clock"
_LEAST_NODES = 3
"""Of fewer nodes nobody can tell whether it is one of them or the broker."""


class ClockDetector:
    """One rule over all nodes of a partition. State: 48 bytes a node.

    A node's clock is off where its messages are, and those of the other nodes are not: where most are off by the same
    time, it is the broker's clock, or the way there. A clock that is behind is off by the same time again and again; a
    spool that is sent, or a way that is slow, gives a delay that changes.
    """

    def __init__(self, rule: ClockRule, *, tick_ms: int) -> None:
        self._rule, self._tick_ms = rule, tick_ms
        self._sign = -1.0 if rule.side == "ahead" else 1.0
        self._held = Held(for_ms=rule.for_ms, clear_for_ms=rule.clear_for_ms)
        self._lag_s: NDArray[np.float64] = np.empty(0)
        """(K,) how late the newest message of each node came."""
        self._heard_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(K,) when that was."""
        self._began_s: NDArray[np.float64] = np.empty(0)
        """(K,) how late it was when it began to stay the same."""

    def update(self, tick: Tick) -> Iterator[Anomaly]:
        """Take the next tick in; gives whose clock is off, or right again."""
        if tick.node_lag_ms is None:
            return
        self._grow(tick.roster)
        rule = self._rule
        heard = np.isfinite(tick.node_lag_ms)
        lag_s = np.where(heard, tick.node_lag_ms / 1000, np.nan)
        self._lag_s[heard], self._heard_ms[heard] = lag_s[heard], tick.tick_ms
        off_s = self._sign * lag_s
        raises = heard & (off_s > rule.raise_above_s)
        if raises.any():
            raises &= self._sign * (lag_s - self._usual_s(tick)) > rule.raise_above_s
        if rule.steady_s is not None:
            same = np.abs(lag_s - self._began_s) <= rule.steady_s
            moved = heard & ~same
            self._began_s[moved] = lag_s[moved]
            raises &= same
        gap_ms = partial(longest_gap_ms, tick, self._tick_ms)
        clears = off_s < rule.clear_below_s
        for flip in self._held.step(tick.tick_ms, gap_ms, raises=raises, clears=clears, known=heard):
            yield self._tell(tick, flip, float(off_s[flip.at]))

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these raised."""
        names = [place.node for place in roster.nodes]
        self._held.restore(begins(own(standing, _NAME, self._rule)), names)

    def _usual_s(self, tick: Tick) -> float:
        """The median delay of the nodes that were heard lately; 0 where they are too few to say."""
        lately = tick.tick_ms - self._heard_ms <= longest_gap_ms(tick, self._tick_ms)
        return float(np.median(self._lag_s[lately])) if np.count_nonzero(lately) >= _LEAST_NODES else 0.0

    def _grow(self, roster: Roster) -> None:
        new = len(roster.nodes) - len(self._lag_s)
        if not new:
            return
        self._held.grow([place.node for place in roster.nodes])
        self._lag_s = np.append(self._lag_s, np.zeros(new))
        self._heard_ms = np.append(self._heard_ms, np.full(new, NEVER_MS))
        self._began_s = np.append(self._began_s, np.zeros(new))

    def _tell(self, tick: Tick, flip: Flip, off_s: float) -> Anomaly:
        if flip.raised:
            found = f"its clock is {off_s:.3g} s {self._rule.side} of the broker's"
        else:
            found = "its clock agrees with the broker's"
        return node_finding(
            tick, flip, detector=_NAME, rule=self._rule, value=off_s, limit=self._rule.raise_above_s, found=found
        )
