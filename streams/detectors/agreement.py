"""Two sources that say different things of the same hardware: one of them is not to be believed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.catalog.rules import AgreementRule
from schemas.records import Anomaly
from streams.detectors.held import Flip, Held, begins, longest_gap_ms, node_finding, own
from streams.readings.roster import NEVER_MS, Roster
from streams.readings.ticks import Tick

_NAME = "agreement"


class AgreementDetector:
    """One rule over all GPUs of a partition, told of their nodes. State: 24 bytes a node; 24 bytes a GPU and total, as
    soon as there is a second source.

    Totals are compared as each source said them last, and only where neither has moved for `still_ms`: one that counts
    on is ahead of one that repeats.
    """

    def __init__(self, rule: AgreementRule, rows: Sequence[int], *, tick_ms: int) -> None:
        """`rows` are the totals' rows in the table."""
        self._rule, self._rows, self._tick_ms = rule, list(rows), tick_ms
        self._held = Held(for_ms=rule.for_ms, clear_for_ms=rule.clear_for_ms)
        self._said: NDArray[np.float64] | None = None
        """(2, totals, G) what the speaker, and the other source, said last; None while there is no other source."""
        self._moved_ms: NDArray[np.int64] = np.empty((len(self._rows), 0), np.int64)
        """(totals, G) when either has last said something new."""

    def update(self, tick: Tick) -> Iterator[Anomaly]:
        """Take the next tick in; gives of which nodes two sources have begun, or ceased, to disagree."""
        roster = tick.roster
        self._held.grow([place.node for place in roster.nodes])
        if self._said is None and tick.aside is None:
            return
        said = self._said = self._learn(tick)
        both = ~np.isnan(said).any(axis=0)
        still = tick.tick_ms - self._moved_ms >= self._rule.still_ms
        differs = both & still & (said[0] != said[1])
        nodes = len(roster.nodes)
        known = np.bincount(roster.gpu_node, weights=(both & still).any(axis=0), minlength=nodes) > 0
        odd = np.bincount(roster.gpu_node, weights=differs.any(axis=0), minlength=nodes) > 0
        gap_ms = partial(longest_gap_ms, tick, self._tick_ms)
        for flip in self._held.step(tick.tick_ms, gap_ms, raises=odd, clears=~odd, known=known):
            yield self._tell(tick, flip, said, differs)

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these raised."""
        names = [place.node for place in roster.nodes]
        self._held.restore(begins(own(standing, _NAME, self._rule)), names)

    def _learn(self, tick: Tick) -> NDArray[Any]:
        """(2, totals, G) what both said last, this tick included."""
        before = np.empty((2, len(self._rows), 0)) if self._said is None else self._said
        new = len(tick.roster.gpus) - before.shape[2]
        before = np.pad(before, ((0, 0), (0, 0), (0, new)), constant_values=np.nan)
        self._moved_ms = np.pad(self._moved_ms, ((0, 0), (0, new)), constant_values=NEVER_MS)
        aside = np.full_like(tick.values, np.nan) if tick.aside is None else tick.aside
        now = np.stack([tick.values[self._rows], aside[self._rows]])
        if tick.anew is not None:  # who spoke is now the other one
            before[:, :, tick.anew] = before[::-1][:, :, tick.anew]
        moved = ~np.isnan(now) & (now != before)
        self._moved_ms[moved.any(axis=0)] = tick.tick_ms
        return np.where(np.isnan(now), before, now)

    def _tell(self, tick: Tick, flip: Flip, said: NDArray[Any], differs: NDArray[np.bool_]) -> Anomaly:
        roster, rule = tick.roster, self._rule
        if not flip.raised:
            found = "its sources agree again"
            return node_finding(tick, flip, detector=_NAME, rule=rule, value=None, limit=0.0, found=found)
        total, gpu = next((t, g) for t, g in np.argwhere(differs).tolist() if roster.gpu_node[g] == flip.at)
        one, other = said[:, total, gpu].tolist()
        found = (
            f"two sources disagree about {rule.columns[total]} of GPU {roster.gpus[gpu]}: {one:g} and {other:g}, and "
            f"neither has moved for {rule.still_ms / 60_000:g} min; so"
        )
        return node_finding(tick, flip, detector=_NAME, rule=rule, value=abs(one - other), limit=0.0, found=found)
