"""The GPU and the host: a GPU that leaves the bus, a link that gets bad, a GPU's own processor that stops answering."""

from __future__ import annotations

from producers.simulate.faults.scene import (
    HOUR_S,
    MINUTE_S,
    Draw,
    Spot,
    lasts,
    log,
    reboot,
    recovery,
    told,
    xid,
)
from producers.simulate.plan import Effect, Part, Plan, Said

_FUNCTIONS = ("76 (GSP_RM_CONTROL) (0x20802a02 0x8)", "103 (GSP_RM_ALLOC) (0x2081 0x4)", "10 (FREE) (0xa55a0210 0x0)")


def gpu_falls_off_bus(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """XID 79, and nothing can be read any more until the node is booted; some say so by their bus errors before."""
    node, gpu = spot.node, spot.one
    warned = draw.random() < 1 / 3
    fails_s = at_s + (lasts(draw, 40 * MINUTE_S, most_s=4 * HOUR_S) if warned else 0.0)
    repaired_s = fails_s + lasts(draw, 50 * MINUTE_S, least_s=12 * MINUTE_S)
    before: tuple[Effect, ...] = ()
    said: list[Said] = []
    if warned:
        before = (_replays(spot, float(draw.integers(200, 4000)), at_s, fails_s),)
        times = sorted(draw.uniform(at_s, fails_s, int(draw.integers(2, 9))))
        said += [_corrected(spot, float(time_s), draw) for time_s in times]
    pci = gpu.pci
    said += [
        log(node, fails_s, f"NVRM: GPU at PCI:{pci}: {gpu.uuid}", part=-1),
        log(node, fails_s, f"NVRM: GPU Board Serial Number: {gpu.serial}", part=-1),
        xid(node, gpu, fails_s, "79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."),
        log(node, fails_s + 0.001, f"NVRM: GPU {pci}.0: GPU has fallen off the bus."),
        log(node, fails_s + 0.002, f"NVRM: GPU {pci}.0: GPU serial number is {gpu.serial}.", part=-1),
        told(node, fails_s + 0.4, "gpu_lost", f"NVML: GPU {gpu.index} ({gpu.serial}): GPU is lost", part=0, gpu=gpu,
             source="nvml"),
    ]  # fmt: skip
    more, dark = reboot(node, repaired_s - 7 * MINUTE_S, repaired_s)
    effects = (
        *before,
        Effect("unreadable", fails_s, repaired_s, (gpu.number,), parts=(0,)),
        Effect("stops", fails_s, repaired_s, (gpu.number,), parts=(0,)),
        Effect("held", fails_s, repaired_s, (node.number,)),
        Effect("stops", repaired_s - 7 * MINUTE_S, repaired_s, spot.gpu_numbers),
        *dark,
    )
    return Plan(at_s, repaired_s, (Part.of_gpu(node, gpu, at_s),), (*said, *more), effects, hard_s=fails_s)


def pcie_degrades(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """Packets are repeated more and more often, and the link trains narrower; work goes on."""
    node, gpu = spot.node, spot.one
    repaired_s = at_s + lasts(draw, 5 * HOUR_S, least_s=30 * MINUTE_S)
    narrow_s = at_s + (repaired_s - at_s) * float(draw.uniform(0.2, 0.7))
    times = sorted(draw.uniform(at_s, repaired_s, int(draw.integers(4, 40))))
    effects = (
        _replays(spot, float(draw.integers(2000, 200_000)), at_s, repaired_s),
        Effect("stands", narrow_s, repaired_s, (gpu.number,), 8.0, name="pcie_width", parts=(0,)),
    )
    said = tuple(_corrected(spot, float(time_s), draw) for time_s in times)
    return Plan(at_s, repaired_s, (Part.of_gpu(node, gpu, at_s),), said, effects)


def gsp_times_out(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """The GPU's system processor stops answering: every call waits, the job hangs and dies, NVML reads nothing."""
    node, gpu = spot.node, spot.one
    repaired_s = at_s + lasts(draw, 45 * MINUTE_S, least_s=15 * MINUTE_S)
    dark_s = repaired_s - 6 * MINUTE_S
    said: list[Said] = []
    at, calls = at_s, 0
    while at < min(dark_s, at_s + 20 * MINUTE_S) and calls < 24:
        pid, function = int(draw.integers(10_000, 4_000_000)), _FUNCTIONS[int(draw.integers(3))]
        words = f"Timeout after 6s of waiting for RPC response from GPU{gpu.index} GSP! Expected function {function}."
        said.append(xid(node, gpu, at, f"119, pid={pid}, name=nvidia-smi, {words}"))
        at += 6.0 + float(draw.exponential(40.0))
        calls += 1
    if draw.random() < 1 / 3:
        said.append(xid(node, gpu, at_s + 1.5, "120, pid='<unknown>', name=<unknown>, GSP task timeout @ pc:0x4bc4a2"))
    said.append(recovery(node, gpu, at_s + 14.0, "None", "Node Reboot Required"))
    said.append(log(node, at_s + 90.0, f"NVRM: Rate limiting GSP RPC error prints for GPU at PCI:{gpu.pci}"))
    more, dark = reboot(node, dark_s, repaired_s)
    effects = (
        Effect("unreadable", at_s + 8.0, repaired_s, (gpu.number,), parts=(0,)),
        Effect("stops", at_s + 25.0, repaired_s, (gpu.number,), parts=(0,)),
        Effect("held", at_s, repaired_s, (node.number,)),
        Effect("stops", dark_s, repaired_s, spot.gpu_numbers),
        *dark,
    )
    root = Part.of_gpu(node, gpu, at_s)
    return Plan(at_s, repaired_s, (root,), (*said, *more), effects, hard_s=at_s + 25.0)


def _replays(spot: Spot, total: float, begin_s: float, end_s: float) -> Effect:
    return Effect("count", begin_s, end_s, (spot.one.number,), total, ramp_s=end_s - begin_s, name="pcie_replays",
                  parts=(0,), visible=50.0)  # fmt: skip


def _corrected(spot: Spot, at_s: float, draw: Draw) -> Said:
    layer = ("Physical Layer, (Receiver ID)", "Data Link Layer, (Transmitter ID)")[int(draw.integers(2))]
    return log(spot.node, at_s, f"nvidia {spot.one.pci}.0: PCIe Bus Error: severity=Corrected, type={layer}")
