"""Event time: readings of many nodes gathered into ticks that close by the watermark.

The watermark is the highest tick seen in the partition, less the grace. A tick closes when the watermark has passed it,
and whether a reading comes too late is decided message by message, in the order of the log: so the same log gives the
same ticks, wherever its runs are cut.

Who is heard is another matter than what is read: a node is heard when its message reaches Kafka, whatever time the
node believes it to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.readings.columns import SampleColumns
from streams.readings.roster import NEVER_MS, Roster
from streams.readings.speakers import Speakers
from streams.readings.tables import SAMPLE_TABLE, UNKNOWN_BITS, Table
from streams.readings.time import LAST_MS, PartitionTime, on_grid

_LONGEST_WALK_TICKS = 600
"""So many empty ticks are closed one by one; a longer time in which nothing came is then crossed in one step."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One closed tick of a partition: M metrics of G GPUs on K nodes, as the roster numbers them."""

    tick_ms: int
    values: NDArray[Any]
    """(M, G) in the table's precision; NaN where nothing was read."""
    throttle: NDArray[np.int64]
    """(G,) bit mask; -1 where nothing was read."""
    node_present: NDArray[np.bool_]
    """(K,) whether the node was heard at this tick, whatever the time on its messages."""
    gpu_read: NDArray[np.bool_]
    """(G,) whether anything was read from the GPU, whatever the time of the reading."""
    roster: Roster
    node_lag_ms: NDArray[np.float64] | None = None
    """(K,) how long after its own time the newest message of each node reached Kafka; NaN where nothing was heard."""
    anew: NDArray[np.bool_] | None = None
    """(G,) whether another source speaks for the GPU than before: its totals do not go on from the last ones."""
    aside: NDArray[Any] | None = None
    """(M, G) what a second source says of the same GPUs, NaN where there is none."""


class _OpenTick:
    """A tick that still gathers readings."""

    __slots__ = ("aside", "gpu_read", "node_lag_ms", "node_present", "table", "throttle", "values")

    def __init__(self, table: Table, gpus: int, nodes: int) -> None:
        self.table = table
        self.values = np.full((len(table.metrics), gpus), np.nan, table.dtype)
        self.aside: dict[int, NDArray[Any]] = {}
        """What sources say that are not the first in rank, by rank."""
        self.throttle = np.full(gpus, UNKNOWN_BITS, np.int64)
        self.gpu_read = np.zeros(gpus, np.bool_)
        self.node_present = np.zeros(nodes, np.bool_)
        self.node_lag_ms = np.full(nodes, np.nan)

    def grow(self, gpus: int, nodes: int) -> None:
        """Make room for GPUs and nodes met since."""
        if new := gpus - self.values.shape[1]:
            self.values = np.pad(self.values, ((0, 0), (0, new)), constant_values=np.nan)
            self.aside = {
                rank: np.pad(values, ((0, 0), (0, new)), constant_values=np.nan) for rank, values in self.aside.items()
            }
            self.throttle = np.pad(self.throttle, (0, new), constant_values=UNKNOWN_BITS)
            self.gpu_read = np.pad(self.gpu_read, (0, new))
        if new := nodes - len(self.node_present):
            self.node_present = np.pad(self.node_present, (0, new))
            self.node_lag_ms = np.pad(self.node_lag_ms, (0, new), constant_values=np.nan)

    def of_source(self, rank: int) -> NDArray[Any]:
        """(M, G) the values that this source says."""
        if rank == 0:
            return self.values
        if rank not in self.aside:
            self.aside[rank] = np.full_like(self.values, np.nan)
        return self.aside[rank]


class TickWindow:
    """The open ticks of one partition.

    `grace_ms` costs memory: about 110 bytes a GPU for each open tick of samples, grace_ms / tick_ms of them.
    """

    def __init__(self, tick_ms: int, grace_ms: int, table: Table = SAMPLE_TABLE) -> None:
        self.roster = Roster(shared=table.has_sources)
        self.tick_ms = tick_ms
        self.grace_ms = grace_ms
        self.newest_ms: int = NEVER_MS
        """The highest tick met in the log."""
        self.closed_ms: int = NEVER_MS
        """The highest tick that no longer takes readings in."""
        self.late_messages = 0
        """Messages that came after their tick had closed; they are kept for history, not for detection."""
        self._table = table
        self._time = PartitionTime(tick_ms)
        self._news = _News()
        self._speakers = Speakers() if table.has_sources else None
        self._open: dict[int, _OpenTick] = {}

    def add(self, columns: SampleColumns) -> Iterator[Tick]:
        """Take decoded messages in; gives the ticks that they close, in order."""
        if self.roster.knows(columns):
            yield from self._add(columns)
            return
        # Who is new must not be in the roster of ticks that closed before: he would have been silent in them.
        newest = self._time.go_on(columns, self.newest_ms).newest
        moves = np.flatnonzero(np.diff(newest)) + 1
        for first, end in pairwise(sorted({0, *moves.tolist(), len(columns.tick_ms)})):
            yield from self._add(columns.part(first, end))

    def _add(self, columns: SampleColumns) -> Iterator[Tick]:
        nodes, gpus = self.roster.resolve(columns)
        ticks = on_grid(columns.tick_ms, self.tick_ms)
        came_at, newest, self._time = self._time.go_on(columns, self.newest_ms)
        closed = np.maximum((newest[:-1] - self.grace_ms) // self.tick_ms * self.tick_ms, self.closed_ms)
        # Readings wait for their tick, be it ahead of time; a node is heard when its message has come.
        in_time = ticks > closed
        self.late_messages += int(np.count_nonzero(columns.usable & ~in_time))
        reads_at = np.where(in_time & columns.usable, ticks, NEVER_MS)
        # A node whose readings come late is not silent, nor are its GPUs: they count as heard at the partition's time.
        # What it had sent before and is delivered again says nothing of it.
        is_late = came_at <= closed
        is_news = self._news.note(nodes, columns.boot_code, columns.sequence, asked=is_late)
        late_at = np.where(is_news, np.maximum(newest[:-1], closed + self.tick_ms), NEVER_MS)
        heard_at = np.where(came_at == NEVER_MS, NEVER_MS, np.where(is_late, late_at, came_at))
        self._hear(columns, nodes, gpus, heard_at)
        self._read(columns, gpus, reads_at)
        self.newest_ms = int(newest[-1])
        yield from self._close(self.newest_ms - self.grace_ms)

    def _hear(
        self,
        columns: SampleColumns,
        nodes: NDArray[np.int32],
        gpus: NDArray[np.int32],
        heard_at: NDArray[np.int64],
    ) -> None:
        """Note who was heard when."""
        was_read = _was_read(columns)
        lag_ms = (columns.arrived_ms - np.clip(columns.tick_ms, -LAST_MS, LAST_MS)).astype(np.float64)
        reading_heard_at = np.repeat(heard_at, columns.gpu_count)
        for tick in np.unique(heard_at[heard_at != NEVER_MS]).tolist():
            open_tick, here = self._at(tick), heard_at == tick
            open_tick.node_present[nodes[here]] = True
            open_tick.node_lag_ms[nodes[here]] = lag_ms[here]
            open_tick.gpu_read[gpus[(reading_heard_at == tick) & was_read]] = True

    def _read(self, columns: SampleColumns, gpus: NDArray[np.int32], reads_at: NDArray[np.int64]) -> None:
        """Put the readings into their ticks."""
        reading_at = np.repeat(reads_at, columns.gpu_count)
        ranks = np.unique(columns.source_rank).tolist()
        rank_of = np.repeat(columns.source_rank, columns.gpu_count) if len(ranks) > 1 else None
        for tick in np.unique(reads_at[reads_at != NEVER_MS]).tolist():
            open_tick = self._at(tick)
            for rank in ranks:
                here = reading_at == tick
                if rank_of is not None:
                    here &= rank_of == rank
                open_tick.of_source(rank)[:, gpus[here]] = columns.values[:, here]
                open_tick.throttle[gpus[here]] = columns.throttle[here]

    def advance(self, to_ms: int) -> Iterator[Tick]:
        """Close every tick up to `to_ms`, empty ones too, where the log has gone quiet and only the clock goes on."""
        if self.newest_ms == NEVER_MS:
            return
        ticks = range(max(self.closed_ms, self.newest_ms) + self.tick_ms, to_ms + 1, self.tick_ms)
        for tick in (*ticks[:_LONGEST_WALK_TICKS], *ticks[_LONGEST_WALK_TICKS:][-1:]):
            self._at(tick)
            self.newest_ms = tick
            yield from self._close(tick)

    def _at(self, tick: int) -> _OpenTick:
        found = self._open.get(tick)
        gpus, nodes = len(self.roster.gpus), len(self.roster.nodes)
        if found is None:
            found = self._open[tick] = _OpenTick(self._table, gpus, nodes)
        else:
            found.grow(gpus, nodes)
        return found

    def _close(self, through_ms: int) -> Iterator[Tick]:
        for tick in sorted(tick for tick in self._open if tick <= through_ms):
            done = self._open.pop(tick)
            done.grow(len(self.roster.gpus), len(self.roster.nodes))
            self.closed_ms = tick
            yield self._closed(tick, done)
        # also where no message held the tick, so that lateness does not depend on which ticks were sent
        self.closed_ms = max(self.closed_ms, through_ms // self.tick_ms * self.tick_ms)

    def _closed(self, tick_ms: int, done: _OpenTick) -> Tick:
        values, anew, aside = done.values, None, None
        if self._speakers is not None:
            values, anew, aside = self._speakers.choose(tick_ms, done.values, done.aside)
        return Tick(
            tick_ms, values, done.throttle, done.node_present, done.gpu_read, self.roster,
            done.node_lag_ms, anew, aside,
        )  # fmt: skip


def _was_read(columns: SampleColumns) -> NDArray[np.bool_]:
    """(N,) of which readings anything at all was read. Ends with the metric that leaves none open, mostly the first."""
    read: NDArray[np.bool_] = columns.throttle != UNKNOWN_BITS
    for values in columns.values:
        if read.all():
            break
        read |= ~np.isnan(values)
    return read


class _News:
    """What each node has sent last, by boot and number: what is delivered again is no news of it. 16 bytes a node."""

    def __init__(self) -> None:
        self._boot: NDArray[np.int64] = np.empty(0, np.int64)
        self._sequence: NDArray[np.int64] = np.empty(0, np.int64)

    def note(
        self,
        nodes: NDArray[np.int32],
        boots: NDArray[np.uint32],
        sequences: NDArray[np.int64],
        *,
        asked: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Note messages of these nodes, in order; gives (R,) which of those that are `asked` for are news."""
        unknown = int(nodes.max(initial=-1)) + 1 - len(self._boot)
        if unknown > 0:
            self._boot = np.append(self._boot, np.full(unknown, -1))
            self._sequence = np.append(self._sequence, np.full(unknown, -(2**63)))
        news = np.zeros(len(nodes), np.bool_)
        # a node that has booted, or of which is asked, is gone through message by message
        slow = asked | (self._boot[nodes] != boots)
        slow = np.isin(nodes, np.unique(nodes[slow])) if slow.any() else slow
        for row in np.flatnonzero(slow).tolist():
            node, boot, sequence = int(nodes[row]), int(boots[row]), int(sequences[row])
            news[row] = boot != self._boot[node] or sequence > self._sequence[node]
            if news[row]:
                self._boot[node], self._sequence[node] = boot, sequence
        np.maximum.at(self._sequence, nodes[~slow], sequences[~slow])
        return news & asked
