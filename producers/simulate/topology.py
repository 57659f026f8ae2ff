"""The simulated fleet's racks, nodes and GPUs: names, serials, addresses, all from a few numbers and a seed.

A fleet can as well be built from the inventory of a real one (`from_inventory`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal
from uuid import UUID

from producers.settings import RackSpec
from schemas.ids import gpu_id, node_id
from schemas.records import InventoryRecord

Kind = Literal["hgx", "nvl72"]


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
    """What a heavy job draws."""
    limit_watts: float
    sm_clock_mhz: float
    idle_clock_mhz: float
    memory_clock_mhz: float
    inlet_celsius: float
    """Air in front of the node, or water into its cold plates."""
    busy_rise_celsius: float
    """How much warmer than that the GPU is at `busy_watts`."""
    slot_celsius: float
    """How much warmer the top of the rack is than its bottom."""
    place_celsius: float
    """How much warmer a GPU is than the one before it in the air stream."""
    ports: int
    """Fabric ports of a node."""
    switches: tuple[str, ...]
    """PCI addresses of its NVSwitches; none where they are in trays of their own, whose kernel is not the node's."""
    domain_is_rack: bool

    @property
    def gpus(self) -> int:
        """Of a node."""
        return len(self.pci)


PLATFORMS: dict[str, Platform] = {
    "hgx": Platform(
        sku="NVIDIA H100 80GB HBM3",
        nodes=4,
        pci=("18:00", "2a:00", "3a:00", "5d:00", "9a:00", "ab:00", "ba:00", "db:00"),
        links=18,
        memory_bytes=80 * 1024**3,
        idle_watts=72.0,
        busy_watts=660.0,
        limit_watts=700.0,
        sm_clock_mhz=1980.0,
        idle_clock_mhz=345.0,
        memory_clock_mhz=2619.0,
        inlet_celsius=25.0,
        busy_rise_celsius=36.0,
        slot_celsius=2.5,
        place_celsius=0.4,
        ports=8,
        switches=("05:00", "06:00", "07:00", "08:00"),
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
        limit_watts=1200.0,
        sm_clock_mhz=2062.0,
        idle_clock_mhz=120.0,
        memory_clock_mhz=3996.0,
        inlet_celsius=32.0,
        busy_rise_celsius=27.0,
        slot_celsius=0.8,
        place_celsius=0.3,
        ports=4,
        switches=(),
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
    """One simulated node; `number` is its place in the fleet."""

    number: int
    rack: str
    name: str
    slot: int
    kind: str
    boot_id: str
    """Of its first boot in the simulation."""
    nvlink_domain: str
    leaf_switch: str
    pdu: str
    gpus: tuple[Gpu, ...]

    @property
    def platform(self) -> Platform:
        """What it is like."""
        return PLATFORMS[self.kind]


def racks_of(gpus: int, kinds: Sequence[Kind] = ("hgx", "nvl72")) -> tuple[RackSpec, ...]:
    """Racks with `gpus` GPUs, rounded up to whole nodes, shared out evenly over `kinds`; the last rack may be partly
    filled.

    Raises `ValueError` where a kind would get none.
    """
    specs: list[RackSpec] = []
    left = gpus
    for place, kind in enumerate(kinds):
        platform = PLATFORMS[kind]
        nodes = -(-(left // (len(kinds) - place)) // platform.gpus)
        if nodes < 1:
            raise ValueError(f"{gpus} GPUs are too few for {' and '.join(kinds)}")
        full, rest = divmod(nodes, platform.nodes)
        specs += [RackSpec(kind=kind, racks=full)] if full else []
        specs += [RackSpec(kind=kind, racks=1, nodes=rest)] if rest else []
        left -= nodes * platform.gpus
    return tuple(specs)


def build(racks: Sequence[RackSpec], seed: int, boot: object = 0, *, racks_per_leaf: int = 1) -> tuple[Node, ...]:
    """All nodes of the fleet, rack by rack; another `boot` gives other boot ids and nothing else."""
    nodes: list[Node] = []
    number = 0
    built: dict[str, int] = {}
    for spec in racks:
        platform = PLATFORMS[spec.kind]
        for _ in range(spec.racks):
            place = built[spec.kind] = built.get(spec.kind, 0) + 1
            rack = f"{spec.kind}-{place:02d}"
            leaf = f"{spec.kind}-{(place - 1) // racks_per_leaf * racks_per_leaf + 1:02d}"
            for slot in range(1, (spec.nodes or platform.nodes) + 1):
                name = f"{rack}-n{slot:02d}"
                gpus = tuple(_gpu(seed, name, number + index, index, pci) for index, pci in enumerate(platform.pci))
                number += len(gpus)
                nodes.append(
                    Node(
                        number=len(nodes),
                        rack=rack,
                        name=name,
                        slot=slot,
                        kind=spec.kind,
                        boot_id=boot_id(seed, name, boot),
                        nvlink_domain=f"nvl-{rack}" if platform.domain_is_rack else name,
                        leaf_switch=f"leaf-{leaf}",
                        pdu=f"pdu-{rack}-{'ab'[slot % 2]}",
                        gpus=gpus,
                    )
                )
    return tuple(nodes)


def boot_id(seed: int, node: str, boot: object) -> str:
    """The kernel's id of one boot of a node."""
    return str(UUID(bytes=_hash(seed, node, "boot", boot)))


def _named(made: Gpu, listed: InventoryRecord) -> Gpu:
    """A GPU with the names that an inventory gives it."""
    return Gpu(
        number=made.number,
        index=made.index,
        serial=listed.gpu_serial or made.serial,
        uuid=listed.gpu_uuid or made.uuid,
        pci=listed.pci or made.pci,
    )


def from_inventory(records: Iterable[InventoryRecord], seed: int, boot: object = 0) -> tuple[Node, ...]:
    """The nodes that an inventory lists, with its own names and serials; what it leaves open is made up: GPUs too.

    Raises `ValueError` where a GPU is in no node of the inventory, or it lists no node.
    """
    nodes: dict[str, InventoryRecord] = {}
    gpus: dict[str, list[InventoryRecord]] = {}
    for record in records:
        if record.kind == "node" and not record.removed and record.node:
            nodes[record.node] = record
        elif record.kind == "gpu" and not record.removed:
            gpus.setdefault(record.node or "", []).append(record)
    if stray := sorted(set(gpus) - set(nodes)):
        raise ValueError(f"the inventory has no node {stray[0]!r}, but GPUs in it")
    if not nodes:
        raise ValueError("the inventory lists no node")
    built: list[Node] = []
    number = 0
    for name, record in sorted(nodes.items(), key=lambda item: (item[1].rack, item[1].slot or 0, item[0])):
        own = sorted(gpus.get(name, ()), key=lambda gpu: gpu.gpu_index or 0)
        sku = (own[0].sku if own else None) or record.sku or ""
        kind = "nvl72" if any(word in sku for word in ("GB200", "GB300", "NVL72")) else "hgx"
        addresses = PLATFORMS[kind].pci
        made = [
            _gpu(seed, name, number + at, at, addresses[at % len(addresses)])
            for at in range(len(own) or len(addresses))
        ]
        number += len(made)
        built.append(
            Node(
                number=len(built),
                rack=record.rack,
                name=name,
                slot=record.slot or 1,
                kind=kind,
                boot_id=boot_id(seed, name, boot),
                nvlink_domain=record.nvlink_domain
                or next((gpu.nvlink_domain for gpu in own if gpu.nvlink_domain), name),
                leaf_switch=record.leaf_switch or f"leaf-{record.rack}",
                pdu=record.pdu or f"pdu-{record.rack}",
                gpus=tuple(map(_named, made, own)) if own else tuple(made),
            )
        )
    return tuple(built)


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
        records += [gpu_record(node, gpu, site, seen_ms) for gpu in node.gpus]
    return records


def gpu_record(node: Node, gpu: Gpu, site: str, seen_ms: int, job: str | None = None) -> InventoryRecord:
    """What an inventory says of one GPU; `job` is what runs on it, where the scheduler tells."""
    return InventoryRecord(
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
        job=job,
        source="discovered",
        seen_ms=seen_ms,
    )


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
