"""Which columns of which record the detectors read, and as what: the same machinery runs over each of these tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.catalog.metrics import metrics
from schemas.records import GpuCounters, GpuSample, Record

THROTTLE = "throttle_reasons"
UNKNOWN_BITS = -1
METRICS: tuple[str, ...] = tuple(name for name, metric in metrics().items() if metric.kind != "bits")
"""The metrics of `gpu.samples` that are numbers, in the order of its schema."""
SOURCES: tuple[str, ...] = ("nvml", "dcgm", "nvidia_smi")
"""Who may speak for the same GPU, the one that is believed first: NVML reads the driver, DCGM repeats what it read up
to half a minute ago, and nvidia-smi stands in where there is neither."""


@dataclass(frozen=True, slots=True)
class Table:
    """Arrays over the GPUs of a node, one record per node and tick."""

    record: type[Record]
    metrics: tuple[str, ...]
    """The arrays that are decoded: the rows of `SampleColumns.values`."""
    dtype: type[np.floating[Any]]
    """What holds them: counters need float64, since 2**24 is the last whole number before float32 skips one."""
    bits: str | None = None
    """An array of bit masks beside them."""
    has_sources: bool = False
    """Whether several sources may speak for one GPU, each in records of its own."""

    @property
    def name(self) -> str:
        """The record's name."""
        return self.record.__name__

    def row(self, metric: str) -> int:
        """Its row in the values; -1 is the bit mask. Raises `ValueError` where it is none of the table's."""
        return -1 if metric == self.bits else self.metrics.index(metric)


SAMPLE_TABLE = Table(GpuSample, METRICS, np.float32, bits=THROTTLE)


def counter_table(columns: tuple[str, ...]) -> Table:
    """`gpu.counters` with the columns that rules ask for: the record has a hundred, and most of them never change."""
    return Table(GpuCounters, columns, np.float64, has_sources=True)
