"""What a sysfs tree holds, or ibstat, ibstatus and perfquery print, as readings of ports; never raises."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from producers.infiniband.judge import judge
from producers.infiniband.port import Decoded, Port, as_counter
from producers.infiniband.tables import table
from producers.infiniband.tree import classes, read_class
from producers.unreadable import Unreadable

_CA = re.compile(r"CA '([^']{1,64})'")
_STATUS = re.compile(r"Infiniband device '([^']{1,64})' port ([0-9]{1,3}) status:")
_PERFQUERY = re.compile(
    r"# Port (extended )?counters: .{0,80}?(?:Lid ([0-9]{1,6})|dlid ([0-9]{1,6})).{0,40}? port ([0-9]{1,3})"
)
_PAIR = re.compile(r"\s*([A-Za-z][\w ]{0,40}?):[. \t]*(.*)")


def read_tree(path: Path, node: str = "unknown") -> Iterator[Decoded]:
    """Every port under a sysfs tree: `/sys/class/infiniband`, one device of it, or a directory that holds copies."""
    found = False
    for root in classes(path):
        ports: list[Port] = []
        yield from read_class(root, ports)
        found = found or bool(ports)
        yield from judge(ports, node)
    if not found:
        yield Unreadable(place=str(path), what="InfiniBand devices", reason="no DEVICE/ports/NUMBER in there")


def decode(lines: Iterable[tuple[int, str]], node: str = "unknown") -> Iterator[Decoded]:
    """The ports in the text of ibstat, ibstatus or perfquery, of one node; never raises."""
    ports: list[Port] = []
    problems: list[Unreadable] = []
    card: dict[str, str] = {}
    port: Port | None = None
    number = 0
    for number, raw in lines:
        line = raw.rstrip()
        if match := _CA.match(line.strip()):
            card, port = {"device": match[1]}, None
        elif card and (match := re.fullmatch(r"\s*Port ([0-9]{1,3}):", line)):
            port = Port(place=f"line {number}", device=card["device"], port=int(match[1]), facts=dict(card))
            ports.append(port)
        elif match := _STATUS.match(line.strip()):
            port = Port(place=f"line {number}", device=match[1], port=int(match[2]))
            card = {}
            ports.append(port)
        elif match := _PERFQUERY.match(line.strip()):
            lid = match[2] or match[3]
            port = Port(place=f"line {number}", device=f"lid{lid}", port=int(match[4]), facts={"lid": lid})
            card = {}
            ports.append(port)
        elif match := _PAIR.fullmatch(line):
            _pair(number, match[1], match[2].strip(), card if port is None else port, problems)
    yield from problems
    yield from judge(ports, node)
    if not ports:
        place = f"line {max(number, 1)}"
        yield Unreadable(place=place, what="InfiniBand ports", reason="no port of ibstat, ibstatus or perfquery in it")


_FACTS = {
    "CA type": "hca_type", "Firmware version": "fw_ver", "Node GUID": "node_guid", "Port GUID": "port_guid",
    "State": "state", "state": "state", "Physical state": "phys_state", "phys state": "phys_state",
    "Rate": "rate", "rate": "rate", "Link layer": "link_layer", "link_layer": "link_layer",
    "Base lid": "lid", "base lid": "lid",
}  # fmt: skip


@cache
def _perfquery_names() -> dict[str, str]:
    return {name: key for key, row in table().counter.items() for name in row.perfquery}


def _pair(number: int, name: str, value: str, into: Port | dict[str, str], problems: list[Unreadable]) -> None:
    if isinstance(into, dict):
        if into and name in _FACTS:
            into[_FACTS[name]] = value
        return
    if name in _FACTS:
        into.facts[_FACTS[name]] = value
    elif counter := _perfquery_names().get(name):
        into.counters[counter] = as_counter(value)
        if into.counters[counter] is None:
            place = f"line {number}"
            problems.append(Unreadable(place=place, what=f"the counter {name}", reason=f"found {value[:60]!r}"))
