"""Incidents to people over a real topic: told once, whatever fails or dies in between."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas import topics
from schemas.codec import SingleObjectCodec
from schemas.records import DeadLetter, Incident
from sinks import alerts
from sinks.outbox import deliveries
from sinks.settings import AlertSettings

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
CODEC = SingleObjectCodec()


def incident(number: int, **changes: Any) -> Incident:
    given = Incident(
        incident_id=f"incident-{number}",
        revision=1,
        state="open",
        page=True,
        site="s",
        racks=["rack-1"],
        root=f"gpu:{number}",
        root_fault_id=f"f-{number}",
        root_class="gpu_lost",
        title=f"GPU {number} fell off the bus",
        severity="critical",
        action="drain_and_diagnose",
        reason="XID 79",
        score=1.0,
        members=[],
        evidence=["Xid 79"],
        first_ms=1_000,
        last_ms=1_000,
        observed_ms=time.time_ns() // 1_000_000,
        decided_ms=2_000,
    )
    return msgspec.structs.replace(given, **changes)


class Receiver:
    """A pager: an HTTP server that can be told to fail."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.fail_with: dict[str, int] = {}
        """Incident id to the answer it gets, `*` for all."""
        self.fail_times: dict[str, int] = {}
        """Incident id to how often it fails before it is taken."""
        self.attempts: Counter[str] = Counter()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(receiver.answer(body))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def answer(self, body: dict[str, Any]) -> int:
        key = body["dedup_key"]
        self.attempts[key] += 1
        if self.attempts[key] <= self.fail_times.get(key, 0):
            return 503
        code = self.fail_with.get(key) or self.fail_with.get("*")
        if code:
            return code
        self.got.append(body)
        return 200

    def noticed(self, notice: str = "page") -> list[str]:
        return sorted(body["dedup_key"] for body in self.got if body["notice"] == notice)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def topic(new_topic: Callable[..., str]) -> str:
    return new_topic(topics.INCIDENTS)


def publish(kafka: Any, topic: str, *values: Incident | bytes) -> None:
    producer = Producer(kafka.client)
    for value in values:
        producer.produce(topic, value if isinstance(value, bytes) else CODEC.encode(value), key=b"s")
    assert producer.flush(30) == 0


def settings(group: str, url: str, **webhook: Any) -> dict[str, Any]:
    channels = {"console": {}, "webhook": {"url": url, "timeout_seconds": 2, **webhook}}
    return {"group": group, "channels": channels, "retry_first_seconds": 0.1, "retry_max_seconds": 0.5}


def wait_until(true: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@contextmanager
def alerting(kafka: Any, topic: str, data_dir: Path, given: dict[str, Any]) -> Iterator[None]:
    stop, failures = threading.Event(), []

    def work() -> None:
        try:
            alerts.run(
                AlertSettings.model_validate(given),
                kafka=dict(kafka.client),
                data_dir=data_dir,
                stop=stop,
                beat=lambda: None,
                topic=topic,
            )
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        if failures:
            raise failures[0]


def told(data_dir: Path, channel: str, kind: str = "page") -> list[str]:
    return [found.incident_id for found in deliveries(data_dir) if (found.channel, found.kind) == (channel, kind)]


def test_an_incident_is_told_once_to_every_channel_however_often_its_record_comes(
    kafka: Any, topic: str, unique: str, tmp_path: Path, receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    quiet = incident(2, page=False)
    later = incident(1, revision=2, page=False, state="updated")
    publish(kafka, topic, incident(1), incident(1), quiet, later, incident(1), incident(3))
    with alerting(kafka, topic, tmp_path, settings(unique, receiver.url)):
        wait_until(lambda: len(receiver.got) == 2 and len(told(tmp_path, "console")) == 2, "two pages")
        publish(kafka, topic, incident(1), incident(3), incident(4))
        wait_until(lambda: len(receiver.got) == 3 and len(told(tmp_path, "console")) == 3, "one more")
    assert receiver.noticed() == ["incident-1", "incident-3", "incident-4"]
    printed = capfd.readouterr().out
    assert printed.count("▲ CRITICAL GPU 1 fell off the bus") == 1
    assert "GPU 2 fell off" not in printed
    (first,) = [
        found for found in deliveries(tmp_path) if (found.incident_id, found.channel) == ("incident-1", "console")
    ]
    assert first.title == "GPU 1 fell off the bus"
    assert 0 < first.delay_ms < 60_000


def test_a_webhook_that_fails_holds_back_neither_the_console_nor_other_incidents(
    kafka: Any, topic: str, unique: str, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.fail_times = {"incident-1": 4}
    receiver.fail_with = {"incident-2": 404}
    publish(kafka, topic, incident(1), incident(2), incident(3))
    with alerting(kafka, topic, tmp_path, settings(unique, receiver.url, refusals=3)):
        wait_until(lambda: len(told(tmp_path, "console")) == 3, "the console took all")
        wait_until(lambda: receiver.noticed() == ["incident-1", "incident-3"], "the webhook took what it can")
        wait_until(lambda: receiver.attempts["incident-2"] == 3, "the refused one was tried three times")
        time.sleep(1)
    assert [body["dedup_key"] for body in receiver.got] == ["incident-3", "incident-1"]
    assert receiver.attempts["incident-1"] == 5
    assert receiver.attempts["incident-2"] == 3, "given up"


def test_the_end_of_an_incident_is_told_where_asked_for(
    kafka: Any, topic: str, unique: str, tmp_path: Path, receiver: Receiver
) -> None:
    cleared = incident(1, revision=2, page=False, state="cleared", cleared_ms=5_000)
    publish(kafka, topic, incident(1), cleared, cleared, incident(2))
    with alerting(kafka, topic, tmp_path, settings(unique, receiver.url, resolve=True)):
        wait_until(lambda: len(receiver.got) == 3 and len(told(tmp_path, "console")) == 2, "two pages, one end")
        time.sleep(0.3)
    assert receiver.noticed("page") == ["incident-1", "incident-2"]
    assert receiver.noticed("resolve") == ["incident-1"]
    assert told(tmp_path, "console", "resolve") == [], "the console was not asked to"


def test_bytes_that_are_no_incident_go_to_the_dead_letters_and_the_next_is_told(
    kafka: Any, topics: Any, topic: str, unique: str, tmp_path: Path, receiver: Receiver
) -> None:
    publish(kafka, topic, b"garbage", incident(1))
    with alerting(kafka, topic, tmp_path, settings(unique, receiver.url)):
        wait_until(lambda: receiver.noticed() == ["incident-1"], "the incident")
    consumer = Consumer(kafka.client | {"group.id": unique})
    consumer.assign([TopicPartition("dead.letters", 0, 0)])
    letters = []
    deadline = time.monotonic() + 20
    while not letters and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            letter = CODEC.decode(message.value(), DeadLetter)
            letters += [letter] if letter.topic == topic else []
    consumer.close()
    assert [(letter.offset, letter.reason, letter.reader, letter.value) for letter in letters] == [
        (0, "not_avro", "sinks.alerts", b"garbage")
    ]


ALERTS = """
import json, sys, threading
from pathlib import Path
from sinks import alerts
from sinks.settings import AlertSettings

given = json.loads(sys.argv[1])
alerts.run(
    AlertSettings.model_validate(given["settings"]),
    kafka={"bootstrap.servers": given["bootstrap"], "session.timeout.ms": 6000},
    data_dir=Path(given["data_dir"]),
    stop=threading.Event(),
    beat=lambda: None,
    topic=given["topic"],
)
"""


def test_alerts_killed_before_and_after_a_delivery_tell_each_incident_once(
    kafka: Any, topic: str, unique: str, tmp_path: Path, receiver: Receiver
) -> None:
    arguments = msgspec.json.encode(
        {
            "settings": settings(unique, receiver.url),
            "bootstrap": kafka.bootstrap,
            "data_dir": str(tmp_path),
            "topic": topic,
        }
    ).decode()

    @contextmanager
    def killed() -> Iterator[None]:
        process = subprocess.Popen([sys.executable, "-c", ALERTS, arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            yield
            assert process.poll() is None, "it died by itself"
        finally:
            process.kill()
            process.wait()

    publish(kafka, topic, *(incident(number) for number in range(20)))
    receiver.fail_with = {"*": 503}
    with killed():
        wait_until(lambda: len(receiver.attempts) == 20, "every incident was tried")
    assert receiver.got == [], "killed before any delivery"
    receiver.fail_with = {}
    with killed():
        wait_until(lambda: len(receiver.got) >= 5, "some were delivered")
    # killed between a delivery and its note: that one comes again, with the same key
    with killed():
        wait_until(lambda: len(set(receiver.noticed())) == 20, "all were delivered")
        wait_until(lambda: len(told(tmp_path, "webhook")) == 20, "and noted")
    repeated = len(receiver.got) - 20
    assert repeated <= 2, "at most the one under way at each kill"
    publish(kafka, topic, *(incident(number) for number in range(20)), incident(99))
    with killed():
        wait_until(lambda: "incident-99" in receiver.noticed(), "the new one")
        time.sleep(0.5)
    assert len(receiver.got) == 21 + repeated, "what was told is not told again"
