"""Heat: one GPU that is cooled badly, suddenly or by and by, and a rack whose cooling fails."""

from __future__ import annotations

from producers.simulate.faults.scene import HOUR_S, MINUTE_S, Draw, Spot, lasts
from producers.simulate.plan import Effect, Part, Plan
from schemas.ids import rack_id

VISIBLE_CELSIUS = 3.0
"""A GPU that is so much warmer than it would be shows it: ten times the sensor's noise, twice a neighbour's spread."""


def cooling_degrades(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """A fan, pump or cold plate fails within minutes; the GPU is hot whenever it works."""
    ramp_s = lasts(draw, 8 * MINUTE_S, least_s=60.0, most_s=40 * MINUTE_S)
    repaired_s = at_s + ramp_s + lasts(draw, 2 * HOUR_S, least_s=20 * MINUTE_S)
    # so that it passes the limits at full load: 1 + (87 - inlet) / usual rise, and more
    platform = spot.node.platform
    limit = (89.0 - platform.inlet_celsius) / platform.busy_rise_celsius
    return _one(spot, at_s, repaired_s, limit * float(draw.uniform(1.05, 1.35)), ramp_s)


def paste_drifts(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """The paste between die and cooler pumps out: some degrees over many hours, below every limit."""
    ramp_s = lasts(draw, 10 * HOUR_S, least_s=3 * HOUR_S, most_s=30 * HOUR_S)
    rise = 1.0 + float(draw.uniform(8.0, 18.0)) / spot.node.platform.busy_rise_celsius
    return _one(spot, at_s, at_s + ramp_s + lasts(draw, 12 * HOUR_S), rise, ramp_s)


def rack_cooling_fails(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """A cooling loop fails: what comes in gets warmer for every GPU of the rack, and those that suffer throttle."""
    ramp_s = lasts(draw, 10 * MINUTE_S, least_s=3 * MINUTE_S, most_s=40 * MINUTE_S)
    repaired_s = at_s + ramp_s + lasts(draw, 40 * MINUTE_S, least_s=10 * MINUTE_S, most_s=6 * HOUR_S)
    degrees = float(draw.uniform(20.0, 38.0))
    parts = [Part(rack_id(spot.node.rack), "", spot.node.rack, None, "root", at_s)]
    parts += [Part.of_gpu(node, gpu, at_s, "symptom") for node in spot.nodes for gpu in node.gpus]
    numbers = spot.gpu_numbers
    effects = (
        Effect("inlet_celsius", at_s, repaired_s, numbers, degrees, ramp_s=ramp_s,
               parts=tuple(range(1, len(parts))), visible=VISIBLE_CELSIUS),
    )  # fmt: skip
    return Plan(at_s, repaired_s, tuple(parts), (), effects)


def _one(spot: Spot, at_s: float, repaired_s: float, rise: float, ramp_s: float) -> Plan:
    root = Part.of_gpu(spot.node, spot.one, at_s)
    effect = Effect("rise", at_s, repaired_s, (spot.one.number,), rise, ramp_s=ramp_s, parts=(0,),
                    visible=VISIBLE_CELSIUS)  # fmt: skip
    return Plan(at_s, repaired_s, (root,), (), (effect,))
