"""The stream workers' way into a real Kafka: in order, awaited, and what becomes of what it does not take."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from infra.kafka import EmbeddedKafka
from streams import writer
from streams.writer import Send, Writer
from tests.conftest import KafkaUnderTest
from tests.streams_processes import Kafka

pytestmark = pytest.mark.integration


def write(bootstrap: str, *runs: Sequence[Send], prepare: Callable[[Writer], None] = lambda _: None) -> list[Any]:
    """What came of each run, in turn: what was refused, or the error."""

    async def main() -> list[Any]:
        found: list[Any] = []
        with Writer({"bootstrap.servers": bootstrap}) as into:
            prepare(into)
            for run in runs:
                try:
                    found.append(await into.write(run))
                except KafkaException as error:
                    found.append(error.args[0])
        return found

    return asyncio.run(main())


def held(bootstrap: str, topic: str) -> dict[int, list[tuple[bytes | None, bytes | None]]]:
    """Keys and values by partition, in the order of the log."""
    found: dict[int, list[tuple[bytes | None, bytes | None]]] = {}
    for one in Kafka(bootstrap).messages(topic):
        found.setdefault(one.partition(), []).append((one.key(), one.value()))
    return found


def test_all_is_there_in_its_order_once_it_is_written(kafka: KafkaUnderTest, new_topic: Callable[..., str]) -> None:
    topic = new_topic("written", partitions=3)
    keyed = [Send(topic, f"k{number % 7}".encode(), f"{number}".encode()) for number in range(5000)]
    placed = [Send(topic, b"placed", None if number % 2 else b"x", 2) for number in range(10)]
    assert write(kafka.bootstrap, keyed, placed, []) == [[], [], []]
    found = held(kafka.bootstrap, topic)
    for key in range(7):
        (its,) = [log for log in found.values() if any(of == f"k{key}".encode() for of, _ in log)]
        assert [int(value or 0) for of, value in its if of == f"k{key}".encode()] == list(range(key, 5000, 7))
    assert [(send.key, send.value) for send in placed] == [one for one in found[2] if one[0] == b"placed"]


def test_what_is_too_large_for_its_topic_is_given_back_and_the_rest_is_written(
    kafka: KafkaUnderTest, new_topic: Callable[..., str]
) -> None:
    topic = new_topic("small", max_message_bytes="20000")
    noise = random.Random(7)
    sends = [Send(topic, b"k", noise.randbytes(40_000 if number == 3 else 1000)) for number in range(8)]
    beyond = Send(topic, b"k", noise.randbytes(writer.LARGEST_BYTES + 1))
    assert write(kafka.bootstrap, [*sends, beyond]) == [[sends[3], beyond]]
    del sends[3]
    assert sorted(held(kafka.bootstrap, topic)[0]) == sorted((send.key, send.value) for send in sends)


def test_a_broker_that_is_away_is_told_of_and_what_was_not_written_can_be_written_again(
    fresh_kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_GIVES_UP_MS", 3000)
    bootstrap = fresh_kafka.bootstrap
    admin = AdminClient({"bootstrap.servers": bootstrap})  # kept by name: its orders end with it
    admin.create_topics([NewTopic("t", 1, 1)])["t"].result(20)
    runs = [[Send("t", b"k", f"{run} {number}".encode()) for number in range(100)] for run in range(3)]

    async def main() -> None:
        with Writer({"bootstrap.servers": bootstrap}) as into:
            await _until_written(into, runs[0])
            fresh_kafka.kill()
            with pytest.raises(KafkaException) as away:
                await into.write(runs[1])
            assert away.value.args[0].code() == KafkaError._MSG_TIMED_OUT
            fresh_kafka.start()
            await _until_written(into, runs[1])
            await _until_written(into, runs[2])

    asyncio.run(main())
    assert [value for _, value in held(bootstrap, "t")[0]] == [send.value for run in runs for send in run]


async def _until_written(into: Writer, run: Sequence[Send]) -> None:
    while True:
        try:
            await into.write(run)
        except KafkaException:
            continue
        return


def test_a_worker_that_ends_does_not_wait_for_a_broker_that_is_away(fresh_kafka: EmbeddedKafka) -> None:
    fresh_kafka.kill()

    async def main() -> None:
        with Writer({"bootstrap.servers": fresh_kafka.bootstrap}) as into:
            waits = asyncio.ensure_future(into.write([Send("t", b"k", b"x")]))
            await asyncio.sleep(0.1)
            assert not waits.done()
            waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_producer_that_has_lost_its_place_is_replaced(
    kafka: KafkaUnderTest, new_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = new_topic("lost")
    run = [Send(topic, b"k", b"x")]

    class Lost:
        """What a producer is like once the broker has lost what it had acknowledged."""

        def produce(self, *_: object, **__: object) -> None:
            raise KafkaException(KafkaError(KafkaError._FATAL, "lost", True))

        def poll(self, _: float) -> None: ...
        def purge(self) -> None: ...
        def flush(self, _: float) -> int:
            return 0

    def lose(into: Writer) -> None:
        monkeypatch.setattr(into, "_producer", Lost())

    error, refused = write(kafka.bootstrap, run, run, prepare=lose)
    assert (error.code(), refused) == (KafkaError._FATAL, [])
    assert held(kafka.bootstrap, topic) == {0: [(b"k", b"x")]}
