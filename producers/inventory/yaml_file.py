"""An inventory from YAML: racks and templates of racks, which stand for many nodes each. README.md shows the form.

Nothing of the file is made into objects: nothing is executed, and a serial number keeps its leading zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from producers.inventory.declared import COOLING, LEAF_SWITCH, PDU
from producers.inventory.draft import Draft, Said
from producers.inventory.names import BadNameError, expand, fill, has_placeholder, numbers
from producers.inventory.yaml_nodes import QUOTE, YamlError, YamlNode, compose

_NODE_TEXTS = ("leaf_switch", "pdu", "nvlink_domain", "sku")
_OF_NODES = (*_NODE_TEXTS, "gpus_per_node")
_RACK_KEYS = ("site", "units", "nodes", "slots", *_OF_NODES, "leaf_switches", "pdus", "cooling")
_LISTS = {"leaf_switches": LEAF_SWITCH, "pdus": PDU, "cooling": COOLING}
_TOP_KEYS = ("site", "sites", "templates", "racks", "nodes", "gpus", *_LISTS)
_KEYS = {
    "a template": _RACK_KEYS,
    "a rack": ("name", "template", *_RACK_KEYS),
    "a node": ("name", "rack", "slot", "chassis_serial", *_OF_NODES, "gpus"),
    "a GPU": ("serial", "node", "index", "slot", "uuid", "sku"),
    "a device": ("name", "rack"),
}


class Value(NamedTuple):
    """A YAML node with the line of its key (lines count from 1)."""

    node: YamlNode
    line: int


def read(text: str, draft: Draft) -> None:
    """Everything that the text declares, into the draft. Raises nothing: what is wrong goes to its findings."""
    try:
        root = compose(text)
    except YamlError as error:
        draft.findings.add(error.line, str(error))
        return
    if root is not None:
        _File(draft).read(Value(root, root.line))


class _File:
    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._findings = draft.findings
        self._site: Said | None = None
        self._sites: list[str] = []
        self._templates: dict[str, dict[str, Value]] = {}
        self._detailed: dict[str, int] = {}
        """Nodes under `nodes:` and their lines."""

    def read(self, root: Value) -> None:
        top = self._mapping(root, "the file", _TOP_KEYS)
        self._sites = [said.value for said in self._names(top.get("sites"), {})]
        self._site = self._site_of(top.get("site"))
        for name, value in self._mapping(top.get("templates"), "templates", None).items():
            self._templates[name] = self._mapping(value, "a template", _RACK_KEYS)
        for entry in self._entries(top.get("racks"), "a rack"):
            self._rack(entry)
        for key, kind in _LISTS.items():
            for entry in self._entries(top.get(key), "a device"):
                self._device(kind, entry)
        for entry in self._entries(top.get("nodes"), "a node"):
            self._node(entry)
        for entry in self._entries(top.get("gpus"), "a GPU"):
            self._gpu(entry)

    # --- racks -------------------------------------------------------------------------------------------------------

    def _rack(self, own: dict[str, Value]) -> None:
        entry = own
        if (wanted := self._text(own.get("template"))) is not None:
            template = self._templates.get(str(wanted.value))
            if template is not None:
                entry = {**template, **own}
            else:
                meant = self._findings.meant(str(wanted.value), self._templates)
                self._findings.add(wanted.line, f'there is no template "{wanted.value}"{meant}')
        racks = self._names(self._required(own, "name", "a rack"), {})
        site = self._site_of(entry.get("site")) or self._site
        units = self._number(entry.get("units"))
        per_rack = [{"rack": rack.value, "site": str(site.value) if site else ""} for rack in racks]
        for rack in racks:
            facts = {"site": site, "units": units}
            self._draft.rack(rack.value, rack.line, {key: said for key, said in facts.items() if said})
        if not racks:
            return
        for key, kind in _LISTS.items():
            for names, filled in zip(self._dealt(entry.get(key), per_rack, key), per_rack, strict=True):
                for said in names:
                    self._draft.device(kind, said.value, said.line, {"rack": Said(filled["rack"], said.line)})
        self._nodes_of(entry, per_rack)

    def _nodes_of(self, entry: dict[str, Value], per_rack: Sequence[Mapping[str, str]]) -> None:
        slots = self._numbers(entry.get("slots"))
        gpus = self._number(entry.get("gpus_per_node"))
        for names, filled in zip(self._dealt(entry.get("nodes"), per_rack, "nodes"), per_rack, strict=True):
            if slots and len(slots) != len(names):
                self._findings.add(
                    entry["slots"].line,
                    f"{len(slots)} slots for {len(names)} nodes of rack {filled['rack']}; give one for each node",
                    rule="slots",
                )
            for place, said in enumerate(names):
                facts: dict[str, Said] = {"rack": Said(filled["rack"], said.line)}
                if place < len(slots):
                    facts["slot"] = slots[place]
                if gpus:
                    facts["gpus_per_node"] = gpus
                for key in _NODE_TEXTS:
                    if (one := self._in_turn(entry.get(key), key, place, {**filled, "node": said.value})) is not None:
                        facts[key] = one
                self._draft.node(said.value, said.line, facts)

    def _dealt(self, value: Value | None, per_rack: Sequence[Mapping[str, str]], what: str) -> list[list[_Name]]:
        """The names that belong to each rack: with {rack} in them each rack has its own, else all are dealt out."""
        if value is None:
            return [[] for _ in per_rack]
        texts = self._texts(value)
        if any(has_placeholder(said.value, "rack") for said in texts):
            return [self._names(value, filled) for filled in per_rack]
        names = self._names(value, {"site": per_rack[0]["site"]} if per_rack else {})
        each, rest = divmod(len(names), len(per_rack))
        if rest:
            self._findings.add(
                value.line,
                f"{len(names)} {what.replace('_', ' ')} cannot be dealt out evenly over {len(per_rack)} racks; give as "
                "many for each, or put {rack} into the name",
            )
            return [[] for _ in per_rack]
        return [names[place * each : (place + 1) * each] for place in range(len(per_rack))]

    def _in_turn(self, value: Value | None, key: str, place: int, filled: Mapping[str, str]) -> Said | None:
        """The value for the node at a place of its rack: of several, the nodes take one after the other."""
        if value is None:
            return None
        if key == "sku":
            return self._text(value)
        names = self._names(value, filled)
        return Said(*names[place % len(names)]) if names else None

    # --- the rest ----------------------------------------------------------------------------------------------------

    def _device(self, kind: str, entry: dict[str, Value]) -> None:
        names = self._names(self._required(entry, "name", f"a {kind.replace('_', ' ')}"), {})
        racks = self._zipped(entry.get("rack"), len(names), "racks")
        for name, rack in zip(names, racks, strict=True):
            self._draft.device(kind, name.value, name.line, {"rack": rack} if rack else {})

    def _node(self, entry: dict[str, Value]) -> None:
        names = self._names(self._required(entry, "name", "a node"), {})
        columns = {
            key: self._zipped(entry.get(key), len(names), f"values of {key}")
            for key in ("rack", "chassis_serial", *_NODE_TEXTS)
        }
        slots = self._numbers(entry.get("slot"))
        if slots and len(slots) != len(names):
            self._findings.add(entry["slot"].line, f"{len(slots)} slots for {len(names)} nodes; give one for each")
            slots = []
        gpus = self._number(entry.get("gpus_per_node"))
        for place, name in enumerate(names):
            facts = {key: said for key, column in columns.items() if (said := column[place])}
            if slots:
                facts["slot"] = slots[place]
            if gpus:
                facts["gpus_per_node"] = gpus
            if name.value in self._detailed:
                at = self._detailed[name.value]
                self._findings.add(
                    name.line, f"node {name.value} stands twice under `nodes:` (before in line {at}); make it one entry"
                )
            self._detailed.setdefault(name.value, name.line)
            self._draft.node(name.value, name.line, facts, detail=True)
        if (value := entry.get("gpus")) is None:
            return
        if len(names) != 1:
            self._findings.add(value.line, "gpus lists the serials of one node; give each of these nodes its own entry")
            return
        for index, serial in enumerate(self._texts(value)):
            self._draft.gpu(
                serial.value,
                serial.line,
                {"node": Said(names[0].value, names[0].line), "index": Said(index, serial.line)},
            )

    def _gpu(self, entry: dict[str, Value]) -> None:
        serial = self._text(self._required(entry, "serial", "a GPU"))
        if serial is None:
            return
        facts = {key: self._text(entry.get(key)) for key in ("node", "uuid", "sku")}
        facts |= {key: self._number(entry.get(key)) for key in ("index", "slot")}
        self._draft.gpu(str(serial.value), serial.line, {key: said for key, said in facts.items() if said})

    # --- values ------------------------------------------------------------------------------------------------------

    def _site_of(self, value: Value | None) -> Said | None:
        said = self._text(value)
        if said is not None and self._sites and said.value not in self._sites:
            meant = self._findings.meant(str(said.value), self._sites)
            self._findings.add(said.line, f'site "{said.value}" is not among `sites:`{meant}')
        return said

    def _mapping(self, value: Value | None, what: str, keys: Sequence[str] | None) -> dict[str, Value]:
        """Keys and values of a mapping; unknown keys and those that come twice are problems. `keys` None: any."""
        if value is None or value.node.is_null:
            return {}
        if value.node.kind != "mapping":
            self._findings.add(value.node.line, f"{what} is a {_kind(value.node)}; write `key: value` lines")
            return {}
        found: dict[str, Value] = {}
        for key, node in zip(value.node.items[::2], value.node.items[1::2], strict=True):
            if key.kind != "word":
                self._findings.add(key.line, f"a {_kind(key)} is no key; {QUOTE}")
            elif key.word in found:
                self._findings.add(key.line, f"{key.word} is given twice (before in line {found[key.word].line})")
            elif keys is not None and key.word not in keys:
                self._findings.add(key.line, f'{what} has no key "{key.word}"{self._findings.meant(key.word, keys)}')
            else:
                found[key.word] = Value(node, key.line)
        return found

    def _entries(self, value: Value | None, what: str) -> Iterator[dict[str, Value]]:
        if value is None or value.node.is_null:
            return
        if value.node.kind != "list":
            self._findings.add(value.node.line, f"a list is wanted here; begin each entry with `- {_KEYS[what][0]}:`")
            return
        for node in value.node.items:
            yield self._mapping(Value(node, node.line), what, _KEYS[what])

    def _required(self, entry: dict[str, Value], key: str, what: str) -> Value | None:
        if key not in entry and entry:
            line = min(value.line for value in entry.values())
            self._findings.add(line, f"{what} has no {key}; give `{key}:`")
        return entry.get(key)

    def _texts(self, value: Value | None) -> list[_Name]:
        """One or several words."""
        if value is None:
            return []
        nodes = value.node.items if value.node.kind == "list" else [value.node]
        return [_Name(node.word, node.line) for node in nodes if self._is_word(node)]

    def _names(self, value: Value | None, filled: Mapping[str, str]) -> list[_Name]:
        """One or several names, with ranges written out."""
        names: list[_Name] = []
        for said in self._texts(value):
            try:
                names += [_Name(name, said.line) for name in expand(fill(said.value, filled))]
            except BadNameError as error:
                self._findings.add(said.line, str(error), rule="name")
        return names

    def _zipped(self, value: Value | None, count: int, what: str) -> list[Said | None]:
        """One value for each of `count` names: as many as there are, or one for all."""
        if value is None:
            return [None] * count
        found = self._texts(value) if what.endswith(("sku", "chassis_serial")) else self._names(value, {})
        if len(found) == 1:
            found *= count
        if len(found) != count:
            if found and count:
                self._findings.add(value.line, f"{len(found)} {what} for {count} names; give one, or one for each")
            return [None] * count
        return [Said(*one) for one in found]

    def _text(self, value: Value | None) -> Said | None:
        if value is None or not self._is_word(value.node):
            return None
        return Said(value.node.word, value.node.line)

    def _number(self, value: Value | None) -> Said | None:
        found = self._numbers(value)
        if value is not None and len(found) > 1:
            self._findings.add(value.line, f"{len(found)} numbers where one is wanted")
        return found[0] if found else None

    def _numbers(self, value: Value | None) -> list[Said]:
        found: list[Said] = []
        for said in self._texts(value):
            try:
                found += [Said(number, said.line) for number in numbers(said.value)]
            except BadNameError as error:
                self._findings.add(said.line, str(error))
        return found

    def _is_word(self, node: YamlNode) -> bool:
        if node.kind != "word":
            self._findings.add(node.line, f"a {_kind(node)} stands where a single value is wanted; {QUOTE}")
        elif node.is_boolean:
            self._findings.add(node.line, f'YAML reads {node.word} as true or false; quote it: "{node.word}"')
        elif not node.word or node.is_null:
            self._findings.add(node.line, "a value is missing; give it or remove the key")
        else:
            return True
        return False


class _Name(NamedTuple):
    value: str
    line: int


def _kind(node: YamlNode) -> str:
    return {"mapping": "mapping { }", "list": "list [ ]"}.get(node.kind, "single value")
