"""Incidents over the whole fleet: what many share is the root, work that was announced explains, and nobody is woken
twice. What else it could be is said, with what would decide.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.records import Fault, InventoryRecord
from streams.topology import Topology
from tests.streams_desk import KEPT_S, Desk, cleared, hgx, nvl72, nvlink
from tests.streams_scenes import START_MS, fault, in_inventory

NODES, SLOTS = 4, 8


def fleet(*racks: str, site: str = "hall-a") -> Topology:
    """Racks of four nodes of eight GPUs: two PDUs to a rack, one leaf switch to two racks."""
    topology = Topology()
    for number, rack in enumerate(racks):
        for node in range(NODES):
            name = f"{rack}-n{node}"
            hangs = {"pdu": f"pdu-{rack}-{'ab'[node % 2]}", "leaf_switch": f"leaf-{number // 2}"}
            topology.learn(in_inventory(f"node:{name}", rack=rack, node=name, site=site, **hangs))
            for slot in range(SLOTS):
                topology.learn(in_inventory(f"gpu:{name}-{slot}", rack=rack, node=name, site=site))
    return topology


def run(topology: Topology, job: str | None, gpus: Iterable[str], at_s: float = -600, site: str = "hall-a") -> None:
    """Let a job be on some GPUs, or none."""
    for gpu in gpus:
        where: dict[str, Any] = {"rack": gpu.partition("-")[0], "node": gpu.rpartition("-")[0], "site": site}
        record: InventoryRecord = in_inventory(f"gpu:{gpu}", job=job, **where)
        topology.learn(replace(record, seen_ms=START_MS + round(at_s * 1000)))


def gpus_of(*nodes: str) -> list[str]:
    return [f"{node}-{slot}" for node in nodes for slot in range(SLOTS)]


def died(gpu: str, at_s: float, job: str | None = None, code: int = 45, **fields: Any) -> Fault:
    given: dict[str, Any] = {"severity": "info", "action": "none", "job": job, "node": gpu.rpartition("-")[0]} | fields
    return fault("application", code, gpu=gpu, at_s=at_s, rack=gpu.partition("-")[0], **given)


def lost(gpu: str, at_s: float = 0, **fields: Any) -> Fault:
    given = {"node": gpu.rpartition("-")[0], "rack": gpu.partition("-")[0], "action": "reboot_node"} | fields
    return fault("gpu_lost", 79, gpu=gpu, at_s=at_s, **given)


def dark(node: str, at_s: float = 0, **fields: Any) -> Fault:
    given = {"rack": node.partition("-")[0], "action": "check_hardware"} | fields
    return fault("node_silent", gpu=None, node=node, at_s=at_s, **given)


def port_down(node: str, at_s: float = 0, port: int = 3, **fields: Any) -> Fault:
    component = f"port:{node}/mlx5_{port}/1"
    given = {"severity": "warning", "component": component, "component_kind": "port", "action": "none"} | fields
    return fault(
        "link_flap",
        gpu=None,
        node=node,
        rack=node.partition("-")[0],
        at_s=at_s,
        fault_id=f"{component}@{at_s}",
        **given,
    )


def braking(nodes: Iterable[str], at_s: float, life: int = 0, slots: int = SLOTS) -> list[Fault]:
    return [
        fault("power", gpu=f"{node}-{slot}", node=node, rack=node.partition("-")[0], at_s=at_s,
              fault_id=f"power-{node}-{slot}-{life}")
        for node in nodes
        for slot in range(slots)
    ]  # fmt: skip


def nodes_of(rack: str) -> list[str]:
    return [f"{rack}-n{node}" for node in range(NODES)]


# --- an early warning that comes true ---------------------------------------------------------------------------------


def failing(gpu: str, warned_s: float, failed_s: float) -> list[Fault]:
    """An NVLink that was warned of, and failed later: two revisions of one fault."""
    began = nvlink(gpu, None, warned_s, action="drain_and_diagnose")
    at_ms = START_MS + round(failed_s * 1000)
    return [
        began,
        replace(began, revision=2, state="updated", code=149, severity="critical", action="reset_gpu", last_ms=at_ms,
                worsened_ms=at_ms),
    ]  # fmt: skip


@pytest.mark.parametrize("order", ["as it happened", "backwards"])
def test_what_comes_with_a_failure_is_tied_to_it_however_long_before_it_was_warned_of(order: str) -> None:
    root, hours_s = "nvl1-n02-0", 3 * 3600.0
    warned, failed = failing(root, 0, hours_s)
    echoes = [nvlink(f"nvl1-n{node:02}-1", 145, hours_s + 0.5) for node in range(18)]
    faults = [warned, failed, *echoes]
    desk = Desk(nvl72())
    desk.take(faults if order == "as it happened" else faults[::-1], at_s=hours_s + 1)
    desk.wait(hours_s + 3)
    one = desk.only()
    assert (one.root, one.root_code, len(one.members)) == (f"gpu:{root}", 149, 19)
    assert one.first_ms == START_MS, "the incident began with the warning"


def test_an_effect_that_became_worse_is_explained_by_what_came_just_before() -> None:
    warned, failed = failing("n1-0", 0, 3600)
    failed = replace(failed, node="n1", rack="r1", code=74)
    switch = fault("nvswitch", 20034, gpu=None, at_s=3599.5, component="nvswitch:n1/x", component_kind="nvswitch")
    desk = Desk(hgx("r1"))
    desk.take([replace(warned, node="n1", rack="r1")])
    desk.wait(10)
    desk.take([switch, failed], at_s=3600)
    desk.wait(3602)
    assert len(desk.only().members) == 2


# --- a job across racks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["as it happened", "the job first", 1, 2])
def test_a_hard_fault_explains_what_its_job_dies_of_in_other_racks(order: str | int) -> None:
    topology = fleet("r1", "r2", "r3")
    job = gpus_of("r1-n0", "r2-n1", "r3-n3")
    run(topology, "train-7", job)
    faults = [lost("r1-n0-2"), *(died(gpu, 0.5 + number / 50) for number, gpu in enumerate(job[::2]))]
    faults.append(fault("gpu_hang", 109, gpu="r2-n1-1", node="r2-n1", rack="r2", at_s=3))
    if order == "the job first":
        faults.reverse()
    elif isinstance(order, int):
        random.Random(order).shuffle(faults)
    desk = Desk(topology)
    desk.take(faults)
    desk.wait(2)
    one = desk.only()
    assert (one.root, one.racks, one.jobs) == ("gpu:r1-n0-2", ["r1", "r2", "r3"], ["train-7"])
    assert len(one.members) == len(faults)
    assert {member.because for member in one.members[1:]} <= {
        "lost_gpu_kills_its_job",
        "lost_gpu_hangs_its_job",
        "lost_gpu_kills_jobs",
    }
    assert desk.pages() == 1


def test_programs_of_another_job_die_of_something_else() -> None:
    topology = fleet("r1", "r2")
    run(topology, "train-7", gpus_of("r1-n0"))
    run(topology, "train-8", gpus_of("r2-n0"))
    desk = Desk(topology)
    desk.take([lost("r1-n0-2"), died("r2-n0-0", 1)])
    desk.wait(2)
    assert len(desk.only().members) == 1


def test_an_error_of_a_program_itself_is_nothing_that_a_lost_gpu_elsewhere_explains() -> None:
    topology = fleet("r1", "r2")
    run(topology, "train-7", gpus_of("r1-n0", "r2-n0"))
    desk = Desk(topology)
    desk.take([lost("r1-n0-2"), died("r2-n0-0", 1, code=31)])
    desk.wait(2)
    assert len(desk.only().members) == 1


def test_a_scheduler_may_say_that_a_job_is_over_before_its_programs_have_died() -> None:
    topology = fleet("r1", "r2")
    job = gpus_of("r1-n0", "r2-n0")
    run(topology, "train-7", job)
    run(topology, None, job, at_s=-1)
    desk = Desk(topology)
    desk.take([lost("r1-n0-2", at_s=1), died("r2-n0-0", 2)])
    desk.wait(2)
    assert len(desk.only().members) == 2


def test_a_node_that_is_gone_kills_all_the_jobs_that_ran_on_it() -> None:
    topology = fleet("r1", "r2", "r3")
    run(topology, "a", ["r1-n0-0", "r2-n0-0"])
    run(topology, "b", ["r1-n0-1", "r3-n0-1"])
    desk = Desk(topology)
    desk.take([died("r2-n0-0", -8), died("r3-n0-1", -8), dark("r1-n0")])
    desk.wait(2)
    assert (desk.only().root, desk.only().racks, desk.only().jobs) == ("node:r1-n0", ["r1", "r2", "r3"], ["a", "b"])


def test_what_ran_on_a_node_is_remembered_over_a_restart_when_the_inventory_has_forgotten_it() -> None:
    topology = fleet("r1", "r2")
    run(topology, "a", ["r1-n0-0", "r2-n0-0"])
    desk = Desk(topology)
    desk.take([dark("r1-n0"), died("r2-n0-0", -8)])
    desk.wait(2)
    desk.topology = fleet("r1", "r2")
    again = desk.restarted()
    assert again.wait(5) == []
    again.take([cleared(dark("r1-n0"), 60)], at_s=60)
    again.wait(70)
    assert len(again.only().members) == 2


def test_a_job_of_one_name_at_two_sites_is_two_jobs_and_one_that_spans_them_is_one() -> None:
    for job, incidents in (("train-7", 2), ("fleet/train-7", 1)):
        topology = Topology()
        for site, rack in (("hall-a", "r1"), ("hall-b", "r2")):
            topology.learn(in_inventory(f"node:{rack}-n0", rack=rack, site=site))
            run(topology, job, gpus_of(f"{rack}-n0"), site=site)
        elsewhere = fault("gpu_hang", 109, gpu="r2-n0-1", node="r2-n0", rack="r2", at_s=3, site="hall-b")
        desk = Desk(topology)
        desk.take([lost("r1-n0-2"), elsewhere])
        desk.wait(2)
        assert len(desk.now()) == incidents
        assert desk.pages() == incidents
    assert (desk.only().site, desk.only().racks) == ("hall-a", ["r1", "r2"])


def test_two_causes_of_one_symptom_are_still_two_incidents() -> None:
    """A GPU that is lost and another one's bad memory: the job that died of either is put down to the nearer one."""
    topology = fleet("r1", "r2")
    run(topology, "train-7", gpus_of("r1-n0", "r2-n0"))
    bad = fault("gpu_memory_uncorrectable", 48, gpu="r2-n0-1", node="r2-n0", rack="r2", at_s=10)
    desk = Desk(topology)
    desk.take([lost("r1-n0-2"), bad, died("r1-n0-3", 1), died("r2-n0-1", 11)])
    desk.wait(2)
    assert sorted((one.root, len(one.members)) for one in desk.now().values()) == [
        ("gpu:r1-n0-2", 2),
        ("gpu:r2-n0-1", 2),
    ]
    assert desk.pages() == 2


# --- a leaf switch ----------------------------------------------------------------------------------------------------


def leaf_scene() -> tuple[Topology, list[Fault]]:
    topology = fleet("r1", "r2", "r3")
    run(topology, "train-7", gpus_of("r1-n0", "r3-n0"))
    ports = [port_down(node, number / 4) for number, node in enumerate([*nodes_of("r1"), *nodes_of("r2")])]
    return topology, [*ports, *(died(gpu, 26) for gpu in gpus_of("r1-n0", "r3-n0"))]


@pytest.mark.parametrize("seed", range(3))
def test_a_leaf_switch_that_is_lost_is_one_incident_over_its_ports_and_the_jobs_it_killed(seed: int) -> None:
    topology, faults = leaf_scene()
    random.Random(seed).shuffle(faults)
    desk = Desk(topology)
    desk.take(faults)
    desk.wait(2)
    one = desk.only()
    assert (one.root, one.racks, one.action, one.severity) == (
        "switch:leaf-0",
        ["r1", "r2", "r3"],
        "check_hardware",
        "critical",
    )
    assert one.title == "Network link flap: leaf switch leaf-0, 8 nodes, 16 symptoms"
    assert (one.score, one.root_gpu, one.root_node) == (1.0, None, None)
    assert one.chance is not None
    assert one.chance < 1e-20
    assert desk.pages() == 1, "although no port alone would wake anybody"


def test_ports_that_are_no_trouble_wake_nobody_however_many_there_are() -> None:
    topology, faults = leaf_scene()
    desk = Desk(topology)
    desk.take(replace(one, severity="info") for one in faults)
    desk.wait(3)
    assert desk.pages() == 0


def test_one_port_that_flaps_is_no_incident_until_a_job_dies_of_it() -> None:
    topology = fleet("r1", "r2")
    run(topology, "train-7", gpus_of("r1-n0"))
    desk = Desk(topology)
    desk.take([port_down("r1-n0")])
    desk.wait(2)
    assert desk.written == []
    desk.take([died("r1-n0-1", 26)], at_s=26)
    desk.wait(28)
    assert (desk.only().root, desk.only().severity) == ("port:r1-n0/mlx5_3/1", "warning")
    assert desk.pages() == 0


def test_ports_of_two_leaf_switches_do_not_point_at_one() -> None:
    desk = Desk(fleet("r1", "r2", "r3", "r4"))
    desk.take([port_down("r1-n0"), port_down("r3-n0", 0.5)])
    desk.wait(2)
    assert desk.written == []


# --- power, dark, heat ------------------------------------------------------------------------------------------------


def test_a_feed_that_sags_again_and_again_is_one_incident_and_one_page() -> None:
    desk = Desk(fleet("r1", "r2"))
    for sag, at_s in enumerate((0, 240, 900)):
        faults = braking(nodes_of("r1"), at_s, sag)
        desk.take(faults, at_s=at_s)
        desk.wait(at_s + 2)
        desk.take((cleared(one, at_s + 40) for one in faults), at_s=at_s + 40)
        desk.wait(at_s + 45)
        assert desk.only().state == "cleared"
    assert (desk.only().root, len(desk.only().members)) == ("rack:r1", 96)
    assert desk.only().title == "Power delivery: rack r1, 4 nodes"
    assert desk.pages() == 1


def test_a_node_that_was_mended_and_goes_dark_with_all_on_its_pdu_is_something_new() -> None:
    topology = fleet("r1")
    desk = Desk(topology)
    first = dark("r1-n0")
    desk.take([first])
    desk.wait(2)
    desk.take([cleared(first, 600)], at_s=600)
    desk.wait(602)
    desk.take([dark("r1-n0", 900, fault_id="again")], at_s=900)
    desk.wait(902)
    assert desk.pages() == 1, "until the next one is heard of, it looks like the same trouble"
    desk.take([dark("r1-n2", 901)], at_s=903)
    desk.wait(905)
    desk.wait(910)
    old, new = desk.now().values()
    assert (old.root, old.state, len(old.members)) == ("node:r1-n0", "cleared", 1)
    assert (new.root, new.split_from, len(new.members)) == ("pdu:pdu-r1-a", old.incident_id, 2)
    assert desk.pages() == 2


def test_the_same_trouble_much_later_is_another_incident() -> None:
    desk = Desk(fleet("r1"))
    first = lost("r1-n0-1")
    desk.take([first, cleared(first, 60)])
    desk.wait(2)
    desk.take([replace(lost("r1-n0-1", 3000), fault_id="later")], at_s=3000)
    desk.wait(3002)
    desk.wait(3003 + KEPT_S)
    assert len(desk.now()) == 2


@pytest.mark.parametrize(
    ("nodes", "root"),
    [
        (["r1-n0", "r1-n2"], "pdu:pdu-r1-a"),
        (nodes_of("r1"), "rack:r1"),
        ([*nodes_of("r1"), *nodes_of("r2"), *nodes_of("r3")], "site:hall-a"),
    ],
)
def test_what_goes_dark_together_points_at_the_smallest_thing_that_explains_it(nodes: list[str], root: str) -> None:
    desk = Desk(fleet("r1", "r2", "r3"))
    desk.take(dark(node, number / 100) for number, node in enumerate(nodes))
    desk.wait(2)
    one = desk.only()
    assert (one.root, one.score, one.action) == (root, 1.0, "check_hardware")
    assert desk.pages() == 1
    if root == "pdu:pdu-r1-a":
        assert [(other.component, other.score) for other in one.alternatives][:1] == [("rack:r1", 0.5)]
        assert one.alternatives[0].tell_apart == (
            "Is another rack on the same feed dark? Does the rack's power shelf read any output? If it does, look at "
            "pdu:pdu-r1-a."
        )


def test_single_nodes_of_many_racks_do_not_point_at_the_site() -> None:
    racks = [f"r{number}" for number in range(1, 9)]
    desk = Desk(fleet(*racks))
    desk.take(dark(f"{rack}-n0", number) for number, rack in enumerate(racks))
    desk.wait(2)
    assert {one.root for one in desk.now().values()} == {f"node:{rack}-n0" for rack in racks}


def test_a_pdu_that_says_so_itself_is_the_root_of_what_it_takes_along() -> None:
    said = fault("power", gpu=None, node="r1-n0", rack="r1", component="pdu:pdu-r1-a", component_kind="pdu", at_s=-2)
    desk = Desk(fleet("r1"))
    desk.take([dark("r1-n0"), dark("r1-n2", 1), said])
    desk.wait(2)
    assert (desk.only().root, desk.only().root_fault_id, desk.only().root_node) == ("pdu:pdu-r1-a", said.fault_id, None)
    assert {member.because for member in desk.only().members[1:]} == {"feed_fails_nodes_go_dark"}


def test_a_rack_that_gets_hot_is_named_by_two_of_its_nodes_although_one_of_them_is_hot_all_over() -> None:
    hot = [("r1-n0", slot) for slot in range(8)] + [("r1-n1", slot) for slot in range(3)]
    desk = Desk(fleet("r1"))
    desk.take(
        fault("thermal", gpu=f"{node}-{slot}", node=node, at_s=20 * number) for number, (node, slot) in enumerate(hot)
    )
    desk.wait(400)
    one = desk.only()
    assert (one.root, one.root_node) == ("rack:r1", None)
    assert one.alternatives[0].component == "node:r1-n0"
    assert one.alternatives[0].because.startswith("8 of 8 GPUs of the node at once")


def test_where_a_class_comes_all_the_time_company_means_nothing() -> None:
    """Nodes of one rack that fall silent within seconds are no coincidence, unless nodes do so all the time."""
    for busy in (False, True):
        topology = fleet("r1")
        desk = Desk(topology)
        for hour in range(-400 if busy else 0, 0):
            for rack in range(60):
                at_ms = START_MS + hour * 3_600_000 + rack * 60_000
                desk.correlator._rates.note("node_silent", f"hall-a/r{rack}", at_ms, START_MS)
        desk.take([dark("r1-n0"), dark("r1-n1", 19)])
        desk.wait(2)
        assert len(desk.now()) == (2 if busy else 1)


# --- on purpose -------------------------------------------------------------------------------------------------------


def work(component: str = "rack:r1", **fields: Any) -> Fault:
    given: dict[str, Any] = {"component": component, "component_kind": component.partition(":")[0], "at_s": -1800}
    given |= {"severity": "info", "action": "none", "node": None, "fault_id": "work-1"} | fields
    return fault("maintenance", gpu=None, **given)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_announced_work_is_the_root_of_what_it_explains_and_wakes_nobody(order: int) -> None:
    desk = Desk(fleet("r1"))
    faults = [work(), *(dark(node, number, maintenance="work-1") for number, node in enumerate(nodes_of("r1")))]
    random.Random(order).shuffle(faults)
    desk.take(faults)
    for second in range(2, 8):
        desk.wait(second)
    one = desk.only()
    assert (one.root, one.root_class, len(one.members)) == ("rack:r1", "maintenance", 5)
    assert desk.pages() == 0


def test_announced_work_alone_is_no_incident() -> None:
    desk = Desk(fleet("r1"))
    desk.take([work()])
    desk.wait(2)
    assert desk.written == []


def test_a_fault_that_work_explains_wakes_nobody_even_when_the_work_is_not_known_here() -> None:
    desk = Desk(fleet("r1"))
    desk.take([dark("r1-n0", maintenance="somewhere-else")])
    desk.wait(2)
    assert desk.only().root == "node:r1-n0"
    assert desk.pages() == 0


def test_what_is_worked_on_is_no_company_for_a_node_that_fails_beside_it() -> None:
    desk = Desk(fleet("r1"))
    desk.take([work("node:r1-n0"), dark("r1-n0", maintenance="work-1"), dark("r1-n2", 3)])
    desk.wait(2)
    assert {one.root: one.page for one in desk.now().values()} == {"node:r1-n0": False, "node:r1-n2": True}


def test_jobs_that_die_with_what_is_worked_on_belong_to_the_work() -> None:
    topology = fleet("r1", "r2")
    run(topology, "train-7", gpus_of("r1-n0", "r2-n0"))
    desk = Desk(topology)
    desk.take([work(at_s=-100), dark("r1-n0", maintenance="work-1"), died("r2-n0-3", 1)])
    desk.wait(2)
    assert (desk.only().root, len(desk.only().members)) == ("rack:r1", 3)


def test_a_node_that_is_rebooted_for_a_repair_explains_the_echoes_of_its_neighbours() -> None:
    stopped = fault(
        "source_health",
        gpu=None,
        node="nvl1-n03",
        rack="nvl1",
        severity="info",
        action="none",
        rule="event.agent_stopped",
    )
    echoes = [nvlink(f"nvl1-n{node:02}-1", 145, 5 + node / 10, severity="critical") for node in (1, 2, 7)]
    desk = Desk(nvl72())
    desk.take([stopped, *echoes])
    desk.wait(2)
    assert (desk.only().root, len(desk.only().members)) == ("node:nvl1-n03", 4)
    assert desk.pages() == 0
    failed = replace(stopped, rule="event.source_failed", severity="warning")
    other = Desk(nvl72())
    other.take([failed, *echoes])
    other.wait(2)
    assert other.only().root != "node:nvl1-n03", "a probe that hangs takes no link down"
    assert other.pages() == 1


# --- what people said -------------------------------------------------------------------------------------------------


def test_a_fault_that_somebody_takes_care_of_wakes_nobody_and_neither_does_what_it_explains() -> None:
    taken = lost("r1-n0-2", acknowledged_by="kim", acknowledged_ms=START_MS)
    silent = fault("gpu_silent", gpu="r1-n0-2", node="r1-n0", at_s=5)
    desk = Desk(fleet("r1"))
    desk.take([taken, silent])
    desk.wait(2)
    assert (desk.only().acknowledged_by, desk.pages()) == ("kim", 0)
    desk.take([lost("r1-n3-0", 6), fault("power", gpu="r1-n0-5", node="r1-n0", at_s=7)], at_s=8)
    desk.wait(10)
    assert desk.pages() == 2, "what else breaks does"


def test_an_acknowledgement_is_worth_a_record() -> None:
    desk = Desk(fleet("r1"))
    one = lost("r1-n0-2")
    desk.take([one])
    desk.wait(2)
    desk.take([replace(one, revision=2, acknowledged_by="kim", acknowledged_ms=START_MS)], at_s=3)
    (said,) = desk.wait(5)
    assert (said.acknowledged_by, said.page) == ("kim", False)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_fault_that_is_put_off_wakes_somebody_when_it_still_stands_then(restarts: bool) -> None:
    desk = Desk(fleet("r1"))
    desk.take([lost("r1-n0-2", snoozed_until_ms=START_MS + 600_000)])
    desk.wait(2)
    assert (desk.only().page, desk.pages()) == (False, 0)
    desk = desk.restarted() if restarts else desk
    for at_s in (60, 300, 599.9):
        assert desk.wait(at_s) == []
    (said,) = desk.wait(600.1)
    assert (said.page, said.revision) == (True, 2)
    assert [desk.wait(at_s) for at_s in (601, 700, 2000)] == [[], [], []]


def test_a_fault_that_is_over_when_the_time_comes_wakes_nobody() -> None:
    desk = Desk(fleet("r1"))
    one = lost("r1-n0-2", snoozed_until_ms=START_MS + 600_000)
    desk.take([one])
    desk.wait(2)
    desk.take([cleared(one, 300)], at_s=300)
    for at_s in (302, 599, 601, 700):
        desk.wait(at_s)
    assert (desk.only().state, desk.pages()) == ("cleared", 0)


# --- falling apart ----------------------------------------------------------------------------------------------------


def test_when_the_inventory_learns_that_two_nodes_do_not_share_a_pdu_they_are_two_incidents() -> None:
    topology = Topology()
    for node, rack in (("r1-n0", "r1"), ("r2-n0", "r2")):
        topology.learn(in_inventory(f"node:{node}", rack=rack, node=node, pdu="pdu-7"))
    desk = Desk(topology)
    desk.take([dark("r1-n0"), dark("r2-n0", 1)])
    desk.wait(2)
    first = desk.only()
    assert (first.root, desk.pages()) == ("pdu:pdu-7", 1)
    topology.learn(in_inventory("node:r2-n0", rack="r2", node="r2-n0", pdu="pdu-8"))
    desk.wait(4)
    desk.wait(6)
    kept, new = (
        desk.now()[first.incident_id],
        next(one for one in desk.now().values() if one.incident_id != first.incident_id),
    )
    assert (kept.root, len(kept.members), kept.revision) == ("node:r1-n0", 1, 2)
    assert (new.root, new.split_from, new.state) == ("node:r2-n0", first.incident_id, "open")
    assert desk.pages() == 1, "who was woken has seen both"
    assert desk.restarted().wait(60) == []


@pytest.mark.parametrize("restarts", [False, True])
def test_when_a_fault_turns_out_to_be_something_else_its_incident_falls_apart(restarts: bool) -> None:
    """An echo that turns out to be a link's own failure, a minute before: the part with the root keeps the id."""
    topology = nvl72()
    root, echo = nvlink("nvl1-n00-0", 149, 0), nvlink("nvl1-n05-0", 145, 40)
    desk = Desk(topology)
    desk.take([root, echo])
    desk.wait(2)
    first = desk.only()
    assert len(first.members) == 2
    desk = desk.restarted() if restarts else desk
    desk.take([replace(echo, revision=2, code=155, severity="critical")], at_s=5)
    desk.wait(7)
    desk.wait(9)
    assert (desk.now()[first.incident_id].root, len(desk.now()[first.incident_id].members)) == ("gpu:nvl1-n00-0", 1)
    (new,) = [one for one in desk.now().values() if one.incident_id != first.incident_id]
    assert (new.root, new.split_from, new.root_code) == ("gpu:nvl1-n05-0", first.incident_id, 155)


def test_what_fell_apart_and_turns_out_to_be_one_after_all_keeps_the_older_id() -> None:
    topology = Topology()
    for pdu in ("pdu-7", "pdu-8", "pdu-7"):
        topology.learn(in_inventory("node:r1-n0", rack="r1", node="r1-n0", pdu="pdu-7"))
        topology.learn(in_inventory("node:r2-n0", rack="r2", node="r2-n0", pdu=pdu))
        if pdu == "pdu-7" and topology.revision < 4:
            desk = Desk(topology)
            desk.take([dark("r1-n0"), dark("r2-n0", 1)])
        desk.wait(2 * topology.revision)
        desk.wait(2 * topology.revision + 1)
    open_now = [one for one in desk.now().values() if one.merged_into is None]
    assert [(one.root, len(one.members)) for one in open_now] == [("pdu:pdu-7", 2)]
    assert [one.merged_into for one in desk.now().values() if one.merged_into] == [open_now[0].incident_id]
    assert desk.pages() == 1
    for incident_id in desk.now():
        revisions = [one.revision for one in desk.written if one.incident_id == incident_id]
        assert revisions == list(range(1, len(revisions) + 1))


# --- what else it could be --------------------------------------------------------------------------------------------


def test_what_else_could_be_the_root_is_said_with_what_would_decide() -> None:
    switch = fault("nvswitch", 22013, gpu=None, node="nvl1-n00", rack="nvl1", component="nvswitch:nvl1-n00/0")
    switch = replace(switch, component_kind="nvswitch")
    desk = Desk(nvl72())
    echoes = [nvlink(f"nvl1-n{node:02}-1", 145, 2) for node in range(1, 17)]
    desk.take([switch, nvlink("nvl1-n07-2", 149, 1), *echoes])
    desk.wait(2)
    one = desk.only()
    assert (one.root, one.score) == ("nvswitch:nvl1-n00/0", 0.5)
    (link, *_) = one.alternatives
    assert (link.component, link.fault_class, link.because) == (
        "gpu:nvl1-n07-2",
        "nvlink",
        "explains 16 of 17 other faults: link_down_echoes (16)",
    )
    assert 0.4 < link.score < 0.5
    assert link.tell_apart == (
        "Run dcgmi diag -r 3 on gpu:nvl1-n07-2, and nvidia-smi nvlink -e: if its links count no errors, look at "
        "nvswitch:nvl1-n00/0."
    )


def test_echoes_without_a_cause_point_at_their_domain_until_the_failed_end_is_heard_of() -> None:
    echoes = [nvlink(f"nvl1-n{node:02}-{slot}", 145, 1, severity="critical") for node in range(18) for slot in (0, 1)]
    desk = Desk(nvl72())
    desk.take(echoes)
    desk.wait(2)
    assert (desk.only().root, desk.only().score) == ("nvlink_domain:nvl1", 0.5)
    desk.take([nvlink("nvl1-n07-3", 149, 0)], at_s=3)
    desk.wait(5)
    assert (desk.only().root, desk.only().score) == ("gpu:nvl1-n07-3", 1.0)
    assert desk.pages() == 1


def test_a_lone_fault_has_neither_rivals_nor_a_chance() -> None:
    desk = Desk(hgx("r1"))
    desk.take([lost("r1-n0-2")])
    desk.wait(2)
    assert (desk.only().alternatives, desk.only().chance, desk.only().score) == ([], None, 1.0)


def test_a_program_that_hangs_on_all_its_gpus_points_at_the_job() -> None:
    topology = fleet("r1", "r2")
    run(topology, "train-7", gpus_of("r1-n0", "r2-n0"))
    desk = Desk(topology)
    desk.take(
        fault("gpu_hang", 109, gpu=gpu, node=gpu.rpartition("-")[0], rack=gpu.partition("-")[0], at_s=number / 10)
        for number, gpu in enumerate(gpus_of("r1-n0", "r2-n0"))
    )
    desk.wait(2)
    assert (desk.only().root, desk.only().score, desk.only().jobs) == ("job:train-7", 1.0, ["train-7"])


def test_base_rates_are_kept_and_taken_back() -> None:
    desk = Desk(fleet("r1"))
    desk.take([lost("r1-n0-2")])
    desk.wait(2)
    again = desk.restarted()
    assert again.correlator._rates.learnt.in_hour == {"gpu_lost": 1}
