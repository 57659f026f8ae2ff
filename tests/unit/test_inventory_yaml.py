"""A fleet declared in YAML: few lines for many racks, and every error with its line."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from producers.inventory import Inventory, InventoryError, load, parse
from schemas.codec import SingleObjectCodec
from schemas.records import InventoryRecord

README = Path(__file__).parents[2] / "producers" / "inventory" / "README.md"


def read(text: str) -> Inventory:
    return parse(dedent(text).encode(), "fleet.yaml")


def errors(text: str) -> list[str]:
    with pytest.raises(InventoryError) as caught:
        read(text)
    return caught.value.lines()


def by_component(inventory: Inventory) -> dict[str, InventoryRecord]:
    return {record.component: record for record in inventory.records(1_700_000_000_000)}


FLEET = """
    site: hall-a
    templates:
      hgx:
        units: 48
        nodes: "{rack}-n[1-4]"
        slots: [1, 9, 17, 25]
        gpus_per_node: 8
        sku: HGX H100
        nvlink_domain: "{node}"
        leaf_switch: leaf-1
        pdus: "pdu-{rack}-[a-b]"
        pdu: "pdu-{rack}-[a-b]"
        cooling: "door-{rack}"
      nvl72:
        nodes: "{rack}-n[01-18]"
        slots: 10-27
        gpus_per_node: 4
        nvlink_domain: "nvl-{rack}"
        leaf_switches: "leaf-{rack}"
        leaf_switch: "leaf-{rack}"
    racks:
      - {name: "hgx-[01-50]", template: hgx}
      - {name: "nvl-[01-50]", template: nvl72}
      - name: net-1
    leaf_switches:
      - {name: leaf-1, rack: net-1}
    nodes:
      - name: hgx-01-n1
        chassis_serial: CH0001
        gpus: [0165092300012, 0165092300013]
"""


def test_a_hundred_racks_are_a_few_lines() -> None:
    fleet = read(FLEET)
    assert (len(fleet.racks), len(fleet.nodes), fleet.expected_gpus) == (101, 50 * 4 + 50 * 18, 50 * 32 + 50 * 72)
    assert len(fleet.nvlink_domains) == 200 + 50, "an HGX node is one by itself, an NVL72 rack is one"
    kinds = [device.kind for device in fleet.devices]
    assert (kinds.count("leaf_switch"), kinds.count("pdu"), kinds.count("cooling")) == (51, 100, 50)


def test_every_component_is_a_record_that_says_where_it_is() -> None:
    records = by_component(read(FLEET))
    third = records["node:hgx-02-n3"]
    assert (third.rack, third.slot, third.pdu, third.leaf_switch) == ("hgx-02", 17, "pdu-hgx-02-a", "leaf-1")
    assert (third.nvlink_domain, third.sku, third.chassis_serial) == ("hgx-02-n3", "HGX H100", None)
    tray = records["node:nvl-50-n18"]
    assert (tray.slot, tray.nvlink_domain, tray.leaf_switch, tray.pdu) == (27, "nvl-nvl-50", "leaf-nvl-50", None)
    gpu = records["gpu:0165092300013"]
    assert (gpu.node, gpu.rack, gpu.gpu_index, gpu.gpu_serial) == ("hgx-01-n1", "hgx-01", 1, "0165092300013")
    assert (gpu.nvlink_domain, gpu.pdu) == ("hgx-01-n1", "pdu-hgx-01-a"), "what its node hangs on"
    assert records["leaf_switch:leaf-1"].rack == "net-1"
    assert records["cooling:door-hgx-01"].kind == "cooling"
    assert records["nvlink_domain:nvl-nvl-07"].rack == "nvl-07"
    assert {record.source for record in records.values()} == {"declared"}
    codec = SingleObjectCodec()
    assert all(codec.decode(codec.encode(one), InventoryRecord) == one for one in records.values())


def test_the_examples_of_the_readme_are_inventories() -> None:
    blocks = README.read_text().split("```")
    examples = {block.split("\n", 1)[0]: block.split("\n", 1)[1] for block in blocks[1::2] if "\n" in block}
    fleet = parse(examples["yaml"].encode(), "fleet.yaml")
    assert {len([node for node in fleet.nodes if node.rack == rack.name]) for rack in fleet.racks} >= {4, 18}
    table = parse(examples["csv"].encode(), "fleet.csv")
    assert table.nodes
    assert table.gpus


def test_nodes_numbered_through_are_dealt_out_over_the_racks() -> None:
    fleet = read("""
        site: a
        racks:
          - {name: "r[1-2]", nodes: "gpu-[001-004]", slots: [1, 2]}
    """)
    assert [(node.name, node.rack, node.slot) for node in fleet.nodes] == [
        ("gpu-001", "r1", 1), ("gpu-002", "r1", 2), ("gpu-003", "r2", 1), ("gpu-004", "r2", 2),
    ]  # fmt: skip


def test_a_node_may_differ_from_the_others_of_its_rack_and_nodes_may_stand_alone() -> None:
    fleet = read("""
        site: a
        racks:
          - {name: r1, nodes: "n[1-2]", gpus_per_node: 8, pdus: [p1, p2], pdu: p1}
        nodes:
          - {name: n2, pdu: p2, gpus_per_node: 4}
          - {name: "x[1-2]", rack: r1, slot: [7, 9], chassis_serial: [A, B], leaf_switch: l1}
        leaf_switches:
          - {name: "l[1-2]", rack: r1}
    """)
    assert [(node.name, node.pdu, node.gpus, node.slot, node.chassis_serial) for node in fleet.nodes] == [
        ("n1", "p1", 8, None, None), ("n2", "p2", 4, None, None),
        ("x1", None, None, 7, "A"), ("x2", None, None, 9, "B"),
    ]  # fmt: skip


def test_every_error_is_named_with_its_line_and_what_to_do() -> None:
    assert errors("""\
        site: hall-a
        templates:
          hgx: {nodes: "{rack}-n[1-2]", leaf_swich: x}
        racks:
          - name: r[1-2
          - {name: "r[3-4]", template: hgxx}
          - name: "r[5-6]"
            nodes: [a, b, c]
          - name: r7
            units: 20
            nodes: x[1-2]
            slots: [3, 3]
            pdu: pdu-7
          - name: r8
            nodes: x1
        pdus:
          - {name: pdu-77, rack: r7}
          - {name: pdu-77, rack: r7}
        nodes:
          - {name: x2, slot: 21, chassis_serial: C1}
          - {name: x2, chassis_serial: C2}
          - {name: y, rack: r77, chassis_serial: C2, gpus: [S1, S2]}
          - {name: z, rack: r7, slot: no, gpus: [S1]}
        gpus:
          - {serial: S9, node: zz, index: 0}
          - {serial: S8, node: y, index: 1}
        sites: [hall-b]
    """) == [
        'fleet.yaml:1: site "hall-a" is not among `sites:`; did you mean "hall-b"?',
        'fleet.yaml:3: a template has no key "leaf_swich"; did you mean "leaf_switch"?',
        'fleet.yaml:5: "r[1-2" has a bracket without its other half; write for example gpu-[001-032]',
        'fleet.yaml:6: there is no template "hgxx"; did you mean "hgx"?',
        "fleet.yaml:8: 3 nodes cannot be dealt out evenly over 2 racks; give as many for each, or put {rack} into the "
        "name",
        'fleet.yaml:13: node x1 hangs on pdu "pdu-7", which is not declared; did you mean "pdu-77"? '
        "(and 1 more like it)",
        "fleet.yaml:15: node x1 is in two racks: r8 here and r7 in line 11; it can be in one",
        "fleet.yaml:18: pdu pdu-77 is declared twice (before in line 17); remove one",
        "fleet.yaml:20: node x2 is in slot 21, but rack r7 has 20; correct one",
        "fleet.yaml:21: node x2 stands twice under `nodes:` (before in line 20); make it one entry",
        "fleet.yaml:22: chassis serial C2 stands twice: node y here and node x2 in line 21; correct one, or leave "
        "it out where nodes share a chassis",
        'fleet.yaml:22: node y is in rack "r77", which is not declared; did you mean "r7"?',
        "fleet.yaml:23: GPU serial S1 stands twice, in nodes y and z (before in line 22); a serial is one GPU: correct "
        "one of them",
        'fleet.yaml:23: YAML reads no as true or false; quote it: "no"',
        'fleet.yaml:25: GPU S9 is in node "zz", which is not declared; did you mean "z"?',
        "fleet.yaml:26: index 1 of node y is used twice: by GPU S8 and GPU S2 (line 22)",
    ]


@pytest.mark.parametrize(("text", "said"), [
    ("site: a\nracks:\n- {name: r1, nodes: 'n[1-2]', slots: [4, 4]}",
     "3: slot 4 of rack r1 is used twice: by n2 and by n1 (line 3); move one"),
    ("site: a\nracks:\n- {name: r1, nodes: 'n[1-2]', slots: [4]}",
     "3: 1 slots for 2 nodes of rack r1; give one for each node"),
    ("site: a\nracks:\n- name: r1\n- name: r1", "4: rack r1 is declared twice (before in line 3); remove one"),
    ("racks:\n- name: r1", "2: rack r1 has no site; give `site:` at the top of the file or in the rack"),
    ("site: a\nracks:\n- {name: r1, nodes: [n1, n1]}", "3: node n1 is declared twice (before in line 3); remove one"),
    ("site: a\nracks:\n- units: 4", "3: a rack has no name; give `name:`"),
    ("site: a\nracks: r1", "2: a list is wanted here; begin each entry with `- name:`"),
    ("site: a\nracks:\n- {name: r1, nodes: n1}\n- name: r2\nnodes:\n- {name: n1, rack: r2}",
     "6: node n1 is in two racks: r2 here and r1 in line 3; it can be in one"),
    ("- 1", "1: the file is a list [ ]; write `key: value` lines"),
    ("site: a\nsite: b\nracks: [{name: r}]", "2: site is given twice (before in line 1)"),
    ("site: a\nracks: [{name: r, slots: [x], nodes: n}]",
     '2: "x" is no whole number and no range of them such as 10-27'),
    ("site: a\nracks: [{name: r, nodes: n, gpus_per_node: 2}]\ngpus: [{serial: S, node: n, index: 2}]",
     "3: GPU S has index 2, but node n has 2 GPUs, 0 to 1; correct the index or gpus_per_node"),
    ("", "1: nothing is declared; begin with `racks:` (see producers/inventory/README.md)"),
    ("a: 1\n---\nb: 1", "2: a second document begins here; an inventory is one"),
    ("a: &x [*x]", "1: *x stands for nothing that was given before"),
    ("a: " + "[" * 100_000, "1: more than 32 levels of lists and mappings in each other"),
])  # fmt: skip
def test_what_can_be_wrong(text: str, said: str) -> None:
    assert f"fleet.yaml:{said}" in errors(text)


def test_a_slip_in_a_template_is_one_error_and_not_one_for_each_rack() -> None:
    (only,) = errors("""\
        site: a
        templates: {t: {nodes: "{rack}-n[1-4]", pdu: "pdu-{rack}"}}
        racks: [{name: "r[1-50]", template: t}]
    """)
    assert only.startswith('fleet.yaml:2: node r1-n1 hangs on pdu "pdu-r1"')
    assert only.endswith("(and 199 more like it)")


def test_yaml_that_is_none_says_where() -> None:
    (only,) = errors("site: a\nracks:\n  - name: [r\n")
    assert only.startswith("fleet.yaml:4: this is no YAML")
    assert "must be quoted" in only


def test_bytes_that_are_no_text_say_where() -> None:
    with pytest.raises(InventoryError, match=r"fleet\.yaml:2: byte 0xff is no UTF-8"):
        parse(b"site: a\nracks: \xff", "fleet.yaml")


def test_a_file_is_read_by_its_ending(tmp_path: Path) -> None:
    (tmp_path / "fleet.yml").write_text("\ufeffsite: a\nracks: [{name: r1}]\n", encoding="utf-8")
    assert [rack.name for rack in load(tmp_path / "fleet.yml").racks] == ["r1"]
    with pytest.raises(InventoryError, match="ends in"):
        parse(b"", "fleet.txt")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.yaml")


def test_an_anchor_may_be_used_again() -> None:
    fleet = read("site: a\nracks: [{name: r1, nodes: &n [x1, x2]}]\ngpus: []\n")
    assert [node.name for node in fleet.nodes] == ["x1", "x2"]
    again = read("site: a\nracks:\n- {name: r1, pdus: [p1], pdu: &p p1, nodes: [x1]}\nnodes:\n- {name: x1, pdu: *p}\n")
    assert again.nodes[0].pdu == "p1"
