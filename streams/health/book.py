"""The verdict on every GPU, node and rack of a partition: what it is, why, since when, and whether it may be rented.

A verdict is a function of the faults that are open (`judging.py` applies `schemas/catalog/health.toml`) and of what
stands where. It is told when health, rentability, action or reasons change. It is decided when the record that led to
it reached Kafka, so that done again it is the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from schemas.catalog import Catalog
from schemas.catalog.health import HealthTable
from schemas.ids import gpu_id, node_id
from schemas.records import Fault, InventoryRecord, Verdict
from streams.health.judging import NOTHING, Judge
from streams.health.rack import Counts, Rack, RackHealth, Where, about, is_nameless
from streams.topology import DECLARED, Topology

_RACK_HEALTH = msgspec.msgpack.Decoder(RackHealth)
_MOST_AT_ONCE = 2000
"""Components of the inventory that are looked at in one step of time: a fleet's first verdicts come in some steps."""


_Behind = dict[Where, dict[str, int]]
"""Racks and nodes in them (or no node) that are to be judged, and when that happened which changed them."""


class Heard(NamedTuple):
    """An event or anomaly: of whom it tells, when that happened, when it reached Kafka and where it stands there."""

    where: Where
    node: str | None
    gpu: str | None
    at_ms: int
    arrived_ms: int
    topic: str = ""
    offset: int | None = None


class HealthBook:
    """The verdicts of one partition. `on_record`, `on_time` and `advance` give the records to write, in order.

    `changes` gives what has to be kept to go on, `restore` takes it back; `restored` ends the taking back.
    """

    def __init__(
        self, table: HealthTable, catalog: Catalog, topology: Topology, owns: Callable[[str], bool] = lambda _: True
    ) -> None:
        """`owns` says of a rack whether its records come to this partition."""
        self._judge = Judge(table, catalog)
        self._never_heard = table.never_heard.name
        self._topology = topology
        self._owns = owns
        self._racks: dict[Where, Rack] = {}
        self._node_in: dict[str, Where] = {}
        self._gpu_in: dict[str, Where] = {}
        """GPU (component id) to the rack that it is in."""
        self._pending: dict[str, None] = dict.fromkeys(sorted(topology.components()))
        """Components of which the inventory has said something new."""
        self._behind: _Behind = {}
        """What is to be judged at the next step of time."""
        self._touched: set[Where] = set()
        self.counts: Counts = Counts()
        """Components by kind and health."""

    def on_record(self, heard: Heard, faults: Sequence[Fault]) -> list[Verdict]:
        """An event or anomaly has come, and has led to these fault records. What is heard of first gets a verdict."""
        behind = self._hear(heard)
        for fault in faults:
            self._enter(fault, heard.arrived_ms, heard, behind)
        return self._judge_all(behind, faults, heard.at_ms, heard.arrived_ms)

    def on_time(self, fault: Fault, decided_ms: int) -> list[Verdict]:
        """Time has led to a fault record."""
        behind: _Behind = {}
        self._enter(fault, decided_ms, None, behind)
        return self._judge_all(behind, [fault], _event_ms(fault), decided_ms)

    def learnt(self, component: str) -> None:
        """The inventory has said something of a component."""
        self._pending[component] = None

    def advance(self, now_ms: int) -> list[Verdict]:
        """Judge what the inventory has shown, and what is no longer as it was kept."""
        for component in list(islice(self._pending, _MOST_AT_ONCE)):
            del self._pending[component]
            self._settle(component, now_ms)
        behind, self._behind = self._behind, {}
        told: list[Verdict] = []
        for where, nodes in sorted(behind.items()):
            rack, at_ms = self._racks[where], max(nodes.values())
            self._touched.add(where)
            told += rack.judge([node for node in nodes if node in rack.kept.nodes], at_ms, at_ms)
        return told

    def _hear(self, heard: Heard) -> _Behind:
        """Which nodes are to be judged because something is heard of them for the first time."""
        node, gpu = heard.node, heard.gpu
        where = self._place(node, heard.where) if node else None
        if node is None or where is None:
            return {}
        component = gpu_id(gpu) if gpu else None
        if component is not None and (component in self._gpu_in or self._topology.place_of(component) is not None):
            component = None  # where it is, the inventory knows better
        known = self._racks.get(where)
        if known is not None and (_has_taken(known, heard) or (known.kept.nodes.get(node) and component is None)):
            return {}
        rack = self._put_node(where, node, heard=True)
        if component is not None:
            self._put_gpu(rack, node, component, heard.at_ms)
        self._take(rack, heard)
        return {where: {node: heard.at_ms}}

    def _place(self, node: str, said: Where) -> Where | None:
        """The rack that a node stands in, where a record of it names one; None where others look after it.

        What an agent found comes first, then what was heard before: an event may name the rack of what it is about, as
        that of a PDU, and not of the node that tells of it.
        """
        place = self._topology.place_of(node_id(node))
        if place is not None and place.source != DECLARED:
            return Where(place.site, place.rack) if self._owns(place.rack) else None
        return self._node_in.get(node, said)

    def _enter(self, fault: Fault, decided_ms: int, heard: Heard | None, behind: _Behind) -> None:
        """Take the next record of a fault in, and note which nodes are to be judged because of it."""
        origin = self._racks.get(Where(fault.site, fault.rack))
        if origin is not None and _has_taken(origin, heard):
            return
        rack = self._home(fault)
        if rack is not None and not _has_taken(rack, heard) and rack.enter(fault, decided_ms):
            self._take(rack, heard)
            nodes = behind.setdefault(rack.where, {})
            nodes.update(dict.fromkeys(_nodes(rack, about(fault)), _event_ms(fault)))

    def _judge_all(self, behind: _Behind, faults: Sequence[Fault], heard_ms: int, decided_ms: int) -> list[Verdict]:
        opened = {fault.fault_id: fault.first_ms for fault in faults if fault.state == "open"}
        at_ms = min(opened.values(), default=max(map(_event_ms, faults), default=heard_ms))
        told: list[Verdict] = []
        for where, nodes in behind.items():
            told += self._racks[where].judge(sorted(nodes), at_ms, decided_ms, opened)
        for component in {about(fault) for fault in faults if is_nameless(about(fault))}:
            home = self._gpu_in.get(component)
            if home is not None and not self._racks[home].is_spoken_of(component):
                self._drop_gpu(component)  # known by its slot, and for as long as something was wrong there
        return told

    def changes(self) -> dict[str, bytes | None]:
        """What has changed since the last call, by rack."""
        touched, self._touched = self._touched, set()
        return {
            "/".join(where): zlib.compress(msgspec.msgpack.encode(self._racks[where].kept), 1)
            for where in sorted(touched)
        }

    def restore(self, state: bytes) -> None:
        """Take back one rack. Raises `zlib.error` and `msgspec.MsgspecError` where the bytes are not ours."""
        kept = _RACK_HEALTH.decode(zlib.decompress(state))
        rack = Rack(kept, self._judge, self._topology, self.counts)
        self._racks[rack.where] = rack
        self._node_in |= dict.fromkeys(kept.nodes, rack.where)
        self._gpu_in |= dict.fromkeys(kept.gpus, rack.where)

    def restored(self, ends: Mapping[str, int], faults: Iterable[Fault]) -> None:
        """All is taken back. `ends` are the offsets behind each topic, `faults` all that are open.

        A rack is kept before the faults that changed it (`FaultPartition` sees to the order): what is open and unknown
        to its rack was open before there were verdicts, or the rack was kept by another build.
        """
        for rack in self._racks.values():
            rack.kept.through = {topic: at for topic, at in rack.kept.through.items() if at < ends.get(topic, 0)}
            rack.taken = dict(rack.kept.through)
        for fault in faults:
            home = self._home(fault)
            if home is not None and home.enter(fault, fault.last_ms):
                self._mark(home.where, _event_ms(fault), *_nodes(home, about(fault)))

    def _home(self, fault: Fault) -> Rack | None:
        """The rack with the component that a fault is about; None where others look after it, and where it is gone."""
        component, said = about(fault), Where(fault.site, fault.rack)
        kind, _, name = component.partition(":")
        if kind == "rack":
            return self._rack(said)
        known = self._gpu_in.get(component) if kind == "gpu" else self._node_in.get(name)
        if known is not None:
            return self._racks[known]
        if fault.state == "cleared" or self._topology.removed_ms(component) is not None:
            return None
        if is_nameless(component) and self._judge.fault(fault, component) == NOTHING:
            return None  # nobody is called by a slot in which nothing is wrong
        place = self._topology.place_of(component) if kind == "gpu" else None
        node = name if kind == "node" else (place.node if place else None) or fault.node
        if node != fault.node and place is not None:
            said = Where(place.site, place.rack)  # it has moved since the fault began
        where = self._place(node, said) if node else None
        if node is None or where is None or not self._owns(where.rack):
            return None
        rack = self._put_node(where, node, heard=True)
        if kind == "gpu":
            self._put_gpu(rack, node, component, fault.first_ms)
        return rack

    def _take(self, rack: Rack, heard: Heard | None) -> None:
        """Note that something has changed what is kept of a rack."""
        self._touched.add(rack.where)
        if heard is not None and heard.offset is not None:
            rack.kept.through[heard.topic] = max(heard.offset, rack.kept.through.get(heard.topic, -1))

    def _mark(self, where: Where, at_ms: int, *nodes: str) -> None:
        """Judge a rack, and nodes of it, at the next step of time."""
        behind = self._behind.setdefault(where, {})
        for node in nodes or ("",):
            behind[node] = max(at_ms, behind.get(node, 0))

    # --- what stands where --------------------------------------------------------------------------------------------

    def _settle(self, component: str, now_ms: int) -> None:
        """Put a component where the inventory says that it is."""
        kind, _, name = component.partition(":")
        place = self._topology.place_of(component)
        if self._topology.removed_ms(component) is not None:
            if kind == "gpu":
                self._drop_gpu(component, now_ms)
            else:
                self._drop_node(name, now_ms)
        elif place is not None and kind == "gpu":
            self._settle_gpu(component, place, min(place.seen_ms, now_ms))
        elif place is not None:
            self._settle_node(name, place, min(place.seen_ms, now_ms))

    def _settle_gpu(self, component: str, place: InventoryRecord, at_ms: int) -> None:
        node = place.node or ""
        where = self._node_in.get(node, Where(place.site, place.rack))
        if not node or not self._owns(where.rack):
            self._drop_gpu(component, at_ms)
            return
        rack = self._put_node(where, node, heard=place.source != DECLARED)
        if self._put_gpu(rack, node, component, at_ms) or self._is_news(rack, node):
            self._mark(where, at_ms, node)

    def _settle_node(self, node: str, place: InventoryRecord, at_ms: int) -> None:
        where, home = Where(place.site, place.rack), self._node_in.get(node)
        found = place.source != DECLARED
        if home is not None and not found:
            where = home  # whoever was heard from there knows better than a file
        if not self._owns(where.rack):
            self._drop_node(node, at_ms)
            return
        rack = self._put_node(where, node, heard=found)
        if home != where or self._is_news(rack, node):
            self._mark(where, at_ms, node)

    def _is_news(self, rack: Rack, node: str) -> bool:
        """Whether something in a node has no verdict yet, or was unheard of when it was judged last."""
        verdicts = [rack.kept.verdicts.get(component) for component in (node_id(node), *rack.gpus_in(node))]
        return any(
            verdict is None or any(one.rule == self._never_heard for one in verdict.reasons) for verdict in verdicts
        )

    def _rack(self, where: Where) -> Rack:
        if where not in self._racks:
            kept = RackHealth(site=where.site, rack=where.rack)
            self._racks[where] = Rack(kept, self._judge, self._topology, self.counts)
        return self._racks[where]

    def _put_node(self, where: Where, node: str, *, heard: bool) -> Rack:
        """A node stands in a rack; where it stood in another, it has moved with all that is in it."""
        rack, home = self._rack(where), self._node_in.get(node)
        if home == where and not rack.put_node(node, heard=heard):
            return rack
        moved = []
        if home is not None and home != where:
            old = self._racks[home]
            heard = heard or old.kept.nodes[node]
            moved = [(gpu, old.lift(gpu)) for gpu in old.gpus_in(node)]
            moved.append((node_id(node), old.lift(node_id(node))))
            self._mark(home, 0)
        rack.put_node(node, heard=heard)
        self._node_in[node] = where
        for component, lifted in moved:
            if component != node_id(node):
                rack.put_gpu(component, node)
                self._gpu_in[component] = where
            rack.put_back(component, lifted)
        self._touched.add(where)
        for component in sorted(map(gpu_id, self._topology.gpus_in(node))):
            if self._topology.removed_ms(component) is None:
                self._put_gpu(rack, node, component, 0)
        return rack

    def _put_gpu(self, rack: Rack, node: str, component: str, at_ms: int) -> bool:
        """A GPU is in a node; where it was in another, it has moved. Returns whether that is new."""
        home = self._gpu_in.get(component)
        lifted = None
        if home is not None:
            old = self._racks[home]
            before = old.kept.gpus[component]
            if (home, before) == (rack.where, node):
                return False
            lifted = old.lift(component)
            self._mark(home, at_ms, before)
        rack.put_gpu(component, node)
        self._gpu_in[component] = rack.where
        if lifted is not None:
            rack.put_back(component, lifted)
        self._touched.add(rack.where)
        return True

    def _drop_gpu(self, component: str, at_ms: int = 0) -> None:
        home = self._gpu_in.pop(component, None)
        if home is not None:
            rack = self._racks[home]
            self._mark(home, at_ms, rack.kept.gpus[component])
            rack.lift(component)
            self._touched.add(home)

    def _drop_node(self, node: str, at_ms: int) -> None:
        home = self._node_in.pop(node, None)
        if home is not None:
            rack = self._racks[home]
            for gpu in rack.gpus_in(node):
                self._drop_gpu(gpu, at_ms)
            rack.lift(node_id(node))
            self._mark(home, at_ms)
            self._touched.add(home)


def _has_taken(rack: Rack, heard: Heard | None) -> bool:
    """Whether what is kept of a rack has a record in it already: it comes once more, after a kill."""
    return heard is not None and heard.offset is not None and heard.offset <= rack.taken.get(heard.topic, -1)


def _nodes(rack: Rack, component: str) -> list[str]:
    """The nodes whose verdicts, or those of their GPUs, may change with a fault of a component."""
    kind, _, name = component.partition(":")
    if kind == "rack":
        return sorted(rack.kept.nodes)
    return [rack.kept.gpus[component] if kind == "gpu" else name]


def _event_ms(fault: Fault) -> int:
    """When that happened of which the newest record of a fault tells."""
    if fault.cleared_ms is not None:
        return fault.cleared_ms
    return fault.first_ms if fault.state == "open" else fault.last_ms
