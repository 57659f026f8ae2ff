"""Decoded messages as columns: what everything behind the decoder works on.

Metrics lie in one array of shape (metrics, readings); a *reading* is one GPU in one message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.readings.layouts import Place


@dataclass(frozen=True, slots=True)
class SampleColumns:
    """Decoded messages. R messages hold N readings of M metrics; order is that of the log."""

    tick_ms: NDArray[np.int64]
    """(R,) event time of each message."""
    arrived_ms: NDArray[np.int64]
    """(R,) when each message reached Kafka, by the broker's clock."""
    interval_ms: NDArray[np.int32]
    """(R,) the node's own period."""
    usable: NDArray[np.bool_]
    """(R,) False where the time cannot be true: that its node is heard is all that the message says."""
    boot_code: NDArray[np.uint32]
    """(R,) small integers for boot ids."""
    sequence: NDArray[np.int64]
    """(R,) what each message is called in the order in which its producer made them since the boot."""
    source_rank: NDArray[np.int8]
    """(R,) whose word it is, by its place in `SOURCES`; 0 where a table has but one."""
    node_code: NDArray[np.uint32]
    """(R,) small integers for node names."""
    gpu_count: NDArray[np.int64]
    """(R,) readings of each message, 0 or more."""
    places: Sequence[Place]
    """(R,) site, rack and node of each message."""
    serials: Sequence[Sequence[str]]
    """(R,) the GPUs of each message."""
    gpu_code: NDArray[np.uint32]
    """(N,) small integers for GPU serials."""
    throttle: NDArray[np.int64]
    """(N,) bit mask; -1 is unknown."""
    values: NDArray[Any]
    """(M, N) the metrics in the order of the table, in its precision; NaN was not read."""

    def part(self, first: int, end: int) -> SampleColumns:
        """Messages `first` to below `end` with their readings; nothing is copied."""
        rows = slice(first, end)
        before = int(self.gpu_count[:first].sum())
        return self._cut(rows, slice(before, before + int(self.gpu_count[rows].sum())), range(first, end))

    def at(self, rows: NDArray[np.int64]) -> SampleColumns:
        """These messages with their readings, in this order."""
        counts = self.gpu_count[rows]
        begins = (np.cumsum(self.gpu_count) - self.gpu_count)[rows]
        readings = np.repeat(begins - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return self._cut(rows, readings, rows.tolist())

    def _cut(self, rows: Any, readings: Any, numbers: Iterable[int]) -> SampleColumns:
        numbers = list(numbers)
        cut: dict[str, Any] = {name: getattr(self, name)[rows] for name in _OF_MESSAGES}
        cut |= {name: [getattr(self, name)[row] for row in numbers] for name in _NAMES}
        cut |= {name: getattr(self, name)[..., readings] for name in _OF_READINGS}
        return SampleColumns(**cut)

    @classmethod
    def joined(cls, parts: Sequence[SampleColumns]) -> SampleColumns:
        """Parts one behind the other."""
        all_: dict[str, Any] = {name: [one for part in parts for one in getattr(part, name)] for name in _NAMES}
        for name in (*_OF_MESSAGES, *_OF_READINGS):
            all_[name] = np.concatenate([getattr(part, name) for part in parts], axis=-1)
        return cls(**all_)


_NAMES, _OF_READINGS = ("places", "serials"), ("gpu_code", "throttle", "values")
_OF_MESSAGES = tuple(one.name for one in fields(SampleColumns) if one.name not in {*_NAMES, *_OF_READINGS})
