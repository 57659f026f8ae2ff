"""Where components are and what they share; what the inventory does not tell is unknown."""

from __future__ import annotations

from msgspec.structs import replace

from streams.topology import Thing, Topology
from tests.streams_scenes import START_MS, in_inventory


def knowing(*records: object) -> Topology:
    topology = Topology()
    for record in records:
        topology.learn(record)  # type: ignore[arg-type]
    return topology


GPU = in_inventory("gpu:S1", node="n1", pci="0000:91:00", nvlink_domain="d1")


def test_a_gpu_is_found_by_its_slot_and_the_slot_by_its_gpu() -> None:
    topology = knowing(GPU)
    assert topology.gpu_at("n1", "0000:91:00") == "S1"
    assert topology.pci_of("S1") == "0000:91:00"


def test_an_empty_inventory_knows_nothing_and_says_so() -> None:
    topology = Topology()
    assert topology.gpu_at("n1", "0000:91:00") is None
    assert topology.gpu_at("n1", None) is None
    assert topology.pci_of("S1") is None
    assert topology.pci_of(None) is None
    assert topology.nvlink_domain(None, None) is None
    assert topology.nodes_in_rack("hall-a", "r1") == 0


def test_without_a_declared_domain_a_node_is_its_own() -> None:
    assert Topology().nvlink_domain("S1", "n1") == "n1"
    assert knowing(in_inventory("node:n1", nvlink_domain="d7")).nvlink_domain("S9", "n1") == "d7"
    assert knowing(GPU, in_inventory("node:n1", nvlink_domain="d7")).nvlink_domain("S1", "n1") == "d1"


def test_unknown_is_never_the_same_as_unknown() -> None:
    shared = Topology().shared
    assert shared("node", component="port:?", gpu=None, node=None, rack="r1") is None
    assert shared("nvlink_domain", component="port:?", gpu=None, node=None, rack="r1") is None


def test_a_gpu_that_moved_has_left_its_slot() -> None:
    topology = knowing(GPU, replace(GPU, node="n2", pci="0000:11:00"))
    assert topology.gpu_at("n1", "0000:91:00") is None
    assert topology.gpu_at("n2", "0000:11:00") == "S1"


def test_a_gpu_that_is_replaced_gives_its_slot_to_the_next_and_does_not_take_it_back_when_it_is_found_elsewhere() -> (
    None
):
    other = replace(GPU, component="gpu:S2")
    topology = knowing(GPU, other, replace(GPU, node="n9", pci="0000:01:00"))
    assert topology.gpu_at("n1", "0000:91:00") == "S2"
    topology.learn(replace(GPU, removed=True))
    assert topology.gpu_at("n1", "0000:91:00") == "S2"
    assert topology.gpu_at("n9", "0000:01:00") is None


def test_what_is_removed_is_forgotten() -> None:
    node = in_inventory("node:n1")
    topology = knowing(GPU, node, replace(GPU, removed=True), replace(node, removed=True))
    assert topology.gpu_at("n1", "0000:91:00") is None
    assert topology.nodes_in_rack("hall-a", "r1") == 0


def test_nodes_are_counted_by_site_and_rack_and_a_node_that_moves_is_counted_once() -> None:
    nodes = [in_inventory(f"node:n{number}") for number in range(3)]
    topology = knowing(*nodes, in_inventory("node:far", site="hall-b"))
    assert topology.nodes_in_rack("hall-a", "r1") == 3
    topology.learn(nodes[0])
    assert topology.nodes_in_rack("hall-a", "r1") == 3
    topology.learn(replace(nodes[0], rack="r2"))
    assert (topology.nodes_in_rack("hall-a", "r1"), topology.nodes_in_rack("hall-a", "r2")) == (2, 1)


def test_other_kinds_of_component_are_passed_over() -> None:
    assert knowing(in_inventory("pdu:p1"), in_inventory("leaf_switch:l1")).nodes_in_rack("hall-a", "r1") == 0


# --- jobs, and what hangs on what -------------------------------------------------------------------------------------


def placed(job: str | None, at_s: float, gpu: str = "S1", source: str = "discovered") -> object:
    record = in_inventory(f"gpu:{gpu}", node="n1", job=job)
    return replace(record, source=source, seen_ms=START_MS + round(at_s * 1000))


def at(seconds: float) -> int:
    return START_MS + round(seconds * 1000)


def test_the_job_of_a_gpu_is_the_one_that_it_had_then() -> None:
    topology = knowing(placed("a", 0), placed("b", 100), placed(None, 200))
    assert [topology.job("S1", at(second)) for second in (-1, 0, 99, 100, 199)] == [None, "a", "a", "b", "b"]
    assert topology.job("nobody", at(0)) is None
    assert topology.job(None, at(0)) is None


def test_programs_may_die_a_moment_after_their_job_is_said_to_be_over() -> None:
    topology = knowing(placed("a", 0), placed(None, 100))
    assert [topology.job("S1", at(second)) for second in (100, 130, 160, 161)] == ["a", "a", "a", None]


def test_only_the_last_few_jobs_are_remembered() -> None:
    topology = knowing(*(placed(f"job-{number}", 100 * number) for number in range(10)))
    assert [topology.job("S1", at(100 * number + 5)) for number in (5, 6, 9)] == [None, "job-6", "job-9"]


def test_who_never_named_a_job_does_not_end_one() -> None:
    """An agent that finds the GPU knows nothing of the scheduler."""
    topology = knowing(placed("a", 0, source="scheduler"), placed(None, 50), placed("a", 60, source="scheduler"))
    assert topology.job("S1", at(70)) == "a"
    topology.learn(placed(None, 80, source="scheduler"))  # type: ignore[arg-type]
    assert topology.job("S1", at(500)) is None


def test_an_older_sighting_changes_no_job() -> None:
    assert knowing(placed("b", 100), placed("a", 0)).job("S1", at(200)) == "b"


def test_the_jobs_of_a_node_are_those_of_its_gpus() -> None:
    topology = knowing(in_inventory("node:n1"), placed("a", 0), placed("b", 0, "S2"), placed(None, 0, "S3"))
    assert topology.jobs_on("hall-a", at(1), node="n1") == {"a", "b"}
    assert topology.jobs_on("hall-a", at(1), rack="r1") == {"a", "b"}
    assert topology.jobs_on("hall-b", at(1), rack="r1") == set()


def test_how_much_hangs_on_each_thing_is_known_and_follows_what_moves() -> None:
    hangs = {"pdu": "p1", "leaf_switch": "l1", "nvlink_domain": "d1"}
    nodes = [in_inventory(f"node:n{number}", node=f"n{number}", **hangs) for number in range(3)]
    gpus = [in_inventory(f"gpu:n{number}-{slot}", node=f"n{number}") for number in range(3) for slot in range(2)]
    topology = knowing(*gpus, *nodes)
    things: list[tuple[Thing, int, int]] = [
        (("pdu", "hall-a", "p1"), 3, 6),
        (("leaf_switch", "hall-a", "l1"), 3, 6),
        (("rack", "hall-a", "r1"), 3, 6),
        (("site", "hall-a", "hall-a"), 3, 6),
        (("nvlink_domain", "hall-a", "d1"), 6, 6),
        (("node", "hall-a", "n1"), 2, 2),
        (("rack", "hall-b", "r1"), 0, 0),
    ]
    assert [(topology.size(thing), topology.gpu_count(thing)) for thing, *_ in things] == [
        (size, inside) for _, size, inside in things
    ]
    topology.learn(in_inventory("node:n2", node="n2", rack="r9", pdu="p2"))
    topology.learn(replace(gpus[5], removed=True))
    assert [topology.size(thing) for thing, *_ in things] == [2, 2, 2, 3, 4, 2, 0]
    assert (topology.gpu_count(("site", "hall-a", "hall-a")), topology.gpu_count(("rack", "hall-a", "r9"))) == (5, 1)
    assert (topology.parts(("site", "hall-a", "hall-a")), topology.count("gpu"), topology.count("node")) == (2, 5, 3)


def test_a_job_that_is_over_is_as_large_as_it_was() -> None:
    job: Thing = ("job", "hall-a", "a")
    topology = knowing(placed("a", 0, "S1"), placed("a", 0, "S2"), placed(None, 50, "S1"), placed(None, 50, "S2"))
    assert topology.size(job) == 2


def test_the_sizes_of_jobs_that_are_over_are_forgotten_at_last() -> None:
    topology = Topology()
    for number in range(5000):
        topology.learn(placed(f"job-{number}", number))  # type: ignore[arg-type]
    assert len(topology._most) <= 1001


def test_what_changes_what_is_near_what_is_told_and_jobs_are_not() -> None:
    topology = knowing(in_inventory("node:n1", node="n1", pdu="p1"), GPU)
    before = topology.revision
    assert topology.changed_since(before) == set()
    topology.learn(in_inventory("node:n1", node="n1", pdu="p1"))
    topology.learn(replace(GPU, job="a"))
    assert topology.changed_since(before) == set()
    topology.learn(in_inventory("node:n2", node="n2", pdu="p1"))
    assert topology.changed_since(before) == {"n2"}
    for number in range(2000):
        topology.learn(in_inventory("node:n1", node="n1", pdu=f"p{number}"))
    assert topology.changed_since(before) is None, "more than is remembered: everything"


def test_a_port_hangs_on_the_leaf_switch_of_its_node_and_a_switch_is_its_own() -> None:
    shared = knowing(in_inventory("node:n1", node="n1", leaf_switch="l1")).shared
    assert shared("leaf_switch", component="port:n1/mlx5_3/1", gpu=None, node="n1", rack="r1") == "l1"
    assert shared("leaf_switch", component="switch:l1", gpu=None, node=None, rack="r1") == "l1"
    assert shared("pdu", component="pdu:p1", gpu=None, node="n1", rack="r1") == "p1"
    assert shared("node", component="pdu:p1", gpu=None, node="n1", rack="r1") is None


def test_where_a_component_is_says_who_knows_best_and_nobody_where_nobody_does() -> None:
    found = replace(GPU, source="discovered", node="n2")
    topology = knowing(GPU, found, in_inventory("node:n1"))
    assert topology.place_of("gpu:S1") == found
    assert topology.place_of("node:n1") == in_inventory("node:n1")
    assert topology.place_of("gpu:S9") is topology.place_of("node:n9") is None
    assert (list(topology.gpus_in("n2")), list(topology.gpus_in("n1"))) == (["S1"], [])


def test_every_component_of_which_something_was_said_is_listed() -> None:
    topology = knowing(GPU, in_inventory("node:n1"), in_inventory("gpu:S2", node="n1", removed=True))
    assert sorted(topology.components()) == ["gpu:S1", "gpu:S2", "node:n1"]


def test_what_was_taken_out_is_known_to_be_gone_until_somebody_sees_it_again() -> None:
    node = in_inventory("node:n1")
    topology = knowing(node)
    assert topology.removed_ms("node:n1") is None
    topology.learn(replace(node, removed=True, seen_ms=node.seen_ms + 10))
    assert topology.removed_ms("node:n1") == node.seen_ms + 10
    assert topology.removed_ms("node:n2") is None, "nobody ever knew it"
    topology.learn(replace(node, source="discovered", seen_ms=node.seen_ms + 5))
    assert topology.removed_ms("node:n1") == node.seen_ms + 10, "an agent's record that was on its way for long"
    topology.learn(replace(node, source="discovered", seen_ms=node.seen_ms + 20))
    assert topology.removed_ms("node:n1") is None


def test_the_driver_is_that_of_the_gpu_else_of_its_node() -> None:
    topology = knowing(replace(GPU, driver_version="550.54.15"), in_inventory("node:n1", driver_version="535.1"))
    assert topology.driver_version("S1", "n1") == "550.54.15"
    assert topology.driver_version("S9", "n1") == "535.1"
    assert topology.driver_version(None, None) is None
