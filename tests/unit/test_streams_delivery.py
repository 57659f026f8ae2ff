"""Writing what came out of a run: in which order, what is tried again. `test_streams_writer.py` has a real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from confluent_kafka import KafkaError, KafkaException
from structlog.testing import capture_logs

from schemas.topics import ANOMALIES, DEAD_LETTERS, FAULTS, STREAMS_STATE
from streams import delivery
from streams.delivery import Delivery
from streams.partitions import Outcome
from streams.readings.decode import Rejected
from streams.writer import Send
from tests.streams_scenes import CODEC, START_MS, anomaly, fault, message

OUTCOME = Outcome(
    records=[anomaly(rack="r7"), fault(site="hall-b")],
    rejected=[Rejected(message(b"junk", 3), "not_avro", "no Avro")],
    memory={"fault|x": b"state", "fault|y": None, "applied|hardware.events": b"7"},
)


class Log:
    """A Kafka that takes everything, but for what a test says: `failures` are raised in turn by writes to a topic."""

    def __init__(self, *failures: tuple[str, Exception], refuses: str | None = None) -> None:
        self.taken: list[Send] = []
        self.failures = list(failures)
        self.refuses = refuses

    async def write(self, sends: Sequence[Send]) -> list[Send]:
        for number, send in enumerate(sends):
            if self.failures and self.failures[0][0] == send.topic:
                self.taken += sends[:number]
                raise self.failures.pop(0)[1]
        refused = [send for send in sends if send.topic == self.refuses]
        self.taken += [send for send in sends if send not in refused]
        return refused


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_LONGEST_PAUSE_S", 0.001)


def deliver(log: Log, outcome: Outcome = OUTCOME) -> list[str]:
    asyncio.run(Delivery(log, CODEC).deliver(2, outcome, START_MS))
    return [send.topic for send in log.taken]


def test_outputs_are_written_before_the_memory_that_takes_them_for_written() -> None:
    assert deliver(Log()) == [ANOMALIES, FAULTS, DEAD_LETTERS, *[STREAMS_STATE] * 3]


def test_records_are_keyed_as_their_topics_say_and_memory_goes_to_its_partition() -> None:
    log = Log()
    deliver(log)
    assert [(send.key, send.partition) for send in log.taken] == [
        (b"r7", None),
        (b"hall-b", None),
        (None, None),
        (b"fault|x", 2),
        (b"fault|y", 2),
        (b"applied|hardware.events", 2),
    ]
    assert log.taken[4].value is None, "what is let go is a tombstone"


@pytest.mark.parametrize("topic", [FAULTS, STREAMS_STATE])
def test_what_kafka_does_not_take_is_written_again_until_it_does(topic: str) -> None:
    away = KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))
    log = Log((topic, away), (topic, away))
    with capture_logs() as said:
        names = deliver(log)
    assert log.failures == []
    assert [one["event"] for one in said] == ["Kafka did not take it, or did not answer; trying again"] * 2
    assert names[-3:] == [STREAMS_STATE] * 3
    assert {ANOMALIES, FAULTS, DEAD_LETTERS} <= set(names[: names.index(STREAMS_STATE)]), "memory waits for outputs"
    assert {send.key for send in log.taken[-3:]} == {b"fault|x", b"fault|y", b"applied|hardware.events"}


def test_what_is_too_large_for_kafka_is_left_out_and_does_not_hold_up_the_rest() -> None:
    with capture_logs() as said:
        assert deliver(Log(refuses=FAULTS)) == [ANOMALIES, DEAD_LETTERS, *[STREAMS_STATE] * 3]
    assert said[0]["topic"] == FAULTS
    assert "too large" in said[0]["event"]


def test_what_is_our_own_mistake_is_not_tried_for_ever() -> None:
    with pytest.raises(TypeError):
        deliver(Log((FAULTS, TypeError("a bug"))))


def test_nothing_is_nothing() -> None:
    assert deliver(Log(), Outcome()) == []
