"""Counters, hosts, ports and facility on the real engine: what goes in, and each once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas import registry
from schemas.records import (
    Disk,
    FacilitySample,
    GpuCounters,
    Network,
    NodeSample,
    Point,
    Port,
    Record,
)
from sinks.clickhouse.insert import RejectedError
from sinks.clickhouse.tables import ROUTES, Once
from tests.sinks_database import CODEC, Database
from tests.sinks_scenes import NAN, TICK_MS, counters, device, host, in_inventory, same

pytestmark = pytest.mark.integration


def columns_of(kind: str, items: object) -> list[str]:
    return [
        field["name"]
        for field in registry.current(kind).parsed["fields"]
        if isinstance(field["type"], dict) and field["type"]["items"] == items
    ]


NUMBERS = columns_of("GpuCounters", "double")
WORDS = columns_of("GpuCounters", ["null", "string"])
PER_LINK = columns_of("GpuCounters", {"type": "array", "items": "double"})


def test_every_counter_arrives_in_its_own_column_for_its_own_gpu(db: Database, serial: str) -> None:
    db.insert(
        counters(
            serial,
            gpus=2,
            **{name: [float(at), float(at + 1000)] for at, name in enumerate(NUMBERS)},
            **{name: [f"{name} a", None] for name in WORDS},
        )
    )
    first, second = (db.row(f"SELECT * FROM $.gpu_counters WHERE gpu = '{serial}-{index}'") for index in range(2))
    assert [first[name] for name in NUMBERS] == [float(at) for at in range(len(NUMBERS))]
    assert [second[name] for name in NUMBERS] == [float(at + 1000) for at in range(len(NUMBERS))]
    assert [first[name] for name in WORDS] == [f"{name} a" for name in WORDS]
    assert [second[name] for name in WORDS] == [None] * len(WORDS)
    assert (second["gpu_index"], second["node"], second["source"], second["interval_ms"]) == (
        1,
        f"node-{serial}",
        "nvml",
        30_000,
    )
    assert second["tick_at"].timestamp() * 1000 == TICK_MS
    assert second["observed_at"].timestamp() * 1000 == TICK_MS + 25


def test_a_counter_that_was_not_read_is_nan_and_never_nought(db: Database, serial: str) -> None:
    db.insert(counters(serial, gpus=2, pcie_replays=[NAN, 7.0]))
    rows = db.rows(
        "SELECT pcie_replays, energy_joules, mig_mode FROM $.gpu_counters "
        f"WHERE node = 'node-{serial}' ORDER BY gpu_index"
    )
    assert [same(found, wanted) for found, wanted in zip(rows[0], (NAN, NAN, None), strict=True)] == [True] * 3
    assert [same(found, wanted) for found, wanted in zip(rows[1], (7.0, NAN, None), strict=True)] == [True] * 3


def test_every_link_of_every_gpu_is_a_row(db: Database, serial: str) -> None:
    given = {
        name: [[100.0 * at + link for link in range(3)], [], [100.0 * at + 50, NAN]] for at, name in enumerate(PER_LINK)
    }
    given["nvlink_link_speed_mbps"] = [[], [], []]
    db.insert(counters(serial, gpus=3, **given))
    names = [name.removeprefix("nvlink_link_") for name in PER_LINK]
    rows = db.rows(
        f"SELECT gpu_index, link, {', '.join(names)} FROM $.nvlink_links WHERE node = 'node-{serial}' "
        "ORDER BY gpu_index, link"
    )
    assert [row[:2] for row in rows] == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)], "a GPU without links has no rows"
    for gpu_index, link, *values in rows:
        wanted = [given[name][gpu_index][link] for name in PER_LINK[:-1]] + [NAN]
        assert [same(found, value) for found, value in zip(values, wanted, strict=True)] == [True] * len(names)


def test_a_host_is_a_row_and_a_record_of_ports_only_is_none(db: Database, serial: str) -> None:
    readings = [
        field["name"]
        for field in registry.current("NodeSample").parsed["fields"]
        if isinstance(field["type"], list) and field["type"][0] == "null"
    ]
    db.insert(
        host(serial, **dict.fromkeys(readings)),
        host(serial, 1, **{name: at for at, name in enumerate(readings)}),
        host(serial, 2, source="infiniband", ports=[Port(device="mlx5_0", port=1)]),
        host(serial, 3, oom_kills=0),
    )
    rows = list(
        db.client.query(
            f"SELECT * FROM {db.name}.node_samples WHERE node = 'node-{serial}' ORDER BY tick_at"
        ).named_results()
    )
    assert [row["sequence"] for row in rows] == [1, 3]
    assert [rows[0][name] for name in readings] == list(range(len(readings)))
    assert [rows[1][name] for name in readings] == [0 if name == "oom_kills" else None for name in readings]


def test_disks_networks_and_ports_arrive_whole(db: Database, serial: str) -> None:
    disk = Disk(name="/", total_bytes=100.0, used_bytes=25.0, busy_percent=3.5)
    network = Network(name="eth0", up=False, speed_mbps=200_000.0, receive_errors=3)
    port = Port(
        device="mlx5_0",
        port=1,
        link_layer="infiniband",
        state="active",
        rate_gbps=200.0,
        expected_gbps=400.0,
        degraded=True,
        reason="200 of 400 Gb/s",
        counters={"symbol_error": 2**40, "link_downed": 1},
    )
    db.insert(host(serial, disks=[disk, Disk(name="nvme0n1")], networks=[network], ports=[port]))
    disks = db.rows(
        f"SELECT name, used_percent, total_bytes, busy_percent, read_bytes_per_second FROM $.disk_history "
        f"WHERE node = 'node-{serial}' ORDER BY name"
    )
    assert disks == [("/", 25.0, 100.0, 3.5, None), ("nvme0n1", None, None, None, None)]
    networks = db.rows(
        "SELECT name, up, speed_mbps, receive_errors, send_errors, receive_errors_growth FROM $.network_history "
        f"WHERE node = 'node-{serial}'"
    )
    assert networks == [("eth0", False, 200_000.0, 3, None, None)]
    row = db.row(f"SELECT * FROM $.port_samples WHERE node = 'node-{serial}'")
    assert {name: row[name] for name in msgspec.structs.asdict(port)} == msgspec.structs.asdict(port)


def test_each_point_of_a_device_is_a_row(db: Database, serial: str) -> None:
    db.insert(
        device(
            serial,
            0,
            Point(name="power_watts/phase_1", unit="watts", value=3400.5),
            Point(name="power_watts/phase_2", unit="watts"),
            Point(name="breaker/1", unit="", state="ok"),
        )
    )
    rows = db.rows(
        "SELECT point, unit, value, state, device_kind, of_node, read_by FROM $.facility_history "
        f"WHERE device = 'pdu:{serial}' ORDER BY point"
    )
    assert rows == [
        ("breaker/1", "", None, "ok", "pdu", None, f"node-{serial}"),
        ("power_watts/phase_1", "watts", 3400.5, None, "pdu", None, f"node-{serial}"),
        ("power_watts/phase_2", "watts", None, None, "pdu", None, f"node-{serial}"),
    ]


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("wrong_gpu_count", {"pcie_replays": [1.0]}),
        ("wrong_gpu_count", {"mig_mode": [None, None, "enabled"]}),
        ("wrong_gpu_count", {"gpu_index": [0]}),
        ("wrong_gpu_count", {"nvlink_link_active": [[1.0, 1.0]]}),
        (
            "wrong_link_count",
            {"nvlink_link_active": [[1.0, 1.0], [1.0]], "nvlink_link_replays": [[0.0, 0.0], [0.0] * 2]},
        ),
        ("time_in_future", {"tick_ms": 4_102_444_800_000}),
        ("time_in_past", {"tick_ms": 12}),
    ],
)
def test_broken_counters_refuse_their_block_and_are_pointed_at(
    db: Database, serial: str, reason: str, changes: dict[str, Any]
) -> None:
    records = [counters(serial, reading, gpus=2) for reading in range(5)]
    records[3] = counters(serial, 3, gpus=2, **changes)
    with pytest.raises(RejectedError) as rejected:
        db.insert(*records)
    assert (rejected.value.reason, rejected.value.suspect) == (reason, 3)
    assert db.rows(f"SELECT count() FROM $.gpu_counters WHERE node = 'node-{serial}'") == [(0,)]


@pytest.mark.parametrize("record", [host, device], ids=["node.samples", "facility.samples"])
def test_hosts_and_devices_of_no_possible_time_are_refused(db: Database, serial: str, record: Any) -> None:
    for tick_ms, reason in ((12, "time_in_past"), (4_102_444_800_000, "time_in_future")):
        with pytest.raises(RejectedError) as rejected:
            db.insert(record(serial, 0, tick_ms=tick_ms))
        assert rejected.value.reason == reason


def everything(serial: str) -> list[list[Record]]:
    """A batch of each topic, with two readings of everything."""
    points = [Point(name=f"fan_speed_rpm/fan_{at}", unit="rpm", value=float(at)) for at in range(3)]
    ports = [Port(device="mlx5_0", port=at, counters={"symbol_error": at}) for at in range(3)]
    links = {"nvlink_link_active": [[1.0] * 4] * 2}
    return [
        [counters(serial, reading, gpus=2, pcie_replays=[1.0, NAN], **links) for reading in range(2)],
        [host(serial, reading, uptime_s=5.0, cpu_utilization_percent=5.0, ports=ports) for reading in range(2)],
        [device(serial, reading, *points) for reading in range(2)],
        [in_inventory(serial, at_ms) for at_ms in (0, 5000)],
    ]


def test_delivering_everything_again_changes_nothing_that_is_read(db: Database, serial: str) -> None:
    def seen() -> dict[str, list[tuple[Any, ...]]]:
        node = f"node = 'node-{serial}'"
        wanted = {
            "gpu_counter_history": node,
            "node_history": node,
            "port_history": node,
            "node_now": node,
            "facility_history": f"device = 'pdu:{serial}'",
            "inventory_history": f"component = 'gpu:{serial}'",
            "gpu_places": f"gpu = '{serial}'",
        }
        found = {
            view: db.rows(f"SELECT toString(tuple(* EXCEPT ({'age_seconds' if view == 'node_now' else 'site'}))) "
                          f"FROM $.{view} WHERE {where} ORDER BY 1")
            for view, where in wanted.items()
        }  # fmt: skip
        found["nvlink_links"] = db.rows(f"SELECT toString(tuple(*)) FROM $.nvlink_links FINAL WHERE {node} ORDER BY 1")
        return found

    for records in everything(serial):
        db.insert(*records)
    before = seen()
    assert {view: len(rows) for view, rows in before.items()} == {
        "gpu_counter_history": 4,
        "node_history": 2,
        "port_history": 6,
        "node_now": 1,
        "facility_history": 6,
        "inventory_history": 1,
        "gpu_places": 1,
        "nvlink_links": 16,
    }
    for records in everything(serial):
        db.insert(*records)
        db.insert(*reversed(records))
    assert seen() == before
    for table in ("gpu_counters", "nvlink_links", "node_samples", "port_samples", "facility_points", "inventory_log"):
        db.client.command(f"OPTIMIZE TABLE {db.name}.{table} FINAL")
    assert seen() == before, "merging changes nothing either"


def test_the_new_topics_need_no_token(serial: str) -> None:
    kinds = {GpuCounters, NodeSample, FacilitySample}
    assert {route.once for route in ROUTES if route.kind in kinds} == {Once.KEY}


def test_the_codec_of_the_project_is_what_the_tables_read(db: Database, serial: str) -> None:
    record = counters(serial, gpus=1, energy_joules=[2.0**53 - 1], nvlink_link_replays=[[2.0**40]])
    assert CODEC.decode(CODEC.encode(record), GpuCounters) == record
    db.insert(record)
    assert db.rows(f"SELECT energy_joules FROM $.gpu_counters WHERE gpu = '{serial}-0'") == [(2.0**53 - 1,)]
    assert db.rows(f"SELECT replays FROM $.nvlink_links WHERE gpu = '{serial}-0'") == [(2.0**40,)]
