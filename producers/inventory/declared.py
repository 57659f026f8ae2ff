"""A declared inventory as values: racks, what stands in them, nodes and GPUs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from schemas.ids import device_id, gpu_id, node_id, rack_id
from schemas.records import InventoryRecord

DECLARED = "declared"
LEAF_SWITCH, PDU, COOLING, NVLINK_DOMAIN = "leaf_switch", "pdu", "cooling", "nvlink_domain"
DEVICES = (LEAF_SWITCH, PDU, COOLING)
"""Kinds of what stands around the nodes."""


@dataclass(frozen=True, slots=True)
class Rack:
    """One rack; `units` is its height, where that is known."""

    name: str
    site: str
    units: int | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A leaf switch, a PDU or a cooler, and the rack it stands in."""

    kind: str
    name: str
    rack: str


@dataclass(frozen=True, slots=True)
class Node:
    """One node; `slot` is its lowest rack unit or its tray."""

    name: str
    rack: str
    slot: int | None = None
    chassis_serial: str | None = None
    leaf_switch: str | None = None
    pdu: str | None = None
    nvlink_domain: str | None = None
    sku: str | None = None
    gpus: int | None = None
    """How many GPUs it has."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU whose serial is known; `slot` is its module number on the board."""

    serial: str
    node: str
    index: int | None = None
    slot: int | None = None
    uuid: str | None = None
    sku: str | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that a file declares. Every name that is referred to is declared, and no slot and serial is used twice."""

    racks: tuple[Rack, ...]
    devices: tuple[Device, ...]
    nodes: tuple[Node, ...]
    gpus: tuple[Gpu, ...]

    @property
    def sites(self) -> frozenset[str]:
        """The sites that it speaks for."""
        return frozenset(rack.site for rack in self.racks)

    @property
    def expected_gpus(self) -> int:
        """GPUs that there are by the nodes' numbers, where these say it, and by serial where they do not."""
        by_node = Counter(gpu.node for gpu in self.gpus)
        return sum(by_node[node.name] if node.gpus is None else node.gpus for node in self.nodes)

    @property
    def nvlink_domains(self) -> dict[str, str]:
        """Each NVLink domain and the rack of its first node."""
        domains: dict[str, str] = {}
        for node in self.nodes:
            if node.nvlink_domain:
                domains.setdefault(node.nvlink_domain, node.rack)
        return domains

    def records(self, seen_ms: int) -> list[InventoryRecord]:
        """What goes to `fleet.inventory`: one record for each component; `seen_ms` is when it was declared."""
        site = {rack.name: rack.site for rack in self.racks}
        nodes = {node.name: node for node in self.nodes}

        def record(component: str, kind: str, rack: str) -> InventoryRecord:
            return InventoryRecord(
                component=component, kind=kind, site=site[rack], rack=rack, source=DECLARED, seen_ms=seen_ms
            )

        return [
            *(record(rack_id(rack.name), "rack", rack.name) for rack in self.racks),
            *(record(device_id(device.kind, device.name), device.kind, device.rack) for device in self.devices),
            *(
                record(device_id(NVLINK_DOMAIN, domain), NVLINK_DOMAIN, rack)
                for domain, rack in self.nvlink_domains.items()
            ),
            *(_node_record(node, site[node.rack], seen_ms) for node in self.nodes),
            *(
                _gpu_record(gpu, nodes[gpu.node], site[nodes[gpu.node].rack], seen_ms)
                for gpu in self.gpus
            ),
        ]  # fmt: skip


def _node_record(node: Node, site: str, seen_ms: int) -> InventoryRecord:
    return InventoryRecord(
        component=node_id(node.name),
        kind="node",
        site=site,
        rack=node.rack,
        node=node.name,
        slot=node.slot,
        nvlink_domain=node.nvlink_domain,
        leaf_switch=node.leaf_switch,
        pdu=node.pdu,
        chassis_serial=node.chassis_serial,
        sku=node.sku,
        source=DECLARED,
        seen_ms=seen_ms,
    )


def _gpu_record(gpu: Gpu, node: Node, site: str, seen_ms: int) -> InventoryRecord:
    return InventoryRecord(
        component=gpu_id(gpu.serial),
        kind="gpu",
        site=site,
        rack=node.rack,
        node=node.name,
        slot=gpu.slot,
        gpu_index=gpu.index,
        gpu_uuid=gpu.uuid,
        gpu_serial=gpu.serial,
        nvlink_domain=node.nvlink_domain,
        leaf_switch=node.leaf_switch,
        pdu=node.pdu,
        sku=gpu.sku,
        source=DECLARED,
        seen_ms=seen_ms,
    )
