"""The stream workers' way into Kafka: librdkafka's producer, awaited.

Faust's own producer takes each record through a dozen of Python's calls. A worker that begins with a hundred thousand
components writes a verdict of each, and after a storm some hundred entries of memory a second: librdkafka does both
beside the work (`tests/benchmarks/README.md` has the numbers).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

log = structlog.get_logger()

LARGEST_BYTES = 8 * 1024 * 1024
"""Of a record before compression. A broker takes a megabyte after it, unless told otherwise."""
_BATCH_BYTES = 256 * 1024
"""A record that is larger is sent in a batch of its own."""
_GIVES_UP_MS = 30_000
"""When a broker that takes nothing is told of; the same is written again then."""
_FULL_PAUSE_S = 0.02
_POLL_S = 0.5


class Send(NamedTuple):
    """A record to write."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    """Where the key does not decide it."""


class Writer:
    """Writes records and waits until Kafka has them. For one event loop; a context manager, whose end does not wait."""

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        """`kafka` is a librdkafka client configuration."""
        self._config = {
            **kafka,
            "enable.idempotence": True,  # also keeps the order where something has to be sent again
            "acks": "all",
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 0,
            "batch.size": _BATCH_BYTES,
            "message.max.bytes": LARGEST_BYTES,
            "message.timeout.ms": _GIVES_UP_MS,
            "reconnect.backoff.max.ms": 2000,
            "error_cb": self._note,
            "log_level": 0,  # what matters comes through the callback, in our own log format
        }
        self._said: set[str] = set()
        """Kinds of trouble that were told of since Kafka last took something."""
        self._producer = Producer(self._config)
        self._over = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="written", daemon=True)

    def __enter__(self) -> Writer:
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._producer.purge()  # nobody waits for it any more, and what is not acknowledged is done again
        self._listener.join()

    async def write(self, sends: Sequence[Send]) -> list[Send]:
        """Hand all over, in order, then wait for all. Gives those that Kafka will never take, for they are too large.

        Raises `KafkaException` where something was not written: then all may be written again.
        """
        refused = await self._settled(sends)
        if len(sends) == 1:
            return refused
        # with what is too large the whole batch was refused that it was sent in
        return [send for alone in refused for send in await self._settled([alone])]

    async def _settled(self, sends: Sequence[Send]) -> list[Send]:
        receipts, producer = _Receipts(len(sends)), self._producer
        for number, send in enumerate(sends):
            try:
                await self._hand_over(send, number, receipts)
            except KafkaException as error:
                receipts.settle(number, error.args[0])
        errors = await receipts.done
        if not errors:
            self._said.clear()
        others = [error for error in errors.values() if error.code() != KafkaError.MSG_SIZE_TOO_LARGE]
        dead = [error for error in others if error.fatal() or error.code() == KafkaError._FATAL]  # noqa: SLF001
        if dead:
            await self._renew(producer, dead[0])
        if others:
            raise KafkaException(others[0])
        return [sends[number] for number in sorted(errors)]

    async def _hand_over(self, send: Send, number: int, receipts: _Receipts) -> None:
        def settle(error: KafkaError | None, _: Message) -> None:
            receipts.settle(number, error)

        place = {} if send.partition is None else {"partition": send.partition}
        while True:
            try:
                self._producer.produce(send.topic, send.value, send.key, on_delivery=settle, **place)
            except BufferError:
                await asyncio.sleep(_FULL_PAUSE_S)
            else:
                return

    async def _renew(self, dead: Producer, error: KafkaError) -> None:
        """Begin with a new producer: after a fatal error (the broker lost what it had acknowledged) the old is dead."""
        if self._producer is not dead:
            return  # whoever else wrote with it has done so
        log.warning("the Kafka producer is renewed", reason=error.str())
        self._producer = Producer(self._config)

        def let_go() -> None:
            dead.purge()
            while dead.flush(_POLL_S):
                pass  # whoever waits for what it held learns that it was not written

        await asyncio.to_thread(let_go)

    def _note(self, error: KafkaError) -> None:
        """The client has trouble, and says why, which a record that was not written does not."""
        if error.name() not in self._said:
            self._said.add(error.name())
            log.warning("trouble with writing to Kafka", reason=error.str())

    def _listen(self) -> None:
        while not self._over.is_set():
            self._producer.poll(_POLL_S)


class _Receipts:
    """What Kafka says of the records of one write. `done` has the errors by number, once it has spoken of each."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = count
        self._errors: dict[int, KafkaError] = {}
        self._lock = threading.Lock()
        self.done: asyncio.Future[dict[int, KafkaError]] = self._loop.create_future()
        if not count:
            self.done.set_result({})

    def settle(self, number: int, error: KafkaError | None) -> None:
        """Kafka has spoken of one; from any thread."""
        with self._lock:
            if error is not None:
                self._errors[number] = error
            self._left -= 1
            last = not self._left
        if last:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.done.done():  # whoever waited may have been cancelled
            self.done.set_result(self._errors)
