"""The fabric between nodes: a port that comes and goes, a leaf switch that takes all its nodes along."""

from __future__ import annotations

from producers.simulate.faults.scene import HOUR_S, MINUTE_S, Draw, Spot, lasts, log
from producers.simulate.plan import Effect, Part, Plan, Said
from producers.simulate.topology import Node
from schemas.ids import device_id, port_id


def port_flaps(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """A cable, transceiver or port of one node: down and up again some times, or down for long."""
    node, port = spot.node, int(draw.integers(spot.node.platform.ports))
    stays = draw.random() < 0.3
    flaps = 1 if stays else int(draw.integers(1, 7))
    said: list[Said] = []
    effects: list[Effect] = []
    down_s = up_s = at_s
    for flap in range(flaps):
        up_s = down_s + (lasts(draw, 2 * HOUR_S) if stays else lasts(draw, 12.0, least_s=3.0, most_s=90.0))
        said += [_down(node, port, down_s, 0), _up(node, port, up_s)]
        effects.append(Effect("ports", down_s, up_s, (node.number,), parts=(0,), name=f"mlx5_{port}"))
        down_s = up_s + lasts(draw, 6 * MINUTE_S) if flap + 1 < flaps else down_s
    # a collective retries for some seconds; a long break kills it
    hard_s = at_s + 25.0 if stays else None
    if hard_s is not None:
        effects.append(Effect("stops", hard_s, up_s, spot.gpu_numbers, parts=(0,)))
        effects.append(Effect("held", hard_s, up_s, (node.number,)))
    part = Part(port_id(node.name, f"mlx5_{port}", 1), node.name, node.rack, None, "root", at_s)
    return Plan(at_s, up_s, (part,), tuple(said), tuple(effects), hard_s=hard_s)


def leaf_switch_lost(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """A leaf switch restarts or dies: one port of every node on it goes down within seconds, and jobs die of it."""
    # rail by rail, so all nodes lose the same port
    port = int(draw.integers(min(node.platform.ports for node in spot.nodes)))
    back_s = at_s + lasts(draw, 15 * MINUTE_S, least_s=3 * MINUTE_S, most_s=4 * HOUR_S)
    parts = [Part(device_id("switch", spot.name), "", spot.node.rack, None, "root", at_s)]
    said: list[Said] = []
    effects: list[Effect] = []
    for number, node in enumerate(spot.nodes, start=1):
        down_s, up_s = at_s + float(draw.uniform(0, 2.5)), back_s + float(draw.uniform(0, 20.0))
        name = f"mlx5_{port}"
        parts.append(Part(port_id(node.name, name, 1), node.name, node.rack, None, "symptom", down_s))
        said += [_down(node, port, down_s, number), _up(node, port, up_s)]
        effects.append(Effect("ports", down_s, up_s, (node.number,), parts=(number,), name=name))
    over_s = back_s + 20.0
    effects.append(Effect("stops", at_s + 25.0, over_s, spot.gpu_numbers, parts=(0,)))
    effects.append(Effect("held", at_s + 25.0, over_s, spot.node_numbers))
    return Plan(at_s, over_s, tuple(parts), tuple(said), tuple(effects), hard_s=at_s + 25.0)


def _down(node: Node, port: int, at_s: float, part: int) -> Said:
    return log(node, at_s, f"infiniband mlx5_{port}: Port: 1 Link DOWN", part)


def _up(node: Node, port: int, at_s: float) -> Said:
    return log(node, at_s, f"infiniband mlx5_{port}: Port: 1 Link ACTIVE", part=-1)
