"""What a node has, as its inventory: when it is sent, what it says, and whose word counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from producers.discovery import GpuIdentity, InventorySource, Roster, has_nvidia_gpu, inventory, normal_serial
from producers.kernel_log.events import normal_pci
from producers.settings import AgentSettings
from producers.source import Origin, boot_id

ORIGIN = Origin("site", "rack-7", "node-1", "boot")


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
