"""What a file declares against what was declared before, and where each component is by either source."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import asdict, replace

from producers.inventory.declared import DECLARED
from schemas.records import InventoryRecord

_NOT_COMPARED = frozenset({"seen_ms", "removed"})


@dataclass(frozen=True, slots=True)
class Change:
    """One component that a load would change, and the record that says so."""

    kind: Literal["added", "changed", "removed"]
    record: InventoryRecord
    fields: tuple[tuple[str, object, object], ...] = ()
    """Field, before, after."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The newest record of one component by each source; one that was removed is none."""

    declared: InventoryRecord | None = None
    discovered: InventoryRecord | None = None


def key_of(record: InventoryRecord) -> str:
    """The key in `fleet.inventory`.

    The topic is compacted: of one key only the newest record stays. What is declared and what is discovered must both
    stay, so they have two keys.
    """
    return f"{record.component}|{DECLARED}" if record.source == DECLARED else record.component


def standing(log: Iterable[InventoryRecord]) -> dict[str, Standing]:
    """The inventory topic, read in its order, by component."""
    newest: dict[tuple[str, bool], InventoryRecord] = {}
    for record in log:
        newest[record.component, record.source == DECLARED] = record
    found: dict[str, Standing] = {}
    for (component, is_declared), record in newest.items():
        if not record.removed:
            known = found.get(component, Standing())
            found[component] = Standing(record, known.discovered) if is_declared else Standing(known.declared, record)
    return found


def changes(
    before: Mapping[str, Standing], wanted: Iterable[InventoryRecord], sites: Collection[str], now_ms: int
) -> list[Change]:
    """What has to be published so that `wanted` is declared, and nothing else in its `sites`.

    What other sites have declared is theirs and stays. Removals come last.
    """
    found: list[Change] = []
    kept: set[str] = set()
    for record in wanted:
        kept.add(record.component)
        old = before.get(record.component, Standing()).declared
        if old is None:
            found.append(Change("added", record))
        elif differs := _differs(old, record):
            found.append(Change("changed", record, differs))
    for component, known in before.items():
        if known.declared is not None and component not in kept and known.declared.site in sites:
            found.append(Change("removed", replace(known.declared, removed=True, seen_ms=now_ms)))
    return found


def _differs(old: InventoryRecord, new: InventoryRecord) -> tuple[tuple[str, object, object], ...]:
    was, now = asdict(old), asdict(new)
    return tuple(
        (field, was[field], now[field]) for field in was if field not in _NOT_COMPARED and was[field] != now[field]
    )
