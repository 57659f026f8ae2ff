"""What time it is in a partition: that of its messages, however its nodes' clocks may err."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.readings.columns import SampleColumns
from streams.readings.roster import NEVER_MS

LAST_MS = 253_402_300_800_000
"""The year 10000: a clock that says more, or as much before 1970, says just that."""
_ALONE_MS = 60_000
"""A partition in which no message has had a time that can be true for so long goes by the broker's clock."""


def on_grid(times_ms: NDArray[np.int64], tick_ms: int) -> NDArray[np.int64]:
    """The tick of each time; from 1970 to the year 10000."""
    return np.clip(times_ms, 0, LAST_MS) // tick_ms * tick_ms


class Times(NamedTuple):
    """When R messages came, in the partition's own time."""

    came_at: NDArray[np.int64]
    """(R,) the tick at which each came; NEVER_MS while nobody knows what time it is."""
    newest: NDArray[np.int64]
    """(R + 1,) the highest tick before the first message and after each."""
    after: PartitionTime
    """What is known of the time after the last."""


@dataclass(frozen=True, slots=True)
class PartitionTime:
    """How the partition's time stands to the broker's. A log may be replayed years later, faster than it was written.

    A message is of the time on it, or of its arrival in Kafka where its own time lies later. One whose time cannot be
    true comes at the time that has gone on since the others came.
    """

    tick_ms: int
    behind_ms: int = NEVER_MS
    """By how much the newest messages were of another time than that of their arrival; at most 0."""
    alone_since_ms: int = NEVER_MS
    """The arrival of the first message, where no time has been true yet."""

    def go_on(self, columns: SampleColumns, newest_ms: int) -> Times:
        """Take messages in, in the order of the log; `newest_ms` is the highest tick before them."""
        arrived_ms, usable = columns.arrived_ms, columns.usable
        believed = np.minimum(columns.tick_ms, arrived_ms)
        if usable.all():
            behind = np.maximum(self.behind_ms, int((believed - arrived_ms).max(initial=NEVER_MS)))
            came_at = on_grid(believed, self.tick_ms)
            return Times(came_at, _highest(newest_ms, came_at), replace(self, behind_ms=int(behind)))
        since_ms = int(arrived_ms[0]) if self.alone_since_ms == NEVER_MS else self.alone_since_ms
        behind = np.maximum.accumulate(np.append(self.behind_ms, np.where(usable, believed - arrived_ms, NEVER_MS)))
        is_alone = (behind[1:] == NEVER_MS) & (arrived_ms - since_ms >= _ALONE_MS)
        behind = np.maximum.accumulate(np.where(is_alone, 0, behind[1:]))
        gone_on = np.where(behind == NEVER_MS, NEVER_MS, on_grid(arrived_ms + behind, self.tick_ms))
        came_at = np.where(usable, on_grid(believed, self.tick_ms), gone_on)
        return Times(came_at, _highest(newest_ms, came_at), PartitionTime(self.tick_ms, int(behind[-1]), since_ms))


def _highest(newest_ms: int, came_at: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.maximum.accumulate(np.append(newest_ms, came_at))
