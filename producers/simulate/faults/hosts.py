"""Nodes, and what watches them: silence, a hung probe, a clock that is off."""

from __future__ import annotations

from producers.simulate.faults.scene import HOUR_S, MINUTE_S, Draw, Spot, back, lasts, log, told
from producers.simulate.plan import Effect, Part, Plan, Said

_LAST_WORDS = (
    "Kernel panic - not syncing: Fatal exception in interrupt",
    "mce: [Hardware Error]: CPU 40: Machine Check Exception: 5 Bank 6: bb80000000000c0f",
    "watchdog: BUG: soft lockup - CPU#12 stuck for 26s! [kworker/12:1:3817]",
)


def node_goes_silent(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """A node stops, some with last words; it boots again when somebody has been there, or by itself."""
    node = spot.node
    up_s = at_s + lasts(draw, 35 * MINUTE_S, least_s=6 * MINUTE_S)
    said: list[Said] = []
    if draw.random() < 0.5:
        said.append(log(node, at_s - 0.01, _LAST_WORDS[int(draw.integers(len(_LAST_WORDS)))]))
    said.append(back(node, up_s))
    effects = (
        Effect("dark", at_s, up_s, (node.number,), parts=(0,)),
        Effect("stops", at_s, up_s, spot.gpu_numbers, parts=(0,)),
        Effect("held", at_s, up_s, (node.number,)),
    )
    return Plan(at_s - 0.01, up_s, (Part.of_node(node, at_s - 0.01),), tuple(said), effects, hard_s=at_s)


def probe_hangs(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """A call into NVML does not return: the node goes on, but nobody sees its GPUs."""
    node = spot.node
    hangs_s = lasts(draw, 4 * MINUTE_S, least_s=20.0, most_s=2 * HOUR_S)
    gpu = node.gpus[int(draw.integers(len(node.gpus)))]
    doing = f"reading power_watts of GPU {gpu.index}"
    over_s = at_s + hangs_s
    said = (
        told(node, at_s + 1.0, "source_failed", f"nvml hangs for 1.0 s: {doing}", part=0,
             details={"source": "nvml", "hangs_s": "1.0", "doing": doing}),
        told(node, over_s, "source_recovered", f"nvml can be read again, after a read of {hangs_s:.1f} s",
             details={"source": "nvml", "took_s": f"{hangs_s:.1f}"}),
    )  # fmt: skip
    effect = Effect("hung", at_s, over_s, (node.number,), parts=(0,))
    return Plan(at_s, over_s, (Part.of_node(node, at_s),), said, (effect,))


def clock_skews(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """The clock of a node jumps and stays off until it is set again: everything it sends bears wrong times."""
    over_s = at_s + lasts(draw, 3 * HOUR_S, least_s=20 * MINUTE_S)
    seconds = (7, 45, 600, 3600, 10_800)[int(draw.integers(5))] * (1 if draw.random() < 0.5 else -1)
    effect = Effect("skew_ms", at_s, over_s, (spot.node.number,), seconds * 1000.0, parts=(0,))
    return Plan(at_s, over_s, (Part.of_node(spot.node, at_s),), (), (effect,))
