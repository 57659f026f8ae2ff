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
from streams.readings.processor import SampleProcessor
from streams.settings import StreamsSettings
from tests.streams_processes import CODEC, Kafka, WorkerProcess, wait_until
from tests.streams_scenes import Message, event, sample

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

# judged by the log alone: the clock of a busy test machine says nothing
SETTINGS = StreamsSettings(idle_ms=3_600_000, max_run=20)
RACKS = [f"rack-{number}" for number in range(8)]
KILLS = 3
WRITTEN_BEFORE = 150
"""Seconds that lie in the log when the workers start: they join one after the other while nothing is committed yet."""


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
        self.begun, self.enough = threading.Event(), threading.Event()
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
                if second >= WRITTEN_BEFORE:
                    self.begun.set()
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


def raised_in(anomalies: dict[int, list[tuple[str, str]]]) -> int:
    return sum(state == "raised" for one in anomalies.values() for _, state in one)


def thermal(kafka: Kafka) -> list[Fault]:
    """The faults that the anomalies come to."""
    return [one for one in newest(kafka.records(FAULTS, Fault)).values() if one.fault_class == "thermal"]


def counts(faults: list[Fault]) -> Counter[tuple[str, int]]:
    return Counter({(one.gpu or "", one.code or 0): one.count for one in newest(faults).values() if one.code})


class Storm:
    """Two workers over a log that is being written, and what happens to them."""

    def __init__(self, kafka: Kafka, folder: Path) -> None:
        self.kafka, self.folder = kafka, folder
        self.started = itertools.count()
        self.workers = [self.start(), self.start()]

    def start(self) -> WorkerProcess:
        return WorkerProcess(self.kafka.bootstrap, self.folder / f"worker-{next(self.started)}", SETTINGS)

    def progress(self) -> int:
        return sum(max(0, offset) for offset in self.kafka.committed(SETTINGS.app_id, SAMPLES).values())

    def settle(self) -> None:
        """All workers are up, and the log is worked on."""
        wait_until(lambda: all(worker.is_up for worker in self.workers), "all workers are up")
        so_far = self.progress()
        wait_until(lambda: self.progress() > so_far + 200, "they get on")

    def shared_by_two(self) -> list[set[tuple[str, int]]]:
        shares = self.kafka.shares(SETTINGS.app_id)
        return shares if len(shares) == 2 else []

    def rage(self) -> None:
        for _ in range(KILLS):
            self.settle()
            # evidence of both topics folds into one book, so one worker must have both
            for share in wait_until(self.shared_by_two, "both have a share"):
                assert {at for topic, at in share if topic == EVENTS} == {
                    at for topic, at in share if topic == ANOMALIES
                }
            self.workers.pop(0).kill()
            self.workers.append(self.start())
        self.settle()
        self.workers.append(self.start())
        self.settle()
        guest = self.workers.pop()
        assert guest.stop() == 0, guest.said()

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()


def test_kills_and_rebalances_lose_nothing_and_double_nothing(fresh_kafka: EmbeddedKafka, tmp_path: Path) -> None:
    provision({"bootstrap.servers": fresh_kafka.bootstrap}, wanted())
    kafka = Kafka(fresh_kafka.bootstrap)
    feed = Feed(kafka)
    feed.start()
    assert feed.begun.wait(120)
    storm = Storm(kafka, tmp_path)
    try:
        storm.rage()
        feed.enough.set()
        feed.join(120)
        assert feed.failed is None
        assert not feed.is_alive()
        wait_until(lambda: kafka.is_handled(SETTINGS.app_id, SAMPLES, EVENTS, ANOMALIES, FAULTS), "all is handled")
        wait_until(lambda: counts(kafka.records(FAULTS, Fault)) == feed.expected, "the last counts are written")
        raised = raised_in(what_the_log_holds(kafka))
        wait_until(lambda: sum(one.count for one in thermal(kafka)) == raised, "every anomaly is counted once")
        for worker in storm.workers:
            assert worker.runs, worker.said()
            assert worker.stop() == 0, worker.said()
    finally:
        feed.enough.set()
        storm.end()
    hold_anomalies_against_the_log(kafka)
    hold_faults_against_the_log(kafka, feed)
    pages = Counter(one.incident_id for one in set_of(kafka.records(INCIDENTS, Incident)) if one.page)
    assert set(pages.values()) == {1}, "one page for each incident"
    letters = kafka.records(DEAD_LETTERS, DeadLetter)
    assert {(one.reason, one.value) for one in letters} == {("not_avro", b"junk")}


def set_of(incidents: list[Incident]) -> list[Incident]:
    """Each revision once: what a kill had written twice says the same."""
    return list({(one.incident_id, one.revision): one for one in incidents}.values())


def hold_anomalies_against_the_log(kafka: Kafka) -> None:
    """Every anomaly that follows from the log was written, in its order; what was written twice has one id."""
    follows = what_the_log_holds(kafka)
    raised = raised_in(follows)
    assert raised >= len(RACKS), "the test has something to lose"
    assert sum(map(len, follows.values())) == 2 * raised
    written: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for one in kafka.messages(ANOMALIES):
        anomaly = CODEC.decode(one.value(), Anomaly)
        written[one.partition()].append((anomaly.anomaly_id, anomaly.state))
    assert {tuple(dict.fromkeys(one)) for one in written.values()} == {tuple(one) for one in follows.values() if one}
    assert sum(one.count for one in thermal(kafka)) == raised
    assert {one.state for one in thermal(kafka) if not one.flapping} == {"cleared"}, "what keeps coming back stays open"


def hold_faults_against_the_log(kafka: Kafka, feed: Feed) -> None:
    """Every event is in the right fault and in no other, and every fault has one life."""
    faults = kafka.records(FAULTS, Fault)
    assert counts(faults) == feed.expected
    of_gpu = Counter((one.component, one.fault_class) for one in newest(faults).values() if one.code)
    assert set(of_gpu.values()) == {1}, "one fault for each component and class"
    lives: dict[str, dict[int, Fault]] = defaultdict(dict)
    for fault in faults:
        known = lives[fault.fault_id].setdefault(fault.revision, fault)
        assert (known.state, known.cleared_ms) == (fault.state, fault.cleared_ms), "a revision says one thing"
    for life in lives.values():
        states = [one.state for _, one in sorted(life.items())]
        assert sorted(life) == list(range(1, len(life) + 1))
        assert states[0] == "open"
        assert "cleared" not in states[:-1]
