"""Kernel lines about the rest of the node: CPUs and memory, disks, a kernel that hangs or runs out of memory.

The forms are those of the kernel's own sources: mce/core.c, edac_mc.c, ghes.c, nvme/host/pci.c, block/blk-core.c,
oom_kill.c, watchdog.c, hung_task.c, rcu/tree_stall.h, panic.c; older spellings beside newer ones.
"""

from __future__ import annotations

from producers.kernel_log.texts import ADDRESS, Text, text

_GIVEN_UP = (
    r"(?:Removing after probe failure|Disabling device after reset failure)(?: status)?: -?[0-9]{1,4}"
    r"|Device not ready; aborting \w{1,20}\b|failed to mark controller \w{1,12}\b"
)
_PROCESS = r"(?P<process>[^\[\]]{1,40}?)"

HOST_TEXTS: tuple[Text, ...] = (
    text(
        "machine_check",
        "Machine Check",
        r"CPU (?P<cpu>[0-9]{1,6}): Machine Check(?: Exception)?: +[0-9a-f]{1,16} Bank (?P<bank>[0-9]{1,4}): "
        r"(?P<status>[0-9a-f]{16})",
    ),
    text("machine_check", "Machine check events", r"Machine check events (?P<severity>logged)"),
    text("machine_check", "event severity:", r"event severity: (?P<severity>fatal|recoverable|corrected)"),
    text(
        "machine_check",
        "ardware Error]: ",
        r"Hardware Error\]: (?P<severity>Corrected|Deferred|Uncorrected|System Fatal)(?:,[\w ]{1,40})? error\b",
    ),
    text(
        "dimm_error",
        "EDAC ",
        r"EDAC (?P<controller>MC[0-9]{1,4}): (?P<errors>[0-9]{1,9}) (?P<severity>CE|UE) (?P<what>[\w/ -]{1,60}?) on "
        r"(?P<module>(?:unknown memory|any memory|\S{1,80}))",
    ),
    text(
        "dimm_error",
        "Memory failure: ",
        r"Memory failure: (?P<page>0x[0-9a-f]{1,16}): recovery action for (?P<what>[\w -]{1,60}): "
        r"(?P<severity>Recovered|Delayed|Ignored|Failed)",
    ),
    text(
        "cpu_throttled",
        "above threshold",
        r"CPU(?P<cpu>[0-9]{1,6}): (?P<what>Core|Package) temperature (?:is )?above threshold, "
        r"cpu clock(?: is)? throttled",
    ),
    text(
        "nvme_timeout",
        "timeout, ",
        r"nvme (?P<device>nvme[0-9]{1,5}): I/O (?:tag )?[0-9]{1,6}(?: \([0-9a-f]{1,8}\))?.{0,40}? "
        r"QID (?P<queue>[0-9]{1,6}) timeout, (?P<done>aborting|reset controller|disable controller|completion polled)",
    ),
    text(
        "nvme_reset",
        "controller is down; will reset",
        r"nvme (?P<device>nvme[0-9]{1,5}): controller is down; will reset(?:: CSTS=(?P<status>0x[0-9a-f]{1,8}))?",
    ),
    text("nvme_lost", "nvme", rf"nvme (?P<device>nvme[0-9]{{1,5}}): (?P<reason>{_GIVEN_UP})"),
    text(
        "disk_error",
        "rror, dev ",
        r"(?P<what>critical (?:medium|target) error|I/O error), dev (?P<device>(?:nvme|sd|vd|xvd)[a-z0-9]{1,12}), "
        r"sector (?P<sector>[0-9]{1,20})",
    ),
    text(
        "disk_error",
        " @ LBA ",
        r"(?P<device>nvme[0-9]{1,5}(?:c[0-9]{1,5})?n[0-9]{1,5}): .{1,40}? @ LBA (?P<sector>[0-9]{1,20}), "
        r"[0-9]{1,9} blocks, (?P<what>[\w /-]{1,60}?) \(sct",
    ),
    text(
        "oom_kill",
        "ut of memory: Kill",
        r"(?P<severity>Memory cgroup )?[Oo]ut of memory: Kill(?:ed)? process (?P<pid>[0-9]{1,10}),? "
        r"\((?P<process>[^()]{1,40})\)",
    ),
    text(
        "soft_lockup",
        "soft lockup",
        rf"BUG: soft lockup - CPU#(?P<cpu>[0-9]{{1,6}}) stuck for (?P<seconds>[0-9]{{1,6}})s!"
        rf"(?: \[{_PROCESS}:(?P<pid>[0-9]+)\])?",
    ),
    text("hard_lockup", "hard LOCKUP", r"hard LOCKUP on cpu (?P<cpu>[0-9]{1,6})"),
    text("rcu_stall", "etected stall", r"INFO: (?P<what>rcu_\w{1,20}) (?:self-detected stall|detected stalls?) on CPU"),
    text(
        "hung_task",
        "blocked for more than",
        r"INFO: task (?P<process>[^\n]{1,40}?):(?P<pid>[0-9]{1,10}) blocked for more than "
        r"(?P<seconds>[0-9]{1,9}) seconds",
    ),
    text("kernel_panic", "Kernel panic - not syncing", r"Kernel panic - not syncing: (?P<reason>.{1,120})"),
    text(
        "kernel_oops",
        "BUG: ",
        r"BUG: (?P<reason>unable to handle .{1,60}|kernel NULL pointer dereference.{0,60}|Bad page \w{1,10}.{0,60})",
    ),
    text("kernel_oops", "kernel BUG at", r"kernel BUG at (?P<reason>.{1,80})!"),
    text("kernel_oops", "general protection fault", r"general protection fault(?:,|:) (?P<reason>.{1,60})"),
    text(
        "pcie_dpc",
        "DPC: containment event",
        rf"(?P<driver>[\w-]{{1,32}}) {ADDRESS}: DPC: containment event, status:(?P<status>0x[0-9a-f]{{1,8}})"
        r"(?:,? (?:source:|ERR_\w{1,10} received from )(?P<origin>[0-9a-fx:.]{1,16}))?",
    ),
    text(
        "pcie_dpc",
        "recovery failed",
        rf"(?P<driver>[\w-]{{1,32}}) {ADDRESS}: AER: device (?P<severity>recovery failed)",
    ),
    text(
        "pcie_slot",
        "): ",
        rf"(?P<driver>pcieport) {ADDRESS}: pciehp: Slot\((?P<slot>[\w-]{{1,12}})\): "
        r"(?P<reason>Link Down|Card not present|Card removed)",
    ),
)
HOST_NEEDLES: tuple[str, ...] = (
    "ardware Error]", "EDAC ", "Memory failure: ", "above threshold", "nvme", "rror, dev ", "ut of memory: Kill",
    "BUG: ", "BUG at", "hard LOCKUP", "etected stall", "blocked for more than", "Kernel panic", "general protection",
    "pcieport",
)  # fmt: skip
"""One of these is in each of these lines."""

_UNCORRECTED, _CORRUPT = 1 << 61, 1 << 57
_WORDS = {
    "ce": "corrected", "ue": "uncorrected", "deferred": "uncorrected", "recoverable": "uncorrected",
    "system fatal": "fatal", "recovered": "contained", "delayed": "contained", "ignored": "uncorrected",
    "failed": "uncorrected", "memory cgroup": "cgroup", "recovery failed": "lost",
}  # fmt: skip


def variant_of(kind: str, details: dict[str, str]) -> str | None:
    """The catalogue's variant: what a line calls severity, in the catalogue's words."""
    if kind == "machine_check" and "status" in details:
        # bits 61 (UC) and 57 (PCC) of IA32_MCi_STATUS, the same on Intel and AMD
        status = int(details["status"], 16)
        return "fatal" if status & _CORRUPT else "uncorrected" if status & _UNCORRECTED else "corrected"
    if "severity" not in details:
        return None
    word = details.pop("severity").strip().lower()
    return _WORDS.get(word, word.replace("-", ""))
