"""The simulated fleet's racks, nodes and GPUs: names, serials, addresses, all from a few numbers and a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from uuid import UUID

from producers.settings import RackSpec
from schemas.ids import gpu_id, node_id
from schemas.records import InventoryRecord


@dataclass(frozen=True, slots=True)
class Platform:
    """What a node of one kind is like."""

    sku: str
    nodes: int
    """Nodes of a rack, unless told otherwise."""
    pci: tuple[str, ...]
    """PCI addresses of a node's GPUs, as such machines have them."""
    links: int
    """NVLink links of a GPU."""
    memory_bytes: float
    idle_watts: float
    busy_watts: float
    sm_clock_mhz: float
    memory_clock_mhz: float
    domain_is_rack: bool


PLATFORMS = {
    "hgx": Platform(
        sku="NVIDIA H100 80GB HBM3",
        nodes=4,
        pci=("18:00", "2a:00", "3a:00", "5d:00", "9a:00", "ab:00", "ba:00", "db:00"),
        links=18,
        memory_bytes=80 * 1024**3,
        idle_watts=72.0,
        busy_watts=660.0,
        sm_clock_mhz=1980.0,
        memory_clock_mhz=2619.0,
        domain_is_rack=False,
    ),
    "nvl72": Platform(
        sku="NVIDIA GB200",
        nodes=18,
        pci=("8:01:00", "9:01:00", "18:01:00", "19:01:00"),
        links=18,
        memory_bytes=186 * 1024**3,
        idle_watts=165.0,
        busy_watts=1080.0,
        sm_clock_mhz=2062.0,
        memory_clock_mhz=3996.0,
        domain_is_rack=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One simulated GPU; `number` is its column in the fleet's arrays."""

    number: int
    index: int
    serial: str
    uuid: str
    pci: str


@dataclass(frozen=True, slots=True)
class Node:
    """One simulated node."""

    rack: str
    name: str
    slot: int
    kind: str
    boot_id: str
    nvlink_domain: str
    leaf_switch: str
    pdu: str
    gpus: tuple[Gpu, ...]

    @property
    def platform(self) -> Platform:
        """What it is like."""
        return PLATFORMS[self.kind]


def build(racks: Sequence[RackSpec], seed: int, boot: object = 0) -> tuple[Node, ...]:
    """All nodes of the fleet, rack by rack; another `boot` gives other boot ids and nothing else."""
    nodes: list[Node] = []
    number = 0
    built: dict[str, int] = {}
    for spec in racks:
        platform = PLATFORMS[spec.kind]
        for _ in range(spec.racks):
            built[spec.kind] = built.get(spec.kind, 0) + 1
            rack = f"{spec.kind}-{built[spec.kind]:02d}"
            for slot in range(1, (spec.nodes or platform.nodes) + 1):
                name = f"{rack}-n{slot:02d}"
                gpus = tuple(_gpu(seed, name, number + index, index, pci) for index, pci in enumerate(platform.pci))
                number += len(gpus)
                nodes.append(
                    Node(
                        rack=rack,
                        name=name,
                        slot=slot,
                        kind=spec.kind,
                        boot_id=str(UUID(bytes=_hash(seed, name, "boot", boot))),
                        nvlink_domain=f"nvl-{rack}" if platform.domain_is_rack else name,
                        leaf_switch=f"leaf-{rack}",
                        pdu=f"pdu-{rack}-{'ab'[slot % 2]}",
                        gpus=gpus,
                    )
                )
    return tuple(nodes)


def inventory(nodes: Sequence[Node], site: str, seen_ms: int) -> list[InventoryRecord]:
    """What an inventory of the fleet says: every node and every GPU."""
    records = []
    for node in nodes:
        records.append(
            InventoryRecord(
                component=node_id(node.name),
                kind="node",
                site=site,
                rack=node.rack,
                node=node.name,
                slot=node.slot,
                nvlink_domain=node.nvlink_domain,
                leaf_switch=node.leaf_switch,
                pdu=node.pdu,
                chassis_serial=f"CH{int.from_bytes(_hash(node.name)[:4]) % 10**8:08d}",
                source="declared",
                seen_ms=seen_ms,
            )
        )
        records += [
            InventoryRecord(
                component=gpu_id(gpu.serial),
                kind="gpu",
                site=site,
                rack=node.rack,
                node=node.name,
                slot=gpu.index,
                gpu_index=gpu.index,
                gpu_uuid=gpu.uuid,
                gpu_serial=gpu.serial,
                pci=gpu.pci,
                nvlink_domain=node.nvlink_domain,
                sku=node.platform.sku,
                driver_version="580.95.05",
                source="discovered",
                seen_ms=seen_ms,
            )
            for gpu in node.gpus
        ]
    return records


def _gpu(seed: int, node: str, number: int, index: int, pci: str) -> Gpu:
    digest = _hash(seed, node, index)
    domain, _, rest = ("0:" + pci if pci.count(":") == 1 else pci).partition(":")
    return Gpu(
        number=number,
        index=index,
        serial=f"165{int.from_bytes(digest[:6]) % 10**10:010d}",
        uuid=f"GPU-{UUID(bytes=digest)}",
        pci=f"{int(domain, 16):04x}:{rest}",
    )


def _hash(*parts: object) -> bytes:
    return blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest()
