"""Saying it once when ClickHouse fails, and once when it is well again."""

from __future__ import annotations

import threading
import time

import structlog

log = structlog.get_logger()


class Outage:
    """Says once that ClickHouse fails, and once that it is well again, however many partitions wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[object]] = {}
        self._since: dict[str, float] = {}

    def failed(self, who: object, topic: str, error: Exception) -> None:
        """One attempt of one partition failed."""
        name = str(getattr(error, "name", None) or "UNREACHABLE")
        with self._lock:
            waiting = self._waiting.setdefault(name, set())
            if not waiting:
                self._since[name] = time.monotonic()
                log.warning(
                    "ClickHouse did not take a batch: trying again until it does, nothing is lost",
                    topic=topic,
                    failure=name,
                    error=str(error)[:500],
                )
            waiting.add(who)

    def over(self, who: object) -> None:
        """A partition's batch is in, or the partition is no longer ours."""
        with self._lock:
            for name, waiting in list(self._waiting.items()):
                if who in waiting:
                    waiting.discard(who)
                    if not waiting:
                        seconds = round(time.monotonic() - self._since.pop(name), 1)
                        del self._waiting[name]
                        log.info("ClickHouse takes batches again", failure=name, after_seconds=seconds)
