"""Stream workers as processes, to be killed, and what Kafka holds, to be looked at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.codec import CodecError, SingleObjectCodec
from schemas.records import Record
from schemas.topics import topics
from streams.settings import StreamsSettings

ROOT = Path(__file__).parent.parent
CODEC = SingleObjectCodec()
_WORKER = """
import json, signal, sys, threading

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())

from pathlib import Path
from streams.settings import StreamsSettings
from streams.worker import run

beats = Path(sys.argv[2]) / "beats"
run(
    StreamsSettings.model_validate_json(sys.argv[3]),
    kafka=json.loads(sys.argv[1]),
    data_dir=Path(sys.argv[2]),
    stop=stop,
    beat=beats.touch,
)
"""

R = TypeVar("R", bound=Record)


class WorkerProcess:
    """`streams.worker.run` in a process of its own; what it says goes to `log`."""

    def __init__(
        self, bootstrap: str, data_dir: Path, settings: StreamsSettings, client: Mapping[str, str] | None = None
    ) -> None:
        """`client`: librdkafka settings beside the address."""
        kafka = {**(client or {}), "bootstrap.servers": bootstrap}
        data_dir.mkdir(parents=True, exist_ok=True)
        self.log, self.beats = data_dir / "worker.log", data_dir / "beats"
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _WORKER, json.dumps(kafka), str(data_dir), settings.model_dump_json()],
                cwd=ROOT,
                env=os.environ | {"POLARS_MAX_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def is_up(self) -> bool:
        """Whether its main loop turns."""
        return self.runs and self.beats.exists()

    def kill(self) -> None:
        """`kill -9`, as an accident would."""
        self._process.kill()
        self._process.wait()

    def stop(self, patience_s: float = 60) -> int:
        """Ask it to end, and wait; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(patience_s)

    def said(self) -> str:
        """All that it has said."""
        return self.log.read_text(errors="replace")


class Kafka:
    """A broker's topics, from outside."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "message.timeout.ms": 120_000,
                "log_level": 2,
            }
        )

    def send(self, topic: str, values: Iterable[tuple[str, Record | bytes]], partition: int | None = None) -> None:
        """Produce (key, record or bytes) and wait until all are in."""
        failed: list[Any] = []
        for key, value in values:
            body = CODEC.encode(value) if isinstance(value, Record) else value
            place = {} if partition is None else {"partition": partition}
            self._producer.produce(
                topic, body, key, on_delivery=lambda error, _: error is not None and failed.append(error), **place
            )
            self._producer.poll(0)
        assert self._producer.flush(120) == 0
        assert not failed, failed

    def ends(self, topic: str) -> dict[int, int]:
        """The offset behind the last message, by partition."""
        with self._onlooker() as consumer:
            there = consumer.list_topics(topic, timeout=30).topics[topic].partitions
            places = [TopicPartition(topic, number) for number in sorted(there)]
            return {at.partition: consumer.get_watermark_offsets(at, timeout=30)[1] for at in places}

    def messages(self, topic: str) -> list[Any]:
        """Every message of a topic now, partition by partition."""
        ends = self.ends(topic)
        found: list[Any] = []
        with self._onlooker() as consumer:
            for number, end in ends.items():
                consumer.assign([TopicPartition(topic, number, 0)])
                reached = 0
                while reached < end:
                    for one in consumer.consume(1000, timeout=0.1):
                        if one.error() is None:
                            found.append(one)
                            reached = one.offset() + 1
        return found

    @contextmanager
    def _onlooker(self, group: str = "onlooker") -> Iterator[Consumer]:
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": group, "enable.auto.commit": False, "log_level": 2}
        )
        try:
            yield consumer
        finally:
            consumer.close()

    def records(self, topic: str, kind: type[R]) -> list[R]:
        """Every record of a topic now; what is none is passed over."""
        found = []
        for one in self.messages(topic):
            with suppress(CodecError):
                found.append(CODEC.decode(one.value(), kind))
        return found

    def is_handled(self, group: str, *names: str) -> bool:
        """Whether a group has committed these topics to their ends."""
        for topic in names:
            stands = self.committed(group, topic)
            if any(stands[number] < end for number, end in self.ends(topic).items() if end):
                return False
        return True

    def shares(self, group: str) -> list[set[tuple[str, int]]]:
        """Topics and partitions of each member of a group that has any."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})
        described = admin.describe_consumer_groups([group])[group].result(30)
        shares = [{(at.topic, at.partition) for at in one.assignment.topic_partitions} for one in described.members]
        return [share for share in shares if share]

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """Where a group stands, by partition; -1001 where it has committed nothing."""
        with self._onlooker(group) as consumer:
            places = [TopicPartition(topic, number) for number in range(topics()[topic].partitions)]
            return {at.partition: at.offset for at in consumer.committed(places, timeout=30)}


def wait_until(condition: Callable[[], Any], what: str, patience_s: float = 120) -> Any:
    """The condition's value once it is true. Patience is for slow machines only: nothing is timed."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            if value := condition():
                return value
        except KafkaException:
            pass  # the broker is away for a moment
        if time.monotonic() > deadline:
            raise AssertionError(f"this did not come about: {what}")
        time.sleep(0.2)
