"""A fleet declared in CSV, as an asset database exports it."""

from __future__ import annotations

from textwrap import dedent

import pytest

from producers.inventory import Inventory, InventoryError, parse


def read(text: str) -> Inventory:
    return parse(dedent(text).encode(), "fleet.csv")


def errors(text: str) -> list[str]:
    with pytest.raises(InventoryError) as caught:
        read(text)
    return caught.value.lines()


def test_one_row_for_each_node_declares_what_it_mentions() -> None:
    fleet = read("""\
        name,site,rack,slot,chassis_serial,leaf_switch,pdu,gpus
        n1,hall-a,r1,1,C1,leaf-1,pdu-1,S1 S2
        n2,hall-a,r1,9,C2,leaf-1,pdu-2,
        n3,hall-a,r2,1,C3,leaf-1,pdu-1,"S3;S4"
    """)
    assert [rack.name for rack in fleet.racks] == ["r1", "r2"]
    assert {(device.kind, device.name) for device in fleet.devices} == {
        ("leaf_switch", "leaf-1"), ("pdu", "pdu-1"), ("pdu", "pdu-2"),
    }  # fmt: skip
    assert [(node.name, node.rack, node.slot) for node in fleet.nodes] == [
        ("n1", "r1", 1),
        ("n2", "r1", 9),
        ("n3", "r2", 1),
    ]
    assert [(gpu.serial, gpu.node, gpu.index) for gpu in fleet.gpus] == [
        ("S1", "n1", 0), ("S2", "n1", 1), ("S3", "n3", 0), ("S4", "n3", 1),
    ]  # fmt: skip


def test_one_row_for_each_gpu_declares_its_node_and_rack() -> None:
    fleet = read("""\
        serial;node;index;rack;site;nvlink_domain
        0001;n1;0;r1;a;d1
        0002;n1;1;r1;a;d1
    """)
    assert [(node.name, node.rack, node.nvlink_domain) for node in fleet.nodes] == [("n1", "r1", "d1")]
    assert [gpu.serial for gpu in fleet.gpus] == ["0001", "0002"]


def test_rows_of_every_kind_in_any_order() -> None:
    fleet = read("""\
        # from the asset database
        kind,name,serial,site,rack,node,index,slot,leaf_switch,pdu,units
        gpu,,S1,,,n1,0,,,,
        node,n1,,,r1,,,1,leaf-1,pdu-1,

        leaf_switch,leaf-1,,,r9,,,,,,
        pdu,pdu-1,,,r1,,,,,,
        cooling,door-1,,,r1,,,,,,
        rack,r1,,a,,,,,,,42
        rack,r9,,a,,,,,,,
    """)
    assert [(rack.name, rack.units) for rack in fleet.racks] == [("r1", 42), ("r9", None)]
    assert {(device.kind, device.name, device.rack) for device in fleet.devices} == {
        ("leaf_switch", "leaf-1", "r9"), ("pdu", "pdu-1", "r1"), ("cooling", "door-1", "r1"),
    }  # fmt: skip


def test_where_the_file_lists_a_kind_all_of_it_must_be_listed() -> None:
    assert errors("""\
        kind,name,site,rack,pdu,leaf_switch
        rack,r1,a,,,
        pdu,pdu-1,,r1,,
        node,n1,,r1,pdu-2,leaf-1
        node,n2,,r2,pdu-1,leaf-1
    """) == [
        'fleet.csv:4: node n1 hangs on pdu "pdu-2", which is not declared; did you mean "pdu-1"?',
        'fleet.csv:5: node n2 is in rack "r2", which is not declared; known are r1',
    ]


def test_every_error_is_named_with_its_line() -> None:
    assert errors("""\
        kind,name,serial,site,rack,node,slot,colour,slot
        node,n1,,a,r1,,1,,
        node,n1,,a,r2,,2,,
        node,n2,,a,r1,,1,,
        node,,,a,r1,,3,,
        gpuu,x,,a,r1,,3,,
        gpu,,S1,,,n9,,,
        gpu,,S1,,,n1,x,,
        node,n3,S7,a,r1,,,,
        node,n4,,b,r1,,,,,,,
    """) == [
        'fleet.csv:1: there are two columns "slot"; remove one',
        'fleet.csv:1: there is no column "colour"; known are chassis_serial, gpus, gpus_per_node, index, kind, '
        "leaf_switch, name, node, nvlink_domain, pdu, rack, serial, site, sku, slot, units, uuid",
        "fleet.csv:3: node n1 is in two racks: r2 here and r1 in line 2; it can be in one",
        "fleet.csv:4: slot 1 of rack r1 is used twice: by n2 and by n1 (line 2); move one",
        "fleet.csv:5: a node has no name; fill that column",
        'fleet.csv:6: there is no kind "gpuu"; did you mean "gpu"?',
        'fleet.csv:7: GPU S1 is in node "n9", which is not declared; known are n1, n2, n3, n4',
        "fleet.csv:8: GPU serial S1 stands twice, in nodes n9 and n1 (before in line 7); a serial is one GPU: correct "
        "one of them",
        'fleet.csv:8: column slot: "x" is no whole number and no range of them such as 10-27',
        "fleet.csv:9: column serial means nothing for a node; it takes name, rack, site, chassis_serial, leaf_switch, "
        "pdu, nvlink_domain, gpus_per_node, slot, sku, gpus",
        "fleet.csv:10: 12 cells, but the header has 9; quote cells with separators",
        "fleet.csv:10: rack r1 has two sites: b here and a in line 2; give one",
    ]


@pytest.mark.parametrize("text", ['name,rack,site\n"n1,r1,a\n', 'name,rack\n"n"1,r\n', "name\n\0\n", "\n\n#\n"])
def test_what_is_no_csv_is_said(text: str) -> None:
    assert errors(text)


def test_a_row_over_several_lines_is_named_by_its_first() -> None:
    assert errors('name,rack,site,sku\nn1,r1,a,"two\nlines"\nn1,r1,a,x\n') == [
        "fleet.csv:4: node n1 is declared twice (before in line 2); remove one"
    ]
