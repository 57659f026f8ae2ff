"""Storms of one message: the first few go out singly and at once, the rest as counted summaries.

What goes out depends on the lines, in their order, and on the clock of the reads that gave them; so the same reads give
the same records, with the same ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec.structs import replace

from producers.kernel_log.events import KernelEvent
from schemas.ids import stable_id
from schemas.records import HardwareEvent

FIRST = 3
"""So many of a burst go out singly, so that no alarm waits for a window."""
WINDOW_MS = 1000
"""Then one record for so much time."""
QUIET_MS = 10_000
"""After so long without another, the next is the first of a new burst."""
_KEYS = 1024
"""A node has far fewer things that can fail; beyond so many the burst that was longest silent is forgotten."""
_TELLS_APART = ("interface", "device", "nvswitch", "gpu_instance", "subcode", "uuid", "serial", "cpu", "module")
"""Details that name another thing or another error, and so another burst."""
_RECOVERY_ACTION = 154

Key = tuple[str, int | None, str | None, int | None, str | None, str]


class Burst(msgspec.Struct, kw_only=True):
    """Repetitions of one message, up to 10 KB where a long line is held."""

    key: Key
    given: int = 0
    """How many went out singly."""
    seen_ms: int
    """Event time of the last."""
    held: HardwareEvent | None = None
    """The first of those that wait for their window to end."""
    count: int = 0
    """How many wait."""
    last_raw: str = ""
    last_ms: int = 0

    def hold(self, event: KernelEvent, at_ms: int, record: Callable[[], HardwareEvent]) -> None:
        """Let one more wait."""
        if self.held is None:
            self.held = record()
        self.count += 1
        self.last_raw, self.last_ms = event.raw, at_ms

    def release(self) -> Iterator[HardwareEvent]:
        """What waits, as one record."""
        held, count = self.held, self.count
        self.held, self.count = None, 0
        if held is None:
            return
        if count == 1:
            yield held
            return
        yield replace(
            held,
            event_id=stable_id(held.event_id, "storm"),
            count=count,
            details=held.details | {"last_event_ms": str(self.last_ms)},
            last_raw=self.last_raw,
        )


class Storms:
    """The bursts of one input."""

    def __init__(self, bursts: Iterable[Burst] = ()) -> None:
        self._snapshot = tuple(bursts)
        self._bursts = {burst.key: replace(burst) for burst in self._snapshot}
        self._changed = False

    def take(self, event: KernelEvent, at_ms: int, record: Callable[[], HardwareEvent]) -> Iterator[HardwareEvent]:
        """What goes out now that `event` has happened at `at_ms` (UTC milliseconds); `record` is it as a record."""
        self._changed = True
        key = _key(event)
        if event.code == _RECOVERY_ACTION:
            yield from self._overtaken(key)
        burst = self._bursts.pop(key, None)
        if burst is None or abs(at_ms - burst.seen_ms) >= QUIET_MS:
            if burst is not None:
                yield from burst.release()
            burst = Burst(key=key, seen_ms=at_ms)
        self._bursts[key] = burst  # the last in the order is the one seen last
        if len(self._bursts) > _KEYS:
            yield from self._bursts.pop(next(iter(self._bursts))).release()
        burst.seen_ms = at_ms
        if burst.given < FIRST:
            burst.given += 1
            yield record()
            return
        if burst.held is not None and abs(at_ms - burst.held.event_ms) >= WINDOW_MS:
            yield from burst.release()
        burst.hold(event, at_ms, record)

    def close_windows(self, now_ms: int) -> Iterator[HardwareEvent]:
        """The summaries that have waited for long enough."""
        for key, burst in list(self._bursts.items()):
            if burst.held is not None and abs(now_ms - burst.held.event_ms) >= WINDOW_MS:
                self._changed = True
                yield from burst.release()
            if burst.held is None and abs(now_ms - burst.seen_ms) >= QUIET_MS:
                self._changed = True
                del self._bursts[key]

    def snapshot(self) -> tuple[Burst, ...]:
        """All that has to be kept to go on from here; the same object while nothing changes."""
        if self._changed:
            self._snapshot = tuple(replace(burst) for burst in self._bursts.values())
            self._changed = False
        return self._snapshot

    def _overtaken(self, key: Key) -> Iterator[HardwareEvent]:
        """What the driver wanted before: it must not come after what it wants now."""
        for other in self._bursts.values():
            if other.held is not None and other.key != key and other.key[:3] == key[:3]:
                yield from other.release()


def _key(event: KernelEvent) -> Key:
    details = event.details
    apart = "\x1f".join(f"{name}={details[name]}" for name in _TELLS_APART if name in details)
    return event.kind, event.code, event.pci, event.link, details.get("variant"), apart
