"""The ports of one node, each beside its card and its peers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from producers.infiniband.port import Port, PortReading
from producers.infiniband.tables import Meaning, table
from schemas.ids import port_id

UP = "active"
_RATE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(?: ?Gb/sec)?(?: \(([0-9]{1,2})X(?: ([A-Z]{3}[0-9]{0,2}))?\))?")


def judge(ports: Sequence[Port], node: str) -> Iterator[PortReading]:
    """The ports of one node, each beside its card and its peers."""
    rates = [_rate(port.facts.get("rate")) for port in ports]
    kinds = [(port.facts.get("board_id") or port.facts.get("hca_type"), port.facts.get("link_layer")) for port in ports]
    for index, port in enumerate(ports):
        others = [at for at in range(len(ports)) if at != index and kinds[at] == kinds[index] and kinds[at][0]]
        active = [rate for at in others if _state(ports[at].facts.get("state")) == UP and (rate := rates[at][0])]
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
        component=port_id(node, port.device, port.port),
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
        pci=facts.get("pci"),
        lid=int(facts["lid"], 0)
        if re.fullmatch(r"0x[0-9a-fA-F]{1,4}|[1-9]?[0-9]{0,5}[0-9]", facts.get("lid", ""))
        else None,
    )


def _degraded(
    state: str | None, gbps: float | None, peer_gbps: float | None, card_gbps: float | None
) -> tuple[bool | None, str]:
    if state is None:
        return None, "Its state is not told."
    if state != UP:
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
