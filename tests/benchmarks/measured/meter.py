"""Measures the steady part of a stream: from the moment enough has gone by until the end. Standard library only.

Every contender is measured by this one piece of code, in its own process.
"""

from __future__ import annotations

import json
import time


class Meter:
    """Counts GPU samples. The clock runs from the first count at or past `warm_up` to the last one."""

    def __init__(self, *, warm_up: int, enough: int, limit_s: float) -> None:
        """Ends at `enough` samples in all, or `limit_s` seconds after the warm-up."""
        self._warm_up, self._enough, self._limit_s = warm_up, enough, limit_s
        self._begin: tuple[int, float, float] | None = None
        self._end = (0, 0.0, 0.0)
        self.total = 0

    @property
    def done(self) -> bool:
        """Whether there is nothing more to measure."""
        if self._begin is None:
            return False
        return self.total >= self._enough or self._end[1] - self._begin[1] >= self._limit_s

    def add(self, samples: int) -> None:
        """So many more have been dealt with, just now."""
        self.reach(self.total + samples)

    def reach(self, total: int) -> None:
        """So many have been dealt with in all, just now."""
        if total == self.total or self.done:
            return
        self.total = total
        self._end = (total, time.perf_counter(), time.process_time())
        if self._begin is None and total >= self._warm_up:
            self._begin = self._end

    def result(self, **more: object) -> str:
        """One line of JSON. Raises `RuntimeError` where nothing steady was seen."""
        if self._begin is None or self._end[0] <= self._begin[0]:
            raise RuntimeError(f"only {self.total} samples were dealt with: nothing to measure")
        samples, wall_s, cpu_s = (end - begin for end, begin in zip(self._end, self._begin, strict=True))
        return json.dumps({"samples": samples, "wall_s": wall_s, "cpu_s": cpu_s, "total": self.total, **more})
