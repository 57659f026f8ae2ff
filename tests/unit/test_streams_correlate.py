"""Faults that share one cause are one incident, with the right root, and one page."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
from msgspec.structs import replace

from schemas.records import Evidence, Fault
from streams.topology import Topology
from tests.streams_desk import KEPT_S, Desk, application, cleared, held_by, hgx, nvl72, nvlink
from tests.streams_scenes import START_MS, fault, in_inventory

GPUS = [f"nvl1-n{node:02}-{slot}" for node in range(18) for slot in range(4)]
ROOT = "nvl1-n07-2"


def nvlink_scene() -> list[Fault]:
    """A link of one GPU fails; the other 71 report lost packets, and the job is torn down everywhere."""
    chance = random.Random(7)
    echoes = [nvlink(gpu, 145, 0.2 + chance.random()) for gpu in GPUS if gpu != ROOT]
    return [nvlink(ROOT, 149, 0), *echoes, *(application(gpu, 0.5 + chance.random()) for gpu in GPUS)]


@pytest.mark.parametrize("order", ["as it happened", "echoes first", "jobs first", *range(5)])
def test_a_link_failure_that_makes_its_rack_echo_is_one_incident_with_one_page(order: str | int) -> None:
    faults = nvlink_scene()
    if order == "echoes first":
        faults = [*faults[1:], faults[0]]
    elif order == "jobs first":
        faults.reverse()
    elif isinstance(order, int):
        random.Random(order).shuffle(faults)
    desk = Desk(nvl72())
    desk.take(faults)
    desk.wait(1)
    one = desk.only()
    assert (one.root, one.root_code, one.root_class, one.root_gpu) == (f"gpu:{ROOT}", 149, "nvlink", ROOT)
    assert (one.severity, one.action, one.state, one.racks) == ("critical", "reset_gpu", "open", ["nvl1"])
    assert len(one.members) == 144
    assert one.members[0].role == "root"
    assert {member.role for member in one.members[1:]} == {"symptom"}
    assert {member.because for member in one.members[1:]} == {"link_down_echoes", "link_down_kills_jobs"}
    assert one.score == 1.0
    assert desk.pages() == 1


@pytest.mark.parametrize("seed", range(3))
def test_the_echoes_may_be_heard_long_before_their_cause(seed: int) -> None:
    """The first to be heard of are echoes, which page; the cause comes late, takes the root, and pages nobody again."""
    faults = nvlink_scene()
    echoes = [replace(one, severity="critical") if one.code == 145 else one for one in faults[1:]]
    random.Random(seed).shuffle(echoes)
    desk = Desk(nvl72())
    desk.take(echoes[:50])
    desk.wait(1)
    assert desk.pages() == 1
    assert desk.only().root != f"gpu:{ROOT}"
    desk.take(echoes[50:], at_s=2)
    desk.wait(3)
    desk.take(faults[:1], at_s=4)
    desk.wait(5)
    assert desk.only().root == f"gpu:{ROOT}"
    assert desk.only().state == "updated"
    assert desk.pages() == 1
    assert [one.revision for one in desk.written] == list(range(1, len(desk.written) + 1))


def test_a_gpu_that_falls_off_the_bus_its_silence_and_its_peers_are_one_incident() -> None:
    lost = fault("gpu_lost", 79, gpu="r1-n0-3", node="r1-n0", action="reboot_node")
    silent = fault("gpu_silent", at_s=5, gpu="r1-n0-3", node="r1-n0")
    peers = [fault("nvlink", 74, at_s=0.4, gpu=f"r1-n0-{slot}", node="r1-n0") for slot in (0, 1, 2, 4, 5, 6, 7)]
    switch = fault("nvswitch", 12028, at_s=0.3, gpu=None, node="r1-n0", component="nvswitch:r1-n0/0000:c1:00")
    switch = replace(switch, component_kind="nvswitch")
    for faults in ([lost, *peers, switch, silent], [silent, switch, *peers, lost]):
        desk = Desk(hgx("r1"))
        desk.take(faults)
        desk.wait(1)
        one = desk.only()
        assert (one.root, one.root_code, one.action) == ("gpu:r1-n0-3", 79, "reboot_node")
        assert len(one.members) == 10
        assert desk.pages() == 1


def test_what_is_explained_itself_is_no_root_however_much_it_explains() -> None:
    # each step back is less sure than the one before, and still the beginning of it
    switch = fault("nvswitch", 22013, gpu=None, node="nvl1-n00", rack="nvl1", component="nvswitch:nvl1-n00/0")
    switch = replace(switch, component_kind="nvswitch")
    desk = Desk(nvl72())
    desk.take([nvlink(ROOT, 149, 1), *(nvlink(gpu, 145, 2) for gpu in GPUS[:20]), switch])
    desk.wait(1)
    assert desk.only().root == "nvswitch:nvl1-n00/0"
    assert desk.only().title == "NVSwitch error (SXid 22013): nvswitch:nvl1-n00/0, 21 symptoms"


def test_two_racks_at_the_same_time_are_two_incidents() -> None:
    desk = Desk(hgx("r1", "r2"))
    for rack in ("r1", "r2"):
        gpu, node = f"{rack}-n0-3", f"{rack}-n0"
        desk.take(
            [
                fault("gpu_lost", 79, gpu=gpu, node=node, rack=rack),
                fault("gpu_silent", at_s=5, gpu=gpu, node=node, rack=rack),
                fault("nvlink", 74, at_s=1, gpu=f"{rack}-n0-1", node=node, rack=rack),
            ]
        )
    desk.wait(1)
    assert sorted(one.root for one in desk.now().values()) == ["gpu:r1-n0-3", "gpu:r2-n0-3"]
    assert sorted(len(one.members) for one in desk.now().values()) == [3, 3]
    assert desk.pages() == 2


def test_racks_of_the_same_name_at_two_sites_are_two_racks() -> None:
    desk = Desk()
    desk.take(silent_nodes("n0", "n1", "n2"))
    desk.take([replace(one, site="hall-b", fault_id=one.fault_id + "b") for one in silent_nodes("n5", "n6", "n7")])
    desk.wait(1)
    assert sorted((one.site, len(one.members)) for one in desk.now().values()) == [("hall-a", 3), ("hall-b", 3)]


def test_nodes_of_one_nvlink_domain_are_near_and_hgx_nodes_are_not() -> None:
    gpus = ("r1-n0-0", "r1-n1-0")
    near, far = Desk(nvl72("r1")), Desk(hgx("r1"))
    for desk in (near, far):
        desk.take([nvlink(gpu.replace("n0", "n00").replace("n1", "n01"), 145, 1, "r1") for gpu in gpus])
        desk.wait(1)
    assert len(near.now()) == 1
    assert len(far.now()) == 2


def test_far_apart_in_time_is_not_one_cause() -> None:
    desk = Desk(nvl72())
    desk.take([nvlink(ROOT, 149, 0), nvlink(GPUS[0], 145, 300)])
    desk.wait(1)
    assert len(desk.now()) == 2


# --- a rack that goes dark --------------------------------------------------------------------------------------------


def silent_nodes(*nodes: str, rack: str = "r1", at_s: float = 0) -> list[Fault]:
    return [
        fault("node_silent", at_s=at_s + number / 10, gpu=None, node=node, rack=rack, action="check_hardware")
        for number, node in enumerate(nodes)
    ]


def test_three_of_four_nodes_that_fall_silent_together_point_at_the_rack() -> None:
    desk = Desk(hgx("r1"))
    desk.take(silent_nodes("r1-n0", "r1-n1", "r1-n3"))
    desk.wait(1)
    one = desk.only()
    assert (one.root, one.root_node, one.action) == ("rack:r1", None, "check_hardware")
    assert "3 of 4 nodes" in one.reason
    assert one.title == "Node stopped reporting: rack r1, 3 nodes"
    assert one.score == 0.75, "why not the fourth?"
    assert desk.pages() == 1


@pytest.mark.parametrize(("nodes", "score"), [(4, 0.5), (18, 0.111)])
def test_two_nodes_at_once_are_no_coincidence_and_the_score_says_how_little_of_the_rack_they_are(
    nodes: int, score: float
) -> None:
    desk = Desk(hgx("r1", nodes=nodes))
    desk.take(silent_nodes("r1-n0", "r1-n1"))
    desk.wait(1)
    one = desk.only()
    assert (one.root, one.score) == ("rack:r1", score)
    assert f"2 of {nodes} nodes" in one.reason
    assert [(other.component, other.score) for other in one.alternatives] == [("node:r1-n0", 0.1), ("node:r1-n1", 0.1)]


def test_a_node_that_falls_silent_again_is_still_one_node() -> None:
    desk = Desk(hgx("r1"))
    (first,) = silent_nodes("r1-n0")
    desk.take([first, cleared(first, 60), replace(first, fault_id="again", first_ms=START_MS + 90_000)])
    desk.wait(100)
    assert (desk.only().root, len(desk.only().members)) == ("node:r1-n0", 2)


def test_a_rack_is_found_although_the_inventory_is_empty() -> None:
    desk = Desk(Topology())
    desk.take(silent_nodes("n0", "n1", "n2"))
    desk.wait(1)
    assert desk.only().root == "rack:r1"


def test_the_symptoms_of_a_dark_rack_are_explained_by_its_nodes_and_counted_apart() -> None:
    desk = Desk(hgx("r1"))
    desk.take(silent_nodes("r1-n0", "r1-n1", "r1-n2"))
    desk.take([fault("gpu_silent", gpu="r1-n0-0", node="r1-n0", at_s=-1)])
    desk.wait(1)
    one = desk.only()
    assert one.title == "Node stopped reporting: rack r1, 3 nodes, 1 symptom"
    assert [member.because for member in one.members if member.fault_class == "gpu_silent"] == [
        "silent_node_silences_gpus"
    ]
    assert one.score == 0.75


# --- the page ---------------------------------------------------------------------------------------------------------


def test_program_errors_alone_never_page() -> None:
    desk = Desk(nvl72())
    desk.take(replace(application(gpu, 0), severity="critical") for gpu in GPUS)
    for second in range(1, 200):
        desk.wait(second)
    assert desk.written == []


def test_a_program_error_on_a_gpu_that_is_lost_belongs_to_the_loss() -> None:
    desk = Desk(nvl72())
    desk.take([application(ROOT, 1)])
    desk.wait(2)
    assert desk.written == []
    desk.take([fault("gpu_lost", 79, gpu=ROOT, node="nvl1-n07", rack="nvl1")], at_s=10)
    desk.wait(11)
    assert [member.fault_class for member in desk.only().members] == ["gpu_lost", "application"]


def test_a_warning_is_an_incident_and_wakes_nobody() -> None:
    desk = Desk(nvl72())
    desk.take([nvlink(ROOT, 145, 0)])
    desk.wait(1)
    assert desk.only().severity == "warning"
    assert desk.pages() == 0


def test_a_warning_that_becomes_critical_pages_then() -> None:
    desk = Desk(nvl72())
    warning = nvlink(ROOT, 145, 0)
    desk.take([warning])
    desk.wait(1)
    worse = replace(warning, severity="critical", code=149, revision=2)
    desk.take([worse], at_s=10)
    (one,) = desk.wait(11)
    assert (one.page, one.severity, one.state) == (True, "critical", "updated")
    assert desk.pages() == 1


def test_it_gathers_for_a_moment_before_it_speaks() -> None:
    desk = Desk(nvl72())
    desk.take(nvlink_scene())
    assert desk.wait(0.99) == []
    assert len(desk.wait(1)) == 1


def test_it_speaks_once_as_long_as_there_is_nothing_new() -> None:
    desk = Desk(nvl72())
    scene = nvlink_scene()
    desk.take(scene)
    for second in range(1, 30):
        desk.wait(second)
        desk.take(
            (replace(one, revision=second + 1, count=second + 1, last_ms=one.last_ms + 10 * second) for one in scene),
            at_s=second,
        )
    assert len(desk.written) == 1


def test_a_critical_fault_that_was_over_before_it_could_speak_wakes_nobody_and_is_history() -> None:
    desk = Desk(hgx("r1"))
    (one,) = silent_nodes("r1-n0")
    desk.take([one, cleared(one, 0.5)])
    (said,) = desk.wait(1)
    assert (said.state, said.page) == ("cleared", False)


def test_what_is_heard_of_only_when_it_is_over_is_no_incident() -> None:
    desk = Desk()
    desk.take([cleared(fault(), 60)])
    desk.wait(100)
    assert desk.written == []
    assert len(desk.correlator) == 0


# --- growing, merging, ending -----------------------------------------------------------------------------------------


def test_an_old_revision_changes_nothing() -> None:
    desk = Desk()
    new, old = fault(revision=5), fault(revision=4, state="cleared", cleared_ms=START_MS)
    desk.take([new, old, replace(new, state="cleared")])
    desk.wait(1)
    assert desk.only().state == "open"


def test_an_incident_is_over_when_all_its_faults_are() -> None:
    desk = Desk()
    lost, silent = fault("gpu_lost", 79), fault("gpu_silent", at_s=5)
    desk.take([lost, silent])
    desk.wait(1)
    desk.take([cleared(lost, 90)], at_s=90)
    desk.wait(92)
    assert desk.only().state != "cleared"
    desk.take([cleared(silent, 95)], at_s=95)
    desk.wait(97)
    assert (desk.only().state, desk.only().cleared_ms) == ("cleared", START_MS + 95_000)
    assert desk.pages() == 1


def test_two_incidents_that_turn_out_to_be_one_keep_the_id_that_has_spoken() -> None:
    desk = Desk(nvl72())
    desk.take([application(GPUS[0], 1.5)])  # older, and silent
    desk.take([nvlink(GPUS[1], 145, 1, severity="critical")], at_s=0.5)
    desk.wait(2)
    spoken = desk.only().incident_id
    desk.take([nvlink(ROOT, 149, 0)], at_s=3)
    desk.wait(4)
    assert desk.only().incident_id == spoken
    assert len(desk.only().members) == 3
    assert desk.pages() == 1


def test_of_two_that_have_spoken_the_older_goes_on_and_the_other_says_where_it_went() -> None:
    desk = Desk(hgx("r1"))
    first = fault("gpu_silent", at_s=20, gpu="r1-n0-0", node="r1-n0")
    second = fault("nvlink", 74, at_s=2, gpu="r1-n0-1", node="r1-n0")
    desk.take([first])
    desk.take([second], at_s=1)
    desk.wait(3)
    assert len(desk.now()) == 2
    assert desk.pages() == 2
    older, newer = desk.holding(first), desk.holding(second)
    desk.take([fault("gpu_lost", 79, gpu="r1-n0-0", node="r1-n0")], at_s=4)
    desk.wait(6)
    assert desk.now()[newer].state == "cleared"
    assert older in desk.now()[newer].reason
    assert desk.now()[older].root == "gpu:r1-n0-0"
    assert len(desk.now()[older].members) == 3
    assert desk.pages() == 2, "nobody is woken a third time"
    assert len(desk.correlator) == 1


def test_a_fault_that_turns_out_to_be_a_cause_loses_its_own_cause() -> None:
    """First known by an echo, then by the line that names the failure."""
    desk = Desk(nvl72())
    other = nvlink(GPUS[0], 149, 1)
    one = nvlink(ROOT, 145, 0)
    third = [nvlink(gpu, 145, 0.5) for gpu in GPUS[1:4]]
    desk.take([other, one, *third])
    desk.wait(1)
    assert desk.only().root == f"gpu:{GPUS[0]}"
    desk.take([replace(one, code=149, severity="critical", revision=2)], at_s=2)
    desk.wait(3)
    assert desk.only().root == f"gpu:{ROOT}", "both are causes now, and this one was first"


def test_a_cause_that_goes_on_explains_what_comes_later() -> None:
    desk = Desk(hgx("r1"))
    root = fault("gpu_lost", 79, gpu="r1-n0-0", node="r1-n0")
    late = fault("nvlink", 74, at_s=100, gpu="r1-n0-1", node="r1-n0")
    lasting = replace(root, revision=2, last_ms=START_MS + 90_000)
    for order in ([root, lasting, late], [root, late, lasting]):
        desk = Desk(hgx("r1"))
        desk.take(order)
        desk.wait(1)
        assert len(desk.only().members) == 2


def test_evidence_that_comes_late_joins_an_incident_that_is_over() -> None:
    desk = Desk()
    lost = fault("gpu_lost", 79)
    desk.take([lost])
    desk.wait(1)
    desk.take([cleared(lost, 5)], at_s=5)
    desk.wait(7)
    desk.take([fault("gpu_silent", at_s=4)], at_s=8)
    desk.wait(10)
    assert desk.only().state == "updated"
    assert desk.pages() == 1


def test_what_is_over_is_let_go_and_all_that_was_held_of_it() -> None:
    desk = Desk(nvl72())
    scene = nvlink_scene()
    desk.take(scene)
    desk.wait(1)
    desk.take((cleared(one, 60) for one in scene), at_s=60)
    desk.wait(62)
    assert desk.only().state == "cleared"
    desk.wait(60 + KEPT_S)
    assert desk.only().state == "cleared"
    assert len(desk.correlator) == 1, "the same trouble may come back"
    desk.correlator.changes()
    desk.wait(62 + KEPT_S)
    assert held_by(desk) == 0
    assert set(desk.correlator.changes().values()) == {None}


def test_what_is_worth_no_incident_is_let_go_too() -> None:
    desk = Desk(nvl72())
    desk.take(application(gpu, 0) for gpu in GPUS)
    desk.wait(1)
    assert len(desk.correlator) == 72
    desk.wait(121)
    assert len(desk.correlator) == 0
    assert held_by(desk) == 0


def test_the_inventory_may_learn_better_while_a_fault_is_open() -> None:
    """The places by which a fault was entered are those by which it is let go."""
    topology = Topology()
    desk = Desk(topology)
    echo = nvlink(GPUS[0], 145, 1)
    desk.take([echo])
    desk.wait(1)
    for record in ("node:nvl1-n00", f"gpu:{GPUS[0]}", f"gpu:{ROOT}"):
        topology.learn(in_inventory(record, rack="nvl1", nvlink_domain="nvl1", node="nvl1-n00"))
    desk.take([cleared(echo, 60)], at_s=60)
    desk.wait(62)
    desk.wait(64 + KEPT_S)
    assert held_by(desk) == 0
    desk.take([nvlink(ROOT, 149, 7000), nvlink(GPUS[0], 145, 7001, fault_id="new")], at_s=7000)
    desk.wait(7002)
    assert len(desk.written[-1].members) == 2


# --- memory -----------------------------------------------------------------------------------------------------------


def scene_of_two() -> list[Fault]:
    lost = fault("gpu_lost", 79, gpu="r1-n0-3", node="r1-n0")
    return [*nvlink_scene()[:30], lost, fault("gpu_silent", at_s=5, gpu="r1-n0-3", node="r1-n0")]


@pytest.mark.parametrize("restart_at", [0, 1, 10, 30, 31, 32])
def test_a_restart_in_the_middle_changes_nothing(restart_at: int) -> None:
    def live(faults: Sequence[Fault], desk: Desk, begin: int) -> None:
        for number, one in enumerate(faults, begin):
            desk.take([one], at_s=number / 4)
            desk.wait(number / 4)

    scene = scene_of_two()
    straight = Desk(nvl72())
    live(scene, straight, 0)
    straight.wait(60)
    desk = Desk(nvl72())
    live(scene[:restart_at], desk, 0)
    desk = desk.restarted()
    live(scene[restart_at:], desk, restart_at)
    desk.wait(60)
    assert desk.written == straight.written


def test_a_restart_repeats_nothing() -> None:
    desk = Desk(nvl72())
    desk.take(nvlink_scene())
    desk.wait(1)
    again = desk.restarted()
    assert again.wait(5) == []
    assert again.wait(60) == []


def test_a_page_that_was_sent_before_a_restart_is_not_sent_again() -> None:
    desk = Desk(nvl72())
    desk.take(nvlink_scene()[1:40])
    desk.take([nvlink(GPUS[60], 145, 0.1, severity="critical")])
    desk.wait(1)
    again = desk.restarted()
    again.take(nvlink_scene()[:1], at_s=5)
    again.wait(7)
    assert again.only().root == f"gpu:{ROOT}"
    assert again.pages() == 1


def test_an_incident_that_was_over_before_it_turned_out_to_be_part_of_another_says_so() -> None:
    first = fault("gpu_silent", at_s=20, gpu="r1-n0-0", node="r1-n0")
    second = fault("nvlink", 74, at_s=2, gpu="r1-n0-1", node="r1-n0")
    desk = Desk(hgx("r1"))
    desk.take([first])
    desk.take([second], at_s=1)
    desk.wait(3)
    older, newer = desk.holding(first), desk.holding(second)
    desk.take([cleared(second, at_s=5)], at_s=5)
    desk.wait(8)
    over = desk.now()[newer]
    assert (over.state, over.merged_into) == ("cleared", None)
    desk.take([fault("gpu_lost", 79, gpu="r1-n0-0", node="r1-n0")], at_s=9)
    desk.wait(12)
    assert desk.now()[newer].merged_into == older
    assert desk.now()[newer].cleared_ms == over.cleared_ms
    assert {member.fault_id for member in desk.now()[older].members} >= {first.fault_id, second.fault_id}


@pytest.mark.parametrize(
    ("warning", "hours", "came", "echo"),
    [
        ("pcie", 0.2, ("gpu_lost", 79), ("gpu_silent", None)),
        ("memory_correctable", 3, ("gpu_memory_uncorrectable", 48), ("row_remap", 63)),
    ],
)
def test_a_warning_that_comes_true_is_one_incident_whose_page_says_what_came(
    warning: str, hours: float, came: tuple[str, int], echo: tuple[str, int | None]
) -> None:
    on = {"gpu": "r1-n0-3", "node": "r1-n0"}
    desk = Desk(hgx("r1"))
    desk.take([fault(warning, severity="warning", action="none", **on)])
    desk.wait(2)
    assert desk.pages() == 0
    at_s = hours * 3600
    for minute in range(3, int(at_s / 60), 3):  # as a worker looks, if not as often
        desk.wait(minute * 60)
    desk.take([fault(*came, at_s=at_s, **on), fault(*echo, at_s=at_s + 1, severity="warning", **on)], at_s=at_s + 1)
    desk.wait(at_s + 3)
    page = next(one for one in desk.written if one.page)
    assert (page.root, page.root_class, page.root_code) == ("gpu:r1-n0-3", *came)
    assert {member.fault_class for member in page.members} == {warning, came[0], echo[0]}
    assert len({one.incident_id for one in desk.written}) == 1


def test_an_incident_shows_what_made_it_what_it_is_and_what_came_before() -> None:
    kept = [Evidence(id=f"e{at}", at_ms=START_MS + at * 1000, source="counters", text=f"rise {at}") for at in range(3)]
    broke = Evidence(id="x", at_ms=START_MS + 5000, source="kernel_log", text="XID 149")
    one = replace(nvlink(ROOT, 149, 0), worsened_ms=START_MS + 5000, evidence=[*kept, broke])
    desk = Desk(nvl72())
    desk.take([one])
    desk.wait(6)
    assert desk.only().evidence == ["kernel_log: XID 149", "counters: rise 0"]


def test_what_is_told_of_again_after_it_was_let_go_is_no_new_arrival() -> None:
    one = fault("application", 45, gpu="r1-n0-3", node="r1-n0", severity="info", action="none")
    desk = Desk(hgx("r1"))
    desk.take([one])
    desk.wait(2)
    desk.wait(7200)
    learnt = desk.correlator._rates.learnt
    desk.take([cleared(one, at_s=7200)], at_s=7201)
    assert (learnt.arrivals, learnt.in_hour) == ({}, {"application": 1})


@pytest.mark.parametrize("late", range(3))
def test_a_burst_that_is_known_late_still_has_what_comes_back_after_it(late: int) -> None:
    """A rack's feed sags on two nodes, is well again on one, and sags again on a third part within the half hour."""
    first = fault("power", gpu="nvl1-n01-0", node="nvl1-n01", rack="nvl1")
    beside = fault("power", gpu="nvl1-n00-0", node="nvl1-n00", rack="nvl1", severity="info")
    again = fault("power", at_s=70, gpu="nvl1-n00-1", node="nvl1-n00", rack="nvl1")
    faults = [first, beside, again]
    faults.append(faults.pop(late))
    desk = Desk(nvl72())
    for one in faults:
        desk.take([one, cleared(one, at_s=6)] if one is first else [one])
        desk.wait(0)
    desk.wait(1)
    assert len(desk.only().members) == 3


@pytest.mark.parametrize("kept", range(8))
def test_a_kill_in_the_middle_of_keeping_a_merge_is_merged_once_more(kept: int) -> None:
    first = fault("gpu_silent", at_s=20, gpu="r1-n0-0", node="r1-n0")
    second = fault("nvlink", 74, at_s=2, gpu="r1-n0-1", node="r1-n0")
    lost = fault("gpu_lost", 79, gpu="r1-n0-0", node="r1-n0")
    desk = Desk(hgx("r1"))
    desk.take([first])
    desk.take([second], at_s=1)
    desk.wait(3)
    older, newer = desk.holding(first), desk.holding(second)
    before = desk.correlator.changes()
    desk.take([lost], at_s=4)
    desk.wait(6)
    after = desk.correlator.changes()
    assert kept <= 7 >= len(after)
    again = desk.with_memory(before | dict(list(after.items())[:kept]))
    again.take([second, first, lost], at_s=10)
    again.wait(12)
    assert len(again.correlator) == 1
    assert again.now()[older].root == "gpu:r1-n0-0"
    assert again.now()[older].state != "cleared"
    assert again.now()[newer].merged_into == older
    assert again.pages() == 2
    assert {held.incident_id for held in again.correlator._held.values()} == {older}


def test_the_memory_of_a_large_incident_fits_in_a_kafka_record() -> None:
    line = "NVRM: Xid (PCI:0000): 145, " * 12
    pieces = [Evidence(id=f"{number:032x}", at_ms=START_MS, source="kernel_log", text=line) for number in range(8)]
    desk = Desk(nvl72())
    for kind, code in (("nvlink", 145), ("application", 45), ("gpu_hang", 109)):
        desk.take(
            fault(kind, code, gpu=gpu, node=gpu.rpartition("-")[0], rack="nvl1", at_s=1, evidence=pieces, reason=line)
            for gpu in GPUS
        )
    desk.take([nvlink(ROOT, 149, 0, evidence=pieces)])
    desk.wait(1)
    sizes = [len(one) for one in desk.correlator.changes().values() if one is not None]
    assert len(sizes) == 218, "the incident and each of its faults, and the base rates"
    assert max(sizes) < 20_000


# --- what many share --------------------------------------------------------------------------------------------------


def fed_by_two(rack: str = "r1") -> Topology:
    """Four nodes with two GPUs each, in turn on PDU a and PDU b."""
    topology = Topology()
    for node in range(4):
        name = f"{rack}-n{node}"
        topology.learn(in_inventory(f"node:{name}", rack=rack, node=name, pdu=f"pdu-{'ab'[node % 2]}"))
        for slot in range(2):
            topology.learn(in_inventory(f"gpu:{name}-{slot}", rack=rack, node=name))
    return topology


def of_gpus(fault_class: str, nodes: Iterable[int], at_s: float = 0) -> list[Fault]:
    return [
        fault(fault_class, gpu=f"r1-n{node}-{slot}", node=f"r1-n{node}", at_s=at_s + node)
        for node in nodes
        for slot in (0, 1)
    ]


def silent(nodes: Iterable[int]) -> list[Fault]:
    return [fault("node_silent", gpu=None, node=f"r1-n{node}", at_s=node) for node in nodes]


@pytest.mark.parametrize(
    ("faults", "root", "title"),
    [
        (silent([0, 2]), "pdu:pdu-a", "PDU pdu-a, 2 nodes"),
        (silent([0, 1, 2, 3]), "rack:r1", "rack r1, 4 nodes"),
        (of_gpus("power", [1]), "node:r1-n1", "node r1-n1, 2 GPUs"),
        (of_gpus("power", [0, 1, 3]), "rack:r1", "rack r1, 3 nodes"),
        (of_gpus("thermal", [0, 1, 2]), "rack:r1", "rack r1, 3 nodes"),
    ],
)
def test_what_fails_together_points_at_what_it_shares(faults: list[Fault], root: str, title: str) -> None:
    desk = Desk(fed_by_two())
    desk.take(faults)
    desk.wait(10)

    one = desk.only()
    assert (one.root, one.action, one.root_gpu) == (root, "check_hardware", None)
    assert one.title.endswith(title)
    assert {member.role for member in one.members} == {"root", "symptom"}
    assert desk.pages() == 1


def test_one_hot_gpu_is_not_its_rack_and_one_dark_node_is_not_its_pdu() -> None:
    desk = Desk(fed_by_two())
    desk.take([fault("thermal", gpu="r1-n0-0", node="r1-n0"), *silent([1])])
    desk.wait(10)
    assert {one.root for one in desk.now().values()} == {"gpu:r1-n0-0", "node:r1-n1"}


def test_nodes_on_two_pdus_do_not_point_at_one_of_them() -> None:
    desk = Desk(fed_by_two())
    desk.take(silent([0, 2, 1]))
    desk.wait(10)
    assert desk.only().root == "rack:r1"


def test_pdus_of_two_racks_with_one_name_are_not_the_same_where_their_sites_differ() -> None:
    desk = Desk(fed_by_two())
    desk.take([*silent([0]), replace(silent([2])[0], site="hall-b")])
    desk.wait(10)
    assert len(desk.now()) == 2
