"""Kafka into ClickHouse on the real parts: garbage, rebalances, outages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import clickhouse_connect
import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas import registry, topics
from schemas.codec import MARKER, SingleObjectCodec
from schemas.records import DeadLetter, FacilitySample, GpuCounters, GpuSample, HardwareEvent, NodeSample, Point, Port
from sinks import loader
from sinks.clickhouse.tables import ROUTES, Route
from sinks.settings import LoaderSettings
from tests.sinks_scenes import counters, device, host

pytestmark = pytest.mark.integration

CODEC = SingleObjectCodec()
TICK_MS = 1_763_000_040_000
GPUS = 2


def sample(node: int, tick: int, **changes: Any) -> GpuSample:
    given = GpuSample(
        site="site-1",
        rack=f"rack-{node}",
        node=f"node-{node}",
        boot_id="boot-1",
        sequence=tick,
        tick_ms=TICK_MS + tick * 1000,
        observed_ms=TICK_MS + tick * 1000 + 25,
        gpus=[f"gpu-{node}-{place}" for place in range(GPUS)],
        gpu_index=list(range(GPUS)),
        temperature_celsius=[60.0] * GPUS,
    )
    return msgspec.structs.replace(given, **changes)


def event(number: int) -> HardwareEvent:
    return HardwareEvent(
        event_id=f"event-{number}",
        site="s",
        rack="r",
        node="n",
        boot_id="b",
        sequence=number,
        event_ms=TICK_MS + number,
        observed_ms=TICK_MS,
        source="kernel_log",
        kind="xid",
        severity="info",
    )


class Pipeline:
    """Topics, a database and loaders of one test."""

    def __init__(self, kafka: Any, clickhouse: Any, name: str, routes: Sequence[Route]) -> None:
        self.kafka = dict(kafka.client)
        self._clickhouse = clickhouse
        self.name = name
        self.routes = tuple(routes)
        self.topic = {route.kind: route.topic for route in routes}
        self.refuse_connections = threading.Event()
        self.failures: list[BaseException] = []
        self._producer = Producer(self.kafka | {"enable.idempotence": True, "linger.ms": 5})
        self.client = self.connect()

    def connect(self) -> Any:
        if self.refuse_connections.is_set():
            raise ConnectionRefusedError("nobody listens")
        given = self._clickhouse
        return clickhouse_connect.get_client(
            host=given.host, port=given.port, username=given.username, password=given.password,
            autogenerate_session_id=False,
        )  # fmt: skip

    def settings(self, **changes: Any) -> LoaderSettings:
        given = {"group": self.name, "database": self.name, "batch_age_ms": 100, "retry_max_seconds": 0.5}
        return LoaderSettings.model_validate(given | changes)

    @contextmanager
    def loading(self, **settings: Any) -> Iterator[threading.Event]:
        """A loader at work; what it raises, the test raises."""
        stop, failures, beats = threading.Event(), self.failures, []

        def work() -> None:
            try:
                loader.run(
                    self.settings(**settings),
                    kafka=self.kafka,
                    connect=self.connect,
                    stop=stop,
                    beat=lambda: beats.append(time.monotonic()),
                    routes=self.routes,
                )
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield stop
        finally:
            stop.set()
            thread.join(60)
            if failures:
                raise failures[0]
        # once a second is asked for; a loaded machine may stretch that
        gaps = [after - before for before, after in pairwise(beats)]
        assert max(gaps, default=0) < 5.0, "the loop kept beating"

    def send(self, kind: type, values: Sequence[bytes | None], partition: int = 0) -> None:
        for value in values:
            self._producer.produce(self.topic[kind], value, key=b"rack", partition=partition)
            self._producer.poll(0)
        assert self._producer.flush(30) == 0

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.client.query(query.replace("$", self.name)).result_rows]

    def wait_for(self, query: str, wanted: list[tuple[Any, ...]], seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        found: Any = None
        while time.monotonic() < deadline and not self.failures:
            try:
                found = self.rows(query)
            except clickhouse_connect.driver.exceptions.DatabaseError as error:
                found = error  # the tables are not there yet
            if found == wanted:
                return
            time.sleep(0.1)
        pytest.fail(f"after {seconds} s {query} gives {found}, expected {wanted}")

    def committed(self, kind: type, partition: int = 0) -> tuple[int, str]:
        consumer = Consumer(self.kafka | {"group.id": self.name})
        try:
            (found,) = consumer.committed([TopicPartition(self.topic[kind], partition)], timeout=10)
            return found.offset, found.metadata or ""
        finally:
            consumer.close()

    def close(self) -> None:
        self._producer.close()
        self.client.command(f"DROP DATABASE IF EXISTS {self.name} SYNC")
        self.client.close()


@pytest.fixture
def pipeline(
    kafka: Any, clickhouse: Any, unique: str, new_topic: Callable[..., str]
) -> Iterator[Callable[..., Pipeline]]:
    """`pipeline(partitions=2, only=[…])`: the contract's topics under names of this test's own."""
    with ExitStack() as stack:

        def make(partitions: int = 1, only: Sequence[str] = (topics.SAMPLES, topics.DEAD_LETTERS)) -> Pipeline:
            routes = [
                replace(route, topic=new_topic(route.topic, partitions=partitions))
                for route in ROUTES
                if route.topic in only
            ]
            made = Pipeline(kafka, clickhouse, unique, routes)
            stack.callback(made.close)
            return made

        yield make


EVERY_SAMPLE_ONCE = (
    "SELECT count(), uniqExact(gpu, tick_at), (SELECT sum(samples) FROM $.gpu_minute) FROM $.gpu_samples"
)


def test_every_topic_ends_in_its_table_and_the_offsets_say_so(pipeline: Callable[..., Pipeline]) -> None:
    pipe = pipeline(only=[route.topic for route in ROUTES])
    with pipe.loading():
        pipe.send(GpuSample, [CODEC.encode(sample(0, tick)) for tick in range(20)])
        pipe.send(HardwareEvent, [CODEC.encode(event(number)) for number in range(5)])
        pipe.wait_for(EVERY_SAMPLE_ONCE, [(40, 40, 40)])
        pipe.wait_for("SELECT count() FROM $.hardware_events", [(5,)])
    assert pipe.committed(GpuSample) == (20, "")
    assert pipe.committed(HardwareEvent) == (5, "")


def test_what_cannot_be_used_goes_to_the_dead_letters_and_all_its_neighbours_go_in(
    pipeline: Callable[..., Pipeline],
) -> None:
    pipe = pipeline()
    good = CODEC.encode(sample(0, 0))
    bad: dict[int, tuple[bytes | None, str]] = {
        3: (b"hello", "not_avro"),
        4: (None, "not_avro"),
        50: (MARKER + b"\x01\x02\x03\x04\x05\x06\x07\x08" + good[10:], "unknown_schema"),
        51: (good[:-7], "truncated"),
        52: (good + b"\x00\x00", "trailing_bytes"),
        70: (CODEC.encode(event(1)), "wrong_record"),
        71: (CODEC.encode(sample(0, 71, temperature_celsius=[1.0, 2.0, 3.0])), "wrong_gpu_count"),
        99: (CODEC.encode(sample(0, 99, tick_ms=4_102_444_800_000)), "time_in_future"),
    }
    values = [bad[tick][0] if tick in bad else CODEC.encode(sample(0, tick)) for tick in range(120)]
    pipe.send(GpuSample, values)
    neighbours = 120 - len(bad)
    with pipe.loading():
        pipe.wait_for(EVERY_SAMPLE_ONCE, [(neighbours * GPUS,) * 3])
        pipe.wait_for("SELECT count() FROM $.dead_letters", [(len(bad),)])
    letters = pipe.rows(
        "SELECT `offset`, reasons[1], readers[1], topic, length(value) FROM $.dead_letters ORDER BY `offset`"
    )
    assert letters == [
        (at, reason, "sinks.loader", pipe.topic[GpuSample], len(value or b"")) for at, (value, reason) in bad.items()
    ]
    (detail,) = pipe.rows("SELECT details[1] FROM $.dead_letters WHERE `offset` = 99")
    assert detail == ("ClickHouse: found tick_ms = 4102444800000",)
    assert pipe.committed(GpuSample) == (120, "")


def test_counters_hosts_and_devices_go_the_same_way_and_a_broken_one_says_why(
    pipeline: Callable[..., Pipeline],
) -> None:
    kept = (topics.COUNTERS, topics.NODE_SAMPLES, topics.FACILITY, topics.DEAD_LETTERS)
    pipe = pipeline(only=kept)
    read = [counters("a", reading, nvlink_link_active=[[1.0, 0.0]]) for reading in range(20)]
    read[7] = counters("a", 7, nvlink_link_active=[[1.0, 0.0]], nvlink_link_replays=[[0.0]])
    pipe.send(GpuCounters, [CODEC.encode(record) for record in read])
    ports = [Port(device="mlx5_0", port=1)]
    pipe.send(NodeSample, [CODEC.encode(host("a", at, uptime_s=1.0, ports=ports)) for at in range(20)])
    pipe.send(FacilitySample, [CODEC.encode(device("a", at, Point(name="f", unit="rpm"))) for at in range(20)])
    with pipe.loading():
        pipe.wait_for("SELECT count(), uniqExact(tick_at) FROM $.gpu_counter_history", [(19, 19)])
        pipe.wait_for("SELECT count() FROM $.nvlink_links FINAL", [(38,)])
        pipe.wait_for("SELECT count() FROM $.node_history", [(20,)])
        pipe.wait_for("SELECT count() FROM $.port_history", [(20,)])
        pipe.wait_for("SELECT count() FROM $.facility_history", [(20,)])
        pipe.wait_for("SELECT `offset`, reasons FROM $.dead_letters", [(7, ["wrong_link_count"])])


def test_a_flood_of_records_that_clickhouse_rejects_is_sorted_out(pipeline: Callable[..., Pipeline]) -> None:
    pipe = pipeline()
    values = [CODEC.encode(sample(0, tick, power_watts=[1.0] if tick % 7 == 0 else [])) for tick in range(70)]
    pipe.send(GpuSample, values)
    with pipe.loading():
        pipe.wait_for("SELECT count() FROM $.dead_letters WHERE reasons = ['wrong_gpu_count']", [(10,)])
        pipe.wait_for(EVERY_SAMPLE_ONCE, [(120, 120, 120)])


def test_garbage_among_the_dead_letters_does_not_go_round_in_circles(pipeline: Callable[..., Pipeline]) -> None:
    pipe = pipeline()
    letter = DeadLetter(
        topic="t", partition=0, offset=1, reason="r", detail="d", reader="x", value=b"v", observed_ms=TICK_MS
    )
    pipe.send(DeadLetter, [b"garbage", CODEC.encode(letter)])
    with pipe.loading():
        pipe.wait_for("SELECT topic, reasons FROM $.dead_letters", [("t", ["r"])])
        time.sleep(0.5)
    assert pipe.committed(DeadLetter) == (2, ""), "no letter about the letter"


def test_records_of_an_earlier_schema_and_of_the_current_one_share_a_topic(
    pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = msgspec.json.decode((registry.FOLDER / "gpu.samples.avsc").read_bytes())
    document["fields"] = [field for field in document["fields"] if field["name"] not in ("interval_ms", "power_watts")]
    earlier = registry.parse(msgspec.json.encode(document), current=False)
    known = {**registry.known(), earlier.fingerprint: earlier}
    monkeypatch.setattr(registry, "known", lambda: known)

    def old(tick: int) -> bytes:
        import io

        import fastavro

        body = io.BytesIO()
        fastavro.schemaless_writer(body, earlier.parsed, msgspec.to_builtins(sample(0, tick)))
        return MARKER + earlier.fingerprint + body.getvalue()

    pipe = pipeline()
    values = [old(tick) if tick % 10 < 5 else CODEC.encode(sample(0, tick, interval_ms=500)) for tick in range(100)]
    pipe.send(GpuSample, values)
    with pipe.loading():
        pipe.wait_for(EVERY_SAMPLE_ONCE, [(200, 200, 200)])
    assert pipe.rows("SELECT interval_ms, count() FROM $.gpu_samples GROUP BY 1 ORDER BY 1") == [
        (500, 100),
        (1000, 100),
    ]


def test_loaders_that_come_and_go_share_the_work_and_double_nothing(pipeline: Callable[..., Pipeline]) -> None:
    pipe = pipeline(partitions=4, only=[topics.SAMPLES])
    small = {"batch_records": 40}

    def send(ticks: range) -> None:
        for node in range(4):
            pipe.send(GpuSample, [CODEC.encode(sample(node, tick)) for tick in ticks], partition=node)

    with pipe.loading(**small):
        send(range(300))
        with pipe.loading(**small):
            send(range(300, 600))
            pipe.wait_for("SELECT count() > 2000 FROM $.gpu_samples", [(True,)])
            with pipe.loading(**small):
                send(range(600, 900))
        send(range(900, 1200))
        pipe.wait_for("SELECT count() FROM $.gpu_samples", [(4 * 1200 * GPUS,)])
    assert pipe.rows(EVERY_SAMPLE_ONCE) == [(4 * 1200 * GPUS,) * 3]


def test_clickhouse_being_away_at_the_start_is_waited_out(
    pipeline: Callable[..., Pipeline], capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = pipeline()
    pipe.send(GpuSample, [CODEC.encode(sample(0, tick)) for tick in range(10)])
    pipe.refuse_connections.set()
    with pipe.loading():
        time.sleep(1.2)
        assert pipe.committed(GpuSample)[0] < 0
        pipe.refuse_connections.clear()
        pipe.wait_for(EVERY_SAMPLE_ONCE, [(20, 20, 20)])
    said = capsys.readouterr().out
    assert said.count("ClickHouse did not take a batch") == 1
    assert said.count("ClickHouse takes batches again") == 1


def test_a_table_that_fails_keeps_no_other_topic_waiting_and_loses_nothing(pipeline: Callable[..., Pipeline]) -> None:
    pipe = pipeline(only=[topics.SAMPLES, topics.EVENTS])
    with pipe.loading(batch_records=50):
        pipe.send(GpuSample, [CODEC.encode(sample(0, 0))])
        pipe.wait_for(EVERY_SAMPLE_ONCE, [(2, 2, 2)])
        pipe.client.command(f"RENAME TABLE {pipe.name}.gpu_samples TO {pipe.name}.gone")
        pipe.send(GpuSample, [CODEC.encode(sample(0, tick)) for tick in range(1, 1000)])
        pipe.send(HardwareEvent, [CODEC.encode(event(number)) for number in range(100)])
        pipe.wait_for("SELECT count() FROM $.hardware_events", [(100,)])
        pipe.client.command(f"RENAME TABLE {pipe.name}.gone TO {pipe.name}.gpu_samples")
        pipe.wait_for(EVERY_SAMPLE_ONCE, [(2000, 2000, 2000)])


def test_a_topic_made_anew_is_loaded_from_its_begin(pipeline: Callable[..., Pipeline], kafka: Any) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    pipe = pipeline()
    pipe.send(GpuSample, [CODEC.encode(sample(0, tick)) for tick in range(10)])
    with pipe.loading():
        pipe.wait_for(EVERY_SAMPLE_ONCE, [(20, 20, 20)])
    admin = AdminClient(kafka.client)
    admin.delete_topics([pipe.topic[GpuSample]])[pipe.topic[GpuSample]].result(30)
    deadline = time.monotonic() + 30
    while pipe.topic[GpuSample] in admin.list_topics(timeout=5).topics and time.monotonic() < deadline:
        time.sleep(0.1)
    admin.create_topics([NewTopic(pipe.topic[GpuSample], 1, 1)])[pipe.topic[GpuSample]].result(30)
    # the same offsets as before: were the topic's id not in the token, ClickHouse would drop them as repeated
    pipe.send(GpuSample, [CODEC.encode(sample(1, tick)) for tick in range(10)])
    with pipe.loading():
        pipe.wait_for(EVERY_SAMPLE_ONCE, [(40, 40, 40)])
