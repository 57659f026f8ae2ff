"""Where components are and what they share: the inventory as lookups."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from schemas.catalog.causes import Near, Of
from schemas.ids import gpu_id
from schemas.records import InventoryRecord

DECLARED = "declared"
"""`InventoryRecord.source` of what a file says; all else was found by somebody."""
FLEET_WIDE = "fleet/"
"""A job of such a name is one job, at whichever sites it runs. Every other name is its site's own."""
_PLACEMENTS = 4
"""Jobs remembered of a GPU: what dies, dies of the job that was there then."""
_DIES_WITHIN_MS = 60_000
"""A scheduler says that a job is over about when its programs die: up to so much earlier."""
_ENDED_JOBS = 1000
"""Jobs that are over whose size is remembered."""
_CHANGES = 1000
"""Changes that are remembered one by one."""

Thing = tuple[Of, str, str]
"""What many share: its kind, site and name. Of a job that spans sites the site is empty."""


class _Placement(NamedTuple):
    """What runs on a GPU from a moment on; None: nothing, as far as is known."""

    begin_ms: int
    job: str | None
    source: str


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

    @property
    def sku(self) -> str | None:
        """What it is: the driver that found it knows its name; a file may know it before."""
        return next((record.sku for record in self if record is not None and record.sku), None)


class Topology:
    """The newest inventory records of every GPU and node, declared and discovered. Costs about 1.5 KB a GPU and source.

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
        self._node_gpus: dict[str, set[str]] = {}
        """Node to the GPUs in it."""
        self._skus: dict[str, str] = {}
        """GPU to its SKU: beside the rest, because windows are rebuilt in another thread, and ask there."""
        self.sku_changes = 0
        """Grows whenever the SKU of some GPU has become known, or another one."""
        self._inside: dict[Thing, set[str]] = {}
        """What hangs on each thing: GPUs of a node, an NVLink domain, a job; else nodes."""
        self._entered: dict[str, tuple[Thing, ...]] = {}
        """Component id to the things under which it is entered."""
        self._site_gpus: dict[str, int] = {}
        self._site_racks: dict[str, int] = {}
        self._placements: dict[str, tuple[_Placement, ...]] = {}
        """GPU to the jobs that it had, the newest last."""
        self._most: dict[Thing, int] = {}
        """The most GPUs that each job had, also of jobs that are over."""
        self._changed: deque[str] = deque(maxlen=_CHANGES)
        """The nodes of which something was learnt that changes what is near what, the newest last."""
        self.revision = 0
        """How many such changes there were. Jobs that come and go are none."""
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
        if now.sku != self._skus.get(gpu):
            if now.sku is not None:
                self._skus[gpu] = now.sku
            else:
                del self._skus[gpu]
            self.sku_changes += 1
        if now.place is not None:
            self._gpus[gpu] = now
            self._node_gpus.setdefault(now.place.node or "", set()).add(gpu)
        if not record.removed and record.node and record.pci:
            self._at_slot[record.node, record.pci, is_declared] = gpu
        self._enter_gpu(gpu, known.place)
        self._place(gpu, record)

    def _learn_node(self, node: str, record: InventoryRecord) -> None:
        known = self._nodes.pop(node, _Known())
        now = known.learn(record)
        if now.place is not None:
            self._nodes[node] = now
        place = now.place
        things: tuple[Thing, ...] = ()
        if place is not None:
            named: tuple[tuple[Of, str | None], ...] = (
                ("rack", place.rack),
                ("pdu", self.pdu(node)),
                ("leaf_switch", self.leaf_switch(node)),
                ("site", place.site),
            )
            things = tuple((of, place.site, name) for of, name in named if name)
        if self._enter(f"node:{node}", node, things):
            self._note_change(node)
        if known.place is None or (known.declared, known.found) != (now.declared, now.found):
            for gpu in self._node_gpus.get(node, ()):
                self._enter_gpu(gpu, None)

    def _enter_gpu(self, gpu: str, before: InventoryRecord | None) -> None:
        """Enter a GPU where it hangs now; `before` is where it was, where that may be another node."""
        place = self._gpus.get(gpu, _Known()).place
        things: tuple[Thing, ...] = ()
        if place is not None and place.node:
            things = (("node", place.site, place.node),)
            if domain := self.nvlink_domain(gpu, place.node):
                things += (("nvlink_domain", place.site, domain),)
        site_before = next((site for _, site, _ in self._entered.get(f"gpu:{gpu}", ())), None)
        if self._enter(f"gpu:{gpu}", gpu, things):
            for site, by in ((site_before, -1), (place.site if things and place else None, 1)):
                if site is not None:
                    self._site_gpus[site] = self._site_gpus.get(site, 0) + by
            for node in {one.node for one in (before, place) if one is not None and one.node}:
                self._note_change(node)

    def _enter(self, component: str, name: str, things: tuple[Thing, ...]) -> bool:
        """Enter a component under what it hangs on, and nothing else; gives whether that is news."""
        before = self._entered.get(component, ())
        if before == things:
            return False
        for thing in before:
            self._inside[thing].discard(name)
            if not self._inside[thing]:
                del self._inside[thing]
                if thing[0] == "rack":
                    self._site_racks[thing[1]] -= 1
        for thing in things:
            if thing[0] == "rack" and thing not in self._inside:
                self._site_racks[thing[1]] = self._site_racks.get(thing[1], 0) + 1
            self._inside.setdefault(thing, set()).add(name)
        self._entered.pop(component, None)
        if things:
            self._entered[component] = things
        return True

    def _note_change(self, node: str) -> None:
        self.revision += 1
        self._changed.append(node)

    def _place(self, gpu: str, record: InventoryRecord) -> None:
        """Note which job a GPU has. Who never named a job does not know that there is none."""
        placements = self._placements.get(gpu, ())
        job, last = (None if record.removed else record.job), placements[-1] if placements else None
        if job == (last.job if last else None):
            return
        if last is not None and (record.seen_ms < last.begin_ms or (job is None and record.source != last.source)):
            return
        for thing, comes in ((_job(record.site, last.job) if last else None, False), (_job(record.site, job), True)):
            if thing is None:
                continue
            inside = self._inside.setdefault(thing, set())
            if comes:
                inside.add(gpu)
                self._most[thing] = max(self._most.get(thing, 0), len(inside))
            else:
                inside.discard(gpu)
            if not inside:
                del self._inside[thing]
                self._most[thing] = self._most.pop(thing, 0)  # the jobs that ended last are the last to be forgotten
        for thing in list(islice(self._most, max(0, len(self._most) - _ENDED_JOBS))):
            if thing not in self._inside:
                del self._most[thing]
        self._placements[gpu] = (*placements[1 - _PLACEMENTS :], _Placement(record.seen_ms, job, record.source))

    def gpu_at(self, node: str, pci: str | None) -> str | None:
        """The serial of the GPU at a PCI address of a node."""
        if not pci:
            return None
        return self._at_slot.get((node, pci, False)) or self._at_slot.get((node, pci, True))

    def pci_of(self, gpu: str | None) -> str | None:
        """The PCI address at which a GPU was last found."""
        known = self._gpus.get(gpu or "", _Known())
        return next((record.pci for record in known if record is not None and record.pci), None)

    def sku_of(self, gpu: str) -> str | None:
        """The SKU of a GPU; None where the inventory does not tell."""
        return self._skus.get(gpu)

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

    def job(self, gpu: str | None, at_ms: int) -> str | None:
        """The job that a GPU had at a moment, or that was over so shortly before that its programs may still die."""
        placements = self._placements.get(gpu or "", ())
        for number in reversed(range(len(placements))):
            begin_ms, job, _ = placements[number]
            if begin_ms > at_ms:
                continue
            ended = placements[number - 1].job if number and at_ms - begin_ms <= _DIES_WITHIN_MS else None
            return job or ended
        return None

    def jobs_on(self, site: str, at_ms: int, *, node: str | None = None, rack: str | None = None) -> set[str]:
        """The jobs at a moment on all GPUs of a node, or of a rack."""
        nodes = self._inside.get(("rack", site, rack), ()) if rack is not None else (node or "",)
        gpus = (gpu for one in nodes for gpu in self._node_gpus.get(one, ()))
        return {job for gpu in gpus if (job := self.job(gpu, at_ms)) is not None}

    def nodes_in_rack(self, site: str, rack: str) -> int:
        """How many nodes of a rack are known."""
        return len(self._inside.get(("rack", site, rack), ()))

    def size(self, thing: Thing) -> int:
        """How many parts of a thing are known: GPUs of a node, an NVLink domain or a job, else nodes.

        Of a job that is over the most that it had.
        """
        return max(len(self._inside.get(thing, ())), self._most.get(thing, 0))

    def parts(self, thing: Thing) -> int:
        """How many parts of a thing there are that may fail one by one: the racks of a site, else its `size`."""
        return self._site_racks.get(thing[1], 0) if thing[0] == "site" else self.size(thing)

    def gpu_count(self, thing: Thing) -> int:
        """How many GPUs hang on a thing."""
        of, site, _ = thing
        if of in {"node", "nvlink_domain", "job"}:
            return self.size(thing)
        if of == "site":
            return self._site_gpus.get(site, 0)
        return sum(len(self._node_gpus.get(node, ())) for node in self._inside.get(thing, ()))

    def count(self, unit: str) -> int:
        """How many GPUs (`gpu`) or nodes are known."""
        return len(self._gpus) if unit == "gpu" else len(self._nodes)

    def changed_since(self, revision: int) -> set[str] | None:
        """The nodes of which something was learnt since; None where there were more than are remembered."""
        many = self.revision - revision
        return None if many > len(self._changed) else set(islice(reversed(self._changed), many))

    def shared(self, near: Near, *, component: str, gpu: str | None, node: str | None, rack: str) -> str | None:
        """What a component shares with its neighbours at the distance `near`; None where that is not known.

        Of places only: what runs on it, and who works on it, is not to be seen in the topology.
        """
        kind, _, name = component.partition(":")
        if kind in {"rack", "pdu", "switch", "cooling", "meter"}:  # they stand around the nodes, and in none
            gpu = node = None
            if kind == {"pdu": "pdu", "leaf_switch": "switch"}.get(near):
                return name
        if near == "component":
            return component
        if near == "gpu":
            return gpu_id(gpu) if gpu else component
        if near == "node":
            return node
        if near == "nvlink_domain":
            return self.nvlink_domain(gpu, node)
        if near == "pdu":
            return self.pdu(node) if node else None
        if near == "leaf_switch":
            return self.leaf_switch(node) if node else None
        return (name if kind == "rack" else rack) if near == "rack" else None

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


def thing_of(of: Of, site: str, name: str) -> Thing:
    """What many share, by its kind, site and name."""
    return (of, "" if of == "job" and name.startswith(FLEET_WIDE) else site, name)


def _job(site: str, job: str | None) -> Thing | None:
    return None if job is None else thing_of("job", site, job)
