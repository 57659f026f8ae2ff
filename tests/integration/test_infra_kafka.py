"""The embedded Kafka: a real broker that keeps what it is told, and that says clearly why it cannot start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra.errors import OperatorError
from infra.kafka import BrokerLimits, EmbeddedKafka
from infra.topics import provision, wanted

if TYPE_CHECKING:
    from tests.conftest import KafkaUnderTest

pytestmark = pytest.mark.integration


def _send(bootstrap: str, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "log_level": 0})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(20) == 0


def _read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        messages = consumer.consume(count, 20)
        return [message.value() for message in messages if not message.error()]
    finally:
        consumer.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """One broker that these tests kill, stop and start again."""
    with EmbeddedKafka(tmp_path_factory.mktemp("broker"), limits=BrokerLimits(brief=True)) as started:
        yield started


def test_records_survive_a_kill_and_a_restart_at_the_same_address(broker: EmbeddedKafka) -> None:
    bootstrap = broker.bootstrap
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(20)
    _send(bootstrap, "kept", [b"one", b"two"])
    broker.kill()
    assert broker.died() == -9
    broker.start()
    assert broker.bootstrap == bootstrap
    _send(bootstrap, "kept", [b"three"])
    broker.stop()
    broker.start()
    assert _read(bootstrap, "kept", 3) == [b"one", b"two", b"three"]


def test_a_second_start_needs_no_network(broker: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    import jgo

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    broker.stop()
    monkeypatch.setattr(jgo, "build", offline)
    broker.start()
    assert broker.pid is not None


def test_jars_that_cannot_be_fetched_are_said_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jgo

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(jgo, "build", offline)
    with pytest.raises(OperatorError, match="could not be fetched.*no network.*FLEETPULSE_KAFKA__BOOTSTRAP"):
        EmbeddedKafka(tmp_path).start()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=f"port {port} .asked for. is in use"):
            EmbeddedKafka(tmp_path, port=port).start()


def test_a_data_directory_serves_one_broker(broker: EmbeddedKafka) -> None:
    second = EmbeddedKafka(broker.log_path.parent, ready_seconds=1)
    with pytest.raises(OperatorError, match="another Kafka broker runs on"):
        second.start()
    assert broker.pid is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OperatorError, match="cannot keep Kafka's data"):
        EmbeddedKafka(tmp_path / "data").start()


def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(OperatorError, match="cannot keep Kafka's data in .*/data"):
        EmbeddedKafka(tmp_path / "data").start()


def test_a_broker_that_dies_at_the_start_shows_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="ended while it was starting.*\n(.*\n)*.*OutOfMemoryError"):
        EmbeddedKafka(tmp_path, limits=BrokerLimits(heap_mib=12)).start()


def test_settings_that_kafka_refuses_are_said_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="could not prepare .*segment.bytes"):
        EmbeddedKafka(tmp_path, limits=BrokerLimits(segment_mib=-1)).start()


def test_the_broker_ends_with_the_process_that_started_it_even_by_kill_9(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from infra.kafka import EmbeddedKafka\n"
        "broker = EmbeddedKafka(pathlib.Path(sys.argv[1])).start()\n"
        "print(broker.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(next(line for line in owner.stdout if line.strip().isdigit()))
        owner.kill()
    deadline = time.monotonic() + 15
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid)


def test_a_misspelt_topic_is_an_error_and_not_a_new_topic(broker: EmbeddedKafka) -> None:
    client = {"bootstrap.servers": broker.bootstrap, "log_level": 0}
    producer = Producer({**client, "message.timeout.ms": 3000})
    errors: list[object] = []
    producer.produce("gpu.sampels", b"x", on_delivery=lambda error, _: errors.append(error))
    producer.flush(10)
    assert len(errors) == 1
    assert errors[0] is not None
    admin = AdminClient(client)
    assert "gpu.sampels" not in admin.list_topics(timeout=10).topics


def test_topics_are_created_once_and_drift_is_told(kafka: KafkaUnderTest, topics: dict[str, object]) -> None:
    again = provision(kafka.client, wanted(retention_hours={"dead.letters": 1}))
    assert again.created == ()
    assert set(again.present) == set(topics)
    assert [str(drift) for drift in again.drift] == [
        "topic dead.letters: retention.ms is 604800000, the list asks for 3600000"
    ]
    more = {name: 8 for name, topic in wanted().items() if topic.key == "rack"}
    found = {drift.topic: (drift.found, drift.wanted) for drift in provision(kafka.client, wanted(more)).drift}
    assert found == dict.fromkeys(more, ("4", "8"))


def test_a_broker_that_is_away_is_named() -> None:
    with pytest.raises(OperatorError, match="no Kafka broker answers at 127.0.0.1:1 "):
        provision({"bootstrap.servers": "127.0.0.1:1"}, wanted(), timeout_seconds=1)
