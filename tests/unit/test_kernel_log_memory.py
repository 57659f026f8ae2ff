"""What the XIDs about GPU memory carry, in lines of real hosts and in the forms that the driver prints."""

from __future__ import annotations

import pytest

from producers.kernel_log import decode
from schemas.catalog import load

CATALOG = load()


def details(message: str) -> dict[str, str]:
    (event,) = decode([(1, f"NVRM: Xid (PCI:0000:55:00): {message}")])
    return event.details


@pytest.mark.parametrize(("message", "told"), [
    ("48, An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer at physAddr 0xe9b9107e0 "
     "partition 3, subpartition 0.",
     {"location": "framebuffer", "address": "0xe9b9107e0", "partition": "3", "subpartition": "0"}),
    ("48, An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer at partition 4, "
     "subpartition 1", {"location": "framebuffer", "partition": "4", "subpartition": "1"}),
    ("48, An uncorrectable ECC error has been detected on GPU in GSP-RISCV location 18", {"location": "GSP-RISCV"}),
    ("48, Double Bit ECC Error at physAddr 0x0000_0000_0123_4567, partition 1, subpartition 2",
     {"address": "0x1234567", "partition": "1", "subpartition": "2"}),
    ("48, pid='<unknown>', name=<unknown>, DBE (double bit error)", {}),
    ("63, pid='<unknown>', name=<unknown>, Row Remapper: New row (0x00000012bac1c3e0) marked for remapping, reset gpu "
     "to activate.", {"repair": "row", "address": "0x12bac1c3e0"}),
    ("63, pid='<unknown>', name='<unknown>', Row Remapper: new row (ffff88803490344) marked for reaping: reset gpu to "
     "activate.", {"repair": "row", "address": "0xffff88803490344"}),
    ("63, Row Remapper: New row marked for remapping, reset gpu to activate.", {"repair": "row"}),
    ("63, Bank Remapper: New bank marked for remapping, reset gpu to activate.", {"repair": "bank"}),
    ("63, Dynamic Page Retirement: New page retired, reboot to activate (0x00000000000a3f15).",
     {"repair": "page", "page": "0xa3f15"}),
    ("64, Row Remapper Error: (0x00000012bac1c3e0) - All reserved rows for bank are remapped",
     {"repair": "row", "address": "0x12bac1c3e0", "failure": "All reserved rows for bank are remapped"}),
    ("64, DRAM Retirement failed due to no spare for retirement at 0x00000012bac1c3e0",
     {"repair": "dram", "address": "0x12bac1c3e0", "failure": "no spare for retirement"}),
    ("64, Row Remapper: (0x00000012bac1c3e0) - Attempting to remap a row that is already pending remapping. Remapping "
     "will occur when the GPU is reset",
     {"repair": "row", "address": "0x12bac1c3e0", "variant": "already_pending",
      "failure": "Attempting to remap a row that is already pending remapping"}),
    ("64, Dynamic Page Retirement: FATAL, unable to retire page (0x3fdf5e)", {"repair": "page", "page": "0x3fdf5e"}),
    ("92, Disabling ECC single-bit error interrupts in framebuffer at logical partition 5, due to high error rate",
     {"location": "framebuffer", "partition": "5"}),
    ("92, SM SBE interrupt storm detected", {"location": "SM"}),
    ("94, pid=7062, Contained: CE User Channel (0x9). RST: No, D-RST: No",
     {"pid": "7062", "containment": "contained", "location": "CE User Channel", "engine": "0x9", "reset": "No",
      "drain_and_reset": "No"}),
    ("94, Contained: LTC RSTG (0x1, 0x3). RST: No, D-RST: Yes",
     {"containment": "contained", "location": "LTC RSTG", "partition": "1", "slice": "3", "reset": "No",
      "drain_and_reset": "Yes", "variant": "reset_required"}),
    ("94, pid=789101, name=process, Contained ECC error.",
     {"pid": "789101", "name": "process", "containment": "contained"}),
    ("95, pid=7062, Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No",
     {"pid": "7062", "containment": "uncontained", "location": "LTC TAG", "partition": "2", "slice": "0",
      "reset": "Yes", "drain_and_reset": "No"}),
    ("95, Uncontained: DRAM (0x10, 0x3). physAddr: 0x18f31d80 RST: Yes, D-RST: No",
     {"containment": "uncontained", "location": "DRAM", "partition": "16", "subpartition": "3", "address": "0x18f31d80",
      "reset": "Yes", "drain_and_reset": "No"}),
    ("95, Uncontained: FBHUB. RST: Yes, D-RST: No",
     {"containment": "uncontained", "location": "FBHUB", "reset": "Yes", "drain_and_reset": "No"}),
    ("140, An uncorrectable ECC error detected (possible firmware handling failure) DRAM:1, LTC:0, MMU:0, PCIE:2",
     {"dram": "1", "ltc": "0", "mmu": "0", "pcie": "2"}),
    ("171, GDDR, Uncorrectable DRAM error in FBPA 3 subpartition 0 physAddr 0xe9b9107e0",
     {"location": "GDDR", "fbpa": "3", "subpartition": "0", "address": "0xe9b9107e0"}),
    ("172, GSP-RISCV, Uncorrectable SRAM Error in location 3", {"location": "GSP-RISCV"}),
])  # fmt: skip
def test_what_a_memory_error_tells_is_kept(message: str, told: dict[str, str]) -> None:
    assert details(message) == told


def test_the_lines_of_one_error_name_the_same_address() -> None:
    double = details("48, An uncorrectable double bit error … in the framebuffer at physAddr 0x18f31d80 partition 16")
    assert double["address"] == details("63, Row Remapper: New row (0x0000000018f31d80) marked")["address"]


def test_what_a_program_calls_itself_tells_nothing_about_memory() -> None:
    assert details("94, pid=1, name=RST: Yes partition 3, Ch 00000008") == {
        "pid": "1", "name": "RST: Yes partition 3", "channel": "00000008",
    }  # fmt: skip


def test_a_contained_error_that_the_driver_wants_reset_asks_for_a_reset_and_still_wakes_nobody() -> None:
    plain, marked = CATALOG.entry("xid", 94), CATALOG.entry("xid", 94, "reset_required")
    assert (plain.action, marked.action) == ("restart_app", "reset_gpu")
    assert marked.severity == "warning"


def test_a_row_that_already_waits_is_no_failed_repair() -> None:
    assert CATALOG.entry("xid", 64).fault_class == "row_remap_failure"
    waiting = CATALOG.entry("xid", 64, "already_pending")
    assert (waiting.severity, waiting.action, waiting.fault_class) == ("warning", "reset_gpu", "row_remap")
