"""A partition's own time."""

from __future__ import annotations

from streams.readings.roster import NEVER_MS


class QuietClock:
    """A partition's own time: that of its newest record, which goes on with the wall clock while nothing comes.

    So a backlog is judged by the time at which it was written, and a worker's wrong clock is no matter.
    """

    def __init__(self, idle_ms: int) -> None:
        self._idle_ms = idle_ms
        self._heard_ms: int | None = None
        """By the wall clock: when something came last."""
        self._time_ms = NEVER_MS

    def heard(self, now_ms: int, time_ms: int) -> None:
        """A record of `time_ms` has come."""
        self._heard_ms, self._time_ms = now_ms, time_ms

    def is_quiet(self, now_ms: int) -> bool:
        """Whether nothing has come for long, after something had."""
        return self._heard_ms is not None and now_ms - self._heard_ms > self._idle_ms

    def time_ms(self, now_ms: int) -> int:
        """What time it is in the partition; `NEVER_MS` where nothing has come yet."""
        return self._time_ms if self._heard_ms is None else self._time_ms + now_ms - self._heard_ms
