"""Writing what came out of a run: in which order, and what is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from faust.exceptions import ProducerSendError

from schemas.topics import ANOMALIES, DEAD_LETTERS, FAULTS, STREAMS_STATE
from streams import delivery
from streams.delivery import Delivery
from streams.partitions import Outcome
from streams.readings.decode import Rejected
from tests.streams_scenes import CODEC, START_MS, anomaly, fault, message


class Topic:
    """A topic that takes everything, but for what a test says. The real one needs a broker that fails on demand."""

    def __init__(self, name: str, log: list[tuple[str, Any, Any, Any]], fail: Callable[[str, Any], None]) -> None:
        self.name, self.log, self.fail = name, log, fail

    async def send(self, *, key: Any, value: Any, partition: Any) -> asyncio.Future[None]:
        self.fail(self.name, key)
        done = asyncio.get_running_loop().create_future()
        try:
            self.fail(f"{self.name} later", key)
            self.log.append((self.name, key, value, partition))
            done.set_result(None)
        except (KafkaTimeoutError, MessageSizeTooLargeError) as error:
            done.set_exception(error)
        return done


class Topics(dict[str, Topic]):
    def __init__(self, *failures: tuple[str, Exception]) -> None:
        self.log: list[tuple[str, Any, Any, Any]] = []
        self.failures = list(failures)
        super().__init__(
            {name: Topic(name, self.log, self.fail) for name in (ANOMALIES, FAULTS, DEAD_LETTERS, STREAMS_STATE)}
        )

    def fail(self, where: str, key: Any) -> None:
        for failure in self.failures:
            if failure[0] == where:
                self.failures.remove(failure)
                raise failure[1]


OUTCOME = Outcome(
    records=[anomaly(rack="r7"), fault(site="hall-b")],
    rejected=[Rejected(message(b"junk", 3), "not_avro", "no Avro")],
    memory={"fault|x": b"state", "fault|y": None, "applied|hardware.events": b"7"},
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_LONGEST_PAUSE_S", 0.001)


def deliver(topics: Topics, outcome: Outcome = OUTCOME) -> list[str]:
    asyncio.run(Delivery(topics, CODEC).deliver(2, outcome, START_MS))
    return [name for name, *_ in topics.log]


def test_outputs_are_written_before_the_memory_that_takes_them_for_written() -> None:
    assert deliver(Topics()) == [ANOMALIES, FAULTS, DEAD_LETTERS, *[STREAMS_STATE] * 3]


def test_records_are_keyed_as_their_topics_say_and_memory_goes_to_its_partition() -> None:
    topics = Topics()
    deliver(topics)
    assert [(key, partition) for _, key, _, partition in topics.log] == [
        (b"r7", None),
        (b"hall-b", None),
        (None, None),
        (b"fault|x", 2),
        (b"fault|y", 2),
        (b"applied|hardware.events", 2),
    ]
    assert topics.log[4][2] is None, "what is let go is a tombstone"


def refused(error: Exception) -> ProducerSendError:
    wrapped = ProducerSendError("refused")
    wrapped.__cause__ = error
    return wrapped


@pytest.mark.parametrize(
    "failure",
    [
        (FAULTS, refused(KafkaTimeoutError())),
        (f"{FAULTS} later", KafkaTimeoutError()),
        (STREAMS_STATE, refused(KafkaTimeoutError())),
        (f"{STREAMS_STATE} later", KafkaTimeoutError()),
    ],
)
def test_what_kafka_does_not_take_is_written_again_until_it_does(failure: tuple[str, Exception]) -> None:
    topics = Topics(failure, failure)
    names = deliver(topics)
    assert topics.failures == []
    assert names[-3:] == [STREAMS_STATE] * 3
    assert {ANOMALIES, FAULTS, DEAD_LETTERS} <= set(names[: names.index(STREAMS_STATE)]), "memory waits for outputs"
    assert {key for _, key, *_ in topics.log[-3:]} == {b"fault|x", b"fault|y", b"applied|hardware.events"}


@pytest.mark.parametrize(
    "failure",
    [(FAULTS, refused(MessageSizeTooLargeError())), (f"{FAULTS} later", MessageSizeTooLargeError())],
)
def test_what_is_too_large_for_kafka_is_left_out_and_does_not_hold_up_the_rest(failure: tuple[str, Exception]) -> None:
    assert deliver(Topics(failure)) == [ANOMALIES, DEAD_LETTERS, *[STREAMS_STATE] * 3]


def test_what_is_our_own_mistake_is_not_tried_for_ever() -> None:
    with pytest.raises(TypeError):
        deliver(Topics((FAULTS, TypeError("a bug"))))


def test_nothing_is_nothing() -> None:
    assert deliver(Topics(), Outcome()) == []
