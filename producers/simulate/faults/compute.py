"""A GPU that computes slowly, or wrongly, and says nothing about it."""

from __future__ import annotations

from producers.simulate.faults.scene import HOUR_S, MINUTE_S, Draw, Spot, lasts, told
from producers.simulate.plan import Effect, Part, Plan


def gpu_runs_slow(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """Clocks that are low without a throttle reason; whoever waits for this GPU is slow with it."""
    repaired_s = at_s + lasts(draw, 3 * HOUR_S, least_s=20 * MINUTE_S)
    speed = float(draw.uniform(0.45, 0.75))
    effect = Effect("clock", at_s, repaired_s, (spot.one.number,), speed, parts=(0,))
    return Plan(at_s, repaired_s, (Part.of_gpu(spot.node, spot.one, at_s),), (), (effect,))


def silent_data_corruption(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """Wrong results that no hardware notices; a diagnostic between two jobs does, hours later."""
    node, gpu = spot.node, spot.one
    found_s = at_s + lasts(draw, 3 * HOUR_S, least_s=20 * MINUTE_S)
    repaired_s = found_s + lasts(draw, 4 * HOUR_S, least_s=30 * MINUTE_S)
    test = ("targeted_stress", "diagnostic", "memtest")[int(draw.integers(3))]
    text = f"dcgmi diag: {test} on GPU {gpu.index} ({gpu.serial}) failed: results differ between two identical runs"
    event = told(node, found_s, "diag_fault", text, part=0, gpu=gpu, source="dcgm_diag",
                 details={"test": test, "result": "fail"})  # fmt: skip
    effects = (
        Effect("stops", found_s - 1.0, repaired_s, (gpu.number,)),
        Effect("held", found_s - 1.0, repaired_s, (node.number,)),
    )
    return Plan(at_s, repaired_s, (Part.of_gpu(node, gpu, at_s),), (event,), effects)
