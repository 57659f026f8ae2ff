from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from producers.agent import Agent
from producers.discovery import Roster
from producers.node import Schedule, collect_once
from producers.nvml import NvmlSource
from producers.publisher import Sequences
from producers.settings import AgentSettings
from producers.simulate.nvml import SimulatedNvml
from producers.source import Origin
from schemas.catalog import Catalog, load
from schemas.records import GpuSample, HardwareEvent, InventoryRecord, Record
from schemas.topics import EVENTS, INVENTORY, SAMPLES

ORIGIN = Origin("site", "rack-7", "node-1", "boot")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


class Sent:
    """Stands where Kafka would be, and remembers."""

    catching_up = False

    def __init__(self) -> None:
        self.records: list[tuple[str, str, Record]] = []
        self.lost: dict[tuple[str, str], int] = {}
        self.unsafe_events = 0

    def publish(self, topic: str, key: str, record: Record) -> bool:
        self.records.append((topic, key, record))
        return True

    def unsafe(self, topic: str) -> int:
        assert topic == EVENTS
        return self.unsafe_events

    def poll(self, _: float = 0.0) -> None:
        return

    def drops(self) -> dict[tuple[str, str], int]:
        lost, self.lost = self.lost, {}
        return lost

    def close(self, _: float, __: Callable[[], None]) -> int:
        return 0

    def events(self, *kinds: str) -> list[HardwareEvent]:
        return [r for _, _, r in self.records if isinstance(r, HardwareEvent) and (not kinds or r.kind in kinds)]

    def samples(self) -> list[GpuSample]:
        return [r for _, _, r in self.records if isinstance(r, GpuSample)]


class Scripted:
    """A source that does what a test says."""

    doing = "testing"

    def __init__(self, name: str, read: Callable[[int], Iterable[Record]] = lambda _: ()) -> None:
        self.name = name
        self.behave = read
        self.ticks: list[int] = []

    def read(self, now_ms: int) -> Iterable[Record]:
        self.ticks.append(now_ms)
        return self.behave(now_ms)


@pytest.fixture
def agent_of(catalog: Catalog) -> Iterator[Callable[..., tuple[Agent, Sent]]]:
    """Makes agents on real time, and ends their threads."""
    made: list[Agent] = []

    def make(*schedules: Schedule, **more: Any) -> tuple[Agent, Sent]:
        sent = Sent()
        agent = Agent(ORIGIN, catalog, schedules, sent, Sequences("boot"), **more)  # type: ignore[arg-type]
        made.append(agent)
        return agent, sent

    yield make
    for agent in made:
        agent.stop(0, lambda: None)


def until(agent: Agent, done: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        agent.step()


def test_ticks_are_multiples_of_the_period_and_none_comes_twice(agent_of: Any) -> None:
    source = Scripted("quick")
    agent, _ = agent_of(Schedule(source, 50, 1.0))

    until(agent, lambda: len(source.ticks) >= 10)

    assert all(tick % 50 == 0 for tick in source.ticks)
    assert all(later > earlier for earlier, later in itertools.pairwise(source.ticks))


def test_a_source_that_hangs_is_reported_while_it_hangs_and_holds_up_nobody(agent_of: Any) -> None:
    release = threading.Event()
    hanging = Scripted("hanging", lambda _: release.wait(10) and ())
    healthy = Scripted("healthy")
    agent, sent = agent_of(Schedule(hanging, 50, 0.2), Schedule(healthy, 50, 0.2))

    until(agent, lambda: bool(sent.events("source_failed")))
    before = len(healthy.ticks)
    until(agent, lambda: len(healthy.ticks) > before + 5)

    (event,) = sent.events("source_failed")
    assert event.details["source"] == "hanging"
    assert float(event.details["hangs_s"]) >= 0.2
    assert event.details["doing"] == "testing"
    assert len(hanging.ticks) == 1
    assert len(healthy.ticks) > before + 5

    release.set()
    until(agent, lambda: bool(sent.events("source_recovered")))
    until(agent, lambda: len(hanging.ticks) > 3)
    assert len(sent.events("source_failed")) == 1


def test_a_gpu_that_hangs_is_named_and_its_late_values_are_not_sent(agent_of: Any, catalog: Catalog) -> None:
    nvml = SimulatedNvml(gpus=2)
    source = NvmlSource(ORIGIN, catalog, nvml, Roster())
    agent, sent = agent_of(Schedule(source, 50, 0.2))
    until(agent, lambda: len(sent.samples()) > 2)

    nvml.gpus[1].hang_s = 0.5
    until(agent, lambda: bool(sent.events("source_failed")))
    seen = len(sent.samples())
    nvml.gpus[1].hang_s = 0
    until(agent, lambda: bool(sent.events("source_recovered")))
    until(agent, lambda: len(sent.samples()) > seen + 2)

    assert "GPU 1 (0000:2a:00)" in sent.events("source_failed")[0].details["doing"]
    ticks = [sample.tick_ms for sample in sent.samples()]
    assert ticks[seen] - ticks[seen - 1] >= 400, "the tick whose read hung is skipped"


def test_a_source_that_raises_is_reported_once_and_read_again(agent_of: Any) -> None:
    failing = Scripted("failing")

    def fail(_: int) -> Iterable[Record]:
        raise OSError("the disk is on fire")

    failing.behave = fail
    agent, sent = agent_of(Schedule(failing, 20, 1.0))

    until(agent, lambda: len(failing.ticks) > 5)
    assert [event.details["error"] for event in sent.events("source_failed")] == ["OSError: the disk is on fire"]

    failing.behave = lambda _: ()
    until(agent, lambda: bool(sent.events("source_recovered")))


def test_records_go_where_the_contract_says_and_are_numbered_per_topic(agent_of: Any, catalog: Catalog) -> None:
    nvml = SimulatedNvml(gpus=2)
    source = NvmlSource(ORIGIN, catalog, nvml, Roster())
    inventory = Scripted(
        "inventory",
        lambda now_ms: [
            InventoryRecord(component="gpu:1", kind="gpu", site="s", rack="r", source="discovered", seen_ms=now_ms)
        ],
    )
    agent, sent = agent_of(Schedule(source, 20, 1.0), Schedule(inventory, 20, 1.0))
    agent.start()
    until(agent, lambda: len(sent.samples()) > 5)
    nvml.gpus[0].lost = True
    until(agent, lambda: bool(sent.events("gpu_lost")))

    assert {(topic, key) for topic, key, _ in sent.records} == {
        (SAMPLES, "rack-7"),
        (EVENTS, "rack-7"),
        (INVENTORY, "gpu:1"),
    }
    assert [sample.sequence for sample in sent.samples()] == list(range(len(sent.samples())))
    assert [event.sequence for event in sent.events()] == list(range(len(sent.events())))


def test_a_start_and_a_stop_are_said(agent_of: Any) -> None:
    agent, sent = agent_of(Schedule(Scripted("one"), 20, 1.0), Schedule(Scripted("two"), 20, 1.0))

    agent.start()
    agent.step()
    agent.stop(0, lambda: None)

    assert [event.kind for event in sent.events()] == ["agent_started", "agent_stopped"]
    assert sent.events()[0].details == {"sources": "one,two"}


def test_dropped_records_become_an_event_with_their_number(agent_of: Any) -> None:
    now = [100.0]
    agent, sent = agent_of(Schedule(Scripted("one"), 20, 1e9), clock=lambda: now[0])
    sent.lost = {(SAMPLES, "spool_full"): 40}
    agent.step()
    sent.lost = {(SAMPLES, "spool_full"): 2, (EVENTS, "torn"): 1}
    agent.step()
    assert [event.count for event in sent.events("records_dropped")] == [40]

    now[0] += 10
    agent.step()

    said = [(event.details["topic"], event.details["reason"], event.count) for event in sent.events("records_dropped")]
    assert said == [(SAMPLES, "spool_full", 40), (SAMPLES, "spool_full", 2), (EVENTS, "torn", 1)]


def test_a_source_that_commits_is_not_read_again_before_its_events_are_safe(agent_of: Any, catalog: Catalog) -> None:
    careful = Scripted(
        "careful",
        lambda now_ms: [ORIGIN.event(catalog, "xid", source="careful", event_ms=now_ms, observed_ms=now_ms)],
    )
    other = Scripted("other")
    agent, sent = agent_of(Schedule(careful, 20, 1.0, commits=True), Schedule(other, 20, 1.0))
    until(agent, lambda: len(careful.ticks) > 2)

    sent.unsafe_events = 1
    agent.step()
    before, others = len(careful.ticks), len(other.ticks)
    until(agent, lambda: len(other.ticks) > others + 5)
    assert len(careful.ticks) <= before + 1

    sent.unsafe_events = 0
    until(agent, lambda: len(careful.ticks) > before + 3)


def test_a_source_that_commits_begins_at_once_though_kafka_is_away(agent_of: Any) -> None:
    careful = Scripted("careful")
    agent, sent = agent_of(Schedule(careful, 3_600_000, 1.0, commits=True))
    sent.unsafe_events = 1
    agent.start()

    until(agent, lambda: len(careful.ticks) == 1)


def test_what_a_read_gave_is_sent_before_the_next_read_commits_it(agent_of: Any, catalog: Catalog) -> None:
    sent_before: list[int] = []

    def give(now_ms: int) -> list[Record]:
        sent_before.append(len(sent.events("xid")))
        return [ORIGIN.event(catalog, "xid", source="careful", event_ms=now_ms, observed_ms=now_ms)]

    agent, sent = agent_of(Schedule(Scripted("careful", give), 1, 1.0, commits=True))
    until(agent, lambda: len(sent_before) > 200)
    assert sent_before == list(range(len(sent_before)))


def test_a_clock_that_is_set_back_does_not_stop_the_agent(agent_of: Any) -> None:
    offset_ms = [0]
    source = Scripted("one")
    agent, _ = agent_of(Schedule(source, 20, 1.0), wall_ms=lambda: time.time_ns() // 1_000_000 - offset_ms[0])
    until(agent, lambda: len(source.ticks) > 3)

    offset_ms[0] = 3_600_000
    before = len(source.ticks)
    until(agent, lambda: len(source.ticks) > before + 3)


def test_once_shows_rates_and_the_inventory_of_this_node() -> None:
    settings = AgentSettings(node="node-1", rack="rack-7")

    records = collect_once(settings, nvml=SimulatedNvml(gpus=4), pause_s=0.01)

    (sample,) = [record for record in records if isinstance(record, GpuSample)]
    found = [record for record in records if isinstance(record, InventoryRecord)]
    assert len(sample.sm_active_percent) == 4
    assert sample.sm_active_percent[0] > 50
    assert [record.component for record in found] == ["node:node-1", *(f"gpu:{gpu}" for gpu in sample.gpus)]
    assert {record.nvlink_domain for record in found[1:]} == {"node-1"}


class Listening(Scripted):
    """A source that is told by a pipe when there is more."""

    def __init__(self, read: Callable[[int], Iterable[Record]] = lambda _: ()) -> None:
        super().__init__("listening", read)
        self.ear, self._mouth = os.pipe()

    def tell(self) -> None:
        os.write(self._mouth, b".")

    def hear(self) -> None:
        os.read(self.ear, 100)

    def close(self) -> None:
        os.close(self.ear)
        os.close(self._mouth)


def test_a_source_that_is_told_is_read_when_it_is_told_and_not_by_the_clock(agent_of: Any) -> None:
    source, clockwork = Listening(), Scripted("clockwork")
    agent, _ = agent_of(
        Schedule(source, 50, 1.0, commits=True, listen=lambda: [source.ear]), Schedule(clockwork, 50, 1.0)
    )
    until(agent, lambda: len(source.ticks) == 1)

    until(agent, lambda: len(clockwork.ticks) > 8)
    assert len(source.ticks) == 1

    source.behave = lambda _: source.hear() or ()
    source.tell()
    told_at = time.monotonic()
    until(agent, lambda: len(source.ticks) == 2)
    assert time.monotonic() - told_at < 1


def test_a_source_that_is_told_again_and_again_is_read_by_its_period_at_most(agent_of: Any) -> None:
    source = Listening()  # nobody reads the pipe: it goes on telling
    source.tell()
    agent, _ = agent_of(Schedule(source, 50, 1.0, commits=True, listen=lambda: [source.ear]))

    until(agent, lambda: len(source.ticks) > 4)

    assert all(later - earlier >= 50 for earlier, later in itertools.pairwise(source.ticks))


def test_what_a_source_gave_is_committed_though_nobody_tells_of_more(agent_of: Any, catalog: Catalog) -> None:
    left = [ORIGIN.event(catalog, "xid", source="listening", event_ms=1, observed_ms=1)]
    source = Listening(lambda _: [left.pop()] if left else [])
    agent, _ = agent_of(Schedule(source, 50, 1.0, commits=True, listen=lambda: [source.ear]))

    until(agent, lambda: len(source.ticks) == 2, timeout_s=2)


def test_a_source_that_is_told_is_looked_at_now_and_then_all_the_same(agent_of: Any) -> None:
    now_ms = [1_000_000]
    source = Listening()
    agent, _ = agent_of(Schedule(source, 50, 1.0, commits=True, listen=lambda: [source.ear]), wall_ms=lambda: now_ms[0])
    until(agent, lambda: len(source.ticks) == 1)
    agent.step()

    now_ms[0] += 4_900
    agent.step()
    assert len(source.ticks) == 1
    now_ms[0] += 200
    until(agent, lambda: len(source.ticks) == 2)


def test_a_source_that_has_nothing_to_find_is_not_read(agent_of: Any) -> None:
    wanted = threading.Event()
    idle, clockwork = Scripted("idle"), Scripted("clockwork")
    agent, _ = agent_of(Schedule(idle, 20, 1.0, needed=lambda _: wanted.is_set()), Schedule(clockwork, 20, 1.0))
    until(agent, lambda: len(clockwork.ticks) > 5)
    assert idle.ticks == []

    wanted.set()
    until(agent, lambda: len(idle.ticks) > 2)


def test_a_source_that_failed_is_read_until_it_recovers_though_it_is_needed_no_more(agent_of: Any) -> None:
    broken = threading.Event()
    broken.set()

    def read(_: int) -> list[Record]:
        if broken.is_set():
            raise OSError("broken")
        return []

    agent, sent = agent_of(Schedule(Scripted("one", read), 20, 1.0, needed=lambda _: broken.is_set()))
    until(agent, lambda: bool(sent.events("source_failed")))

    broken.clear()
    until(agent, lambda: bool(sent.events("source_recovered")))
