"""Writing what came out of a run: outputs first, then the memory that takes them for written, each delivery awaited.

Nothing here gives up while Kafka is away: an exception in an agent would make Faust acknowledge what is not done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import structlog
from aiokafka.errors import KafkaError as AioKafkaError
from aiokafka.errors import MessageSizeTooLargeError
from confluent_kafka import KafkaException
from faust.exceptions import ProducerSendError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from schemas.codec import Codec
from schemas.records import Anomaly, Fault, HardwareEvent, Incident, Record, Verdict
from schemas.topics import ANOMALIES, DEAD_LETTERS, EVENTS, FAULTS, INCIDENTS, STREAMS_STATE, VERDICTS
from streams import metrics
from streams.partitions import Outcome, dead_letter

log = structlog.get_logger()

READER = "streams"
LARGEST_BYTES = 8 * 1024 * 1024
"""Of a record before compression. A broker takes a megabyte after it, unless told otherwise."""
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


class _Send(NamedTuple):
    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    """Where the key does not decide it."""


class Delivery:
    """Writes outcomes through the Faust app's producer. `topics` are Faust topics by name."""

    def __init__(self, topics: Mapping[str, Any], codec: Codec) -> None:
        self._topics = topics
        self._codec = codec

    async def deliver(self, partition: int, outcome: Outcome, now_ms: int) -> None:
        """Write all of it; returns when Kafka has it, however long that takes."""
        sends = []
        for record in outcome.records:
            topic, key = OUTPUTS[type(record)]
            sends.append(_Send(topic, key(record).encode(), self._codec.encode(record)))
        for rejected in outcome.rejected:
            metrics.REJECTED.labels(rejected.message.topic, rejected.reason).inc()
            sends.append(_Send(DEAD_LETTERS, None, self._codec.encode(dead_letter(rejected, READER, now_ms))))
        memory = [_Send(STREAMS_STATE, key.encode(), state, partition) for key, state in outcome.memory.items()]
        if sends:
            await persistently("writing outputs", lambda: self._send(sends))
        if memory:
            await persistently("writing state", lambda: self._send(memory))

    async def _send(self, sends: Sequence[_Send]) -> None:
        """Hand all over, then wait for all. Raises the first error that is worth another try."""
        pending = [await self._begin(send) for send in sends]
        for send, done in zip(sends, await asyncio.gather(*pending, return_exceptions=True), strict=True):
            if isinstance(done, MessageSizeTooLargeError):
                # it would be refused for ever, and all that comes behind it would wait
                log.error(
                    "a record is too large for Kafka and is left out: raise max.message.bytes of its topic",
                    topic=send.topic,
                    key=send.key,
                    bytes=len(send.value or b""),
                )
            elif isinstance(done, BaseException):
                raise done
            else:
                metrics.WRITTEN.labels(send.topic).inc()

    async def _begin(self, send: _Send) -> Awaitable[Any]:
        try:
            begun: Awaitable[Any] = await self._topics[send.topic].send(
                key=send.key, value=send.value, partition=send.partition
            )
        except ProducerSendError as error:
            if not isinstance(error.__cause__, MessageSizeTooLargeError):
                raise
            return _failed(error.__cause__)
        return begun


async def _failed(error: Exception) -> None:
    raise error


async def persistently(what: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """Try for as long as Kafka is away; what else goes wrong is raised."""

    def tell(state: RetryCallState) -> None:
        reason = state.outcome.exception() if state.outcome else None
        log.warning("Kafka does not answer; trying again", doing=what, attempt=state.attempt_number, reason=str(reason))

    async for trial in AsyncRetrying(
        retry=retry_if_exception_type((KafkaException, AioKafkaError, ProducerSendError)),
        wait=wait_exponential_jitter(multiplier=0.2, max=_LONGEST_PAUSE_S),
        before_sleep=tell,
    ):
        with trial:
            return await attempt()
    raise AssertionError("unreachable: the retry has no end")
