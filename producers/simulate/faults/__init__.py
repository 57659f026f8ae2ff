"""How each kind of fault goes: one function per kind, from a place and a moment to a plan.

To add a kind: write its function, name it here, and give it a table in library.toml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from producers.simulate.faults import bus, compute, fabric, harmless, heat, hosts, memory, nvlink, power
from producers.simulate.faults.scene import Draw, Spot
from producers.simulate.plan import Plan

PLANS: Mapping[str, Callable[[Spot, float, Draw], Plan]] = {
    plan.__name__: plan
    for plan in (
        memory.memory_degrades,
        memory.memory_fails,
        bus.gpu_falls_off_bus,
        bus.pcie_degrades,
        bus.gsp_times_out,
        nvlink.nvlink_degrades,
        heat.cooling_degrades,
        heat.paste_drifts,
        heat.rack_cooling_fails,
        power.power_brake,
        power.pdu_phase_lost,
        power.brown_out,
        fabric.port_flaps,
        fabric.leaf_switch_lost,
        compute.gpu_runs_slow,
        compute.silent_data_corruption,
        hosts.node_goes_silent,
        hosts.probe_hangs,
        hosts.clock_skews,
        harmless.application_error,
        harmless.agent_restarts,
        harmless.rack_maintenance,
    )
}
"""A key of library.toml to how it goes."""
