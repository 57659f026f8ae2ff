"""How long the embedded servers take until a client has had its first answer: on an empty folder, and again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import clickhouse_connect
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from infra.clickhouse.launch import launched
from infra.kafka import EmbeddedKafka, kafka_jars
from tests.benchmarks.context import BenchmarkError, Context, on, quiet
from tests.benchmarks.table import Row

_PASSES = 3
_FETCHED_S = 3.0
"""Looking jars up takes less, fetching them more."""


def run(context: Context) -> Iterable[Row]:
    """Rows: each server's first and second start. They run on all cores, as for a user."""
    with on(context.cores.measured | context.cores.others), quiet(context.scratch / "servers.err"):
        yield from _server(context, "Kafka", _kafka, _jars(context))
        yield from _server(context, "ClickHouse", _clickhouse, "the engine comes with its package")


def _jars(context: Context) -> str:
    began = time.perf_counter()
    context.say("looking for Kafka's jars")
    kafka_jars(context.scratch / "jars")
    took_s = time.perf_counter() - began
    if took_s > _FETCHED_S:
        return f"jars fetched before, in {took_s:.1f} s"
    return f"jars were on this machine already, found in {took_s:.1f} s"


def _server(context: Context, name: str, start: Callable[[Path], float], about: str) -> Iterable[Row]:
    firsts, seconds = [], []
    for turn in range(_PASSES):
        context.say(f"{name}, pass {turn + 1} of {_PASSES}")
        folder = context.scratch / f"{name.lower()}-{turn}"
        firsts.append(start(folder))
        seconds.append(start(folder))
        shutil.rmtree(folder)
    for which, times, note in (("first", firsts, f"empty folder; {about}"), ("second", seconds, "same folder")):
        middle = sorted(times)[_PASSES // 2]
        spread = f"{min(times):.1f} to {max(times):.1f} s in {_PASSES} passes"
        yield Row(f"embedded {name}, {which} start until a client is answered", f"{middle:.1f} s", f"{note}; {spread}")


def _kafka(folder: Path) -> float:
    """Seconds until a record is acknowledged."""
    began = time.perf_counter()
    with EmbeddedKafka(folder) as broker:
        kafka = {"bootstrap.servers": broker.bootstrap, "log_level": 0}
        admin = AdminClient(kafka)
        if "first" not in admin.list_topics(timeout=10).topics:
            admin.create_topics([NewTopic("first", 1, 1)])["first"].result(10)
        producer = Producer(kafka)
        producer.produce("first", b"a record")
        if producer.flush(30):
            raise BenchmarkError("Kafka did not acknowledge a first record within 30 s")
        return time.perf_counter() - began


def _clickhouse(folder: Path) -> float:
    """Seconds until a query is answered."""
    began = time.perf_counter()
    with launched(folder) as server:
        client = clickhouse_connect.get_client(
            host=server.host, port=server.port, username=server.username, password=server.password
        )
        client.query("SELECT 1")
        took_s = time.perf_counter() - began
        client.close()
    return took_s
