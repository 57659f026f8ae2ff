"""Where components have been, and a database that was there before this build."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import msgspec
import pytest

from schemas import registry
from schemas.records import (
    GpuSample,
    InventoryRecord,
)
from sinks.clickhouse.migrate import migrate, migrations
from tests.sinks_database import Database
from tests.sinks_scenes import HOUR_MS, TICK_MS, in_inventory

pytestmark = pytest.mark.integration


def sample(gpus: list[str], node: str, at_ms: int, boot_id: str = "boot-1") -> GpuSample:
    return GpuSample(
        site="site-1",
        rack=f"rack-of-{node}",
        node=node,
        boot_id=boot_id,
        sequence=0,
        tick_ms=TICK_MS + at_ms,
        observed_ms=TICK_MS + at_ms,
        gpus=gpus,
        gpu_index=list(range(len(gpus))),
    )


def places(db: Database, serial: str) -> list[tuple[Any, ...]]:
    return [
        (node, slot, (first - TICK_MS) // HOUR_MS, (last - TICK_MS) // HOUR_MS)
        for node, slot, first, last in db.rows(
            "SELECT node, slot, toUnixTimestamp64Milli(first_seen_at), toUnixTimestamp64Milli(last_seen_at) "
            f"FROM $.gpu_places WHERE gpu = '{serial}' ORDER BY stay"
        )
    ]


def test_a_gpu_that_went_to_another_node_and_came_back_has_two_moves(db: Database, serial: str) -> None:
    a, b = f"a-{serial}", f"b-{serial}"
    for at in (0, 1, 2):
        db.insert(sample([serial, "x"], a, at * HOUR_MS), token=f"{serial}-{at}")
    db.insert(sample(["y", serial], b, 3 * HOUR_MS), sample(["y", serial], b, 4 * HOUR_MS), token=f"{serial}-b")
    for at in (5, 900):
        db.insert(sample([serial, "x"], a, at * HOUR_MS, boot_id="boot-2"), token=f"{serial}-{at}")
    assert places(db, serial) == [(a, None, 0, 2), (b, None, 3, 4), (a, None, 5, 900)]
    moves = db.rows(
        "SELECT from_node, to_node, from_rack, to_rack, toUnixTimestamp64Milli(left_after), "
        f"toUnixTimestamp64Milli(first_seen_at) FROM $.gpu_moves WHERE gpu = '{serial}' ORDER BY first_seen_at"
    )
    assert moves == [
        (a, b, f"rack-of-{a}", f"rack-of-{b}", TICK_MS + 2 * HOUR_MS, TICK_MS + 3 * HOUR_MS),
        (b, a, f"rack-of-{b}", f"rack-of-{a}", TICK_MS + 4 * HOUR_MS, TICK_MS + 5 * HOUR_MS),
    ]


def test_an_index_that_shifts_because_a_neighbour_is_gone_is_no_move(db: Database, serial: str) -> None:
    node = f"n-{serial}"
    db.insert(sample(["x", serial], node, 0), token=f"{serial}-0")
    db.insert(sample([serial], node, HOUR_MS), token=f"{serial}-1")
    db.insert(sample(["x", serial], node, 2 * HOUR_MS), token=f"{serial}-2")
    assert places(db, serial) == [(node, None, 0, 2)]
    assert db.rows(f"SELECT count() FROM $.gpu_moves WHERE gpu = '{serial}'") == [(0,)]


def test_a_gpu_that_changed_its_slot_in_a_node_moved(db: Database, serial: str) -> None:
    db.insert(sample([serial], "node-1", 0), token=f"{serial}-0")
    db.insert(in_inventory(serial, 1), in_inventory(serial, HOUR_MS))
    db.insert(sample([serial], "node-1", 2 * HOUR_MS), token=f"{serial}-1")
    db.insert(in_inventory(serial, 3 * HOUR_MS, slot=7, pci="0000:9b:00"))
    db.insert(sample([serial], "node-1", 4 * HOUR_MS), token=f"{serial}-2")
    moves = db.rows(
        f"SELECT from_node, from_slot, from_pci, to_node, to_slot, to_pci FROM $.gpu_moves WHERE gpu = '{serial}'"
    )
    assert moves == [("node-1", 3, "0000:1b:00", "node-1", 7, "0000:9b:00")]


def test_what_was_declared_places_only_a_gpu_that_nobody_found(db: Database, serial: str) -> None:
    db.insert(in_inventory(serial, 0, source="declared", node="node-9"))
    assert places(db, serial) == [("node-9", 3, 0, 0)]
    db.insert(in_inventory(serial, HOUR_MS), in_inventory(serial, 2 * HOUR_MS, source="declared", node="node-9"))
    assert places(db, serial) == [("node-1", 3, 1, 1)], "a wrong declaration is a contradiction, not a move"


def test_every_change_of_a_component_is_kept_with_what_it_was(db: Database, serial: str) -> None:
    db.insert(
        in_inventory(serial, 0),
        in_inventory(serial, 1000),
        in_inventory(serial, 2000, driver_version="580", board_part_number="900-2G520"),
        in_inventory(serial, 3000),
        in_inventory(serial, 4000, source="declared", node="node-9"),
        in_inventory(serial, 5000, source="declared", node="node-9", removed=True),
    )
    rows = db.rows(
        "SELECT source, entry, toUnixTimestamp64Milli(at), arrayMap(c -> (c.field, c.was, c.is), changes) "
        f"FROM $.inventory_history WHERE component = 'gpu:{serial}' ORDER BY at"
    )
    assert [
        (source, entry, at - TICK_MS, [tuple(change) for change in changes]) for source, entry, at, changes in rows
    ] == [
        ("discovered", "first seen", 0, []),
        ("discovered", "changed", 2000, [("driver_version", "570", "580"), ("board_part_number", None, "900-2G520")]),
        ("discovered", "changed", 3000, [("driver_version", "580", "570"), ("board_part_number", "900-2G520", None)]),
        ("declared", "first seen", 4000, []),
        ("declared", "changed", 5000, [("removed", "false", "true")]),
    ]


def test_the_part_number_and_inforom_of_a_board_are_in_the_inventory(db: Database, serial: str) -> None:
    db.insert(in_inventory(serial, 0, board_part_number="900-2G520-0000-000", inforom_version="G520.0200.00.05"))
    row = db.row(f"SELECT board_part_number, inforom_version, sku FROM $.inventory WHERE component = 'gpu:{serial}'")
    assert row == {"board_part_number": "900-2G520-0000-000", "inforom_version": "G520.0200.00.05", "sku": None}


# -- the same, in the history of a GPU


def told(db: Database, serial: str) -> list[tuple[Any, ...]]:
    return db.rows(
        f"SELECT entry, node, rack, intDiv(toUnixTimestamp64Milli(at) - {TICK_MS}, {HOUR_MS}), text "
        f"FROM $.gpu_history WHERE gpu = '{serial}' AND entry IN ('seen', 'moved', 'removed') ORDER BY at"
    )


def test_the_history_of_a_gpu_tells_no_move_where_only_the_drivers_index_shifts(db: Database, serial: str) -> None:
    for at, index in enumerate((2, 1, 2)):
        db.insert(in_inventory(serial, at * HOUR_MS, gpu_index=index))
    assert told(db, serial) == [("seen", "node-1", "rack-1", 0, "seen in node-1 (rack rack-1, index 2)")]


def test_the_history_of_a_gpu_tells_of_its_return_on_the_same_day(db: Database, serial: str) -> None:
    at_b = {"node": "node-2", "rack": "rack-2"}
    db.insert(in_inventory(serial, 0), in_inventory(serial, HOUR_MS, **at_b), in_inventory(serial, 2 * HOUR_MS))
    a, b = "node-1 (rack rack-1, index 2)", "node-2 (rack rack-2, index 2)"
    assert told(db, serial) == [
        ("seen", "node-1", "rack-1", 0, f"seen in {a}"),
        ("moved", "node-2", "rack-2", 1, f"moved to {b}, was in {a}"),
        ("moved", "node-1", "rack-1", 2, f"moved to {a}, was in {b}"),
    ]


def test_the_history_of_a_gpu_knows_its_moves_from_samples_alone(db: Database, serial: str) -> None:
    for at, node in enumerate(("a", "b", "a")):
        db.insert(sample(["x", serial], node, at * HOUR_MS, boot_id=f"boot-{at}"), token=f"{serial}-{at}")
    assert [(entry, node, at) for entry, node, _, at, _ in told(db, serial)] == [
        ("seen", "a", 0),
        ("moved", "b", 1),
        ("moved", "a", 2),
    ]


def test_the_history_of_a_gpu_names_the_slots_of_a_move_within_a_node(db: Database, serial: str) -> None:
    db.insert(in_inventory(serial, 0), in_inventory(serial, HOUR_MS, slot=7, pci="0000:9b:00"))
    (_, (entry, *_, text)) = told(db, serial)
    assert (entry, text) == (
        "moved",
        "moved to slot 7 at 0000:9b:00 of node-1 (rack rack-1, index 2), was in slot 3 at 0000:1b:00",
    )


def test_a_gpu_that_was_found_and_then_struck_off_the_declaration_left_the_fleet(db: Database, serial: str) -> None:
    db.insert(in_inventory(serial, 0), in_inventory(serial, 0, source="declared"))
    db.insert(in_inventory(serial, HOUR_MS, source="declared", removed=True))
    assert [row[0] for row in told(db, serial)] == ["seen", "removed"]
    db.insert(in_inventory(serial, 2 * HOUR_MS))
    assert [(row[0], row[3], row[4]) for row in told(db, serial)[1:]] == [
        ("removed", 1, "left the fleet"),
        ("seen", 2, "back in the fleet"),
    ]


# -- a database that was there before


def test_an_old_database_loses_nothing_and_takes_old_and_new_records(client: Any, unique: str) -> None:
    import sinks.clickhouse.migrate as module

    old = Database(client, unique)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "views", list)  # those of this build read this build's tables
        migrate(client, unique, tables=[migration for migration in migrations() if migration.version <= 6])
    document = msgspec.json.decode((registry.FOLDER / "fleet.inventory.avsc").read_bytes())
    document["fields"] = [
        field for field in document["fields"] if field["name"] not in {"board_part_number", "inforom_version"}
    ]
    earlier = registry.parse(msgspec.json.encode(document), current=False)

    def insert_as_before(record: InventoryRecord) -> None:
        body = io.BytesIO()
        fastavro.schemaless_writer(body, earlier.parsed, msgspec.to_builtins(record))
        old.insert_bodies("fleet_inventory_in", earlier, [body.getvalue()])

    insert_as_before(in_inventory("old", 0))
    old.insert(sample(["old"], "node-1", 0), token="old")
    tables = ("inventory_log", "gpu_samples", "gpu_minute_states", "node_last")
    before = {table: old.rows(f"SELECT count() FROM $.{table}") for table in tables}
    assert set(map(tuple, before.values())) == {((1,),)}

    done = migrate(client, unique)
    assert done[:5] == [
        "0007_gpu_counters", "0008_node_samples", "0009_facility_samples", "0010_inventory_details", "0011_node_gpus",
    ]  # fmt: skip
    assert migrate(client, unique) == []
    assert {table: old.rows(f"SELECT count() FROM $.{table}") for table in tables} == before
    insert_as_before(in_inventory("old", 1000))  # an agent or loader of before is still at work
    assert old.rows("SELECT count() FROM $.inventory_log FINAL") == [(1,)], "it says the same as before"
    old.insert(in_inventory("old", 2000, board_part_number="900-2G520"))
    assert old.row("SELECT board_part_number, inforom_version, node, slot FROM $.inventory") == {
        "board_part_number": "900-2G520", "inforom_version": None, "node": "node-1", "slot": 3,
    }  # fmt: skip
    old.insert(sample(["old"], "node-2", HOUR_MS, boot_id="boot-2"), token="new")
    assert [node for node, *_ in places(old, "old")] == ["node-1", "node-2"], "known from before, and from now on"
    client.command(f"DROP DATABASE {unique} SYNC")
