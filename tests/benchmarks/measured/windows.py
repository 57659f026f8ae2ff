"""What the contenders compute: a 60 s mean per GPU of three metrics, and whether it is beyond a limit. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LIMITS = {"temperature_celsius": 87.0, "memory_temperature_celsius": 95.0, "power_watts": 1200.0}
TICKS = 60


class NodeWindows:
    """The last 60 ticks of every node: an array (3, TICKS, GPUs) with a running sum. `beyond` counts findings."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[int]]] = {}
        self._limits = np.array(list(LIMITS.values()))[:, None]
        self.beyond = 0

    def add(self, record: Mapping[str, Any]) -> int:
        """Take a decoded record in; gives how many GPU samples that were."""
        gpus: Sequence[str] = record["gpus"]
        held = self._of.get(record["node"])
        if held is None:
            held = self._of[record["node"]] = np.zeros((3, TICKS, len(gpus))), np.zeros((3, len(gpus))), [0]
        ring, total, ticks = held
        now = np.array([record[metric] for metric in LIMITS])
        at = ticks[0] % TICKS
        total += now - ring[:, at]
        ring[:, at] = now
        ticks[0] += 1
        self.beyond += int((total / min(ticks[0], TICKS) > self._limits).sum())
        return len(gpus)
