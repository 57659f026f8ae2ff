"""InfiniBand (and RoCE) ports: state, speed beside the card's and its peers', and every counter with its meaning.

Read from a sysfs tree (`/sys/class/infiniband` or a copy of one) or from what ibstat, ibstatus and perfquery print.
The table beside this file, infiniband.toml, has the counters with their IBTA meaning, the speeds and the cards.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from producers.unreadable import Unreadable

SYSFS = Path("/sys/class/infiniband")
_TREE_DEPTH = 3
_FILE_BYTES = 4096
_RATE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(?: ?Gb/sec)?(?: \(([0-9]{1,2})X(?: ([A-Z]{3}[0-9]{0,2}))?\))?")
_CA = re.compile(r"CA '([^']{1,64})'")
_STATUS = re.compile(r"Infiniband device '([^']{1,64})' port ([0-9]{1,3}) status:")
_PERFQUERY = re.compile(
    r"# Port (extended )?counters: .{0,80}?(?:Lid ([0-9]{1,6})|dlid ([0-9]{1,6})).{0,40}? port ([0-9]{1,3})"
)
_PAIR = re.compile(r"\s*([A-Za-z][\w ]{0,40}?):[. \t]*(.*)")
_UP = "active"


class Meaning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of `counter`."""

    kind: Literal["error", "signal", "traffic", "setting"]
    perfquery: tuple[str, ...] = ()
    bits: int = 64
    words: bool = False
    meaning: str = ""


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of `board` or `family`."""

    name: str
    gbps: float


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """infiniband.toml."""

    counter: dict[str, Meaning]
    speed: dict[str, float]
    board: dict[str, Card]
    family: dict[str, Card]


@cache
def table() -> Table:
    """infiniband.toml, checked."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Table)


class Port(msgspec.Struct, kw_only=True):
    """One port as it was found: text, not yet judged."""

    place: str
    device: str
    port: int
    facts: dict[str, str] = {}
    """state, phys_state, rate, link_layer, board_id, hca_type, fw_ver, node_guid, lid; as far as told."""
    counters: dict[str, int | None] = {}


class PortReading(msgspec.Struct, frozen=True, kw_only=True):
    """One port, beside its card and its peers. What was not told, or could not be read, is None: never 0."""

    source: str = "infiniband"
    component: str
    node: str
    device: str
    port: int
    place: str
    link_layer: str | None
    state: str | None
    """down, init, armed, active."""
    physical_state: str | None
    """linkup, polling, disabled, sleep, linkerrorrecovery, …"""
    rate_gbps: float | None
    width: int | None
    """Lanes."""
    speed: str | None
    """Speed of a lane: EDR, HDR, NDR, …"""
    rate_name: str | None
    """What a fabric's engineers call the rate: NDR, NDR200 (two lanes), HDR100."""
    card: str | None
    card_gbps: float | None
    """What the card is sold for; None where its board is not in the table."""
    peer_gbps: float | None
    """The commonest rate of the active ports of the same kind of card in this node."""
    peers: int
    """How many ports of the same kind of card there are beside this one."""
    expected_gbps: float | None
    expected_by: str | None
    """card, peers or family: who says so."""
    degraded: bool | None
    """Down or slower than its peers (without peers: than its card); None where nothing can be said."""
    reason: str
    """One sentence about `degraded`."""
    errors: dict[str, int | None]
    signals: dict[str, int | None]
    traffic: dict[str, int | None]
    meanings: dict[str, str]
    """Of the errors and signals that are not 0."""
    saturated: tuple[str, ...]
    """Counters that stand at the end of their range: they mean "at least"."""
    board_id: str | None
    hca_type: str | None
    firmware: str | None
    guid: str | None
    lid: int | None


Decoded = PortReading | Unreadable


def read_tree(path: Path, node: str = "unknown") -> Iterator[Decoded]:
    """Every port under a sysfs tree: `/sys/class/infiniband`, one device of it, or a directory that holds copies."""
    found = False
    for root in _classes(path, _TREE_DEPTH):
        ports: list[Port] = []
        for device in _directories(root):
            yield from _device(device, ports)
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
        into.counters[counter] = _number(value)
        if into.counters[counter] is None:
            place = f"line {number}"
            problems.append(Unreadable(place=place, what=f"the counter {name}", reason=f"found {value[:60]!r}"))


def _classes(path: Path, depth: int) -> Iterator[Path]:
    """Directories that hold devices; a device itself stands for the directory around it."""
    if (path / "ports").is_dir():
        yield path
        return
    inner = _directories(path)
    if any((device / "ports").is_dir() for device in inner):
        yield path
    elif depth:
        for directory in inner:
            if not directory.is_symlink():  # sysfs is full of circles
                yield from _classes(directory, depth - 1)


def _directories(path: Path) -> list[Path]:
    """In the order of their numbers: mlx5_2 before mlx5_10."""
    if (path / "ports").is_dir():
        return [path]
    try:
        found = [entry for entry in path.iterdir() if entry.is_dir()]
    except OSError:
        return []
    return sorted(found, key=lambda entry: [int(p) if p.isdecimal() else p for p in re.split(r"([0-9]+)", entry.name)])


def _device(device: Path, ports: list[Port]) -> Iterator[Unreadable]:
    facts: dict[str, str] = {}
    for name in ("board_id", "hca_type", "fw_ver", "node_guid"):
        yield from _fact(device / name, name, facts, needed=False)
    for directory in _directories(device / "ports"):
        if not directory.name.isdecimal():
            continue
        port = Port(place=str(directory), device=device.name, port=int(directory.name), facts=dict(facts))
        for name in ("state", "phys_state", "rate", "link_layer", "lid"):
            yield from _fact(directory / name, name, port.facts, needed=name in {"state", "rate"})
        for group in ("counters", "hw_counters"):
            yield from _counters(directory / group, port)
        ports.append(port)


def _fact(path: Path, name: str, facts: dict[str, str], *, needed: bool) -> Iterator[Unreadable]:
    try:
        facts[name] = _read(path)
    except FileNotFoundError as error:
        if needed:
            yield Unreadable(place=str(path), what=f"the port's {name}", reason=_why(error))
    except OSError as error:
        yield Unreadable(place=str(path), what=name, reason=_why(error))


def _counters(directory: Path, port: Port) -> Iterator[Unreadable]:
    try:
        files = sorted(entry for entry in directory.iterdir() if entry.is_file())
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            yield Unreadable(place=str(directory), what="counters", reason=_why(error))
        return
    for file in files:
        port.counters[file.name] = None
        try:
            text = _read(file)
        except OSError as error:
            yield Unreadable(place=str(file), what="a counter", reason=_why(error))
            continue
        port.counters[file.name] = _number(text)
        if port.counters[file.name] is None and not text.startswith("N/A"):  # the kernel's word for a port without
            yield Unreadable(place=str(file), what="a counter", reason=f"found {text[:60]!r}")


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_FILE_BYTES).decode(errors="replace").strip()


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,19}", text) and int(text) < 1 << 63 else None


def judge(ports: Sequence[Port], node: str) -> Iterator[PortReading]:
    """The ports of one node, each beside its card and its peers."""
    rates = [_rate(port.facts.get("rate")) for port in ports]
    kinds = [(port.facts.get("board_id") or port.facts.get("hca_type"), port.facts.get("link_layer")) for port in ports]
    for index, port in enumerate(ports):
        others = [at for at in range(len(ports)) if at != index and kinds[at] == kinds[index] and kinds[at][0]]
        active = [rate for at in others if _state(ports[at].facts.get("state")) == _UP and (rate := rates[at][0])]
        yield _reading(port, node, rates[index], len(others), _commonest(active))


def _commonest(rates: Sequence[float]) -> float | None:
    """Of equally common ones the highest: better to look at a good port once than to miss a slow one."""
    counts = Counter(rates)
    return max(counts, key=lambda rate: (counts[rate], rate), default=None)


def _rate(text: str | None) -> tuple[float | None, int | None, str | None]:
    """Gigabits per second, lanes and speed of `400 Gb/sec (4X NDR)`; ibstat's bare number names no lanes."""
    match = _RATE.fullmatch((text or "").strip())
    if match is None:
        return None, None, None
    return float(match[1]), int(match[2]) if match[2] else None, match[3]


def _rate_name(width: int | None, speed: str | None) -> str | None:
    """NDR of four lanes is NDR; of fewer it is named with its rate."""
    lane = table().speed.get(speed or "")
    if speed is None or lane is None or width is None:
        return speed
    return speed if width == 4 else f"{speed}{width * lane:g}"


def _state(text: str | None) -> str | None:
    """`active` of `4: ACTIVE` and of `Active`."""
    return None if not text else text.rpartition(":")[2].strip().lower() or None


def _reading(
    port: Port,
    node: str,
    rate: tuple[float | None, int | None, str | None],
    peers: int,
    peer_gbps: float | None,
) -> PortReading:
    facts = port.facts
    gbps, width, speed = rate
    board = table().board.get(facts.get("board_id", ""))
    family = table().family.get(facts.get("hca_type", ""))
    told = ((board.gbps if board else None, "card"), (peer_gbps, "peers"), (family.gbps if family else None, "family"))
    expected, by = next((pair for pair in told if pair[0]), (None, None))
    state = _state(facts.get("state"))
    degraded, reason = _degraded(state, gbps, peer_gbps, board.gbps if board else None)
    groups: dict[str, dict[str, int | None]] = {"error": {}, "signal": {}, "traffic": {}, "setting": {}}
    meanings: dict[str, str] = {}
    saturated: list[str] = []
    for name, value in sorted(port.counters.items()):
        row = table().counter.get(name) or Meaning(kind="signal", meaning="A counter that our table does not know.")
        if value and row.meaning:
            meanings[name] = row.meaning
        if value is not None and row.bits < 64 and value == (1 << row.bits) - 1:
            saturated.append(name)
            end = f"It stands at the end of its {row.bits} bits: {value} or more."
            meanings[name] = f"{meanings[name]} {end}" if name in meanings else end
        if row.words:
            groups[row.kind][f"{name}_bytes"] = None if value is None or value >= 1 << 60 else value * 4
        else:
            groups[row.kind][name] = value
    return PortReading(
        component=f"port:{node}/{port.device}/{port.port}",
        node=node,
        device=port.device,
        port=port.port,
        place=port.place,
        link_layer=facts.get("link_layer"),
        state=state,
        physical_state=_state(facts.get("phys_state")),
        rate_gbps=gbps,
        width=width,
        speed=speed,
        rate_name=_rate_name(width, speed),
        card=board.name if board else family.name if family else None,
        card_gbps=board.gbps if board else None,
        peer_gbps=peer_gbps,
        peers=peers,
        expected_gbps=expected,
        expected_by=by,
        degraded=degraded,
        reason=reason,
        errors=groups["error"],
        signals=groups["signal"],
        traffic=groups["traffic"],
        meanings=meanings,
        saturated=tuple(saturated),
        board_id=facts.get("board_id"),
        hca_type=facts.get("hca_type"),
        firmware=facts.get("fw_ver"),
        guid=facts.get("node_guid") or facts.get("port_guid"),
        lid=int(facts["lid"], 0)
        if re.fullmatch(r"0x[0-9a-fA-F]{1,4}|[1-9]?[0-9]{0,5}[0-9]", facts.get("lid", ""))
        else None,
    )


def _degraded(
    state: str | None, gbps: float | None, peer_gbps: float | None, card_gbps: float | None
) -> tuple[bool | None, str]:
    if state is None:
        return None, "Its state is not told."
    if state != _UP:
        if peer_gbps is None:
            return None, f"It is {state}; nothing of its kind in this node is active, so it may not be in use."
        return True, f"It is {state} while its peers are active."
    reference = peer_gbps or card_gbps
    if gbps is None or reference is None:
        return None, "It is active; there is neither a rate nor a peer to compare it with."
    whose = "its peers have" if peer_gbps else "its card is made for"
    if gbps < reference:
        return True, f"It runs at {gbps:g} Gb/s where {whose} {reference:g}."
    if card_gbps and gbps < card_gbps:
        return False, f"It runs at {gbps:g} Gb/s like its peers, though its card is made for {card_gbps:g}."
    return False, f"It runs at {gbps:g} Gb/s, as {whose}."
