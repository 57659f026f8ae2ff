"""An inventory while it is read: what the file says and at which line, then whether it can all be true at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from producers.inventory.declared import LEAF_SWITCH, PDU, Device, Gpu, Inventory, Node, Rack
from producers.inventory.names import BadNameError, check
from producers.inventory.problems import Findings

Fact = str | int
K = TypeVar("K")


class Said(NamedTuple):
    """One fact, and the line that says it."""

    value: Fact
    line: int


@dataclass(slots=True)
class _Draft:
    """A component and what is said of it so far."""

    line: int
    facts: dict[str, Said] = field(default_factory=dict)

    def text(self, name: str) -> str | None:
        said = self.facts.get(name)
        return None if said is None else str(said.value)

    def number(self, name: str) -> int | None:
        said = self.facts.get(name)
        return said.value if said is not None and isinstance(said.value, int) else None

    def line_of(self, name: str) -> int:
        said = self.facts.get(name)
        return said.line if said is not None else self.line


class Draft:
    """What a reader has understood. `finish` checks the whole; problems of any kind are gathered, none is raised."""

    def __init__(self) -> None:
        self.findings = Findings()
        self._racks: dict[str, _Draft] = {}
        self._devices: dict[tuple[str, str], _Draft] = {}
        self._nodes: dict[str, _Draft] = {}
        self._gpus: dict[str, _Draft] = {}

    def rack(self, name: str, line: int, facts: Mapping[str, Said], *, again: bool = False) -> None:
        """A rack; `again` where it may have been mentioned before, and must then be the same."""
        self._add("rack", self._racks, name, name, line, facts, again=again)

    def device(self, kind: str, name: str, line: int, facts: Mapping[str, Said], *, implied: bool = False) -> None:
        """A leaf switch, PDU or cooler; `implied` where a node that hangs on it was all that mentioned it."""
        if not (implied and (kind, name) in self._devices):
            self._add(kind.replace("_", " "), self._devices, (kind, name), name, line, facts, again=False)

    def node(
        self, name: str, line: int, facts: Mapping[str, Said], *, again: bool = False, detail: bool = False
    ) -> None:
        """A node; a `detail` goes before what its rack says of all nodes, but for the rack itself."""
        if detail and name in self._nodes:
            known = self._nodes[name]
            self._same("node", name, known, {key: said for key, said in facts.items() if key == "rack"})
            known.facts.update({key: said for key, said in facts.items() if key != "rack"})
        else:
            self._add("node", self._nodes, name, name, line, facts, again=again)

    def gpu(self, serial: str, line: int, facts: Mapping[str, Said]) -> None:
        """A GPU with its serial."""
        self._add("GPU", self._gpus, serial, serial, line, facts, again=False)

    def has_rack(self, name: str) -> bool:
        """Whether a rack was named so far."""
        return name in self._racks

    def _add(
        self,
        what: str,
        known: dict[K, _Draft],
        key: K,
        name: str,
        line: int,
        facts: Mapping[str, Said],
        *,
        again: bool,
    ) -> None:
        try:
            check(name)
        except BadNameError as error:
            self.findings.add(line, str(error), rule="bad name")
            return
        before = known.get(key)
        if before is None:
            known[key] = _Draft(line, dict(facts))
        elif again:
            self._same(what, name, before, facts)
            before.facts = {**facts, **before.facts}
        else:
            self._twice(what, name, before, line, facts)

    def _twice(self, what: str, name: str, before: _Draft, line: int, facts: Mapping[str, Said]) -> None:
        if what == "node" and "rack" in facts and before.text("rack") not in (None, facts["rack"].value):
            self._same(what, name, before, {"rack": facts["rack"]})
        elif what == "GPU":
            at = [f"{one.get('node', Said('?', 0)).value}" for one in (before.facts, facts)]
            where = f"in node {at[0]}" if at[0] == at[1] else f"in nodes {at[0]} and {at[1]}"
            self.findings.add(
                line,
                f"GPU serial {name} stands twice, {where} (before in line {before.line}); "
                "a serial is one GPU: correct one of them",
                rule="gpu twice",
            )
        else:
            self.findings.add(
                line,
                f"{what} {name} is declared twice (before in line {before.line}); remove one",
                rule=f"{what} twice",
            )

    def _same(self, what: str, name: str, before: _Draft, facts: Mapping[str, Said]) -> None:
        for key, said in facts.items():
            other = before.facts.get(key)
            if other is None or other.value == said.value:
                continue
            where = f"{other.value} in line {other.line}" if other.line != said.line else str(other.value)
            if what == "node" and key == "rack":
                text = f"node {name} is in two racks: {said.value} here and {where}; it can be in one"
            else:
                text = f"{what} {name} has two {key.replace('_', ' ')}s: {said.value} here and {where}; give one"
            self.findings.add(said.line, text, rule=f"{what} {key} twice")

    def finish(self) -> Inventory:
        """The inventory. Where `findings` holds something afterwards, it is not one."""
        if not (self._racks or self._nodes or self._devices or self._gpus or self.findings):
            self.findings.add(1, "nothing is declared; begin with `racks:` (see producers/inventory/README.md)")
        for name, rack in self._racks.items():
            if "site" not in rack.facts:
                self.findings.add(
                    rack.line,
                    f"rack {name} has no site; give `site:` at the top of the file or in the rack",
                    rule="site",
                )
        for (kind, name), device in self._devices.items():
            self._refers(device, "rack", "rack", self._racks, f"{kind.replace('_', ' ')} {name}", required=True)
        listed = {kind: {device for of, device in self._devices if of == kind} for kind in (LEAF_SWITCH, PDU)}
        for name, node in self._nodes.items():
            self._refers(node, "rack", "rack", self._racks, f"node {name}", required=True)
            for kind, known in listed.items():
                self._refers(node, kind, kind.replace("_", " "), known, f"node {name}")
        for serial, gpu in self._gpus.items():
            self._refers(gpu, "node", "node", self._nodes, f"GPU {serial}", required=True)
        self._slots()
        self._serials()
        self._gpu_places()
        return Inventory(
            racks=tuple(
                Rack(name, rack.text("site") or "", rack.number("units")) for name, rack in self._racks.items()
            ),
            devices=tuple(
                Device(kind, name, device.text("rack") or "") for (kind, name), device in self._devices.items()
            ),
            nodes=tuple(_node(name, node) for name, node in self._nodes.items()),
            gpus=tuple(_gpu(serial, gpu) for serial, gpu in self._gpus.items()),
        )

    def _refers(
        self, one: _Draft, key: str, what: str, known: Collection[str], who: str, *, required: bool = False
    ) -> None:
        name = one.text(key)
        if name is None:
            if required:
                self.findings.add(one.line, f"{who} has no {what}; give `{key}:`", rule=f"no {key}")
        elif name not in known:
            rule = f"unknown {key}"
            line = one.line_of(key)
            list_name = {"rack": "racks", "node": "nodes", LEAF_SWITCH: "leaf_switches", PDU: "pdus"}[key]
            text = f'{who} is in {what} "{name}"' if key in {"rack", "node"} else f'{who} hangs on {what} "{name}"'
            meant = self.findings.meant(name, known)
            self.findings.add(
                line, f"{text}, which is not declared{meant or f'; declare it under `{list_name}:`'}", rule=rule
            )

    def _slots(self) -> None:
        taken: dict[tuple[str, int], tuple[str, int]] = {}
        for name, node in self._nodes.items():
            rack, slot = node.text("rack"), node.number("slot")
            if rack is None or slot is None:
                continue
            line = node.line_of("slot")
            units = self._racks[rack].number("units") if rack in self._racks else None
            if slot < 1 or (units is not None and slot > units):
                top = f"rack {rack} has {units}" if units else "slots count from 1"
                self.findings.add(line, f"node {name} is in slot {slot}, but {top}; correct one", rule="slot range")
            if (rack, slot) in taken:
                other, at = taken[rack, slot]
                self.findings.add(
                    line,
                    f"slot {slot} of rack {rack} is used twice: by {name} and by {other} (line {at}); move one",
                    rule="slot twice",
                )
            taken.setdefault((rack, slot), (name, line))

    def _serials(self) -> None:
        seen: dict[str, tuple[str, int]] = {}
        for name, node in self._nodes.items():
            serial = node.text("chassis_serial")
            if serial is None:
                continue
            line = node.line_of("chassis_serial")
            if serial in seen:
                other, at = seen[serial]
                self.findings.add(
                    line,
                    f"chassis serial {serial} stands twice: node {name} here and node {other} in line {at}; "
                    "correct one, or leave it out where nodes share a chassis",
                    rule="chassis serial twice",
                )
            seen.setdefault(serial, (name, line))

    def _gpu_places(self) -> None:
        taken: dict[tuple[str, str, int], tuple[str, int]] = {}
        for serial, gpu in self._gpus.items():
            node = gpu.text("node") or ""
            most = self._nodes[node].number("gpus_per_node") if node in self._nodes else None
            for key in ("index", "slot"):
                number = gpu.number(key)
                if number is None:
                    continue
                if key == "index" and most is not None and number >= most:
                    self.findings.add(
                        gpu.line_of(key),
                        f"GPU {serial} has index {number}, but node {node} has {most} GPUs, 0 to {most - 1}; "
                        "correct the index or gpus_per_node",
                        rule="index range",
                    )
                if (node, key, number) in taken:
                    other, at = taken[node, key, number]
                    self.findings.add(
                        gpu.line_of(key),
                        f"{key} {number} of node {node} is used twice: by GPU {serial} and GPU {other} (line {at})",
                        rule=f"{key} twice",
                    )
                taken.setdefault((node, key, number), (serial, gpu.line_of(key)))


def _node(name: str, node: _Draft) -> Node:
    return Node(
        name=name,
        rack=node.text("rack") or "",
        slot=node.number("slot"),
        chassis_serial=node.text("chassis_serial"),
        leaf_switch=node.text("leaf_switch"),
        pdu=node.text("pdu"),
        nvlink_domain=node.text("nvlink_domain"),
        sku=node.text("sku"),
        gpus=node.number("gpus_per_node"),
    )


def _gpu(serial: str, gpu: _Draft) -> Gpu:
    return Gpu(
        serial=serial,
        node=gpu.text("node") or "",
        index=gpu.number("index"),
        slot=gpu.number("slot"),
        uuid=gpu.text("uuid"),
        sku=gpu.text("sku"),
    )
