"""Events of the kernel log as records: who they are about, how severe they are, and their id."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path

from producers.kernel_log.decode import Decoder
from producers.kernel_log.events import KernelEvent
from producers.kernel_log.lines import numbered, open_log
from producers.source import Origin
from schemas.catalog import Catalog, load
from schemas.ids import stable_id
from schemas.records import HardwareEvent

SOURCE = "kernel_log"


def hardware_event(
    event: KernelEvent, *, event_id: str, origin: Origin, catalog: Catalog, observed_ms: int, sequence: int = 0
) -> HardwareEvent:
    """The record of an event; an event without a time of its own happened when it was observed, none later."""
    entry = catalog.entry(event.kind, event.code, event.details.get("variant"))
    return HardwareEvent(
        event_id=event_id,
        site=origin.site,
        rack=origin.rack,
        node=origin.node,
        boot_id=event.boot_id or origin.boot_id,
        sequence=sequence,
        event_ms=observed_ms if event.event_ms is None else min(event.event_ms, observed_ms),
        observed_ms=observed_ms,
        source=SOURCE,
        kind=event.kind,
        code=event.code,
        gpu=event.gpu,
        pci=event.pci,
        link=event.link,
        severity=entry.severity,
        action=entry.action,
        details=event.details,
        raw=event.raw,
    )


def events_of_file(
    path: Path,
    *,
    site: str,
    rack: str,
    node: str,
    now_ms: int,
    boot_ms: int | None = None,
    catalog: Catalog | None = None,
) -> Iterator[HardwareEvent]:
    """The events of a whole log (`-`: standard input; also `.gz`), for a replay; `OSError` where it cannot be read.

    The same text of the same node has the same event ids, whenever and however often it is replayed. Lines without an
    absolute time happened at `now_ms`, unless `boot_ms` places their monotonic stamps.
    """
    with nullcontext(sys.stdin.buffer) if str(path) == "-" else open_log(path) as stream:
        yield from events_of_lines(
            numbered(stream), site=site, rack=rack, node=node, now_ms=now_ms, boot_ms=boot_ms, catalog=catalog
        )


def events_of_lines(
    lines: Iterable[tuple[int, str]],
    *,
    site: str,
    rack: str,
    node: str,
    now_ms: int,
    boot_ms: int | None = None,
    catalog: Catalog | None = None,
) -> Iterator[HardwareEvent]:
    """Like `events_of_file`, of numbered physical lines."""
    catalog = load() if catalog is None else catalog
    origin = Origin(site=site, rack=rack, node=node, boot_id=f"replay-{stable_id(node)[:12]}")
    decoder = Decoder(now_ms=now_ms, boot_ms=boot_ms)
    sequence = count()
    for number, raw in lines:
        for ordinal, event in enumerate(decoder.feed(number, raw)):
            yield hardware_event(
                event,
                event_id=stable_id(node, SOURCE, "replay", number, ordinal, event.raw),
                origin=origin,
                catalog=catalog,
                observed_ms=now_ms,
                sequence=next(sequence),
            )
