"""What operators' words do to faults: work begins and ends, a fault is acknowledged, snoozed, or ended.

Each fault that a word changes knows up to where in the log it has heard, so a word that is handled again changes
nothing, and one that was half done is done to the end.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from schemas.catalog import Catalog
from schemas.records import Fault, HardwareEvent
from streams.faults import words
from streams.faults.evidence import added, piece_of, with_piece
from streams.faults.held import OpenFault
from streams.faults.lives import Lives, maintenance_key, own_windows
from streams.faults.source import Source
from streams.faults.words import MAINTENANCE
from streams.faults.work import Window, announced, close, last_end_ms


class Operators:
    """Applies the words to the lives. What cannot be understood, or is about nothing that is known, does nothing."""

    def __init__(self, catalog: Catalog, lives: Lives) -> None:
        self._catalog = catalog
        self._lives = lives
        self._shelf = lives.shelf

    def on_word(self, event: HardwareEvent, arrived_ms: int, source: Source) -> Iterator[Fault]:
        """The records that a word leads to. `event` is one that `words.is_word` takes for a word."""
        of, times = words.scope(event), words.window(event)
        if event.kind == words.ANNOUNCED:
            if of is not None and times is not None:
                yield from self._announced(event, of, times, arrived_ms, source)
        elif event.kind == words.ENDED:
            if of is not None:
                yield from self._work_ended(maintenance_key(of), event, arrived_ms, source)
        else:
            yield from self._of_faults(event, arrived_ms, source)

    def _of_faults(self, event: HardwareEvent, arrived_ms: int, source: Source) -> Iterator[Fault]:
        target, until_ms = words.target(event), words.until_ms(event)
        if event.kind == words.SNOOZED and until_ms is None:
            return
        near = self._shelf.open.items() if target.fault_id else self._shelf.at(target.component)
        for key, found in sorted(near, key=lambda one: one[0]):
            if event.kind == words.FAULT_ENDED and found.fault.fault_class == MAINTENANCE:
                continue  # below: what it keeps quiet may be among what ends here
            if not target.names(found.fault, event.event_ms) or not self._hears(found, event, source):
                continue
            if event.kind == words.FAULT_ENDED:
                because = f"Ended by {words.by(event)}{words.note(event)}"
                yield self._lives.end(key, event.event_ms, arrived_ms, source, because=because, by_operator=True)
                continue
            # of two that contradict each other the newer one counts, whichever came first
            if event.kind == words.ACKNOWLEDGED and event.event_ms >= (found.acknowledged_ms or 0):
                found.acknowledged_by, found.acknowledged_ms = words.by(event), event.event_ms
            elif event.kind == words.SNOOZED and event.event_ms >= (found.snoozed_ms or 0):
                found.snoozed_ms, found.snoozed_until_ms = event.event_ms, until_ms
            yield self._lives.write(key, arrived_ms)
        if event.kind == words.FAULT_ENDED:
            for work in [work for work in self._shelf.works() if target.names(work.fault, event.event_ms)]:
                yield from self._work_ended(work.key, event, arrived_ms, source)

    def _hears(self, found: OpenFault, event: HardwareEvent, source: Source) -> bool:
        """Take a word in as evidence that does not count; False where that was done before."""
        if event.event_id in found.remembered or found.has_taken(source):
            return False
        piece = piece_of(event, self._catalog.of(event).name)
        found.fault = replace(found.fault, evidence=with_piece(found.fault.evidence, piece))
        self._lives.take(found, source, event.event_id, found.arrived_ms)
        return True

    def _announced(
        self, event: HardwareEvent, of: str, times: tuple[int, int], arrived_ms: int, source: Source
    ) -> Iterator[Fault]:
        key = maintenance_key(of)
        known = self._shelf.known(key)
        is_news = known is None or not (event.event_id in known.remembered or known.has_taken(source))
        if is_news:
            seed = words.work(event, self._catalog.of(event), of, *times)
            known = self._shelf.open.get(key) or self._lives.begin(key, seed, source)
            known.windows = announced(known.windows, Window(known.fault.fault_id, *times, source))
            known.fault = replace(added(known.fault, seed, frozenset()), reason=seed.reason)
            self._lives.take(known, source, event.event_id, arrived_ms)
            yield self._lives.write(key, arrived_ms)
        if known is not None and (is_news or known.has_taken(source)):
            yield from self._keep_quiet(known, event.event_ms, arrived_ms, source)

    def _work_ended(self, key: str, event: HardwareEvent, arrived_ms: int, source: Source) -> Iterator[Fault]:
        known, is_news = self._shelf.known(key), False
        if key in self._shelf.open and known is not None and event.event_ms >= known.fault.first_ms:
            is_news = self._hears(known, event, source)
        if is_news and known is not None:
            close(own_windows(known), event.event_ms, self._lives.margin, source)
            if last_end_ms(own_windows(known)) <= event.event_ms:
                yield self._lives.end(key, event.event_ms, arrived_ms, source)
        if known is not None and (is_news or known.has_taken(source)):
            yield from self._keep_quiet(known, event.event_ms, arrived_ms, source)

    def _keep_quiet(self, work: OpenFault, at_ms: int, arrived_ms: int, source: Source) -> Iterator[Fault]:
        """Apply what is now known of announced work to the faults that are open in its scope."""
        ours = {window.of for window in work.windows}
        for key, found in sorted(self._shelf.open.items()):
            if found.fault.fault_class == MAINTENANCE or found.has_taken(source):
                continue
            if not self._lives.in_scope(work, found):
                continue
            before = found.work
            judged_ms = before.at_ms if before else found.fault.first_ms
            explained = before.explained if before else self._lives.is_explained(found)
            now = self._lives.work_on(found, judged_ms, source, explained=explained)
            if now is None and before is not None and before.fault_id in ours:
                now = replace(before, until_ms=min(before.until_ms, at_ms))  # it was taken back
            if now is None or now == before or (before and before.over and now.until_ms <= before.until_ms):
                continue
            found.work = now
            if now.explained and not now.over:
                self._shelf.noted(found.fault.component).drop(found.fault.fault_id)
            found.take(source)
            yield self._lives.write(key, arrived_ms)
