"""What a correlator keeps to go on after a restart: incidents, the faults in them, and the fleet's base rates."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import msgspec

from schemas.records import Fault, Incident
from streams.correlation.base_rates import FleetRates

INCIDENT, MEMBER, RATES = "incident", "member", "rates"
KINDS = (INCIDENT, MEMBER, RATES)
"""What is kept to go on after a restart; incidents first, then the faults in them."""
_KEEP_RATES_MS = 60_000
"""Base rates are kept at most so often: what was learnt since is lost with the worker."""
_KEEP_LONGER_MS = 10_000
"""A fault that only goes on is kept again when it has gone on for so much longer: not for each record of a storm."""
_PACK_BYTES = 16_384
"""What is kept of an incident is packed from this size on."""


class Group(msgspec.Struct, kw_only=True):
    """What is kept of an incident, but for its faults. Some 1 KB, and 200 bytes a fault once it has spoken."""

    incident_id: str
    born_ms: int
    """When its first fault was heard of, by the clock."""
    heard_ms: int
    """When the last record of any of its faults was heard of, by the clock."""
    paged: bool = False
    written: Incident | None = None
    split_from: str | None = None

    def packed(self) -> bytes:
        """As it is kept. Kafka takes a megabyte a record; packed, that is an incident of ten thousand faults."""
        state = msgspec.msgpack.encode(self)
        return b"z" + zlib.compress(state, 1) if len(state) > _PACK_BYTES else b"m" + state

    @staticmethod
    def unpacked(state: bytes) -> Group:
        """The same, taken back. Raises `zlib.error` and `msgspec.DecodeError`."""
        return _GROUP.decode(zlib.decompress(state[1:]) if state[:1] == b"z" else state[1:])


_GROUP = msgspec.msgpack.Decoder(Group)


class Held(msgspec.Struct, kw_only=True):
    """A fault, and to which incident it belongs. Some 1 KB."""

    fault: Fault
    """At its newest revision."""
    incident_id: str
    """Empty until its group is known."""
    jobs: tuple[str, ...] = ()
    """What ran on it when it began: the inventory forgets that."""
    heard: int
    """Which one it was, in the order in which faults were heard of."""
    heard_ms: int
    """When that was, by the clock."""
    told: bool = False
    """Whether it was among the faults of an incident when that paged."""
    kept_last_ms: int = 0
    """Its last evidence when it was kept."""

    @property
    def has_gone_on(self) -> bool:
        """Whether it has gone on for long enough since it was kept to be kept again."""
        return self.fault.last_ms - self.kept_last_ms >= _KEEP_LONGER_MS


class Touched:
    """What has changed since it was kept last."""

    def __init__(self) -> None:
        self.faults: set[str] = set()
        self.groups: set[str] = set()
        self._kept: set[str] = set()
        """Groups that are kept. One that has not spoken is found again by its faults."""
        self._rates_kept = (0, 0)
        """At which revision the base rates were kept last, and when."""

    def restored(self, group: Group) -> None:
        """A group was taken back: it is among those that are kept."""
        self._kept.add(group.incident_id)

    def changes(
        self, groups: Mapping[str, Group], faults: Mapping[str, Held], rates: FleetRates, now_ms: int
    ) -> dict[str, bytes | None]:
        """What to keep now, by kind and id (`incident|ID`), and as no longer touched; None for what was let go."""
        kept: dict[str, bytes | None] = {}
        for key in sorted(self.groups):
            group = groups.get(key)
            if group is not None and (group.written is not None or group.split_from is not None):
                kept[f"{INCIDENT}|{key}"] = group.packed()
                self._kept.add(key)
            elif group is None and key in self._kept:
                kept[f"{INCIDENT}|{key}"] = None
                self._kept.discard(key)
        for key in sorted(self.faults):
            held = faults.get(key)
            if held is not None:
                held.kept_last_ms = held.fault.last_ms
            kept[f"{MEMBER}|{key}"] = msgspec.msgpack.encode(held) if held else None
        self.groups, self.faults = set(), set()
        revision, at_ms = self._rates_kept
        if rates.revision != revision and now_ms - at_ms >= _KEEP_RATES_MS:
            self._rates_kept = rates.revision, now_ms
            kept[f"{RATES}|"] = msgspec.msgpack.encode(rates.learnt)
        return kept
