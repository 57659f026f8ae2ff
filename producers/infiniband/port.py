"""An InfiniBand or RoCE port: as it was found, and as it is judged."""

from __future__ import annotations

import re

import msgspec

from producers.unreadable import Unreadable


class Port(msgspec.Struct, kw_only=True):
    """One port as it was found: text, not yet judged."""

    place: str
    device: str
    port: int
    facts: dict[str, str] = {}
    """state, phys_state, rate, link_layer, board_id, hca_type, fw_ver, node_guid, pci, lid; as far as told."""
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
    pci: str | None
    lid: int | None


Decoded = PortReading | Unreadable


def as_counter(text: str) -> int | None:
    """A counter; None for what is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,19}", text) and int(text) < 1 << 63 else None
