"""Power: a supply of one node, a phase behind a PDU, the feed of a whole rack."""

from __future__ import annotations

from producers.simulate.faults.scene import HOUR_S, MINUTE_S, Draw, Spot, back, lasts
from producers.simulate.plan import Effect, Part, Plan, Said
from producers.simulate.signals import HW_POWER_BRAKE, HW_SLOWDOWN
from schemas.ids import device_id, rack_id

_BRAKED = 0.5
"""Clocks and power under the brake; NVIDIA says only that it is a drastic reduction."""


def power_brake(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """A power supply of the node fails; what is left is not enough, so the board tells the GPUs to brake."""
    repaired_s = at_s + lasts(draw, 3 * HOUR_S, least_s=15 * MINUTE_S)
    parts = [Part.of_node(spot.node, at_s)]
    parts += [Part.of_gpu(spot.node, gpu, at_s, "symptom") for gpu in spot.node.gpus]
    return Plan(at_s, repaired_s, tuple(parts), (), _braked(spot, at_s, repaired_s, 1))


def brown_out(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """The rack's feed sags: all its GPUs brake at once, for moments, some more than once."""
    sags = int(draw.integers(1, 4))
    effects: list[Effect] = []
    begin_s = end_s = at_s
    for _ in range(sags):
        end_s = begin_s + lasts(draw, 45.0, least_s=12.0, most_s=6 * MINUTE_S)
        effects += _braked(spot, begin_s, end_s, 1)
        begin_s = end_s + lasts(draw, 3 * MINUTE_S)
    parts = [Part(rack_id(spot.node.rack), "", spot.node.rack, None, "root", at_s)]
    parts += [Part.of_gpu(node, gpu, at_s, "symptom") for node in spot.nodes for gpu in node.gpus]
    return Plan(at_s, end_s, tuple(parts), (), tuple(effects))


def pdu_phase_lost(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """Everything behind the PDU is dark at once; with power back the nodes boot, each in its own time."""
    power_s = at_s + lasts(draw, 35 * MINUTE_S, least_s=6 * MINUTE_S, most_s=5 * HOUR_S)
    parts = [Part(device_id("pdu", spot.node.pdu), "", spot.node.rack, None, "root", at_s)]
    effects: list[Effect] = []
    said: list[Said] = []
    last_s = power_s
    for number, node in enumerate(spot.nodes, start=1):
        up_s = power_s + float(draw.uniform(4, 8)) * MINUTE_S
        last_s = max(last_s, up_s)
        parts.append(Part.of_node(node, at_s, "symptom"))
        effects.append(Effect("dark", at_s, up_s, (node.number,), parts=(number,)))
        said.append(back(node, up_s))
    effects += [
        Effect("stops", at_s, last_s, spot.gpu_numbers, parts=(0,)),
        Effect("held", at_s, last_s, spot.node_numbers),
    ]
    return Plan(at_s, last_s, tuple(parts), tuple(said), tuple(effects), hard_s=at_s)


def _braked(spot: Spot, begin_s: float, end_s: float, first_part: int) -> tuple[Effect, ...]:
    numbers = spot.gpu_numbers
    parts = tuple(range(first_part, first_part + len(numbers)))
    return (
        Effect("throttle", begin_s, end_s, numbers, HW_POWER_BRAKE | HW_SLOWDOWN, parts=parts),
        Effect("power", begin_s, end_s, numbers, _BRAKED),
        Effect("clock", begin_s, end_s, numbers, _BRAKED),
    )
