"""The faults of one partition as they are found: open or lately over, by component and class, with their histories.

What has changed is known piece by piece, so that just that is kept, and can be taken back.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from schemas.records import Fault
from streams.faults.held import OpenFault
from streams.faults.history import History
from streams.faults.source import Source
from streams.faults.words import MAINTENANCE

_OPEN_FAULT, _HISTORY = msgspec.msgpack.Decoder(OpenFault), msgspec.msgpack.Decoder(History)
_KEEP_ENDED_MS = 3_600_000
"""The evidence of a fault that is over is remembered for so long: delivered again it opens no second life."""


class Shelf:
    """Faults by `component|class`, histories by component."""

    def __init__(self) -> None:
        self.open: dict[str, OpenFault] = {}
        self.ended: dict[str, OpenFault] = {}
        """Those that ended lately, in the order in which they ended."""
        self._at: dict[str, set[str]] = {}
        """Component to the keys of its open faults."""
        self._histories: dict[str, History] = {}
        self._touched: set[str] = set()
        self._written_history: set[str] = set()
        self._works: set[str] = set()
        """Keys of announced work, open or lately over."""

    def known(self, key: str) -> OpenFault | None:
        """The fault that is open or lately over."""
        return self.open.get(key) or self.ended.get(key)

    def at(self, component: str) -> list[tuple[str, OpenFault]]:
        """The open faults of a component, by key."""
        return [(key, self.open[key]) for key in sorted(self._at.get(component, ()))]

    def works(self) -> Iterator[OpenFault]:
        """Announced work, also that which is lately over."""
        for key in sorted(self._works):
            if (found := self.known(key)) is not None:
                yield found

    def begin(self, key: str, fault: Fault) -> OpenFault:
        """Put a new fault in. It knows the evidence of the one before it."""
        found = self.open[key] = OpenFault(fault=fault)
        earlier = self.ended.pop(key, None)
        if earlier is not None:
            found.remembered = earlier.remembered
            found.events_through, found.anomalies_through = earlier.events_through, earlier.anomalies_through
            found.windows = earlier.windows
        self._index(key, found)
        return found

    def end(self, key: str, now_ms: int) -> None:
        """Move a fault to those that are over."""
        found = self.open.pop(key)
        self._at[found.fault.component].discard(key)
        if not self._at[found.fault.component]:
            del self._at[found.fault.component]
        found.ended_ms, found.standing = now_ms, []
        self.ended[key] = found
        self._touched.add(key)

    def touch(self, key: str) -> None:
        """Note that a fault has changed."""
        self._touched.add(key)

    def history(self, component: str) -> History:
        """What a component went through; not to be changed."""
        return self._histories.get(component) or History()

    def noted(self, component: str) -> History:
        """The same, to be changed."""
        self._written_history.add(component)
        return self._histories.setdefault(component, History())

    def forget(self, now_ms: int) -> None:
        """Let go of those that have been over for long."""
        for key, ended in list(self.ended.items()):
            if ended.ended_ms is not None and now_ms - ended.ended_ms < _KEEP_ENDED_MS:
                break
            del self.ended[key]
            self._works.discard(key)
            self._touched.add(key)

    def forget_history(self, before_ms: int) -> None:
        """Let go of what was longer ago."""
        for component, history in list(self._histories.items()):
            size = len(history.lives), len(history.resets)
            if history.forget(before_ms):
                del self._histories[component]
            if size != (len(history.lives), len(history.resets)):
                self._written_history.add(component)

    def changes(self) -> dict[str, bytes | None]:
        """Faults that have changed since the last call, by key; None where one is over and forgotten."""
        touched, self._touched = self._touched, set()
        held = {key: self.known(key) for key in sorted(touched)}
        return {key: msgspec.msgpack.encode(fault) if fault else None for key, fault in held.items()}

    def history_changes(self) -> dict[str, bytes | None]:
        """The same of histories, by component."""
        changed, self._written_history = self._written_history, set()
        held = {component: self._histories.get(component) for component in sorted(changed)}
        return {name: msgspec.msgpack.encode(history) if history else None for name, history in held.items()}

    def restore(self, key: str, state: bytes) -> None:
        """Take back one fault. Raises `msgspec.DecodeError` where the bytes are not ours."""
        found = _OPEN_FAULT.decode(state)
        if found.ended_ms is None:
            self.open[key] = found
        else:
            self.ended[key] = found
        self._index(key, found)

    def restore_history(self, component: str, state: bytes) -> None:
        """Take back one history. Raises as `restore` does."""
        self._histories[component] = _HISTORY.decode(state)

    def restored(self, events_end: int, anomalies_end: int) -> None:
        """All is taken back. What was taken from beyond a topic's end was taken from one that was there before it."""
        for found in (*self.open.values(), *self.ended.values()):
            found.events_through = found.events_through if found.events_through < events_end else -1
            found.anomalies_through = found.anomalies_through if found.anomalies_through < anomalies_end else -1
            for window in found.windows:
                window.told = _in_log(window.told, events_end, anomalies_end)
                window.closed = window.closed and _in_log(window.closed, events_end, anomalies_end)
        for history in self._histories.values():
            for life in history.lives:
                life.began = _in_log(life.began, events_end, anomalies_end)
                life.ended = life.ended and _in_log(life.ended, events_end, anomalies_end)
            for reset in history.resets:
                reset.told = _in_log(reset.told, events_end, anomalies_end)
        self.ended = dict(sorted(self.ended.items(), key=lambda item: item[1].ended_ms or 0))

    def _index(self, key: str, found: OpenFault) -> None:
        if found.ended_ms is None:
            self._at.setdefault(found.fault.component, set()).add(key)
        if found.fault.fault_class == MAINTENANCE:
            self._works.add(key)


def _in_log(source: Source, events_end: int, anomalies_end: int) -> Source:
    end = events_end if source.is_event else anomalies_end
    return source if source.offset is None or source.offset < end else source._replace(offset=None)
