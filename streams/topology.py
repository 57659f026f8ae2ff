"""Where components are and what they share: the inventory as lookups."""

from __future__ import annotations

from schemas.catalog.causes import Near
from schemas.ids import gpu_id
from schemas.records import InventoryRecord


class Topology:
    """The newest inventory record of every component. Costs about 1 KB a GPU.

    What the inventory does not tell is unknown, and unknown is never the same as anything: two GPUs without an NVLink
    domain share none. A node without a declared domain is its own (the NVSwitches of an HGX board).
    """

    def __init__(self) -> None:
        self._gpus: dict[str, InventoryRecord] = {}
        self._nodes: dict[str, InventoryRecord] = {}
        self._at_slot: dict[tuple[str, str], str] = {}
        """(node, PCI address) to GPU serial."""
        self._rack_nodes: dict[tuple[str, str], set[str]] = {}
        """(site, rack) to the nodes in it."""

    def learn(self, record: InventoryRecord) -> None:
        """Take the newest record of a component in."""
        if record.kind == "gpu":
            gpu = record.component.removeprefix("gpu:")
            before = self._gpus.pop(gpu, None)
            if before is not None and before.node and before.pci and self.gpu_at(before.node, before.pci) == gpu:
                del self._at_slot[before.node, before.pci]  # unless another GPU sits there by now
            if not record.removed:
                self._gpus[gpu] = record
                if record.node and record.pci:
                    self._at_slot[record.node, record.pci] = gpu
        elif record.kind == "node":
            node = record.component.removeprefix("node:")
            before = self._nodes.pop(node, None)
            if before is not None:
                self._rack_nodes[before.site, before.rack].discard(node)
            if not record.removed:
                self._nodes[node] = record
                self._rack_nodes.setdefault((record.site, record.rack), set()).add(node)

    def gpu_at(self, node: str, pci: str | None) -> str | None:
        """The serial of the GPU at a PCI address of a node."""
        return self._at_slot.get((node, pci)) if pci else None

    def pci_of(self, gpu: str | None) -> str | None:
        """The PCI address at which a GPU was last found."""
        found = self._gpus.get(gpu) if gpu else None
        return found.pci if found else None

    def nvlink_domain(self, gpu: str | None, node: str | None) -> str | None:
        """The NVLink domain of a GPU, else of its node, else the node itself."""
        for record in (self._gpus.get(gpu or ""), self._nodes.get(node or "")):
            if record is not None and record.nvlink_domain:
                return record.nvlink_domain
        return node

    def nodes_in_rack(self, site: str, rack: str) -> int:
        """How many nodes of a rack are known."""
        return len(self._rack_nodes.get((site, rack), ()))

    def shared(self, near: Near, *, component: str, gpu: str | None, node: str | None, rack: str) -> str | None:
        """What a component shares with its neighbours at the distance `near`; None where that is not known."""
        if near == "gpu":
            return gpu_id(gpu) if gpu else component
        if near == "node":
            return node
        if near == "nvlink_domain":
            return self.nvlink_domain(gpu, node)
        return rack
