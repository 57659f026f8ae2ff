"""Event time: readings of many nodes gathered into ticks that close by the watermark.

The watermark is the highest tick seen in the partition, less the grace. A tick closes when the watermark has passed it,
and whether a reading comes too late is decided message by message, in the order of the log: so the same log gives the
same ticks, wherever its runs are cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streams.roster import NEVER_MS, Roster
from streams.samples import METRICS, UNKNOWN_BITS, SampleColumns

_LONGEST_WALK_TICKS = 600
"""So many empty ticks are closed one by one; a longer time in which nothing came is then crossed in one step."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One closed tick of a partition: M metrics of G GPUs on K nodes, as the roster numbers them."""

    tick_ms: int
    values: NDArray[np.float32]
    """(M, G); NaN where nothing was read."""
    throttle: NDArray[np.int64]
    """(G,) bit mask; -1 where nothing was read."""
    node_present: NDArray[np.bool_]
    """(K,) whether the node was heard at this tick, be it with readings that came too late to count."""
    gpu_read: NDArray[np.bool_]
    """(G,) whether anything was read from the GPU, be it too late to count."""
    roster: Roster


class _OpenTick:
    """A tick that still gathers readings."""

    __slots__ = ("gpu_read", "node_present", "throttle", "values")

    def __init__(self, gpus: int, nodes: int) -> None:
        self.values = np.full((len(METRICS), gpus), np.nan, np.float32)
        self.throttle = np.full(gpus, UNKNOWN_BITS, np.int64)
        self.gpu_read = np.zeros(gpus, np.bool_)
        self.node_present = np.zeros(nodes, np.bool_)

    def grow(self, gpus: int, nodes: int) -> None:
        """Make room for GPUs and nodes met since."""
        if gpus > self.values.shape[1]:
            new = gpus - self.values.shape[1]
            self.values = np.pad(self.values, ((0, 0), (0, new)), constant_values=np.nan)
            self.throttle = np.pad(self.throttle, (0, new), constant_values=UNKNOWN_BITS)
            self.gpu_read = np.pad(self.gpu_read, (0, new))
        if nodes > len(self.node_present):
            self.node_present = np.pad(self.node_present, (0, nodes - len(self.node_present)))


class TickWindow:
    """The open ticks of one partition.

    `grace_ms` costs memory: about 110 bytes a GPU for each open tick, grace_ms / tick_ms of them.
    """

    def __init__(self, tick_ms: int, grace_ms: int) -> None:
        self.roster = Roster()
        self.tick_ms = tick_ms
        self.grace_ms = grace_ms
        self.newest_ms: int = NEVER_MS
        """The highest tick met in the log."""
        self.late_messages = 0
        """Messages that came after their tick had closed; they are kept for history, not for detection."""
        self._closed_ms: int = NEVER_MS
        self._node_newest_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(K,) the highest tick that each node has sent."""
        self._open: dict[int, _OpenTick] = {}

    def add(self, columns: SampleColumns) -> Iterator[Tick]:
        """Take decoded messages in; gives the ticks that they close, in order."""
        if self.roster.knows(columns):
            yield from self._add(columns)
            return
        # Who is new must not be in the roster of ticks that closed before: he would have been silent in them.
        moves = np.flatnonzero(np.diff(self._newest(columns))) + 1
        for first, end in pairwise(sorted({0, *moves.tolist(), len(columns.tick_ms)})):
            yield from self._add(columns.part(first, end))

    def _newest(self, columns: SampleColumns) -> NDArray[np.int64]:
        """(R + 1,) the highest tick before the first message and after each."""
        # A clock that runs ahead of the broker's does not move the watermark: it would make all others late.
        moved_to = np.minimum(columns.tick_ms, columns.arrived_ms) // self.tick_ms * self.tick_ms
        return np.maximum.accumulate(np.concatenate(([self.newest_ms], moved_to)))

    def _add(self, columns: SampleColumns) -> Iterator[Tick]:
        nodes, gpus = self.roster.resolve(columns)
        ticks = columns.tick_ms // self.tick_ms * self.tick_ms
        newest = self._newest(columns)
        closed = np.maximum((newest[:-1] - self.grace_ms) // self.tick_ms * self.tick_ms, self._closed_ms)
        on_time = ticks > closed
        late = int(len(ticks) - on_time.sum())
        self.late_messages += late
        # A node whose readings come late is not silent, nor are its GPUs: they count as heard at the partition's time.
        # What it had sent before and is delivered again says nothing of it.
        is_news = self._note(nodes, ticks, whether_news=late > 0)
        late_at = np.where(is_news, np.maximum(newest[:-1], closed + self.tick_ms), NEVER_MS)
        heard_at = np.where(on_time, ticks, late_at)
        reading_heard_at = np.repeat(heard_at, columns.gpu_count)
        reading_counts = np.repeat(on_time, columns.gpu_count)
        was_read = ~np.isnan(columns.values).all(axis=0) | (columns.throttle != UNKNOWN_BITS)
        for tick in np.unique(heard_at[heard_at != NEVER_MS]).tolist():
            open_tick = self._at(tick)
            open_tick.node_present[nodes[heard_at == tick]] = True
            here = reading_heard_at == tick
            open_tick.gpu_read[gpus[here & was_read]] = True
            if late:
                here &= reading_counts
            open_tick.values[:, gpus[here]] = columns.values[:, here]
            open_tick.throttle[gpus[here]] = columns.throttle[here]
        self.newest_ms = int(newest[-1])
        yield from self._close(self.newest_ms - self.grace_ms)

    def _note(
        self, nodes: NDArray[np.int32], ticks: NDArray[np.int64], *, whether_news: bool
    ) -> NDArray[np.bool_] | bool:
        """Note what each node has sent; gives (R,) whether each message is newer than all before it, if asked."""
        unknown = len(self.roster.nodes) - len(self._node_newest_ms)
        newest = self._node_newest_ms = np.append(self._node_newest_ms, np.full(unknown, NEVER_MS))
        if not whether_news:
            np.maximum.at(newest, nodes, ticks)
            return True
        news = np.empty(len(ticks), np.bool_)
        for row, (node, tick) in enumerate(zip(nodes.tolist(), ticks.tolist(), strict=True)):
            news[row] = tick > newest[node]
            newest[node] = max(newest[node], tick)
        return news

    def advance(self, to_ms: int) -> Iterator[Tick]:
        """Close every tick up to `to_ms`, empty ones too, where the log has gone quiet and only the clock goes on."""
        if self.newest_ms == NEVER_MS:
            return
        ticks = range(max(self._closed_ms, self.newest_ms) + self.tick_ms, to_ms + 1, self.tick_ms)
        for tick in (*ticks[:_LONGEST_WALK_TICKS], *ticks[_LONGEST_WALK_TICKS:][-1:]):
            self._at(tick)
            self.newest_ms = tick
            yield from self._close(tick)

    def _at(self, tick: int) -> _OpenTick:
        found = self._open.get(tick)
        gpus, nodes = len(self.roster.gpus), len(self.roster.nodes)
        if found is None:
            found = self._open[tick] = _OpenTick(gpus, nodes)
        else:
            found.grow(gpus, nodes)
        return found

    def _close(self, through_ms: int) -> Iterator[Tick]:
        for tick in sorted(tick for tick in self._open if tick <= through_ms):
            done = self._open.pop(tick)
            done.grow(len(self.roster.gpus), len(self.roster.nodes))
            self._closed_ms = tick
            yield Tick(tick, done.values, done.throttle, done.node_present, done.gpu_read, self.roster)
        # also where no message held the tick, so that lateness does not depend on which ticks were sent
        self._closed_ms = max(self._closed_ms, through_ms // self.tick_ms * self.tick_ms)
