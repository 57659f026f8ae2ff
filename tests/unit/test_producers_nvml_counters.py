"""The slow group over the simulated NVML: what is read, what is news, and what happens where nothing can be read."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import msgspec
import pynvml
import pytest

from producers.discovery import Roster, inventory
from producers.nvml import NvmlSource
from producers.nvml.conditions import LINK_DOWN, OVER, RULES
from producers.nvml.counter_calls import COUNTER_CALLS
from producers.nvml.counter_table import LINKS, NOT_TOLD, NUMBERS, WORDS, Call, Way
from producers.nvml.counters import NvmlCountersSource
from producers.settings import AgentSettings
from producers.simulate.nvml import SimulatedNvml
from producers.source import Origin
from schemas import registry
from schemas.catalog import Catalog, load
from schemas.codec import SingleObjectCodec
from schemas.records import GpuCounters, HardwareEvent

ORIGIN = Origin("site", "rack", "node-1", "boot")
PENDING, FAILED = (0, 1, 1, 0), (0, 1, 1, 1)
GIB = 1 << 30


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


@dataclass
class Node:
    """A node whose fast source finds the GPUs; `read` is one reading of the slow one, half a minute later."""

    catalog: Catalog
    nvml: SimulatedNvml
    now_s: float = 1_000.0

    def __post_init__(self) -> None:
        self.fast = NvmlSource(ORIGIN, self.catalog, self.nvml, Roster(), clock=lambda: self.now_s)
        self.slow = NvmlCountersSource(
            ORIGIN,
            self.catalog,
            self.nvml,
            self.fast.handles,
            wall_ms=lambda: int(self.now_s * 1000) + 7,
            clock=lambda: self.now_s,
        )

    def read(self, seconds: float = 30.0) -> tuple[GpuCounters | None, list[HardwareEvent]]:
        self.now_s += seconds
        list(self.fast.read(int(self.now_s * 1000)))
        records = list(self.slow.read(int(self.now_s * 1000)))
        counters = [record for record in records if isinstance(record, GpuCounters)]
        assert len(counters) <= 1
        return (counters[0] if counters else None), [r for r in records if isinstance(r, HardwareEvent)]

    def reads(self, count: int = 1, seconds: float = 30.0) -> tuple[GpuCounters, list[HardwareEvent]]:
        events: list[HardwareEvent] = []
        for _ in range(count):
            counters, found = self.read(seconds)
            events += found
        assert counters is not None
        return counters, events


@pytest.fixture
def node(catalog: Catalog) -> Node:
    return Node(catalog, SimulatedNvml(gpus=4))


def told(events: list[HardwareEvent]) -> list[tuple[str, str | None]]:
    return [(event.kind, event.gpu) for event in events]


def columns() -> list[str]:
    schema = registry.current("GpuCounters").parsed["fields"]
    return [field["name"] for field in schema if isinstance(field["type"], dict) and "gpu" not in field["name"]]


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_column_of_the_contract_has_a_way_to_be_read_or_is_said_to_have_none() -> None:
    rows = [*NUMBERS, *LINKS, *WORDS]

    assert {row.name for row in rows} | NOT_TOLD == set(columns())
    assert len({row.name for row in rows}) == len(rows)


def test_every_way_names_a_call_that_has_that_many_numbers_or_a_field_of_nvml() -> None:
    ways: list[Way] = [way for row in (*NUMBERS, *WORDS) for way in row.ways]
    ways += [way for row in LINKS for link in range(pynvml.NVML_NVLINK_MAX_LINKS) for way in row.ways(link)]

    for way in ways:
        if isinstance(way, Call):
            assert way.place < len(COUNTER_CALLS[way.call].units), way
        else:
            assert 0 < way.field < pynvml.NVML_FI_MAX, way


def test_every_call_of_the_slow_group_is_used() -> None:
    ways = [way for row in (*NUMBERS, *WORDS) for way in row.ways]
    ways += [way for row in LINKS for link in range(pynvml.NVML_NVLINK_MAX_LINKS) for way in row.ways(link)]
    used = {way.call for way in ways if isinstance(way, Call)}
    aggregate_parts = {
        f"ecc.aggregate.{kind}.{place}"
        for kind in ("correctable", "uncorrectable")
        for place in ("register_file", "l1_cache", "l2_cache")
    }

    assert COUNTER_CALLS.keys() - used == aggregate_parts  # the contract has these since the driver loaded only


def test_every_kind_of_news_is_in_the_catalogue(catalog: Catalog) -> None:
    for kind in [rule.kind for rule in RULES] + [OVER, LINK_DOWN]:
        assert catalog.entry(kind).rule == f"event.{kind}"


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_healthy_gpu_gives_its_counters_limits_and_modes_in_the_units_of_their_names(node: Node) -> None:
    counters, events = node.reads()

    assert events == []
    assert counters.gpus == [gpu.serial for gpu in node.nvml.gpus]
    assert (counters.source, counters.interval_ms, counters.observed_ms) == ("nvml", 30_000, 1_030_007)
    assert counters.ecc_volatile_uncorrectable == [0.0] * 4
    assert counters.row_remap_banks_max == [2560.0] * 4
    assert counters.pcie_replays == [9.0] * 4
    assert (counters.pcie_width[0], counters.pcie_generation_max[0]) == (16.0, 5.0)
    assert counters.throttled_sw_power_cap_us == [5_000_000.0] * 4
    assert counters.throttled_sw_thermal_us == [250_000.0] * 4
    assert counters.energy_joules == [86_400_000.0] * 4
    assert counters.power_limit_watts == [700.0] * 4
    assert (counters.power_limit_min_watts[0], counters.power_limit_max_watts[0]) == (200.0, 700.0)
    assert counters.temperature_margin_shutdown_celsius == [-8.0] * 4
    assert (counters.memory_total_bytes[0], counters.memory_reserved_bytes[0]) == (80.0 * GIB, 600.0 * (1 << 20))
    assert (counters.mig_mode, counters.ecc_mode) == (["disabled"] * 4, ["enabled"] * 4)
    assert (counters.fabric_state[0], counters.fabric_status[0], counters.fabric_health[0]) == (
        "completed",
        "success",
        "healthy",
    )
    assert (counters.recovery_action, counters.compute_mode) == (["none"] * 4, ["default"] * 4)
    assert counters.nvlink_link_active == [[1.0] * 18] * 4
    assert counters.nvlink_link_speed_mbps == [[212_496.0] * 18] * 4  # NVML: 26,562 megabytes a second
    assert (counters.nvlink_symbol_errors[0], counters.nvlink_replays[0]) == (54.0, 0.0)


def test_what_nobody_on_the_node_offers_is_an_empty_column(node: Node) -> None:
    counters, events = node.reads(3)

    assert events == []
    for name in (
        "retired_pages_single_bit",
        "ecc_volatile_l1_cache_correctable",
        "pcie_generation_host_max",
        "last_xid",
        "nvlink_link_crc_data_errors",
    ):
        assert getattr(counters, name) == [], name


def test_what_one_gpu_does_not_offer_is_nan_for_it_and_asked_again_only_now_and_then(node: Node) -> None:
    asked: list[float] = []
    gpu = node.nvml.gpus[2]
    gpu.fails["remap_histogram"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    real = node.nvml.read

    def counting(handle: Any, call: str) -> Any:
        if handle is gpu and call == "remap_histogram":
            asked.append(node.now_s)
        return real(handle, call)

    node.nvml.read = counting  # type: ignore[method-assign]
    counters, events = node.reads(59)

    assert events == []
    assert math.isnan(counters.row_remap_banks_max[2])
    assert counters.row_remap_banks_max[1] == 2560
    assert len(asked) == 1

    gpu.fails.clear()
    counters, _ = node.reads(3)
    assert counters.row_remap_banks_max[2] == 2560


def test_an_older_gpu_is_read_by_the_fields_of_its_links(node: Node) -> None:
    for gpu in node.nvml.gpus:
        gpu.says["nvlink_count"] = (12,)
        for link in range(18):
            for number in (pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY, pynvml.NVML_FI_DEV_NVLINK_GET_SPEED):
                gpu.fields[number, link] = node.nvml.error(pynvml.NVML_ERROR_NOT_SUPPORTED)
        for link in range(12):
            gpu.fields[getattr(pynvml, f"NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_L{link}"), 0] = link
        gpu.fields[pynvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON, 0] = 25_781

    counters, events = node.reads()

    assert events == []
    assert counters.nvlink_link_replays == [[float(link) for link in range(12)]] * 4
    assert counters.nvlink_replays == [66.0] * 4
    assert counters.nvlink_link_speed_mbps == [[206_248.0] * 12] * 4


def test_a_total_is_never_a_sum_that_lacks_a_link(node: Node) -> None:
    gpu = node.nvml.gpus[0]
    gpu.fields[pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY, 3] = node.nvml.error(pynvml.NVML_ERROR_UNKNOWN)

    counters, events = node.reads()

    assert math.isnan(counters.nvlink_link_replays[0][3])
    assert math.isnan(counters.nvlink_replays[0])
    assert counters.nvlink_replays[1] == 0
    assert told(events) == [("metric_unreadable", gpu.serial)]

    gpu.fields[pynvml.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, 0] = 41
    counters, _ = node.reads(1, 3600)
    assert counters.nvlink_replays[0] == 41


def test_a_gpu_without_nvlink_among_others_has_no_links(node: Node) -> None:
    node.nvml.gpus[1].fails["nvlink_count"] = pynvml.NVML_ERROR_NOT_SUPPORTED

    counters, events = node.reads()

    assert events == []
    assert counters.nvlink_link_active[1] == []
    assert len(counters.nvlink_link_active[0]) == 18
    assert math.isnan(counters.nvlink_symbol_errors[1])


@pytest.mark.parametrize(
    ("call", "answer", "column"),
    [
        ("pcie.replays", (0xFFFFFFFF,), "pcie_replays"),
        ("ecc.volatile.uncorrectable", (2**64 - 1,), "ecc_volatile_uncorrectable"),
        ("threshold.shutdown", (0,), "temperature_shutdown_celsius"),
        ("remapped_rows", (0, 0, 7, 0), "row_remap_pending"),
    ],
)
def test_a_value_that_cannot_be_is_nan_and_reported_once(
    node: Node, call: str, answer: tuple[float, ...], column: str
) -> None:
    node.nvml.gpus[0].says[call] = answer

    counters, events = node.reads(10)

    assert math.isnan(getattr(counters, column)[0])
    assert told(events) == [("metric_unreadable", node.nvml.gpus[0].serial)]
    assert events[0].details == {"metrics": column}


def test_what_needs_a_permission_says_which(node: Node) -> None:
    node.nvml.gpus[0].fails["retired_pages.pending"] = pynvml.NVML_ERROR_NO_PERMISSION

    _, events = node.reads(3)

    assert "run the agent as root" in events[0].raw
    assert len(events) == 1


def test_a_record_can_be_sent(node: Node) -> None:
    node.reads()
    node.nvml.gpus[1].lost = True
    counters, _ = node.reads()

    codec = SingleObjectCodec()
    again = codec.decode(codec.encode(counters), GpuCounters)

    assert again.fabric_state == counters.fabric_state
    assert again.nvlink_link_active[0] == counters.nvlink_link_active[0]
    assert math.isnan(again.nvlink_link_active[1][17])


# --- what is gone -----------------------------------------------------------------------------------------------------


def test_a_lost_gpu_is_a_column_of_nan_and_the_fast_source_alone_reports_it(node: Node) -> None:
    node.reads()
    gone = node.nvml.gpus[3]
    gone.lost = True

    counters, events = node.reads(5)

    assert events == []
    assert counters.gpus[3] == gone.serial
    for name in columns():
        column = getattr(counters, name)
        if column and isinstance(column[0], list):
            assert all(map(math.isnan, column[3])), name
        elif column:
            assert column[3] is None or math.isnan(column[3]), name
            assert column[0] is not None, name


def test_a_gpu_that_is_lost_while_it_is_read_costs_no_other_gpu(node: Node) -> None:
    node.reads()
    node.nvml.gpus[1].fails["energy"] = pynvml.NVML_ERROR_GPU_IS_LOST

    counters, events = node.reads()

    assert events == []
    assert math.isnan(counters.pcie_width[1])
    assert counters.pcie_width[2] == 16


def test_while_the_driver_is_gone_everything_is_nan_and_nothing_is_asked(node: Node) -> None:
    node.reads()
    node.nvml.driver_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    counters, events = node.reads()
    before = node.nvml.calls
    counters, more = node.reads(2, seconds=5)

    assert events == more == []
    assert node.nvml.calls == before
    assert all(map(math.isnan, counters.pcie_width))
    assert counters.fabric_state == [None] * 4

    node.nvml.driver_error = None
    node.reads(2)
    counters, _ = node.reads()
    assert counters.pcie_width == [16.0] * 4


def test_a_machine_without_gpus_has_no_counters(catalog: Catalog) -> None:
    nvml = SimulatedNvml(gpus=0)
    node = Node(catalog, nvml)

    assert node.read() == (None, [])


def test_before_the_driver_was_asked_there_is_nothing_to_read(node: Node) -> None:
    assert list(node.slow.read(1_000)) == []


def test_nothing_that_can_be_read_is_not_a_lack_of_support(node: Node) -> None:
    node.nvml.gpus[1].fails["*"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    counters, _ = node.reads()
    assert math.isnan(counters.pcie_width[1])

    node.nvml.gpus[1].fails.clear()
    counters, _ = node.reads()
    assert counters.pcie_width[1] == 16


def test_a_call_that_hangs_does_not_hold_up_the_fast_source_and_is_named(catalog: Catalog) -> None:
    release, inside = threading.Event(), threading.Event()

    def sleep(_: float) -> None:
        inside.set()
        release.wait(20)

    node = Node(catalog, SimulatedNvml(gpus=2, sleep=sleep))
    node.reads()
    node.nvml.gpus[1].hangs["energy"] = 60.0
    reading = threading.Thread(target=lambda: list(node.slow.read(2_000)))
    reading.start()
    try:
        assert inside.wait(20)
        assert node.slow.doing == "reading energy of GPU 1 (0000:2a:00)"
        records = list(node.fast.read(2_000))
        assert any(type(record).__name__ == "GpuSample" for record in records)
    finally:
        release.set()
        reading.join(20)
    assert not reading.is_alive()


# --- what is news -----------------------------------------------------------------------------------------------------


def test_errors_that_could_not_be_corrected_are_one_event_each_time_that_they_rise(node: Node) -> None:
    node.reads()
    gpu = node.nvml.gpus[1]
    gpu.add_memory_errors(correctable=500, uncorrectable=2)

    counters, events = node.reads(4)

    assert counters.ecc_volatile_dram_uncorrectable == [0, 2, 0, 0]
    (event,) = events
    assert (event.kind, event.gpu, event.pci) == ("ecc_uncorrectable", gpu.serial, gpu.pci)
    assert (event.source, event.severity) == ("nvml_counters", "warning")
    assert (event.details["before"], event.details["now"]) == ("0", "2")
    assert "ecc_aggregate_dram_uncorrectable" in event.details["column"]

    gpu.add_memory_errors(uncorrectable=1)
    assert told(node.reads(3)[1]) == [("ecc_uncorrectable", gpu.serial)]


def test_errors_from_before_the_start_and_corrected_ones_are_no_news(node: Node) -> None:
    node.nvml.gpus[0].add_memory_errors(uncorrectable=7)
    _, first = node.reads()
    node.nvml.gpus[0].add_memory_errors(correctable=10_000)
    _, more = node.reads(2)

    assert first == more == []


def test_counters_that_begin_anew_with_the_driver_are_no_news(node: Node) -> None:
    node.nvml.gpus[0].add_memory_errors(uncorrectable=7)
    node.reads()
    node.nvml.gpus[0].says.clear()

    assert node.reads(2)[1] == []


@pytest.mark.parametrize(
    ("says", "kind", "severity", "action"),
    [
        ({"remapped_rows": PENDING}, "row_remap_pending", "warning", "reset_gpu"),
        ({"sram_ecc": (0,) * 13 + (1,)}, "sram_threshold_exceeded", "critical", "replace"),
        ({"retired_pages.pending": (1,)}, "page_retirement_pending", "warning", "reboot_node"),
        ({"fabric": (3, 0, 2)}, "fabric_unhealthy", "warning", "drain_and_diagnose"),
    ],
)
def test_what_is_bad_in_itself_is_news_at_the_first_reading_and_once(
    node: Node, says: dict[str, tuple[float, ...]], kind: str, severity: str, action: str
) -> None:
    node.nvml.gpus[2].says |= says

    _, events = node.reads(5)

    assert [(event.kind, event.gpu, event.severity, event.action) for event in events] == [
        (kind, node.nvml.gpus[2].serial, severity, action)
    ]
    assert "before" not in events[0].details


def test_a_remap_that_fails_after_it_was_pending_is_told_and_its_end_too(node: Node) -> None:
    gpu = node.nvml.gpus[0]
    node.reads()
    gpu.remap_row()
    _, pending = node.reads(2)
    gpu.remap_row(failed=True)
    _, failed = node.reads(2)
    gpu.says["remapped_rows"] = (0, 1, 0, 1)
    _, over = node.reads(2)

    assert told(pending) == [("row_remap_pending", gpu.serial)]
    assert [(event.kind, event.severity, event.action) for event in failed] == [
        ("row_remap_failed", "critical", "replace")
    ]
    assert [(event.kind, event.details["condition"]) for event in over] == [(OVER, "row_remap_pending")]


@pytest.mark.parametrize(
    ("code", "word", "severity", "action"),
    [
        (pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET, "gpu_reset", "critical", "reset_gpu"),
        (pynvml.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT, "node_reboot", "critical", "reboot_node"),
        (pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_P2P, "drain_p2p", "warning", "drain_and_diagnose"),
        (99, "unknown_99", "warning", "drain_and_diagnose"),
    ],
)
def test_what_the_driver_asks_for_is_news_as_severe_as_that_is(
    node: Node, code: int, word: str, severity: str, action: str
) -> None:
    gpu = node.nvml.gpus[0]
    gpu.fields[pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, 0] = code

    counters, events = node.reads(3)

    assert counters.recovery_action == [word, "none", "none", "none"]
    assert [(event.kind, event.severity, event.action) for event in events] == [
        ("gpu_recovery_action", severity, action)
    ]

    gpu.fields.clear()
    _, events = node.reads(2)
    assert told(events) == [(OVER, gpu.serial)]


def test_links_that_go_down_are_one_event_that_names_them_and_one_when_they_are_back(node: Node) -> None:
    gpu = node.nvml.gpus[3]
    node.reads()
    gpu.take_link_down(4)
    gpu.take_link_down(11)
    counters, down = node.reads(3)
    gpu.take_link_up(4)
    _, up = node.reads(3)

    assert [sum(links) for links in counters.nvlink_link_active] == [18, 18, 18, 16]
    (event,) = down
    assert (event.kind, event.gpu, event.link) == ("nvlink_down", gpu.serial, None)
    assert (event.details["links"], event.details["before"], event.details["active"]) == ("4,11", "18", "16")
    (event,) = up
    assert (event.kind, event.link, event.details["links"]) == (OVER, 4, "4")


def test_a_link_that_sleeps_is_up_and_one_that_was_never_up_is_no_news(node: Node) -> None:
    gpu = node.nvml.gpus[0]
    gpu.take_link_down(17)
    node.reads()
    gpu.fields[pynvml.NVML_FI_DEV_NVLINK_GET_STATE, 2] = pynvml.NVML_NVLINK_STATE_SLEEP

    counters, events = node.reads(2)

    assert events == []
    assert counters.nvlink_link_active[0] == [1.0] * 17 + [0.0]


@pytest.mark.parametrize(
    ("says", "kind", "before", "now"),
    [
        ({"ecc_mode": (0, 0)}, "gpu_mode_changed", "enabled", "disabled"),
        ({"mig": (1, 1)}, "gpu_mode_changed", "disabled", "enabled"),
        ({"power_limit.requested": (300_000,)}, "gpu_mode_changed", "700", "300"),
        ({"fabric": (2, math.nan, math.nan)}, "fabric_left", "completed", "in_progress"),
        ({"pcie.width": (8,)}, "pcie_width_reduced", "16", "8"),
    ],
)
def test_a_mode_or_limit_that_changes_is_one_event_with_both_values(
    node: Node, says: dict[str, tuple[float, ...]], kind: str, before: str, now: str
) -> None:
    node.reads()
    node.nvml.gpus[1].says |= says

    _, events = node.reads(4)

    assert told(events) == [(kind, node.nvml.gpus[1].serial)]
    assert (events[0].details["before"], events[0].details["now"]) == (before, now)


def test_a_narrow_slot_and_an_idle_generation_are_no_news(node: Node) -> None:
    node.nvml.gpus[0].says["pcie.width"] = (8,)
    node.reads()
    node.nvml.gpus[0].says["pcie.generation"] = (1,)

    counters, events = node.reads(2)

    assert (counters.pcie_width[0], counters.pcie_generation[0]) == (8, 1)
    assert events == []


def test_a_change_while_the_gpu_could_not_be_read_is_news_when_it_can(node: Node) -> None:
    gpu = node.nvml.gpus[0]
    node.reads()
    gpu.lost = True
    node.reads(2)
    gpu.lost = False
    gpu.says["ecc_mode"] = (0, 0)

    _, events = node.reads(3)

    assert told(events) == [("gpu_mode_changed", gpu.serial)]


def test_another_gpu_in_the_slot_begins_anew(node: Node) -> None:
    node.nvml.gpus[0].add_memory_errors(uncorrectable=1)
    node.reads()
    node.nvml.gpus[0].present = False
    node.read()
    node.nvml.gpus[0].present = True
    node.nvml.gpus[0].serial, node.nvml.gpus[0].uuid = "1650000000042", "GPU-new"
    node.nvml.gpus[0].says.clear()
    node.nvml.gpus[0].says["pcie.width"] = (8,)

    counters, events = node.reads(3)

    assert "1650000000042" in counters.gpus
    assert events == []


def test_the_inventory_has_the_board_and_its_inforom(node: Node) -> None:
    node.reads()
    identities = node.fast.identities()
    assert identities is not None

    record = inventory(ORIGIN, AgentSettings(), identities, seen_ms=5)[1]

    assert (record.board_part_number, record.inforom_version) == ("692-2G520-0200-000", "G520.0200.00.05")
    assert msgspec.json.decode(msgspec.json.encode(record))["vbios_version"] == "96.00.A5.00.01"
