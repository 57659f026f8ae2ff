"""XIDs by NVML's event set, over the simulated NVML: they speak only where no kernel log does."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pynvml
import pytest

from producers.discovery import Roster
from producers.nvml import NvmlSource
from producers.nvml.interface import NvmlError, Watch, Xid
from producers.nvml.xids import AT_ONCE, NvmlXidSource, XidWatchError
from producers.simulate.nvml import SimulatedNvml
from producers.source import Origin
from schemas.catalog import Catalog, load
from schemas.records import HardwareEvent

ORIGIN = Origin("site", "rack", "node-1", "boot")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


@dataclass
class Node:
    catalog: Catalog
    nvml: SimulatedNvml = field(default_factory=lambda: SimulatedNvml(gpus=2))
    wanted: bool = True
    now_s: float = 1_000.0

    def __post_init__(self) -> None:
        self.fast = NvmlSource(ORIGIN, self.catalog, self.nvml, Roster(), clock=lambda: self.now_s)
        self.xids = NvmlXidSource(
            ORIGIN,
            self.catalog,
            self.nvml,
            self.fast.handles,
            lambda: self.wanted,
            wall_ms=lambda: int(self.now_s * 1000) + 7,
        )

    def tick(self, seconds: float = 1.0) -> list[HardwareEvent]:
        self.now_s += seconds
        now_ms = int(self.now_s * 1000)
        list(self.fast.read(now_ms))
        records = list(self.xids.read(now_ms))
        events = [record for record in records if isinstance(record, HardwareEvent)]
        assert len(events) == len(records)
        return events


@pytest.fixture
def node(catalog: Catalog) -> Node:
    return Node(catalog)


def test_an_xid_is_an_event_of_its_gpu_judged_by_the_catalogue(node: Node, catalog: Catalog) -> None:
    node.tick()
    gpu = node.nvml.gpus[1]
    gpu.xids.append(79)

    (event,) = node.tick()

    assert (event.kind, event.code, event.source) == ("xid", 79, "nvml")
    assert (event.gpu, event.pci, event.count) == (gpu.serial, gpu.pci, 1)
    entry = catalog.entry("xid", 79)
    assert (event.severity, event.action) == (entry.severity, entry.action) == ("critical", "reboot_node")
    assert (event.event_ms, event.observed_ms) == (1_002_000, 1_002_007)
    assert "XID 79" in event.raw
    assert node.tick() == []


def test_a_storm_is_one_event_with_the_exact_count(node: Node) -> None:
    node.tick()
    node.nvml.gpus[0].xids.extend([31] * 700 + [43])
    node.nvml.gpus[1].xids.extend([31] * 5)

    events = node.tick()

    assert [(event.gpu, event.code, event.count) for event in events] == [
        (node.nvml.gpus[0].serial, 31, 700),
        (node.nvml.gpus[0].serial, 43, 1),
        (node.nvml.gpus[1].serial, 31, 5),
    ]
    assert len({event.event_id for event in events}) == 3


def test_what_one_read_cannot_take_the_next_one_does(node: Node) -> None:
    node.tick()
    node.nvml.gpus[0].xids.extend([31] * (AT_ONCE + 3))

    assert [event.count for event in node.tick()] == [AT_ONCE]
    assert [event.count for event in node.tick()] == [3]


def test_it_says_nothing_while_a_kernel_log_can_be_read(node: Node) -> None:
    node.wanted = False
    node.tick()
    node.nvml.gpus[0].xids.append(79)
    assert node.tick() == []

    node.wanted = True
    assert node.tick() == []  # what came before it was wanted is not its to tell
    node.nvml.gpus[0].xids.append(48)
    assert [event.code for event in node.tick()] == [48]


def test_a_gpu_that_is_found_later_is_watched_too(node: Node) -> None:
    node.nvml.gpus[1].present = False
    node.tick()
    node.nvml.gpus[1].present = True
    node.tick()
    node.nvml.gpus[1].xids.append(63)

    assert [(event.gpu, event.code) for event in node.tick()] == [(node.nvml.gpus[1].serial, 63)]


def test_a_lost_gpu_leaves_the_others_watched(node: Node) -> None:
    node.tick()
    node.nvml.gpus[0].lost = True
    node.tick()
    node.nvml.gpus[1].xids.append(45)

    assert [event.code for event in node.tick()] == [45]


def test_a_driver_that_goes_and_comes_back_is_watched_again(node: Node) -> None:
    node.tick()
    node.nvml.driver_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    assert [node.tick() for _ in range(3)] == [[], [], []]
    node.nvml.driver_error = None
    node.tick(31)
    node.nvml.gpus[0].xids.append(48)

    assert [event.code for event in node.tick()] == [48]


def test_a_machine_that_offers_no_events_says_what_would_help(node: Node) -> None:
    node.nvml.watch_error = pynvml.NVML_ERROR_NOT_SUPPORTED

    with pytest.raises(XidWatchError, match="Not Supported.*CAP_SYSLOG"):
        node.tick()

    node.nvml.watch_error = None
    assert node.tick() == []


def test_xids_that_came_before_the_trouble_are_told(node: Node) -> None:
    class Breaking:
        def __init__(self, watch: Watch) -> None:
            self.told = [Xid(node.nvml.gpus[0], 48)]

        def wait(self, timeout_ms: int) -> Xid | None:
            if self.told:
                return self.told.pop()
            raise NvmlError(pynvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost")

        def close(self) -> None: ...

    real = node.nvml.watch
    node.nvml.watch = lambda handles: Breaking(real(handles))  # type: ignore[method-assign]

    assert [event.code for event in node.tick()] == [48]


def test_a_wait_that_hangs_is_named(catalog: Catalog) -> None:
    node = Node(catalog)
    inside, release = threading.Event(), threading.Event()

    class Hanging:
        def wait(self, timeout_ms: int) -> Xid | None:
            inside.set()
            release.wait(20)
            return None

        def close(self) -> None: ...

    node.nvml.watch = lambda handles: Hanging()  # type: ignore[method-assign]
    list(node.fast.read(1_000))
    reading = threading.Thread(target=lambda: list(node.xids.read(1_000)))
    reading.start()
    try:
        assert inside.wait(20)
        assert node.xids.doing == "waiting for XIDs"
    finally:
        release.set()
        reading.join(20)
