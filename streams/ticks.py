"""Event time: readings of many nodes gathered into ticks that close by the watermark.

The watermark is the highest tick seen in the partition, less the grace. A tick closes when the watermark has passed it,
and whether a reading comes too late is decided message by message, in the order of the log: so the same log gives the
same ticks, wherever its runs are cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.roster import NEVER_MS, Roster
from streams.samples import METRICS, UNKNOWN_BITS, SampleColumns


@dataclass(frozen=True, slots=True)
class Tick:
    """One closed tick of a partition: M metrics of G GPUs on K nodes, as the roster numbers them."""

    tick_ms: int
    values: NDArray[np.float32]
    """(M, G); NaN where nothing was read."""
    throttle: NDArray[np.int64]
    """(G,) bit mask; -1 where nothing was read."""
    node_present: NDArray[np.bool_]
    """(K,) whether the node sent this tick."""
    roster: Roster


class _OpenTick:
    """A tick that still gathers readings."""

    __slots__ = ("node_present", "throttle", "values")

    def __init__(self, gpus: int, nodes: int) -> None:
        self.values = np.full((len(METRICS), gpus), np.nan, np.float32)
        self.throttle = np.full(gpus, UNKNOWN_BITS, np.int64)
        self.node_present = np.zeros(nodes, np.bool_)

    def grow(self, gpus: int, nodes: int) -> None:
        """Make room for GPUs and nodes met since."""
        if gpus > self.values.shape[1]:
            new = gpus - self.values.shape[1]
            self.values = np.pad(self.values, ((0, 0), (0, new)), constant_values=np.nan)
            self.throttle = np.pad(self.throttle, (0, new), constant_values=UNKNOWN_BITS)
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
        self._open: dict[int, _OpenTick] = {}

    def add(self, columns: SampleColumns) -> Iterator[Tick]:
        """Take decoded messages in; gives the ticks that they close, in order."""
        nodes, gpus = self.roster.resolve(columns)
        ticks = columns.tick_ms // self.tick_ms * self.tick_ms
        # A clock that runs ahead of the broker's does not move the watermark: it would make all others late.
        moved_to = np.minimum(ticks, columns.arrived_ms // self.tick_ms * self.tick_ms)
        newest = np.maximum.accumulate(np.concatenate(([self.newest_ms], moved_to)))
        on_time = ticks > np.maximum(newest[:-1] - self.grace_ms, self._closed_ms)
        self.late_messages += int(len(ticks) - on_time.sum())
        reading_tick = np.repeat(np.where(on_time, ticks, NEVER_MS), columns.gpu_count)
        # A node whose readings come late is not silent: it counts as heard at the partition's time.
        heard_at = np.where(on_time, ticks, newest[:-1])
        for tick in np.unique(heard_at[heard_at > self._closed_ms]).tolist():
            open_tick = self._at(tick)
            open_tick.node_present[nodes[heard_at == tick]] = True
            rows = reading_tick == tick
            open_tick.values[:, gpus[rows]] = columns.values[:, rows]
            open_tick.throttle[gpus[rows]] = columns.throttle[rows]
        self.newest_ms = int(newest[-1])
        yield from self._close(self.newest_ms - self.grace_ms)

    def advance(self, to_ms: int) -> Iterator[Tick]:
        """Close every tick up to `to_ms`, empty ones too, where the log has gone quiet and only the clock goes on."""
        if self.newest_ms == NEVER_MS:
            return
        for tick in range(max(self._closed_ms, self.newest_ms) + self.tick_ms, to_ms + 1, self.tick_ms):
            self._at(tick)
        self.newest_ms = max(self.newest_ms, to_ms // self.tick_ms * self.tick_ms)
        yield from self._close(to_ms)

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
            yield Tick(tick, done.values, done.throttle, done.node_present, self.roster)
        # also where no message held the tick, so that lateness does not depend on which ticks were sent
        self._closed_ms = max(self._closed_ms, through_ms // self.tick_ms * self.tick_ms)
