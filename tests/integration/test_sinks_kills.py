"""`kill -9` in the middle of the load: of the loader, of ClickHouse. Afterwards each sample is there exactly once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clickhouse_connect
import msgspec
import pytest
from confluent_kafka import Producer

from schemas import topics
from schemas.codec import SingleObjectCodec
from schemas.records import GpuSample

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
CODEC = SingleObjectCodec()
TICK_MS = 1_763_000_040_000
PARTITIONS = 3
GPUS = 4
TICKS = 2_400
EVERY_SAMPLE_ONCE = [(PARTITIONS * TICKS * GPUS,) * 3]

LOADER = """
import json, signal, sys, threading
from dataclasses import replace
import clickhouse_connect
from schemas import topics
from sinks import loader
from sinks.clickhouse.tables import ROUTES
from sinks.settings import LoaderSettings

given = json.loads(sys.argv[1])
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
loader.run(
    LoaderSettings(group=given["name"], database=given["name"], batch_age_ms=50, batch_records=100,
                   instance=given["name"], retry_max_seconds=0.5),
    kafka={"bootstrap.servers": given["bootstrap"]},
    connect=lambda: clickhouse_connect.get_client(**given["clickhouse"], autogenerate_session_id=False),
    stop=stop,
    beat=lambda: None,
    routes=[replace(route, topic=given["topic"]) for route in ROUTES if route.topic == topics.SAMPLES],
)
"""


class Load:
    """One topic that a loader process loads, and is killed while at it."""

    def __init__(self, kafka: Any, topic: str, name: str, clickhouse: dict[str, Any]) -> None:
        self._kafka = kafka
        self.topic = topic
        self._clickhouse = clickhouse
        self._arguments = msgspec.json.encode(
            {"name": name, "topic": topic, "bootstrap": kafka.bootstrap, "clickhouse": clickhouse}
        ).decode()
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    def produce(self) -> None:
        producer = Producer(self._kafka.client | {"enable.idempotence": True, "compression.type": "lz4"})
        for tick in range(TICKS):
            for partition in range(PARTITIONS):
                record = GpuSample(
                    site="site-1",
                    rack=f"rack-{partition}",
                    node=f"node-{partition}",
                    boot_id="boot-1",
                    sequence=tick,
                    tick_ms=TICK_MS + tick * 1000,
                    observed_ms=TICK_MS + tick * 1000,
                    gpus=[f"gpu-{partition}-{place}" for place in range(GPUS)],
                    gpu_index=list(range(GPUS)),
                    temperature_celsius=[60.0] * GPUS,
                )
                producer.produce(self.topic, CODEC.encode(record), partition=partition)
            producer.poll(0)
        assert producer.flush(60) == 0

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", LOADER, self._arguments], cwd=ROOT, stdout=subprocess.DEVNULL
        )

    def kill(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, "the loader died by itself"
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                assert self._process.wait(30) == 0
            finally:
                self._process.kill()
                self._process.wait()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        client = clickhouse_connect.get_client(**self._clickhouse)
        try:
            return [tuple(row) for row in client.query(query.replace("$", self._name)).result_rows]
        finally:
            client.close()

    def count(self) -> int:
        # the tables may not be there yet, the server may be away
        with contextlib.suppress(clickhouse_connect.driver.exceptions.Error, OSError):
            return int(self.rows("SELECT count() FROM $.gpu_samples")[0][0])
        return 0

    def wait_for_more_than(self, rows: int, seconds: float = 60) -> int:
        deadline = time.monotonic() + seconds
        while (count := self.count()) <= rows:
            assert time.monotonic() < deadline, f"{count} rows after {seconds} s, expected more than {rows}"
            time.sleep(0.02)
        return count

    def check(self) -> None:
        self.wait_for_more_than(EVERY_SAMPLE_ONCE[0][0] - 1)
        once = "SELECT count(), uniqExact(gpu, tick_at), (SELECT sum(samples) FROM $.gpu_minute) FROM $.gpu_samples"
        deadline = time.monotonic() + 20
        while (found := self.rows(once)) != EVERY_SAMPLE_ONCE and time.monotonic() < deadline:
            time.sleep(0.2)  # the roll-up of the last batch may be under way
        assert found == EVERY_SAMPLE_ONCE
        differing = self.rows(
            "SELECT count() FROM (SELECT gpu, minute, samples FROM $.gpu_minute) AS rolled "
            "FULL JOIN (SELECT gpu, toStartOfMinute(tick_at) AS minute, count() AS samples FROM $.gpu_samples "
            "GROUP BY gpu, minute) AS plain USING (gpu, minute) WHERE rolled.samples != plain.samples"
        )
        assert differing == [(0,)], "minute by minute"


@contextmanager
def load(kafka: Any, new_topic: Callable[..., str], name: str, clickhouse: dict[str, Any]) -> Iterator[Load]:
    made = Load(kafka, new_topic(topics.SAMPLES, partitions=PARTITIONS), name, clickhouse)
    made.produce()
    try:
        yield made
    finally:
        made.end()


def test_a_loader_killed_again_and_again_loses_and_doubles_nothing(
    kafka: Any, clickhouse: Any, new_topic: Callable[..., str], unique: str
) -> None:
    chance = random.Random(79)  # the moments differ anyway: processes race
    given = {
        "host": clickhouse.host,
        "port": clickhouse.port,
        "username": clickhouse.username,
        "password": clickhouse.password,
    }
    with load(kafka, new_topic, unique, given) as loading:
        rows = 0
        for _ in range(4):
            loading.start()
            rows = loading.wait_for_more_than(rows)
            time.sleep(chance.uniform(0, 0.25))
            loading.kill()
        assert 0 < rows < EVERY_SAMPLE_ONCE[0][0], "killed in the middle"
        loading.start()
        loading.check()
        client = clickhouse_connect.get_client(**given)
        client.command(f"DROP DATABASE {unique} SYNC")
        client.close()


class OwnClickHouse:
    """An embedded server of this test's own, to be killed and started again on the same folder and port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> dict[str, Any]:
        from infra.clickhouse.access import WRITER, writer_password

        self._process = subprocess.Popen(
            [sys.executable, "-m", "infra.clickhouse", "--data-dir", str(self._folder), "--port", str(self._port)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                given = {
                    "host": "127.0.0.1",
                    "port": self._port,
                    "username": WRITER,
                    "password": writer_password(self._folder / "writer.password"),
                }
                clickhouse_connect.get_client(**given).close()
                return given
            except (clickhouse_connect.driver.exceptions.Error, OSError):
                assert self._process.poll() is None, "the embedded ClickHouse did not start"
                assert time.monotonic() < deadline, "the embedded ClickHouse does not answer"
                time.sleep(0.1)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def test_a_clickhouse_killed_again_and_again_loses_and_doubles_nothing(
    kafka: Any, new_topic: Callable[..., str], unique: str, tmp_path: Path
) -> None:
    pytest.importorskip("chdb", reason="the embedded ClickHouse needs the `embedded` extra")
    chance = random.Random(48)
    server = OwnClickHouse(tmp_path / "clickhouse")
    try:
        with load(kafka, new_topic, unique, server.start()) as loading:
            loading.start()
            rows = 0
            for _ in range(3):
                rows = loading.wait_for_more_than(rows)
                time.sleep(chance.uniform(0, 0.3))
                server.kill()
                time.sleep(0.3)
                server.start()
            assert 0 < rows < EVERY_SAMPLE_ONCE[0][0], "killed in the middle"
            loading.check()
    finally:
        server.kill()
