"""Faust with runs: what was fetched of one partition reaches an agent as one message, a list of records.

Plain Faust hands records over one by one, some thousands a second. A run costs the same as one record, so the agent's
own work decides the speed. Three of Faust's rules had to change for it, each learnt from a storm of `kill -9`:

1. Faust notes offsets between two messages as a gap in the log and acknowledges them. In a run they are the records.
2. Offsets of a topic are committed up to the highest acknowledged: one agent with concurrency 1 ends a partition's
   runs in their order.
3. Where a partition has no committed offset, Faust goes on after a rebalance from wherever fetching was, which skips
   what was fetched and never handled. It has to be sought back to the beginning.

This reaches into private parts of `faust-streaming`, which is therefore pinned exactly.
`tests/integration/test_streams_transport.py` holds it with real kills and rebalances.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from faust.transport.drivers import aiokafka as driver

_TALKATIVE = ("aiokafka", "aiokafka.consumer.fetcher", "aiokafka.consumer.group_coordinator")
_REPEAT_S = 10.0
"""How often aiokafka may tell that the broker is away; it would tell of every attempt, a hundred a second."""
_LONGEST_STOP_S = 10.0
"""Leaving the group takes a broker; without one Faust would wait for a minute. What is not committed is done again."""


class _NowAndThen(logging.Filter):
    """Lets each message through once in a while, whatever stands in it."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._said.get(str(record.msg), -_REPEAT_S) < _REPEAT_S:
            return False
        self._said[str(record.msg)] = now
        return True


def calm_logs() -> None:
    """Keep the client from filling the log while the broker is away."""
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _NowAndThen) for one in logger.filters):
            logger.addFilter(_NowAndThen())


class Run:
    """Consecutive records of one partition in the shape of one aiokafka record; `value` is the list of records."""

    __slots__ = (
        "checksum",
        "headers",
        "key",
        "offset",
        "partition",
        "serialized_key_size",
        "serialized_value_size",
        "timestamp",
        "timestamp_type",
        "topic",
        "value",
    )

    def __init__(self, records: list[Any]) -> None:
        last = records[-1]
        self.topic, self.partition, self.offset = last.topic, last.partition, last.offset
        self.timestamp, self.timestamp_type = last.timestamp, last.timestamp_type
        self.key, self.headers, self.checksum = None, (), None
        self.value = records
        self.serialized_key_size = 0
        self.serialized_value_size = sum(record.serialized_value_size for record in records)


class RunConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer, giving runs for the transport's `topics_in_runs`."""

    def _new_consumer_thread(self) -> Any:
        thread = super()._new_consumer_thread()
        thread.shutdown_timeout = _LONGEST_STOP_S
        return thread

    def _in_runs(self, tp: Any) -> bool:
        return tp.topic in self.transport.topics_in_runs

    async def _getmany(self, active_partitions: Any, timeout: float) -> dict[Any, Any]:  # noqa: ASYNC109 - Faust's
        fetched = await super()._getmany(active_partitions, timeout)
        longest = self.transport.longest_run
        return {
            tp: [Run(records[at : at + longest]) for at in range(0, len(records), longest)]
            if self._in_runs(tp)
            else records
            for tp, records in ((tp, list(records)) for tp, records in fetched.items())
        }

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        if not self._in_runs(tp):  # rule 1
            await super()._add_gap(tp, offset_from, offset_to)

    def _new_offset(self, tp: Any) -> int | None:
        if not self._in_runs(tp):
            return super()._new_offset(tp)  # type: ignore[no-any-return]
        acked = self._acked[tp]
        if not acked:
            return None
        done: int = max(acked)  # rule 2
        self._acked_index[tp].difference_update(acked)
        acked.clear()
        return done + 1

    async def seek_to_committed(self) -> dict[Any, int]:
        """Seek to the committed offsets, and to the beginning where there are none."""
        offsets = dict(await super().seek_to_committed())
        fresh = [tp for tp in self.assignment() if self._in_runs(tp) and not (offsets.get(tp) or 0) > 0]
        if fresh:  # rule 3
            beginnings = await self.earliest_offsets(*fresh)
            await self.seek_wait(beginnings)
            offsets.update(beginnings)
        return offsets


class RunTransport(driver.Transport):  # type: ignore[misc]
    """`app.transport = RunTransport([url], app)`, before the app starts."""

    Consumer = RunConsumer
    topics_in_runs: frozenset[str] = frozenset()
    longest_run: int = 2000
    """Records. An unbounded run starves the consumer group's heartbeat."""
