"""The hosts around the GPUs, and their fabric ports: what a node's `host` and `infiniband` sources would send."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from producers.simulate.signals import Floats
from producers.simulate.topology import Node
from schemas.records import Network, NodeSample, Port

_HOSTS = {"hgx": (224, 2.0e12), "nvl72": (144, 0.96e12)}
"""Kind of node to its processors and bytes of memory."""
_PORT_GBPS = 400.0


def machine_samples(
    nodes: Sequence[Node],
    readings: Mapping[str, Floats],
    ports_down: Mapping[int, Sequence[str]],
    *,
    site: str,
    boots: Sequence[str],
    skew_ms: Mapping[int, int],
    sequence: Sequence[int],
    tick_ms: int,
    interval_ms: int,
    uptime_s: float,
    seed: tuple[int, ...],
) -> Iterator[NodeSample]:
    """Two records of each node: its host and its ports. The same arguments give the same records."""
    draw = np.random.default_rng((*seed, 0x405))
    busy = np.nan_to_num(readings["gpu_utilization_percent"])
    for node in nodes:
        noise = draw.random(4).tolist()
        load = float(np.mean([busy[gpu.number] for gpu in node.gpus])) / 100
        processors, memory = _HOSTS[node.kind]
        at_ms = tick_ms + skew_ms.get(node.number, 0)
        used = memory * (0.08 + 0.4 * load + 0.02 * noise[0])
        percent = 2 + 22 * load + 3 * noise[1]
        common: dict[str, Any] = {
            "site": site, "rack": node.rack, "node": node.name, "boot_id": boots[node.number],
            "tick_ms": at_ms, "observed_ms": at_ms, "interval_ms": interval_ms,
        }  # fmt: skip
        yield NodeSample(
            **common,
            sequence=2 * sequence[node.number],
            source="host",
            cpu_utilization_percent=round(percent, 1),
            cpu_iowait_percent=round(0.4 * noise[2], 1),
            cpu_count=processors,
            load_1m=round(percent / 100 * processors, 2),
            memory_total_bytes=memory,
            memory_used_bytes=float(round(used)),
            memory_available_bytes=float(round(memory - used)),
            swap_total_bytes=0.0,
            swap_used_bytes=0.0,
            process_count=int(900 + 300 * load + 40 * noise[3]),
            uptime_s=uptime_s,
            networks=[Network(name="eth0", up=True, speed_mbps=100_000.0)],
        )
        down = ports_down.get(node.number, ())
        yield NodeSample(
            **common,
            sequence=2 * sequence[node.number] + 1,
            source="infiniband",
            ports=[_port(f"mlx5_{number}", down, uptime_s) for number in range(node.platform.ports)],
        )


def _port(device: str, down: Sequence[str], uptime_s: float) -> Port:
    up = device not in down
    words = int(uptime_s) * 3_000_000_000
    return Port(
        device=device,
        port=1,
        link_layer="InfiniBand",
        state="active" if up else "down",
        physical_state="linkup" if up else "polling",
        rate_gbps=_PORT_GBPS if up else 10.0,
        expected_gbps=_PORT_GBPS,
        rate_name="NDR" if up else "SDR",
        degraded=not up,
        reason="" if up else "the port is down",
        counters={"port_xmit_data": words, "port_rcv_data": words},
    )
