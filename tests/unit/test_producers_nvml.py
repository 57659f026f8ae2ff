from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pynvml
import pytest

from producers.discovery import Roster
from producers.nvml import NvmlSource
from producers.nvml.interface import NvmlError
from producers.nvml.metric_table import COLUMNS
from producers.simulate.nvml import SimulatedNvml
from producers.source import Origin
from schemas import registry
from schemas.catalog import Catalog, load
from schemas.records import GpuSample, HardwareEvent, Record

ORIGIN = Origin("site", "rack", "node-1", "boot")
FLOATS = [name for name in COLUMNS if name != "throttle_reasons"]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


@dataclass
class Node:
    """A node with a simulated NVML, and time that passes when it is told to."""

    catalog: Catalog
    nvml: SimulatedNvml
    roster: Roster = field(default_factory=Roster)
    now_s: float = 1_000.0
    gpu_on_bus: bool = True

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.source = NvmlSource(
            ORIGIN,
            self.catalog,
            self.nvml,
            self.roster,
            wall_ms=lambda: int(self.now_s * 1000) + 7,
            clock=lambda: self.now_s,
            gpu_on_bus=lambda: self.gpu_on_bus,
        )

    def tick(self, seconds: float = 1.0) -> tuple[GpuSample | None, list[HardwareEvent]]:
        self.now_s += seconds
        records: list[Record] = list(self.source.read(int(self.now_s * 1000)))
        samples = [record for record in records if isinstance(record, GpuSample)]
        assert len(samples) <= 1
        return (samples[0] if samples else None), [r for r in records if isinstance(r, HardwareEvent)]

    def ticks(self, count: int) -> tuple[GpuSample, list[HardwareEvent]]:
        events: list[HardwareEvent] = []
        for _ in range(count):
            sample, found = self.tick()
            events += found
        assert sample is not None
        return sample, events


@pytest.fixture
def node(catalog: Catalog) -> Node:
    return Node(catalog, SimulatedNvml(gpus=8))


def kinds(events: list[HardwareEvent]) -> list[str]:
    return [event.kind for event in events]


def test_every_float_metric_of_the_contract_has_a_way_to_be_read() -> None:
    schema = registry.current("GpuSample").parsed["fields"]
    arrays = [field["name"] for field in schema if isinstance(field["type"], dict)]

    assert [name for name in arrays if name not in ("gpus", "gpu_index")] == list(COLUMNS)


def test_a_healthy_node_reads_every_metric_of_every_gpu_in_the_units_of_their_names(node: Node) -> None:
    node.tick()
    sample, events = node.tick()

    assert events == []
    assert sample is not None
    assert sample.gpus == [f"165432100{index:04d}" for index in range(8)]
    assert sample.gpu_index == list(range(8))
    assert sample.tick_ms == 1_002_000
    assert sample.observed_ms == 1_002_007
    assert sample.throttle_reasons == [0] * 8
    for name in FLOATS:
        column = getattr(sample, name)
        if name == "fan_speed_percent":  # nobody on the node has a fan
            assert column == []
        else:
            assert len(column) == 8, name
            assert not any(math.isnan(value) for value in column), name
    assert sample.power_watts == [612.0] * 8
    assert sample.power_average_watts == [609.5] * 8
    assert sample.nvlink_links_active == [18.0] * 8
    assert 0.97 * 120.5 * 2**20 <= sample.pcie_tx_bytes_per_second[0] <= 120.5 * 2**20


def test_rates_of_running_totals_are_per_second_and_nothing_is_made_up_before_the_second_reading(node: Node) -> None:
    for gpu in node.nvml.gpus:
        gpu.fails["gpm"] = pynvml.NVML_ERROR_NOT_SUPPORTED
        gpu.says["fields"] = (66, 612_000, 609_500, 1_000_000, 0, 18)

    first, _ = node.tick()
    for gpu in node.nvml.gpus:
        gpu.says["fields"] = (66, 612_000, 609_500, 3_000_000, 500, 18)
    second, _ = node.tick(seconds=2)
    for gpu in node.nvml.gpus:  # the driver was loaded again: totals begin anew
        gpu.says["fields"] = (66, 612_000, 609_500, 10, 600, 18)
    third, events = node.tick()

    assert first is not None
    assert second is not None
    assert third is not None
    assert all(math.isnan(value) for value in first.nvlink_tx_bytes_per_second)
    assert second.nvlink_tx_bytes_per_second == [1_000_000 * 1024.0] * 8
    assert second.nvlink_rx_bytes_per_second == [250 * 1024.0] * 8
    assert all(math.isnan(value) for value in third.nvlink_tx_bytes_per_second)
    assert third.nvlink_rx_bytes_per_second == [100 * 1024.0] * 8
    assert events == []


def test_an_older_gpu_is_read_by_other_ways_and_what_nobody_offers_is_an_empty_column(node: Node) -> None:
    for gpu in node.nvml.gpus:
        gpu.fails |= {"gpm": pynvml.NVML_ERROR_NOT_SUPPORTED, "margin": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND}

    sample, events = node.ticks(2)

    assert events == []
    assert sample.sm_active_percent == []
    assert sample.temperature_margin_celsius == []
    assert sample.pcie_tx_bytes_per_second == [126_000 * 1000.0] * 8
    assert not any(math.isnan(value) for value in sample.nvlink_tx_bytes_per_second)


def test_a_metric_that_one_gpu_does_not_offer_is_nan_for_it_and_asked_again_only_now_and_then(node: Node) -> None:
    asked: list[str] = []
    gpu = node.nvml.gpus[3]
    gpu.fails["bar1"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    real = node.nvml.read

    def counting(handle: object, call: str) -> object:
        if handle is gpu and call == "bar1":
            asked.append(call)
        return real(handle, call)  # type: ignore[arg-type]

    node.nvml.read = counting  # type: ignore[method-assign,assignment]
    sample, events = node.ticks(290)

    assert events == []
    assert math.isnan(sample.bar1_used_bytes[3])
    assert sample.bar1_used_bytes[4] == 3_000_000
    assert len(asked) == 1

    gpu.fails.clear()
    sample, _ = node.ticks(20)
    assert sample.bar1_used_bytes[3] == 3_000_000


def test_a_gpu_that_is_lost_is_one_event_and_its_column_stays_all_nan(node: Node) -> None:
    node.ticks(3)
    node.nvml.gpus[5].lost = True

    sample, events = node.tick()
    later, more = node.ticks(100)

    assert sample is not None
    assert [(event.kind, event.gpu, event.pci) for event in events] == [
        ("gpu_lost", node.nvml.gpus[5].serial, node.nvml.gpus[5].pci)
    ]
    assert (events[0].severity, events[0].action, events[0].source) == ("critical", "reboot_node", "nvml")
    assert more == []
    for seen in (sample, later):
        assert seen.gpus[5] == node.nvml.gpus[5].serial
        assert seen.throttle_reasons[5] == -1
        for name in FLOATS:
            if column := getattr(seen, name):
                assert math.isnan(column[5]), name
                assert not math.isnan(column[4]), name


def test_a_lost_gpu_is_not_asked_each_tick(node: Node) -> None:
    node.ticks(2)
    node.nvml.gpus[5].lost = True
    node.ticks(2)
    before = node.nvml.calls
    node.tick()
    with_seven = node.nvml.calls - before
    node.nvml.gpus[6].lost = True
    node.tick()
    before = node.nvml.calls
    node.tick()

    assert node.nvml.calls - before < with_seven


def test_a_lost_gpu_that_answers_again_is_read_again_and_said_so(node: Node) -> None:
    node.ticks(2)
    node.nvml.gpus[5].lost = True
    node.ticks(5)
    node.nvml.gpus[5].lost = False

    sample, events = node.ticks(31)

    assert [(event.kind, event.gpu) for event in events] == [("gpu_found", node.nvml.gpus[5].serial)]
    assert sample.temperature_celsius[5] == 58


def test_a_gpu_that_vanishes_is_missed_within_two_ticks_and_keeps_its_column(node: Node) -> None:
    node.ticks(2)
    gone = node.nvml.gpus[2]
    gone.present = False

    sample, events = node.ticks(2)
    later, more = node.ticks(100)

    assert [(event.kind, event.gpu) for event in events] == [("gpu_count_changed", None), ("gpu_lost", gone.serial)]
    assert len(sample.gpus) == 8
    column = dict(zip(later.gpus, later.temperature_celsius, strict=True))
    assert math.isnan(column.pop(str(gone.serial)))
    assert set(column.values()) == {58.0}
    assert more == []


def test_a_gpu_that_vanished_while_the_agent_was_down_is_missed_all_the_same(catalog: Catalog, tmp_path: Path) -> None:
    node = Node(catalog, SimulatedNvml(gpus=8), Roster(tmp_path / "gpus.json"))
    node.ticks(2)
    node.nvml.gpus[7].present = False
    node.roster = Roster(tmp_path / "gpus.json")
    node.restart()

    sample, events = node.tick()

    assert [(event.kind, event.gpu) for event in events] == [("gpu_lost", node.nvml.gpus[7].serial)]
    assert sample is not None
    assert math.isnan(sample.temperature_celsius[7])


def test_a_gpu_that_was_replaced_is_not_missed(catalog: Catalog, tmp_path: Path) -> None:
    node = Node(catalog, SimulatedNvml(gpus=8), Roster(tmp_path / "gpus.json"))
    node.ticks(2)
    node.nvml.gpus[7].serial, node.nvml.gpus[7].uuid = "1650000000042", "GPU-new"
    node.roster = Roster(tmp_path / "gpus.json")
    node.restart()

    sample, events = node.ticks(2)

    assert events == []
    assert sample.gpus[7] == "1650000000042"
    assert len(sample.gpus) == 8


def test_a_gpu_that_was_lost_before_it_could_say_who_it_is_is_reported_once(catalog: Catalog) -> None:
    nvml = SimulatedNvml(gpus=8)
    nvml.gpus[0].lost = True
    node = Node(catalog, nvml)

    sample, events = node.ticks(50)

    assert [(event.kind, event.details["index"]) for event in events] == [("gpu_lost", "0")]
    assert len(sample.gpus) == 7


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_RESET_REQUIRED])
def test_a_gpu_of_which_nothing_can_be_read_is_one_event_until_it_answers(node: Node, error: int) -> None:
    node.ticks(2)
    node.nvml.gpus[1].fails["*"] = error

    sample, events = node.ticks(20)

    assert [(event.kind, event.gpu) for event in events] == [("gpu_unreadable", node.nvml.gpus[1].serial)]
    assert str(pynvml.NVMLError(error)) in events[0].raw
    assert math.isnan(sample.temperature_celsius[1])

    node.nvml.gpus[1].fails.clear()
    sample, events = node.ticks(2)
    assert kinds(events) == ["gpu_found"]
    assert sample.temperature_celsius[1] == 58


def test_a_gpu_that_says_not_supported_to_everything_is_unreadable_and_not_fine(node: Node) -> None:
    node.ticks(2)
    node.nvml.gpus[1].fails["*"] = pynvml.NVML_ERROR_NOT_SUPPORTED

    _, events = node.ticks(3)

    assert kinds(events) == ["gpu_unreadable"]


def test_a_metric_that_fails_is_one_event_that_names_it_and_the_others_are_read(node: Node) -> None:
    node.ticks(2)
    node.nvml.gpus[4].fails["sm_clock"] = pynvml.NVML_ERROR_UNKNOWN

    sample, events = node.ticks(60)

    assert [(event.kind, event.gpu, event.details) for event in events] == [
        ("metric_unreadable", node.nvml.gpus[4].serial, {"metrics": "sm_clock_mhz"})
    ]
    assert math.isnan(sample.sm_clock_mhz[4])
    assert sample.temperature_celsius[4] == 58


def test_a_metric_that_comes_and_goes_does_not_flood(node: Node) -> None:
    node.ticks(2)
    reported = 0
    for second in range(600):
        node.nvml.gpus[4].fails = {"sm_clock": pynvml.NVML_ERROR_UNKNOWN} if second % 2 else {}
        reported += len(node.tick()[1])

    assert 1 <= reported <= 3


@pytest.mark.parametrize(
    ("call", "answer", "metric"),
    [
        ("temperature", (4_294_967_295,), "temperature_celsius"),
        ("fields", (66, 4_294_967_295, 609_500, 0, 0, 18), "power_watts"),
        ("fields", (0, 612_000, 609_500, 0, 0, 18), "memory_temperature_celsius"),
        ("pstate", (32,), "performance_state"),
        ("utilization", (250, 10), "gpu_utilization_percent"),
        ("sm_clock", (-1,), "sm_clock_mhz"),
    ],
)
def test_a_value_that_cannot_be_is_nan_and_reported(
    node: Node, call: str, answer: tuple[float, ...], metric: str
) -> None:
    node.ticks(2)
    node.nvml.gpus[0].says[call] = answer

    sample, events = node.ticks(3)

    assert math.isnan(getattr(sample, metric)[0])
    assert kinds(events) == ["metric_unreadable"]
    assert metric in events[0].details["metrics"]
    assert "cannot be" in events[0].raw


def test_a_driver_that_goes_away_is_one_event_and_every_known_gpu_is_nan_until_it_is_back(node: Node) -> None:
    node.ticks(2)
    node.nvml.driver_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED

    sample, events = node.ticks(45)

    assert kinds(events) == ["driver_unavailable"]
    assert events[0].severity == "critical"
    assert len(sample.gpus) == 8
    assert all(math.isnan(value) for value in sample.temperature_celsius)

    node.nvml.driver_error = None
    sample, events = node.ticks(31)
    assert kinds(events) == ["driver_recovered"]
    assert sample.temperature_celsius == [58.0] * 8


def test_a_node_whose_driver_is_missing_from_the_start_says_so_once(catalog: Catalog) -> None:
    node = Node(catalog, SimulatedNvml())
    node.nvml.driver_error = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND

    found = [node.tick() for _ in range(100)]

    assert [event.kind for _, events in found for event in events] == ["driver_unavailable"]
    assert all(sample is None for sample, _ in found)


def test_a_machine_without_a_gpu_is_no_fault(catalog: Catalog) -> None:
    node = Node(catalog, SimulatedNvml(), gpu_on_bus=False)
    node.nvml.driver_error = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND

    found = [node.tick() for _ in range(100)]

    assert found == [(None, [])] * 100
    assert node.source.identities() == []


def test_two_gpus_that_report_the_serial_of_their_common_board_are_told_apart_by_uuid(catalog: Catalog) -> None:
    nvml = SimulatedNvml(gpus=4)
    nvml.gpus[2].serial = nvml.gpus[3].serial = "1320000000001"
    node = Node(catalog, nvml)

    sample, events = node.ticks(3)

    assert events == []
    assert sample.gpus == [nvml.gpus[0].serial, nvml.gpus[1].serial, nvml.gpus[2].uuid, nvml.gpus[3].uuid]


def test_the_same_trouble_at_another_time_is_another_event(node: Node) -> None:
    node.ticks(2)
    ids = []
    for _ in range(2):
        node.nvml.gpus[5].lost = True
        ids += [event.event_id for event in node.ticks(2)[1]]
        node.nvml.gpus[5].lost = False
        node.ticks(40)

    assert len(set(ids)) == 2


def test_a_driver_that_answers_only_in_part_is_let_go_before_it_is_opened_again(catalog: Catalog) -> None:
    nvml = SimulatedNvml(gpus=2)
    held = 0
    real_open, real_handle = nvml.open, nvml.handle

    def opened() -> None:
        nonlocal held
        real_open()
        held += 1

    def closed() -> None:
        nonlocal held
        held -= 1

    def gone(_: int) -> object:
        raise NvmlError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded")

    nvml.open, nvml.close, nvml.handle = opened, closed, gone  # type: ignore[method-assign,assignment]
    node = Node(catalog, nvml)

    for _ in range(100):
        node.tick()
    assert held == 0

    nvml.handle = real_handle  # type: ignore[method-assign]
    sample, _ = node.ticks(31)
    assert held == 1
    assert sample.temperature_celsius == [58, 58]


def test_a_driver_that_was_updated_under_the_agent_says_what_to_do(node: Node) -> None:
    node.ticks(2)
    node.nvml.driver_error = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH

    _, (event,) = node.tick()

    assert event.kind == "driver_unavailable"
    assert "restart it" in event.raw


def test_other_sources_are_given_the_gpus_that_can_be_asked(node: Node) -> None:
    assert node.source.handles() is None
    node.ticks(2)
    node.nvml.gpus[5].lost = True
    node.tick()
    shown = node.source.handles()
    assert shown is not None
    assert [handle is not None for _, handle in shown] == [index != 5 for index in range(8)]

    node.nvml.driver_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    node.tick()
    shown = node.source.handles()
    assert shown is not None
    assert [handle for _, handle in shown] == [None] * 8
