"""NVLink: a link that repeats more and more, and then, mostly, fails and is felt by its whole domain."""

from __future__ import annotations

from producers.simulate.faults.scene import HOUR_S, MINUTE_S, Draw, Spot, lasts, reboot, recovery, sxid, xid
from producers.simulate.plan import Effect, Part, Plan, Said
from producers.simulate.topology import Gpu, Node

LINK_DOWN = 0x004405C6
"""Xid 149's interrupt info (drivers before R575): NETIR_LINK_EVT/NETIR_LINK_DOWN, signal integrity of this end's link.
The link's number stands from bit 13."""
RESPONSE_LOST = 0x040808E2
"""Xid 145's: RLW_SRC_TRACK, a response over NVLink that did not come; the link's number likewise."""

_PORTS_OF_A_GPU, _GPUS_AT_A_SWITCH = 8, 8
"""An NVSwitch of an HGX board has 64 ports; a GPU has four or five of its links there."""


def nvlink_degrades(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """Recoveries, replays and CRC errors rise; two of three links then fail, the others are reseated in time."""
    node, gpu = spot.node, spot.one
    fails_s = at_s + lasts(draw, 90 * MINUTE_S, least_s=10 * MINUTE_S, most_s=8 * HOUR_S)
    link = int(draw.integers(node.platform.links))
    rising = tuple(
        Effect("count", at_s, fails_s, (gpu.number,), total, ramp_s=fails_s - at_s, name=name, parts=(0,),
               visible=visible, link=link)
        for name, total, visible in (
            ("nvlink_recoveries", float(draw.integers(40, 600)), 10.0),
            ("nvlink_replays", float(draw.integers(2000, 90_000)), 200.0),
            ("nvlink_crc_flit_errors", float(draw.integers(5000, 900_000)), 500.0),
        )
    )  # fmt: skip
    root = Part.of_gpu(node, gpu, at_s)
    if draw.random() < 1 / 3:
        return Plan(at_s, fails_s, (root,), (), rising)
    repaired_s = fails_s + lasts(draw, 50 * MINUTE_S, least_s=12 * MINUTE_S)
    if node.platform.domain_is_rack:
        parts, said = _rack_wide(spot, root, fails_s, link, draw)
        said.append(recovery(node, gpu, repaired_s, "GPU Reset Required", "None", part=-1))
        down: tuple[Effect, ...] = ()
    else:
        parts, said = _inside_node(root, spot, fails_s, link)
        more, down = reboot(node, repaired_s - 6 * MINUTE_S, repaired_s)
        said += more
        down = (*down, Effect("stops", repaired_s - 6 * MINUTE_S, repaired_s, spot.gpu_numbers))
    effects = (
        *rising,
        Effect("links", fails_s, repaired_s, (gpu.number,), 1.0, parts=(0,), link=link),
        Effect(
            "count",
            fails_s,
            fails_s,
            (gpu.number,),
            1.0,
            name="nvlink_recoveries_failed",
            parts=(0,),
            visible=1.0,
            link=link,
        ),
        Effect("stops", fails_s, repaired_s, (gpu.number,), parts=(0,)),
        Effect("held", fails_s, repaired_s, (node.number,)),
        *down,
    )
    return Plan(at_s, repaired_s, tuple(parts), tuple(said), effects, hard_s=fails_s)


def _rack_wide(spot: Spot, root: Part, fails_s: float, link: int, draw: Draw) -> tuple[list[Part], list[Said]]:
    """One end says fatal; within two seconds the others of its domain miss packets and lose their programs."""
    node, gpu = spot.node, spot.one
    fatal = f"149, NETIR_LINK_EVT  Fatal   XC0 i0 Link {link:02d} {words(LINK_DOWN | link << 13, 0)}"
    parts: list[Part] = [root]
    said = [
        xid(node, gpu, fails_s, fatal),
        recovery(node, gpu, fails_s + 0.6, "None", "GPU Reset Required"),
    ]
    peers = spot.scene.peers(node, gpu)
    # not everybody talked to it just then
    for other, peer in (peers[at] for at in range(len(peers)) if draw.random() < 0.85):
        echo_s, pid = fails_s + 0.2 + float(draw.uniform(0, 1.8)), int(draw.integers(10_000, 4_000_000))
        part = len(parts)
        parts.append(Part.of_gpu(other, peer, echo_s, "symptom"))
        felt = int(draw.integers(other.platform.links))
        lost = f"RLW_SRC_TRACK Nonfatal XC1 i0 Link {felt:02d} {words(RESPONSE_LOST | felt << 13, 8)}"
        said.append(xid(other, peer, echo_s, f"145, pid={pid}, name=python3, {lost}", part))
        said.append(xid(other, peer, echo_s + 0.15, f"45, pid={pid}, name=python3, Ch 00000008", part))
    return parts, said


def _inside_node(root: Part, spot: Spot, fails_s: float, link: int) -> tuple[list[Part], list[Said]]:
    """XID 74 on the GPU, and a moment later the fault of the port behind it, in three lines as the driver has it."""
    node, gpu = spot.node, spot.one
    broken = f"NVLink: fatal error detected on link {link}(0x0, 0x0, 0x10000, 0x0, 0x0, 0x0, 0x0)"
    switch, port = other_end(node, gpu, link)
    felt_s = fails_s + 0.02
    lines = (
        f"Fatal, Link {port:02d} LTSSM Fault Up",
        f"Severity 1 Engine instance {port:02d} Sub-engine instance 00",
        f"Data {{0x{0x50610000 | port:08x}, 0x10100030}}",
    )
    parts = [root, Part.of_switch(node, f"0000:{node.platform.switches[switch]}", felt_s)]
    said = [xid(node, gpu, fails_s, f"74, pid='<unknown>', name=<unknown>, {broken}")]
    said += [sxid(node, switch, felt_s + 0.002 * at, f"20034, {line}", part=1) for at, line in enumerate(lines)]
    return parts, said


def other_end(node: Node, gpu: Gpu, link: int) -> tuple[int, int]:
    """The NVSwitch and its port that a link of an HGX GPU leads to: a GPU's links go round all switches."""
    place, switch = divmod(link, len(node.platform.switches))
    return switch, (gpu.index % _GPUS_AT_A_SWITCH) * _PORTS_OF_A_GPU + place


def words(info: int, status: int) -> str:
    """The registers behind an XID of NVLink 5."""
    return f"({info:#010x} {status:#010x} 0x00000000 0x00000000 0x00000000 0x00000000)"
