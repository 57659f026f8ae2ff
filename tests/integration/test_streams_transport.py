"""Kills and rebalances on real Kafka: nothing is lost, nothing is doubled, and each fault has one life.

Two workers share a log that is written all the while; one after the other is killed with `kill -9` and started again,
and a third joins and leaves in good order. What they wrote is held against the log itself.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.kafka import EmbeddedKafka
from infra.topics import provision, wanted
from schemas.records import Anomaly, DeadLetter, Fault, GpuSample, HardwareEvent, Incident
from schemas.topics import ANOMALIES, DEAD_LETTERS, EVENTS, FAULTS, INCIDENTS, SAMPLES
from streams.detect import SampleProcessor
from streams.settings import StreamsSettings
from tests.streams_processes import CODEC, Kafka, WorkerProcess, wait_until
from tests.streams_scenes import Message, event, sample

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

# judged by the log alone: the clock of a busy test machine says nothing
SETTINGS = StreamsSettings(idle_ms=3_600_000, max_run=300)
RACKS = [f"rack-{number}" for number in range(8)]
KILLS = 3


def is_hot(rack: str, second: int) -> bool:
    """Every minute the first GPU of each rack gets hot for 25 s, one rack after the other."""
    return (second - 20 - 5 * RACKS.index(rack)) % 60 < 25 and second >= 20


def samples_of(second: int, *, cool: bool) -> Iterator[tuple[str, GpuSample]]:
    for rack in RACKS:
        for node in range(2):
            heat = [91.0 if is_hot(rack, second) and node == 0 and not cool else 50.0, 50.0]
            yield rack, sample(f"{rack}-n{node}", second, 2, rack=rack, temperature_celsius=heat)


def events_of(second: int, chance: random.Random) -> Iterator[tuple[str, HardwareEvent]]:
    """Classes that neither recover nor go quiet within the test: every one of them must be counted in the end."""
    for number in range(chance.randrange(8)):
        rack = chance.choice(RACKS)
        node = f"{rack}-n{chance.randrange(2)}"
        code = chance.choice([64, 48, 74, 119, 31])
        yield rack, event(code=code, at_s=second, node=node, gpu=f"{node}-0", rack=rack, event_id=f"{second}-{number}")


class Feed(threading.Thread):
    """Writes the log, a second of the fleet's life at a time, until told that it is enough; then all cool down."""

    def __init__(self, kafka: Kafka) -> None:
        super().__init__(daemon=True)
        self.kafka = kafka
        self.enough = threading.Event()
        self.expected: Counter[tuple[str, int]] = Counter()
        self.failed: BaseException | None = None

    def run(self) -> None:
        chance, end = random.Random(3), None
        try:
            for second in itertools.count():
                end = second + 20 if self.enough.is_set() and end is None else end
                if second == end:
                    return
                junk = [("rack-0", b"junk")] if second % 50 == 0 else []
                self.kafka.send(SAMPLES, [*samples_of(second, cool=end is not None), *junk])
                events = list(events_of(second, chance))
                self.kafka.send(EVENTS, events)
                self.expected.update((one.gpu or "", one.code or 0) for _, one in events)
                time.sleep(0.03)
        except BaseException as error:
            self.failed = error
            raise


def what_the_log_holds(kafka: Kafka) -> dict[int, list[tuple[str, str]]]:
    """The anomalies that follow from each partition of the log, read in one run."""
    partitions: dict[int, list[Message]] = defaultdict(list)
    for one in kafka.messages(SAMPLES):
        made = Message(SAMPLES, one.partition(), one.offset(), one.timestamp()[1], one.key(), one.value())
        partitions[one.partition()].append(made)
    return {
        number: [(one.anomaly_id, one.state) for one in SampleProcessor(SETTINGS, CODEC).run(messages).anomalies]
        for number, messages in partitions.items()
    }


def newest(faults: list[Fault]) -> dict[str, Fault]:
    found: dict[str, Fault] = {}
    for one in faults:
        if one.fault_id not in found or one.revision >= found[one.fault_id].revision:
            found[one.fault_id] = one
    return found


def counts(faults: list[Fault]) -> Counter[tuple[str, int]]:
    return Counter({(one.gpu or "", one.code or 0): one.count for one in newest(faults).values() if one.code})


def test_kills_and_rebalances_lose_nothing_and_double_nothing(fresh_kafka: EmbeddedKafka, tmp_path: Path) -> None:
    provision({"bootstrap.servers": fresh_kafka.bootstrap}, wanted())
    kafka = Kafka(fresh_kafka.bootstrap)
    feed = Feed(kafka)
    names = itertools.count()

    def start() -> WorkerProcess:
        return WorkerProcess(fresh_kafka.bootstrap, tmp_path / f"worker-{next(names)}", SETTINGS)

    def progress() -> int:
        return sum(max(0, offset) for offset in kafka.committed(SETTINGS.app_id, SAMPLES).values())

    workers = [start(), start()]
    try:
        feed.start()
        for kill in range(KILLS + 1):
            wait_until(lambda: all(worker.is_up for worker in workers), "both workers are up")
            so_far = progress()
            wait_until(lambda so_far=so_far: progress() > so_far + 200, "they get on")
            if kill < KILLS:
                workers.pop(0).kill()
                workers.append(start())
        workers.append(start())
        wait_until(lambda: workers[-1].is_up, "a third worker joins")
        so_far = progress()
        wait_until(lambda: progress() > so_far + 200, "they get on")
        assert workers[-1].stop() == 0, workers[-1].said()
        feed.enough.set()
        feed.join(120)
        assert feed.failed is None
        assert not feed.is_alive()
        wait_until(lambda: kafka.is_handled(SETTINGS.app_id, SAMPLES, EVENTS, ANOMALIES, FAULTS), "all is handled")
        wait_until(lambda: counts(kafka.records(FAULTS, Fault)) == feed.expected, "the last counts are written")
        for worker in workers[:2]:
            assert worker.runs, worker.said()
            assert worker.stop() == 0, worker.said()
    finally:
        feed.enough.set()
        for worker in workers:
            worker.kill()

    # every anomaly, each raised and cleared under its own id, in this order
    follows = what_the_log_holds(kafka)
    raised = sum(state == "raised" for one in follows.values() for _, state in one)
    assert raised >= len(RACKS), "the test has something to lose"
    assert sum(map(len, follows.values())) == 2 * raised
    written: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for one in kafka.messages(ANOMALIES):
        anomaly = CODEC.decode(one.value(), Anomaly)
        written[one.partition()].append((anomaly.anomaly_id, anomaly.state))
    assert {tuple(dict.fromkeys(one)) for one in written.values()} == {tuple(one) for one in follows.values() if one}

    # every event in the right fault, and in no other
    faults = kafka.records(FAULTS, Fault)
    assert counts(faults) == feed.expected
    of_gpu = Counter((one.component, one.fault_class) for one in newest(faults).values() if one.code)
    assert set(of_gpu.values()) == {1}, "one fault for each component and class"

    # every fault has one life, and a revision written twice says the same
    lives: dict[str, dict[int, Fault]] = defaultdict(dict)
    for fault in faults:
        known = lives[fault.fault_id].setdefault(fault.revision, fault)
        assert (known.state, known.cleared_ms) == (fault.state, fault.cleared_ms)
    for life in lives.values():
        assert sorted(life) == list(range(1, len(life) + 1))
        assert [one.state for _, one in sorted(life.items()) if one.state == "cleared"] in ([], ["cleared"])
        assert life[1].state == "open"
    thermal = [one for one in newest(faults).values() if one.fault_class == "thermal"]
    assert len(thermal) == raised
    assert {one.state for one in thermal} == {"cleared"}
    assert {one.count for one in thermal} == {1}

    # one page for each incident, and each fault in one of them
    incidents = kafka.records(INCIDENTS, Incident)
    pages = Counter((one.incident_id, one.revision) for one in incidents if one.page)
    assert len({incident for incident, _ in pages}) == len(pages)
    letters = kafka.records(DEAD_LETTERS, DeadLetter)
    assert {one.reason for one in letters} == {"not_avro"}
    assert {one.value for one in letters} == {b"junk"}
