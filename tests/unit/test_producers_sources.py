"""What holds for every source of a node, whatever befalls what it reads: the contract of `producers/source.py`.

A source is added by its bench (`tests/source_benches.py`) and a line in `BENCHES`.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from producers.dcgm.settings import ExporterSettings
from producers.facility.settings import BmcSettings, FacilitySettings
from producers.node import Schedule, sources
from producers.settings import AgentSettings
from producers.simulate.nvml import SimulatedNvml
from producers.source import Origin, Reading, Source, Worker
from schemas.catalog import Catalog, load
from schemas.codec import SingleObjectCodec
from schemas.records import HardwareEvent, InventoryRecord, Record
from tests.source_benches import (
    TROUBLES,
    Bench,
    DiscoveryBench,
    KernelLogBench,
    NvmlBench,
    NvmlCountersBench,
    NvmlXidsBench,
)
from tests.source_benches_devices import FacilityBench, HostBench, InfiniBandBench
from tests.source_benches_programs import DcgmDiagBench, DcgmExporterBench, NvidiaSmiBench

BENCHES: dict[str, type[Bench]] = {
    "nvml": NvmlBench,
    "nvml_counters": NvmlCountersBench,
    "nvml_xids": NvmlXidsBench,
    "nvidia_smi": NvidiaSmiBench,
    "kernel_log": KernelLogBench,
    "discovery": DiscoveryBench,
    "dcgm_exporter": DcgmExporterBench,
    "dcgm_diag": DcgmDiagBench,
    "host": HostBench,
    "infiniband": InfiniBandBench,
    "facility": FacilityBench,
}
LASTS = 12
"""Ticks for which trouble lasts."""

REMEDY = re.compile(
    r"\b(run|need|let|make|give|set|check|look|correct)\b[^;]*\b(agent|user|root|credentials|password|login|executable)"
)
"""What to do, with whom or what."""

every_source = pytest.mark.parametrize("name", BENCHES)
every_trouble = pytest.mark.parametrize(
    ("name", "trouble"),
    [(name, trouble) for name, bench in BENCHES.items() for trouble in TROUBLES if trouble not in bench.lacks],
)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


@pytest.fixture
def bench(name: str, tmp_path: Path, catalog: Catalog) -> Iterator[Bench]:
    """The bench of the source `name`. No thread is left behind."""
    before = set(threading.enumerate())
    made = BENCHES[name](tmp_path, catalog)
    yield made
    made.gate.set()
    made.settle()
    made.close()
    deadline = time.monotonic() + 5
    while (left := [each for each in threading.enumerate() if each not in before]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [thread.name for thread in left]


def events(records: list[Record]) -> list[HardwareEvent]:
    return [record for record in records if isinstance(record, HardwareEvent)]


def endure(bench: Bench, *sources: Source, ticks: int) -> list[tuple[list[Record], list[Exception]]]:
    """What each source says, and the errors that it raises, over some ticks."""
    said: list[tuple[list[Record], list[Exception]]] = [([], []) for _ in sources]
    for _ in range(ticks):
        bench.tick()
        for source, (records, errors) in zip(sources, said, strict=True):
            try:
                records.extend(source.read(bench.now_ms))
            except Exception as error:  # noqa: BLE001 - which errors there are is what is asked
                errors.append(error)
        bench.settle()
    return said


@pytest.fixture
def everything(tmp_path: Path, catalog: Catalog) -> Iterator[list[Schedule]]:
    """Every source that a node can have, the real ones."""
    log = tmp_path / "kern.log"
    log.touch()
    settings = AgentSettings(
        node="node-1",
        rack="rack-7",
        kernel_logs=(log,),
        state_dir=tmp_path / "state",
        dcgm_exporter=ExporterSettings(url="http://127.0.0.1:1/metrics"),
        facility=FacilitySettings(bmcs=(BmcSettings(url="http://127.0.0.1:1"),)),
    )
    schedules = sources(settings, Origin("site", "rack-7", "node-1", "boot"), catalog, SimulatedNvml(2))
    yield schedules
    for schedule in schedules:
        if close := getattr(schedule.source, "close", None):
            close()


def test_every_source_of_a_node_has_its_bench(everything: list[Schedule]) -> None:
    assert sorted(schedule.source.name for schedule in everything) == sorted(BENCHES)


def test_a_source_that_is_not_needed_now_has_nothing_to_say(everything: list[Schedule]) -> None:
    local = [one for one in everything if one.source.name not in {"dcgm_exporter", "facility"}]
    spared = set()
    for now_ms in range(1_000_000, 1_005_000, 1_000):
        for schedule in local:
            needed, said = schedule.needed(now_ms), list(schedule.source.read(now_ms))
            spared |= set() if needed else {schedule.source.name}
            assert needed or not said, schedule.source.name
    assert spared == {"nvml_xids", "nvidia_smi", "discovery"}


@every_source
def test_a_bench_says_of_every_trouble_how_it_comes_about_or_why_it_cannot_be(bench: Bench, name: str) -> None:
    assert sorted([*bench.troubles(), *bench.lacks]) == sorted(TROUBLES)
    for trouble in bench.troubles().values():
        assert trouble.told or trouble.raises or trouble.quiet
    assert all(bench.lacks.values())
    assert bench.source().name == name


@every_source
def test_what_it_says_is_of_this_node_known_to_the_catalogue_and_can_be_sent(
    bench: Bench, name: str, catalog: Catalog
) -> None:
    source, codec, records = bench.source(), SingleObjectCodec(), []
    bench.tick(source)
    bench.speak()
    for _ in range(4):
        records += bench.tick(source)[0]
        assert isinstance(source.doing, str)
        assert source.doing

    assert records
    for record in records:
        assert (record.site, record.rack) == ("site", "rack-7")  # type: ignore[attr-defined]
        assert getattr(record, "node", "node-1") == "node-1"
        assert codec.decode(codec.encode(record), type(record)) is not None
        if not isinstance(record, InventoryRecord):
            assert record.sequence == 0  # type: ignore[attr-defined]
            assert record.boot_id == "boot"  # type: ignore[attr-defined]
    for event in events(records):
        assert event.source in bench.says_as
        assert not catalog.of(event).rule.endswith("unknown")
        assert event.event_ms <= event.observed_ms
        assert event.raw


@every_trouble
def test_trouble_is_told_once_for_as_long_as_it_lasts(bench: Bench, name: str, trouble: str, catalog: Catalog) -> None:
    broken, source = bench.troubles()[trouble], bench.source()
    ((healthy, errors),) = endure(bench, source, ticks=4)
    assert errors == []
    assert {event.severity for event in events(healthy)} <= {"info"}

    broken.make()
    ((records, errors),) = endure(bench, source, ticks=LASTS)

    told = Counter((event.kind, event.gpu, event.pci, event.details.get("component")) for event in events(records))
    assert {kind for kind, *_ in told} >= broken.told
    assert all(number == 1 for number in told.values()), told
    if broken.raises:
        # again at each read, so that the agent, which says it once, does not take the source for recovered
        assert len(errors) >= LASTS - 2, records
        assert re.search(broken.raises, str(errors[0])), errors[0]
        assert len({re.sub("[0-9.]+ s", "", str(error)) for error in errors}) == 1
    else:
        assert errors == []
    if broken.quiet:
        assert {event.severity for event in events(records)} <= {"info"}
    for event in events(records):
        assert not catalog.of(event).rule.endswith("event.unknown"), event.kind
        assert event.raw


@pytest.mark.parametrize("name", [name for name, bench in BENCHES.items() if "is_forbidden" not in bench.lacks])
def test_a_permission_that_is_missing_is_named_with_what_helps(bench: Bench, name: str) -> None:
    broken, source = bench.troubles()["is_forbidden"], bench.source()
    endure(bench, source, ticks=3)
    broken.make()

    ((records, errors),) = endure(bench, source, ticks=3)

    said = " ".join([*map(str, errors), *(event.raw for event in events(records))])
    assert broken.quiet or REMEDY.search(said), said


@every_trouble
def test_after_trouble_it_reads_on(bench: Bench, name: str, trouble: str) -> None:
    broken, source = bench.troubles()[trouble], bench.source()
    endure(bench, source, ticks=2)
    bench.speak()
    ((healthy, _),) = endure(bench, source, ticks=3)
    broken.make()
    endure(bench, source, ticks=5)
    bench.heal()
    bench.now_s += 900  # whatever it waits for has passed
    endure(bench, source, ticks=3)
    bench.speak()

    ((records, errors),) = endure(bench, source, ticks=3)

    assert errors == []
    assert {event.severity for event in events(records)} <= {"info", "warning"}
    assert {type(record) for record in healthy} <= {type(record) for record in records} | {InventoryRecord}


@every_trouble
def test_the_same_cause_has_the_same_id_whoever_reads_it(bench: Bench, name: str, trouble: str) -> None:
    broken, one, other = bench.troubles()[trouble], bench.source(), bench.source("other")
    endure(bench, one, other, ticks=3)
    broken.make()

    (mine, _), (theirs, _) = endure(bench, one, other, ticks=5)

    def ids(records: list[Record]) -> set[str]:
        return {event.event_id for event in events(records) if event.kind in broken.told}

    kinds = {event.kind for event in events([*mine, *theirs])}
    if name in {"dcgm_diag", "nvml_xids"}:  # one of them takes the request, or the driver's event
        assert len(ids([*mine, *theirs])) == len([kind for kind in kinds if kind in broken.told])
    else:
        assert ids(mine) == ids(theirs)
    assert len(ids(mine)) == len([event for event in events(mine) if event.kind in broken.told])


@every_source
def test_one_that_hangs_says_at_what_and_holds_up_nobody(bench: Bench, name: str) -> None:
    source = bench.source()
    bench.tick(source)
    bench.tick(source)
    bench.hang()
    bench.now_s += bench.period_s
    out: queue.SimpleQueue[Reading] = queue.SimpleQueue()
    hanging, healthy = Worker(source, out.put), Worker(_Healthy(), out.put)

    assert hanging.order(bench.now_ms)
    _until(lambda: hanging.busy_s() > 0.15)
    doing = source.doing
    assert not hanging.order(bench.now_ms + 1_000)
    assert healthy.order(bench.now_ms)
    assert out.get(timeout=5).source == "healthy"
    assert hanging.busy_s() > 0.15
    bench.gate.set()
    reading = out.get(timeout=10)

    assert doing not in {"", "nothing", "nothing yet"}
    assert reading.source == name
    assert reading.error is None
    assert hanging.close(5)
    assert healthy.close(5)


class _Healthy:
    name = "healthy"
    doing = "well"

    def read(self, _: int) -> list[Record]:
        return []


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)
