"""Verdicts: what each kind of trouble makes of a GPU, its node and its rack, and whether they may be rented."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.catalog import load
from schemas.catalog.health import health_table
from schemas.records import Fault, InventoryRecord, Reason, Verdict
from streams.health import HealthBook, Heard, Where
from streams.topology import Topology
from tests.streams_scenes import START_MS, fault, in_inventory

CATALOG, TABLE = load(), health_table()
HALL = Where("hall-a", "r1")
DAY_MS = 86_400_000


def found(component: str, at_s: float = 0, **fields: Any) -> InventoryRecord:
    """What an agent found."""
    record = in_inventory(component, **fields)
    return replace(record, source="discovered", seen_ms=START_MS + round(at_s * 1000))


def rack_of(nodes: int = 2, gpus: int = 4) -> list[InventoryRecord]:
    """A rack of nodes `n1`, `n2`, … with GPUs `n1-0`, `n1-1`, …, found by their agents."""
    names = [f"n{number}" for number in range(1, nodes + 1)]
    return [
        *(found(f"node:{node}") for node in names),
        *(found(f"gpu:{node}-{index}", node=node) for node in names for index in range(gpus)),
    ]


class Ward:
    """A book with its rack, and what it has said last of each."""

    def __init__(self, inventory: Iterable[InventoryRecord] = (), **options: Any) -> None:
        self.topology = Topology()
        for record in inventory:
            self.topology.learn(record)
        self.book = HealthBook(TABLE, CATALOG, self.topology, **options)
        self.said: dict[str, Verdict] = {}
        self.told: list[Verdict] = []
        self.later()

    def hear(self, node: str = "n1", gpu: str | None = None, *faults: Fault, at_s: float = 0) -> list[Verdict]:
        at_ms = START_MS + round(at_s * 1000)
        return self._note(self.book.on_record(Heard(HALL, node, gpu, at_ms, at_ms + 100), faults))

    def break_(self, *faults: Fault) -> list[Verdict]:
        """Each as its own record reaches Kafka, a tenth of a second after it happened."""
        told: list[Verdict] = []
        for one in faults:
            at_ms = one.cleared_ms or (one.first_ms if one.state == "open" else one.last_ms)
            told += self.book.on_record(Heard(HALL, one.node, one.gpu, at_ms, at_ms + 100), [one])
        return self._note(told)

    def mend(self, *faults: Fault, at_s: float) -> list[Verdict]:
        return self.break_(*(cleared(one, at_s) for one in faults))

    def learn(self, *records: InventoryRecord) -> list[Verdict]:
        for record in records:
            self.topology.learn(record)
            self.book.learnt(record.component)
        return self.later()

    def later(self) -> list[Verdict]:
        return self._note(self.book.advance(START_MS + DAY_MS))

    def _note(self, told: list[Verdict]) -> list[Verdict]:
        self.told += told
        self.said |= {one.component: one for one in told}
        return told

    def is_(self, component: str) -> tuple[str, bool]:
        return self.said[component].health, self.said[component].rentable

    def why(self, component: str) -> list[tuple[str, str]]:
        return [(one.effect, one.rule) for one in self.said[component].reasons]


def cleared(one: Fault, at_s: float) -> Fault:
    return replace(one, state="cleared", revision=one.revision + 1, cleared_ms=START_MS + round(at_s * 1000))


def known_by(component: str, kind: str, fault_class: str, **fields: Any) -> Fault:
    """A fault of something that is neither GPU nor node."""
    return fault(fault_class, gpu=None, component=component, component_kind=kind, **fields)


# --- who is healthy ---------------------------------------------------------------------------------------------------


def test_what_nothing_speaks_against_is_healthy_and_may_be_rented() -> None:
    ward = Ward(rack_of())
    assert {component: ward.is_(component) for component in ward.said} == dict.fromkeys(
        ["node:n1", "node:n2", "rack:r1", *(f"gpu:n{node}-{index}" for node in (1, 2) for index in range(4))],
        ("healthy", True),
    )
    assert {(one.revision, one.action, tuple(one.reasons)) for one in ward.told} == {(1, "none", ())}


def test_a_node_that_no_inventory_lists_is_known_from_the_first_that_it_says() -> None:
    ward = Ward()
    assert [one.component for one in ward.hear("n7", "S1", at_s=5)] == ["node:n7", "gpu:S1", "rack:r1"]
    assert ward.said["gpu:S1"].node == "n7"
    assert ward.said["node:n7"].since_ms == START_MS + 5000
    assert ward.said["node:n7"].decided_ms == START_MS + 5100, "when it reached Kafka, by Kafka's clock"
    assert ward.hear("n7", "S1", at_s=6) == [], "which is no news the second time"


def test_what_is_first_heard_of_in_trouble_was_never_called_healthy() -> None:
    ward = Ward()
    told = ward.hear("n1", "n1-0", fault("gpu_lost"))
    assert [(one.component, one.health, one.revision) for one in told] == [
        ("node:n1", "unhealthy", 1),
        ("gpu:n1-0", "unhealthy", 1),
        ("rack:r1", "degraded", 1),
    ]


def test_what_is_declared_and_was_never_heard_of_is_unknown() -> None:
    ward = Ward([in_inventory("node:n1"), in_inventory("gpu:n1-0", node="n1")])
    assert ward.is_("node:n1") == ward.is_("gpu:n1-0") == ("unknown", False)
    assert ward.why("gpu:n1-0") == [("unknown", "never_heard")]
    ward.hear("n1", at_s=9)
    assert ward.is_("node:n1") == ("healthy", True)
    assert ward.is_("gpu:n1-0") == ("healthy", True), "its agent looks for no GPUs, so that it found none says nothing"


def test_a_declared_gpu_that_the_nodes_agent_does_not_find_is_unknown_and_its_neighbours_wait_for_it() -> None:
    ward = Ward([in_inventory("gpu:missing", node="n1"), *rack_of(1)])
    assert ward.is_("gpu:missing") == ("unknown", False)
    assert ward.is_("node:n1") == ("healthy", False)
    assert ward.why("node:n1") == [("blocks", "gpu_held_back")]
    ward.learn(found("gpu:missing", node="n1"))
    assert ward.is_("gpu:missing") == ward.is_("node:n1") == ("healthy", True)


def test_racks_of_other_partitions_are_left_to_them() -> None:
    ward = Ward([*rack_of(), found("node:m1", rack="r2")], owns=lambda rack: rack == "r1")
    assert "node:m1" not in ward.said


def test_a_node_that_tells_of_another_racks_pdu_stays_in_its_own() -> None:
    ward = Ward([found("node:reader", rack="r9"), *rack_of(1)])
    told = ward.hear("reader", None, known_by("pdu:west", "pdu", "power", node="reader"))
    assert [(one.component, one.health) for one in told] == [("rack:r1", "degraded")]
    assert ward.said["node:reader"].rack == "r9"
    assert ward.is_("node:reader") == ("healthy", True)


def test_a_node_of_another_partition_that_tells_of_a_rack_of_ours_is_left_to_its_own() -> None:
    ward = Ward([found("node:reader", rack="r9"), *rack_of(1)], owns=lambda rack: rack == "r1")
    assert [one.component for one in ward.hear("reader", None, known_by("pdu:w", "pdu", "power", node="reader"))] == [
        "rack:r1"
    ]


def test_what_is_removed_gets_no_verdict_any_more() -> None:
    ward = Ward(rack_of())
    ward.learn(
        replace(found("gpu:n1-0", at_s=10, node="n1"), source="declared", removed=True),
        replace(found("node:n2", at_s=10), removed=True),
    )
    ward.told.clear()
    ward.break_(fault("gpu_hang"), fault("node_silent", gpu=None), fault("gpu_lost", gpu="n1-1"))
    assert {one.component for one in ward.told} == {"node:n1", "gpu:n1-1", "gpu:n1-2", "gpu:n1-3", "rack:r1"}
    assert sum(ward.book.counts.values()) == 5
    ward.learn(found("gpu:n1-0", at_s=60, node="n1"))
    assert ward.is_("gpu:n1-0") == ("unknown", False), "somebody has put it back, into a node that is silent"


def test_a_gpu_that_moves_takes_its_trouble_with_it_and_leaves_none_behind() -> None:
    ward = Ward(rack_of())
    ward.break_(fault("row_remap_failure", gpu="n1-0"))
    assert ward.is_("node:n1") == ("degraded", False)
    ward.learn(found("gpu:n1-0", at_s=60, node="n2"))
    assert ward.is_("gpu:n1-0") == ("unhealthy", False)
    assert (ward.said["gpu:n1-0"].node, ward.said["gpu:n1-0"].revision) == ("n2", 3)
    assert ward.is_("node:n1") == ("healthy", True)
    assert ward.is_("node:n2") == ("degraded", False)
    ward.mend(fault("row_remap_failure", gpu="n1-0"), at_s=90)
    assert ward.is_("node:n2") == ward.is_("gpu:n1-0") == ("healthy", True)


def test_a_node_that_moves_is_judged_where_it_stands_with_all_that_is_in_it() -> None:
    ward = Ward([*rack_of(), found("node:m1", rack="r2")])
    ward.break_(fault("gpu_lost"))
    assert ward.is_("rack:r1") == ("healthy", False)
    ward.learn(found("node:n1", rack="r2", at_s=60))
    assert {ward.said[component].rack for component in ("node:n1", "gpu:n1-0", "gpu:n1-3")} == {"r2"}
    assert ward.is_("gpu:n1-0") == ("unhealthy", False)
    assert ward.is_("rack:r1") == ("healthy", True)
    assert ward.is_("rack:r2") == ("healthy", False)


def test_a_gpu_without_a_serial_is_known_by_its_slot_for_as_long_as_something_is_wrong_there() -> None:
    ward = Ward(rack_of(1))
    lost = fault("gpu_lost", gpu=None, component="gpu:n1/0000:91:00", component_kind="gpu", pci="0000:91:00")
    ward.break_(lost)
    assert ward.is_("gpu:n1/0000:91:00") == ("unhealthy", False)
    assert ward.said["gpu:n1/0000:91:00"].gpu is None
    ward.mend(lost, at_s=60)
    assert ward.is_("gpu:n1/0000:91:00") == ("healthy", True)
    assert ward.book.counts["gpu", "healthy"] == 4, "the four that have names"
    assert ward.break_(replace(lost, fault_class="application", fault_id="x")) == [], "a program is no GPU"


# --- the table, row by row --------------------------------------------------------------------------------------------

GPU_ROWS = {
    # row: class, severity, further fields, what becomes of the GPU, of its node
    "gpu_lost": ("gpu_lost", "critical", {}, ("unhealthy", False), ("degraded", False)),
    "gpu_lost_suspected": ("gpu_lost", "warning", {}, ("degraded", False), ("degraded", False)),
    "gpu_silent": ("gpu_silent", "critical", {}, ("unhealthy", False), ("degraded", False)),
    "gpu_hard_to_read": ("gpu_silent", "warning", {}, ("unknown", False), ("healthy", False)),
    "memory_uncorrectable": ("gpu_memory_uncorrectable", "critical", {}, ("unhealthy", False), ("degraded", False)),
    "memory_uncorrectable_counted": (
        "gpu_memory_uncorrectable", "warning", {}, ("degraded", False), ("degraded", False)
    ),
    "memory_contained_often": ("gpu_memory_contained", "critical", {}, ("degraded", False), ("degraded", False)),
    "memory_contained": ("gpu_memory_contained", "warning", {}, ("healthy", True), ("healthy", True)),
    "row_remap_overdue": ("row_remap", "critical", {}, ("degraded", False), ("degraded", False)),
    "row_remap_waits": ("row_remap", "warning", {}, ("healthy", True), ("healthy", True)),
    "row_remap_failed": ("row_remap_failure", "critical", {}, ("unhealthy", False), ("degraded", False)),
    "row_remap_exhausted": ("row_remap_failure", "warning", {}, ("degraded", False), ("degraded", False)),
    "corrected_errors_critical": ("memory_correctable", "critical", {}, ("degraded", False), ("degraded", False)),
    "corrected_errors_rise": ("memory_correctable", "warning", {}, ("healthy", True), ("healthy", True)),
    "nvlink_down": ("nvlink", "critical", {}, ("unhealthy", False), ("degraded", False)),
    "nvlink_wears": (
        "nvlink", "warning", {"rule": "counter_rate.nvlink_recoveries_rise"}, ("healthy", True), ("healthy", True)
    ),
    "nvlink_told_of": ("nvlink", "warning", {"action": "none"}, ("healthy", True), ("healthy", True)),
    "nvlink_unreliable": ("nvlink", "warning", {"rule": "event.nvlink_down"}, ("degraded", False), ("degraded", False)),
    "gsp_dead": ("gsp", "critical", {}, ("unhealthy", False), ("degraded", False)),
    "gsp_stumbles": ("gsp", "warning", {}, ("degraded", False), ("degraded", False)),
    "gpu_hangs": ("gpu_hang", "critical", {}, ("unhealthy", False), ("degraded", False)),
    "gpu_to_be_drained": ("gpu_hang", "warning", {}, ("degraded", False), ("degraded", False)),
    "gpu_not_initialised": ("gpu_init", "critical", {}, ("unhealthy", False), ("degraded", False)),
    "gpu_hardly_initialised": ("gpu_init", "warning", {}, ("degraded", False), ("degraded", False)),
    "wrong_results": ("compute", "critical", {}, ("unhealthy", False), ("degraded", False)),
    "doubtful_results": ("compute", "warning", {}, ("degraded", False), ("degraded", False)),
    "pcie_broken": ("pcie", "critical", {}, ("unhealthy", False), ("degraded", False)),
    "pcie_wears": (
        "pcie", "warning", {"rule": "counter_rate.pcie_replays_rise"}, ("healthy", True), ("healthy", True)
    ),
    "pcie_narrow": ("pcie", "warning", {"rule": "event.pcie_width_reduced"}, ("degraded", False), ("degraded", False)),
    "pcie_corrected": ("pcie", "info", {}, ("healthy", True), ("healthy", True)),
    "power_cable_missing": ("power", "critical", {"rule": "xid.54"}, ("unhealthy", False), ("degraded", False)),
    "power_short": ("power", "critical", {}, ("degraded", False), ("degraded", False)),
    "power_warning": ("power", "warning", {}, ("healthy", True), ("healthy", True)),
    "too_hot": ("thermal", "critical", {}, ("degraded", False), ("degraded", False)),
    "warmer_than_it_was": ("thermal", "warning", {"rule": "level.drifts"}, ("healthy", True), ("healthy", True)),
    "slow": ("performance", "warning", {}, ("degraded", False), ("degraded", False)),
    "program_error": ("application", "warning", {}, ("healthy", True), ("healthy", True)),
    "c2c_broken": ("c2c", "critical", {}, ("unhealthy", False), ("degraded", False)),
    "c2c_corrected": ("c2c", "warning", {}, ("healthy", True), ("healthy", True)),
    "security_broken": ("security", "critical", {}, ("unhealthy", False), ("degraded", False)),
    "security_warning": ("security", "warning", {}, ("degraded", False), ("degraded", False)),
    "firmware_halted": ("firmware", "critical", {}, ("unhealthy", False), ("degraded", False)),
    "firmware_warning": ("firmware", "warning", {}, ("healthy", True), ("healthy", True)),
    "unknown_trouble_critical": ("unknown", "critical", {}, ("degraded", False), ("degraded", False)),
    "unknown_trouble": ("unknown", "warning", {}, ("degraded", True), ("degraded", True)),
}  # fmt: skip

NODE_ROWS = {
    # row: class, severity, component kind, further fields, what becomes of the node, of a GPU in it
    "node_silent": ("node_silent", "critical", "node", {}, ("unknown", False), ("unknown", False)),
    "device_not_seen": ("source_health", "warning", "bmc", {}, ("healthy", True), ("healthy", True)),
    "agent_stopped": (
        "source_health", "info", "node", {"rule": "event.agent_stopped"}, ("unknown", False), ("unknown", False)
    ),
    "seen_with_gaps": (
        "source_health", "warning", "node", {"rule": "event.kernel_log_lost"}, ("healthy", True), ("healthy", True)
    ),
    "not_seen": (
        "source_health", "warning", "node", {"rule": "event.source_failed"}, ("unknown", False), ("unknown", False)
    ),
    "metric_not_seen": (
        "source_health", "info", "node", {"rule": "event.metric_unreadable"}, ("healthy", True), ("healthy", True)
    ),
    "nvswitch_broken": ("nvswitch", "critical", "nvswitch", {}, ("unhealthy", False), ("degraded", False)),
    "nvswitch_told_of": ("nvswitch", "warning", "nvswitch", {"action": "none"}, ("healthy", True), ("healthy", True)),
    "nvswitch_unreliable": ("nvswitch", "warning", "nvswitch", {}, ("degraded", False), ("healthy", False)),
    "driver_gone": ("driver", "critical", "node", {}, ("unhealthy", False), ("unknown", False)),
    "driver_error": ("driver", "warning", "node", {}, ("healthy", True), ("healthy", True)),
    "port_flaps": ("link_flap", "warning", "port", {}, ("healthy", True), ("healthy", True)),
    "port_lost": ("network", "critical", "port", {}, ("degraded", False), ("healthy", False)),
    "transfers_fail": ("network", "warning", "port", {"action": "none"}, ("healthy", True), ("healthy", True)),
    "port_slow": ("network", "warning", "port", {}, ("degraded", True), ("healthy", True)),
    "host_pcie_broken": ("host_pcie", "critical", "node", {}, ("unhealthy", False), ("healthy", False)),
    "host_pcie_errors": ("host_pcie", "warning", "node", {}, ("degraded", True), ("healthy", True)),
    "host_pcie_corrected": ("host_pcie", "info", "node", {}, ("healthy", True), ("healthy", True)),
    "host_broken": ("host_hardware", "critical", "node", {}, ("unhealthy", False), ("healthy", False)),
    "host_errors": ("host_hardware", "warning", "node", {}, ("degraded", True), ("healthy", True)),
    "host_corrected": ("host_hardware", "info", "node", {}, ("healthy", True), ("healthy", True)),
    "host_memory_broken": ("host_memory", "critical", "node", {}, ("unhealthy", False), ("healthy", False)),
    "host_memory_contained": ("host_memory", "warning", "node", {}, ("degraded", False), ("healthy", False)),
    "host_memory_corrected": ("host_memory", "info", "node", {}, ("healthy", True), ("healthy", True)),
    "host_dead": ("host_hang", "critical", "node", {}, ("unhealthy", False), ("healthy", False)),
    "host_stalls": ("host_hang", "warning", "node", {}, ("degraded", False), ("healthy", False)),
    "drive_lost": ("storage", "critical", "node", {}, ("degraded", False), ("healthy", False)),
    "drive_errors": ("storage", "warning", "node", {"action": "none"}, ("healthy", True), ("healthy", True)),
    "drive_unreliable": ("storage", "warning", "node", {}, ("degraded", True), ("healthy", True)),
    "host_memory_full": ("out_of_memory", "warning", "node", {}, ("healthy", True), ("healthy", True)),
}  # fmt: skip

RACK_ROWS = {
    # row: class, severity, component kind, further fields, what becomes of the rack, of a GPU in it
    "maintenance": ("maintenance", "info", "rack", {"action": "none"}, ("healthy", False), ("healthy", False)),
    "feed_fails": ("power", "critical", "pdu", {}, ("degraded", False), ("healthy", True)),
    "leak": (
        "thermal", "critical", "cooling", {"rule": "event.leak_detected"}, ("unhealthy", False), ("healthy", False)
    ),
    "cooling_fails": ("thermal", "critical", "cooling", {}, ("degraded", False), ("healthy", False)),
}  # fmt: skip


def quiet_row(name: str) -> bool:
    return next(row.effect for row in TABLE.faults if row.name == name) == "none"


@pytest.mark.parametrize("row", GPU_ROWS)
def test_what_trouble_of_a_gpu_makes_of_it_and_of_its_node(row: str) -> None:
    fault_class, severity, fields, gpu, node = GPU_ROWS[row]
    ward = Ward(rack_of())
    trouble = fault(fault_class, severity=severity, **({"rule": "event.some"} | fields))
    ward.break_(trouble)
    assert ward.is_("gpu:n1-0") == gpu
    assert ward.is_("node:n1") == node
    assert [rule for _, rule in ward.why("gpu:n1-0")] == ([] if quiet_row(row) else [row])
    assert ward.is_("gpu:n1-1") == ("healthy", node[1]), "a sound GPU is rented with its node"
    assert ward.is_("rack:r1") == ("healthy", node[1]), "a degraded node is no trouble of the rack, but it is one less"
    assert ward.is_("node:n2") == ("healthy", True)
    ward.mend(trouble, at_s=60)
    assert {ward.is_(component) for component in ward.said} == {("healthy", True)}


@pytest.mark.parametrize("row", NODE_ROWS)
def test_what_trouble_of_a_node_makes_of_it_and_of_its_gpus(row: str) -> None:
    fault_class, severity, kind, fields, node, gpu = NODE_ROWS[row]
    ward = Ward(rack_of(3))
    name = {"node": "node:n1", "bmc": "bmc:n1", "port": "port:n1/mlx5_0/1", "nvswitch": "nvswitch:n1/0000:05:00"}[kind]
    trouble = known_by(name, kind, fault_class, severity=severity, **({"rule": "event.some"} | fields))
    ward.break_(trouble)
    assert ward.is_("node:n1") == node
    assert ward.is_("gpu:n1-0") == gpu
    assert [rule for _, rule in ward.why("node:n1")] == ([] if quiet_row(row) else [row])
    worse = node[0] in {"unhealthy", "unknown"}
    assert ward.is_("rack:r1") == ("degraded" if worse else "healthy", node[1])
    assert ward.is_("gpu:n2-0") == ward.is_("node:n2") == ("healthy", True)
    ward.mend(trouble, at_s=60)
    assert {ward.is_(component) for component in ward.said} == {("healthy", True)}


@pytest.mark.parametrize("row", RACK_ROWS)
def test_what_trouble_of_a_rack_makes_of_it_and_of_what_stands_in_it(row: str) -> None:
    fault_class, severity, kind, fields, rack, gpu = RACK_ROWS[row]
    ward = Ward(rack_of())
    name = {"rack": "rack:r1", "pdu": "pdu:west", "cooling": "cooling:cdu-1"}[kind]
    trouble = known_by(name, kind, fault_class, severity=severity, **({"rule": "event.some"} | fields))
    ward.break_(trouble)
    assert ward.is_("rack:r1") == rack
    assert ward.why("rack:r1")[0][1] == row
    assert ward.is_("gpu:n1-0") == ward.is_("gpu:n2-3") == gpu
    assert ward.is_("node:n1") == ("healthy", gpu[1])
    ward.mend(trouble, at_s=60)
    assert {ward.is_(component) for component in ward.said} == {("healthy", True)}


def test_every_row_about_faults_is_among_these() -> None:
    assert {*GPU_ROWS, *NODE_ROWS, *RACK_ROWS} == {row.name for row in TABLE.faults}


def test_a_class_that_the_table_does_not_have_is_degraded_and_kept_from_customers_where_it_is_critical() -> None:
    ward = Ward(rack_of())
    ward.break_(fault("from_the_future", severity="critical"))
    assert ward.is_("gpu:n1-0") == ("degraded", False)
    assert ward.why("gpu:n1-0") == [("degraded", "unknown_trouble_critical")]
    ward.break_(fault("from_the_future", gpu="n2-0", severity="warning"))
    assert ward.is_("gpu:n2-0") == ("degraded", True)


def test_every_fault_class_of_the_catalogue_has_rows() -> None:
    assert set(CATALOG.faults) - {"informational"} == set(TABLE.by_class())


def test_a_gpu_that_has_had_the_same_trouble_three_times_is_warned_of() -> None:
    ward = Ward(rack_of())
    ward.break_(fault("application", severity="warning", recurrence=2))
    assert ward.why("gpu:n1-0") == []
    ward.break_(fault("gpu_memory_contained", severity="warning", recurrence=3, gpu="n2-0"))
    assert ward.why("gpu:n2-0") == [("warns", "memory_contained"), ("warns", "repeat_offender")]
    assert ward.is_("gpu:n2-0") == ("healthy", True)
    ward.break_(fault("out_of_memory", severity="warning", recurrence=9, gpu=None, node="n2"))
    assert ward.why("node:n2") == [], "whose jobs fill its memory is no offender"


# --- planned work -----------------------------------------------------------------------------------------------------


def test_work_that_is_announced_on_a_node_blocks_it_and_its_gpus_and_the_rack_but_not_its_neighbours() -> None:
    ward = Ward(rack_of())
    ward.break_(fault("maintenance", gpu=None, severity="info", action="none", reason="node:n1 gets a new board"))
    assert ward.is_("node:n1") == ward.is_("gpu:n1-2") == ward.is_("rack:r1") == ("healthy", False)
    assert ward.is_("node:n2") == ("healthy", True)
    assert ward.said["node:n1"].reasons[0].text == "Maintenance: node:n1 gets a new board"


def test_the_announced_work_itself_leads_before_what_it_explains() -> None:
    ward = Ward(rack_of())
    work = fault("maintenance", gpu=None, severity="info", action="none", reason="ann changes a board")
    ward.break_(fault("node_silent", gpu=None, maintenance=work.fault_id), work)
    assert [rule for _, rule in ward.why("node:n1")] == ["maintenance", "explained_by_work"]
    assert ward.said["rack:r1"].reasons[0].text == "node:n1 may not be rented: Maintenance: ann changes a board"


def test_what_announced_work_explains_is_blocked_and_not_unhealthy_unknown_or_degraded() -> None:
    ward = Ward(rack_of())
    silent = fault("node_silent", gpu=None, maintenance="work-1", action="reboot_node")
    ward.break_(silent, fault("gpu_lost", maintenance="work-1"), fault("thermal", gpu="n1-1", maintenance="work-1"))
    for component in ("node:n1", "gpu:n1-0", "gpu:n1-1", "gpu:n1-2"):
        assert ward.is_(component) == ("healthy", False)
        assert ward.said[component].action == "none"
    ward.break_(replace(silent, revision=2, state="updated", maintenance=None, last_ms=START_MS + 9000))
    assert ward.is_("node:n1") == ward.is_("gpu:n1-2") == ("unknown", False), "the work is over and it is still silent"
    assert ward.said["node:n1"].since_ms == START_MS + 9000


# --- parts and wholes -------------------------------------------------------------------------------------------------


def test_a_gpu_that_is_unhealthy_makes_its_node_degraded_and_takes_the_sound_ones_off_the_market() -> None:
    ward = Ward(rack_of())
    ward.break_(fault("gpu_memory_uncorrectable", 48, rule="xid.48", action="reset_gpu"))
    text = "Uncorrectable GPU memory error (XID 48): its memory gave wrong data, and it was not reset since"
    lost = fault("gpu_memory_uncorrectable").fault_id
    assert ward.said["node:n1"].reasons == [
        Reason(
            effect="degraded", component="gpu:n1-0", fault_class="gpu_memory_uncorrectable", severity="critical",
            fault_id=lost, rule="gpu_unhealthy", text=f"gpu:n1-0 is unhealthy: {text}",
        )
    ]  # fmt: skip
    assert ward.said["node:n1"].action == "reset_gpu"
    assert ward.said["gpu:n1-1"].reasons == [
        Reason(
            effect="blocks", component="node:n1", fault_class="gpu_memory_uncorrectable", severity="critical",
            fault_id=lost, rule="rented_with_its_node",
            text=f"node:n1 may not be rented: gpu:n1-0 is unhealthy: {text}",
        )
    ]  # fmt: skip
    assert ward.said["gpu:n1-1"].action == "none", "nobody has to do anything with it"
    assert ward.why("gpu:n1-0") == [("unhealthy", "memory_uncorrectable")], "which needs no word of what follows"


def test_a_node_with_half_of_its_gpus_is_unhealthy() -> None:
    ward = Ward(rack_of())
    ward.break_(fault("gpu_lost", gpu="n1-0"))
    assert ward.is_("node:n1") == ("degraded", False)
    ward.break_(fault("gpu_lost", gpu="n1-3"))
    assert ward.is_("node:n1") == ("unhealthy", False)
    assert [one.text for one in ward.said["node:n1"].reasons] == [
        "2 of 4 GPUs are unhealthy",
        "gpu:n1-0 is unhealthy: GPU lost: it does not answer on the bus",
        "gpu:n1-3 is unhealthy: GPU lost: it does not answer on the bus",
    ]


def test_a_rack_with_one_bad_node_is_degraded_and_with_half_of_them_unhealthy() -> None:
    ward = Ward(rack_of(4, 1))
    ward.break_(fault("host_hang", gpu=None, node="n1", severity="critical"))
    assert ward.is_("rack:r1") == ("degraded", False)
    assert ward.why("rack:r1") == [("degraded", "node_bad")]
    ward.break_(fault("host_hang", gpu=None, node="n2", severity="critical"))
    assert ward.is_("rack:r1") == ("unhealthy", False)
    assert [one.text for one in ward.said["rack:r1"].reasons[:2]] == [
        "2 of 4 nodes are unhealthy",
        "node:n1 is unhealthy: Host hangs: its kernel stopped, or lost a part of itself and goes on",
    ]
    assert ward.is_("node:n3") == ("healthy", True), "which may be rented by itself"


def test_a_rack_of_which_half_is_dark_is_unknown() -> None:
    ward = Ward(rack_of(4, 1))
    ward.break_(*(fault("node_silent", gpu=None, node=f"n{number}") for number in (1, 2)))
    assert ward.is_("rack:r1") == ("unknown", False)


def test_a_rack_of_one_node_is_as_that_one_allows() -> None:
    ward = Ward(rack_of(1, 1))
    ward.break_(fault("node_silent", gpu=None))
    assert ward.is_("rack:r1") == ("degraded", False)
    assert ward.is_("gpu:n1-0") == ("unknown", False)


def test_a_silent_nodes_gpus_are_unknown_for_the_nodes_reason_and_those_known_to_be_bad_stay_unhealthy() -> None:
    ward = Ward(rack_of())
    ward.break_(fault("gpu_lost"), fault("node_silent", gpu=None, at_s=5, action="reboot_node"))
    assert ward.is_("gpu:n1-0") == ("unhealthy", False)
    assert ward.why("gpu:n1-1") == [("unknown", "node_silent")]
    assert ward.said["gpu:n1-1"].reasons[0].text == "node:n1: Node stopped reporting: nothing is heard of it"
    assert ward.said["gpu:n1-1"].action == "reboot_node"
    assert ward.why("node:n1") == [("unknown", "node_silent"), ("degraded", "gpu_unhealthy")]


# --- several reasons --------------------------------------------------------------------------------------------------


def test_the_weightiest_reason_stands_first_and_the_most_intrusive_action_counts() -> None:
    ward = Ward(rack_of())
    ward.break_(
        fault("row_remap", severity="warning", action="reset_gpu"),
        fault("thermal", severity="critical", action="check_hardware"),
        fault("gpu_lost", action="reboot_node"),
        fault("firmware", severity="warning", action="contact_support"),
        fault("gpu_silent", severity="warning", action="drain_and_diagnose"),
    )
    assert ward.why("gpu:n1-0") == [
        ("unhealthy", "gpu_lost"),
        ("unknown", "gpu_hard_to_read"),
        ("degraded", "too_hot"),
        ("warns", "row_remap_waits"),
        ("warns", "firmware_warning"),
    ]
    assert ward.said["gpu:n1-0"].action == "check_hardware", "support stands beside the ladder, not above it"


def test_between_reasons_of_one_weight_the_cause_leads_and_not_what_follows_from_it() -> None:
    ward = Ward(rack_of())
    ward.break_(fault("gpu_silent"), fault("gpu_lost"), fault("gpu_hang", gpu="n2-0"), fault("nvlink", gpu="n2-0"))
    assert [rule for _, rule in ward.why("gpu:n1-0")] == ["gpu_lost", "gpu_silent"]
    assert [rule for _, rule in ward.why("gpu:n2-0")] == ["nvlink_down", "gpu_hangs"]


def test_an_early_warning_asks_for_something_and_leaves_the_gpu_to_be_rented() -> None:
    ward = Ward(rack_of())
    ward.break_(fault("row_remap", 63, severity="warning", action="reset_gpu", rule="xid.63"))
    verdict = ward.said["gpu:n1-0"]
    assert (verdict.health, verdict.rentable, verdict.action) == ("healthy", True, "reset_gpu")
    assert (
        verdict.reasons[0].text
        == "Memory row remap waits for a reset (XID 63): a repair of its memory waits for a reset"
    )


def test_reasons_are_bounded() -> None:
    ward = Ward(rack_of(20, 1))
    ward.break_(*(fault("host_hang", gpu=None, node=f"n{number}", severity="critical") for number in range(1, 21)))
    assert len(ward.said["rack:r1"].reasons) == 8
    assert ward.said["rack:r1"].reasons[0].text == "20 of 20 nodes are unhealthy"


def test_what_comes_and_goes_says_so() -> None:
    ward = Ward(rack_of())
    ward.break_(fault("nvlink", flapping=True))
    assert ward.said["gpu:n1-0"].reasons[0].text.endswith("; it comes and goes")


# --- what is told, and since when -------------------------------------------------------------------------------------


def test_a_verdict_is_told_when_it_changes_and_not_for_one_more_repeat() -> None:
    ward = Ward(rack_of())
    first = fault("thermal", severity="warning", action="check_hardware", at_s=10)
    assert [one.component for one in ward.break_(first)] == ["gpu:n1-0"]
    repeat = replace(first, revision=2, state="updated", count=40, last_ms=START_MS + 20_000)
    assert ward.break_(repeat) == []
    worse = replace(repeat, revision=3, severity="critical", last_ms=START_MS + 30_000)
    assert [(one.component, one.revision) for one in ward.break_(worse) if one.gpu == "n1-0"] == [("gpu:n1-0", 3)]
    assert ward.said["gpu:n1-0"].since_ms == START_MS + 30_000, "it was only warm before"


def test_since_when_it_is_so_does_not_change_while_it_is_so() -> None:
    ward = Ward(rack_of())
    lost, hot = fault("gpu_lost", at_s=10), fault("gpu_hang", at_s=20)
    ward.break_(lost, hot)
    ward.mend(lost, at_s=50)
    assert ward.is_("gpu:n1-0") == ("unhealthy", False)
    assert ward.said["gpu:n1-0"].since_ms == START_MS + 10_000
    ward.mend(hot, at_s=70)
    assert (ward.said["gpu:n1-0"].health, ward.said["gpu:n1-0"].since_ms) == ("healthy", START_MS + 70_000)


def test_trouble_that_began_earlier_and_is_heard_of_later_moves_the_beginning() -> None:
    ward = Ward(rack_of())
    ward.break_(fault("gpu_lost", at_s=20), fault("gpu_hang", at_s=10), fault("thermal", severity="warning", at_s=5))
    assert ward.said["gpu:n1-0"].since_ms == START_MS + 10_000, "and what only warns does not"


def test_a_verdict_is_decided_when_the_record_that_led_to_it_reached_kafka_and_never_before_the_one_before_it() -> None:
    ward = Ward(rack_of())
    ward.break_(fault("gpu_lost", at_s=100))
    assert ward.said["gpu:n1-0"].decided_ms == START_MS + 100_100
    ward.book.on_time(cleared(fault("gpu_lost", at_s=100), 60), START_MS + 60_000)
    newest = ward.book._racks[HALL].kept.verdicts["gpu:n1-0"]
    assert (newest.health, newest.decided_ms) == ("healthy", START_MS + 100_100)


def test_one_record_that_ends_several_faults_leads_to_one_verdict() -> None:
    ward = Ward(rack_of())
    broken = [fault("gpu_lost"), fault("nvlink"), fault("pcie")]
    ward.break_(*broken)
    told = ward.hear("n1", None, *(cleared(one, 60) for one in broken), at_s=60)
    assert [one.component for one in told if one.gpu == "n1-0"] == ["gpu:n1-0"]
    assert ward.is_("gpu:n1-0") == ("healthy", True)


# --- what is kept -----------------------------------------------------------------------------------------------------


def taken_back(ward: Ward, faults: Iterable[Fault] = (), ends: dict[str, int] | None = None) -> HealthBook:
    book = HealthBook(TABLE, CATALOG, ward.topology)
    for state in ward.book.changes().values():
        assert state is not None
        book.restore(state)
    book.restored(ends or {}, faults)
    return book


def test_revision_and_beginning_survive_a_restart() -> None:
    ward = Ward(rack_of())
    lost = fault("gpu_lost", at_s=10)
    ward.break_(lost)
    again = taken_back(ward, [lost])
    assert again.advance(START_MS + DAY_MS) == [], "nothing is new"
    assert again.counts == ward.book.counts
    (verdict,) = [one for one in again.on_time(cleared(lost, 60), START_MS + 60_000) if one.gpu == "n1-0"]
    assert (verdict.revision, verdict.health) == (3, "healthy")


def test_faults_that_were_open_before_there_were_verdicts_are_judged() -> None:
    ward = Ward(rack_of())
    ward.book.changes()
    fresh = HealthBook(TABLE, CATALOG, ward.topology)
    fresh.restored({}, [fault("gpu_lost", at_s=10), fault("application")])
    told = {one.component: one for one in fresh.advance(START_MS + DAY_MS)}
    assert told["gpu:n1-0"].health == "unhealthy"
    assert told["gpu:n1-1"].rentable is False


def test_a_fault_that_is_over_is_not_opened_again_by_an_older_record_of_it() -> None:
    ward = Ward(rack_of())
    lost = fault("gpu_lost", at_s=10)
    ward.break_(lost)
    ward.mend(lost, at_s=20)
    assert ward.break_(lost) == []
    again = taken_back(ward, [lost])
    assert again.advance(START_MS + DAY_MS) == [], "killed between writing its end and keeping it"


def test_offsets_of_a_topic_that_was_made_anew_hide_nothing() -> None:
    ward = Ward(rack_of())
    at = Heard(HALL, "n1", None, START_MS, START_MS, "hardware.events", 5000)
    ward.book.on_record(at, [fault("gpu_lost")])
    kept, anew = taken_back(ward, ends={"hardware.events": 9000}), None
    assert kept.on_record(at, [fault("gpu_hang")]) == [], "it has taken all up to there"
    ward.book._touched.add(HALL)
    anew = taken_back(ward, ends={"hardware.events": 10})
    assert anew.on_record(at._replace(offset=3), [fault("gpu_hang")]) != []


def test_a_component_costs_little_to_keep_and_to_hold() -> None:
    """The numbers of `RackHealth`."""
    topology = Topology()
    inventory = [replace(one, rack=f"r{rack}") for rack in range(10) for one in rack_of(18, 4)]
    for one in inventory:  # no two of one name
        name = f"{one.component}-{one.rack}"
        topology.learn(replace(one, component=name, node=None if one.node is None else f"{one.node}-{one.rack}"))
    tracemalloc.start()
    book = HealthBook(TABLE, CATALOG, topology)
    told = len(book.advance(START_MS))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told == 10 * (18 * 5 + 1)
    assert held / told < 1000
    assert sum(len(state or b"") for state in book.changes().values()) / told < 40
