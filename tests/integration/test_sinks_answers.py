"""What an analyst asks about counters, hosts, ports and facility, and what the views answer."""

from __future__ import annotations

import math
import re
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from schemas.records import (
    Disk,
    Fault,
    GpuSample,
    Network,
    NodeSample,
    Point,
    Port,
)
from sinks.clickhouse.migrate import FOLDER, migrate, views
from tests.sinks_database import Database, connected
from tests.sinks_scenes import HOUR_MS, NAN, TICK_MS, counters, device, host, in_inventory, place, same

pytestmark = pytest.mark.integration


def test_the_growth_of_a_counter_is_counted_over_gaps_and_resets(db: Database, serial: str) -> None:
    correctable = [5.0, 5.0, NAN, 9.0, 2.0, 2.0]
    db.insert(*(counters(serial, at, ecc_aggregate_correctable=[value]) for at, value in enumerate(correctable)))
    rows = db.rows(
        f"SELECT ecc_correctable_growth FROM $.gpu_counter_history WHERE gpu = '{serial}-0' ORDER BY tick_at"
    )
    wanted = [NAN, 0.0, NAN, 4.0, 2.0, 0.0]  # the first has nothing before it, the third was not read
    assert [same(found, value) for (found,), value in zip(rows, wanted, strict=True)] == [True] * 6


def test_counters_that_only_the_driver_keeps_grow_too(db: Database, serial: str) -> None:
    db.insert(*(counters(serial, at, ecc_volatile_uncorrectable=[value]) for at, value in enumerate((0.0, 3.0))))
    row = db.rows(
        "SELECT ecc_uncorrectable_growth, ecc_correctable_growth FROM $.gpu_counter_history "
        f"WHERE gpu = '{serial}-0' ORDER BY tick_at DESC LIMIT 1"
    )[0]
    assert (row[0], math.isnan(row[1])) == (3.0, True)


def test_the_history_of_the_counters_tells_each_growth_from_the_others(db: Database, serial: str) -> None:
    names = {
        "ecc_aggregate_correctable": "ecc_correctable_growth",
        "ecc_aggregate_uncorrectable": "ecc_uncorrectable_growth",
        "ecc_aggregate_dram_correctable": "ecc_dram_correctable_growth",
        "ecc_aggregate_dram_uncorrectable": "ecc_dram_uncorrectable_growth",
        "ecc_aggregate_sram_correctable": "ecc_sram_correctable_growth",
        "ecc_aggregate_sram_uncorrectable": "ecc_sram_uncorrectable_growth",
    } | {
        name: f"{name}_growth"
        for name in (
            "row_remap_correctable", "row_remap_uncorrectable", "retired_pages_single_bit", "retired_pages_double_bit",
            "pcie_replays", "pcie_replay_rollovers", "nvlink_crc_flit_errors", "nvlink_crc_data_errors",
            "nvlink_replays", "nvlink_recoveries", "nvlink_recoveries_failed", "nvlink_symbol_errors",
            "nvlink_effective_errors", "throttled_sw_power_cap_us", "throttled_sw_thermal_us",
            "throttled_hw_thermal_us", "throttled_hw_power_brake_us", "energy_joules",
        )
    }  # fmt: skip
    db.insert(counters(serial, 0, **{name: [1.0] for name in names}))
    db.insert(counters(serial, 1, **{name: [1.0 + at] for at, name in enumerate(names, 1)}))
    row = list(
        db.client.query(
            f"SELECT * FROM {db.name}.gpu_counter_history WHERE gpu = '{serial}-0' ORDER BY tick_at"
        ).named_results()
    )[1]
    assert {column: row[column] for column in names.values()} == {
        column: float(at) for at, column in enumerate(names.values(), 1)
    }
    assert {name for name in row if name.endswith("_growth")} == set(names.values()), "and no other"


def test_a_pcie_link_that_is_narrower_or_slower_than_it_could_be_is_told(db: Database, serial: str) -> None:
    db.insert(
        counters(
            serial, gpus=3, pcie_width=[16.0, 8.0, NAN], pcie_width_max=[16.0] * 3, pcie_generation=[5.0, 5.0, 1.0],
            pcie_generation_max=[5.0, NAN, 5.0],
        )
    )  # fmt: skip
    rows = db.rows(
        "SELECT pcie_width_below_max, pcie_generation_below_max FROM $.gpu_counter_history "
        f"WHERE node = 'node-{serial}' ORDER BY gpu_index"
    )
    assert rows == [(0, 0), (1, None), (None, 1)]


def test_links_that_are_down_or_rising_are_named_with_what_rose(client: Any, unique: str) -> None:
    """In a database of its own: the view looks at the newest quarter of an hour of the whole fleet."""
    migrate(client, unique)
    db = Database(client, unique)
    now_ms = time.time_ns() // 1_000_000
    for at, replays in enumerate(([0.0, 5.0, 0.0, 7.0], [0.0, 9.0, 0.0, 7.0], [0.0, 2.0, 0.0, 7.0])):
        up = [1.0, 1.0, 1.0 if at < 2 else 0.0, 1.0]
        db.insert(
            counters(
                "a", at, tick_ms=now_ms - 90_000 + at * 30_000, gpus=2, nvlink_link_active=[up, [0.0] * 4],
                nvlink_link_replays=[replays, [NAN] * 4], nvlink_link_speed_mbps=[[26_562.0] * 4, [NAN] * 4],
            )
        )  # fmt: skip
    # long ago: no news
    db.insert(counters("b", tick_ms=now_ms - HOUR_MS, nvlink_link_active=[[0.0]]))
    # a node whose clock is hours ahead hides nothing
    db.insert(counters("c", tick_ms=now_ms + 5 * HOUR_MS, nvlink_link_active=[[0.0]]))
    rows = db.rows(
        "SELECT gpu, link, down, went_down, rising, links_active, links, age_seconds BETWEEN 20 AND 90 "
        "FROM $.nvlink_health ORDER BY gpu, link"
    )
    assert rows == [
        ("a-0", 1, False, False, {"replays": 6.0}, 3, 4, 1),  # 4 more, then reset, and 2 since
        ("a-0", 2, True, True, {}, 3, 4, 1),
        *(("a-1", link, True, False, {}, 0, 4, 1) for link in range(4)),
    ]
    client.command(f"DROP DATABASE {unique} SYNC")


def test_the_history_of_a_node_is_its_host_with_shares_and_new_kills(db: Database, serial: str) -> None:
    for at, kills in enumerate((4, 4, 6, 1)):
        db.insert(
            host(
                serial, at, memory_total_bytes=200.0, memory_used_bytes=50.0 + at, swap_total_bytes=0.0,
                swap_used_bytes=0.0, oom_kills=kills,
            )
        )  # fmt: skip
    rows = db.rows(
        "SELECT memory_used_percent, swap_used_percent, oom_kills_growth, cpu_utilization_percent "
        f"FROM $.node_history WHERE node = 'node-{serial}' ORDER BY tick_at"
    )
    assert rows == [(25.0, None, None, None), (25.5, None, 0, None), (26.0, None, 2, None), (26.5, None, 1, None)]


def test_the_errors_of_a_network_interface_are_told_apart_by_interface(db: Database, serial: str) -> None:
    for at, (first, second) in enumerate(((10, 100), (12, 100), (12, 50))):
        db.insert(
            host(
                serial, at, networks=[
                    Network(name="eth0", receive_errors=first, send_drops=0),
                    Network(name="eth1", receive_errors=second),
                ],
            )
        )  # fmt: skip
    rows = db.rows(
        "SELECT name, receive_errors_growth, send_drops_growth, send_errors_growth FROM $.network_history "
        f"WHERE node = 'node-{serial}' ORDER BY name, tick_at"
    )
    assert rows == [
        ("eth0", None, None, None),
        ("eth0", 2, 0, None),
        ("eth0", 0, 0, None),
        ("eth1", None, None, None),
        ("eth1", 0, None, None),
        ("eth1", 50, None, None),
    ]


def test_the_history_of_a_port_says_what_rose_and_how_often_it_flapped(db: Database, serial: str) -> None:
    readings = [
        {"symbol_error": 3, "link_downed": 1},
        {"symbol_error": 9, "link_downed": 3, "port_rcv_errors": 7},
        {"symbol_error": 2, "link_downed": 3, "port_rcv_errors": 8},
    ]
    for at, found in enumerate(readings):
        db.insert(
            host(
                serial, at, source="infiniband", ports=[
                    Port(device="mlx5_0", port=1, state="active", counters=found),
                    Port(device="mlx5_1", port=1, state="down", degraded=True, counters={"symbol_error": 1}),
                ],
            )
        )  # fmt: skip
    rows = db.rows(
        f"SELECT device, state, growth, flaps FROM $.port_history WHERE node = 'node-{serial}' ORDER BY device, tick_at"
    )
    assert rows == [
        ("mlx5_0", "active", {}, 0),
        ("mlx5_0", "active", {"symbol_error": 6, "link_downed": 2}, 2),  # a counter that is new has no growth yet
        ("mlx5_0", "active", {"symbol_error": 2, "port_rcv_errors": 1}, 0),
        *[("mlx5_1", "down", {}, 0)] * 3,
    ]


def test_the_history_of_a_device_marks_each_change_of_state(db: Database, serial: str) -> None:
    for at, state in enumerate(("ok", "ok", "critical", None)):
        db.insert(device(serial, at, Point(name="fan_speed_rpm/fan_1", unit="rpm", value=9.0 * at, state=state)))
    rows = db.rows(
        "SELECT value, state, state_before, state_changed FROM $.facility_history "
        f"WHERE device = 'pdu:{serial}' ORDER BY tick_at"
    )
    assert rows == [
        (0.0, "ok", "", 0),
        (9.0, "ok", "ok", 0),
        (18.0, "critical", "ok", 1),
        (27.0, None, "critical", 1),
    ]


def test_a_node_now_is_its_host_beside_its_gpus_and_ports_with_what_is_wrong(db: Database, serial: str) -> None:
    shared = place(serial, TICK_MS, 1000)
    db.insert(
        GpuSample(
            **shared, gpus=["a", "b", "c"], gpu_index=[0, 1, 2], temperature_celsius=[60.0, NAN, 71.0],
            power_watts=[400.0, NAN, 500.0],
        )
    )  # fmt: skip
    assert db.row(
        f"SELECT gpu_count, memory_used_percent, port_count FROM $.node_now WHERE node = 'node-{serial}'"
    ) == {
        "gpu_count": 3,
        "memory_used_percent": None,
        "port_count": 0,
    }, "a node whose host says nothing is there all the same"
    db.insert(
        host(serial, 2, cpu_utilization_percent=10.0, memory_total_bytes=100.0, memory_used_bytes=99.0),
        host(
            serial, 1, cpu_utilization_percent=12.5, memory_total_bytes=100.0, memory_used_bytes=40.0,
            disks=[Disk(name="/", total_bytes=10.0, used_bytes=9.0), Disk(name="sda")],
        ),
    )  # fmt: skip
    db.insert(
        host(
            serial, 3, source="infiniband", ports=[
                Port(device="mlx5_0", port=1, degraded=False),
                Port(device="mlx5_1", port=1, degraded=True, reason="100 of 400 Gb/s"),
            ],
        )
    )  # fmt: skip
    db.insert(
        Fault(
            fault_id=f"f-{serial}", revision=1, state="open", site="site-1", rack="r", node=f"node-{serial}",
            component=f"node:node-{serial}", component_kind="node", fault_class="node_silent", severity="critical",
            action="reboot_node", rule="r", reason="r", first_ms=TICK_MS, last_ms=TICK_MS, count=1, evidence=[],
            observed_ms=TICK_MS,
        )
    )  # fmt: skip
    row = db.row(f"SELECT * FROM $.node_now WHERE node = 'node-{serial}'")
    assert (row["rack"], row["open_faults"]) == (f"rack-{serial}", ["node_silent"])
    assert (row["cpu_utilization_percent"], row["memory_used_percent"], row["disk_used_percent"]) == (10.0, 99.0, None)
    assert (row["gpu_count"], row["gpus_answering"]) == (3, 2)
    assert (row["gpu_temperature_celsius_max"], row["gpu_power_watts"]) == (71.0, 900.0)
    assert math.isnan(row["gpu_utilization_percent"])
    assert (row["port_count"], row["ports_degraded"]) == (2, ["mlx5_1/1: 100 of 400 Gb/s"])
    assert row["last_tick_at"].timestamp() * 1000 == TICK_MS + 20_000


def test_the_fullest_file_system_of_a_node_is_known_now(db: Database, serial: str) -> None:
    disks = [
        Disk(name="/", total_bytes=10.0, used_bytes=3.0),
        Disk(name="/data", total_bytes=10.0, used_bytes=9.0),
        Disk(name="sda"),
    ]
    db.insert(host(serial, memory_total_bytes=1.0, disks=disks))
    assert db.row(f"SELECT disk_used_percent FROM $.node_now WHERE node = 'node-{serial}'") == {
        "disk_used_percent": 90.0
    }


def ports_now(db: Database, serial: str) -> tuple[Any, ...]:
    (row,) = db.rows(f"SELECT port_count, ports_degraded, ports_gone FROM $.node_now WHERE node = 'node-{serial}'")
    return row


def fabric(serial: str, reading: int, *names: str, degraded: str = "") -> NodeSample:
    """A reading of ports, each 10 s; one of them is degraded."""
    ports = [Port(device=name, port=1, degraded=name == degraded, reason="slow") for name in names]
    return host(serial, reading, source="infiniband", ports=ports)


def test_a_card_that_fell_off_is_no_port_of_the_node_and_is_named_for_a_week(db: Database, serial: str) -> None:
    db.insert(host(serial, memory_total_bytes=1.0), fabric(serial, 0, "mlx5_0", "mlx5_1"))
    db.insert(fabric(serial, 6, "mlx5_0"))
    assert ports_now(db, serial) == (2, [], []), "a read or two may miss a port while its driver is reloaded"
    db.insert(fabric(serial, 7, "mlx5_0"))
    assert ports_now(db, serial) == (1, [], ["mlx5_1/1"])
    db.insert(fabric(serial, 7 * 8640 - 1, "mlx5_0"))
    assert ports_now(db, serial) == (1, [], ["mlx5_1/1"])
    db.insert(fabric(serial, 7 * 8640 + 1, "mlx5_0"))
    assert ports_now(db, serial) == (1, [], [])


def test_a_degraded_port_that_was_renamed_is_degraded_under_its_new_name_only(db: Database, serial: str) -> None:
    db.insert(host(serial, memory_total_bytes=1.0))
    db.insert(fabric(serial, 0, "mlx5_0", "mlx5_1", degraded="mlx5_0"))
    assert ports_now(db, serial) == (2, ["mlx5_0/1: slow"], [])
    db.insert(fabric(serial, 60, "ibp24s0", "mlx5_1", degraded="ibp24s0"))
    assert ports_now(db, serial) == (2, ["ibp24s0/1: slow"], ["mlx5_0/1"])


def test_the_last_port_of_a_node_is_gone_when_only_its_host_still_speaks(db: Database, serial: str) -> None:
    db.insert(fabric(serial, 0, "mlx5_0", degraded="mlx5_0"))
    db.insert(host(serial, 360, memory_total_bytes=1.0))
    assert ports_now(db, serial) == (1, ["mlx5_0/1: slow"], []), "ports may be read once an hour"
    db.insert(host(serial, 730, memory_total_bytes=1.0))
    assert ports_now(db, serial) == (0, [], ["mlx5_0/1"])


def test_a_node_is_where_it_said_last_that_it_is(db: Database, serial: str) -> None:
    db.insert(host(serial, 0, memory_total_bytes=1.0, site="site-9", rack="rack-9"))
    db.insert(GpuSample(**place(serial, TICK_MS + 60_000, 1000) | {"rack": "rack-1"}, gpus=["a"], gpu_index=[0]))
    query = f"SELECT site, rack FROM $.node_now WHERE node = 'node-{serial}'"
    assert db.rows(query) == [("site-1", "rack-1")]
    db.insert(host(serial, 7, memory_total_bytes=1.0, rack="rack-0"))
    assert db.rows(query) == [("site-1", "rack-0")]


# -- the questions themselves


@pytest.mark.parametrize(
    ("view", "column"),
    [
        ("gpu_counter_history", "gpu"),
        ("node_history", "node"),
        ("disk_history", "node"),
        ("network_history", "node"),
        ("port_history", "node"),
        ("facility_history", "device"),
        ("inventory_history", "component"),
    ],
)
def test_asking_for_one_component_reads_no_other(db: Database, serial: str, view: str, column: str) -> None:
    """The condition must get through the windows to the table's key, or a question costs the whole history."""
    version = tuple(int(part) for part in str(db.client.server_version).split(".")[:2])
    if version < (26, 9):
        pytest.skip(f"ClickHouse {db.client.server_version} may not move conditions through windows (25.8 does not)")
    db.insert(counters(serial))
    db.insert(host(serial, uptime_s=1.0, ports=[Port(device="mlx5_0", port=1)]))
    db.insert(device(serial, 0, Point(name="power_watts", unit="watts")))
    db.insert(in_inventory(serial, 0))
    plan = db.rows(f"EXPLAIN indexes = 1 SELECT * FROM $.{view} WHERE {column} = 'this one'")
    assert any("Condition:" in line and f"{column} in ['this one'" in line for (line,) in plan)


README: Path = FOLDER / "README.md"


def questions() -> list[str]:
    """The statements in the README: indented blocks that end with a semicolon."""
    blocks = re.findall(r"(?:^ {4}.*\n)+", README.read_text(), re.MULTILINE)
    statements = [part.strip() for block in blocks for part in textwrap.dedent(block).split(";")]
    return [part for part in statements if re.search(r"^SELECT ", part, re.MULTILINE)]


@pytest.mark.parametrize("question", questions(), ids=lambda text: text.splitlines()[0][:60])
def test_every_question_of_the_readme_can_be_asked(db: Database, clickhouse: Any, question: str) -> None:
    with connected(clickhouse, database=db.name) as own:
        own.query(question)
        assert own.query(f"DESCRIBE ({question}\n)").result_rows


def test_every_view_is_explained_in_the_readme() -> None:
    text = README.read_text()
    missing = [view.name for view in views() if f"| `{view.name}`" not in text and f", `{view.name}`" not in text]
    assert missing == []
