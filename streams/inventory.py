"""What the inventory's log shows: what moved, and what cannot both be true.

A pure core: records in, in the order of the log; hardware events out. Nothing is resolved here. The newest sighting
says where a component is (`Topology`), and what speaks against it is reported beside it, once while it stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import structlog
from msgspec.structs import replace

from schemas.catalog import Catalog
from schemas.ids import stable_id
from schemas.records import HardwareEvent, InventoryRecord
from streams.partitions import Outcome
from streams.topology import DECLARED

log = structlog.get_logger()

SOURCE = "inventory"
"""`HardwareEvent.source` of what is found here."""
_PLACE = {"gpu": ("node", "slot"), "node": ("site", "rack", "slot")}
"""Kind to the fields that say where one is. A GPU goes where its node goes, which is no move of the GPU."""
_COMPARED = {
    "gpu": ("node", "slot"),
    "node": ("site", "rack", "slot", "chassis_serial", "leaf_switch", "pdu"),
}
"""Kind to the fields in which a file and an agent must agree where both know. The NVLink domain is not among them: an
agent knows it by the fabric's UUID, people by a name; nor the driver's index, which shifts when a GPU is lost."""
_MOST_PENDING = 10_000


class Difference(NamedTuple):
    """One fact of which two records say different things."""

    field: str
    declared: str
    discovered: str


class Sighting(msgspec.Struct, frozen=True):
    """What was said of a component, and since when that has been so (UTC milliseconds)."""

    record: InventoryRecord
    since_ms: int


class _Known(msgspec.Struct):
    """One component. About 150 bytes beside the records, which the topology holds too."""

    declared: Sighting | None = None
    found: Sighting | None = None
    """The newest discovered record, and since when its compared facts are so."""
    here: Sighting | None = None
    """The same record, and since when it is in that place."""
    there: Sighting | None = None
    """The place before; one that goes on claiming it is a contradiction."""
    twice: bool = False
    """Found in both places, and that was reported."""
    differs: tuple[Difference, ...] = ()
    """What was reported last of declared against discovered, while it stands."""


class Ledger:
    """Where GPUs and nodes are declared and were found. `learn` never raises for what a record holds.

    `both_ms`: two places that have both claimed one component within so long both have it. It must be longer than the
    agents' `inventory_interval_s`, and shorter than it takes to carry a board somewhere and back.
    """

    def __init__(self, catalog: Catalog, both_ms: int) -> None:
        self._catalog = catalog
        self._both_ms = both_ms
        self._known: dict[str, _Known] = {}

    def learn(self, record: InventoryRecord) -> list[HardwareEvent]:
        """Take the next record of the log in. Returns what it newly shows."""
        if record.kind not in _PLACE:
            return []
        known = self._known.setdefault(record.component, _Known())
        events: list[HardwareEvent] = []
        if record.source == DECLARED:
            known.declared = None if record.removed else _since(known.declared, record)
        elif record.removed:
            events = self._one_place(known, record)
            known.found = known.there = None  # `here` stays: found elsewhere later, it has moved
        else:
            events = self._found(known, record)
        return events + self._compare(known, record)

    def _found(self, known: _Known, record: InventoryRecord) -> list[HardwareEvent]:
        here, there = known.here, known.there
        if here is None:
            known.here = known.found = Sighting(record, record.seen_ms)
            return []
        if _same_place(here.record, record):
            if record.seen_ms >= here.record.seen_ms:
                known.here = Sighting(record, here.since_ms)
                known.found = _since(known.found, record)
            if there is not None and record.seen_ms - there.record.seen_ms > self._both_ms:
                known.there = None  # nobody else claims it any more
                return self._one_place(known, record)
            return []
        if record.seen_ms <= here.since_ms:
            return []  # older than the arrival here: it was on its way for long, from a spool
        if there is not None and _same_place(there.record, record) and self._at_once(here, there, record):
            known.here, known.there = Sighting(record, there.since_ms), here
            known.found = _since(known.found, record)
            if known.twice:
                return []
            known.twice = True
            return [self._two_places(known.here, here)]
        was_there = known.found is not None  # else it had been taken out, and nobody there can still claim it
        over = self._one_place(known, record)
        known.here = known.found = Sighting(record, record.seen_ms)
        known.there = here if was_there else None
        return [*over, self._moved(here.record, record)]

    def _at_once(self, here: Sighting, there: Sighting, record: InventoryRecord) -> bool:
        """Whether `there` claims again what `here` has just claimed, and had claimed just before."""
        return (
            abs(record.seen_ms - here.record.seen_ms) <= self._both_ms
            and record.seen_ms - there.record.seen_ms <= self._both_ms
        )

    def _compare(self, known: _Known, record: InventoryRecord) -> list[HardwareEvent]:
        if known.twice:
            return []  # which of the two places to compare is just the question
        declared, found = known.declared, known.found
        differs = differences(declared.record, found.record) if declared and found else ()
        before, known.differs = known.differs, differs
        if not (differs and declared and found):
            return [self._agrees(record, "declared_elsewhere")] if before else []
        if differs == before:
            return []
        since_ms = max(declared.since_ms, found.since_ms)
        text = (
            f"{_name(record)} is declared with {_listed((d.field, d.declared) for d in differs)} "
            f"but found with {_listed((d.field, d.discovered) for d in differs)}; "
            "correct the inventory file, the agent's settings, or what stands in the wrong place"
        )
        details = {"point": "declared_elsewhere", "component": record.component}
        for one in differs:
            details |= {f"declared_{one.field}": one.declared, f"discovered_{one.field}": one.discovered}
        return [self._event("inventory_contradiction", found.record, since_ms, text, details)]

    def _two_places(self, here: Sighting, there: Sighting) -> HardwareEvent:
        first, second = sorted((here, there), key=lambda one: (one.since_ms, _place(one.record)))
        text = (
            f"{_name(here.record)} is reported from two places at once: {_place(first.record)}, "
            f"last at {_clock(first.record.seen_ms)}, and {_place(second.record)}, last at "
            f"{_clock(second.record.seen_ms)}; one of them is wrong, or two parts carry one serial number or name"
        )
        details = {"point": "two_places", "variant": "two_places", "component": here.record.component}
        for number, one in (("first", first), ("second", second)):
            details |= _facts(number, one.record)
        return self._event("inventory_contradiction", here.record, second.since_ms, text, details)

    def _one_place(self, known: _Known, record: InventoryRecord) -> list[HardwareEvent]:
        """Nobody claims a second place for it any more: what that tells."""
        before, known.twice = known.twice, False
        return [self._agrees(record, "two_places")] if before else []

    def _agrees(self, record: InventoryRecord, point: str) -> HardwareEvent:
        what = "one place" if point == "two_places" else "what is declared and what is found"
        text = f"the inventory agrees again about {what} of {_name(record)}"
        details = {"point": point, "component": record.component}
        return self._event("inventory_agrees", record, record.seen_ms, text, details)

    def _moved(self, before: InventoryRecord, now: InventoryRecord) -> HardwareEvent:
        text = f"{_name(now)} moved from {_place(before)} to {_place(now)}"
        details = {"component": now.component} | _facts("from", before) | _facts("to", now)
        return self._event(f"{now.kind}_moved", now, now.seen_ms, text, details)

    def _event(
        self, kind: str, record: InventoryRecord, since_ms: int, text: str, details: dict[str, str]
    ) -> HardwareEvent:
        """The same finding in the same log has the same id, whoever finds it and however often."""
        entry = self._catalog.entry(kind)
        gpu = record.component.removeprefix("gpu:") if record.kind == "gpu" else None
        return HardwareEvent(
            event_id=stable_id(SOURCE, kind, record.component, since_ms, sorted(details.items())),
            site=record.site,
            rack=record.rack,
            node=record.node or record.component.removeprefix("node:"),
            boot_id="",
            sequence=0,
            event_ms=since_ms,
            observed_ms=record.seen_ms,
            source=SOURCE,
            kind=kind,
            gpu=gpu,
            pci=record.pci if gpu else None,
            severity=entry.severity,
            action=entry.action,
            details=details | ({"serial": record.gpu_serial} if record.gpu_serial else {}),
            raw=text,
        )


class InventoryWatch:
    """The ledger in a worker, and how far what it shows has been told.

    Every worker follows the inventory; one of them tells. Another that takes over goes on from the offset up to which
    its memory says that all was told. Held back until then are the newest 10,000 findings, some 20 MB at most.
    """

    def __init__(self, catalog: Catalog, both_ms: int) -> None:
        self._ledger = Ledger(catalog, both_ms)
        self._pending: deque[tuple[int, int, HardwareEvent]] = deque(maxlen=_MOST_PENDING)
        self.tells = False
        """Whether this worker is the one that tells."""

    def take(self, partition: int, offset: int, arrived_ms: int, record: InventoryRecord) -> None:
        """Take in the record at an offset of the inventory topic, which reached Kafka at `arrived_ms`."""
        if record.seen_ms > arrived_ms:  # a clock that is ahead would make all that comes later look old
            record = replace(record, seen_ms=arrived_ms)
        self._pending.extend((partition, offset, event) for event in self._ledger.learn(record))

    def resume(self, memory: Mapping[str, bytes], ends: Mapping[int, int]) -> None:
        """Become the one that tells. `ends` are the offsets up to which was read: what was told lies before them.

        A memory beyond them is of a topic that was there before.
        """
        told = {
            int(partition): int(offset)
            for key, offset in memory.items()
            for kind, _, partition in [key.partition("|")]
            if kind == SOURCE and partition.isdigit() and offset.isdigit()
        }
        told = {partition: offset for partition, offset in told.items() if offset < ends.get(partition, 0)}
        kept = [one for one in self._pending if one[1] > told.get(one[0], -1)]
        self._pending.clear()
        self._pending.extend(kept)
        self.tells = True

    def hush(self) -> None:
        """Another worker tells from now on."""
        self.tells = False

    def tell(self) -> Outcome:
        """What has not been told yet, and the memory that it was."""
        outcome = Outcome()
        while self._pending:
            partition, offset, event = self._pending.popleft()
            outcome.records.append(event)
            outcome.memory[f"{SOURCE}|{partition}"] = str(offset).encode()
            log.info("the inventory shows", kind=event.kind, text=event.raw)
        return outcome


def differences(declared: InventoryRecord, discovered: InventoryRecord) -> tuple[Difference, ...]:
    """In what a file and an agent disagree about a component. What one of them does not know is no difference."""
    return tuple(
        Difference(field, str(one), str(other))
        for field in _COMPARED.get(declared.kind, ())
        if (one := getattr(declared, field)) is not None
        and (other := getattr(discovered, field)) is not None
        and one != other
    )


def _since(before: Sighting | None, record: InventoryRecord) -> Sighting:
    """The sighting of `record`, which goes on where it says what was said before."""
    if before is not None and all(
        getattr(before.record, field) == getattr(record, field) for field in _COMPARED[record.kind]
    ):
        return Sighting(record, before.since_ms)
    return Sighting(record, record.seen_ms)


def _same_place(one: InventoryRecord, other: InventoryRecord) -> bool:
    """Whether nothing that both know differs. Where a GPU's module number is not known, its PCI address has to do."""
    fields = _PLACE[one.kind]
    if one.kind == "gpu" and (one.slot is None or other.slot is None):
        fields = ("node", "pci")
    return all(
        getattr(one, field) == getattr(other, field)
        for field in fields
        if None not in (getattr(one, field), getattr(other, field))
    )


def _facts(prefix: str, record: InventoryRecord) -> dict[str, str]:
    fields = ("site", "rack", "node", "slot", "pci") if record.kind == "gpu" else ("site", "rack", "slot")
    return {f"{prefix}_{field}": str(value) for field in fields if (value := getattr(record, field)) is not None}


def _name(record: InventoryRecord) -> str:
    what = record.component.removeprefix(f"{record.kind}:")
    return f"GPU {what}" if record.kind == "gpu" else f"node {what}"


def _place(record: InventoryRecord) -> str:
    slot = "" if record.slot is None else f", slot {record.slot}"
    if record.kind == "node":
        return f"rack {record.rack} of {record.site}{slot}"
    at = f", {record.pci}" if record.slot is None and record.pci else slot
    return f"{record.node or 'an unknown node'} (rack {record.rack}{at})"


def _listed(facts: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{field.replace('_', ' ')} {value}" for field, value in facts)


def _clock(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"
