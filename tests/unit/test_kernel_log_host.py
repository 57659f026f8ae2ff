"""Lines about the rest of the node: network adapters, PCIe, CPUs, memory, disks, a kernel that hangs."""

from __future__ import annotations

import pytest

from producers.kernel_log import GpuMap, KernelEvent, decode
from producers.kernel_log.decode import Decoder
from schemas.catalog import load

CATALOG = load()


def events(*lines: str, gpus: GpuMap | None = None) -> list[KernelEvent]:
    return list(decode(enumerate(lines, start=1), Decoder(gpus=gpus)))


def judged(line: str) -> tuple[str, str, str, str]:
    (event,) = events(line)
    entry = CATALOG.entry(event.kind, event.code, event.details.get("variant"))
    assert entry.rule != "event.unknown"
    return entry.rule, entry.severity, entry.action, CATALOG.faults[entry.fault_class].component_kind


@pytest.mark.parametrize(("line", "rule", "severity", "action", "component"), [
    ("mlx5_core 0000:9a:00.0 ib0: Link down", "link_flap", "warning", "check_hardware", "port"),
    ("mlx5_core 0000:9a:00.0 ib0: Link up", "link_up", "info", "none", "gpu"),
    ("infiniband mlx5_0: Port: 1 Link DOWN", "link_flap", "warning", "check_hardware", "port"),
    ("infiniband mlx5_0: Port: 1 Link ACTIVE", "link_up", "info", "none", "gpu"),
    ("mlx5_core 0000:5e:00.0: Port module event: module 0, Cable unplugged", "cable.unplugged", "warning",
     "check_hardware", "port"),
    ("mlx5_core 0000:5e:00.0: Port module event: module 0, Cable plugged", "cable.plugged", "info", "none", "gpu"),
    ("mlx5_core 0000:5e:00.0: Port module event[error]: module 0, Cable error, High Temperature", "cable", "warning",
     "check_hardware", "port"),
    ("infiniband mlx5_0: mlx5_handle_error_cqe:332:(pid 0): WC error: 12, Message: transport retry counter exceeded",
     "cqe_error", "warning", "none", "port"),
    ("infiniband mlx5_0: dump_cqe:273:(pid 0): dump error cqe", "cqe_error", "warning", "none", "port"),
    ("mlx5_core 0000:3b:00.1 eth1: Error cqe on cqn 0x817, ci 0x8, qn 0x1dbb, opcode 0xd, syndrome 0x1, vendor "
     "syndrome 0x68", "cqe_error", "warning", "none", "port"),
    ("mlx5_core 0000:5e:00.0: poll_health:737:(pid 0): device's health compromised - reached miss count",
     "adapter_health", "critical", "reboot_node", "port"),
    ("mlx5_core 0000:5e:00.0: poll_health:825:(pid 0): Fatal error 1 detected", "adapter_health", "critical",
     "reboot_node", "port"),
    ("mlx5_core 0000:5e:00.0: print_health_info:430:(pid 0): Health issue observed, firmware internal error, "
     "severity(3) ERROR:", "adapter_health", "critical", "reboot_node", "port"),
    ("mlx5_core 0000:5e:00.0: wait_func:1195:(pid 1967079): ACCESS_REG(0x805) timeout. Will cause a leak of a command "
     "resource", "adapter_health", "critical", "reboot_node", "port"),
    ("nvidia 0000:01:00.0: PCIe Bus Error: severity=Corrected, type=Physical Layer, (Receiver ID)", "pcie_aer", "info",
     "none", "gpu"),
    ("nvidia 0000:01:00.0: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, (Requester ID)",
     "pcie_aer.fatal", "critical", "reboot_node", "gpu"),
    ("mlx5_core 0000:5e:00.0: PCIe Bus Error: severity=Uncorrectable (Non-Fatal), type=Transaction Layer, (Receiver "
     "ID)", "pcie_aer_host.nonfatal", "warning", "drain_and_diagnose", "node"),
    ("pcieport 0000:00:01.4: PCIe Bus Error: severity=Correctable, type=Data Link Layer, (Transmitter ID)",
     "pcie_aer_host", "info", "none", "node"),
    ("pcieport 0000:00:01.4: DPC: containment event, status:0x1f01 source:0x0000", "pcie_dpc", "warning",
     "drain_and_diagnose", "node"),
    ("pcieport 0015:00:00.0: DPC: containment event, status:0x200d, ERR_FATAL received from 0015:01:00.0", "pcie_dpc",
     "warning", "drain_and_diagnose", "node"),
    ("pcieport 0000:00:01.4: AER: device recovery failed", "pcie_dpc.lost", "critical", "reboot_node", "node"),
    ("pcieport 0000:00:01.1: pciehp: Slot(5): Link Down", "pcie_slot", "warning", "check_hardware", "node"),
    ("pcieport 0000:00:01.1: pciehp: Slot(0-1): Card not present", "pcie_slot", "warning", "check_hardware", "node"),
    ("mce: [Hardware Error]: CPU 12: Machine Check: 0 Bank 7: 8c00004000010092", "machine_check.corrected", "info",
     "none", "node"),
    ("mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 1: bd80000000100134", "machine_check.uncorrected", "warning",
     "drain_and_diagnose", "node"),
    ("mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 3: be00000000800400", "machine_check.fatal",
     "critical", "drain_and_diagnose", "node"),
    ("mce: [Hardware Error]: Machine check events logged", "machine_check.logged", "info", "none", "gpu"),
    ("{1}[Hardware Error]: event severity: fatal", "machine_check.fatal", "critical", "drain_and_diagnose", "node"),
    ("{2}[Hardware Error]: event severity: corrected", "machine_check.corrected", "info", "none", "node"),
    ("[Hardware Error]: Uncorrected, software restartable error.", "machine_check.uncorrected", "warning",
     "drain_and_diagnose", "node"),
    ("[Hardware Error]: Corrected error, no action required.", "machine_check.corrected", "info", "none", "node"),
    ("EDAC MC0: 1 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0 (channel:1 slot:0 page:0x12345 offset:0x0 "
     "grain:32 syndrome:0x0)", "dimm_error.corrected", "info", "none", "node"),
    ("EDAC MC1: 1 UE memory read error on CPU_SrcID#1_MC#0_Chan#0_DIMM#0 (channel:0 slot:0)", "dimm_error.uncorrected",
     "critical", "drain_and_diagnose", "node"),
    ("Memory failure: 0x3d9b1c2: recovery action for dirty LRU page: Recovered", "dimm_error.contained", "warning",
     "drain_and_diagnose", "node"),
    ("Memory failure: 0x3d9b1c2: recovery action for reserved kernel page: Ignored", "dimm_error.uncorrected",
     "critical", "drain_and_diagnose", "node"),
    ("mce: CPU5: Package temperature above threshold, cpu clock throttled (total events = 1)", "cpu_throttled",
     "warning", "check_hardware", "node"),
    ("CPU5: Core temperature is above threshold, cpu clock is throttled (total events = 1)", "cpu_throttled", "warning",
     "check_hardware", "node"),
    ("nvme nvme0: I/O 128 QID 4 timeout, aborting", "nvme_timeout", "warning", "none", "node"),
    ("nvme nvme0: I/O tag 128 (1080) opcode 0x2 (I/O Cmd) QID 4 timeout, aborting req_op:READ(0) size:4096",
     "nvme_timeout", "warning", "none", "node"),
    ("nvme nvme2: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0x10", "nvme_reset", "warning",
     "drain_and_diagnose", "node"),
    ("nvme nvme2: Disabling device after reset failure: -19", "nvme_lost", "critical", "check_hardware", "node"),
    ("nvme nvme1: Removing after probe failure status: -19", "nvme_lost", "critical", "check_hardware", "node"),
    ("nvme nvme1: Device not ready; aborting reset, CSTS=0x1", "nvme_lost", "critical", "check_hardware", "node"),
    ("nvme0n1: I/O Cmd(0x2) @ LBA 1048576, 8 blocks, I/O Error (sct 0x2 / sc 0x81) MORE DNR", "disk_error", "warning",
     "drain_and_diagnose", "node"),
    ("critical medium error, dev nvme0n1, sector 1048576 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2",
     "disk_error", "warning", "drain_and_diagnose", "node"),
    ("blk_update_request: I/O error, dev sda, sector 123456 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 0",
     "disk_error", "warning", "drain_and_diagnose", "node"),
    ("Out of memory: Killed process 1234 (python3) total-vm:8123kB, anon-rss:7000kB, file-rss:0kB, shmem-rss:0kB, "
     "UID:0 pgtables:100kB oom_score_adj:0", "oom_kill", "warning", "restart_app", "node"),
    ("Out of memory: Kill process 1234 (python) score 987 or sacrifice child", "oom_kill", "warning", "restart_app",
     "node"),
    ("Memory cgroup out of memory: Killed process 1234 (python3) total-vm:8123kB, anon-rss:7000kB", "oom_kill.cgroup",
     "info", "none", "gpu"),
    ("watchdog: BUG: soft lockup - CPU#12 stuck for 22s! [nvidia-smi:1234]", "soft_lockup", "warning", "reboot_node",
     "node"),
    ("NMI watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [kworker/3:1:99]", "soft_lockup", "warning", "reboot_node",
     "node"),
    ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 12", "hard_lockup", "critical", "reboot_node", "node"),
    ("rcu: INFO: rcu_sched self-detected stall on CPU", "rcu_stall", "warning", "reboot_node", "node"),
    ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "rcu_stall", "warning", "reboot_node", "node"),
    ("INFO: task nvidia-smi:1234 blocked for more than 120 seconds.", "hung_task", "warning", "drain_and_diagnose",
     "node"),
    ("Kernel panic - not syncing: Fatal machine check", "kernel_panic", "critical", "reboot_node", "node"),
    ("BUG: unable to handle page fault for address: ffffb3a1c0a01000", "kernel_oops", "critical", "reboot_node",
     "node"),
    ("kernel BUG at mm/slub.c:380!", "kernel_oops", "critical", "reboot_node", "node"),
    ("general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1] SMP NOPTI",
     "kernel_oops", "critical", "reboot_node", "node"),
])  # fmt: skip
def test_a_line_of_the_node_is_judged(line: str, rule: str, severity: str, action: str, component: str) -> None:
    assert judged(f"[ 1234.567890] {line}") == (f"event.{rule}", severity, action, component)


@pytest.mark.parametrize(("line", "details"), [
    ("infiniband mlx5_0: mlx5_handle_error_cqe:332:(pid 0): WC error: 4, Message: local protection error",
     {"interface": "mlx5_0", "status": "4", "reason": "local protection error"}),
    ("mlx5_core 0000:3b:00.1 eth1: Error cqe on cqn 0x817, ci 0x8, qn 0x1dbb, opcode 0xd, syndrome 0x1, vendor "
     "syndrome 0x68", {"interface": "eth1", "queue": "0x817", "status": "0x1"}),
    ("mlx5_core 0000:5e:00.0: Port module event: module 0, Cable unplugged",
     {"interface": "0000:5e:00", "module": "0", "reason": "Cable unplugged", "variant": "unplugged"}),
    ("EDAC MC2: 5 CE memory read error on CPU_SrcID#1_MC#0_Chan#0_DIMM#0 (channel:0 slot:0 page:0x175321b)",
     {"controller": "MC2", "errors": "5", "what": "memory read error", "module": "CPU_SrcID#1_MC#0_Chan#0_DIMM#0",
      "variant": "corrected"}),
    ("mce: [Hardware Error]: CPU 12: Machine Check: 0 Bank 7: 8c00004000010092",
     {"cpu": "12", "bank": "7", "status": "8c00004000010092", "variant": "corrected"}),
    ("nvme nvme0: I/O 128 QID 4 timeout, reset controller",
     {"device": "nvme0", "queue": "4", "done": "reset controller"}),
    ("Memory cgroup out of memory: Killed process 1234 (python3) total-vm:8123kB",
     {"process": "python3", "pid": "1234", "variant": "cgroup"}),
    ("watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [kworker/3:1:99]",
     {"cpu": "3", "seconds": "23", "process": "kworker/3:1", "pid": "99"}),
    ("INFO: task khugepaged:512 blocked for more than 241 seconds.",
     {"process": "khugepaged", "pid": "512", "seconds": "241"}),
])  # fmt: skip
def test_what_a_line_of_the_node_tells_is_kept(line: str, details: dict[str, str]) -> None:
    (event,) = events(line)
    assert event.details == details


@pytest.mark.parametrize("line", [
    "mlx5_core 0000:5e:00.0: firmware version: 28.39.1002",
    "mlx5_core 0000:5e:00.0: E-Switch: Total vports 10, per vport: max uc(128) max mc(2048)",
    "mlx5_core 0000:5e:00.0: MLX5E: StrdRq(1) RqSz(8) StrdSz(2048) RxCqeCmprss(0 enhanced)",
    "veth12ab: Link up",
    "pcieport 0000:00:01.0: AER: enabled with IRQ 122",
    "pcieport 0000:00:01.0: DPC: enabled with IRQ 122",
    "pcieport 0000:00:01.0: AER: device recovery successful",
    "pcieport 0000:00:01.0: PME: Signaling with IRQ 122",
    "pcieport 0000:00:01.1: pciehp: Slot(5): Card present",
    "nvidia 0000:01:00.0:   device [10de:2330] error status/mask=00000001/0000a000",
    "mce: CPU supports 32 MCE banks",
    "mce: [Hardware Error]: TSC 0 ADDR 175321bec0 MISC 200001c080801086",
    "mce: CPU5: Package temperature/speed normal (total events = 1)",
    "EDAC MC: Ver: 3.0.0",
    "EDAC skx MC2: HANDLING MCE MEMORY ERROR",
    "EDAC sbridge: Driver loaded.",
    "nvme nvme0: pci function 0000:34:00.0",
    "nvme nvme0: 32/0/0 default/read/poll queues",
    "nvme nvme0: Shutdown timeout set to 8 seconds",
    " nvme0n1: p1 p2 p3",
    "I/O error, dev fd0, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0",
    "I/O error, dev loop3, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0",
    "python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
    "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),task=python3,pid=1234,uid=0",
    "oom_reaper: reaped process 1234 (python3), now anon-rss:0kB",
    "watchdog: watchdog0: watchdog did not stop!",
    "NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
    "\"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\" disables this message.",
    "rcu: Hierarchical SRCU implementation.",
    "traps: python3[1234] general protection fault ip:7f0 sp:7f1 error:0 in libc.so.6",
    "BUG: this is what a program wrote into the log",
    "systemd[1]: Started Kernel panic notifier.",
])  # fmt: skip
def test_what_is_no_trouble_of_the_node_is_silent(line: str) -> None:
    assert events(f"[ 1234.567890] {line}") == []


def test_one_failed_work_request_is_one_event_though_the_driver_dumps_it_too() -> None:
    found = events(
        "infiniband mlx5_0: mlx5_handle_error_cqe:332:(pid 0): WC error: 4, Message: local protection error",
        "infiniband mlx5_0: dump_cqe:272:(pid 0): dump error cqe",
        "00000000: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
        "infiniband mlx5_1: dump_cqe:272:(pid 0): dump error cqe",
    )
    assert [(event.line, event.details["interface"]) for event in found] == [(1, "mlx5_0"), (4, "mlx5_1")]


def test_a_pcie_error_of_a_known_gpu_is_the_gpus_whatever_driver_holds_it() -> None:
    gpus = GpuMap()
    gpus.tell("0000:01:00.0", "1650124014249")
    line = "pci 0000:01:00.0: PCIe Bus Error: severity=Corrected, type=Physical Layer, (Receiver ID)"
    (event,) = events(line, gpus=gpus)
    assert (event.kind, event.gpu) == ("pcie_aer", "1650124014249")
    (event,) = events(line)
    assert (event.kind, event.gpu) == ("pcie_aer_host", None)
