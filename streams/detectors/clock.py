"""Nodes whose clocks are off: their messages reach Kafka before they were made, or all of them too late."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from schemas.catalog.rules import ClockRule
from schemas.records import Anomaly
from streams.detectors.held import Flip, Held, begins, longest_gap_ms, node_finding, own
from streams.readings.roster import NEVER_MS, Roster
from streams.readings.ticks import Tick

_NAME = "clock"
_LEAST_NODES = 3
"""Of fewer nodes nobody can tell whether it is one of them or the broker."""


class Lags:
    """How late the newest message of each node of a partition came, for all rules. State: 16 bytes a node."""

    def __init__(self, *, tick_ms: int) -> None:
        self._tick_ms = tick_ms
        self._seen: Tick | None = None
        self.heard: NDArray[np.bool_] = np.empty(0, np.bool_)
        """(K,) whether the node was heard at this tick."""
        self.lag_s: NDArray[np.float64] = np.empty(0)
        """(K,) how late its newest message came."""
        self._heard_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(K,) when that was."""

    def follow(self, tick: Tick) -> bool:
        """Take a tick in, once however often it is given; False where it tells nothing of delays."""
        if tick.node_lag_ms is None:
            return False
        if self._seen is tick:
            return True
        self._seen = tick
        new = len(tick.roster.nodes) - len(self.lag_s)
        self.lag_s = np.append(self.lag_s, np.zeros(new))
        self._heard_ms = np.append(self._heard_ms, np.full(new, NEVER_MS))
        self.heard = np.isfinite(tick.node_lag_ms)
        np.copyto(self.lag_s, tick.node_lag_ms / 1000, where=self.heard)
        np.copyto(self._heard_ms, tick.tick_ms, where=self.heard)
        return True

    def usual_s(self, tick: Tick) -> float:
        """The median delay of the nodes that were heard lately; 0 where they are too few to say."""
        lately = tick.tick_ms - self._heard_ms <= longest_gap_ms(tick, self._tick_ms)
        return float(np.median(self.lag_s[lately])) if np.count_nonzero(lately) >= _LEAST_NODES else 0.0


class ClockDetector:
    """One rule over all nodes of a partition. State: 32 bytes a node, beside the delays.

    A node's clock is off where its messages are, and those of the other nodes are not: where most are off by the same
    time, it is the broker's clock, or the way there. A clock that is behind is off by the same time again and again; a
    spool that is sent, or a way that is slow, gives a delay that changes.
    """

    def __init__(self, rule: ClockRule, lags: Lags, *, tick_ms: int) -> None:
        self._rule, self._lags, self._tick_ms = rule, lags, tick_ms
        self._sign = -1.0 if rule.side == "ahead" else 1.0
        self._held = Held(for_ms=rule.for_ms, clear_for_ms=rule.clear_for_ms)
        self._began_s: NDArray[np.float64] = np.empty(0)
        """(K,) how late it was when it began to be too late, by the same time since; NaN where it is not."""

    def update(self, tick: Tick) -> Iterator[Anomaly]:
        """Take the next tick in; gives whose clock is off, or right again."""
        if not self._lags.follow(tick):
            return
        if new := len(tick.roster.nodes) - len(self._began_s):
            self._held.grow([place.node for place in tick.roster.nodes])
            self._began_s = np.append(self._began_s, np.full(new, np.nan))
        rule, heard, lag_s = self._rule, self._lags.heard, self._lags.lag_s
        off_s = self._sign * lag_s
        raises = heard & (off_s > rule.raise_above_s)
        if raises.any():
            raises &= self._sign * (lag_s - self._lags.usual_s(tick)) > rule.raise_above_s
        if rule.steady_s is not None:
            raises = self._steady(raises, heard, lag_s, rule.steady_s)
        gap_ms = partial(longest_gap_ms, tick, self._tick_ms)
        clears = off_s < rule.clear_below_s
        for flip in self._held.step(tick.tick_ms, gap_ms, raises=raises, clears=clears, known=heard):
            yield self._tell(tick, flip, float(off_s[flip.at]))

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these raised."""
        names = [place.node for place in roster.nodes]
        self._held.restore(begins(own(standing, _NAME, self._rule)), names)

    def _steady(
        self, late: NDArray[np.bool_], heard: NDArray[np.bool_], lag_s: NDArray[np.float64], steady_s: float
    ) -> NDArray[np.bool_]:
        """(K,) who is late by the time by which he was late when it began."""
        if not late.any() and np.isnan(self._began_s).all():
            return late
        same = late & (np.abs(lag_s - self._began_s) <= steady_s)
        self._began_s[heard & ~late] = np.nan
        moved = late & ~same
        self._began_s[moved] = lag_s[moved]
        return same

    def _tell(self, tick: Tick, flip: Flip, off_s: float) -> Anomaly:
        if flip.raised:
            found = f"its clock is {off_s:.3g} s {self._rule.side} of the broker's"
        else:
            found = "its clock agrees with the broker's"
        return node_finding(
            tick, flip, detector=_NAME, rule=self._rule, value=off_s, limit=self._rule.raise_above_s, found=found
        )
