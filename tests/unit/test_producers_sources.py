"""What holds for every source of a node: `producers/source.py` has the contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from producers.agent import sources
from producers.discovery import GpuIdentity, InventorySource, Roster, has_nvidia_gpu, inventory, normal_serial
from producers.kernel_log.events import normal_pci
from producers.settings import AgentSettings
from producers.simulate.nvml import SimulatedNvml
from producers.source import Origin, Source, boot_id
from schemas.catalog import Catalog, load
from schemas.codec import SingleObjectCodec
from schemas.records import GpuSample, HardwareEvent, InventoryRecord, Record

ORIGIN = Origin("site", "rack-7", "node-1", "boot")
XID = "NVRM: Xid (PCI:0000:19:00): 31, pid=1, name=python3, Ch 00000010\n"


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


@pytest.fixture
def node(tmp_path: Path, catalog: Catalog) -> tuple[dict[str, Source], Callable[[], None]]:
    """All sources of a node by name, and what makes each of them have something to say."""
    kernel_log = tmp_path / "kern.log"
    kernel_log.write_text("")
    settings = AgentSettings(rack="rack-7", node="node-1", state_dir=tmp_path, kernel_logs=(kernel_log,))
    nvml = SimulatedNvml(gpus=4)

    def trouble() -> None:
        nvml.gpus[1].lost = True
        nvml.gpus[2].fails["fields"] = 999
        with kernel_log.open("a") as file:
            file.write(XID)

    found = {schedule.source.name: schedule.source for schedule in sources(settings, ORIGIN, catalog, nvml)}
    return found, trouble


NAMES = ("nvml", "kernel_log", "discovery")


def test_every_source_of_a_node_is_held_to_the_contract(node: tuple[dict[str, Source], Callable[[], None]]) -> None:
    assert tuple(node[0]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_records_are_of_this_node_known_to_the_catalogue_and_can_be_sent(
    node: tuple[dict[str, Source], Callable[[], None]], catalog: Catalog, name: str
) -> None:
    found, trouble = node
    codec = SingleObjectCodec()
    records: list[Record] = []

    for tick in range(1, 4):
        for source in found.values():
            if tick == 2 and source is found["nvml"]:
                trouble()
            given = list(source.read(tick * 1000))
            if source.name == name:
                records += given

    assert records
    for record in records:
        assert isinstance(record, GpuSample | HardwareEvent | InventoryRecord)
        assert codec.decode(codec.encode(record), type(record)) is not None
        assert (record.site, record.rack, record.node) == ("site", "rack-7", "node-1")
        if isinstance(record, HardwareEvent):
            assert record.source == name
            assert not catalog.entry(record.kind, record.code).rule.endswith("unknown")
            assert record.event_ms <= record.observed_ms or record.source == "nvml"
            assert record.raw
    assert isinstance(found[name].doing, str)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_trouble_is_told_once(node: tuple[dict[str, Source], Callable[[], None]], name: str) -> None:
    found, trouble = node
    events = []

    for tick in range(1, 30):
        for source in found.values():
            if tick == 5 and source is found["nvml"]:
                trouble()
            events += [r for r in source.read(tick * 1000) if isinstance(r, HardwareEvent) and r.source == name]

    assert len(events) == len({(event.kind, event.gpu) for event in events})


def test_the_inventory_is_sent_at_the_start_on_a_change_and_now_and_then() -> None:
    gpus = [GpuIdentity(index=0, serial="1", pci="0000:19:00"), GpuIdentity(index=1, serial="2", pci="0000:3b:00")]
    source = InventorySource(ORIGIN, AgentSettings(inventory_interval_s=600), lambda: gpus)

    sent = {tick: len(list(source.read(tick * 1000))) for tick in (0, 5, 300, 595)}
    later = {tick: len(list(source.read(tick * 1000))) for tick in (605, 610)}
    gpus.pop()
    changed = {tick: len(list(source.read(tick * 1000))) for tick in (615, 620)}

    assert sent == {0: 3, 5: 0, 300: 0, 595: 0}
    assert later == {605: 3, 610: 0}
    assert changed == {615: 2, 620: 0}


def test_the_inventory_says_what_the_settings_declare_before_what_was_discovered() -> None:
    settings = AgentSettings(slot=7, nvlink_domain="nvl-3", leaf_switch="leaf-1", pdu="pdu-a")
    gpu = GpuIdentity(
        index=0, serial="1655", uuid="GPU-1", pci="0000:19:00", module=3, nvlink_domain="fabric", sku="H100"
    )

    node, record = inventory(ORIGIN, settings, [gpu], seen_ms=5)

    assert (node.component, node.slot, node.nvlink_domain, node.leaf_switch) == ("node:node-1", 7, "nvl-3", "leaf-1")
    assert (record.component, record.nvlink_domain, record.pdu, record.slot) == ("gpu:1655", "nvl-3", "pdu-a", 3)
    assert (record.gpu_uuid, record.gpu_serial, record.pci, record.sku) == ("GPU-1", "1655", "0000:19:00", "H100")


@pytest.mark.parametrize(
    ("said", "serial"),
    [
        ("1655022005478", "1655022005478"),
        ("0", None),
        ("0000000000000", None),
        ("N/A", None),
        ("[N/A]", None),
        ("", None),
        (None, None),
    ],
)
def test_what_boards_without_a_serial_say_is_no_serial(said: str | None, serial: str | None) -> None:
    assert normal_serial(said) == serial


def test_a_pci_address_of_nvml_and_one_of_the_kernel_log_are_the_same() -> None:
    assert normal_pci("00000000:91:00.0") == normal_pci("PCI:0000:91:00") == "0000:91:00"


def test_a_damaged_list_of_known_gpus_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "gpus.json").write_text("{not json")

    roster = Roster(tmp_path / "gpus.json")
    roster.meet([GpuIdentity(index=0, serial="1")], "node-1")

    assert Roster(tmp_path / "gpus.json").known == [GpuIdentity(index=0, serial="1")]


def test_a_gpu_is_seen_on_the_bus_without_a_driver(tmp_path: Path) -> None:
    for number, (vendor, kind) in enumerate([("0x8086", "0x030000"), ("0x10de", "0x0c0330"), ("0x10de", "0x030200")]):
        assert not has_nvidia_gpu(tmp_path)
        device = tmp_path / f"0000:{number:02x}:00.0"
        device.mkdir()
        (device / "vendor").write_text(vendor + "\n")
        (device / "class").write_text(kind + "\n")

    assert has_nvidia_gpu(tmp_path)


def test_without_a_kernel_that_tells_its_boot_each_run_is_a_boot_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text("0c5e2d6e-8a3b-4a51-9d5f-6f1f1c0b7a11\n")

    assert boot_id(tmp_path / "boot_id") == "0c5e2d6e-8a3b-4a51-9d5f-6f1f1c0b7a11"
    assert boot_id(tmp_path / "missing") != boot_id(tmp_path / "missing")
