"""Announced work explains what it does to machines, keeps the rest quiet, and hides nothing once it is over."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from schemas.records import Anomaly, Fault
from streams.topology import Topology
from tests.streams_book import CATALOG, Book, announces, clears, says
from tests.streams_scenes import START_MS, anomaly, event, in_inventory

MARGIN = CATALOG.faults["maintenance"].margin
HOUR_S = 3600
WORK = announces("rack:r1", 1800, 5400, reason="new cooling loop")
"""Half an hour ahead, for an hour."""


def silent(at_s: float, state: str = "raised", node: str = "n1", begin_s: float | None = None) -> Anomaly:
    begins = at_s - 5 if begin_s is None else begin_s
    return anomaly("node_silent", state, at_s=at_s, begin_s=begins, gpu=None, node=node)


def one(written: list[Fault]) -> Fault:
    (fault,) = written
    return fault


def test_announced_work_is_a_fault_that_asks_for_nothing_and_says_from_when_to_when_and_who() -> None:
    work = one(Book().take(WORK))
    assert (work.component, work.component_kind, work.fault_class) == ("rack:r1", "rack", "maintenance")
    assert (work.severity, work.action, work.state, work.rack, work.node) == ("info", "none", "open", "r1", None)
    assert work.reason == (
        "rack:r1 is worked on from 2023-11-14 22:43 UTC to 2023-11-14 23:43 UTC, says ann: new cooling loop"
    )


def test_times_may_be_given_from_the_announcement_on_and_the_absolute_ones_win() -> None:
    relative = says("maintenance_announced", scope="rack:r1", begin_s="1800", until_s="5400", by="ann")
    both = replace(WORK, details=WORK.details | {"reason": "", "begin_s": "9", "until_s": "99"})
    reasons = {one(Book().take(said)).reason for said in (relative, both)}
    assert reasons == {"rack:r1 is worked on from 2023-11-14 22:43 UTC to 2023-11-14 23:43 UTC, says ann"}


@pytest.mark.parametrize("details", [
    {"scope": "rack:"}, {"scope": "hall"}, {"scope": "cluster:c1"}, {"until_ms": "soon"}, {"until_ms": "nan"},
    {"until_ms": "inf"}, {"until_ms": "1e300"}, {"until_ms": "-5"}, {"until_ms": str(START_MS - 10**9)},
])  # fmt: skip
def test_an_announcement_that_cannot_be_understood_does_nothing(details: dict[str, str]) -> None:
    book = Book()
    sound = announces("rack:r1", 0, 100)
    assert book.take(replace(sound, details=sound.details | details)) == []
    assert book.take(silent(50))[0].severity == "critical"


def test_an_announcement_without_an_end_or_of_somebody_who_is_no_operator_does_nothing() -> None:
    book = Book()
    endless = says("maintenance_announced", scope="rack:r1")
    assert book.take(endless, replace(WORK, source="kernel_log")) == []


def test_what_work_does_to_a_machine_is_explained_by_it_and_wakes_nobody() -> None:
    book = Book()
    work = one(book.take(WORK))
    fault = one(book.take(silent(1900)))
    assert (fault.fault_class, fault.severity, fault.action) == ("node_silent", "info", "none")
    assert (fault.maintenance, fault.action_rule) == (work.fault_id, "maintenance")
    assert fault.reason.endswith("It is being worked on.")
    assert fault.snoozed_until_ms == START_MS + (5400 + MARGIN.grace_s) * 1000


def test_what_no_work_explains_keeps_its_severity_and_waits_for_the_end_of_the_work() -> None:
    book = Book()
    work = one(book.take(WORK))
    fault = one(book.take(event(code=79, at_s=1900)))
    assert (fault.severity, fault.action, fault.maintenance) == ("critical", "reboot_node", work.fault_id)
    assert fault.snoozed_until_ms == START_MS + 5_400_000

    assert book.wait(5399) == []
    after = one([one for one in book.wait(5400) if one.fault_class == "gpu_lost"])
    assert (after.state, after.severity, after.maintenance, after.snoozed_until_ms) == (
        "updated", "critical", None, None,
    )  # fmt: skip
    assert after.reason.endswith("It began in announced work that is over.")


def test_what_still_stands_when_machines_had_time_to_boot_is_a_fault_like_any_other() -> None:
    book = Book()
    book.take(WORK, silent(1900))
    over_s = 5400 + MARGIN.grace_s
    assert book.wait(over_s - 1) == []
    told = {fault.fault_class: fault for fault in book.wait(over_s)}
    assert set(told) == {"maintenance", "node_silent"}
    assert (told["maintenance"].state, told["maintenance"].cleared_ms) == ("cleared", START_MS + over_s * 1000)
    stands = told["node_silent"]
    assert (stands.state, stands.severity, stands.action) == ("updated", "critical", "drain_and_diagnose")
    assert (stands.maintenance, stands.snoozed_until_ms) == (None, None)
    assert book.wait(over_s + 9 * HOUR_S) == []


def test_an_early_end_ends_the_work_at_once_and_gives_machines_time_to_boot() -> None:
    book = Book()
    book.take(WORK, silent(1900), event(code=79, at_s=2000))
    told = {fault.fault_class: fault for fault in book.take(says("maintenance_ended", scope="rack:r1", at_s=3000))}
    assert (told["maintenance"].state, told["maintenance"].cleared_ms) == ("cleared", START_MS + 3_000_000)
    assert told["node_silent"].snoozed_until_ms == START_MS + (3000 + MARGIN.grace_s) * 1000
    assert told["gpu_lost"].snoozed_until_ms == START_MS + 3_000_000

    assert [(one.fault_class, one.severity) for one in book.wait(3000)] == [("gpu_lost", "critical")]
    slow = one(book.take(silent(3100, node="n2")))
    assert slow.severity == "info", "it was slow to boot"
    assert one(book.take(silent(3000 + MARGIN.grace_s + 10, node="n3"))).severity == "critical"


def test_what_comes_back_in_time_ends_quietly_and_counts_as_no_repeat() -> None:
    book = Book()
    book.take(WORK)
    for turn in range(4):
        book.take(silent(1900 + 300 * turn), silent(2100 + 300 * turn, "cleared", begin_s=1895 + 300 * turn))
    assert clears(book) == ["node_silent"] * 4
    assert {fault.severity for fault in book.written} == {"info"}
    later = one(book.take(silent(9000)))
    assert (later.recurrence, later.flapping) == (0, False)


def test_somebody_is_early_and_what_was_there_long_before_is_no_work() -> None:
    book = Book()
    book.take(WORK)
    assert one(book.take(silent(1800 - MARGIN.lead_s + 10, begin_s=1800 - MARGIN.lead_s))).severity == "info"
    assert one(book.take(silent(1000, node="n2"))).severity == "critical"


def test_work_that_is_announced_late_explains_what_it_has_done_already() -> None:
    book = Book()
    book.take(silent(100), silent(100, node="n9"))
    late = announces("node:n1", 60, 4000, at_s=200)
    work, explained = book.take(late)
    assert (explained.node, explained.severity, explained.maintenance) == ("n1", "info", work.fault_id)
    book.take(silent(300, "cleared", begin_s=95))
    assert one(book.take(silent(9000))).recurrence == 0, "it was no fault of the node"


def test_an_old_fault_that_becomes_worse_during_work_waits_for_its_end() -> None:
    book = Book()
    (before,) = book.take(event(code=145, at_s=0, details={"variant": "nonfatal"}))
    book.take(WORK)
    worse = one(book.take(event(code=149, at_s=1900, details={"variant": "fatal"})))
    assert (before.severity, worse.severity, worse.fault_id) == ("warning", "critical", before.fault_id)
    assert worse.snoozed_until_ms == START_MS + 5_400_000


@pytest.mark.parametrize(
    ("scope", "explained"),
    [
        ("rack:r1", ["n1", "n2"]),
        ("node:n2", ["n2"]),
        ("pdu:p2", ["n2", "n3"]),
        ("switch:l1", ["n1"]),
        ("leaf_switch:l1", ["n1"]),
        ("site:hall-a", ["n1", "n2", "n3", "n4"]),
        ("gpu:S1", []),
        ("pdu:p9", []),
    ],
)
def test_work_explains_what_is_in_its_scope_and_nothing_else(scope: str, explained: list[str]) -> None:
    topology = Topology()
    topology.learn(in_inventory("node:n1", leaf_switch="l1", pdu="p1"))
    topology.learn(in_inventory("node:n2", leaf_switch="l2", pdu="p2"))
    topology.learn(in_inventory("node:n3", rack="r2", pdu="p2"))
    book = Book(topology)
    book.take(announces(scope, 0, 1000))
    racks = {"n1": "r1", "n2": "r1", "n3": "r2", "n4": "r4"}
    told = book.take(*(replace(silent(50, node=node), rack=rack) for node, rack in racks.items()))
    assert [fault.node for fault in told if fault.severity == "info"] == explained
    elsewhere = replace(silent(60, node="n5"), site="hall-b")
    assert book.take(elsewhere)[0].severity == "critical", "another site may have a rack of the same name"


def test_work_on_a_gpu_explains_its_silence_and_not_its_neighbours() -> None:
    book = Book()
    book.take(announces("gpu:n1-0", 0, 1000))
    told = book.take(anomaly(at_s=50, begin_s=40), anomaly(at_s=50, begin_s=40, gpu="n1-1"))
    assert [(fault.gpu, fault.severity) for fault in told] == [("n1-0", "info"), ("n1-1", "critical")]


def test_work_that_takes_longer_is_announced_again() -> None:
    book = Book()
    first = one(book.take(WORK))
    book.take(silent(1900))
    work, fault = book.take(announces("rack:r1", 1800, 9000, at_s=5000))
    assert (work.fault_id, work.revision, work.state) == (first.fault_id, 2, "updated")
    assert fault.snoozed_until_ms == START_MS + (9000 + MARGIN.grace_s) * 1000
    assert book.wait(5400 + MARGIN.grace_s) == []


def test_two_times_may_be_announced_for_one_thing_and_the_first_ends_without_the_second() -> None:
    book = Book()
    book.take(announces("rack:r1", 100, 1000), announces("rack:r1", 50_000, 60_000, at_s=1))
    assert book.take(says("maintenance_ended", scope="rack:r1", at_s=500)) == []
    assert one(book.take(silent(20_000))).severity == "critical"
    book.take(silent(20_100, "cleared", begin_s=19_995))
    assert one(book.take(silent(50_100))).severity == "info"


def test_work_that_has_not_begun_can_be_taken_back() -> None:
    book = Book()
    book.take(WORK)
    assert [fault.state for fault in book.take(says("maintenance_ended", scope="rack:r1", at_s=60))] == ["cleared"]
    assert one(book.take(silent(1900))).severity == "critical"


def test_ending_what_nobody_announced_does_nothing() -> None:
    assert Book().take(says("maintenance_ended", scope="rack:r1"), says("maintenance_ended", scope="?")) == []


def test_words_that_are_delivered_again_change_nothing() -> None:
    book = Book()
    ended = says("maintenance_ended", scope="rack:r1", at_s=3000)
    scene = [WORK, silent(1900), event(code=79, at_s=2000), ended]
    book.take(*scene)
    assert book.take(*scene) == []
    assert book.restarted().take(*scene) == []
    book.wait(3000 + MARGIN.grace_s)
    assert book.take(*scene) == []


def test_a_restart_in_the_middle_of_work_changes_nothing() -> None:
    scene = [WORK, silent(1900), event(code=79, at_s=2000), says("maintenance_ended", scope="rack:r1", at_s=3000)]
    straight = Book()
    straight.take(*scene)
    straight.wait(3000 + MARGIN.grace_s)
    for cut in range(len(scene) + 1):
        book = Book()
        before = book.take(*scene[:cut])
        again = book.restarted()
        after = [*again.take(*scene[cut:]), *again.wait(3000 + MARGIN.grace_s)]
        assert [*before, *after] == straight.written, cut


def test_an_operator_ends_work_like_any_other_fault() -> None:
    book = Book()
    work = one(book.take(WORK))
    book.take(silent(1900))
    told = book.take(says("fault_ended", at_s=2500, fault_id=work.fault_id))
    assert [(fault.fault_class, fault.state) for fault in told] == [
        ("maintenance", "cleared"), ("node_silent", "updated"),
    ]  # fmt: skip


NVML = {"source": "nvml"}


# --- what else explains silence ---------------------------------------------------------------------------------------


def test_a_node_whose_agent_says_that_a_source_hangs_is_there_and_not_silent() -> None:
    book = Book()
    (hangs,) = book.take(event("source_failed", gpu=None, at_s=3, source="agent", details=NVML))
    found = one(book.take(silent(40, begin_s=0)))
    assert (found.fault_id, found.fault_class, found.severity) == (hangs.fault_id, "source_health", "warning")
    book.take(event("source_recovered", gpu=None, at_s=90, source="agent", details=NVML))
    assert clears(book) == []
    book.take(silent(100, "cleared", begin_s=0))
    assert clears(book) == ["source_health"]


def test_a_kernel_log_that_cannot_be_read_explains_no_silence() -> None:
    book = Book()
    book.take(event("source_failed", gpu=None, at_s=3, source="agent", details={"source": "kernel_log"}))
    assert one(book.take(silent(40, begin_s=0))).fault_class == "node_silent"


def test_a_node_that_falls_silent_long_after_a_source_failed_is_silent() -> None:
    book = Book()
    book.take(event("source_failed", gpu=None, at_s=3, source="agent", details=NVML))
    assert one(book.take(silent(400))).fault_class == "node_silent"


def test_what_the_inventory_has_taken_out_is_no_longer_silent() -> None:
    topology = Topology()
    for known in (in_inventory("node:n1"), in_inventory("gpu:n2-0", node="n2")):
        topology.learn(known)
    book = Book(topology)
    book.take(silent(10), anomaly(at_s=10, begin_s=5, gpu="n2-0", node="n2"), event(code=64, gpu="n2-0", node="n2"))
    topology.learn(replace(in_inventory("node:n1"), removed=True, seen_ms=START_MS + 60_000))
    topology.learn(replace(in_inventory("gpu:n2-0", node="n2"), removed=True, seen_ms=START_MS + 60_000))

    told = book.wait(61)
    assert [(fault.fault_class, fault.state) for fault in told] == [
        ("gpu_silent", "cleared"), ("node_silent", "cleared"),
    ]  # fmt: skip
    assert all(fault.reason.endswith("It was taken out of the inventory.") for fault in told)
    assert book.take(silent(90)) == []
    # an agent that is still there would have said so by now
    assert [fault.fault_class for fault in book.wait(60 + HOUR_S)] == ["row_remap_failure"]


def test_what_is_seen_after_it_was_taken_out_is_there() -> None:
    topology = Topology()
    topology.learn(replace(in_inventory("node:n1"), removed=True))
    topology.learn(replace(in_inventory("node:n1"), source="discovered", seen_ms=START_MS + 1))
    assert one(Book(topology).take(silent(10))).severity == "critical"
