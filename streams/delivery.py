"""Writing what came out of a run: outputs first, then the memory that takes them for written, each delivery awaited.

Nothing here gives up while Kafka is away: an exception in an agent would make Faust acknowledge what is not done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import structlog
from confluent_kafka import KafkaException
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from schemas.codec import Codec
from schemas.records import Anomaly, Fault, HardwareEvent, Incident, Record, Verdict
from schemas.topics import ANOMALIES, DEAD_LETTERS, EVENTS, FAULTS, INCIDENTS, STREAMS_STATE, VERDICTS
from streams import metrics
from streams.partitions import Outcome, dead_letter
from streams.writer import Send

log = structlog.get_logger()

READER = "streams"
OUTPUTS: Mapping[type[Record], tuple[str, Callable[[Any], str]]] = {
    Anomaly: (ANOMALIES, lambda anomaly: anomaly.rack),
    HardwareEvent: (EVENTS, lambda event: event.rack),
    Fault: (FAULTS, lambda fault: fault.site),
    Incident: (INCIDENTS, lambda incident: incident.site),
    Verdict: (VERDICTS, lambda verdict: verdict.rack),
}
"""Record class to its topic and what keys it there."""
_LONGEST_PAUSE_S = 5.0

T = TypeVar("T")


class Writes(Protocol):
    """What `Delivery` needs of a `Writer`."""

    async def write(self, sends: Sequence[Send]) -> list[Send]:
        """As `Writer.write`."""
        ...


class Delivery:
    """Writes outcomes."""

    def __init__(self, writer: Writes, codec: Codec) -> None:
        self._writer = writer
        self._codec = codec

    async def deliver(self, partition: int, outcome: Outcome, now_ms: int) -> None:
        """Write all of it; returns when Kafka has it, however long that takes."""
        sends = []
        for record in outcome.records:
            topic, key = OUTPUTS[type(record)]
            sends.append(Send(topic, key(record).encode(), self._codec.encode(record)))
        for rejected in outcome.rejected:
            metrics.REJECTED.labels(rejected.message.topic, rejected.reason).inc()
            sends.append(Send(DEAD_LETTERS, None, self._codec.encode(dead_letter(rejected, READER, now_ms))))
        memory = [Send(STREAMS_STATE, key.encode(), state, partition) for key, state in outcome.memory.items()]
        if sends:
            await persistently("writing outputs", lambda: self._write(sends))
        if memory:
            await persistently("writing state", lambda: self._write(memory))

    async def _write(self, sends: Sequence[Send]) -> None:
        refused = await self._writer.write(sends)
        for send in refused:
            log.error(
                "a record is too large for Kafka and is left out: raise max.message.bytes of its topic",
                topic=send.topic,
                key=send.key,
                bytes=len(send.value or b""),
            )
        for topic, count in (Counter(send.topic for send in sends) - Counter(send.topic for send in refused)).items():
            metrics.WRITTEN.labels(topic).inc(count)


async def persistently(what: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """Try for as long as Kafka is away; what else goes wrong is raised."""

    def tell(state: RetryCallState) -> None:
        reason = state.outcome.exception() if state.outcome else None
        say = "Kafka did not take it, or did not answer; trying again"
        log.warning(say, doing=what, attempt=state.attempt_number, reason=str(reason))

    async for trial in AsyncRetrying(
        retry=retry_if_exception_type(KafkaException),
        wait=wait_exponential_jitter(multiplier=0.2, max=_LONGEST_PAUSE_S),
        before_sleep=tell,
    ):
        with trial:
            return await attempt()
    raise AssertionError("unreachable: the retry has no end")
