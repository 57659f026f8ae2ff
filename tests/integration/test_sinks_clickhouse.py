"""The tables and views on the real engine: what goes in, what an analyst reads."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Sequence
from typing import Any

import clickhouse_connect
import fastavro
import msgspec
import pytest

from schemas import registry
from schemas.records import (
    RECORDS,
    Anomaly,
    DeadLetter,
    Evidence,
    Fault,
    GpuSample,
    HardwareEvent,
    Incident,
    InventoryRecord,
    Member,
)
from sinks.batches import Entry
from sinks.clickhouse import reconcile
from sinks.clickhouse.insert import RejectedError
from sinks.clickhouse.migrate import Migration, MigrationError, migrate, migrations, views
from sinks.clickhouse.tables import ROUTES
from tests.sinks_database import CODEC, Database

pytestmark = pytest.mark.integration

TICK_MS = 1_763_000_040_000
"""A whole minute: 2025-11-13 02:14:00 UTC."""


def sample(serial: str, tick: int = 0, gpus: int = 2, node: str = "node-1", **changes: Any) -> GpuSample:
    given = GpuSample(
        site="site-1",
        rack=f"rack-of-{serial}",
        node=node,
        boot_id="boot-1",
        sequence=tick,
        tick_ms=TICK_MS + tick * 1000,
        observed_ms=TICK_MS + tick * 1000 + 25,
        gpus=[f"{serial}-{place}" for place in range(gpus)],
        gpu_index=list(range(gpus)),
        temperature_celsius=[60.0 + tick + place for place in range(gpus)],
        power_watts=[500.0] * gpus,
        throttle_reasons=[4] * gpus,
    )
    return msgspec.structs.replace(given, **changes)


def event(serial: str, **changes: Any) -> HardwareEvent:
    given = HardwareEvent(
        event_id=f"event-{serial}",
        site="site-1",
        rack="rack-1",
        node="node-1",
        boot_id="boot-1",
        sequence=1,
        event_ms=TICK_MS,
        observed_ms=TICK_MS + 5,
        source="kernel_log",
        kind="xid",
        code=79,
        gpu=serial,
        pci="0000:91:00",
        severity="critical",
        action="drain_and_diagnose",
        details={"driver": "570", "pid": "1"},
        raw="NVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus.",
    )
    return msgspec.structs.replace(given, **changes)


def fault(serial: str, **changes: Any) -> Fault:
    given = Fault(
        fault_id=f"fault-{serial}",
        revision=1,
        state="open",
        site="site-1",
        rack="rack-1",
        node="node-1",
        gpu=serial,
        component=f"gpu:{serial}",
        component_kind="gpu",
        fault_class="gpu_lost",
        code=79,
        severity="critical",
        action="drain_and_diagnose",
        rule="xid.79",
        reason="GPU fell off the bus",
        first_ms=TICK_MS,
        last_ms=TICK_MS,
        count=1,
        evidence=[Evidence(id="e-1", at_ms=TICK_MS, source="kernel_log", text="Xid 79")],
        observed_ms=TICK_MS + 5,
    )
    return msgspec.structs.replace(given, **changes)


def incident(serial: str, **changes: Any) -> Incident:
    given = Incident(
        incident_id=f"incident-{serial}",
        revision=1,
        state="open",
        page=True,
        site="site-1",
        racks=["rack-1"],
        root=f"gpu:{serial}",
        root_fault_id=f"fault-{serial}",
        root_class="nvlink",
        root_code=149,
        root_gpu=serial,
        title="NVLink failure",
        severity="critical",
        action="check_hardware",
        reason="first of its rack",
        score=0.9,
        members=[
            Member(fault_id="f-1", component=f"gpu:{serial}", fault_class="nvlink", code=149, role="root", because=""),
            Member(fault_id="f-2", component=f"gpu:{serial}-x", fault_class="nvlink", role="symptom", because="echo"),
        ],
        evidence=["Xid 149"],
        first_ms=TICK_MS,
        last_ms=TICK_MS,
        observed_ms=TICK_MS + 5,
        decided_ms=TICK_MS + 900,
    )
    return msgspec.structs.replace(given, **changes)


# -- migrations


def test_migrating_again_changes_nothing(db: Database) -> None:
    assert migrate(db.client, db.name) == []
    assert db.rows("SELECT count() FROM $.schema_migrations FINAL") == [(len(migrations()) + len(views()),)]


def test_two_that_migrate_at_once_end_with_the_same_tables(clickhouse: Any, client: Any, unique: str) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        own = clickhouse_connect.get_client(
            host=clickhouse.host, port=clickhouse.port, username=clickhouse.username, password=clickhouse.password
        )
        try:
            migrate(own, unique)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert migrate(client, unique) == []
    client.command(f"DROP DATABASE {unique} SYNC")


def test_a_migration_that_was_changed_after_it_was_applied_is_an_error(client: Any, unique: str) -> None:
    first = Migration(1, "first", "CREATE TABLE IF NOT EXISTS ${database}.a (b Int8) ENGINE = Null;")
    second = Migration(2, "second", "CREATE TABLE IF NOT EXISTS ${database}.c (d Int8) ENGINE = Null;")
    # without the build's views: they read the build's tables
    import sinks.clickhouse.migrate as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "views", list)
        assert migrate(client, unique, tables=[first]) == ["0001_first"]
        assert migrate(client, unique, tables=[first, second]) == ["0002_second"]
        changed = Migration(1, "first", first.text + "\n-- better")
        with pytest.raises(MigrationError, match="0001_first was applied .* with another text"):
            migrate(client, unique, tables=[changed, second])
        with pytest.raises(MigrationError, match="has migration 0002_second, which this build does not know"):
            migrate(client, unique, tables=[first])
        other = Migration(2, "elsewhere", second.text)
        with pytest.raises(MigrationError, match="two builds of different origin"):
            migrate(client, unique, tables=[first, other])
    client.command(f"DROP DATABASE {unique} SYNC")


def test_everything_an_analyst_may_read_explains_itself(db: Database) -> None:
    bare = db.rows(
        "SELECT name FROM system.tables WHERE database = '$' AND engine != 'MaterializedView' "
        "AND comment = '' ORDER BY name"
    )
    assert bare == []
    bare = db.rows(
        "SELECT table, c.name FROM system.columns AS c JOIN system.tables AS t ON t.database = c.database "
        "AND t.name = c.table WHERE c.database = '$' AND t.engine LIKE '%MergeTree' AND c.comment = '' "
        "AND table != 'schema_migrations'"
    )
    assert bare == []


# -- Avro in


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.topic)
def test_a_way_in_has_the_fields_of_its_schema(db: Database, route: Any) -> None:
    columns = {
        name
        for (name,) in db.rows(f"SELECT name FROM system.columns WHERE database = '$' AND table = '{route.way_in}'")
    }
    assert columns == {field["name"] for field in registry.current(route.kind.__name__).parsed["fields"]}


def test_defaults_of_a_way_in_are_those_of_its_schema(db: Database) -> None:
    plain = {"int": 0, "long": 0, "string": "", "boolean": False}
    for route in ROUTES:
        wanted = {
            field["name"]: field["default"]
            for field in registry.current(route.kind.__name__).parsed["fields"]
            if field.get("default") not in (None, [], {}) and field["default"] != plain.get(field["type"])
        }
        found = db.rows(
            "SELECT name, default_expression FROM system.columns "
            f"WHERE database = '$' AND table = '{route.way_in}' AND default_kind != ''"
        )
        stated = {name: expression.strip("'") for name, expression in found if expression != "false"}
        assert stated == {name: str(value) for name, value in wanted.items()}


def test_a_nodes_arrays_become_one_row_per_gpu(db: Database, serial: str) -> None:
    db.insert(sample(serial, memory_temperature_celsius=[math.nan, 70.0]))
    rows = db.rows(
        "SELECT gpu, gpu_index, node, toUnixTimestamp64Milli(tick_at), toUnixTimestamp64Milli(observed_at), sequence, "
        f"temperature_celsius, throttle_reasons FROM $.gpu_samples WHERE gpu LIKE '{serial}%' ORDER BY gpu"
    )
    assert rows == [
        (f"{serial}-0", 0, "node-1", TICK_MS, TICK_MS + 25, 0, 60.0, 4),
        (f"{serial}-1", 1, "node-1", TICK_MS, TICK_MS + 25, 0, 61.0, 4),
    ]
    unread = db.rows(
        "SELECT isNaN(memory_temperature_celsius), isNaN(sm_clock_mhz) FROM $.gpu_samples "
        f"WHERE gpu LIKE '{serial}%' ORDER BY gpu"
    )
    assert unread == [(True, True), (False, True)], "what was not read and what nobody offers is NaN, never 0"


def test_every_metric_arrives_in_its_own_column(db: Database, serial: str) -> None:
    metrics = [
        field["name"]
        for field in registry.current("GpuSample").parsed["fields"]
        if field["type"] == {"type": "array", "items": "float"}
    ]
    db.insert(sample(serial, gpus=1, **{name: [float(place)] for place, name in enumerate(metrics, 100)}))
    row = db.row(f"SELECT * FROM $.gpu_samples WHERE gpu = '{serial}-0'")
    assert {name: row[name] for name in metrics} == {name: float(place) for place, name in enumerate(metrics, 100)}


def test_a_node_without_the_throttle_mask_gives_minus_one(db: Database, serial: str) -> None:
    db.insert(sample(serial, gpus=1, throttle_reasons=[]))
    assert db.rows(f"SELECT throttle_reasons FROM $.gpu_samples WHERE gpu = '{serial}-0'") == [(-1,)]
    assert db.rows(f"SELECT throttle_reasons FROM $.gpu_minute WHERE gpu = '{serial}-0'") == [(0,)]


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("wrong_gpu_count", {"power_watts": [1.0, 2.0, 3.0]}),
        ("wrong_gpu_count", {"gpu_index": [0]}),
        ("wrong_gpu_count", {"throttle_reasons": [0]}),
        ("time_in_future", {"tick_ms": 4_102_444_800_000}),
        ("time_in_past", {"tick_ms": 12}),
    ],
)
def test_a_broken_record_refuses_its_block_and_is_pointed_at(
    db: Database, serial: str, reason: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(RejectedError) as rejected:
        db.insert(sample(serial, 0), sample(serial, 1), sample(serial, 2, **changes), sample(serial, 3), token=serial)
    assert (rejected.value.reason, rejected.value.suspect) == (reason, 2)
    assert db.rows(f"SELECT count() FROM $.gpu_samples WHERE gpu LIKE '{serial}%'") == [(0,)]
    assert db.rows(f"SELECT count() FROM $.gpu_minute WHERE gpu LIKE '{serial}%'") == [(0,)]
    db.insert(sample(serial, 0), sample(serial, 1), sample(serial, 3), token=serial)
    assert db.rows(f"SELECT count() FROM $.gpu_samples WHERE gpu LIKE '{serial}%'") == [(6,)]


@pytest.mark.parametrize("spoil", [lambda body: body[:-3], lambda _: b"\xff" * 40, lambda _: b""])
def test_bytes_that_are_not_avro_refuse_their_block(db: Database, serial: str, spoil: Any) -> None:
    framed = [CODEC.split(CODEC.encode(sample(serial, tick))) for tick in range(3)]
    bodies = [framed[0].body, spoil(framed[1].body), framed[2].body]
    with pytest.raises(RejectedError, match="rejected_by_sink: ClickHouse cannot read it as Avro"):
        db.insert_bodies("gpu_samples_in", framed[0].schema, bodies)
    assert db.rows(f"SELECT count() FROM $.gpu_samples WHERE gpu LIKE '{serial}%'") == [(0,)]


def test_a_table_that_is_not_there_is_not_the_records_fault(db: Database) -> None:
    framed = CODEC.split(CODEC.encode(event("x")))
    with pytest.raises(clickhouse_connect.driver.exceptions.DatabaseError) as failed:
        db.insert_bodies("nowhere_in", framed.schema, [framed.body])
    assert failed.value.code == 60


def test_a_record_of_an_earlier_schema_takes_the_defaults_for_what_it_lacks(db: Database, serial: str) -> None:
    document = msgspec.json.decode((registry.FOLDER / "gpu.samples.avsc").read_bytes())
    lacking = {"interval_ms", "power_watts", "throttle_reasons"}
    document["fields"] = [field for field in document["fields"] if field["name"] not in lacking]
    earlier = registry.parse(msgspec.json.encode(document), current=False)
    body = io.BytesIO()
    fastavro.schemaless_writer(body, earlier.parsed, msgspec.to_builtins(sample(serial, gpus=1)))
    db.insert_bodies("gpu_samples_in", earlier, [body.getvalue()])
    (row,) = db.rows(
        "SELECT interval_ms, isNaN(power_watts), throttle_reasons, temperature_celsius FROM $.gpu_samples "
        f"WHERE gpu = '{serial}-0'"
    )
    assert row == (1000, True, -1, 60.0)


def test_a_field_that_this_build_does_not_keep_is_no_hindrance(db: Database, serial: str) -> None:
    document = msgspec.json.decode((registry.FOLDER / "hardware.events.avsc").read_bytes())
    document["fields"].insert(3, {"name": "colour", "type": "string"})
    later = registry.parse(msgspec.json.encode(document), current=False)
    body = io.BytesIO()
    fastavro.schemaless_writer(body, later.parsed, {**msgspec.to_builtins(event(serial)), "colour": "blue"})
    db.insert_bodies("hardware_events_in", later, [body.getvalue()])
    assert db.rows(f"SELECT code FROM $.hardware_events WHERE gpu = '{serial}'") == [(79,)]


# -- each once


def test_a_batch_written_twice_with_its_token_is_there_once_in_every_table(db: Database, serial: str) -> None:
    midnight = [sample(serial, tick, tick_ms=1_763_078_398_000 + tick * 1000) for tick in range(4)]
    for _ in range(3):
        db.insert(*midnight, token=f"{serial}:0-3")
    days = f"SELECT toDate(tick_at), count() FROM $.gpu_samples WHERE gpu LIKE '{serial}%' GROUP BY 1 ORDER BY 1"
    assert [count for _, count in db.rows(days)] == [4, 4], "also where it goes into two days' parts"
    assert db.rows(f"SELECT sum(samples) FROM $.gpu_minute WHERE gpu LIKE '{serial}%'") == [(8,)]
    db.insert(*midnight, token=f"{serial}:4-7")
    assert db.rows(f"SELECT count() FROM $.gpu_samples WHERE gpu LIKE '{serial}%'") == [(16,)], (
        "equal rows, another batch"
    )
    assert db.rows(f"SELECT sum(samples) FROM $.gpu_minute WHERE gpu LIKE '{serial}%'") == [(16,)]


def test_a_large_batch_stays_one_block(db: Database, serial: str) -> None:
    records = [sample(serial, tick, gpus=16) for tick in range(12_000)]
    for _ in range(2):
        db.insert(*records, token=serial)
    assert db.rows(f"SELECT count() FROM $.gpu_samples WHERE gpu LIKE '{serial}%'") == [(192_000,)]
    assert db.rows(f"SELECT sum(samples) FROM $.gpu_minute WHERE gpu LIKE '{serial}%'") == [(192_000,)]


def entries_of(records: Sequence[GpuSample]) -> list[Entry]:
    values = [CODEC.encode(record) for record in records]
    return [Entry(place, None, value[:10], value[10:]) for place, value in enumerate(values)]


def redo(db: Database, records: Sequence[GpuSample], token: str) -> int:
    def insert(entries: Sequence[Entry], again: bool) -> None:
        bodies = [entry.body for entry in entries if entry.body is not None]
        db.insert_bodies("gpu_samples_in", registry.current("GpuSample"), bodies, f"{token}:again" if again else token)

    return reconcile.write_once(db.client, db.name, CODEC, entries_of(records), insert)


def state(db: Database, serial: str) -> list[tuple[Any, ...]]:
    return db.rows(
        f"SELECT (SELECT count() FROM $.gpu_samples WHERE gpu LIKE '{serial}%'), "
        f"(SELECT sum(samples) FROM $.gpu_minute WHERE gpu LIKE '{serial}%'), "
        f"(SELECT max(temperature_celsius_max) FROM $.gpu_minute WHERE gpu LIKE '{serial}%')"
    )


@pytest.mark.parametrize("written", [False, True], ids=["never written", "written"])
def test_doing_a_batch_again_writes_it_where_it_is_not_there(db: Database, serial: str, written: bool) -> None:
    records = [sample(serial, tick) for tick in range(90)]
    if written:
        db.insert(*records, token=serial)
    assert redo(db, records, serial) == 0
    assert redo(db, records, serial) == 0
    assert state(db, serial) == [(180, 180, 150.0)]


def test_doing_a_batch_again_does_not_double_what_clickhouse_has_long_forgotten(db: Database, serial: str) -> None:
    records = [sample(serial, tick) for tick in range(5)]
    db.insert(*records, token="a token that was forgotten")
    assert redo(db, records, serial) == 0
    assert state(db, serial) == [(10, 10, 65.0)]


@pytest.mark.parametrize("table", ["gpu_samples", "gpu_minute_states"])
def test_a_batch_that_clickhouse_remembers_but_does_not_hold_is_written_again(
    db: Database, serial: str, table: str
) -> None:
    neighbour = [sample(f"{serial}-n", tick, node="node-2", rack=f"rack-of-{serial}") for tick in range(5)]
    records = [sample(serial, tick) for tick in range(90)]
    db.insert(*neighbour, token=f"{serial}:before")
    db.insert(*records, token=serial)
    # as a kill leaves it between the note of the token and the part: token there, rows not
    db.client.command(
        f"ALTER TABLE {db.name}.{table} DELETE WHERE gpu IN ('{serial}-0', '{serial}-1')",
        settings={"mutations_sync": 1},
    )
    assert redo(db, records, serial) == (90 if table == "gpu_samples" else 0)
    assert state(db, f"{serial}-0") == [(90, 90, 149.0)]
    assert state(db, f"{serial}-1") == [(90, 90, 150.0)]
    assert state(db, f"{serial}-n") == [(10, 10, 65.0)], "the neighbours stay as they are"


# -- what an analyst reads


def test_the_minute_says_how_many_mean_and_extremes_and_skips_what_was_not_read(db: Database, serial: str) -> None:
    temperatures = [60.0, math.nan, 70.0]
    for tick, temperature in enumerate(temperatures):
        db.insert(
            sample(serial, tick, gpus=1, temperature_celsius=[temperature], throttle_reasons=[2**tick]),
            token=f"{serial}{tick}",
        )
    row = db.row(f"SELECT * FROM $.gpu_minute WHERE gpu = '{serial}-0'")
    assert (row["samples"], row["temperature_celsius_avg"], row["throttle_reasons"]) == (3, 65.0, 7)
    assert (row["temperature_celsius_min"], row["temperature_celsius_max"]) == (60.0, 70.0)
    assert math.isnan(row["memory_temperature_celsius_avg"])
    assert (row["node"], f"{row['minute']:%H:%M}") == ("node-1", "02:14")
    hour = db.row(f"SELECT * FROM $.gpu_hour WHERE gpu = '{serial}-0'")
    assert (hour["samples"], hour["temperature_celsius_avg"], f"{hour['hour']:%H:%M}") == (3, 65.0, "02:00")


def test_an_event_delivered_twice_is_one_event_with_all_its_fields(db: Database, serial: str) -> None:
    db.insert(event(serial), event(serial))
    db.insert(event(serial))
    row = db.row(f"SELECT * FROM $.hardware_events WHERE gpu = '{serial}'")
    assert (row["kind"], row["code"], row["link"], row["details"]) == ("xid", 79, None, {"driver": "570", "pid": "1"})
    assert row["raw"].endswith("fallen off the bus.")
    assert row["event_at"].timestamp() * 1000 == TICK_MS


def test_a_fault_is_one_row_with_its_newest_revision(db: Database, serial: str) -> None:
    db.insert(fault(serial))
    db.insert(fault(serial), fault(serial, revision=2, state="updated", count=7, last_ms=TICK_MS + 4_000))
    row = db.row(f"SELECT * FROM $.fault_history WHERE gpu = '{serial}'")
    assert (row["state"], row["count"], row["cleared_at"]) == ("updated", 7, None)
    assert row["duration_seconds"] > 86_400, "open until now"
    assert row["evidence"][0]["text"] == "Xid 79"
    db.insert(fault(serial, revision=3, state="cleared", cleared_ms=TICK_MS + 12_500))
    row = db.row(f"SELECT * FROM $.fault_history WHERE gpu = '{serial}'")
    assert (row["state"], row["duration_seconds"], row["fault_class"], row["action"]) == (
        "cleared",
        12.5,
        "gpu_lost",
        "drain_and_diagnose",
    )
    assert db.rows(f"SELECT count() FROM $.fault_revisions FINAL WHERE gpu = '{serial}'") == [(3,)]


def test_an_incident_is_one_row_with_root_symptoms_and_when_it_paged(db: Database, serial: str) -> None:
    db.insert(incident(serial, page=False))
    assert db.row(f"SELECT paged_at FROM $.incidents WHERE root_gpu = '{serial}'") == {"paged_at": None}
    db.insert(incident(serial, revision=2, decided_ms=TICK_MS + 2_000))
    db.insert(incident(serial, revision=3, page=False, state="cleared", cleared_ms=TICK_MS + 60_000))
    row = db.row(f"SELECT * FROM $.incidents WHERE root_gpu = '{serial}'")
    assert (row["state"], row["root"], row["root_code"], row["action"]) == (
        "cleared",
        f"gpu:{serial}",
        149,
        "check_hardware",
    )
    assert (row["member_count"], row["symptom_count"], row["duration_seconds"]) == (2, 1, 60.0)
    assert row["paged_at"].timestamp() * 1000 == TICK_MS + 2_000
    assert row["members"][1]["code"] is None
    assert row["racks"] == ["rack-1"]


def test_fleet_now_shows_each_gpu_where_it_was_last_with_what_is_wrong(db: Database, serial: str) -> None:
    node = f"node-of-{serial}"
    db.insert(sample(serial, 0, node="elsewhere"), sample(serial, 5, node=node))
    db.insert(fault(serial, gpu=f"{serial}-0", node=node, severity="warning"))
    db.insert(
        fault(
            f"{serial}-n",
            gpu=None,
            node=node,
            component=f"node:{node}",
            component_kind="node",
            fault_class="node_silent",
        )
    )
    rows = db.rows(
        "SELECT gpu, node, temperature_celsius, open_faults, open_node_faults, worst_severity, age_seconds > 0 "
        f"FROM $.fleet_now WHERE gpu LIKE '{serial}%' ORDER BY gpu"
    )
    assert rows == [
        (f"{serial}-0", node, 65.0, ["gpu_lost"], ["node_silent"], "critical", True),
        (f"{serial}-1", node, 66.0, [], ["node_silent"], "critical", True),
    ]
    db.insert(sample(serial, 6, node=node, gpus=1))
    gone = db.rows(f"SELECT toUnixTimestamp64Milli(last_tick_at) FROM $.fleet_now WHERE gpu = '{serial}-1'")
    assert gone == [(TICK_MS + 5_000,)], (
        "a GPU that its node no longer lists is still known, with when it was last seen"
    )


def inventory(serial: str, **changes: Any) -> InventoryRecord:
    given = InventoryRecord(
        component=f"gpu:{serial}",
        kind="gpu",
        site="site-1",
        rack="rack-1",
        node="node-1",
        gpu_index=3,
        gpu_serial=serial,
        sku="H100",
        source="declared",
        seen_ms=TICK_MS,
    )
    return msgspec.structs.replace(given, **changes)


def test_a_gpu_that_was_declared_and_never_heard_of_is_part_of_the_fleet(db: Database, serial: str) -> None:
    db.insert(inventory(serial))
    row = db.row(f"SELECT * FROM $.fleet_now WHERE gpu = '{serial}'")
    assert (row["node"], row["last_tick_at"], row["age_seconds"], row["gpu_index"]) == ("node-1", None, None, 3)
    db.insert(inventory(serial, removed=True, seen_ms=TICK_MS + 1))
    assert db.rows(f"SELECT count() FROM $.fleet_now WHERE gpu = '{serial}'") == [(0,)]


def test_inventory_is_where_a_component_is_now(db: Database, serial: str) -> None:
    for seen_ms, node in ((0, "node-1"), (5_000, "node-1"), (90_000_000, "node-2"), (90_001_000, "node-2")):
        db.insert(inventory(serial, node=node, seen_ms=TICK_MS + seen_ms))
    row = db.row(f"SELECT * FROM $.inventory WHERE component = 'gpu:{serial}'")
    assert (row["node"], row["sku"], row["vbios_version"]) == ("node-2", "H100", None)
    assert row["seen_at"].timestamp() * 1000 == TICK_MS + 90_001_000
    assert db.rows(f"SELECT count() FROM $.inventory_log FINAL WHERE gpu_serial = '{serial}'") == [(2,)]


def test_the_history_of_a_gpu_tells_where_it_was_and_what_happened(db: Database, serial: str) -> None:
    day = 86_400_000
    db.insert(inventory(serial))
    db.insert(sample(serial, gpus=1), token=serial)
    db.insert(event(serial, event_ms=TICK_MS + 3_600_000))
    db.insert(
        Anomaly(
            anomaly_id=f"a-{serial}",
            site="site-1",
            rack="rack-1",
            node="node-1",
            gpu=serial,
            component=f"gpu:{serial}",
            detector="threshold",
            rule="temperature",
            fault_class="thermal",
            state="raised",
            severity="warning",
            value=92.5,
            limit=90.0,
            begin_ms=TICK_MS + 3_600_500,
            tick_ms=TICK_MS + 3_601_000,
            reason="92.5 °C for 10 s",
        )
    )
    db.insert(fault(serial, first_ms=TICK_MS + 3_600_000, state="cleared", cleared_ms=TICK_MS + 3_660_000, revision=2))
    db.insert(incident(serial, first_ms=TICK_MS + 3_600_100))
    db.insert(inventory(serial, node="node-9", rack="rack-7", seen_ms=TICK_MS + 2 * day))
    db.insert(inventory(serial, node="node-9", rack="rack-7", seen_ms=TICK_MS + 3 * day))
    db.insert(inventory(serial, node="node-9", rack="rack-7", seen_ms=TICK_MS + 4 * day, removed=True))
    rows = db.rows(f"SELECT entry, node, text FROM $.gpu_history WHERE gpu = '{serial}' ORDER BY at")
    assert [(entry, node) for entry, node, _ in rows] == [
        ("seen", "node-1"),
        ("event", "node-1"),
        ("fault opened", "node-1"),
        ("incident", ""),
        ("anomaly raised", "node-1"),
        ("fault cleared", "node-1"),
        ("moved", "node-9"),
        ("removed", "node-9"),
    ]
    text = {entry: text for entry, _, text in rows}
    assert text["seen"] == "seen in node-1 (rack rack-1, index 3)"
    assert text["moved"] == "moved to node-9 (rack rack-7, index 3), was in node-1 (rack rack-1, index 3)"
    assert text["event"].startswith("xid 79: NVRM: Xid (PCI:0000:91:00): 79")
    assert text["fault opened"] == "gpu_lost 79: GPU fell off the bus"
    assert text["incident"] == "root of: NVLink failure"
    assert text["fault cleared"] == "gpu_lost after 60 s, 1 occurrences"
    symptom = db.rows(f"SELECT entry, text FROM $.gpu_history WHERE gpu = '{serial}-x'")
    assert symptom == [("incident", "symptom of: NVLink failure")]
    hour = db.rows(f"SELECT entry, text FROM $.gpu_history WHERE gpu = '{serial}-0' AND entry = 'hour'")
    assert hour == [("hour", "1 samples, 60 °C (highest 60), 500 W, nan% busy")]


def test_a_record_that_two_readers_refuse_is_one_dead_letter(db: Database, unique: str) -> None:
    given = DeadLetter(
        topic=unique, partition=1, offset=7, reason="truncated", detail="ends early", reader="streams",
        key=b"\xff", value=b"\xc3\x01\xff\x00", observed_ms=TICK_MS,
    )  # fmt: skip
    db.insert(given, given)
    db.insert(msgspec.structs.replace(given, reason="rejected_by_sink", reader="sinks.loader", observed_ms=TICK_MS + 5))
    row = db.row(
        f"SELECT `offset`, arraySort(reasons) AS reasons, arraySort(readers) AS readers, hex(value) AS value, "
        f"hex(key) AS key FROM $.dead_letters WHERE topic = '{unique}'"
    )
    assert row == {
        "offset": 7,
        "reasons": ["rejected_by_sink", "truncated"],
        "readers": ["sinks.loader", "streams"],
        "value": "C301FF00",
        "key": "FF",
    }


def test_every_record_class_was_inserted_by_these_tests() -> None:
    assert {route.kind for route in ROUTES} == set(RECORDS.values())
