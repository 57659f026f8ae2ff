from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from producers import simulate
from producers.agent import run
from producers.settings import AgentSettings, PublisherSettings, RackSpec, SimulateSettings
from producers.simulate.nvml import SimulatedNvml
from schemas.codec import SingleObjectCodec
from schemas.records import GpuSample, HardwareEvent, InventoryRecord, Record
from schemas.topics import EVENTS, INVENTORY, SAMPLES

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
XID = "NVRM: Xid (PCI:0000:19:00): 79, pid=1234, name=python3, GPU has fallen off the bus.\n"
CODEC = SingleObjectCodec()


KINDS: dict[str, Any] = {SAMPLES: GpuSample, EVENTS: HardwareEvent, INVENTORY: InventoryRecord}


class Reader:
    """What lies in the contract's topics of one rack or site."""

    def __init__(self, bootstrap: str, belongs: Callable[[Any], bool]) -> None:
        self._belongs = belongs
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "log_level": 0})
        known = self._consumer.list_topics(timeout=20).topics
        self._consumer.assign(
            [
                TopicPartition(topic, partition, OFFSET_BEGINNING)
                for topic in KINDS
                for partition in known[topic].partitions
            ]
        )
        self.records: list[Record] = []
        self.keys: set[tuple[str, bytes]] = set()

    def until(self, done: Callable[[], bool], timeout_s: float = 20) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, Counter(getattr(r, "kind", "sample") for r in self.records)
            for message in self._consumer.consume(1000, 0.1):
                assert message.error() is None, message.error()
                record = CODEC.decode(message.value(), KINDS[message.topic()])
                if self._belongs(record):
                    self.records.append(record)
                    self.keys.add((message.topic(), message.key()))

    def events(self, kind: str) -> list[HardwareEvent]:
        return [record for record in self.records if isinstance(record, HardwareEvent) and record.kind == kind]

    def samples(self) -> list[GpuSample]:
        return [record for record in self.records if isinstance(record, GpuSample)]

    def inventory(self) -> list[InventoryRecord]:
        return [record for record in self.records if isinstance(record, InventoryRecord)]

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def reader(kafka: Any, topics: Any, unique: str) -> Iterator[Reader]:
    reader = Reader(kafka.bootstrap, lambda record: unique in (record.rack, record.site))
    yield reader
    reader.close()


@contextmanager
def running(body: Callable[[threading.Event, Callable[[], None]], None]) -> Iterator[list[float]]:
    """Runs a process body in a thread; gives the moments of its beats, and hands on what it raised."""
    stop, beats, failed = threading.Event(), [], []

    def guarded() -> None:
        try:
            body(stop, lambda: beats.append(time.monotonic()))
        except BaseException as error:  # noqa: BLE001 - handed on below
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield beats
    finally:
        stop.set()
        thread.join(30)
        if failed:
            raise failed[0]
    assert not thread.is_alive()


def test_an_agent_sends_samples_events_and_inventory_and_says_when_it_starts_and_stops(
    kafka: Any, reader: Reader, unique: str, tmp_path: Path
) -> None:
    kernel_log = tmp_path / "kern.log"
    kernel_log.write_text("an old line\n" + XID)
    settings = AgentSettings(
        rack=unique, node="node-1", state_dir=tmp_path / "state", kernel_logs=(kernel_log,), interval_ms=200
    )
    nvml = SimulatedNvml(gpus=8)

    with running(lambda stop, beat: run(settings, kafka=kafka.client, stop=stop, beat=beat, nvml=nvml)) as beats:
        reader.until(lambda: len(reader.samples()) >= 5 and len(reader.inventory()) > len(nvml.gpus))
        with kernel_log.open("a") as file:
            file.write(XID)
        nvml.gpus[0].lost = True
        reader.until(lambda: bool(reader.events("xid") and reader.events("gpu_lost")))
        said = time.time_ns() // 1_000_000
    reader.until(lambda: bool(reader.events("agent_stopped")))

    (xid,) = reader.events("xid")
    (lost,) = reader.events("gpu_lost")
    assert (xid.code, xid.gpu, xid.node, xid.rack) == (79, nvml.gpus[0].serial, "node-1", unique)
    assert xid.gpu == lost.gpu, "the kernel log and NVML mean the same GPU"
    assert abs(said - xid.observed_ms) < 5000
    assert len(reader.events("agent_started")) == 1
    assert [sample.sequence for sample in reader.samples()] == list(range(len(reader.samples())))
    assert all(sample.tick_ms % 200 == 0 for sample in reader.samples())
    inventory = reader.inventory()
    assert {record.component for record in inventory} == {
        "node:node-1",
        *(f"gpu:{gpu.serial}" for gpu in nvml.gpus),
    }
    assert (SAMPLES, unique.encode()) in reader.keys
    assert (EVENTS, unique.encode()) in reader.keys
    assert (INVENTORY, b"node:node-1") in reader.keys
    assert max(later - earlier for earlier, later in pairwise(beats)) < 1


def test_a_machine_without_a_gpu_sends_events_only(kafka: Any, reader: Reader, unique: str, tmp_path: Path) -> None:
    kernel_log = tmp_path / "kern.log"
    kernel_log.write_text("")
    settings = AgentSettings(rack=unique, node="node-1", state_dir=tmp_path / "state", kernel_logs=(kernel_log,))
    nvml = SimulatedNvml(gpus=0)
    nvml.driver_error = 12

    with running(lambda stop, beat: run(settings, kafka=kafka.client, stop=stop, beat=beat, nvml=nvml)):
        # with the inventory the driver has been asked, and the kernel log was opened before it
        reader.until(lambda: any(isinstance(record, InventoryRecord) for record in reader.records))
        time.sleep(0.5)
        with kernel_log.open("a") as file:
            file.write(XID)
        reader.until(lambda: bool(reader.events("xid")))

    assert reader.samples() == []


def test_a_kernel_line_is_not_lost_when_the_agent_is_killed_while_the_broker_is_away(
    kafka: Any, reader: Reader, unique: str, tmp_path: Path
) -> None:
    """Killed with the event read and not sent: it is on disk, or the log is read again from where it was safe."""
    kernel_log = tmp_path / "kern.log"
    kernel_log.write_text("")
    script = textwrap.dedent(f"""
        import sys, threading
        from pathlib import Path
        from producers.agent import run
        from producers.settings import AgentSettings
        from producers.simulate.nvml import SimulatedNvml
        settings = AgentSettings(
            rack={unique!r}, node="node-1", state_dir=Path({str(tmp_path / "state")!r}), interval_ms=200,
            kernel_logs=(Path({str(kernel_log)!r}),), kernel_log_interval_ms=50,
        )
        beats = 0
        def beat():
            global beats
            beats += 1
            if beats == 10:
                print("beating", flush=True)
        kafka = {{"bootstrap.servers": sys.argv[1]}}
        run(settings, kafka=kafka, stop=threading.Event(), beat=beat, nvml=SimulatedNvml(2))
    """)
    numbers = list(range(20))
    for turn, bootstrap in enumerate(["127.0.0.1:1", "127.0.0.1:1", kafka.bootstrap]):
        process = subprocess.Popen([sys.executable, "-c", script, bootstrap], stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        try:
            assert any(line == b"beating\n" for line in process.stdout)
            if turn < 2:
                for number in numbers[turn * 10 : turn * 10 + 10]:
                    with kernel_log.open("a") as file:
                        # each on a GPU of its own: repeats of one would come as a counted summary
                        line = re.sub(r"PCI:0000:\w\w", f"PCI:0000:{16 + number:02x}", XID)
                        file.write(line.replace("1234", str(5000 + number)))
                    time.sleep(0.03)
            else:
                reader.until(lambda: len({event.raw for event in reader.events("xid")}) == len(numbers))
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()

    found = reader.events("xid")
    assert {event.details["pid"] for event in found} == {str(5000 + number) for number in numbers}
    assert len({event.event_id for event in found}) == len(numbers), "a line that comes twice is the same event"
    assert reader.events("records_dropped") == []


def test_the_simulated_fleet_plays_its_script_into_kafka(
    kafka: Any, reader: Reader, unique: str, tmp_path: Path
) -> None:
    truth_path = tmp_path / "truth.jsonl"
    settings = SimulateSettings(
        site=unique,
        racks=(RackSpec(kind="hgx", racks=2, nodes=2), RackSpec(kind="nvl72", racks=2, nodes=3)),
        duration_s=60,
        warmup_s=5,
        speed=0,
        truth_path=truth_path,
    )

    with running(lambda stop, beat: simulate.run(settings, kafka=kafka.client, stop=stop, beat=beat)):
        reader.until(lambda: truth_path.exists() and len(reader.samples()) >= 60 * 10 - (60 - 18))

    samples, events = reader.samples(), reader.events("xid")
    truth = [msgspec.json.decode(line) for line in truth_path.read_bytes().splitlines()]
    silent = next(one for one in truth if one["fault"] == "node_goes_silent")
    lost = next(one for one in truth if one["fault"] == "gpu_falls_off_bus")
    assert {one["fault"] for one in truth} == set(settings.faults)
    for node in {sample.node for sample in samples}:
        own = [sample for sample in samples if sample.node == node]
        ticks = 60 if node != silent["node"] else (silent["first_observable_ms"] - own[0].tick_ms) // 1000
        assert [sample.sequence for sample in own] == list(range(ticks)), node
    reader.until(lambda: bool(reader.events("gpu_lost")))
    (fell,) = [event for event in events if event.code == 79]
    assert (fell.gpu, fell.event_ms) == (lost["gpu"], lost["start_ms"])
    assert [event.gpu for event in reader.events("gpu_lost")] == [lost["gpu"]]
    assert {event.source for event in events} == {"kernel_log"}
    assert max(sample.tick_ms for sample in samples) <= time.time_ns() // 1_000_000
    # a GPU is said once as it is, and once more with each job that comes to run on it
    reader.until(lambda: len({one.component for one in reader.inventory()}) >= 10 + 4 * 8 + 6 * 4)
    assert len({one.component for one in reader.inventory()}) == 10 + 4 * 8 + 6 * 4


def test_in_real_time_a_tick_is_sent_at_its_tick(kafka: Any, reader: Reader, unique: str) -> None:
    settings = SimulateSettings(
        site=unique, racks=(RackSpec(nodes=2),), duration_s=2, faults=(), publish=PublisherSettings(linger_ms=5)
    )

    with running(lambda stop, beat: simulate.run(settings, kafka=kafka.client, stop=stop, beat=beat)):
        reader.until(lambda: len(reader.samples()) == 4)

    assert all(0 <= sample.observed_ms - sample.tick_ms < 500 for sample in reader.samples())


def test_a_simulated_fleet_stops_when_it_is_told_to_although_the_broker_is_away() -> None:
    settings = SimulateSettings(
        racks=(RackSpec(racks=2),), duration_s=None, speed=0, publish=PublisherSettings(queue_records=500, flush_s=0.2)
    )
    started = time.monotonic()

    def body(stop: threading.Event, beat: Callable[[], None]) -> None:
        simulate.run(settings, kafka={"bootstrap.servers": "127.0.0.1:1"}, stop=stop, beat=beat)

    with running(body) as beats:
        time.sleep(1.5)
        assert len(beats) > 3, "it beats while it waits"

    assert time.monotonic() - started < 8
