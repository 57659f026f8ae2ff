"""What the inventory's log shows: moves, contradictions, each once; and who tells them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from schemas.catalog import load
from schemas.catalog.causes import causes
from schemas.records import HardwareEvent, InventoryRecord
from streams.faults import FaultBook
from streams.inventory import InventoryWatch, Ledger
from streams.topology import Topology
from tests.streams_scenes import START_MS

MINUTE = 60_000
CATALOG = load()
BOTH_MS = 15 * MINUTE


def gpu(node: str, minute: float, *, serial: str = "S1", source: str = "discovered", **fields: Any) -> InventoryRecord:
    given: dict[str, Any] = {"site": "hall-a", "rack": "r1", "gpu_serial": serial} | fields
    seen_ms = START_MS + round(minute * MINUTE)
    return InventoryRecord(component=f"gpu:{serial}", kind="gpu", node=node, source=source, seen_ms=seen_ms, **given)


def node(rack: str, minute: float, *, name: str = "n1", source: str = "discovered", **fields: Any) -> InventoryRecord:
    seen_ms = START_MS + round(minute * MINUTE)
    given: dict[str, Any] = {"site": "hall-a"} | fields
    return InventoryRecord(
        component=f"node:{name}", kind="node", node=name, rack=rack, source=source, seen_ms=seen_ms, **given
    )


def told(*records: InventoryRecord) -> list[HardwareEvent]:
    ledger = Ledger(CATALOG, BOTH_MS)
    return [event for record in records for event in ledger.learn(record)]


def kinds(*records: InventoryRecord) -> list[str]:
    return [event.kind for event in told(*records)]


def declared(record: InventoryRecord, **changes: Any) -> InventoryRecord:
    return replace(record, source="declared", **changes)


# --- moves ------------------------------------------------------------------------------------------------------------


def test_a_gpu_found_in_another_node_has_moved_and_the_event_is_about_its_new_place() -> None:
    (event,) = told(
        gpu("n1", 0, slot=3), gpu("n1", 10, slot=3), gpu("n2", 60, rack="r2", slot=5), gpu("n2", 70, slot=5)
    )
    assert (event.kind, event.gpu, event.node, event.rack) == ("gpu_moved", "S1", "n2", "r2")
    assert event.details == {
        "component": "gpu:S1", "serial": "S1",
        "from_site": "hall-a", "from_rack": "r1", "from_node": "n1", "from_slot": "3",
        "to_site": "hall-a", "to_rack": "r2", "to_node": "n2", "to_slot": "5",
    }  # fmt: skip
    assert event.raw == "GPU S1 moved from n1 (rack r1, slot 3) to n2 (rack r2, slot 5)"
    assert event.event_ms == START_MS + 60 * MINUTE
    assert (event.severity, event.source) == ("info", "inventory")


def test_a_gpu_found_in_another_slot_of_its_node_has_moved() -> None:
    assert kinds(gpu("n1", 0, slot=3), gpu("n1", 60, slot=4)) == ["gpu_moved"]
    assert kinds(gpu("n1", 0, pci="0000:18:00"), gpu("n1", 60, pci="0000:2a:00")) == ["gpu_moved"]


def test_a_gpu_whose_module_is_known_does_not_move_because_its_address_or_index_changes() -> None:
    assert kinds(gpu("n1", 0, slot=3, pci="a", gpu_index=2), gpu("n1", 60, slot=3, pci="b", gpu_index=1)) == []
    assert kinds(gpu("n1", 0, slot=3, pci="a"), gpu("n1", 60, slot=None, pci="a")) == [], "not known is no other slot"


def test_a_gpu_goes_where_its_node_goes() -> None:
    assert kinds(gpu("n1", 0), node("r1", 0), gpu("n1", 60, rack="r2"), node("r2", 60)) == ["node_moved"]


def test_a_node_found_in_another_rack_or_slot_has_moved() -> None:
    (event,) = told(node("r1", 0, slot=9), node("r2", 60, slot=9))
    assert (event.kind, event.gpu, event.node, event.rack) == ("node_moved", None, "n1", "r2")
    assert event.raw == "node n1 moved from rack r1 of hall-a, slot 9 to rack r2 of hall-a, slot 9"
    assert kinds(node("r1", 0, slot=9), node("r1", 60, slot=17)) == ["node_moved"]
    assert kinds(node("r1", 0, slot=9), node("r1", 60)) == []


def test_a_gpu_that_was_taken_out_and_put_in_elsewhere_has_moved() -> None:
    assert kinds(gpu("n1", 0), gpu("n1", 1, removed=True), gpu("n2", 2), gpu("n2", 3)) == ["gpu_moved"]


def test_a_swap_back_after_hours_is_two_moves() -> None:
    assert kinds(gpu("n1", 0), gpu("n2", 60), gpu("n2", 600), gpu("n1", 610), gpu("n1", 620)) == ["gpu_moved"] * 2
    assert kinds(gpu("n1", 0), gpu("n2", 60), gpu("n1", 70)) == ["gpu_moved"] * 2
    assert kinds(gpu("n1", 0), gpu("n2", 10), gpu("n1", 30)) == ["gpu_moved"] * 2


def test_an_old_sighting_that_comes_late_is_no_move() -> None:
    """An agent that was cut off sends what it had spooled: the GPU was there, before it was here."""
    assert kinds(gpu("n1", 0), gpu("n2", 60), gpu("n1", 10), gpu("n2", 70)) == ["gpu_moved"]


# --- contradictions ---------------------------------------------------------------------------------------------------


def test_one_serial_that_two_nodes_go_on_reporting_is_a_contradiction_told_once() -> None:
    log = [gpu("n1", 0)]
    for minute in range(5, 200, 10):
        log += [gpu("n2", minute, rack="r2"), gpu("n1", minute + 5)]
    move, event = told(*log)
    assert move.kind == "gpu_moved", "at the first sighting nobody can know better"
    assert (event.kind, event.severity, event.gpu) == ("inventory_contradiction", "warning", "S1")
    assert event.details["point"] == "two_places"
    assert {event.details["first_node"], event.details["second_node"]} == {"n1", "n2"}
    assert event.event_ms == START_MS + 5 * MINUTE, "since both have it"
    assert event.raw.startswith(
        "GPU S1 is reported from two places at once: n1 (rack r1), last at 2023-11-14 22:23:20 UTC"
    )


def test_a_node_name_in_two_racks_is_a_contradiction() -> None:
    events = told(node("r1", 0), node("r2", 5), node("r1", 10), node("r2", 15), node("r1", 20))
    assert [event.kind for event in events] == ["node_moved", "inventory_contradiction"]
    assert {events[1].details["first_rack"], events[1].details["second_rack"]} == {"r1", "r2"}


def test_a_contradiction_that_was_put_right_and_comes_back_is_told_again() -> None:
    both = [gpu("n1", 0), gpu("n2", 5), gpu("n1", 10), gpu("n2", 15)]
    quiet = [gpu("n2", minute) for minute in range(25, 125, 10)]
    again = [gpu("n1", 130), gpu("n2", 135), gpu("n1", 140)]
    events = [event for event in told(*both, *quiet, *again) if event.kind == "inventory_contradiction"]
    assert len(events) == 2
    assert len({event.event_id for event in events}) == 2


def test_a_file_that_says_other_than_what_was_found_is_a_contradiction_told_once() -> None:
    found = node("r1", 0, slot=9, leaf_switch="l1")
    (event,) = told(found, declared(found, rack="r2", slot=10, leaf_switch="l1"), found, replace(found, seen_ms=1))
    assert event.kind == "inventory_contradiction"
    assert event.details == {
        "point": "declared_elsewhere", "component": "node:n1",
        "declared_rack": "r2", "discovered_rack": "r1", "declared_slot": "10", "discovered_slot": "9",
    }  # fmt: skip
    assert "declared with rack r2, slot 10 but found with rack r1, slot 9" in event.raw
    assert (event.node, event.rack) == ("n1", "r1"), "where it was found, for that is whose evidence it joins"


@pytest.mark.parametrize("field", ["chassis_serial", "leaf_switch", "pdu", "site", "slot"])
def test_they_must_agree_on_what_both_know(field: str) -> None:
    one: Any = 1 if field == "slot" else "one"
    other: Any = 2 if field == "slot" else "other"
    found = node("r1", 0, **{field: one})
    assert kinds(found, declared(found, **{field: other})) == ["inventory_contradiction"]
    assert kinds(declared(found, **{field: other}), found) == ["inventory_contradiction"], "whichever is first"
    if field != "site":
        assert kinds(found, declared(found, **{field: None})) == []


def test_names_that_only_people_give_are_not_compared() -> None:
    found = node("r1", 0, nvlink_domain="5e9e02c1-fabric")
    assert kinds(found, declared(found, nvlink_domain="nvl-r1", sku="HGX")) == []
    one = gpu("n1", 0, gpu_index=0)
    assert kinds(one, declared(one, gpu_index=1)) == [], "indexes shift when a GPU is lost"


def test_another_difference_is_another_contradiction_and_agreement_ends_it() -> None:
    found = gpu("n1", 0)
    events = told(
        declared(found, node="n2"), found, declared(found, node="n3", seen_ms=START_MS + 1),
        declared(found, node="n1", seen_ms=START_MS + 2), declared(found, node="n2", seen_ms=START_MS + 3),
    )  # fmt: skip
    assert [event.details.get("declared_node") for event in events] == ["n2", "n3", None, "n2"]
    assert len({event.event_id for event in events}) == 4


def test_a_planned_removal_is_no_contradiction() -> None:
    found = gpu("n1", 0)
    gone = declared(found, removed=True, seen_ms=START_MS + MINUTE)
    assert kinds(declared(found), found, gone, gpu("n1", 10), gpu("n1", 20)) == []
    assert kinds(found, gpu("n2", 5), gpu("n1", 10), gpu("n1", 11, removed=True))[2:] == ["inventory_agrees"]
    assert kinds(declared(found), found, gone, gpu("n2", 30)) == ["gpu_moved"]
    assert kinds(found, gpu("n1", 5, removed=True), gpu("n2", 6), gpu("n1", 7)) == ["gpu_moved"] * 2
    assert kinds(found, gpu("n1", 5, removed=True), declared(found, node="n9")) == []


def test_while_two_places_claim_it_the_file_is_not_held_against_each_in_turn() -> None:
    log = [declared(gpu("n1", 0)), gpu("n1", 0), gpu("n2", 5), gpu("n1", 10)]
    log += [gpu(("n2", "n1")[number % 2], 15 + 5 * number) for number in range(20)]
    assert kinds(*log) == ["gpu_moved", "inventory_contradiction", "inventory_contradiction"]


def test_when_one_place_is_left_the_file_is_held_against_it() -> None:
    log = [gpu("n1", 0), gpu("n2", 5), gpu("n1", 10), declared(gpu("n1", 11)), gpu("n2", 12)]
    events = told(*log, *(gpu("n2", minute) for minute in range(20, 60, 10)))
    assert [(event.kind, event.details.get("point")) for event in events] == [
        ("gpu_moved", None), ("inventory_contradiction", "two_places"),
        ("inventory_agrees", "two_places"), ("inventory_contradiction", "declared_elsewhere"),
    ]  # fmt: skip


def test_an_end_is_told_and_ends_the_fault_of_just_that_contradiction() -> None:
    found = gpu("n1", 0)
    twice, file, removed = (
        [found, gpu("n2", 5), gpu("n1", 10), gpu("n1", 30)],
        [found, declared(found, node="n2"), declared(found)],
        [found, declared(found, node="n2"), declared(found, removed=True)],
    )
    for log in (twice, file, removed):
        book = FaultBook(CATALOG, causes(), Topology())
        faults = [fault for number, event in enumerate(told(*log)) for fault in book.on_event(event, number)]
        assert [(fault.component, fault.fault_class, fault.state) for fault in faults] == [
            ("gpu:S1", "source_health", "open"), ("gpu:S1", "source_health", "cleared"),
        ]  # fmt: skip


def test_racks_and_switches_are_nowhere_else() -> None:
    rack = InventoryRecord(component="rack:r1", kind="rack", site="a", rack="r1", source="declared", seen_ms=0)
    assert told(rack, replace(rack, site="b"), replace(rack, source="discovered", site="c")) == []


def test_times_that_are_no_dates_are_no_error() -> None:
    assert kinds(*(replace(gpu(f"n{number % 2}", 0), seen_ms=2**62 + number) for number in range(4)))


# --- who tells --------------------------------------------------------------------------------------------------------

LOG = [gpu("n1", 0), gpu("n2", 60), gpu("n3", 120), gpu("n4", 180)]


def watching(log: list[InventoryRecord], first: int = 0, watch: InventoryWatch | None = None) -> InventoryWatch:
    watch = watch or InventoryWatch(CATALOG, BOTH_MS)
    for offset, record in enumerate(log[first:], start=first):
        watch.take(0, offset, START_MS + 10**9, record)
    return watch


def test_what_was_found_is_told_once_with_the_memory_that_it_was() -> None:
    watch = watching(LOG)
    watch.resume({}, {0: len(LOG)})
    outcome = watch.tell()
    assert [record.details["to_node"] for record in outcome.records] == ["n2", "n3", "n4"]  # type: ignore[attr-defined]
    assert outcome.memory == {"inventory|0": b"3"}
    assert watch.tell().records == []


def test_another_worker_goes_on_where_the_one_before_has_told_and_finds_the_same() -> None:
    first = watching(LOG[:3])
    first.resume({}, {0: 3})
    before = first.tell()
    second = watching(LOG)
    second.resume({key: state or b"" for key, state in before.memory.items()}, {0: 4})
    after = second.tell()
    whole = watching(LOG)
    whole.resume({}, {0: 4})
    assert before.records + after.records == whole.tell().records


def test_a_worker_that_died_before_it_remembered_has_told_the_same_events() -> None:
    first, second = watching(LOG), watching(LOG)
    for watch in (first, second):
        watch.resume({}, {0: 4})
    assert first.tell().records == second.tell().records


def test_a_topic_that_was_made_anew_is_told_from_its_beginning() -> None:
    watch = watching(LOG)
    watch.resume({"inventory|0": b"1000", "inventory|x": b"?", "fault|0": b"7"}, {0: 4})
    assert len(watch.tell().records) == 3


def test_a_clock_that_is_years_ahead_does_not_make_all_that_comes_later_look_old() -> None:
    watch = InventoryWatch(CATALOG, BOTH_MS)
    ahead = replace(gpu("n2", 60), seen_ms=START_MS * 2)
    for minute, record in ((0, gpu("n1", 0)), (60, ahead), (200, gpu("n3", 200))):
        watch.take(0, minute, START_MS + minute * MINUTE, record)
    watch.resume({}, {0: 201})
    assert [record.details["to_node"] for record in watch.tell().records] == ["n2", "n3"]  # type: ignore[attr-defined]


# --- the topology -----------------------------------------------------------------------------------------------------


def knowing(*records: InventoryRecord) -> Topology:
    topology = Topology()
    for record in records:
        topology.learn(record)
    return topology


FOUND = [
    node("r1", 0, nvlink_domain="fabric-uuid", leaf_switch=None, pdu="by-agent"),
    gpu("n1", 0, pci="0000:18:00", nvlink_domain="fabric-uuid"),
]
FILE = [
    declared(node("r9", 0), nvlink_domain="nvl-r1", leaf_switch="leaf-1", pdu="pdu-1"),
    declared(gpu("n1", 0), gpu_index=0),
]


@pytest.mark.parametrize("order", [FOUND + FILE, FILE + FOUND, [FILE[0], FOUND[1], FOUND[0], FILE[1]]])
def test_what_hangs_on_what_is_declared_and_what_is_where_is_found_in_any_order(order: list[InventoryRecord]) -> None:
    topology = knowing(*order)
    assert topology.nvlink_domain("S1", "n1") == "nvl-r1"
    assert (topology.leaf_switch("n1"), topology.pdu("n1")) == ("leaf-1", "pdu-1")
    assert topology.gpu_at("n1", "0000:18:00") == "S1"
    assert (topology.nodes_in_rack("hall-a", "r1"), topology.nodes_in_rack("hall-a", "r9")) == (1, 0)


def test_without_a_file_what_was_found_has_to_do_and_without_agents_the_file() -> None:
    found, file = knowing(*FOUND), knowing(*FILE)
    assert (found.nvlink_domain("S1", "n1"), found.pdu("n1"), found.leaf_switch("n1")) == (
        "fabric-uuid",
        "by-agent",
        None,
    )
    assert (file.nvlink_domain("S1", "n1"), file.nodes_in_rack("hall-a", "r9")) == ("nvl-r1", 1)
    assert (file.pdu("n7"), file.leaf_switch("n7")) == (None, None)


def test_a_removal_by_one_source_leaves_what_the_other_knows() -> None:
    gone = [replace(record, removed=True) for record in FILE]
    topology = knowing(*FOUND, *FILE, *gone)
    assert topology.nvlink_domain("S1", "n1") == "fabric-uuid"
    assert topology.gpu_at("n1", "0000:18:00") == "S1"
    assert topology.nodes_in_rack("hall-a", "r1") == 1
    nothing = knowing(*FOUND, *(replace(record, removed=True) for record in FOUND))
    assert nothing.gpu_at("n1", "0000:18:00") is None
    assert nothing.nodes_in_rack("hall-a", "r1") == 0


def test_a_file_that_does_not_know_of_a_move_does_not_give_a_gpu_its_old_domain() -> None:
    file = declared(gpu("n1", 0), nvlink_domain="nvl-r1")
    there = declared(node("r2", 0, name="n2"), nvlink_domain="nvl-r2")
    topology = knowing(file, there, gpu("n2", 60, nvlink_domain="x"))
    assert topology.nvlink_domain("S1", "n2") == "nvl-r2"


def test_who_was_found_in_a_slot_goes_before_who_was_declared_there() -> None:
    file = declared(gpu("n1", 0, serial="S9"), pci="0000:18:00")
    for order in ([file, *FOUND], [*FOUND, file]):
        assert knowing(*order).gpu_at("n1", "0000:18:00") == "S1"
    assert knowing(file).gpu_at("n1", "0000:18:00") == "S9"
