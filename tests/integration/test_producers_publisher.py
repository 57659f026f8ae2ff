from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from producers.publisher import Publisher, PublishError, Sequences
from producers.settings import PublisherSettings
from producers.spool import Spool
from schemas.codec import SingleObjectCodec
from schemas.records import HardwareEvent

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
QUICK = PublisherSettings(linger_ms=5, flush_s=0.5)


def event(number: int, rack: str = "rack-1") -> HardwareEvent:
    return HardwareEvent(
        event_id=str(number),
        site="site",
        rack=rack,
        node="node",
        boot_id="boot",
        sequence=number,
        event_ms=1,
        observed_ms=2,
        source="test",
        kind="xid",
        code=79,
        severity="critical",
    )


def read(bootstrap: str, topic: str, count: int, timeout_s: float = 20) -> list[Any]:
    """The first `count` messages of a topic (fewer when the time is up), partition by partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "log_level": 0})
    try:
        partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        found: list[Any] = []
        deadline = time.monotonic() + timeout_s
        while len(found) < count and time.monotonic() < deadline:
            found += [message for message in consumer.consume(5000, 0.2) if message.error() is None]
        return found
    finally:
        consumer.close()


def poll_until(publisher: Publisher, done: Callable[[], bool], timeout_s: float = 25) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"delivered {publisher.delivered}, queued {publisher.queued}"
        publisher.poll(0.02)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address at which no broker answers, for as long as the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def test_what_is_published_arrives_encoded_and_keyed(kafka: Any, new_topic: Any) -> None:
    topic = new_topic("hardware.events")
    publisher = Publisher(kafka.client, QUICK)

    for number in range(100):
        assert publisher.publish(topic, "rack-1", event(number))
    assert publisher.close(10) == 0

    found = read(kafka.bootstrap, topic, 100)
    codec = SingleObjectCodec()
    assert {message.key() for message in found} == {b"rack-1"}
    assert [codec.decode(message.value(), HardwareEvent) for message in found] == [event(n) for n in range(100)]
    assert (publisher.delivered, publisher.failed) == (100, 0)


def test_a_rack_has_the_partition_that_java_and_aiokafka_choose_for_it(kafka: Any, new_topic: Any) -> None:
    from aiokafka.partitioner import DefaultPartitioner

    topic = new_topic("gpu.samples", partitions=5)
    publisher = Publisher(kafka.client, QUICK)
    racks = [f"rack-{number}" for number in range(40)]

    for rack in racks:
        publisher.send(topic, rack.encode(), rack.encode())
    publisher.close(10)

    partitions = list(range(5))
    expected = {rack.encode(): DefaultPartitioner()(rack.encode(), partitions, partitions) for rack in racks}
    assert {message.key(): message.partition() for message in read(kafka.bootstrap, topic, 40)} == expected


def test_nothing_is_lost_and_order_holds_while_the_broker_is_away(fresh_kafka: Any, tmp_path: Path) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    kafka = {"bootstrap.servers": fresh_kafka.bootstrap}
    admin = AdminClient(kafka)
    admin.create_topics([NewTopic("events", 1, 1)])["events"].result(30)
    with closing(Spool(tmp_path / "spool", 64 * MIB, ("events",))) as spool:
        publisher = Publisher(kafka, QUICK, spool=spool)
        for number in range(200):
            publisher.send("events", b"rack", b"%d" % number)
        poll_until(publisher, lambda: publisher.delivered == 200)

        fresh_kafka.kill()
        for number in range(200, 2000):
            publisher.send("events", b"rack", b"%d" % number)
            publisher.poll(0.001)
        assert publisher.away
        assert publisher.queued < 1000, "what comes while the broker is away belongs on disk"
        assert len(spool) > 1000

        fresh_kafka.start()
        for number in range(2000, 2500):
            publisher.send("events", b"rack", b"%d" % number)
            publisher.poll(0.001)
        poll_until(publisher, lambda: len(spool) == 0 and publisher.queued == 0)
        assert publisher.drops() == {}
        assert publisher.close(10) == 0

    # a record that was under way when the broker died may come twice, and none is missing or ahead of an earlier one
    found = [int(message.value()) for message in read(fresh_kafka.bootstrap, "events", 2500)]
    assert list(dict.fromkeys(found)) == list(range(2500))


def test_a_stop_while_the_broker_is_away_loses_nothing(
    kafka: Any, nowhere: str, new_topic: Any, tmp_path: Path
) -> None:
    topic = new_topic("hardware.events")
    with closing(Spool(tmp_path, 64 * MIB, (topic,))) as spool:
        publisher = Publisher({"bootstrap.servers": nowhere}, QUICK, spool=spool)
        for number in range(300):  # the first ones wait in memory: nobody knows yet that the broker is away
            publisher.send(topic, b"rack", b"%d" % number)
        poll_until(publisher, lambda: publisher.away)
        for number in range(300, 600):
            publisher.send(topic, b"rack", b"%d" % number)

        started = time.monotonic()
        publisher.close(0.5)
        assert time.monotonic() - started < 5
        assert len(spool) == 600

    with closing(Spool(tmp_path, 64 * MIB, (topic,))) as spool:
        publisher = Publisher(kafka.client, QUICK, spool=spool)
        publisher.send(topic, b"rack", b"600")
        poll_until(publisher, lambda: len(spool) == 0 and publisher.queued == 0)
        publisher.close(10)

    found = [int(message.value()) for message in read(kafka.bootstrap, topic, 601)]
    assert found == list(range(601))


def test_a_stop_in_the_middle_of_a_replay_keeps_what_was_not_acknowledged(nowhere: str, tmp_path: Path) -> None:
    with closing(Spool(tmp_path, 64 * MIB, ("events",))) as spool:
        for number in range(300):
            spool.append("events", b"rack", b"%d" % number)
        publisher = Publisher({"bootstrap.servers": nowhere}, QUICK, spool=spool)
        publisher.poll()
        assert publisher.queued > 0
        publisher.close(0.1)

    with closing(Spool(tmp_path, 64 * MIB, ("events",))) as spool:
        assert [int(entry.value) for entry in spool.take("events", 1000)] == list(range(300))


def test_events_are_sent_before_the_samples_that_wait_with_them(kafka: Any, new_topic: Any, tmp_path: Path) -> None:
    samples, events = new_topic("samples"), new_topic("events")
    with closing(Spool(tmp_path, 64 * MIB, (samples, events))) as spool:
        for number in range(5000):
            spool.append(samples, b"rack", b"%d" % number)
        for number in range(50):
            spool.append(events, b"rack", b"%d" % number)
        publisher = Publisher(kafka.client, QUICK, spool=spool)

        poll_until(publisher, lambda: not spool.waits(events))
        assert spool.waits(samples)
        poll_until(publisher, lambda: len(spool) == 0)
        publisher.close(10)

    assert len(read(kafka.bootstrap, samples, 5000)) == 5000
    assert [int(message.value()) for message in read(kafka.bootstrap, events, 50)] == list(range(50))


def test_a_killed_publisher_goes_on_where_it_was_and_a_gap_in_its_numbers_is_a_loss(
    nowhere: str, kafka: Any, new_topic: Any, tmp_path: Path
) -> None:
    topic = new_topic("hardware.events")
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from producers.publisher import Publisher, Sequences
        from producers.settings import PublisherSettings
        from producers.spool import Spool
        state = Path({str(tmp_path)!r})
        spool = Spool(state / "spool", 1 << 26, ({topic!r},))
        publisher = Publisher({{"bootstrap.servers": {nowhere!r}}}, PublisherSettings(), spool=spool)
        numbers = Sequences("boot", ({topic!r},), state / "sequence")
        while not publisher.away:
            publisher.poll(0.01)
        print("away", flush=True)
        while True:
            publisher.send({topic!r}, b"rack", b"%d" % numbers.take({topic!r}) + bytes(5000))
            time.sleep(0.0002)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    try:
        assert any(line == b"away\n" for line in process.stdout)
        time.sleep(0.3)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()

    with closing(Spool(tmp_path / "spool", 64 * MIB, (topic,))) as spool:
        torn = spool.drops().get((topic, "torn"), 0)
        kept = len(spool)
        numbers = Sequences("boot", (topic,), tmp_path / "sequence")
        publisher = Publisher(kafka.client, QUICK, spool=spool)
        next_number = numbers.take(topic)
        publisher.send(topic, b"rack", b"%d" % next_number)
        poll_until(publisher, lambda: len(spool) == 0 and publisher.queued == 0)
        publisher.close(10)
        numbers.close()

    found = [int(message.value().rstrip(b"\0")) for message in read(kafka.bootstrap, topic, kept + 1)]
    assert kept > 50
    assert torn <= 1
    assert found == [*range(kept), next_number]
    # the number was taken before the record was written: the kill may have come between the two
    assert kept + torn <= next_number <= kept + 1


def test_without_a_spool_a_full_memory_makes_the_caller_wait(nowhere: str) -> None:
    publisher = Publisher({"bootstrap.servers": nowhere}, PublisherSettings(queue_records=100))

    answers = [publisher.send("events", b"rack", b"x") for _ in range(101)]

    assert answers == [True] * 100 + [False]
    publisher.close(0)
    assert publisher.drops() == {("events", "no_spool"): 100}


def test_a_record_that_kafka_never_takes_is_dropped_with_a_reason_and_stops_nobody(
    kafka: Any, new_topic: Any, tmp_path: Path
) -> None:
    topic = new_topic("events", max_message_bytes="2000")
    with closing(Spool(tmp_path, 64 * MIB, (topic,))) as spool:
        spool.append(topic, b"rack", b"1" + os.urandom(5_000))  # the broker refuses
        spool.append(topic, b"rack", b"2")  # and this one with it: the limit is about the batch
        publisher = Publisher(kafka.client, QUICK, spool=spool)
        poll_until(publisher, lambda: len(spool) == 0)
        publisher.send(topic, b"rack", b"3" + bytes(2_000_000))  # librdkafka refuses
        publisher.send(topic, b"rack", b"4")
        poll_until(publisher, lambda: publisher.queued == 0)

        assert publisher.drops() == {(topic, "refused"): 2}
        publisher.close(5)

    assert [message.value() for message in read(kafka.bootstrap, topic, 2)] == [b"2", b"4"]


def test_numbers_start_again_with_a_boot_and_go_on_with_a_restart(tmp_path: Path) -> None:
    first = Sequences("boot-1", ("a", "b"), tmp_path / "sequence")
    assert [first.take("a"), first.take("a"), first.take("b")] == [0, 1, 0]
    first.close()

    restarted = Sequences("boot-1", ("a", "b"), tmp_path / "sequence")
    assert [restarted.take("a"), restarted.take("b")] == [2, 1]
    restarted.close()

    rebooted = Sequences("boot-2", ("a", "b"), tmp_path / "sequence")
    assert [rebooted.take("a"), rebooted.take("b")] == [0, 0]
    rebooted.close()


def test_records_for_a_topic_that_is_not_there_yet_wait_for_it(
    kafka: Any, unique: str, new_topic: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producers.publisher._BACKOFF_S", 0.5)
    late = f"{unique}.late"
    impatient = {**kafka.client, "topic.metadata.propagation.max.ms": 500, "allow.auto.create.topics": False}
    with closing(Spool(tmp_path, 64 * MIB, (late,))) as spool:
        publisher = Publisher(impatient, QUICK, spool=spool)
        for number in range(100):
            publisher.send(late, b"rack", b"%d" % number)
        poll_until(publisher, lambda: publisher.failed >= 100)
        assert new_topic("late") == late
        publisher.send(late, b"rack", b"100")
        poll_until(publisher, lambda: len(spool) == 0 and publisher.queued == 0)
        assert publisher.drops() == {}
        publisher.close(5)

    assert [int(message.value()) for message in read(kafka.bootstrap, late, 101)] == list(range(101))


def test_without_a_spool_a_topic_that_is_not_there_is_an_error_that_names_it(kafka: Any, unique: str) -> None:
    impatient = {**kafka.client, "topic.metadata.propagation.max.ms": 500, "allow.auto.create.topics": False}
    publisher = Publisher(impatient, QUICK)

    def send_until_it_is_known() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            publisher.send(f"{unique}.nowhere", b"rack", b"x")
            publisher.poll(0.05)

    with pytest.raises(PublishError, match=rf"{unique}\.nowhere"):
        send_until_it_is_known()
    publisher.close(0)
