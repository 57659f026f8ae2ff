"""What looks like trouble and asks for nothing: programs that fail, agents that restart, work that was announced."""

from __future__ import annotations

from producers.simulate.faults.scene import HOUR_S, MINUTE_S, Draw, Spot, back, lasts, told, xid
from producers.simulate.plan import Effect, Part, Plan, Said
from schemas.ids import rack_id

_ERRORS = (
    "13, pid={pid}, name=python3, Graphics SM Warp Exception on (GPC 4, TPC 2, SM 1): Out Of Range Address",
    "31, pid={pid}, name=python3, Ch 00000010, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_3 faulted",
    "43, pid={pid}, name=python3, Ch 00000008",
)


def application_error(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """A program does what it must not; the driver ends it, and with it the channels of its whole job (XID 45)."""
    node, gpu = spot.node, spot.one
    pid, words = int(draw.integers(10_000, 4_000_000)), _ERRORS[int(draw.integers(len(_ERRORS)))]
    said = tuple(
        xid(node, gpu, at_s + 0.004 * number, words.format(pid=pid)) for number in range(int(draw.integers(1, 5)))
    )
    part = Part.of_gpu(node, gpu, at_s, "harmless")
    effects = (Effect("stops", at_s + 0.2, at_s + 0.2, (gpu.number,), parts=(0,)),)
    return Plan(at_s, at_s + 5.0, (part,), said, effects)


def agent_restarts(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """The agent is stopped for an update, or killed, and is soon there again; the node has noticed nothing."""
    node, over_s = spot.node, at_s + lasts(draw, 4.0, least_s=1.5, most_s=25.0)
    said: list[Said] = [back(node, over_s)]
    if draw.random() < 0.8:
        said.append(told(node, at_s, "agent_stopped", "the agent was stopped", part=0))
    effect = Effect("cut", at_s + 0.1, over_s, (node.number,), parts=(0,))
    return Plan(at_s, over_s, (Part.of_node(node, at_s, "harmless"),), tuple(said), (effect,))


def rack_maintenance(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """Somebody announces work on a rack, drains it, takes it down and brings it back."""
    rack, down_s = spot.node.rack, at_s + 30 * MINUTE_S
    until_s = down_s + lasts(draw, 75 * MINUTE_S, least_s=25 * MINUTE_S, most_s=6 * HOUR_S)
    details = {"scope": rack_id(rack), "begin_s": f"{down_s - at_s:.0f}", "until_s": f"{until_s - at_s:.0f}"}
    words = f"{rack} will be powered down in {(down_s - at_s) / 60:.0f} min for {(until_s - down_s) / 60:.0f} min"
    parts = [Part(rack_id(rack), "", rack, None, "harmless", at_s)]
    said: list[Said] = [
        told(spot.node, at_s, "maintenance_announced", words, part=0, source="operator", details=details)
    ]
    effects: list[Effect] = []
    for number, node in enumerate(spot.nodes, start=1):
        off_s, up_s = down_s + float(draw.uniform(0, 40)), until_s - float(draw.uniform(0, 5)) * MINUTE_S
        parts.append(Part.of_node(node, off_s, "harmless"))
        said += [told(node, off_s - 1.5, "agent_stopped", "the agent was stopped", part=number), back(node, up_s)]
        effects.append(Effect("dark", off_s, up_s, (node.number,), parts=(number,)))
    said.append(told(spot.node, until_s + 2.0, "maintenance_ended", f"{rack} is back", source="operator",
                     details={"scope": rack_id(rack)}))  # fmt: skip
    effects += [
        Effect("held", at_s, until_s, spot.node_numbers),
        Effect("stops", down_s - 30.0, until_s, spot.gpu_numbers),
    ]
    return Plan(at_s, until_s, tuple(parts), tuple(said), tuple(effects))
