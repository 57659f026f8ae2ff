"""A worker on real Kafka: what goes in and comes out, a broker that dies, a worker that dies, a rack that goes dark."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from infra.kafka import EmbeddedKafka
from infra.topics import provision, wanted
from schemas.records import Anomaly, DeadLetter, Fault, GpuCounters, GpuSample, Incident, Verdict
from schemas.topics import ANOMALIES, COUNTERS, DEAD_LETTERS, EVENTS, FAULTS, INCIDENTS, INVENTORY, SAMPLES, VERDICTS
from streams.settings import StreamsSettings
from tests.streams_processes import Kafka, WorkerProcess, wait_until
from tests.streams_scenes import CODEC, counters, event, fault, in_inventory, sample

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

BY_THE_LOG = StreamsSettings(idle_ms=3_600_000)
BY_THE_CLOCK = StreamsSettings(idle_ms=3000, silence_ms=5000)
NODES = [(f"rack-{rack}", f"rack-{rack}-n{node}") for rack in range(4) for node in range(2)]


@pytest.fixture
def kafka(fresh_kafka: EmbeddedKafka) -> Kafka:
    """A broker of one's own with the contract's topics, empty."""
    provision({"bootstrap.servers": fresh_kafka.bootstrap}, wanted())
    return Kafka(fresh_kafka.bootstrap)


def heat(begin: int, end: int, celsius: float = 50.0, hot: str = "rack-0-n0") -> Iterator[tuple[str, GpuSample]]:
    """All nodes from one second to another; the first GPU of one of them is as warm as said."""
    for second in range(begin, end):
        for rack, node in NODES:
            warm = [celsius if node == hot else 50.0, 50.0]
            yield rack, sample(node, second, 2, rack=rack, temperature_celsius=warm)


def told(kafka: Kafka) -> Counter[tuple[str, str, str]]:
    return Counter((one.rule, one.state, one.component) for one in kafka.records(ANOMALIES, Anomaly))


def lives(kafka: Kafka) -> dict[str, list[tuple[int, str]]]:
    """Revision and state of every fault, as they came; what was written twice, once."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for one in kafka.records(FAULTS, Fault):
        if (one.revision, one.state) not in found[one.fault_id]:
            found[one.fault_id].append((one.revision, one.state))
    return found


def test_records_come_out_of_what_goes_in_and_bad_ones_go_to_the_dead_letters(
    fresh_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    """The inventory may be missing at first; what it would tell is unknown until then."""
    provision(
        {"bootstrap.servers": fresh_kafka.bootstrap},
        {name: topic for name, topic in wanted().items() if name != INVENTORY},
    )
    kafka = Kafka(fresh_kafka.bootstrap)
    at_a_slot = event(code=79, at_s=21, node="rack-1-n0", rack="rack-1", gpu=None, pci="0000:91:00")
    with WorkerProcess(kafka.bootstrap, tmp_path / "worker", BY_THE_LOG) as worker:
        kafka.send(EVENTS, [("rack-1", at_a_slot)])
        (opened,) = wait_until(lambda: kafka.records(FAULTS, Fault), "a fault that the inventory does not explain")
        assert opened.component == "gpu:rack-1-n0/0000:91:00"

        provision({"bootstrap.servers": fresh_kafka.bootstrap}, wanted())
        known = in_inventory("gpu:S1", rack="rack-3", node="rack-3-n0", pci="0000:91:00")
        in_its_slot = replace(at_a_slot, node="rack-3-n0", rack="rack-3")
        kafka.send(INVENTORY, [("gpu:S1", known)])

        def explained() -> bool:
            kafka.send(EVENTS, [("rack-3", replace(in_its_slot, code=31, event_id=str(time.time())))])
            return "gpu:S1" in {one.component for one in kafka.records(FAULTS, Fault)}

        wait_until(explained, "the inventory is followed")
        kafka.send(EVENTS, [("rack-3", replace(in_its_slot, code=48, event_id="of a GPU that is known"))])
        kafka.send(SAMPLES, heat(0, 10))
        junk = [b"junk", b"x" * 990_000, b"\xc3\x01" + b"12345678"]
        kafka.send(SAMPLES, [("rack-0", one) for one in junk])
        future = replace(sample("rack-0-n0", 0, rack="rack-0"), tick_ms=2**62)
        kafka.send(SAMPLES, [("rack-0", future)])
        kafka.send(SAMPLES, heat(10, 20, 91.0))
        long_winded = event(code=79, at_s=30, node="rack-2-n0", rack="rack-2", gpu="S2", raw="y" * 900_000)
        kafka.send(EVENTS, [("rack-2", b"junk"), ("rack-2", long_winded)])
        kafka.send(ANOMALIES, [("rack-1", b"junk")])
        odd = fault(rack="rack-1", node="rack-1-n1", gpu="odd", severity="apocalyptic")
        kafka.send(FAULTS, [("hall-a", b"junk"), ("hall-a", odd)])
        roots = {
            ("gpu:rack-0-n0-0", "thermal"),
            ("gpu:rack-1-n0/0000:91:00", "gpu_lost"),
            ("gpu:S1", "gpu_memory_uncorrectable"),
            ("gpu:S2", "gpu_lost"),
        }
        wait_until(
            lambda: {(one.root, one.root_class) for one in kafka.records(INCIDENTS, Incident) if one.page} == roots,
            "all incidents page",
        )
        wait_until(
            lambda: (
                {one.component for one in kafka.records(VERDICTS, Verdict) if not one.rentable and one.gpu}
                >= {"gpu:S1", "gpu:S2", "gpu:rack-0-n0-0"}
            ),
            "what is broken may not be rented",
        )
        assert all(
            message.key().decode() == CODEC.decode(message.value(), Verdict).rack
            for message in kafka.messages(VERDICTS)
        )
        letters = wait_until(
            lambda: len(found := kafka.records(DEAD_LETTERS, DeadLetter)) >= 8 and found, "all dead letters are there"
        )
        assert Counter((one.topic, one.reason) for one in letters) == {
            (SAMPLES, "not_avro"): 2,
            (SAMPLES, "unknown_schema"): 1,
            (SAMPLES, "time_in_future"): 1,
            (EVENTS, "not_avro"): 1,
            (ANOMALIES, "not_avro"): 1,
            (FAULTS, "not_avro"): 1,
            (FAULTS, "unknown_word"): 1,
        }
        assert told(kafka) == {("gpu_hot", "raised", "gpu:rack-0-n0-0"): 1}
        assert worker.stop() == 0, worker.said()
        assert "Traceback" not in worker.said()
        assert "overlapping" not in worker.said()


def counted(begin_s: int, end_s: int, errors: Callable[[int], int]) -> Iterator[tuple[str, GpuCounters | bytes]]:
    """Counters of one node, and something that is none."""
    yield "rack-0", b"junk"
    for at_s in range(begin_s, end_s, 30):
        total = float(errors(at_s))
        yield "rack-0", counters("rack-0-n0", at_s, 2, rack="rack-0", ecc_volatile_dram_correctable=[total, 0.0])


def test_what_counters_have_grown_by_outlives_the_worker_that_counted_it(kafka: Kafka, tmp_path: Path) -> None:
    """Six errors are counted by one worker, six by its successor; together they are too many for an hour."""
    with WorkerProcess(kafka.bootstrap, tmp_path / "first", BY_THE_LOG) as first:
        kafka.send(COUNTERS, counted(0, 1200, lambda at_s: min(6, at_s // 100)))
        wait_until(lambda: kafka.is_handled(BY_THE_LOG.app_id, COUNTERS), "the first worker has handled them")
        assert kafka.records(ANOMALIES, Anomaly) == []
        first.kill()
    with WorkerProcess(kafka.bootstrap, tmp_path / "second", BY_THE_LOG) as second:
        kafka.send(COUNTERS, counted(1200, 2400, lambda at_s: min(12, at_s // 100 - 6)))
        wait_until(lambda: kafka.records(FAULTS, Fault), "a fault")
        (found,) = kafka.records(ANOMALIES, Anomaly)
        assert (found.rule, found.component, found.value) == ("corrected_errors_rise", "gpu:rack-0-n0-0", 11)
        (opened,) = kafka.records(FAULTS, Fault)
        assert (opened.fault_class, opened.severity, opened.node) == ("memory_correctable", "warning", "rack-0-n0")
        assert second.stop() == 0, second.said()
        assert "Traceback" not in second.said()
    letters = kafka.records(DEAD_LETTERS, DeadLetter)
    assert Counter((one.topic, one.reason) for one in letters) == {(COUNTERS, "not_avro"): 2}
    assert [one for one in kafka.records(INCIDENTS, Incident) if one.page] == [], "an early warning wakes nobody"


class Feed(threading.Thread):
    """Samples and events, on and on."""

    def __init__(self, kafka: Kafka) -> None:
        super().__init__(daemon=True)
        self.kafka, self.enough = kafka, threading.Event()
        self.sent = 0

    def run(self) -> None:
        while not self.enough.is_set():
            self.kafka.send(SAMPLES, heat(self.sent, self.sent + 1))
            rack, node = NODES[self.sent % len(NODES)]
            one = event(code=64, at_s=self.sent, node=node, rack=rack, gpu="G")
            self.kafka.send(EVENTS, [(rack, one)])
            self.sent += 1
            time.sleep(0.05)


def test_a_broker_that_dies_and_comes_back_is_waited_for(
    fresh_kafka: EmbeddedKafka, kafka: Kafka, tmp_path: Path
) -> None:
    """The worker goes on by itself, counts every event, and takes nobody for silent because Kafka was."""
    feed = Feed(kafka)
    with WorkerProcess(kafka.bootstrap, tmp_path / "worker", BY_THE_CLOCK) as worker:
        feed.start()
        wait_until(lambda: kafka.records(FAULTS, Fault), "the first faults")
        fresh_kafka.kill()
        time.sleep(8)  # longer than the session and than silence takes
        fresh_kafka.start()
        before = feed.sent
        wait_until(lambda: feed.sent > before + 40, "the feed goes on")
        feed.enough.set()
        feed.join(60)

        def counted() -> int:
            newest = {one.fault_id: one for one in kafka.records(FAULTS, Fault)}
            return sum(one.count for one in newest.values())

        wait_until(lambda: counted() >= feed.sent, "every event is counted")
        assert counted() == feed.sent, "and none twice"
        assert worker.runs, worker.said()
        assert {rule for rule, _, _ in told(kafka)} <= {"node_silent"}
        # only now, when nobody sends any more, are they silent
        wait_until(lambda: len(told(kafka)) == len(NODES), "the end of the feed is noticed")
        assert set(told(kafka).values()) == {1}
        silent_since = {one.begin_ms for one in kafka.records(ANOMALIES, Anomaly)}
        last = sample("any", feed.sent - 1).tick_ms
        assert silent_since == {last}
        fresh_kafka.kill()
        assert worker.stop() == 0, worker.said()
        assert worker.said().count("\n") < 500, "nobody reads a hundred lines a second"


def test_a_worker_that_dies_while_something_stands_neither_forgets_nor_repeats_it(kafka: Kafka, tmp_path: Path) -> None:
    def worker(number: int) -> WorkerProcess:
        return WorkerProcess(kafka.bootstrap, tmp_path / f"worker-{number}", BY_THE_CLOCK)

    with worker(1) as first:
        kafka.send(SAMPLES, heat(0, 10))
        kafka.send(SAMPLES, heat(10, 20, 91.0))
        wait_until(lambda: lives(kafka), "the heat is a fault")
        first.kill()
    assert told(kafka) == {("gpu_hot", "raised", "gpu:rack-0-n0-0"): 1}

    # it is still hot, then cools down, and nobody is there; then all is dark, and still nobody is there
    kafka.send(SAMPLES, heat(20, 30, 91.0))
    kafka.send(SAMPLES, heat(30, 45))
    with worker(2) as second:
        wait_until(lambda: [(1, "open"), (2, "cleared")] in lives(kafka).values(), "the heat is over")
        wait_until(lambda: kafka.is_handled(BY_THE_CLOCK.app_id, SAMPLES), "all is committed")
        assert second.stop() == 0, second.said()
    # nothing has come since: the next worker has to notice it by the clock, from what it reads back
    with worker(3) as third:
        silent = {("node_silent", "raised", f"node:{node}"): 1 for _, node in NODES}
        wait_until(lambda: all(one in told(kafka) for one in silent), "the dark is noticed")
        third.kill()
    with worker(4) as fourth:
        kafka.send(SAMPLES, heat(200, 204))
        back = {("node_silent", "cleared", f"node:{node}"): 1 for _, node in NODES}
        wait_until(lambda: all(one in told(kafka) for one in back), "they are back")
        wait_until(
            lambda: sorted(map(tuple, lives(kafka).values())) == [((1, "open"), (2, "cleared"))] * (1 + len(NODES)),
            "every fault is over",
        )
        assert fourth.stop() == 0, fourth.said()
    by_id = {(one.anomaly_id, one.state) for one in kafka.records(ANOMALIES, Anomaly)}
    assert len(by_id) == 2 * (1 + len(NODES)), "each raised and cleared under one id"
