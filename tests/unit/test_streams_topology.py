"""Where components are and what they share; what the inventory does not tell is unknown."""

from __future__ import annotations

from msgspec.structs import replace

from streams.topology import Topology
from tests.streams_scenes import in_inventory


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
