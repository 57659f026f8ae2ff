"""Readings of a made-up node for the tests of ClickHouse: each about a node that is the test's own."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from schemas.records import FacilitySample, GpuCounters, InventoryRecord, NodeSample, Point

TICK_MS = 1_763_000_040_000
"""A whole minute: 2025-11-13 02:14:00 UTC."""
HOUR_MS = 3_600_000
NAN = math.nan


def place(serial: str, tick_ms: int, period_ms: int) -> dict[str, Any]:
    """The fields that every record about a node shares; `serial` makes the node this test's own."""
    return {
        "site": "site-1",
        "rack": f"rack-{serial}",
        "node": f"node-{serial}",
        "boot_id": "boot-1",
        "sequence": (tick_ms - TICK_MS) // period_ms,
        "tick_ms": tick_ms,
        "observed_ms": tick_ms + 25,
    }


def counters(serial: str, reading: int = 0, gpus: int = 1, **changes: Any) -> GpuCounters:
    tick_ms = changes.pop("tick_ms", TICK_MS + reading * 30_000)
    return GpuCounters(
        **(
            place(serial, tick_ms, 30_000)
            | {"gpus": [f"{serial}-{index}" for index in range(gpus)], "gpu_index": list(range(gpus))}
            | changes
        )
    )


def host(serial: str, reading: int = 0, **changes: Any) -> NodeSample:
    return NodeSample(**(place(serial, TICK_MS + reading * 10_000, 10_000) | {"source": "host"} | changes))


def device(serial: str, reading: int, *points: Point, **changes: Any) -> FacilitySample:
    return FacilitySample(
        **(
            place(serial, TICK_MS + reading * 10_000, 10_000)
            | {"source": "modbus", "device": f"pdu:{serial}", "device_kind": "pdu", "points": list(points)}
            | changes
        )
    )


def in_inventory(serial: str, at_ms: int, **changes: Any) -> InventoryRecord:
    given = InventoryRecord(
        component=f"gpu:{serial}",
        kind="gpu",
        site="site-1",
        rack="rack-1",
        node="node-1",
        slot=3,
        gpu_index=2,
        gpu_serial=serial,
        pci="0000:1b:00",
        driver_version="570",
        source="discovered",
        seen_ms=TICK_MS + at_ms,
    )
    return msgspec.structs.replace(given, **changes)


def same(found: float | None, wanted: float | None) -> bool:
    """Equal, where NaN is NaN and nothing else."""
    if isinstance(found, float) and isinstance(wanted, float) and math.isnan(wanted):
        return math.isnan(found)
    return found == wanted
