"""A day of a rack of GPU trays as `fleetpulse decode` prints it, and the inventory that says what belongs together."""

from __future__ import annotations

import json
from typing import Any

START_MS = 1_740_327_858_000
HOUR_S = 3600

INVENTORY = """
site: hall-a
racks:
  - name: dense
    nodes: tray-[1-4]
    gpus_per_node: 4
    nvlink_domain: nvl-dense
  - name: plain
    nodes: box-[1-3]
    gpus_per_node: 8
    nvlink_domain: "{node}"
"""


def line(code: int | None, node: str, at_s: float, gpu: str | None = None, **fields: Any) -> dict[str, Any]:
    """An XID of a GPU (of one of that name), `at_s` seconds after the start."""
    name = gpu or f"{node}-gpu0"
    return {
        "line": round(at_s * 10) + 1,
        "kind": "xid",
        "code": code,
        "pci": "0000:91:00",
        "gpu": name,
        "node": node,
        "event_ms": START_MS + round(at_s * 1000),
        "source": "kernel_log",
        "raw": f"NVRM: Xid (PCI:0000:91:00): {code}, on {name}",
        **fields,
    }


def rack_log() -> list[dict[str, Any]]:
    """What happens, in the order of time.

    An NVLink fails and makes its domain echo; a GPU is lost and takes jobs along; memory fails; a system processor does
    not answer until its node is booted again, and fails again on the next day; now and then a program errs.
    """
    link = [line(149, "tray-1", 0)]
    link += [line(145, f"tray-{tray}", 0.4 + 0.1 * tray) for tray in (2, 3, 4)]
    lost = [line(79, "box-1", HOUR_S)]
    lost += [line(45, "box-1", HOUR_S + 2 + 0.1 * gpu, gpu=f"box-1-gpu{gpu}") for gpu in range(1, 8)]
    memory = [line(48, "box-2", 2 * HOUR_S), line(63, "box-2", 2 * HOUR_S + 1), line(94, "box-2", 2 * HOUR_S + 1.5)]
    booted = {"kind": "agent_started", "pci": None, "gpu": None, "source": "agent", "boot_id": "second"}
    processor = [
        *(line(119, "box-3", 3 * HOUR_S + 6 * repeat, boot_id="first") for repeat in range(30)),
        line(None, "box-3", 3 * HOUR_S + 900, **booted),
        line(119, "box-3", 27 * HOUR_S, boot_id="second"),
    ]
    programs = [line(31, "box-2", hour * HOUR_S, gpu="box-2-gpu5") for hour in range(0, 24, 4)]
    return sorted([*link, *lost, *memory, *processor, *programs], key=lambda one: one["event_ms"])


def as_text(lines: list[dict[str, Any]]) -> str:
    """As JSON lines."""
    return "".join(json.dumps(one) + "\n" for one in lines)
