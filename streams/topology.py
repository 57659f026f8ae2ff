"""Where components are and what they share: the inventory as lookups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from schemas.catalog.causes import Near, Of
from schemas.ids import gpu_id
from schemas.records import InventoryRecord

DECLARED = "declared"
"""`InventoryRecord.source` of what a file says; all else was found by somebody."""


class _Known(NamedTuple):
    """What is known of one component, by who says so."""

    found: InventoryRecord | None = None
    declared: InventoryRecord | None = None

    def learn(self, record: InventoryRecord) -> _Known:
        """With the newest record of either source, which replaces that of the same source only."""
        newest = None if record.removed else record
        return self._replace(declared=newest) if record.source == DECLARED else self._replace(found=newest)

    @property
    def place(self) -> InventoryRecord | None:
        """Where it is: an agent that found it knows better than a file."""
        return self.found or self.declared


class Topology:
    """The newest inventory records of every GPU and node, declared and discovered. Costs about 1 KB a GPU and source.

    Where something is, an agent knows best, for it found it there. What it hangs on (NVLink domain, leaf switch, PDU)
    is nothing an agent can see: there a file goes before. The outcome does not depend on which of the two came first.

    What the inventory does not tell is unknown, and unknown is never the same as anything: two GPUs without an NVLink
    domain share none. A node without a declared domain is its own (the NVSwitches of an HGX board).
    """

    def __init__(self) -> None:
        self._gpus: dict[str, _Known] = {}
        self._nodes: dict[str, _Known] = {}
        self._at_slot: dict[tuple[str, str, bool], str] = {}
        """(node, PCI address, whether that is declared) to GPU serial."""
        self._rack_nodes: dict[tuple[str, str], set[str]] = {}
        """(site, rack) to the nodes in it."""
        self._node_gpus: dict[str, set[str]] = {}
        """Node to the GPUs in it."""
        self._removed: dict[str, int] = {}
        """Components that were taken out, to when, unless somebody has seen them since."""

    def learn(self, record: InventoryRecord) -> None:
        """Take the newest record of a component in."""
        if record.removed:
            self._removed[record.component] = record.seen_ms
        elif record.seen_ms > self._removed.get(record.component, record.seen_ms):
            del self._removed[record.component]
        if record.kind == "gpu":
            self._learn_gpu(record.component.removeprefix("gpu:"), record)
        elif record.kind == "node":
            self._learn_node(record.component.removeprefix("node:"), record)

    def _learn_gpu(self, gpu: str, record: InventoryRecord) -> None:
        known = self._gpus.pop(gpu, _Known())
        if known.place is not None:
            self._node_gpus.get(known.place.node or "", set()).discard(gpu)
        is_declared = record.source == DECLARED
        before = known.declared if is_declared else known.found
        if before is not None and before.node and before.pci:
            slot = before.node, before.pci, is_declared
            if self._at_slot.get(slot) == gpu:  # unless another GPU sits there by now
                del self._at_slot[slot]
        now = known.learn(record)
        if now.place is not None:
            self._gpus[gpu] = now
            self._node_gpus.setdefault(now.place.node or "", set()).add(gpu)
        if not record.removed and record.node and record.pci:
            self._at_slot[record.node, record.pci, is_declared] = gpu

    def _learn_node(self, node: str, record: InventoryRecord) -> None:
        known = self._nodes.pop(node, _Known())
        if known.place is not None:
            self._rack_nodes[known.place.site, known.place.rack].discard(node)
        now = known.learn(record)
        if now.place is not None:
            self._nodes[node] = now
            self._rack_nodes.setdefault((now.place.site, now.place.rack), set()).add(node)

    def gpu_at(self, node: str, pci: str | None) -> str | None:
        """The serial of the GPU at a PCI address of a node."""
        if not pci:
            return None
        return self._at_slot.get((node, pci, False)) or self._at_slot.get((node, pci, True))

    def pci_of(self, gpu: str | None) -> str | None:
        """The PCI address at which a GPU was last found."""
        known = self._gpus.get(gpu or "", _Known())
        return next((record.pci for record in known if record is not None and record.pci), None)

    def driver_version(self, gpu: str | None, node: str | None) -> str | None:
        """The version of the driver (`550.54.15`) that a GPU was last found with, else its node."""
        known = (*self._gpus.get(gpu or "", _Known()), *self._nodes.get(node or "", _Known()))
        return next((record.driver_version for record in known if record is not None and record.driver_version), None)

    def removed_ms(self, component: str) -> int | None:
        """When a component was taken out of the inventory; None where it was not, or has been seen since."""
        return self._removed.get(component) if self._removed else None

    def nvlink_domain(self, gpu: str | None, node: str | None) -> str | None:
        """The NVLink domain of a GPU, else of its node, else the node itself."""
        of_gpu, of_node = self._gpus.get(gpu or "", _Known()), self._nodes.get(node or "", _Known())
        declared = of_gpu.declared
        if declared is not None and of_gpu.found is not None and of_gpu.found.node != declared.node:
            declared = None  # it was moved, which the file does not know yet
        for record in (declared, of_node.declared, of_gpu.found, of_node.found):
            if record is not None and record.nvlink_domain:
                return record.nvlink_domain
        return node

    def leaf_switch(self, node: str) -> str | None:
        """The leaf switch of a node's fabric ports."""
        known = self._nodes.get(node, _Known())
        return next((one.leaf_switch for one in (known.declared, known.found) if one and one.leaf_switch), None)

    def pdu(self, node: str) -> str | None:
        """The PDU or power shelf that feeds a node."""
        known = self._nodes.get(node, _Known())
        return next((one.pdu for one in (known.declared, known.found) if one and one.pdu), None)

    def nodes_in_rack(self, site: str, rack: str) -> int:
        """How many nodes of a rack are known."""
        return len(self._rack_nodes.get((site, rack), ()))

    def name_of(self, of: Of, node: str | None, rack: str) -> str | None:
        """The thing of a kind that a component hangs on, is in, or stands in; None where that is not known."""
        if of == "rack":
            return rack
        return self.pdu(node) if of == "pdu" and node else node

    def size(self, of: Of, site: str, name: str) -> int:
        """How many GPUs of a node, or nodes of a rack or PDU, are known. Looks at every node where it is a PDU."""
        if of == "node":
            return len(self._node_gpus.get(name, ()))
        return self.nodes_in_rack(site, name) if of == "rack" else sum(self.pdu(node) == name for node in self._nodes)

    def shared(self, near: Near, *, component: str, gpu: str | None, node: str | None, rack: str) -> str | None:
        """What a component shares with its neighbours at the distance `near`; None where that is not known."""
        if near == "gpu":
            return gpu_id(gpu) if gpu else component
        if near == "node":
            return node
        if near == "nvlink_domain":
            return self.nvlink_domain(gpu, node)
        if near == "pdu":
            return self.pdu(node) if node else None
        return rack

    def components(self) -> Iterable[str]:
        """Every GPU and node of which something was said, those that were taken out too."""
        yield from (f"node:{node}" for node in self._nodes)
        yield from (f"gpu:{gpu}" for gpu in self._gpus)
        yield from self._removed

    def place_of(self, component: str) -> InventoryRecord | None:
        """Where a GPU or node is, by who knows best; None where nobody says."""
        kind, _, name = component.partition(":")
        return (self._gpus if kind == "gpu" else self._nodes).get(name, _Known()).place

    def gpus_in(self, node: str) -> Iterable[str]:
        """The serials of the GPUs in a node."""
        return self._node_gpus.get(node, ())
