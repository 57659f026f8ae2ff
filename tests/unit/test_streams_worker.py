"""What a worker holds, and when it lets it go; what it does when our own code fails. The rest needs Kafka."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiokafka.partitioner import DefaultPartitioner
from faust.types import TP
from msgspec.structs import replace

from schemas.records import Fault, HardwareEvent, Verdict
from schemas.topics import ANOMALIES, EVENTS, FAULTS, SAMPLES
from streams import metrics
from streams.faults import FaultBook
from streams.partitions import Outcome
from streams.readback import Learnt, partition_of
from streams.settings import StreamsSettings
from streams.worker import Worker
from tests.streams_scenes import event, in_inventory, log, sample


class Kept:
    """What a reader of topics has to say, without Kafka."""

    def __init__(self, kept: dict[str, bytes]) -> None:
        self._kept = kept

    def state(self, partition: int) -> dict[str, bytes]:
        return dict(self._kept)

    def end(self, topic: str, partition: int) -> int:
        return 10**6

    def partitions(self, topic: str) -> int:
        return 1

    def close(self) -> None:
        pass


class Bench(Worker):
    """A worker whose Kafka is a dictionary of memory and a list of what was delivered."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(StreamsSettings(), kafka={"bootstrap.servers": "127.0.0.1:9"}, data_dir=data_dir)
        self._rebuilder = dataclasses.replace(self._rebuilder, reader=lambda: Kept(self.kept))
        self.kept: dict[str, bytes] = {}
        self.outcomes: list[Outcome] = []

    async def _deliver(self, partition: int, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        kept = self.kept | outcome.memory
        self.kept = {key: state for key, state in kept.items() if state is not None}


def on(bench: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(bench())


def test_a_record_on_which_our_own_code_fails_is_refused_and_its_neighbours_are_processed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = FaultBook.on_event

    def broken(self: FaultBook, one: HardwareEvent, *rest: Any) -> list[Fault]:
        if one.event_id == "poison":
            raise ZeroDivisionError("a bug of ours")
        return sound(self, one, *rest)

    monkeypatch.setattr(FaultBook, "on_event", broken)
    good = [event(code=79, at_s=number, event_id=f"e{number}") for number in range(4)]
    run = log([*good[:2], event(event_id="poison"), *good[2:]])

    async def scene() -> None:
        worker = Bench(tmp_path)
        await worker._work(EVENTS, run, worker._run_evidence)
        refused = [one for outcome in worker.outcomes for one in outcome.rejected]
        assert [(one.message.offset, one.reason) for one in refused] == [(2, "processing_failed")]
        assert "a bug of ours" in refused[0].detail
        counts = [one.count for outcome in worker.outcomes for one in outcome.records if isinstance(one, Fault)]
        assert counts == [1, 2, 3, 4], "each once, also those before the bad one"

    on(scene)


def test_a_failure_in_a_run_of_samples_refuses_the_run_and_the_next_goes_on(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = Bench(tmp_path)

        async def broken(partition: int, run: Any) -> Outcome:
            raise ZeroDivisionError("a bug of ours")

        run = log([sample("n1", 0), sample("n1", 1)])
        await worker._work(SAMPLES, run, broken)
        assert [one.reason for one in worker.outcomes[0].rejected] == ["processing_failed"] * 2

    on(scene)


ALL = {TP(topic, number) for topic in (SAMPLES, EVENTS, ANOMALIES) for number in (0, 1)} | {TP(FAULTS, 0)}


def test_what_is_held_of_a_partition_is_let_go_with_it(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = Bench(tmp_path)
        await worker._on_assigned(worker.app, ALL)
        first = await worker._fault_partition(0)
        await worker._fault_partition(1)
        await worker._incident_partition(0)
        assert await worker._fault_partition(0) is first, "and kept as long as it is ours"
        await worker._on_revoked(worker.app, {TP(EVENTS, 0), TP(ANOMALIES, 0)})
        assert set(worker._faults) == {1}
        await worker._on_revoked(worker.app, ALL)
        assert not worker._faults
        assert not worker._incidents
        assert not worker._assigned

    on(scene)


def test_what_was_made_too_late_for_a_partition_that_is_gone_is_not_found_when_it_comes_back(tmp_path: Path) -> None:
    """A run that was under way during a rebalance may read memory back once more; it is not what is true later."""

    async def scene() -> None:
        worker = Bench(tmp_path)
        await worker._on_assigned(worker.app, ALL)
        await worker._on_revoked(worker.app, ALL)
        stale = await worker._fault_partition(0)
        await worker._on_assigned(worker.app, {TP(SAMPLES, 1)})
        assert not worker._faults
        await worker._on_revoked(worker.app, {TP(SAMPLES, 1)})
        await worker._on_assigned(worker.app, ALL)
        assert await worker._fault_partition(0) is not stale

    on(scene)


def test_time_goes_on_for_what_is_ours_only(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = Bench(tmp_path)
        await worker._go_on(EVENTS)
        assert not worker._faults
        await worker._on_assigned(worker.app, {TP(EVENTS, 1), TP(ANOMALIES, 1), TP(SAMPLES, 1)})
        await worker._go_on(EVENTS)
        assert set(worker._faults) == {1}
        assert not worker._incidents

    on(scene)


def components(partition: int) -> dict[tuple[str, str], float]:
    """What `/metrics` says of a partition's components, by kind and health; those of which there are none left out."""
    (family,) = metrics.COMPONENTS.collect()
    found = [one for one in family.samples if one.labels["partition"] == str(partition)]
    return {(one.labels["kind"], one.labels["health"]): one.value for one in found if one.value}


def test_components_are_counted_by_health_while_their_partition_is_ours(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = Bench(tmp_path)
        await worker._on_assigned(worker.app, {TP(EVENTS, 0), TP(ANOMALIES, 0)})
        lost = log([event(code=79, gpu="a"), event("link_up", node="n2", gpu="b")])
        await worker._work(EVENTS, lost, worker._run_evidence)
        await worker._go_on(EVENTS)
        assert components(0) == {
            ("gpu", "unhealthy"): 1,
            ("gpu", "healthy"): 1,
            ("node", "unhealthy"): 1,
            ("node", "healthy"): 1,
            ("rack", "degraded"): 1,
        }
        await worker._on_revoked(worker.app, {TP(EVENTS, 0), TP(ANOMALIES, 0)})
        assert components(0) == {}

    on(scene)


def test_what_the_inventory_shows_reaches_the_partitions_that_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        worker = Bench(tmp_path)
        await worker._on_assigned(worker.app, {TP(EVENTS, 0), TP(ANOMALIES, 0)})
        await worker._go_on(EVENTS)
        record = replace(in_inventory("gpu:S1", node="n1"), source="discovered")
        monkeypatch.setattr(worker._inventory, "follow", lambda: [Learnt(0, 0, record.seen_ms, record)])
        await worker._follow()
        await worker._go_on(EVENTS)
        told = [one for outcome in worker.outcomes for one in outcome.records if isinstance(one, Verdict)]
        assert [one.component for one in told] == ["node:n1", "gpu:S1", "rack:r1"]

    on(scene)


def test_a_rack_is_looked_for_where_kafkas_own_partitioner_puts_it() -> None:
    for key in ("rack-1", "r", "hall-a/7", "größer"):
        for spread in (1, 4, 32, 33):
            everywhere = list(range(spread))
            assert partition_of(key, spread) == DefaultPartitioner()(key.encode(), everywhere, everywhere)
